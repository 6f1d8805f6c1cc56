"""Every setting that the relay reads, with its default and unit: one file (DESIGN §5).

Pydantic models, frozen; durations become seconds (float), sizes become octets (int). Reading files, flags and
environment does not belong here (cli/config.py).
"""

from __future__ import annotations

import re
import shlex
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, WithJsonSchema

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"([0-9]{1,15})(B|KiB|MiB|GiB|TiB)")
_OCTETS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def _duration(value: object) -> float:
    if isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        return float(match[1]) * _SECONDS[match[2]]
    raise ValueError('a duration such as "30s", "5m", "14d"')


def _size(value: object) -> int:
    if isinstance(value, str) and (match := _SIZE.fullmatch(value)):
        return int(match[1]) * _OCTETS[match[2]]
    raise ValueError('a size such as "10KiB", "100MiB"')


def _rate(value: object) -> int:
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.removesuffix("/s"))) and value.endswith("/s"):
        return int(match[1]) * _OCTETS[match[2]]
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
    BeforeValidator(_duration),
    WithJsonSchema({"type": "string", "pattern": rf"^{_DURATION.pattern}$", "examples": ["30s", "5m"]}),
]
Size = Annotated[
    int,
    BeforeValidator(_size),
    WithJsonSchema({"type": "string", "pattern": rf"^{_SIZE.pattern}$", "examples": ["10KiB", "100MiB"]}),
]
Rate = Annotated[
    int,
    BeforeValidator(_rate),
    WithJsonSchema({"type": "string", "pattern": rf"^{_SIZE.pattern}/s$", "examples": ["100B/s"]}),
]
Network = Annotated[
    IPv4Network | IPv6Network,
    BeforeValidator(_network),
    WithJsonSchema({"type": "string", "examples": ["127.0.0.0/8", "::1"]}),
]
Count = Annotated[int, Field(ge=1, strict=True)]


def _path(value: object) -> object:
    """`~` is the home folder; what is relative is made absolute by who reads the file, and knows to what."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("a path")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError(HOMELESS) from error


HOMELESS: Final = "a path that does not begin with ~, as this user has no home folder"
FilePath = Annotated[
    Path, BeforeValidator(_path), WithJsonSchema({"type": "string", "minLength": 1, "examples": ["folder/file"]})
]

_VERIFY: Final = re.compile(r"full|ca|none|pin:sha256:[0-9A-Fa-f]{64}")


def _verify(value: object) -> object:
    if isinstance(value, str) and _VERIFY.fullmatch(value):
        return value.lower()
    raise ValueError("full, ca, none, or pin:sha256: and the 64 hexadecimal digits of the certificate's digest")


Verify = Annotated[
    str, BeforeValidator(_verify), WithJsonSchema({"type": "string", "pattern": rf"^(?:{_VERIFY.pattern})$"})
]


class Settings(BaseModel):
    """What all parts have: unknown keys are errors, nothing changes after start."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _for(default: str, description: str) -> Any:
    """A duration's field; the schema shows its default as one writes it."""
    return Field(default=_duration(default), description=description, json_schema_extra={"default": default})


def _octets(default: str, description: str) -> Any:
    """A size's field, likewise."""
    return Field(default=_size(default), description=description, json_schema_extra={"default": default})


def _a_second(default: str, description: str) -> Any:
    """A rate's field, likewise."""
    return Field(default=_rate(default), description=description, json_schema_extra={"default": default})


class ClientTimeouts(Settings):
    """How long we wait for the client; each over a whole unit."""

    command: Duration = _for("5m", "for the whole next command line (RFC 5321 §4.5.3.2.7)")
    auth: Duration = _for("5m", "for the whole next line of an AUTH exchange")
    handshake: Duration = _for("30s", "for the whole TLS handshake")
    data_block: Duration = _for("3m", "for the next octets of mail data")
    write: Duration = _for("1m", "for the client to take our replies")
    proxy_header: Duration = _for("5s", "for the whole PROXY header, from the peers that must send one")


class UpstreamTimeouts(Settings):
    """How long we wait for upstream: never less than RFC 5321 §4.5.3.2, so that we do not give up first."""

    setup: Duration = _for("4m", "for everything before our 220, all urls of a failover")
    connect: Duration = _for("30s", "for one connection")
    handshake: Duration = _for("30s", "for the whole TLS handshake")
    greeting: Duration = _for("5m", "for the greeting")
    ehlo: Duration = _for("5m", "for the reply to EHLO, HELO, STARTTLS or XCLIENT")
    auth: Duration = _for("5m", "for each reply of an AUTH exchange")
    mail: Duration = _for("5m", "for the reply to MAIL, XFORWARD, RSET, NOOP, VRFY")
    rcpt: Duration = _for("5m", "for the reply to RCPT")
    data: Duration = _for("2m", "for the reply to DATA")
    data_block: Duration = _for("3m", "for upstream to take a block of mail data")
    end_of_data: Duration = _for("10m", "for the reply to the final dot")
    quit: Duration = _for("5s", "for the reply to QUIT")

    @cached_property
    def by_verb(self) -> dict[str, float]:
        """How long the reply to a command may take; `mail` for those that are not here."""
        return {
            **dict.fromkeys(("EHLO", "HELO"), self.ehlo),
            **dict.fromkeys(("AUTH", "RESPONSE", "CANCEL"), self.auth),
            "RCPT": self.rcpt,
            "DATA": self.data,
            "QUIT": self.quit,
        }


class Limits(Settings):
    """Every limit there is (PROTOCOL §1.13)."""

    sessions: Count = Field(
        default=10000, description="client sessions at once, as far as there are file descriptors; more hear 421"
    )
    sessions_per_client: Count = Field(default=100, description="the same, of one address")
    message_bytes: Size = _octets("100MiB", "a message as RFC 1870 counts it; over: 552")
    recipients: Count = Field(default=1000, description="accepted recipients of a transaction; over: 452")
    messages_per_session: Count = Field(default=1000, description="transactions of a session; over: 421")
    errors: Count = Field(
        default=20, description="commands of a session that we had to refuse for syntax or sequence; over: 421"
    )
    junk_commands: Count = Field(
        default=100, description="commands in a row that bring no message on (NOOP, RSET, ...); over: 421"
    )
    command_bytes: Count = Field(default=4096, description="a command line with its CRLF; over: 500")
    auth_bytes: Count = Field(default=12288, description="a line of an AUTH exchange with its CRLF; over: 500")
    proxy_header_bytes: Count = Field(
        default=536, description="a PROXY header of version 2; over: the connection is closed"
    )
    header_bytes: Size = _octets("256KiB", "the header section; over: 552")
    header_fields: Count = Field(default=1000, description="fields in the header section; over: 552")
    line_bytes: Size = _octets("1MiB", "a line of mail data; over: 552")
    chunks: Count = Field(default=10000, description="chunks of a message (BDAT); over: 552")
    minimum_rate: Rate = _a_second(
        "100B/s", "mail data over all of a message, beyond one `data_block` of patience; slower: 421"
    )
    received_fields: Count = Field(default=100, description="Received fields; over, the message loops: 554")
    reply_bytes: Size = _octets("64KiB", "a whole reply of upstream's; over: upstream is broken")
    reply_lines: Count = Field(default=512, description="lines of a reply of upstream's; over: upstream is broken")
    ehlo_keywords: Count = Field(default=100, description="extensions that upstream offers; over: upstream is broken")


class Timeouts(Settings):
    client: ClientTimeouts = ClientTimeouts()
    upstream: UpstreamTimeouts = UpstreamTimeouts()


class Listener(Settings):
    """A place where clients connect."""

    name: str = Field(
        default="default", pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="its name in records and in Received"
    )
    address: str = Field(default="127.0.0.1:2525", description="host:port, [v6]:port, unix:/path or fd:NAME")
    tls: Literal["off", "starttls", "implicit"] = Field(
        default="starttls", description="TLS with clients: not at all, when they ask for it, or before anything else"
    )
    upstream: str | None = Field(default=None, description="the upstream's name; default: the only one")
    clients: tuple[Network, ...] | None = Field(
        None, description="who may connect; required where the address is not loopback; default: everybody that can"
    )
    auth: Literal["pass", "any", "off"] | None = Field(
        default=None,
        description="AUTH: passed to upstream, or taken whatever comes, or not there; default: pass, but any in front of capture: and of an upstream with credentials",
    )
    auth_in_clear: StrictBool = Field(
        default=False, description="offer AUTH without TLS to clients that are not on loopback"
    )
    proxy_protocol: tuple[Network, ...] = Field(
        default=(),
        description="peers whose PROXY header (v1, v2) is required and believed; to all others it is unknown",
    )
    line_endings: Literal["refuse", "normalise"] = Field(
        default="refuse", description="bare CR or LF in mail data: refused with 554, or made CRLF"
    )


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


class Credentials(Settings):
    """Who we are to an upstream, and where the secret is: in one of password_file, password_env and token_command."""

    user: Annotated[str, AfterValidator(_user)] = Field(description="our name there")
    password_file: FilePath | None = Field(default=None, description="a file of one line")
    password_env: str | None = Field(
        default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$", description="a variable of the environment"
    )
    token_command: Annotated[
        tuple[str, ...] | None,
        BeforeValidator(_words),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
    ] = Field(default=None, description="a command that prints an access token (XOAUTH2); it is run without a shell")
    mechanism: Literal["SCRAM-SHA-256", "CRAM-MD5", "PLAIN", "LOGIN", "XOAUTH2"] | None = Field(
        default=None, description="this one and no other; default: the first of these that upstream offers"
    )


class Upstream(Settings):
    """A server that takes the mail, or several in order of preference."""

    url: tuple[str, ...] = Field(
        default=("capture:",),
        description="smtp://host[:port], smtp+starttls://, smtps://, lmtp://, lmtp+unix:/path or capture:; a list is tried in order",
    )
    verify: Verify = Field(
        default="full",
        description="what upstream's certificate must be: issued by the CA for this host (full), issued by it (ca), this one (pin:sha256:HEX), anything (none)",
    )
    ca: FilePath | None = Field(default=None, description="certificates of the CA, in PEM; default: the system's")
    certificate: FilePath | None = Field(
        default=None, description="ours, with its chain in PEM, where upstream asks for one"
    )
    key: FilePath | None = Field(default=None, description="the certificate's key, in PEM")
    ehlo: Literal["own", "client"] = Field(
        default="own", description="the name that we say: ours, or the client's when it comes"
    )
    identity: Literal["none", "xclient", "xforward", "proxy-v1", "proxy-v2"] = Field(
        default="none",
        description="how it is told who the client is: not at all, by XCLIENT, by XFORWARD with each transaction, or by a PROXY header; one that will not be told gets no mail",
    )
    credentials: Credentials | None = Field(default=None, description="log in there ourselves")

    @property
    def takes_auth(self) -> bool:
        """Whether AUTH of a client's could be passed to it."""
        return self.url[0] != "capture:" and self.credentials is None

    @property
    def usual_auth(self) -> Literal["pass", "any"]:
        """What `auth` is for a listener that does not say."""
        return "pass" if self.takes_auth else "any"


class Tls(Settings):
    """Certificates that clients see, and what holds for TLS on both legs."""

    certificate: FilePath | None = Field(
        default=None, description="ours, with its chain in PEM; default: minted, signed by the authority in state"
    )
    key: FilePath | None = Field(default=None, description="the certificate's key, in PEM")
    client_ca: FilePath | None = Field(
        default=None, description="clients must show a certificate of this CA; default: they are asked for none"
    )
    minimum: Literal["TLSv1.2", "TLSv1.3"] = Field(default="TLSv1.2", description="the oldest version of TLS")
    keylog: FilePath | None = Field(
        default=None,
        description="a file for the secrets of all sessions, so that Wireshark can read them; default: none",
    )
