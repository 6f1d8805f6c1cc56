"""Records for people: one line each on a terminal or in a text file (DESIGN §4).

    12:04:05 accepted   a@example.com > jane@customer.example +2  "hi"  328 B  250 2.0.0 queued  12 ms  01J0...

Invariants: whatever a peer sent is one line and harmless there (attack 22: `printable`), also in width: a long text is cut where it is
shown, never in the record. Pure. Choosing what is written where does not belong here (log.py), nor JSON (report.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, assert_never

from msgspec import UNSET

from relayproxy.record.report import TransactionRecord
from relayproxy.record.report_lines import (
    AuthenticationRecord,
    ErrorRecord,
    GuardRecord,
    LimitRecord,
    ListeningRecord,
    ReloadRecord,
    RuleErrorRecord,
    SessionRecord,
    TlsRecord,
    ViolationRecord,
)
from relayproxy.record.text import printable

if TYPE_CHECKING:
    from relayproxy.record.report import ReplyRecord
    from relayproxy.record.report_lines import Record

# The most characters of a text that are shown.
_ADDRESS: Final = 48
_SUBJECT: Final = 40
_TEXT: Final = 72
#: Of why something went wrong: that is what the line is read for.
_WORDS: Final = 300

# ECMA-48 §8.3.117, Select Graphic Rendition.
RED: Final = "31"
GREEN: Final = "32"
YELLOW: Final = "33"
MAGENTA: Final = "35"
CYAN: Final = "36"
DIM: Final = "2"

#: An outcome's style.
OUTCOMES: Final = {
    "accepted": GREEN,
    "rejected": RED,
    "tempfailed": YELLOW,
    "discarded": CYAN,
    "held": CYAN,
    "aborted": DIM,
    "unknown": MAGENTA,
}
_LEVELS: Final = {"debug": DIM, "info": DIM, "warning": YELLOW, "error": RED}


def console_line(record: Record, *, colour: bool = False) -> str:
    """The line, without its newline."""
    word, style = _heading(record)
    told = "  ".join(part for part in _parts(record) if part)
    clock, identity = record.time[11:19], _identity(record)
    if not colour:
        return f"{clock} {word:<10} {told}  {identity}".rstrip()
    return f"{styled(clock, DIM)} {styled(f'{word:<10}', style)} {told}  {styled(identity, DIM)}"


def styled(text: str, style: str) -> str:
    """Text, in one of the styles above; to be given nothing that a terminal obeys."""
    return f"\x1b[{style}m{text}\x1b[m"


def _heading(record: Record) -> tuple[str, str]:
    """The first word and its style."""
    match record:
        case TransactionRecord():
            return record.outcome, OUTCOMES[record.outcome]
        case SessionRecord():
            return record.state, _LEVELS[record.level]
        case ErrorRecord():
            return record.level, _LEVELS[record.level]
        case _:
            return record.event, _LEVELS[record.level]


def _identity(record: Record) -> str:
    match record:
        case TransactionRecord():
            return record.transaction
        case ViolationRecord() | LimitRecord() | ErrorRecord() | RuleErrorRecord() | GuardRecord():
            return record.transaction or record.session or ""
        case SessionRecord() | TlsRecord():
            return record.session
        case AuthenticationRecord():
            return record.session or ""
        case ListeningRecord() | ReloadRecord():
            return ""
    assert_never(record)


def _parts(record: Record) -> list[str]:  # noqa: C901, PLR0911 - one a kind of record
    match record:
        case TransactionRecord():
            return _transaction(record)
        case ListeningRecord():
            return [f"on {_cut(record.address)} ({_cut(record.listener)})"]
        case SessionRecord():
            return ["" if record.client is None else _cut(record.client.address), _cut(record.why, _WORDS)]
        case AuthenticationRecord():
            return [
                f"{record.leg} {_cut(record.mechanism)}",
                _cut(record.user),
                record.outcome,
                reply_text(record.reply),
            ]
        case TlsRecord():
            return _tls(record)
        case ViolationRecord():
            quoted = "" if record.line is None else f"[{_cut(record.line)}]"
            return [f"by {record.leg}: {_cut(record.what, _WORDS)}", quoted, reply_text(record.reply)]
        case LimitRecord():
            dropped = f"{record.dropped} lines dropped" if isinstance(record.dropped, int) else ""
            return [_cut(record.limit), dropped, _cut(record.client), reply_text(record.reply)]
        case ErrorRecord():
            faults = record.faults if isinstance(record.faults, tuple) else ()
            places = [f"{fault.type} at {fault.where[-1] if fault.where else '?'}" for fault in faults]
            return [f"{_cut(record.where)}: {_cut(record.what, _WORDS)}", *places]
        case RuleErrorRecord():
            return [_cut(record.what, _WORDS), reply_text(record.reply)]
        case GuardRecord():
            return [_cut(record.recipient, _ADDRESS), "captured" if record.captured else "refused"]
        case ReloadRecord():
            if record.error is None:
                restart = ", ".join(record.restart or ())
                return [
                    _cut(record.what, _WORDS),
                    _cut(record.guard or "", _WORDS),
                    f"changed, and takes a restart: {_cut(restart, _WORDS)}" if restart else "",
                ]
            return [f"{_cut(record.what, _WORDS)}: failed, what was in force stays:", _cut(record.error, _WORDS)]
    assert_never(record)


def _transaction(record: TransactionRecord) -> list[str]:
    received = record.envelope.received
    sender = _cut(received.sender, _ADDRESS) if received.sender else "<>"
    message = record.message
    return [
        f"{sender} > {recipients_text(record)}",
        "" if record.held is UNSET else f"held: {_cut(record.held.reason, _WORDS)}",
        "" if message is None or message.subject is None else f'"{_cut(message.subject, _SUBJECT)}"',
        "" if message is None else size_text(message.size.received),
        reply_text(record.reply),
        "not acknowledged" if record.outcome == "accepted" and not record.acknowledged else "",
        f"{record.seconds.total * 1000:.0f} ms",
    ]


def recipients_text(record: TransactionRecord) -> str:
    """The first recipient, who gets it in its place where that is another, and how many more there are."""
    if not record.recipients:
        return "nobody"
    first, *others = record.recipients
    more = f" +{len(others)}" if others else ""
    to = _cut(first.received, _ADDRESS)
    if first.captured is True:
        return f"{to} → captured{more}"
    if first.sent and first.sent != (first.received,):
        to += f" → {_cut(first.sent[0], _ADDRESS)}"
    return to + more


def _tls(record: TlsRecord) -> list[str]:
    peer = f"with {record.leg}" + ("" if record.host is None else f" {_cut(record.host)}")
    if (tls := record.client or record.upstream) is None:
        return [f"{peer}: {_cut(record.why, _WORDS)}"]
    unverified = record.upstream is not None and not record.upstream.verified
    return [f"{peer}: {_cut(tls.version)} {_cut(tls.cipher)}", "not verified" if unverified else ""]


def reply_text(reply: ReplyRecord | None) -> str:
    """A reply on one line; "" for none."""
    if reply is None:
        return ""
    return " ".join(part for part in (str(reply.code), reply.enhanced, _cut(reply.text)) if part)


def _cut(value: str | None, width: int = _TEXT) -> str:
    if value is None:
        return ""
    return printable(value if len(value) <= width else value[: width - 1] + "…")


def size_text(octets: int) -> str:
    """A size, to one decimal."""
    if octets < 1024:
        return f"{octets} B"
    return f"{octets / 1024:.1f} KiB" if octets < 1 << 20 else f"{octets / (1 << 20):.1f} MiB"
