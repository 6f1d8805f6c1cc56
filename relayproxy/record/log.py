"""The log: what the relay tells, on its way to a file or to standard output (DESIGN §5, §7; PROTOCOL §4 column DF).

`Reporter` is what the relay speaks to: it gives each line its time, its level and its redaction, and hands it to structlog. `LogSink` is
what stands behind structlog: a queue and one thread that writes it in batches.

Invariants: who tells never waits: nothing here blocks the event loop, whatever the disk or the reader of a pipe does. A transaction
line is never torn or doubled while the process lives; diagnostics are dropped once `max_waiting` octets wait, and counted.
`healthy` is false from the moment that a write failed or a line has waited for `PATIENCE`, until all is written:
then, where there is no store, the next MAIL is refused, so that what waits in memory stays bounded by the mail in flight, and no transaction line
is ever dropped. Where there is one, mail goes on, and lines are dropped, and counted, once `max_kept` octets wait: the store has what they say.
What lines hold does not belong here (report.py), nor how they look (report.py, console.py).
"""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING, Final, Literal

import structlog
from msgspec import UNSET

from relayproxy.record.console import console_line
from relayproxy.record.privacy import Privacy
from relayproxy.record.redact import redact, redact_sasl
from relayproxy.record.report import ClientRecord, TransactionRecord, duration, encode, reply_of, timestamp
from relayproxy.record.report_lines import (
    AuthenticationRecord,
    ErrorRecord,
    FaultRecord,
    GuardRecord,
    LimitRecord,
    ListeningRecord,
    ReloadRecord,
    RuleErrorRecord,
    SessionRecord,
    TlsRecord,
    ViolationRecord,
)
from relayproxy.record.report_tls import ClientTlsRecord, UpstreamTlsRecord
from relayproxy.record.sink import MAX_WAITING, PATIENCE, FileTarget, LogSink, StreamTarget
from relayproxy.record.text import text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

    from relayproxy.record.report import AuthOutcome, Leg, Level
    from relayproxy.record.report_lines import Record
    from relayproxy.record.sink import Target
    from relayproxy.smtp.replies import Reply

Format = Literal["json", "text"]

_NO_MORE: Final = Privacy()
#: Characters of a client's line that are quoted.
_QUOTED: Final = 512
#: Exceptions of a group, and places of each, that are told.
_FAULTS: Final = 10
_PLACES: Final = 20


def open_log(
    path: Path | None,
    format_: Format | None = None,
    level: Level = "info",
    alarm: Callable[[str | None], None] = lambda _: None,
    privacy: Privacy = _NO_MORE,
    max_kept: float = math.inf,
) -> Reporter:
    """The log that the configuration asks for: a file, or standard output for None.

    Without a format it is text on a terminal and JSON elsewhere; colour is for a terminal alone, and not where NO_COLOR is set.
    `alarm` and `max_kept` are LogSink's. Raises OSError where the file cannot be opened.
    """
    target: Target = StreamTarget(1) if path is None else FileTarget(path)
    terminal = path is None and os.isatty(1)
    if format_ is None:
        format_ = "text" if terminal else "json"
    colour = terminal and not os.environ.get("NO_COLOR")
    return Reporter(
        target, format_=format_, level=level, colour=colour, alarm=alarm, privacy=privacy, max_kept=max_kept
    )


class Reporter:
    """Tells what happens. No method waits, none raises for what the log's far end does.

    Transactions and listeners are told whatever the level. In text, sessions are told at level debug only: text is one line a
    transaction (DESIGN §4).
    """

    def __init__(
        self,
        target: Target,
        *,
        format_: Format = "json",
        level: Level = "info",
        colour: bool = False,
        alarm: Callable[[str | None], None] = lambda _: None,
        max_waiting: int = MAX_WAITING,
        max_kept: float = math.inf,
        patience: float = PATIENCE,
        now: Callable[[], int] = time.time_ns,
        clock: Callable[[], float] = time.monotonic,
        privacy: Privacy = _NO_MORE,
    ) -> None:
        """`privacy`: what is left out besides secrets; a transaction's record has been through it already. `now`: nanoseconds since 1970, for `time`. `clock`: seconds, for how long a line has waited."""
        self._now = now
        self._privacy = privacy
        self._colour = colour
        line = self._line = _json if format_ == "json" else self._text
        self._sink = LogSink(
            target,
            tell_dropped=self._tell_dropped,
            tell_reopened=self._tell_reopened,
            alarm=alarm,
            max_waiting=max_waiting,
            max_kept=max_kept,
            patience=patience,
            clock=clock,
        )
        self._log: FilteringBoundLogger = structlog.wrap_logger(
            _Levels(self._sink),
            processors=[lambda _logger, _method, event: line(event["record"])],
            wrapper_class=structlog.make_filtering_bound_logger(level),
        ).bind()
        self._session_level: Level = "info" if format_ == "json" else "debug"
        self._tell_session = self._log.info if format_ == "json" else self._log.debug
        self._tells_sessions = level in ("debug", self._session_level)

    # What the relay tells.

    def transaction(self, record: TransactionRecord) -> None:
        self._log.critical("transaction", record=self._privacy.told(record))

    def listening(self, listener: str, address: str) -> None:
        self._log.critical("listening", record=ListeningRecord(time=self.time(), listener=listener, address=address))

    def session_opened(self, session: str, *, listener: str, address: str, port: int | None) -> None:
        if self._tells_sessions:
            record = SessionRecord(
                time=self.time(),
                level=self._session_level,
                session=session,
                listener=listener,
                state="opened",
                client=ClientRecord(address, port),
            )
            self._tell_session("session", record=record)

    def session_closed(
        self,
        session: str,
        *,
        listener: str,
        why: str,
        client: ClientRecord,
        transactions: int,
        seconds: float,
    ) -> None:
        if self._tells_sessions:
            record = SessionRecord(
                time=self.time(),
                level=self._session_level,
                session=session,
                listener=listener,
                state="closed",
                client=self._privacy.client(client),
                why=why,
                transactions=transactions,
                seconds=duration(seconds),
            )
            self._tell_session("session", record=record)

    def auth(
        self,
        leg: Leg,
        mechanism: bytes,
        user: bytes | None,
        outcome: AuthOutcome,
        *,
        session: str | None = None,
        reply: Reply | None = None,
    ) -> None:
        """`user` and `reply` hold no secret: a `Witness` (smtp/sasl.py) has seen to that."""
        accepted = outcome == "accepted"
        record = AuthenticationRecord(
            time=self.time(),
            level="info" if accepted else "warning",
            session=session,
            leg=leg,
            mechanism=text(mechanism),
            user=None if user is None else self._privacy.text(text(user)),
            outcome=outcome,
            reply=None if reply is None else reply_of(reply),
        )
        (self._log.info if accepted else self._log.warning)("auth", record=record)

    def tls_started(self, tls: ClientTlsRecord | UpstreamTlsRecord, *, session: str, host: str | None = None) -> None:
        """Told as sessions are: in text at level debug only."""
        if self._tells_sessions:
            client = tls if isinstance(tls, ClientTlsRecord) else None
            upstream = tls if isinstance(tls, UpstreamTlsRecord) else None
            record = TlsRecord(
                time=self.time(),
                level=self._session_level,
                session=session,
                leg="client" if upstream is None else "upstream",
                state="started",
                client=client,
                upstream=upstream,
                host=host,
            )
            self._tell_session("tls", record=record)

    def tls_failed(self, leg: Leg, why: str, *, session: str, host: str | None = None) -> None:
        record = TlsRecord(
            time=self.time(), level="warning", session=session, leg=leg, state="failed", host=host, why=why
        )
        self._log.warning("tls", record=record)

    def violation(
        self,
        leg: Leg,
        what: str,
        *,
        session: str | None = None,
        transaction: str | None = None,
        line: bytes | None = None,
        sasl: bool = False,
        reply: Reply | None = None,
    ) -> None:
        """`line` as it came: it is redacted and cut here; one that is `sasl` because of where it came, whatever it looks like."""
        record = ViolationRecord(
            time=self.time(),
            session=session,
            transaction=transaction,
            leg=leg,
            what=what,
            line=None if line is None else self._quoted(redact_sasl(line) if sasl else redact(line)),
            reply=None if reply is None else reply_of(reply),
        )
        self._log.warning("violation", record=record)

    def _quoted(self, line: bytes) -> str:
        return self._privacy.text(text(line))[:_QUOTED]

    def limit(
        self,
        limit: str,
        *,
        session: str | None = None,
        transaction: str | None = None,
        client: str | None = None,
        reply: Reply | None = None,
    ) -> None:
        record = LimitRecord(
            time=self.time(),
            limit=limit,
            session=session,
            transaction=transaction,
            client=client,
            reply=None if reply is None else reply_of(reply),
        )
        self._log.warning("limit", record=record)

    def error(
        self,
        where: str,
        what: str,
        *,
        session: str | None = None,
        transaction: str | None = None,
        exception: BaseException | None = None,
        level: Literal["warning", "error"] = "error",
    ) -> None:
        """Of an exception its type and places are told; `what` is the caller's words, and holds nothing that a peer sent."""
        record = ErrorRecord(
            time=self.time(),
            level=level,
            where=where,
            what=what,
            session=session,
            transaction=transaction,
            faults=UNSET if exception is None else faults_of(exception),
        )
        (self._log.error if level == "error" else self._log.warning)("error", record=record)

    def rule_error(self, what: str, *, session: str, transaction: str | None, reply: Reply | None) -> None:
        """A rule went wrong; `what` may have words of the message's in it."""
        record = RuleErrorRecord(
            time=self.time(),
            session=session,
            transaction=transaction,
            what=self._privacy.text(what),
            reply=None if reply is None else reply_of(reply),
        )
        self._log.warning("rule-error", record=record)

    def guard(self, recipient: bytes, *, captured: bool, session: str, transaction: str | None) -> None:
        """A recipient is not reached."""
        record = GuardRecord(
            time=self.time(),
            session=session,
            transaction=transaction,
            recipient=self._privacy.text(text(recipient)),
            captured=captured,
        )
        self._log.warning("guard", record=record)

    # The log itself.

    @property
    def healthy(self) -> bool:
        """Whether the next transaction's line would get where it belongs; where not, MAIL is refused (DESIGN §7)."""
        return self._sink.healthy

    def reloaded(
        self,
        what: str,
        error: str | None = None,
        *,
        guard: str = "",
        restart: Sequence[str] = (),
        loosened: bool = False,
    ) -> None:
        """SIGHUP: `what` was read anew, or, with an error, the old one is kept.

        `guard`: whom mail may go to; `loosened`: to anybody, for the first time; `restart`: settings that are others, and not in force.
        """
        level: Level = "error" if error else "warning" if restart or loosened else "info"
        record = ReloadRecord(
            time=self.time(),
            level=level,
            what=what,
            error=error,
            guard=guard or UNSET,
            restart=tuple(restart) if restart else UNSET,
        )
        self._log.critical("reload", record=record)

    def look(self) -> None:
        """Called now and then, so that a write that does not return is told of."""
        self._sink.look()

    def reopen(self) -> None:
        """SIGHUP: open the file anew. How that went is a `reload` line."""
        self._sink.reopen()

    def close(self, timeout: float) -> bool:
        """Write all that waits; whether that could be done within so many seconds. Blocks: call it when the loop has ended."""
        return self._sink.close(timeout)

    def time(self) -> str:
        """Now, as records have it."""
        return timestamp(self._now())

    # Behind structlog.

    def _text(self, record: Record) -> bytes:
        return console_line(record, colour=self._colour).encode("utf-8", "backslashreplace") + b"\n"

    def _tell_dropped(self, dropped: int) -> bytes:
        return self._line(
            LimitRecord(time=self.time(), limit="log_bytes", session=None, transaction=None, dropped=dropped)
        )

    def _tell_reopened(self, error: str | None) -> bytes:
        level: Level = "error" if error else "info"
        return self._line(ReloadRecord(time=self.time(), level=level, what="log", error=error))


class _Levels:
    """structlog's levels on the sink: what is critical is kept, as far as can be."""

    def __init__(self, sink: LogSink) -> None:
        self.critical = sink.keep
        self.debug = self.info = self.warning = self.error = sink.put


def _json(record: Record) -> bytes:
    return encode(record) + b"\n"


def faults_of(error: BaseException) -> tuple[FaultRecord, ...]:
    """What is told of an exception, a nursery's group taken apart: types and places, no messages (attack 21)."""
    if isinstance(error, BaseExceptionGroup):
        return tuple([fault for inner in error.exceptions for fault in faults_of(inner)][:_FAULTS])
    places: list[str] = []
    step = error.__traceback__
    while step is not None:
        places.append(f"{step.tb_frame.f_globals.get('__name__', '?')}:{step.tb_lineno}")
        step = step.tb_next
    return (FaultRecord(type(error).__qualname__, tuple(places[-_PLACES:])),)


def fault_in_words(error: Exception) -> str:
    """The same of one for people: its type, and its innermost place."""
    fault = faults_of(error)[0]
    return f"a fault of ours: {fault.type} ({fault.where[-1]})"
