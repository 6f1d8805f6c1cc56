"""The configuration: a TOML file, replaced by the environment, replaced by flags (DESIGN §4, §5).

Invariants: all errors are found in one go, each with where it stands, the key, what was expected, and, for a name that is not known, the
nearest that is; nothing that is not built is silently accepted, nor is a variable RELAYPROXY_... that is no flag. What each setting means
and its default stand in relay/settings.py. Showing a configuration does not belong here (check.py), nor acting on it (run.py).
"""

from __future__ import annotations

import os
import re
import socket
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar

import msgspec
from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, ValidationError, WithJsonSchema

from relayproxy.cli import config_auth, config_identity, config_tls
from relayproxy.cli.config_errors import dotted, expected, nearest, not_toml
from relayproxy.cli.locate import Place, line_of, locate
from relayproxy.net.address import parse_address
from relayproxy.net.dial import UpstreamUrl
from relayproxy.relay.settings import (
    HOMELESS,
    Duration,
    FilePath,
    Limits,
    Listener,
    Settings,
    Timeouts,
    Tls,
    Upstream,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pydantic_core import ErrorDetails

DEFAULT_FILE: Final = Path("relayproxy.toml")
PREFIX: Final = "RELAYPROXY_"

#: RFC 5321 §4.1.2 Domain, or address-literal: it stands in our banner, our EHLO and our Received fields.
_HOSTNAME: Final = re.compile(
    r"(?=.{1,255}\Z)(?:[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?)*"
    r"|\[(?:[0-9.]+|IPv6:[0-9A-Fa-f:.]+)\])",
    re.ASCII,
)
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")

#: Variables that begin like ours and are none: the tests' own switches, and what Kubernetes gives to each container
#: beside a service called relayproxy.
_NOT_FLAGS: Final = re.compile(r"REQUIRE_PEERS|INTEROP_.*|SERVICE_.*|PORT(?:_.*)?")


class ConfigError(Exception):
    """What is wrong with a configuration, a line each."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)


class Flags(msgspec.Struct, frozen=True, kw_only=True):
    """What was given on the command line; None where it was not."""

    listen: tuple[str, ...] | None = None
    upstream: str | None = None
    clients: tuple[str, ...] | None = None
    log: str | None = None
    log_format: str | None = None


#: Those that are lists: in the environment their members are separated by commas.
_LISTS: Final = frozenset({"listen", "clients"})
_VARIABLES: Final = {PREFIX + name.upper(): name for name in ("config", *Flags.__struct_fields__)}


def _hostname(value: str) -> str:
    if _HOSTNAME.fullmatch(value) is None:
        raise ValueError('a host name in ASCII such as "relay.example.test", or an address such as "[192.0.2.1]"')
    return value


def machine() -> str:
    """The machine's name, where it is one that SMTP can say. The resolver is not asked: that may take a minute."""
    name = socket.gethostname()
    return name if _HOSTNAME.fullmatch(name) else "localhost"


def _address(value: str) -> str:
    parse_address(value)
    return value


def _dash(value: object) -> object:
    return None if value == "-" else value


def _urls(value: object) -> object:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list | tuple):
        raise ValueError("a url, or a list of them")  # noqa: TRY004 - pydantic wants ValueError
    return value


def _url(value: str) -> str:
    UpstreamUrl.parse(value)
    return value


def _alone(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise ValueError("at least one")
    if len(value) > 1 and any(UpstreamUrl.parse(url).kind == "capture" for url in value):
        raise ValueError("capture: alone: it never fails over, and a message that it kept has not gone on")
    return tuple("capture:" if url.lower() == "capture:" else url for url in value)


_URL_SCHEMA = {
    "type": "string",
    "examples": ["smtp+starttls://smtp.example.com", "smtp://[2001:db8::1]:2525", "capture:"],
}


class ListenerTable(Listener):
    """A place where clients connect."""

    address: Annotated[str, AfterValidator(_address)] = Field(
        default="127.0.0.1:2525", description="host:port, [v6]:port, unix:/path or fd:NAME"
    )


class UpstreamTable(Upstream):
    """A server that takes the mail, or several in order of preference."""

    url: Annotated[
        tuple[Annotated[str, AfterValidator(_url)], ...],
        BeforeValidator(_urls),
        AfterValidator(_alone),
        WithJsonSchema({"anyOf": [_URL_SCHEMA, {"type": "array", "items": _URL_SCHEMA, "minItems": 1}]}),
    ] = Field(
        default=("capture:",),
        description="smtp://host[:port], smtp+starttls://, smtps://, lmtp://, lmtp+unix:/path or capture:; a list is tried in order",
    )


class Log(Settings):
    """Where the records go."""

    file: Annotated[FilePath | None, BeforeValidator(_dash), WithJsonSchema({"type": "string", "minLength": 1})] = (
        Field(default=None, json_schema_extra={"default": "-"}, description='a file, or "-" for standard output')
    )
    format: Literal["json", "text"] | None = Field(default=None, description="default: json, but text on a terminal")
    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="the least that is written")


class Config(Settings):
    """relayproxy's configuration. Durations and sizes are strings with a unit; paths are relative to the file."""

    hostname: Annotated[str, AfterValidator(_hostname)] = Field(
        default_factory=machine, description="our name in banner, Received and EHLO; default: the machine's"
    )
    state: FilePath = Field(
        default=Path("~/.local/state/relayproxy"),
        description="where captures, the authority for minted certificates, and this installation's name are kept",
    )
    trace: StrictBool = Field(default=True, description="add the Received field")
    drain: Duration = Field(
        default=30.0, json_schema_extra={"default": "30s"}, description="how long transactions may go on after SIGTERM"
    )
    listener: tuple[ListenerTable, ...] = Field(
        default=(ListenerTable(clients=None),), json_schema_extra={"minItems": 1}, description="where clients connect"
    )
    upstream: dict[Annotated[str, Field(pattern=rf"^{_NAME.pattern}$")], UpstreamTable] = Field(
        default={"capture": UpstreamTable()},
        json_schema_extra={"minProperties": 1},
        description="where the mail goes, by name",
    )
    tls: Tls = Tls()
    log: Log = Log()
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()


Table = TypeVar("Table", bound=Settings)
#: Its line, for the order, and its text.
Complaint = tuple[int, str]


class _Sources:
    """The merged settings as they were written, and who wrote what."""

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self.base = Path.cwd()
        self._file: Path | None = None
        self._lines: dict[Place, int] = {}
        self._labels: dict[Place, str] = {}

    def read(self, path: Path) -> None:
        """Take a file; ConfigError where it is no TOML at all."""
        try:
            text = path.read_bytes().decode()
            self.settings = tomllib.loads(text)
        except OSError as error:
            raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise ConfigError(
                [f"{path}:{line}: expected UTF-8, found the byte 0x{error.object[error.start]:02x}"]
            ) from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError([not_toml(path, str(error))]) from error
        self._file = path
        self._lines = locate(text)
        self.base = path.absolute().parent

    def replace(self, label: str, name: str, value: str | Sequence[str]) -> None:
        """What a flag or its variable does to the settings."""
        match name:
            case "listen":
                self.settings["listener"] = [
                    {"name": "default" if number == 1 else f"default-{number}", "address": address}
                    for number, address in enumerate(value, 1)
                ]
                self._label(("listener",), label)
            case "upstream":
                self.settings["upstream"] = {"capture" if value == "capture:" else "default": {"url": value}}
                self._label(("upstream",), label)
                for listener in self._listeners():
                    listener.pop("upstream", None)  # it named one of those that are no more
            case "clients":
                listeners = self._listeners() or self.settings.setdefault("listener", [{}])
                for index, listener in enumerate(listeners):
                    listener["clients"] = list(value)
                    self._label(("listener", index, "clients"), label)
            case _:  # log, log_format
                log = self.settings.setdefault("log", {})
                key = name.partition("_")[2] or "file"
                if isinstance(log, dict):
                    log[key] = value
                    self._label(("log", key), label)

    def _listeners(self) -> list[dict[str, Any]]:
        listeners = self.settings.get("listener", [])
        return [one for one in listeners if isinstance(one, dict)] if isinstance(listeners, list) else []

    def _label(self, place: Place, label: str) -> None:
        self._labels = {old: who for old, who in self._labels.items() if old[: len(place)] != place}
        self._labels[place] = label

    def label(self, place: Place) -> str | None:
        """The flag or variable that set what stands there."""
        for length in range(len(place), 0, -1):
            if (label := self._labels.get(place[:length])) is not None:
                return label
        return None

    def complaint(self, place: Place, wrong: str) -> Complaint:
        """What is wrong there, behind what names the place: a flag, a variable, or a line of the file and a key."""
        if (label := self.label(place)) is not None:
            return 0, f"{label}: {wrong}"
        line = line_of(self._lines, place)
        return line, f"{self._file}:{line}: {dotted(place)}: {wrong}" if self._file else f"{dotted(place)}: {wrong}"

    def mismatch(self, details: ErrorDetails) -> Complaint:
        """What pydantic found."""
        place = details["loc"]
        return self.complaint(place[:-1] if place[-1:] == ("[key]",) else place, expected(Config, details))

    def rebase(self, place: Place) -> Path:
        """What a relative path there is relative to."""
        return self.base if self.label(place) is None else Path.cwd()


def load(path: Path | None = None, flags: Flags | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration that `path`, the environment and the flags make together; ConfigError with all that is wrong.

    Without a path it is RELAYPROXY_CONFIG's file, or ./relayproxy.toml where there is one, or nothing but defaults.
    """
    flags = flags or Flags()
    sources = _Sources()
    errors: list[Complaint] = []
    path = path or _default_file(environ)
    if path is not None:
        sources.read(path)
    for name in Flags.__struct_fields__:
        variable = PREFIX + name.upper()
        if (given := getattr(flags, name)) is not None:
            sources.replace("--" + name.replace("_", "-"), name, given)
        elif (value := environ.get(variable)) is not None:
            sources.replace(variable, name, _members(value) if name in _LISTS else value)
    errors += _unknown_variables(environ, config_auth.variables(sources.settings))
    config: Config | None = None
    try:
        config = Config.model_validate(sources.settings)
    except ValidationError as error:
        errors += [sources.mismatch(details) for details in error.errors(include_url=False)]
    errors += _cross_check(sources)
    for module in (config_auth, config_identity, config_tls):
        errors += [sources.complaint(*wrong) for wrong in module.mismatches(sources.settings)]
    if config is None or errors:
        raise ConfigError([text for _, text in sorted(dict.fromkeys(errors), key=lambda error: error[0])])
    config = _absolute(config, sources)
    if bad := [sources.complaint(*wrong) for wrong in config_tls.bad_files(config.tls, config.upstream)]:
        raise ConfigError([text for _, text in sorted(bad)])
    return config


def _default_file(environ: Mapping[str, str]) -> Path | None:
    if (given := environ.get(PREFIX + "CONFIG")) is not None:
        return Path(given)
    return DEFAULT_FILE if DEFAULT_FILE.exists() else None


def _members(value: str) -> list[str]:
    return [member.strip() for member in value.split(",") if member.strip()]


def _absolute(config: Config, sources: _Sources) -> Config:
    try:
        state = sources.rebase(("state",)) / config.state.expanduser()
    except RuntimeError as error:  # the default's
        raise ConfigError([f"state: expected {HOMELESS}"]) from error

    def rebased(table: Table, *place: str) -> Table:
        changed: dict[str, Any] = {}
        for key, value in table:
            if isinstance(value, Path):
                changed[key] = sources.rebase((*place, key)) / value
            elif isinstance(value, Settings):
                changed[key] = rebased(value, *place, key)
        return table.model_copy(update=changed) if changed else table

    upstreams = {name: rebased(upstream, "upstream", name) for name, upstream in config.upstream.items()}
    tls, log = rebased(config.tls, "tls"), rebased(config.log, "log")
    return config.model_copy(update={"state": state, "upstream": upstreams, "tls": tls, "log": log})


# What does not fit together.


def _unknown_variables(environ: Mapping[str, str], passwords: set[str]) -> Iterator[Complaint]:
    for variable in environ.keys() - passwords:
        name = variable.removeprefix(PREFIX)
        if name != variable and variable not in _VARIABLES and _NOT_FLAGS.fullmatch(name) is None:
            yield 0, f"{variable}: unknown variable; {nearest(variable, _VARIABLES)}"


def _cross_check(sources: _Sources) -> Iterator[Complaint]:
    """What must hold between settings, as far as they are what they should be: the rest has been told already."""
    listeners = sources.settings.get("listener", [{}])
    upstreams = sources.settings.get("upstream", {"capture": {}})
    if upstreams == {}:
        yield sources.complaint(("upstream",), "expected at least one")
    if listeners == []:
        yield sources.complaint(("listener",), "expected at least one")
    names: set[str] = set()
    for index, listener in enumerate(listeners if isinstance(listeners, list) else []):
        if not isinstance(listener, dict):
            continue
        name = listener.get("name", "default")
        if isinstance(name, str) and name in names:
            yield sources.complaint(("listener", index, "name"), f"expected a name of its own, got {name!r} again")
        names.add(str(name))
        if isinstance(upstreams, dict) and upstreams:
            yield from _upstream_named(sources, index, listener, upstreams)
        yield from _clients_named(sources, index, listener)


def _upstream_named(
    sources: _Sources, index: int, listener: Mapping[str, Any], upstreams: Mapping[str, Any]
) -> Iterator[Complaint]:
    name = listener.get("upstream")
    place = ("listener", index, "upstream")
    if isinstance(name, str) and name not in upstreams:
        yield sources.complaint(place, f"expected the name of an upstream, got {name!r}; {nearest(name, upstreams)}")
    elif name is None and len(upstreams) > 1:
        known = ", ".join(sorted(upstreams))
        yield sources.complaint(
            place, f"expected the name of an upstream, as there is more than one; known are {known}"
        )


def _clients_named(sources: _Sources, index: int, listener: Mapping[str, Any]) -> Iterator[Complaint]:
    """An open relay is never an oversight."""
    address = listener.get("address", "127.0.0.1:2525")
    try:
        is_open = "clients" not in listener and not parse_address(address).is_loopback
    except (TypeError, ValueError, AttributeError):
        return  # that it is no address has been told
    if is_open:
        wrong = f"expected clients beside it (who may connect), as {address} is not loopback"
        yield sources.complaint(("listener", index, "address"), wrong)
    elif "clients" not in listener and listener.get("proxy_protocol"):
        wrong = "expected clients beside it (who may connect), as the addresses that it tells are not loopback"
        yield sources.complaint(("listener", index, "proxy_protocol"), wrong)
