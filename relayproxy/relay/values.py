"""What a setting can be: how one writes it, what was expected where it is something else, and what it is when it has been read.

Durations become seconds (float), sizes octets (int), paths, addresses and urls what they stand for. Which settings there are, and
their defaults, does not belong here (settings.py).
"""

from __future__ import annotations

import re
import shlex
import socket
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema

from relayproxy.mail import units
from relayproxy.mail.pattern import AddressPattern
from relayproxy.net.address import Address, parse_address
from relayproxy.net.dial import UpstreamUrl
from relayproxy.record.privacy import Privacy
from relayproxy.record.store.location import EXPECTED, PostgresqlUrl, location
from relayproxy.rules.load import SHIPPED
from relayproxy.smtp.commands import Path as Mailbox

if TYPE_CHECKING:
    from collections.abc import Callable


def seconds(value: object) -> float:
    if isinstance(value, str) and (read := units.seconds(value)) is not None:
        return read
    raise ValueError('a duration such as "30s", "5m", "14d"')


def octets(value: object) -> int:
    if isinstance(value, str) and (read := units.octets(value)) is not None:
        return read
    raise ValueError('a size such as "10KiB", "100MiB"')


def rate(value: object) -> int:
    if isinstance(value, str) and value.endswith("/s") and (read := units.octets(value.removesuffix("/s"))) is not None:
        return read
    raise ValueError('octets a second such as "100B/s", "10KiB/s"')


def _network(value: object) -> object:
    if isinstance(value, str):
        try:
            return ip_network(value)
        except ValueError as error:
            raise ValueError('an address or a network such as "127.0.0.0/8", "::1"') from error
    raise ValueError('an address or a network such as "127.0.0.0/8", "::1"')


Duration = Annotated[
    float,
    BeforeValidator(seconds),
    WithJsonSchema({"type": "string", "pattern": rf"^{units.DURATION.pattern}$", "examples": ["30s", "5m"]}),
]
Size = Annotated[
    int,
    BeforeValidator(octets),
    WithJsonSchema({"type": "string", "pattern": rf"^{units.SIZE.pattern}$", "examples": ["10KiB", "100MiB"]}),
]
Rate = Annotated[
    int,
    BeforeValidator(rate),
    WithJsonSchema({"type": "string", "pattern": rf"^{units.SIZE.pattern}/s$", "examples": ["100B/s"]}),
]
Network = Annotated[
    IPv4Network | IPv6Network,
    BeforeValidator(_network),
    WithJsonSchema({"type": "string", "examples": ["127.0.0.0/8", "::1"]}),
]


def _or_none(read: Callable[[object], object]) -> Callable[[object], object]:
    return lambda value: None if value == "none" else read(value)


#: "none": for ever, and as much as there is.
Age = Annotated[
    float | None,
    BeforeValidator(_or_none(seconds)),
    WithJsonSchema({"type": "string", "pattern": rf"^(none|{units.DURATION.pattern})$", "examples": ["14d", "none"]}),
]
Room = Annotated[
    int | None,
    BeforeValidator(_or_none(octets)),
    WithJsonSchema({"type": "string", "pattern": rf"^(none|{units.SIZE.pattern})$", "examples": ["10GiB", "none"]}),
]
Count = Annotated[int, Field(ge=1, strict=True)]
#: Of a listener or an upstream.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


def _path(value: object) -> object:
    """`~` is the home folder; what is relative is made absolute by who reads the file, and knows to what."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("a path")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError("a path that does not begin with ~, as this user has no home folder") from error


FilePath = Annotated[
    Path, BeforeValidator(_path), WithJsonSchema({"type": "string", "minLength": 1, "examples": ["folder/file"]})
]


def _dash(value: object) -> object:
    return None if value == "-" else value


#: None is standard output.
LogFile = Annotated[FilePath | None, BeforeValidator(_dash), WithJsonSchema({"type": "string", "minLength": 1})]

_VERIFY: Final = re.compile(r"full|ca|none|pin:sha256:[0-9A-Fa-f]{64}")


def _store(value: object) -> object:
    """A store's file, or a database; None: there is none."""
    if not isinstance(value, str):
        raise ValueError(EXPECTED)  # noqa: TRY004 - pydantic's way to refuse a value
    place = location(value)
    return _path(place) if isinstance(place, str) else place


StorePlace = Annotated[
    Path | PostgresqlUrl | None,
    PlainValidator(_store),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": "^(sqlite:.+|postgresql://.+|none)$",
            "examples": ["sqlite:relayproxy.db", "postgresql://relayproxy@db.example.test/relayproxy"],
        }
    ),
]


def _redacted(value: str) -> str:
    Privacy.parse([value])
    return value


#: What is left out of records (record/privacy.py).
Redacted = Annotated[str, AfterValidator(_redacted)]


_SHIPPED: Final = re.compile(SHIPPED + r"[A-Za-z0-9_-]+")


def _rule_file(value: object) -> object:
    if isinstance(value, str) and value.startswith(SHIPPED):
        if _SHIPPED.fullmatch(value) is None:
            raise ValueError(f"{SHIPPED} and the name of rules that come with it, such as {SHIPPED}staging-redirect")
        return value
    return _path(value)


#: A file of rules, or, as text, the name of one that comes with relayproxy.
RuleFile = Annotated[
    Path | str,
    PlainValidator(_rule_file),
    PlainSerializer(str),
    WithJsonSchema(
        {"type": "string", "minLength": 1, "examples": ["rules/staging.toml", f"{SHIPPED}staging-redirect"]}
    ),
]


def _allowed(value: str) -> str:
    if not value:
        raise ValueError("an address, or a pattern such as *@example.test")
    AddressPattern.parse(value)
    return value


#: Of the guard.
AllowedAddress = Annotated[
    str, AfterValidator(_allowed), WithJsonSchema({"type": "string", "minLength": 1, "examples": ["*@example.test"]})
]


def _recipient(value: str) -> str:
    try:
        path = Mailbox.parse(value.encode())
    except ValueError:  # surrogates are none of UTF-8
        path = Mailbox(b"", b"")
    if not path.domain or path.address != value.encode() or not {"*", "?"}.isdisjoint(value):
        raise ValueError("an address such as qa@example.test, without * and ?")
    return value


#: An address that mail is sent to, and that is a pattern of itself.
Recipient = Annotated[
    str, AfterValidator(_recipient), WithJsonSchema({"type": "string", "examples": ["qa@example.test"]})
]


def _verify(value: object) -> object:
    if isinstance(value, str) and _VERIFY.fullmatch(value):
        return value.lower()
    raise ValueError("full, ca, none, or pin:sha256: and the 64 hexadecimal digits of the certificate's digest")


Verify = Annotated[
    str, BeforeValidator(_verify), WithJsonSchema({"type": "string", "pattern": rf"^(?:{_VERIFY.pattern})$"})
]


def _user(value: str) -> str:
    if not value or any(character < " " or character == "\x7f" for character in value):
        raise ValueError("a user's name without control characters")
    return value


def _words(value: object) -> object:
    if isinstance(value, str):
        try:
            value = shlex.split(value)
        except ValueError:
            value = []
    if not (isinstance(value, list | tuple) and value and all(isinstance(one, str) and one for one in value)):
        raise ValueError('a command such as "oauth2-token --user app", or a list of its words')
    return tuple(value)


User = Annotated[str, AfterValidator(_user)]
Command = Annotated[
    tuple[str, ...] | None,
    BeforeValidator(_words),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]

#: RFC 5321 §4.1.2 Domain, or address-literal: it stands in our banner, our EHLO and our Received fields.
_HOSTNAME: Final = re.compile(
    r"(?=.{1,255}\Z)(?:[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?)*"
    r"|\[(?:[0-9.]+|IPv6:[0-9A-Fa-f:.]+)\])",
    re.ASCII,
)


def _hostname(value: str) -> str:
    if _HOSTNAME.fullmatch(value) is None:
        raise ValueError('a host name in ASCII such as "relay.example.test", or an address such as "[192.0.2.1]"')
    return value


def machine() -> str:
    """The machine's name, where it is one that SMTP can say. The resolver is not asked: that may take a minute."""
    name = socket.gethostname()
    return name if _HOSTNAME.fullmatch(name) else "localhost"


Hostname = Annotated[str, AfterValidator(_hostname)]


def _address(value: object) -> Address:
    if isinstance(value, str):
        return parse_address(value)
    raise ValueError("a string")


#: Where to listen.
ListenAddress = Annotated[Address, PlainValidator(_address), PlainSerializer(str), WithJsonSchema({"type": "string"})]


def _url(value: object) -> UpstreamUrl:
    if isinstance(value, str):
        return UpstreamUrl.parse(value)
    raise ValueError("a string")


def _listed(value: object) -> object:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list | tuple):
        raise ValueError("a url, or a list of them")  # noqa: TRY004 - pydantic wants ValueError
    return value


def _alone(value: tuple[UpstreamUrl, ...]) -> tuple[UpstreamUrl, ...]:
    if not value:
        raise ValueError("at least one")
    if len(value) > 1 and any(url.kind == "capture" for url in value):
        raise ValueError("capture: alone: it never fails over, and a message that it kept has not gone on")
    return value


_URL_SCHEMA: Final = {
    "type": "string",
    "examples": ["smtp+starttls://smtp.example.com", "smtp://[2001:db8::1]:2525", "capture:"],
}
#: Where mail goes, in order of preference.
Urls = Annotated[
    tuple[Annotated[UpstreamUrl, PlainValidator(_url), PlainSerializer(str)], ...],
    BeforeValidator(_listed),
    AfterValidator(_alone),
    WithJsonSchema({"anyOf": [_URL_SCHEMA, {"type": "array", "items": _URL_SCHEMA, "minItems": 1}]}),
]
