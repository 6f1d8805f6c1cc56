"""The configuration: a TOML file, replaced by the environment, replaced by flags (DESIGN §4, §5).

Invariants: all errors are found in one go, each with where it stands, the key, what was expected, and, for a name that is not known, the
nearest that is; nothing that is not built is silently accepted, nor is a variable RELAYPROXY_... that is no flag. What each setting means
and its default stand in relay/settings.py, what must hold between several in config_listeners.py, config_auth.py, config_identity.py,
config_tls.py, config_record.py and config_rules.py. Showing a configuration does not belong here (check.py), nor acting on it (run.py).
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import msgspec
from pydantic import ValidationError

from relayproxy.cli import (
    Failed,
    config_auth,
    config_identity,
    config_listeners,
    config_record,
    config_rules,
    config_tls,
)
from relayproxy.cli.config_errors import expected
from relayproxy.cli.config_written import listeners
from relayproxy.relay.settings import Config, Settings
from relayproxy.rules.load import RuleError
from relayproxy.rules.locate import Place, line_of, locate
from relayproxy.rules.wording import dotted, nearest, not_toml, too_deep

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pydantic_core import ErrorDetails

    from relayproxy.rules.load import Loaded

DEFAULT_FILE: Final = Path("relayproxy.toml")
PREFIX: Final = "RELAYPROXY_"

#: Variables that begin like ours and are none, with their values: the tests' own switches, and what Kubernetes gives to each container
#: beside a service called relayproxy.
_NOT_FLAGS: Final = re.compile(
    r"REQUIRE_PEERS=.*|INTEROP_(?:ALL|DIRECT|PEERS|TABLE)=.*|SERVICE_HOST=.*|SERVICE_PORT(?:_[A-Z0-9_]+)?=[0-9]+"
    r"|PORT=(?:tcp|udp|sctp)://.*|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?=.*",
    re.DOTALL,
)


_NO_FILES: Final = ("--", PREFIX)


class ConfigError(Failed):
    """What is wrong with a configuration, a line each."""

    def __init__(self, lines: Sequence[str]) -> None:
        # What stands in a file begins with its name.
        super().__init__(
            "\n".join(f"relayproxy: {line}" if line.startswith(_NO_FILES) else line for line in lines), who=""
        )
        self.lines = tuple(lines)


class Flags(msgspec.Struct, frozen=True, kw_only=True):
    """What was given on the command line; None where it was not."""

    listen: tuple[str, ...] | None = None
    upstream: str | None = None
    clients: tuple[str, ...] | None = None
    log: str | None = None
    log_format: str | None = None
    store: str | None = None
    rules: tuple[str, ...] | None = None
    redirect_all: str | None = None
    allow: tuple[str, ...] | None = None  # behind redirect_all, whose guard it replaces


class Written(NamedTuple):
    """Settings that stand in no file, as one would have them; `base`: what their paths are relative to."""

    settings: dict[str, Any]
    base: Path


#: Those that are lists: in the environment their members are separated by commas.
_LISTS: Final = frozenset({"allow", "clients", "listen", "rules"})
_VARIABLES: Final = {PREFIX + name.upper(): name for name in ("config", *Flags.__struct_fields__)}
#: Where those are set that do nothing else.
_PLACES: Final = {
    "store": ("record", "store"),
    "log": ("log", "file"),
    "log_format": ("log", "format"),
    "rules": ("rules", "files"),
    "allow": ("guard", "allow"),
}

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
        except RecursionError as error:
            raise ConfigError([too_deep(path)]) from error
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
                for _, listener in listeners(self.settings):
                    listener.pop("upstream", None)  # it named one of those that are no more
            case "clients":
                self.settings.setdefault("listener", [{}])
                for place, listener in listeners(self.settings):
                    listener["clients"] = list(value)
                    self._label((*place, "clients"), label)
            case "redirect_all":
                self._set(("rules", "redirect_all"), value, label)
                self._set(("guard", "allow"), [value], label)
            case _:
                self._set(_PLACES[name], value if isinstance(value, str) else list(value), label)

    def _set(self, place: tuple[str, str], value: object, label: str) -> None:
        """A setting in a table of its own; what is no table has been told."""
        name, key = place
        table = self.settings.setdefault(name, {})
        if isinstance(table, dict):
            table[key] = value
            self._label(place, label)

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
    return load_with_rules(path, flags, environ)[0]


def load_with_rules(
    path: Path | None = None,
    flags: Flags | None = None,
    environ: Mapping[str, str] = os.environ,
    *,
    running: Config | None = None,
    written: Written | None = None,
) -> tuple[Config, Loaded]:
    """The same, and its rules: they are read once, since what is Python in them may do anything when it is.

    `written`: in the place of any file.
    `running`: the configuration of the relay that they are for, where it is another (config_rules.py `read`).
    """
    sources = _Sources()
    errors: list[Complaint] = []
    if written is not None:
        sources.settings, sources.base = written
    elif (path := path or default_file(environ)) is not None:
        sources.read(path)
    _replace(sources, flags or Flags(), environ)
    config_rules.guard_redirection(sources.settings)
    errors += _unknown_variables(environ, config_auth.variables(sources.settings))
    config: Config | None = None
    try:
        config = Config.model_validate(sources.settings)
    except ValidationError as error:
        errors += [sources.mismatch(details) for details in error.errors(include_url=False)]
    for module in (config_listeners, config_auth, config_identity, config_record, config_rules, config_tls):
        errors += [sources.complaint(*wrong) for wrong in module.mismatches(sources.settings)]
    if config is None or errors:
        raise ConfigError([text for _, text in sorted(dict.fromkeys(errors), key=lambda error: error[0])])
    config = _absolute(config, sources)
    # Whoever takes rules and guard alone, takes them whatever has become of a certificate.
    files = config_tls.bad_files(config) if running is None else ()
    bad = [text for _, text in sorted(sources.complaint(*wrong) for wrong in files)]
    rules: Loaded | None = None
    try:
        rules = config_rules.read(config, running)
    except RuleError as error:
        bad += error.lines
    if rules is None or bad:
        raise ConfigError(bad)
    return config, rules


def _replace(sources: _Sources, flags: Flags, environ: Mapping[str, str]) -> None:
    """What flags, and where there is none its variable, do to the settings."""
    for name in Flags.__struct_fields__:
        variable = PREFIX + name.upper()
        if (given := getattr(flags, name)) is not None:
            sources.replace("--" + name.replace("_", "-"), name, given)
        elif (value := environ.get(variable)) is not None:
            sources.replace(variable, name, _members(value) if name in _LISTS else value)


def default_file(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The configuration of who names none."""
    if (given := environ.get(PREFIX + "CONFIG")) is not None:
        return Path(given)
    return DEFAULT_FILE if DEFAULT_FILE.exists() else None


def _members(value: str) -> list[str]:
    return [member.strip() for member in value.split(",") if member.strip()]


def _absolute(config: Config, sources: _Sources) -> Config:
    def rebased(table: Table, *place: str) -> Table:
        changed: dict[str, Any] = {}
        for key, value in table:
            if isinstance(value, Path):
                changed[key] = sources.rebase((*place, key)) / value
            elif isinstance(value, tuple):
                base = sources.rebase((*place, key))
                changed[key] = tuple([base / one if isinstance(one, Path) else one for one in value])
            elif isinstance(value, Settings):
                changed[key] = rebased(value, *place, key)
        return table.model_copy(update=changed) if changed else table

    upstreams = {name: rebased(upstream, "upstream", name) for name, upstream in config.upstream.items()}
    return rebased(config).model_copy(update={"upstream": upstreams})


def _unknown_variables(environ: Mapping[str, str], passwords: set[str]) -> Iterator[Complaint]:
    for variable in environ.keys() - passwords:
        name = variable.removeprefix(PREFIX)
        if name == variable or variable in _VARIABLES:
            continue
        if _NOT_FLAGS.fullmatch(f"{name}={environ[variable]}") is None:
            yield 0, f"{variable}: unknown variable; {nearest(variable, _VARIABLES)}"
