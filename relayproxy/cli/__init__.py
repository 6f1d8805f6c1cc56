"""The command line: one module a verb, thin (DESIGN §4).

`main` reads the arguments and gives the exit status: 0 done; 1 what was checked or sent did not hold; 2 wrong usage, bad
configuration, cannot bind; 1 too where a store cannot be reached, or standard output not be written. Invariants: no traceback reaches a user; what is for people goes to standard error; a verb is imported when it
is called, so that help is quick. What a verb does does not belong here.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from cyclopts import App, CycloptsError

    from relayproxy.smtp.commands import Path as MailPath

USAGE: Final = 2
#: The exit status where a store cannot be reached: later it may be.
AWAY: Final = 1

#: Name and first line of help, which `--help` shows without importing the verb.
VERBS: Final = {
    "run": "Relay mail, until SIGTERM.",
    "list": "List recorded transactions.",
    "show": "Show recorded sessions.",
    "tail": "Show recorded transactions as they come, until Ctrl-C.",
    "export": "Export recordings.",
    "release": "Send held messages on.",
    "replay": "Send recorded sessions again, and compare every reply.",
    "mock": "Be the recorded server, until SIGTERM.",
    "backtest": "Try rules on recorded traffic.",
    "check": "Check a configuration or rules, and run the rules' tests.",
    "send": "Send one message.",
    "ca": "Show or export the authority that signs minted certificates.",
    "schema": "Print the JSON Schema of configuration, rules or records.",
}

#: Those whose exit status is a verdict, which they come to whether or not anybody reads what they write.
JUDGES: Final = frozenset({"backtest", "check", "mock", "replay"})

#: What a listener offers its clients, in words.
TLS: Final = {"off": "no TLS", "starttls": "STARTTLS", "implicit": "implicit TLS"}

#: Where that is not the verb's own name: a module called list would be a name of this package, and hide what Python calls so.
_MODULES: Final = {"list": "listing"}

#: Of a URL, wherever one was quoted, as a path even: up to the last @, since an @ in a password is easily left as it is; and what may be one as a parameter.
_PASSWORDS: Final = (
    (re.compile(r"(:/{1,2}[^\s/:]*+:)\S*@"), r"\1***@"),
    (re.compile(r"([?&][^\s=&]*(?:pass|secret|token)[^\s=&]*=)[^\s&'\"]*", re.IGNORECASE), r"\1***"),
)
_hangups: Final[list[int]] = []

_NUMBERS: Final = {int: "an integer", float: "a number"}


class Failed(Exception):  # noqa: N818  it is a fact, and reads as one
    """A verb cannot do what it was asked to: why, in words for people, and the exit status."""

    def __init__(self, what: str, status: int = USAGE, *, who: str = "relayproxy: ") -> None:
        super().__init__(who + what)
        self.status = status


def build() -> App:
    """The command line, as cyclopts has it."""
    from cyclopts import App

    from relayproxy import __version__

    app = App(
        name="relayproxy",
        help="An SMTP man-in-the-middle relay and traffic recorder.",
        version=f"relayproxy {__version__}",
        help_format="plaintext",
        print_error=False,
        exit_on_error=False,
    )
    for verb, help_ in VERBS.items():
        module = _MODULES.get(verb, verb)
        app.command(f"relayproxy.cli.{module}:{module}", name=verb, help=help_)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the verb that the arguments name; the exit status."""
    with _ended_by_interrupts() as hear:
        given = sys.argv[1:] if arguments is None else list(arguments)
        if given[:1] == ["run"]:
            _outlive_hangups()
        return _run(given, hear)


def _run(given: list[str], hear: Callable[[], object]) -> int:  # noqa: PLR0911  one a way to end
    from cyclopts import CycloptsError

    from relayproxy.cli.standard_output import ReaderGone, standard_output

    try:
        with standard_output(goes_on=not JUDGES.isdisjoint(given[:1])):
            status = _call(given, hear)
    except Failed as error:
        say(str(error))
        return error.status
    except CycloptsError as error:
        verb = f" {given[0]}" if given[0] in VERBS else ""
        say(f"relayproxy: {_usage(error)}\nrelayproxy{verb} --help shows what there is.")
        return USAGE
    except KeyboardInterrupt:
        return 130  # as a shell has it: 128 and SIGINT
    except ReaderGone:
        return 0
    except OSError as error:
        say(f"relayproxy: {_of_system(error)}")
        return 1
    except ImportError as error:
        say(
            f"relayproxy: the installation is not whole: {error.__cause__ or error}; install relayproxy again (in its checkout: make clean run)"
        )
        return 1
    except Exception as error:  # noqa: BLE001 - a fault of ours, and still nobody's traceback
        say(f"relayproxy: a fault in relayproxy, please report it: {_where(error)}")
        return 1
    return status if isinstance(status, int) else 0


def _call(given: list[str], hear: Callable[[], object]) -> object:
    """What the verb returns. `hear`: what it does may need an orderly end."""
    from inspect import iscoroutinefunction

    verb, bound, _ = build().parse_args(given)
    if not iscoroutinefunction(verb):
        hear()
        return verb(*bound.args, **bound.kwargs)
    import trio

    hear()
    return trio.run(partial(verb, *bound.args, **bound.kwargs))


@contextmanager
def _ended_by_interrupts() -> Iterator[Callable[[], object]]:
    """Until what this gives is called Ctrl-C ends us by the system's hand, as the entry point has it (__main__.py)."""
    before = signal.getsignal(signal.SIGINT)
    if before not in (signal.default_int_handler, signal.SIG_DFL):  # it is ignored, as in a background job
        yield lambda: None
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    finally:
        signal.signal(signal.SIGINT, before)


def _usage(error: CycloptsError) -> str:
    """What is wrong with the arguments: one that is not there is something else than one that has no value."""
    from cyclopts import CoercionError, MissingArgumentError, UnusedCliTokensError

    verb = " ".join(error.command_chain or ())
    match error:
        case MissingArgumentError(keyword=None, argument=argument) if argument and type(error) is MissingArgumentError:
            return f"{verb}: {argument.name} is required"
        case UnusedCliTokensError(unused_tokens=[*more]):
            return f"{verb}: expected no more arguments, got {' '.join(more)}"
        case CoercionError(token=token, target_type=wanted) if token and token.keyword and wanted in _NUMBERS:
            return f"{token.keyword}: expected {_NUMBERS[wanted]}, got {token.value!r}"
    return str(error)


def _outlive_hangups() -> None:
    """SIGHUP asks a relay to read its files anew: one that is about to begin must not die of it, and has read some of them already.

    Heard and not ignored, so that no child inherits that. From when it serves, `run` hears it itself.
    """
    _hangups.clear()
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGHUP, lambda number, _: _hangups.append(number))


def hung_up() -> bool:
    """Whether SIGHUP came while it began."""
    return bool(_hangups)


def without_passwords(text: str) -> str:
    """The same with `***` in the place of what may be a password of a URL, wherever one stands."""
    for password, hidden in _PASSWORDS:
        text = password.sub(hidden, text)
    return text


def say(text: str) -> None:
    """Tell the user, with nothing that a terminal would obey (attack 22): a file, a flag or a server may have put it there; and with no password of a URL."""
    from relayproxy.record.text import printable

    stream: TextIO | None = sys.stderr
    if stream is not None:  # there is none where it was closed for us
        with suppress(OSError):  # nobody hears it: no reason to end
            stream.write("".join(printable(line) + "\n" for line in without_passwords(text).splitlines()))


def one_config(file: Path | None, config: Path | None) -> Path | None:
    """The configuration that was named in one of two ways; None where it was in neither."""
    if file is not None and config is not None:
        raise Failed(f"expected one configuration, got {file} and --config {config}")
    return file or config


@contextmanager
def in_words() -> Iterator[None]:
    """What the system, or a file of certificates or keys, does not give is no fault of ours: Failed."""
    from relayproxy.record.store.interface import StoreAwayError, StoreError
    from relayproxy.tls.facts import TlsConfigError

    try:
        yield
    except StoreAwayError as error:
        raise Failed(str(error), AWAY) from error
    except (StoreError, TlsConfigError) as error:
        raise Failed(str(error)) from error
    except OSError as error:
        raise Failed(_of_system(error)) from error


def _of_system(error: OSError) -> str:
    """What the system does not give, and where."""
    where = error.filename
    if where is None and error.errno == errno.ENOENT:
        try:
            os.getcwd()  # noqa: PTH109 - that alone has no name to be told
        except FileNotFoundError:
            where = "the working folder"
    return f"{'' if where is None else f'{where}: '}{error.strerror or error}"


def file_or_dash(_type: object, value: str | None) -> None:
    """Validate a flag that may be "-": cyclopts would otherwise take the next flag for its value."""
    if value is not None and value.startswith("-") and value != "-":
        raise ValueError(f'expected a file or "-", got {value}; a file of that name is ./{value}')


def path_of(flag: str, address: str) -> MailPath:
    """The address that a flag gives; --to wants one that is not empty."""
    from relayproxy.smtp.commands import Path

    try:
        path = Path.parse(address.encode("utf-8", "surrogateescape"))
    except ValueError as error:
        raise Failed(f"{flag}: expected an address such as user@example.com, got {address!r}") from error
    if flag == "--to" and not path.local:
        raise Failed("--to: expected an address, got nothing")
    return path


def _where(error: BaseException) -> str:
    """Type and place of an exception, a nursery's group the first of its own; no message, for it may hold what a client sent (attack 21)."""
    trace = error.__traceback__
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
        trace = error.__traceback__ or trace
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" ({trace.tb_frame.f_globals.get('__name__')}:{trace.tb_lineno})" if trace else ""
    return f"{type(error).__qualname__}{place}"
