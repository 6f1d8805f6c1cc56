"""How actions are written (DESIGN §6 "Actions"): one table, for those who read `then` and for its JSON Schema.

An action more is an entry more. Invariants: as in syntax.py; what reaches the wire is checked here where it is constant, by its template where it is not.
What actions do does not belong here (evaluation.py).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, get_args

from relayproxy.mail import units
from relayproxy.mail.pattern import AddressPattern, Pattern
from relayproxy.rules import template
from relayproxy.rules.actions import (
    Accept,
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    Cut,
    Delay,
    DeleteHeader,
    DeleteRecipient,
    Discard,
    DropReply,
    Hold,
    RedirectRecipient,
    Refuse,
    ReplaceBody,
    RewriteHeaderAddresses,
    RewriteRecipient,
    Route,
    StripAttachment,
    Tag,
    Throttle,
)
from relayproxy.rules.condition_syntax import FIELD_NAME, PATTERNS_SCHEMA
from relayproxy.rules.decision import Disconnect
from relayproxy.rules.syntax import Entry
from relayproxy.rules.wording import either, nearest, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from relayproxy.rules.actions import Act, Kind
    from relayproxy.rules.rule import Template
    from relayproxy.rules.syntax import JsonSchema, Written

    Reader = Callable[[Written], Act | None]


def then(written: Written) -> tuple[Act, ...]:
    """The actions of a rule, in order."""
    if not isinstance(written.value, list):
        written.expected('a list of actions, such as [{ tag = "x" }]')
        return ()
    return tuple([act for one in written.each("an action") if (act := _act(one)) is not None])


#: What others call some of them.
_OTHERS: Final = {"drop": "discard", "quarantine": "hold"}


def _act(written: Written) -> Act | None:
    if not isinstance(written.value, dict):
        written.expected('a table of one action, such as { tag = "x" }')
        return None
    if len(written.value) != 1:
        written.wrong(f"expected one action a table, got {len(written.value) or 'none'}")
        return None
    name: str
    ((name, _),) = written.value.items()
    one = written.of(name)
    if name not in ACTIONS:
        one.wrong(f"unknown action; {nearest(_OTHERS.get(name, name), ACTIONS)}")
        return None
    act: Act | None = ACTIONS[name].read(one)
    return act


# Templates.


def _text(written: Written, what: str = "a text") -> Template | None:
    return written.parsed(lambda source: template.text(source, written.groups), what)


_ADDRESS: Final = "an address such as user@example.com"


def _address(written: Written, *, may_be_null: bool = False) -> Template | None:
    return written.parsed(lambda source: template.address(source, written.groups, may_be_null=may_be_null), _ADDRESS)


def _addresses(written: Written) -> tuple[Template, ...]:
    found = [_address(one) for one in written.each(_ADDRESS)]
    return tuple([one for one in found if one is not None])


# Readers that several share.


def _made(make: Callable[[Any], Act], value: object) -> Act | None:
    """Of what was read; None where nothing was."""
    return None if value is None or value == () else make(value)


def _flag(act: Act) -> Reader:
    return lambda written: act if written.only_true() else None


def _field_name(written: Written) -> str | None:
    name = written.text("the name of a field")
    if name is not None and FIELD_NAME.fullmatch(name) is None:
        written.expected("the name of a field, of printable ASCII without colon and space")
        return None
    return name


def _items(written: Written, forms: Mapping[int, str]) -> list[Written] | None:
    """The elements of a list that has one of some lengths."""
    if isinstance(written.value, list) and len(written.value) in forms:
        return written.each("")
    what = either(forms.values())
    written.wrong(
        f"expected {what}, got a list of {len(written.value)}"
        if isinstance(written.value, list)
        else f"expected {what}, got {shown(written.value)}"
    )
    return None


#: PROTOCOL §1.8: loops are found by them, and they say where mail came from and whom to tell.
_TRACE: Final = frozenset({"received", "return-path"})


def _edited_field(written: Written) -> str | None:
    """The name of a field that rules may put in, change and take away."""
    name = _field_name(written)
    if name is not None and name.lower() in _TRACE:
        written.wrong(
            f"expected a field that is no trace: rules leave Received and Return-Path as they are, got {name}"
        )
        return None
    return name


_FROM_0: Final = "an index from 0, the top"
_FROM_1: Final = "a number from 1"


def _add_header(written: Written) -> Act | None:
    if (items := _items(written, {2: "[name, value]"})) is None:
        return None
    name, value = _edited_field(items[0]), _text(items[1])
    return None if name is None or value is None else AddHeader(name, value)


def _insert_header(written: Written) -> Act | None:
    if (items := _items(written, {3: "[index, name, value]"})) is None:
        return None
    index, name, value = items[0].integer(0, _FROM_0), _edited_field(items[1]), _text(items[2])
    return None if index is None or name is None or value is None else AddHeader(name, value, index)


def _change_header(written: Written) -> Act | None:
    if (items := _items(written, {2: "[name, value]", 3: "[name, n, value]"})) is None:
        return None
    n = items[1].integer(1, _FROM_1) if len(items) > 2 else 1
    name, value = _edited_field(items[0]), _text(items[-1])
    return None if n is None or name is None or value is None else ChangeHeader(name, n, value)


def _delete_header(written: Written) -> Act | None:
    if isinstance(written.value, str):
        name = _edited_field(written)
        return None if name is None else DeleteHeader(name)
    if (items := _items(written, {2: "the name of a field or [name, n]"})) is None:
        return None
    name, n = _edited_field(items[0]), items[1].integer(1, _FROM_1)
    return None if name is None or n is None else DeleteHeader(name, n)


def _delete_recipient(written: Written) -> Act | None:
    if written.value is True:
        return DeleteRecipient()
    patterns = written.several(AddressPattern.parse, "true or a pattern of an address")
    return _made(DeleteRecipient, tuple(patterns))


def _rewrite_header_addresses(written: Written) -> Act | None:
    what = 'a table such as { fields = ["To", "Cc"], except = ["*@example.test"], to = "qa@example.test" }'
    table = written.table(("fields", "except", "to"), needed=("fields", "to"), what=what)
    fields: list[str] = []
    if (given := table.get("fields")) is not None:
        if isinstance(given.value, list):
            fields = [name for one in given.each("the name of a field") if (name := _edited_field(one)) is not None]
        else:
            given.expected('a list of names of fields, such as ["To", "Cc"]')
    spare: list[AddressPattern] = []
    if (given := table.get("except")) is not None:
        spare = given.several(AddressPattern.parse, "a pattern of an address")
    to = _address(table["to"]) if "to" in table else None
    return None if not fields or to is None else RewriteHeaderAddresses(tuple(fields), tuple(spare), to)


# Replies (RFC 5321 §4.2, RFC 3463 §2):  LINE = code [SP enhanced code] [SP text]; in what refuses the code may be left out.

_LINE: Final = re.compile(r"(?:([0-9]{3})(?: +|\Z))?(?:([0-9]+\.[0-9]+\.[0-9]+)(?: +|\Z))?(.*)", re.DOTALL)
_CODE: Final = re.compile(r"[45][0-5][0-9]")
_ENHANCED: Final = re.compile(r"[45]\.[0-9]{1,3}\.[0-9]{1,3}")
#: The classes of code that an action may answer with; where only a text is given: code and enhanced code.
_CLASSES: Final[Mapping[Kind, str]] = {"reject": "5", "tempfail": "4", "reply": "45"}
_DEFAULT: Final[Mapping[Kind, tuple[str, str]]] = {"reject": ("550", "5.7.1"), "tempfail": ("451", "4.7.1")}
_DEFAULT_TEXT: Final = {"4": "Try again later", "5": "Refused"}


def _refuse(kind: Kind) -> Reader:
    if kind == "reply":
        what = "a reply of 4yz or 5yz such as 452 4.2.2 Mailbox full"
    else:
        what = f"true, a text or a reply of {_CLASSES[kind]}yz such as {' '.join(_DEFAULT[kind])} {_DEFAULT_TEXT[_CLASSES[kind]]}"

    def read(written: Written) -> Act | None:
        source = "" if written.value is True and kind in _DEFAULT else written.text(what)
        if source is None:
            return None
        match = _LINE.fullmatch(source)
        assert match is not None, "it matches whatever there is"  # noqa: S101
        code, enhanced, text = match.groups()
        if code is None and kind == "reply":
            written.expected(what)
            return None
        if code is None:
            code, default = _DEFAULT[kind]
            enhanced = enhanced or default
        if _CODE.fullmatch(code) is None or code[0] not in _CLASSES[kind]:
            written.wrong(f"expected {what}, got the code {code}")
            return None
        enhanced = enhanced or f"{code[0]}.0.0"
        if _ENHANCED.fullmatch(enhanced) is None or enhanced[0] != code[0]:
            written.wrong(f"expected an enhanced code such as {code[0]}.7.1 behind {code}, got {enhanced}")
            return None
        lead, start = f"{enhanced} ", len(source) - len(text)
        try:
            made = template.reply_text(
                source if text else _DEFAULT_TEXT[code[0]], written.groups, lead=lead, start=start if text else 0
            )
        except ValueError as error:
            written.wrong(str(error))
            return None
        return Refuse(kind, int(code), made)

    return read


# Faults.

_DELAY: Final = "a duration such as 500ms, 2s or 1m"
_RATE: Final = "octets a second, such as 10KiB/s"


def _seconds(text: str) -> float:
    seconds = units.seconds(text)
    if seconds is None:
        raise ValueError(f"expected {_DELAY}")
    return seconds


def _octets(text: str) -> int:
    size, slash, second = text.partition("/")
    octets = units.octets(size)
    if not octets or slash + second != "/s":
        raise ValueError(f"expected {_RATE}")
    return octets


def _word(text: str) -> str:
    if _WORD.fullmatch(text) is None:
        raise ValueError("expected a name of at most 64 letters, digits, dots, hyphens and underscores")
    return text


#: As upstreams are named.
_WORD: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_CUTS: Final[Mapping[str, Disconnect]] = {how: how for how in get_args(Disconnect)}

_STRING: Final[JsonSchema] = {"type": "string"}
_NAME: Final[JsonSchema] = {"type": "string", "pattern": r"^[!-9;-~]{1,200}$"}
_EDITED: Final[JsonSchema] = {
    **_NAME,
    "not": {"pattern": r"^([Rr][Ee][Cc][Ee][Ii][Vv][Ee][Dd]|[Rr][Ee][Tt][Uu][Rr][Nn]-[Pp][Aa][Tt][Hh])$"},
}
_ONE: Final[JsonSchema] = {"type": "integer", "minimum": 1}
_TRUE: Final[JsonSchema] = {"const": True}
_STRINGS: Final[JsonSchema] = {"anyOf": [_STRING, {"type": "array", "items": _STRING, "minItems": 1}]}


def _list_schema(*items: JsonSchema) -> JsonSchema:
    return {"type": "array", "prefixItems": list(items), "items": False, "minItems": len(items)}


#: A line each.
ACTIONS: Final[Mapping[str, Entry]] = {
    "change_sender": Entry(
        lambda one: _made(ChangeSender, _address(one, may_be_null=True)),
        _STRING,
        'replaces the reverse-path by this address, a template; "" is the null sender',
    ),
    "add_recipient": Entry(
        lambda one: _made(AddRecipient, _addresses(one)), _STRINGS, "adds this recipient, a template, or these"
    ),
    "delete_recipient": Entry(
        _delete_recipient,
        {"anyOf": [_TRUE, PATTERNS_SCHEMA]},
        "takes away this recipient, or those that a pattern matches",
    ),
    "rewrite_recipient": Entry(
        lambda one: _made(RewriteRecipient, _addresses(one)),
        _STRINGS,
        "replaces this recipient in the envelope by an address, a template, or by several",
    ),
    "redirect_recipient": Entry(
        lambda one: _made(RedirectRecipient, _address(one)),
        _STRING,
        "replaces this recipient by an address, a template, in the envelope and in To, Cc and Bcc",
    ),
    "rewrite_header_addresses": Entry(
        _rewrite_header_addresses,
        {
            "type": "object",
            "properties": {
                "fields": {"type": "array", "items": _EDITED, "minItems": 1},
                "except": PATTERNS_SCHEMA,
                "to": _STRING,
            },
            "required": ["fields", "to"],
            "additionalProperties": False,
        },
        "replaces every address in these fields that no pattern of `except` matches",
    ),
    "add_header": Entry(_add_header, _list_schema(_EDITED, _STRING), "adds a field at the end: [name, value]"),
    "insert_header": Entry(
        _insert_header,
        _list_schema({"type": "integer", "minimum": 0}, _EDITED, _STRING),
        "puts in a field: [index, name, value]; 0 is the top",
    ),
    "change_header": Entry(
        _change_header,
        {"anyOf": [_list_schema(_EDITED, _STRING), _list_schema(_EDITED, _ONE, _STRING)]},
        "gives another value to the first field of that name, [name, value], or the n-th, [name, n, value]; where there is none, adds it",
    ),
    "delete_header": Entry(
        _delete_header,
        {"anyOf": [_EDITED, _list_schema(_EDITED, _ONE)]},
        "takes away all fields of that name, or the n-th: [name, n]",
    ),
    "replace_body": Entry(
        lambda one: _made(ReplaceBody, one.parsed(lambda text: template.text(text, one.groups, lines=True), "a text")),
        _STRING,
        "the whole body is this plain text, a template",
    ),
    "strip_attachment": Entry(
        lambda one: _made(StripAttachment, one.parsed(Pattern.parse, "a pattern of a file name")),
        _STRING,
        "takes away attachments whose file name the pattern matches",
    ),
    "reject": Entry(
        _refuse("reject"),
        {"anyOf": [_TRUE, _STRING]},
        "answers 5yz: true, a text (550 5.7.1), or a reply such as 554 5.6.0 No",
    ),
    "tempfail": Entry(
        _refuse("tempfail"),
        {"anyOf": [_TRUE, _STRING]},
        "answers 4yz: true, a text (451 4.7.1), or a reply such as 452 4.2.2 Mailbox full",
    ),
    "reply": Entry(_refuse("reply"), _STRING, "answers with this 4yz or 5yz reply, such as 452 4.2.2 Mailbox full"),
    "discard": Entry(_flag(Discard()), _TRUE, "answers 250; nothing of the message goes on"),
    "hold": Entry(
        lambda one: _made(Hold, _text(one, "a reason")),
        _STRING,
        "keeps the message in the store until it is released, for this reason",
    ),
    "accept": Entry(_flag(Accept()), _TRUE, "no further rule runs"),
    "route": Entry(
        lambda one: _made(Route, one.parsed(_word, "the name of an upstream")),
        _STRING,
        "sends the message to the upstream of this name",
    ),
    "tag": Entry(lambda one: _made(Tag, _text(one)), _STRING, "notes this word in the record"),
    "delay": Entry(
        lambda one: _made(Delay, one.parsed(_seconds, _DELAY)), _STRING, "waits so long before the reply, such as 2s"
    ),
    "throttle": Entry(
        lambda one: _made(Throttle, one.parsed(_octets, _RATE)),
        _STRING,
        "reads the message no faster than this, such as 10KiB/s",
    ),
    "disconnect": Entry(
        lambda one: _made(Cut, one.choice(_CUTS, either(_CUTS))),
        {"enum": list(_CUTS)},
        "cuts the connection to the client",
    ),
    "drop_reply": Entry(_flag(DropReply()), _TRUE, "the client does not hear the reply"),
}
