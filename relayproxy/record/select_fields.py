"""The fields of SELECT (DESIGN §4): what may stand behind each, and the condition that it makes.

Invariants: what cannot be meant is a ValueError, which says what was expected and what came. Where it stands in the expression does not belong here (select.py).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import TYPE_CHECKING, Final, NamedTuple, get_args

from relayproxy.mail import units
from relayproxy.mail.pattern import AddressPattern, Pattern
from relayproxy.record.conditions import (
    Acknowledged,
    Anonymous,
    Captured,
    ClientIn,
    Comparison,
    Encrypted,
    Header,
    Id,
    Not,
    OutcomeIs,
    Recipient,
    Sender,
    Size,
    Text,
    Time,
    Waiting,
    Words,
)
from relayproxy.record.full_text import words
from relayproxy.record.report import Outcome
from relayproxy.record.times import microseconds_of
from relayproxy.rules import wording
from relayproxy.rules.facts import TLS_VERSIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from relayproxy.record.conditions import Condition, TextField

_HEADER: Final = "header."
#: RFC 5322 §3.6.8 ftext.
_FIELD_NAME: Final = re.compile(r"[!-9;-~]+")
#: Patterns, and the only addresses of clients that are no IP addresses.
_CLIENTS: Final = re.compile(r"unix:|/|.*[*?]", re.DOTALL)
_ID: Final = re.compile(r"[0-9A-Za-z]{1,64}")
_CODE: Final = re.compile(r"[1-5?][0-9?]{2}|(?=.*\*)[1-5*?][0-9*?]{0,2}")
_SIZE: Final = re.compile(r"(<=|>=|<|=|>)(.*)", re.DOTALL)
_COMPARISONS: Final[dict[str, Comparison]] = {one: one for one in get_args(Comparison)}


class Value(NamedTuple):
    """What stands behind a field's colon. What is in quotes is no keyword."""

    text: str
    quoted: bool
    #: Nanoseconds since 1970.
    now: int


def condition(field: str, value: Value) -> Condition:
    """Raises ValueError: what was expected of the value. The field is a known one (`is_field`)."""
    if field.startswith(_HEADER):
        return Header(field.removeprefix(_HEADER).encode("ascii"), Pattern.parse(value.text))
    return _FIELDS[field](value)


def is_field(name: str) -> bool:
    return name in _FIELDS or (name.startswith(_HEADER) and _FIELD_NAME.fullmatch(name, len(_HEADER)) is not None)


def nearest(name: str) -> str:
    """The known field that comes closest, or all of them where none comes close."""
    return wording.nearest(name, [*_FIELDS, "header.NAME"])


def shown(text: str) -> str:
    """What was found, in quotes."""
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _text(field: TextField) -> Callable[[Value], Condition]:
    return lambda value: Text(field, Pattern.parse(value.text))


def _outcome(value: Value) -> Condition:
    known: tuple[Outcome, ...] = get_args(Outcome)
    for outcome in known:
        if outcome == value.text:
            return OutcomeIs(outcome)
    raise ValueError(f"expected {_or(known)}, found {shown(value.text)}")


def _or(words_: Iterable[str]) -> str:
    *others, last = words_
    return f"{', '.join(others)} or {last}"


def _true_or_false(value: Value) -> bool | None:
    return None if value.quoted else {"true": True, "false": False}.get(value.text)


def _whether(made: Callable[[bool], Condition]) -> Callable[[Value], Condition]:
    def read(value: Value) -> Condition:
        wanted = _true_or_false(value)
        if wanted is None:
            raise ValueError(f"expected true or false, found {shown(value.text)}")
        return made(wanted)

    return read


def _tls(value: Value) -> Condition:
    if (wanted := _true_or_false(value)) is not None:
        return Encrypted(wanted)
    pattern = Pattern.parse(value.text)
    if not any(pattern.matches(version) for version in TLS_VERSIONS):
        raise ValueError(f"expected true, false, {_or(TLS_VERSIONS)}, or a pattern of these, found {shown(value.text)}")
    return Text("tls", pattern)


def _auth(value: Value) -> Condition:
    wanted = _true_or_false(value)
    if wanted is None:
        return Text("auth", Pattern.parse(value.text))
    return Not(Anonymous()) if wanted else Anonymous()


def _size(value: Value) -> Condition:
    if (match := _SIZE.fullmatch(value.text)) and (octets := units.octets(match[2])) is not None:
        return Size(_COMPARISONS[match[1]], octets)
    raise ValueError(
        f"expected <, <=, =, >= or > and a size with its unit such as >10MiB or <=512B, found {shown(value.text)}"
    )


# From that instant on, and before it: `since:2026-01-02 & until:2026-01-03` is one day.


def _since(value: Value) -> Condition:
    return Time(">=", _microseconds(value))


def _until(value: Value) -> Condition:
    return Time("<", _microseconds(value))


def _microseconds(value: Value) -> int:
    if (back := units.seconds(value.text)) is not None:
        return (value.now - round(back * 1_000_000_000)) // 1000
    try:
        time = datetime.fromisoformat(value.text)
    except ValueError:
        raise ValueError(
            f"expected how long ago, such as 1h or 14d, or a date or time such as 2026-01-02 or 2026-01-02T03:04:05Z (UTC where no offset is given), found {shown(value.text)}"
        ) from None
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    return microseconds_of(time)


def _client(value: Value) -> Condition:
    try:
        return ClientIn(ip_network(value.text))
    except ValueError as error:
        # 10.0.0.1/8 says two things.
        if "has host bits" in str(error):
            raise ValueError(f"expected a network whose last bits are 0, found {shown(value.text)}") from None
    if _CLIENTS.match(value.text) is None:
        raise ValueError(
            f"expected an IP address, a network such as 10.0.0.0/8, a pattern such as 10.*, or unix:/path, found {shown(value.text)}"
        )
    return Text("client", Pattern.parse(value.text))


def _code(value: Value) -> Condition:
    if _CODE.fullmatch(value.text) is None:
        raise ValueError(f"expected a reply code, or a pattern of one, such as 250 or 5*, found {shown(value.text)}")
    return Text("code", Pattern.parse(value.text))


def _id(value: Value) -> str:
    if _ID.fullmatch(value.text) is None:
        raise ValueError(f"expected an id, or how one begins, found {shown(value.text)}")
    return value.text


def _words(value: Value) -> Condition:
    if not value.quoted and (set(value.text) & set("*?") or value.text.startswith("/")):
        raise ValueError(f"expected whole words, as there are no patterns here, found {shown(value.text)}")
    found = frozenset(words(value.text))
    if not found:
        raise ValueError(f"expected a word, found {shown(value.text)}")
    return Words(found)


_FIELDS: Final[dict[str, Callable[[Value], Condition]]] = {
    "sender": lambda value: Sender("received", AddressPattern.parse(value.text)),
    "recipient": lambda value: Recipient("received", AddressPattern.parse(value.text)),
    "sent.sender": lambda value: Sender("sent", AddressPattern.parse(value.text)),
    "sent.recipient": lambda value: Recipient("sent", AddressPattern.parse(value.text)),
    "subject": _text("subject"),
    "message": _text("message"),
    "text": _words,
    "size": _size,
    "outcome": _outcome,
    "code": _code,
    "held": _whether(Waiting),
    "captured": _whether(Captured),
    "acknowledged": _whether(Acknowledged),
    "since": _since,
    "until": _until,
    "client": _client,
    "listener": _text("listener"),
    "upstream": _text("upstream"),
    "helo": _text("helo"),
    "auth": _auth,
    "tls": _tls,
    "session": lambda value: Id("session", _id(value)),
    "transaction": lambda value: Id("transaction", _id(value)),
    "tag": _text("tag"),
}
