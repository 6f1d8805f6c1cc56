r"""A recorded session for people: what was told of its transactions, then its dialog (DESIGN §4, `show`).

    relayproxy dialog 1
    @ session 01J0 listener=submission
    # 03:04:05 accepted   a@example.com > jane@customer.example  "hi"  328 B  250 2.0.0 queued  12 ms  01J1
    # client 10.0.0.5:53122 (app-1): TLSv1.3 TLS_AES_256_GCM_SHA384
    # upstream provider smtp.example.com 203.0.113.5:587: TLSv1.3 TLS_AES_256_GCM_SHA384, verified
    # headers received and sent:
    #   -To: jane@customer.example
    #   +To: qa@example.test
    +0.000 C open 10.0.0.5:53122

What is told stands in comments, so that the whole is a dialog: what reads one reads what `show` printed. The line of a transaction is the one of
`run --log-format text` (console.py).

Invariants: without colour it parses as a dialog with the session's entries; with colour it is the same but for colour; nothing that a peer sent is obeyed by a terminal
(attack 22). Pure. Octets and their order do not belong here (playback.py).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from relayproxy.record.console import CYAN, DIM, GREEN, MAGENTA, RED, YELLOW, console_line, reply_text, styled
from relayproxy.record.dialog import HEADING, Comment, escape, print_entries, print_session
from relayproxy.record.playback import attributes, entries
from relayproxy.record.report import HeldRecord
from relayproxy.record.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from relayproxy.record.report import TransactionRecord
    from relayproxy.record.report_tls import ClientTlsRecord, UpstreamTlsRecord
    from relayproxy.record.store.interface import Kept, Reader, Stored, StoredSession

_LINE: Final = re.compile(r"( *(?:\+[0-9.]+|&)? *)(.*)", re.DOTALL)
#: By a reply's first digit (RFC 5321 §4.2.1).
_SEVERITIES: Final = {"2": GREEN, "3": GREEN, "4": YELLOW, "5": RED}
_BLUE: Final = "34"
#: Fields of a header section that are compared; more are not shown.
_FIELDS: Final = 2000


def heading(*, colour: bool) -> str:
    return styled(HEADING, DIM) if colour else HEADING


def view(
    session: StoredSession,
    shown: Sequence[Stored],
    transactions: Iterable[Stored],
    reader: Reader,
    *,
    colour: bool,
) -> Iterator[str]:
    """A session's lines, without newlines. `shown`: what is told of; `transactions`: all of the session's."""
    first = print_session(session.id, attributes(session))
    yield coloured(first) if colour else first
    for stored in shown:
        line = console_line(stored.record, colour=colour)
        yield f"{styled('#', DIM)} {line}" if colour else _comment(line)
    for line in [*_facts(shown), *_held(shown), *_differences(shown)]:
        comment = _comment(line)
        yield coloured(comment) if colour else comment
    for line in print_entries(entries(session, transactions, reader)):
        yield coloured(line) if colour else line


def coloured(line: str) -> str:
    """A line of a dialog for a terminal."""
    if line.startswith("#"):
        return styled(line, {"-": RED, "+": GREEN}.get(line[4:5], DIM))
    match = _LINE.fullmatch(line)
    assert match is not None  # noqa: S101 - it matches every line
    stem, rest = match.groups()
    head, told = rest[:2], rest[3:]
    if head in ("C>", "U>"):
        style = "" if told.startswith("|") else CYAN if head == "C>" else _BLUE
    elif head in ("C<", "U<"):
        style = _SEVERITIES.get(told[:1], "")
    else:
        style = DIM if rest.startswith("@") else MAGENTA
    return (styled(stem, DIM) if stem else "") + (styled(rest, style) if style else rest)


def _comment(text: str) -> str:
    r"""As the dialog wants it: every character one that can be seen, no white space at its end."""
    plain = "".join([one if one.isprintable() else f"\\u{ord(one):04x}" for one in f"# {text}".rstrip()])
    return next(print_entries([Comment(plain)]))


def _facts(shown: Sequence[Stored]) -> Iterator[str]:
    """Both ends, and TLS with them: as of the last transaction, for TLS may begin within a session."""
    if not shown:
        return
    record = shown[-1].record
    client = record.client
    port = "" if client.port is None else f":{client.port}"
    name = f" ({_word(client.helo)})" if client.helo else ""
    yield f"client {_word(client.address)}{port}{name}: {_tls(client.tls)}{_user(record)}"
    if (upstream := record.upstream) is not None:
        port = "" if upstream.port is None else f":{upstream.port}"
        place = f" {_word(upstream.host or '')} {_word(upstream.address or '')}{port}".rstrip()
        verified = "" if upstream.tls is None else _verified(upstream.tls)
        yield f"upstream {_word(upstream.name)}{place}: {_tls(upstream.tls)}{verified}"


def _user(record: TransactionRecord) -> str:
    auth = record.client.auth
    return "" if auth is None else f", {_word(auth.mechanism)} {_word(auth.user or '')}".rstrip()


def _tls(tls: ClientTlsRecord | UpstreamTlsRecord | None) -> str:
    if tls is None:
        return "no TLS"
    asked = f", for {_word(tls.sni)}" if tls.sni else ""
    shown = f", certificate {_word(tls.certificate.subject)}" if tls.certificate is not None else ""
    return f"{_word(tls.version)} {_word(tls.cipher)}{asked}{shown}{', resumed' if tls.resumed else ''}"


def _verified(tls: UpstreamTlsRecord) -> str:
    return ", verified" if tls.verified else f", not verified{f': {_word(tls.why)}' if tls.why else ''}"


def _word(value: str) -> str:
    """What a peer said, on this line alone; the rest is the comment's to escape."""
    return escape(value.encode("utf-8", "surrogatepass"))


def _held(shown: Sequence[Stored]) -> Iterator[str]:
    """Why, for whom, and what became of it."""
    for stored in shown:
        held = stored.record.held
        if not isinstance(held, HeldRecord):
            continue
        of = f" {stored.record.transaction}" if len(shown) > 1 else ""
        to = ", ".join([one.address for one in held.envelope.recipients])
        yield printable(f"held{of} for {to or 'nobody'}: {held.reason}")
        for release in held.released:
            said = reply_text(release.reply) if release.why is None else release.why
            to = f"{', '.join(release.to)} by {release.upstream}"
            yield printable(f"released{of} {release.time} to {to}: {release.outcome}{said and f', {said}'}")


def _differences(shown: Sequence[Stored]) -> Iterator[str]:
    for stored in shown:
        if (kept := stored.message) is None or stored.left is None:
            continue
        of = f" of {stored.record.transaction}" if len(shown) > 1 else ""
        lines = list(_header_differences(kept))
        if lines:
            yield f"headers{of} received and {'held' if stored.record.outcome == 'held' else 'sent'}:"
            yield from lines
        if kept.body_sent is not None and kept.body_sent != kept.body:
            yield f"body{of}: another {'is held' if stored.record.outcome == 'held' else 'was sent'}"


def _header_differences(kept: Kept) -> Iterator[str]:
    if kept.header is None or kept.header_sent is None or kept.header == kept.header_sent:
        return
    from difflib import unified_diff  # noqa: PLC0415 - most messages leave as they came

    received, left = (
        [escape(line) for line in header.split(b"\r\n")[:_FIELDS]] for header in (kept.header, kept.header_sent)
    )
    for number, line in enumerate(unified_diff(received, left, n=0, lineterm="")):
        if number >= 2 and not line.startswith("@@"):  # the first two name files
            yield f"  {line}"
