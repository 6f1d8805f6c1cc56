"""How `[[test]]` tables are written (DESIGN §6): what comes, and what is to become of it; one table of keys each, for their JSON Schema too.

Invariants: as in syntax.py. What becomes of a case does not belong here (cases.py).
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import msgspec

from relayproxy.mail.pattern import Pattern
from relayproxy.rules.condition_syntax import FIELD_NAME, MAIL_PARAMETERS, RCPT_PARAMETERS
from relayproxy.rules.facts import TLS_VERSIONS
from relayproxy.rules.rule_syntax import named, tables
from relayproxy.rules.syntax import Entry
from relayproxy.rules.wording import either, nearest, shown
from relayproxy.smtp.commands import Path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from relayproxy.rules.syntax import JsonSchema, Written


CASE_KEYS: Final = ("name", "given", "expect")
#: Of DESIGN §2, those that rules can bring about.
Outcome = Literal["accepted", "rejected", "tempfailed", "discarded", "held", "aborted"]
#: A pattern, or whether it is there at all.
Wanted = Pattern | bool


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """What comes. `message` has CRLF line ends. `drawn`: what is drawn (chance, first, every) holds."""

    sender: str = "sender@example.com"
    recipients: tuple[str, ...] = ("recipient@example.com",)
    message: bytes = b"Subject: a test\r\n\r\nHello\r\n"
    client: str = "127.0.0.1"
    helo: str = "client.example.com"
    tls: str | None = None
    auth: str | None = None
    listener: str = "default"
    parameters: Mapping[str, str | None] = {}
    drawn: bool = True


class Expect(msgspec.Struct, frozen=True, kw_only=True):
    """What is to become of it; None where it does not matter."""

    sender: str | None = None
    recipients: tuple[str, ...] | None = None
    header: Mapping[str, Wanted] = {}
    body: Pattern | None = None
    attachments: tuple[str, ...] | None = None
    outcome: Outcome | None = None
    reply: Wanted | None = None
    held: Wanted | None = None
    discarded: bool | None = None
    route: str | None = None
    tags: tuple[str, ...] | None = None
    rules: tuple[str, ...] | None = None


class Case(msgspec.Struct, frozen=True):
    """One test. `where`: file and line."""

    name: str
    given: Given
    expect: Expect
    where: str = ""


def cases(written: Written) -> list[Case]:
    """Those of a file."""
    return [case for one in tables(written, "test") if (case := _case(one)) is not None]


def _case(written: Written) -> Case | None:
    source = written.source
    before = len(source.complaints)
    table = written.table(CASE_KEYS, needed=("given", "expect"))
    name, _ = named(written, table)
    given = _read(table, "given", GIVEN, "a table of what comes")
    expect = _read(table, "expect", EXPECT, "a table of what is to become of it")
    if "expect" in table and table["expect"].value == {}:
        table["expect"].wrong("expected something, got an empty table")
    if len(source.complaints) > before:
        return None
    where = f"{source.file}:{source.line(written.place)}"
    return Case(name, Given(**given), Expect(**expect), where)


def _read(table: Mapping[str, Written], key: str, known: Mapping[str, Entry], what: str) -> dict[str, Any]:
    if key not in table:
        return {}
    return {name: known[name].read(one) for name, one in table[key].table(known, what=what).items()}


# Readers.


def _text(written: Written) -> str | None:
    return written.text("a text")


def _texts(written: Written, what: str = "a list of texts") -> tuple[str, ...] | None:
    if not isinstance(written.value, list) or not all(isinstance(one, str) for one in written.value):
        written.expected(what)
        return None
    return tuple(written.value)


def _is_path(text: str) -> bool:
    """Whether it may stand between angle brackets; "" may."""
    try:
        Path.parse(text.encode())
    except ValueError:  # UnicodeEncodeError is one
        return False
    return True


def _address(written: Written) -> str | None:
    if isinstance(written.value, str) and _is_path(written.value):
        return written.value
    written.expected('an address such as user@example.com, or "" for the null sender')
    return None


def _addresses(written: Written) -> tuple[str, ...] | None:
    found = _texts(written, 'a list of addresses such as ["user@example.com"]')
    for index, one in enumerate(found or ()):
        if not one or not _is_path(one):
            written.of(index).expected("an address such as user@example.com")
            return None
    return found


def _message(written: Written) -> bytes | None:
    text = written.text("a message: fields, an empty line, and a body")
    return None if text is None else text.replace("\r\n", "\n").replace("\n", "\r\n").encode("utf-8", "replace")


def _client(written: Written) -> str | None:
    def address(text: str) -> str:
        return str(ip_address(text)) if text else text

    try:
        return None if (text := written.text("an IP address")) is None else address(text)
    except ValueError:
        written.expected('an IP address, or "" for a Unix socket')
        return None


def _tls(written: Written) -> str | None:
    if isinstance(written.value, bool):
        return TLS_VERSIONS[-1] if written.value else None
    return written.choice({version: version for version in TLS_VERSIONS}, f"true, false or {either(TLS_VERSIONS)}")


def _auth(written: Written) -> str | None:
    return None if written.value is False else written.text("the name of a user, or false")


def _parameters(written: Written) -> dict[str, str | None]:
    known = MAIL_PARAMETERS | RCPT_PARAMETERS
    found: dict[str, str | None] = {}
    if not isinstance(written.value, dict):
        written.expected('a table of parameters such as { SIZE = "328", SMTPUTF8 = true }')
        return found
    for name in written.value:
        one = written.of(name)
        if name not in known:
            one.wrong(f"unknown parameter; {nearest(name.upper(), known)}")
        elif one.value is True:
            found[name] = None
        elif (value := one.text("a text, or true where it has no value")) is not None:
            found[name] = value
    return found


def _boolean(written: Written) -> bool | None:
    if isinstance(written.value, bool):
        return written.value
    written.expected("true or false")
    return None


def _pattern(written: Written) -> Pattern | None:
    return written.parsed(Pattern.parse, "a pattern")


def _wanted(written: Written) -> Wanted | None:
    return (
        written.value if isinstance(written.value, bool) else written.parsed(Pattern.parse, "a pattern, true or false")
    )


def _header(written: Written) -> dict[str, Wanted]:
    found: dict[str, Wanted] = {}
    if not isinstance(written.value, dict):
        written.expected("a table, or header.NAME")
        return found
    for name in written.value:
        one = written.of(name)
        if FIELD_NAME.fullmatch(name) is None:
            one.wrong(f"expected the name of a field, of printable ASCII without colon and space, got {shown(name)}")
        elif (wanted := _wanted(one)) is not None:
            found[name] = wanted
    return found


def _outcome(written: Written) -> str | None:
    return written.choice({one: one for one in get_args(Outcome)}, either(get_args(Outcome)))


_STRING: Final[JsonSchema] = {"type": "string"}
_BOOLEAN: Final[JsonSchema] = {"type": "boolean"}
_STRINGS: Final[JsonSchema] = {"type": "array", "items": _STRING}
_WANTED: Final[JsonSchema] = {"anyOf": [_STRING, _BOOLEAN]}

GIVEN: Final[Mapping[str, Entry]] = {
    "sender": Entry(_address, _STRING, 'the reverse-path; "" is the null sender'),
    "recipients": Entry(_addresses, _STRINGS, "the forward-paths"),
    "message": Entry(_message, _STRING, "fields, an empty line and a body; \\n is the end of a line"),
    "client": Entry(_client, _STRING, "the client's IP address"),
    "helo": Entry(_text, _STRING, "its name in EHLO"),
    "tls": Entry(_tls, {"anyOf": [_BOOLEAN, {"enum": list(TLS_VERSIONS)}]}, "whether there is TLS, or its version"),
    "auth": Entry(_auth, {"anyOf": [_STRING, {"const": False}]}, "the user that it has logged in as"),
    "listener": Entry(_text, _STRING, "the name of the listener"),
    "parameters": Entry(
        _parameters,
        {
            "type": "object",
            "properties": dict.fromkeys(sorted(MAIL_PARAMETERS | RCPT_PARAMETERS), _WANTED),
            "additionalProperties": False,
        },
        "parameters of MAIL, and of each RCPT; true where one has no value",
    ),
    "drawn": Entry(_boolean, _BOOLEAN, "whether what is drawn holds: chance, first, every; true where it is left out"),
}
EXPECT: Final[Mapping[str, Entry]] = {
    "sender": Entry(_address, _STRING, "the reverse-path as it leaves"),
    "recipients": Entry(_addresses, _STRINGS, "the forward-paths as they leave, in any order"),
    "header": Entry(
        _header,
        {
            "type": "object",
            "propertyNames": {"pattern": r"^[!-9;-~]{1,200}$"},
            "additionalProperties": _WANTED,
        },
        "fields as they leave, any of that name: a pattern; true: there is one; false: there is none",
    ),
    "body": Entry(_pattern, _STRING, "the decoded text of the message as it leaves, a pattern"),
    "attachments": Entry(_texts, _STRINGS, "the file names of all attachments as they leave, in any order"),
    "outcome": Entry(_outcome, {"enum": list(get_args(Outcome))}, "what becomes of the message"),
    "reply": Entry(_wanted, _WANTED, 'what a rule answers, a pattern such as "550 5.7.1 *"; whether one answers'),
    "held": Entry(_wanted, _WANTED, "whether it is held; or why, a pattern"),
    "discarded": Entry(_boolean, _BOOLEAN, "whether it is discarded"),
    "route": Entry(_text, _STRING, "the name of the upstream that it goes to"),
    "tags": Entry(_texts, _STRINGS, "all tags, in any order"),
    "rules": Entry(_texts, _STRINGS, "the names of all rules that did something, in order"),
}
