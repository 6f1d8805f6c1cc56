"""Every setting there is, with its default and unit: one file (DESIGN §5).

Pydantic models, frozen. A default that is written as text is read like any other. What a setting can be does not belong here (values.py), nor
what must hold between several, nor files, flags and environment (cli/).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt

from relayproxy.record.privacy import Privacy
from relayproxy.record.state import default_state
from relayproxy.relay.values import (
    Age,
    AllowedAddress,
    Command,
    Count,
    Duration,
    FilePath,
    Hostname,
    ListenAddress,
    LogFile,
    Name,
    Network,
    Rate,
    Recipient,
    Redacted,
    Room,
    RuleFile,
    Size,
    StorePlace,
    Urls,
    User,
    Verify,
    machine,
    octets,
    rate,
    seconds,
)

Auth = Literal["pass", "any", "off"]


class Settings(BaseModel):
    """What all parts have: unknown keys are errors, nothing changes after start."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _for(default: str, description: str) -> Any:
    """A duration's field; the schema shows its default as one writes it."""
    return Field(default=seconds(default), description=description, json_schema_extra={"default": default})


def _octets(default: str, description: str) -> Any:
    """A size's field, likewise."""
    return Field(default=octets(default), description=description, json_schema_extra={"default": default})


def _a_second(default: str, description: str) -> Any:
    """A rate's field, likewise."""
    return Field(default=rate(default), description=description, json_schema_extra={"default": default})


class ClientTimeouts(Settings):
    """How long we wait for the client; each over a whole unit."""

    command: Duration = _for("5m", "for the whole next command line (RFC 5321 §4.5.3.2.7)")
    auth: Duration = _for("5m", "for the whole next line of an AUTH exchange")
    handshake: Duration = _for("30s", "for the whole TLS handshake")
    data_block: Duration = _for("3m", "for the next octets of mail data")
    write: Duration = _for("1m", "for the client to take our replies")
    proxy_header: Duration = _for("5s", "for the whole PROXY header, from the peers that must send one")


class UpstreamTimeouts(Settings):
    """How long we wait for upstream: by default never less than RFC 5321 §4.5.3.2, so that we do not give up first."""

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
    held: Duration = _for(
        "5m", "from the client's final dot to ours, where rules or the store hold a message back; then 451"
    )
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
    rule_time: Duration = _for(
        "5s", "what Python rules may take at one stage of a session; over, they are given up: 451"
    )
    rule_threads: Count = Field(
        default=16, description="Python rules at once; one that was given up takes its thread until it ends"
    )
    spool_memory: Size = _octets(
        "1MiB",
        "of a message's body, in memory on its way into the store, and once more for each that rules make of it; the rest waits on disk",
    )
    reply_bytes: Size = _octets("64KiB", "a whole reply of upstream's; over: upstream is broken")
    reply_lines: Count = Field(default=512, description="lines of a reply of upstream's; over: upstream is broken")
    ehlo_keywords: Count = Field(default=100, description="extensions that upstream offers; over: upstream is broken")


class Timeouts(Settings):
    client: ClientTimeouts = ClientTimeouts()
    upstream: UpstreamTimeouts = UpstreamTimeouts()


class Listener(Settings):
    """A place where clients connect."""

    name: Name = Field(default="default", description="its name in records and in Received")
    address: ListenAddress = Field(
        default="127.0.0.1:2525", validate_default=True, description="host:port, [v6]:port, unix:/path or fd:NAME"
    )
    tls: Literal["off", "starttls", "implicit"] = Field(
        default="starttls", description="TLS with clients: not at all, when they ask for it, or before anything else"
    )
    upstream: str | None = Field(default=None, description="the upstream's name; default: the only one")
    clients: tuple[Network, ...] | None = Field(
        default=None,
        description="who may connect; required where the address is not loopback; default: everybody that can",
    )
    auth: Auth | None = Field(
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


class Credentials(Settings):
    """Who we are to an upstream, and where the secret is: in one of password_file, password_env and token_command."""

    user: User = Field(description="our name there")
    password_file: FilePath | None = Field(default=None, description="a file of one line")
    password_env: str | None = Field(
        default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$", description="a variable of the environment"
    )
    token_command: Command = Field(
        default=None, description="a command that prints an access token (XOAUTH2); it is run without a shell"
    )
    mechanism: Literal["SCRAM-SHA-256", "CRAM-MD5", "PLAIN", "LOGIN", "XOAUTH2"] | None = Field(
        default=None, description="this one and no other; default: the first of these that upstream offers"
    )


class Upstream(Settings):
    """A server that takes the mail, or several in order of preference."""

    url: Urls = Field(
        default=("capture:",),
        validate_default=True,
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
    def captures(self) -> bool:
        """Whether it is no server, but the store."""
        return self.url[0].kind == "capture"

    @property
    def has_tls(self) -> bool:
        """Whether one of its urls asks for TLS."""
        return any(url.tls != "off" for url in self.url)


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


class Rules(Settings):
    """What is done to mail on its way."""

    files: tuple[RuleFile, ...] = Field(
        default=(),
        description="files of rules, TOML or Python (.py), run one behind the other; relayproxy:NAME is one that comes with it",
    )
    redirect_all: Recipient | None = Field(
        default=None,
        description="behind all rules, every recipient that the guard does not allow becomes this one, in the header section too; without [guard], that guard allows this one alone",
    )
    seed: StrictInt | None = Field(
        default=None, description="of what is drawn by chance; default: another one at each start"
    )


class Guard(Settings):
    """The last gate before a recipient's address leaves, behind all rules."""

    allow: tuple[AllowedAddress, ...] = Field(
        default=(), description="addresses, and patterns of them, that mail may go to; none: to nobody"
    )
    otherwise: Literal["refuse", "capture"] = Field(
        default="refuse", description="what becomes of others: refused with 550, or kept in the store"
    )


class Keep(Settings):
    """How long the store keeps what it has: the oldest goes first, but never a message that is held."""

    age: Age = Field(default="14d", validate_default=True, description='since its MAIL; "none": for ever')
    bytes: Room = Field(
        default="10GiB", validate_default=True, description='of bodies and database; "none": without bound'
    )


class Record(Settings):
    """What is recorded, and where."""

    store: StorePlace = Field(
        default="sqlite:relayproxy.db",
        validate_default=True,
        description='sqlite:PATH, postgresql://..., or "none": nothing is recorded, and there can be no capture:',
    )
    commit: Literal["before-dot", "behind"] = Field(
        default="before-dot",
        description="when a message must be in the store: before its final dot leaves, or some time later",
    )
    sync: Literal["normal", "full"] = Field(
        default="normal", description="what the store survives: kill -9 of the relay (normal), or power loss too (full)"
    )
    on_failure: Literal["refuse", "continue"] = Field(
        default="refuse", description="what cannot be recorded is refused for now (452, 451), or passes unrecorded"
    )
    messages: Literal["full", "headers", "digest", "none"] = Field(
        default="full", description="what is kept of messages; what capture: takes is kept whole all the same"
    )
    redact: tuple[Redacted, ...] = Field(
        default=(),
        description='more to leave out than secrets: "subject", "header.NAME", "body", "addresses"; of log, store and exports',
    )
    keep: Keep = Keep()

    @property
    def privacy(self) -> Privacy:
        """What `redact` says."""
        return Privacy.parse(self.redact)


class Log(Settings):
    """Where the records go."""

    file: LogFile = Field(
        default=None, json_schema_extra={"default": "-"}, description='a file, or "-" for standard output'
    )
    format: Literal["json", "text"] | None = Field(default=None, description="default: json, but text on a terminal")
    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="the least that is written")


class Config(Settings):
    """relayproxy's configuration. Durations and sizes are strings with a unit; paths are relative to the file."""

    hostname: Hostname = Field(
        default_factory=machine, description="our name in banner, Received and EHLO; default: the machine's"
    )
    state: FilePath = Field(
        default_factory=default_state,
        validate_default=True,
        json_schema_extra={"default": "~/.local/state/relayproxy"},
        description="where the authority for minted certificates and this installation's name are kept; default: $XDG_STATE_HOME/relayproxy where that is set",
    )
    trace: StrictBool = Field(default=True, description="add the Received field")
    drain: Duration = _for("30s", "how long transactions may go on after SIGTERM")
    listener: tuple[Listener, ...] = Field(
        default=[{}], validate_default=True, json_schema_extra={"minItems": 1}, description="where clients connect"
    )
    upstream: dict[Name, Upstream] = Field(
        default={"capture": {}},
        validate_default=True,
        json_schema_extra={"minProperties": 1},
        description="where the mail goes, by name",
    )
    tls: Tls = Tls()
    rules: Rules = Rules()
    guard: Guard | None = Field(default=None, description="default: there is none, and mail may go to anybody")
    record: Record = Record()
    log: Log = Log()
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()

    def upstream_of(self, listener: Listener) -> str:
        """The name of the upstream that takes this listener's mail: where it names none there is but one."""
        return listener.upstream if listener.upstream is not None else next(iter(self.upstream))

    def auth_of(self, listener: Listener) -> Auth:
        """What AUTH is at this listener; where it does not say, what its upstream is good for."""
        upstream = self.upstream[self.upstream_of(listener)]
        asks_nobody = upstream.captures or upstream.credentials is not None
        return listener.auth or ("any" if asks_nobody else "pass")
