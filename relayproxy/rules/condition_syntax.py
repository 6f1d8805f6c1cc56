"""How conditions are written (DESIGN §6): one table, for those who read `when` and for its JSON Schema.

A condition more is an entry more. Invariants: as in syntax.py; a rule whose `when` is wrong is no rule. Whether conditions hold does not belong here (conditions.py).
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TYPE_CHECKING, Final, TypeVar, get_args

from relayproxy.mail import units
from relayproxy.mail.pattern import AddressPattern, Pattern
from relayproxy.rules import conditions as facts_of
from relayproxy.rules.conditions import (
    KEYS,
    All,
    AnyOf,
    Chance,
    ClientIn,
    Comparison,
    Count,
    Every,
    Exists,
    First,
    Matches,
    Not,
    Part,
    in_order,
)
from relayproxy.rules.facts import TLS_VERSIONS
from relayproxy.rules.pattern_list import AddressList, PatternList
from relayproxy.rules.rule import header
from relayproxy.rules.syntax import Entry, is_file
from relayproxy.rules.wording import dotted, either, nearest, shown
from relayproxy.smtp import parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from relayproxy.rules.facts import Facts, Recipient
    from relayproxy.rules.rule import Subject
    from relayproxy.rules.syntax import JsonSchema, Written

    Values = Callable[[Facts, Recipient | None], Iterable[str]]
    Reader = Callable[[Written], Part | None]

T = TypeVar("T")

#: RFC 5322 §3.6.8 ftext.
FIELD_NAME: Final = re.compile(r"[!-9;-~]{1,200}")
_COMPARISONS: Final[Mapping[str, Comparison]] = {one: one for one in get_args(Comparison)}
_COMPARED: Final = re.compile(rf"({'|'.join(sorted(_COMPARISONS, key=len, reverse=True))})? *+(.*)", re.DOTALL)
_COUNT: Final = re.compile(r"[0-9]{1,9}")

_IN: Final[JsonSchema] = {
    "type": "object",
    "properties": {"in": {"type": "string", "description": "a file with a pattern in each line, relative to this one"}},
    "required": ["in"],
    "additionalProperties": False,
}


def when(written: Written) -> Part | None:
    """The conditions of a table, all of which are to hold; of a list of tables, one of them."""
    if written.is_too_deep:
        written.wrong("expected conditions that are nested less deep")
        return None
    match written.value:
        case dict():
            return _all_of(written)
        case list():
            return _list_of(written, AnyOf)
        case _:
            written.expected("a table of conditions")
            return None


def _all_of(written: Written) -> Part | None:
    found: list[Part | None] = [CONDITIONS[key].read(one) for key, one in written.table(CONDITIONS).items()]
    if not written.value:
        written.wrong("expected a condition, got an empty table")
    parts = [part for part in found if part is not None]
    return parts[0] if len(parts) == 1 else All(in_order(parts)) if parts else None


def _list_of(written: Written, kind: type[All | AnyOf]) -> Part | None:
    if not isinstance(written.value, list):
        written.expected("a list of tables of conditions")
        return None
    parts = [part for one in written.each("a table of conditions") if (part := when(one)) is not None]
    return kind(in_order(parts)) if parts else None


def _not(written: Written) -> Part | None:
    part = when(written)
    return None if part is None else Not(part)


def _either(parts: Sequence[Part]) -> Part | None:
    return parts[0] if len(parts) == 1 else AnyOf(in_order(parts)) if parts else None


def _texts(
    parse: Callable[[str], T], make: Callable[[list[T]], Part], what: str, flags: Mapping[bool, Part] | None = None
) -> Reader:
    """Of texts, of files with such in each line, and of `flags`, what true and false mean; or of a list of these."""
    flags = flags or {}

    def read(written: Written) -> Part | None:
        texts: list[T] = []
        parts: list[Part] = []
        for one in written.each(what):
            if isinstance(one.value, bool) and one.value in flags:
                parts.append(flags[one.value])
            elif is_file(one.value):
                texts += one.of_file(parse)
            elif (parsed := one.parsed(parse, what)) is not None:
                texts.append(parsed)
        # A file may be empty: nothing is in it.
        return _either([*parts, make(texts)] if texts or not parts else parts)

    return read


def _patterns(subject: Subject, of: Values, flags: Mapping[bool, Part] | None = None) -> Reader:
    words = "a pattern" if not flags else f"a pattern, {either(str(flag).lower() for flag in flags)}"
    return _texts(Pattern.parse, lambda found: Matches(subject, of, PatternList(found)), words, flags)


def _addresses(subject: Subject, of: Values) -> Reader:
    return _texts(
        AddressPattern.parse, lambda found: Matches(subject, of, AddressList(found)), "a pattern of an address"
    )


def _there(subject: Subject, of: Values) -> dict[bool, Part]:
    there = Exists(subject, of)
    return {True: there, False: Not(there)}


def _flag(flags: Mapping[bool, Part]) -> Reader:
    def read(written: Written) -> Part | None:
        if isinstance(written.value, bool):
            return flags[written.value]
        written.expected("true or false")
        return None

    return read


def _version(text: str) -> Pattern:
    if text not in TLS_VERSIONS:
        raise ValueError(f"expected true, false or {either(TLS_VERSIONS)}, got {shown(text)}")
    return Pattern.parse(text)


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        if "has host bits" in str(error):
            raise ValueError(f"expected a network whose last bits are 0, got {shown(text)}") from None
        raise ValueError(f"expected a network such as 10.0.0.0/8, or an IP address, got {shown(text)}") from None


def _comparison(subject: Subject, of: Callable[[Facts], int], parse: Callable[[str], int | None], what: str) -> Reader:
    def number(text: str) -> Part:
        match = _COMPARED.fullmatch(text)
        if match is not None and (found := parse(match[2])) is not None:
            return Count(subject, of, _COMPARISONS[match[1] or "="], found)
        raise ValueError(f"expected {what}, got {shown(text)}")

    def read(written: Written) -> Part | None:
        found = [one.parsed(number, what) for one in written.each(what)]
        return _either([part for part in found if part is not None])

    return read


def _count(text: str) -> int | None:
    return int(text) if _COUNT.fullmatch(text) else None


def _named(known: Callable[[str], Reader | str], what: str) -> Reader:
    """A table by names of what is in the mail, in any case of letters; `known` gives what is wrong with a name in words."""

    def read(written: Written) -> Part | None:
        if not isinstance(written.value, dict) or not written.value:
            written.expected(f"a table, or {dotted(written.place[-1:])}.{what}")
            return None
        seen: dict[str, str] = {}
        parts: list[Part] = []
        for name in written.value:
            one = written.of(name)
            if (other := seen.setdefault(name.lower(), name)) != name:
                one.wrong(f"expected each name once, in any case of letters, got {other} and {name}")
            elif isinstance(reader := known(name), str):
                one.wrong(reader)
            elif (part := reader(one)) is not None:
                parts.append(part)
        return parts[0] if len(parts) == 1 else All(in_order(parts)) if parts else None

    return read


def _header(name: str) -> Reader | str:
    if FIELD_NAME.fullmatch(name) is None:
        return f"expected the name of a field, of printable ASCII without colon and space, got {shown(name)}"
    subject, of = header(name), facts_of.fields(name)
    return _patterns(subject, of, _there(subject, of))


MAIL_PARAMETERS: Final = {keyword.decode("ascii") for keyword in parameters.MAIL}
RCPT_PARAMETERS: Final = {keyword.decode("ascii") for keyword in parameters.RCPT}


def _parameter(name: str) -> Reader | str:
    if name in MAIL_PARAMETERS:
        subject, of = "parameters", facts_of.of_mail(name)
    elif name in RCPT_PARAMETERS:
        subject, of = "recipient", facts_of.of_rcpt(name)
    else:
        return f"unknown parameter; {nearest(name.upper(), MAIL_PARAMETERS | RCPT_PARAMETERS)}"
    return _patterns(subject, of, _there(subject, of))


def _draw(written: Written) -> str:
    return f"{written.rule}: {dotted(written.place[2:])}"


def _chance(written: Written) -> Part | None:
    value = written.value
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
        return Chance(_draw(written), float(value))
    written.expected("a number from 0 to 1")
    return None


def _every(written: Written) -> Part | None:
    n = written.integer(1, "an integer of at least 1")
    return None if n is None else Every(_draw(written), n)


def _first(written: Written) -> Part | None:
    table = written.table(("times", "per", "within"), needed=("per", "within"), what="a table of times, per and within")
    times: int | None = 1
    if (given := table.get("times")) is not None:
        times = given.integer(1, "an integer of at least 1")
    per: list[str] = []
    if (given := table.get("per")) is not None:
        if isinstance(given.value, list):
            keys = {key: key for key in KEYS}
            per = [key for one in given.each("a key") if (key := one.choice(keys, either(KEYS))) is not None]
        else:
            given.expected(f"a list of some of {', '.join(KEYS)}")
    within = table["within"].parsed(_duration, _DURATION) if "within" in table else None
    if times is None or not per or within is None:
        return None
    return First(_draw(written), times, tuple(per), within)


_DURATION: Final = "a duration such as 30s, 5m or 4h"


def _duration(text: str) -> float:
    seconds = units.seconds(text)
    if not seconds:
        raise ValueError(f"expected {_DURATION}, got {shown(text)}")
    return seconds


def _one_or_list(*kinds: JsonSchema) -> JsonSchema:
    one: JsonSchema = kinds[0] if len(kinds) == 1 else {"anyOf": list(kinds)}
    return {"anyOf": [*kinds, {"type": "array", "items": one, "minItems": 1}]}


_STRING: Final[JsonSchema] = {"type": "string"}
_BOOLEAN: Final[JsonSchema] = {"type": "boolean"}
_WHEN: Final[JsonSchema] = {"$ref": "#/$defs/when"}
_WHENS: Final[JsonSchema] = {"type": "array", "items": _WHEN, "minItems": 1}
PATTERNS_SCHEMA: Final = _one_or_list(_STRING, _IN)
_PATTERNS_OR_NOT: Final = _one_or_list(_STRING, _IN, _BOOLEAN)

#: A line each. Schemas may point to #/$defs/when.
CONDITIONS: Final[Mapping[str, Entry]] = {
    "any": Entry(lambda one: _list_of(one, AnyOf), _WHENS, "one of these tables of conditions holds"),
    "all": Entry(lambda one: _list_of(one, All), _WHENS, "all of these tables of conditions hold"),
    "not": Entry(_not, {"anyOf": [_WHEN, _WHENS]}, "this table of conditions does not hold; of a list, none does"),
    "client": Entry(
        _texts(_network, ClientIn.of, "a network such as 10.0.0.0/8"),
        PATTERNS_SCHEMA,
        "the client's address is in this network, such as 10.0.0.0/8",
    ),
    "listener": Entry(_patterns("listener", facts_of.listener), PATTERNS_SCHEMA, "the listener's name, a pattern"),
    "helo": Entry(_patterns("helo", facts_of.helo), PATTERNS_SCHEMA, "the name in EHLO or HELO, a pattern"),
    "tls": Entry(
        _texts(
            _version,
            lambda found: Matches("tls", facts_of.tls, PatternList(found)),
            f"true, false or {either(TLS_VERSIONS)}",
            _there("tls", facts_of.tls),
        ),
        _one_or_list(_BOOLEAN, {"enum": list(TLS_VERSIONS)}),
        "whether there is TLS with the client, or its version",
    ),
    "auth": Entry(
        _patterns("auth", facts_of.user, _there("auth", facts_of.user)),
        _PATTERNS_OR_NOT,
        "the user that the client has logged in as, a pattern; true: anybody; false: nobody",
    ),
    "sender": Entry(
        _addresses("sender", facts_of.sender), PATTERNS_SCHEMA, 'the reverse-path, a pattern; "" is the null sender'
    ),
    "recipient": Entry(
        _addresses("recipient", facts_of.one_recipient),
        PATTERNS_SCHEMA,
        "a forward-path, a pattern; the rule runs once for each recipient",
    ),
    "recipients": Entry(
        _comparison("recipients", facts_of.how_many, _count, "a count such as >50, <=2 or 3, as a string"),
        _one_or_list(_STRING),
        'how many recipients there are, such as ">50", "<=2" or "3"',
    ),
    "parameter": Entry(
        _named(_parameter, "NAME"),
        {
            "type": "object",
            "properties": dict.fromkeys(sorted(MAIL_PARAMETERS | RCPT_PARAMETERS), _PATTERNS_OR_NOT),
            "additionalProperties": False,
            "minProperties": 1,
        },
        "parameters of MAIL, or of this RCPT, by name: a pattern; true: it is there; false: it is not",
    ),
    "header": Entry(
        _named(_header, "NAME"),
        {
            "type": "object",
            "propertyNames": {"pattern": r"^[!-9;-~]{1,200}$"},
            "additionalProperties": _PATTERNS_OR_NOT,
            "minProperties": 1,
        },
        "fields by name, decoded and unfolded, any of that name: a pattern; true: there is one; false: there is none",
    ),
    "size": Entry(
        _comparison("size", facts_of.size, units.octets, "a size such as >10MiB or <=4KiB"),
        _one_or_list(_STRING),
        'octets of the message, such as ">10MiB"',
    ),
    "body": Entry(_patterns("body", facts_of.body), PATTERNS_SCHEMA, "the decoded text of the message, a pattern"),
    "attachment": Entry(
        _patterns("attachment", facts_of.attachments), PATTERNS_SCHEMA, "the file name of an attachment, a pattern"
    ),
    "unreadable": Entry(
        _flag(_there("attachment", facts_of.unreadable)),
        _BOOLEAN,
        "the structure of the message could not be read to its end, so that an attachment may hide",
    ),
    "chance": Entry(_chance, {"type": "number", "minimum": 0, "maximum": 1}, "so often, drawn: 0 is never, 1 always"),
    "first": Entry(
        _first,
        {
            "type": "object",
            "properties": {
                "times": {"type": "integer", "minimum": 1, "default": 1},
                "per": {"type": "array", "items": {"enum": list(KEYS)}, "minItems": 1},
                "within": {"type": "string", "pattern": f"^{units.DURATION.pattern}$"},
            },
            "required": ["per", "within"],
            "additionalProperties": False,
        },
        'the first times of what is the same in `per`, such as { times = 1, per = ["client", "sender"], within = "4h" }',
    ),
    "every": Entry(_every, {"type": "integer", "minimum": 1}, "each n-th time that all else holds"),
}
