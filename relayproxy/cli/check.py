"""`relayproxy check`: is this configuration right, or are these rules, and what is in effect with them?

What it prints of a configuration is one again, with every setting in it; reading that gives the same. Resolving names and trying
connections does not belong here: what is right must not depend on who is up.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, get_type_hints

from cyclopts import Parameter

from relayproxy.cli.config_tls import UPSTREAM_KEYS
from relayproxy.net.address import Address
from relayproxy.net.dial import UpstreamUrl
from relayproxy.record.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from relayproxy.cli.check_rules import Found
    from relayproxy.cli.config import Flags
    from relayproxy.relay.settings import Config

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_DURATIONS: Final = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
_SIZES: Final = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1))


def check(
    *files: str,
    rules: Annotated[list[str] | None, Parameter(negative="", metavar="PATH")] = None,
    redirect_all: Annotated[str | None, Parameter(metavar="ADDRESS")] = None,
    allow: Annotated[list[str] | None, Parameter(negative="", metavar="PATTERN")] = None,
    config: Annotated[Path | None, Parameter(name="--config")] = None,
) -> int:
    """Check a configuration or rules: print what is in effect, when rules run and what waits for them, and run their tests.

    Exit status 1: a test of the rules failed.

    Parameters
    ----------
    files
        a configuration, files of rules (TOML with [[rule]] or [[test]], or Python), or relayproxy:NAME; default: ./relayproxy.toml where there is one
    rules
        as of run: a file of rules; again for another
    redirect_all
        as of run: an address that all mail is sent to, but for that to whom --allow allows
    allow
        as of run: whom mail may go to; again for another
    config
        the configuration, likewise

    """
    from relayproxy.cli import Failed, one_config
    from relayproxy.cli.config import Flags

    flags = Flags(
        rules=tuple(rules) if rules else None, redirect_all=redirect_all, allow=tuple(allow) if allow else None
    )
    of_rules = [file for file in files if _holds_rules(file)]
    named = [file for file in files if file not in of_rules]
    if len(named) > 1:
        raise Failed(f"expected one configuration, got {' and '.join(named)}")
    if of_rules and flags != Flags():
        told = " and ".join(f"--rules {file}" for file in of_rules)
        raise Failed(
            f"expected {told} beside the other flags, since these make a configuration, and files of rules that are named alone are checked alone"
        )
    path = one_config(Path(named[0]) if named else None, config)
    hold = True
    if path is not None or not of_rules:
        hold = _check_config(path, flags)
    return 0 if (_check_rules(of_rules) if of_rules else True) and hold else 1


def _holds_rules(file: str) -> bool:
    """Whether it is no configuration. What cannot be read is told by who reads it."""
    from relayproxy.rules.load import FILE_KEYS, SHIPPED
    from relayproxy.rules.python_file import is_python

    if file.startswith(SHIPPED) or is_python(file):
        return True
    try:
        return not set(FILE_KEYS).isdisjoint(tomllib.loads(Path(file).read_bytes().decode()))
    except (OSError, ValueError, RecursionError):
        return False


def _check_config(path: Path | None, flags: Flags) -> bool:
    from relayproxy.cli.check_rules import of_guard, of_rules
    from relayproxy.cli.config import load_with_rules
    from relayproxy.cli.config_rules import guarded
    from relayproxy.cli.places import unwritable
    from relayproxy.record.store.location import PostgresqlUrl
    from relayproxy.record.store.postgresql.pruning import many_days
    from relayproxy.relay.credentials import without_secret

    config, loaded = load_with_rules(path, flags)
    found = of_rules(loaded.rules, config.rules.files)
    sys.stdout.write(written(config))
    whom = guarded(config)
    if told := [*([] if whom is None else [whom]), *found.said]:
        # Comments, so that all of it is a configuration again.
        sys.stdout.write("\n" + "".join(f"# {printable(line)}\n" for line in told))
    doubtful = [*without_secret(config), *([] if config.guard is None else of_guard(config.guard.allow))]
    if isinstance(config.record.store, PostgresqlUrl) and (many := many_days(config.record.keep.age)) is not None:
        doubtful.append(many)
    doubtful += [f"{what}; run does not start before that is mended" for what in unwritable(config)]
    return _weighed(found, doubtful)


def _check_rules(files: Sequence[str]) -> bool:
    from relayproxy.cli import Failed
    from relayproxy.cli.check_rules import of_rules
    from relayproxy.rules.load import SHIPPED, RuleError, load, path_of

    try:
        found = of_rules(load(files).rules, files)
    except RuleError as error:
        raise Failed(str(error), who="") from error
    # Who wants a domain of his own in them copies them.
    shipped = [f"{file} is {path_of(file)}" for file in files if file.startswith(SHIPPED)]
    sys.stdout.writelines(f"{printable(line)}\n" for line in (*shipped, *found.said))
    return _weighed(found)


def _weighed(found: Found, doubtful: Sequence[str] = ()) -> bool:
    """Whether all tests hold; what does not, and what is doubtful, goes to standard error."""
    from relayproxy.cli import say

    for line in (*doubtful, *found.doubtful):
        say(f"relayproxy: warning: {line}")
    for line in found.differences:
        say(line)
    return not found.differences


def written(config: Config) -> str:
    """The configuration as TOML; what has no value and no default is left out, but for a hint."""
    lines = list(_scalars(config))
    for listener in config.listener:
        chosen = {"upstream": config.upstream_of(listener), "auth": config.auth_of(listener)}
        lines += ["", "[[listener]]", *_scalars(listener.model_copy(update=chosen))]
    for name, upstream in config.upstream.items():
        # What means nothing without TLS is refused where there is none.
        left_out = () if upstream.has_tls else UPSTREAM_KEYS
        lines += ["", f"[upstream.{_key(name)}]", *_scalars(upstream, left_out)]
    for name, table in (
        ("tls", config.tls),
        ("rules", config.rules),
        ("guard", config.guard),
        ("record", config.record),
        ("record.keep", config.record.keep),
        ("log", config.log),
        ("timeouts.client", config.timeouts.client),
        ("timeouts.upstream", config.timeouts.upstream),
        ("limits", config.limits),
    ):
        lines += ["", *([f"# [{name}]: {_ABSENT[name, '']}"] if table is None else [f"[{name}]", *_scalars(table)])]
    return "\n".join(lines) + "\n"


#: What None means, of the settings and tables that may be left out.
_ABSENT: Final = {
    ("guard", ""): "none: mail may go to anybody",
    ("Rules", "redirect_all"): "none: rules alone say where mail goes",
    ("Rules", "seed"): "another one at each start",
    ("Listener", "clients"): "everybody that can connect",
    ("Log", "format"): "json; text on a terminal",
    ("Upstream", "credentials"): "none: clients log in themselves, if at all",
    ("Tls", "certificate"): "minted, signed by the authority in state",
    ("Tls", "key"): "made when relayproxy starts",
    ("Tls", "client_ca"): "clients are asked for no certificate",
    ("Tls", "keylog"): "none",
    ("Upstream", "ca"): "the system's",
    ("Upstream", "certificate"): "none",
    ("Upstream", "key"): "none",
}


def _scalars(table: Any, left_out: Sequence[str] = ()) -> Iterator[str]:
    """The settings that stand in a table itself."""
    from pydantic import BaseModel

    from relayproxy.relay.settings import Credentials

    hints = get_type_hints(type(table), include_extras=True)
    for name, value in table:
        if isinstance(value, Credentials):
            given = [f"{key} = {_value(one)}" for key, one in value if one is not None]
            yield f"{name} = {{ {', '.join(given)} }}"  # where the secret is, never what it is
            continue
        if isinstance(value, BaseModel | dict) or name in ("listener", "guard") or name in left_out:
            continue
        yield _line(type(table).__name__, name, value, hints[name])


def _line(table: str, name: str, value: Any, hint: Any) -> str:  # noqa: PLR0911  one a kind of setting
    from relayproxy.relay.values import Age, Duration, Rate, Room, Size

    if name == "file":
        return f"file = {_text(str(value or '-'))}"
    if name == "store":
        return f"store = {_text(_store(value))}"
    if value is None:
        return f'{name} = "none"' if hint in (Age, Room) else f"# {name}: {_ABSENT[table, name]}"
    if hint in (Duration, Age):
        return f'{name} = "{_duration(value)}"'
    if hint in (Size, Room):
        return f'{name} = "{_size(value)}"'
    if hint == Rate:
        return f'{name} = "{_size(value)}/s"'
    return f"{name} = {_value(value)}"


def _store(place: object) -> str:
    match place:
        case None:
            return "none"
        case Path():
            return f"sqlite:{place}"
        case _:
            return str(place)  # a database, without its password


def _value(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case tuple():
            return f"[{', '.join(_value(one) for one in value)}]"
        case UpstreamUrl():
            return _text(value.short)
        case str() | Path() | Address() | IPv4Network() | IPv6Network():
            return _text(str(value))
    raise AssertionError(f"a setting of type {type(value).__name__}")


def _text(value: str) -> str:
    """A basic string: JSON's escapes are TOML's too, but that TOML wants DEL escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _text(name)


def _duration(seconds: float) -> str:
    for unit, factor in _DURATIONS:
        if seconds >= factor and seconds % factor == 0:
            return f"{int(seconds // factor)}{unit}"
    return f"{seconds:.6f}".rstrip("0").rstrip(".") + "s"


def _size(octets: int) -> str:
    unit, factor = next((unit, factor) for unit, factor in _SIZES if octets % factor == 0 and (octets or factor == 1))
    return f"{octets // factor}{unit}"
