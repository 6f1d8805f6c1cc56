r"""Play dialogs: two-sided scripts of a client and an upstream with the relay in between, on memory streams and virtual time.

`tests/dialogs/*.dialog` are collected by dialog_collect.py, one test each, and another one with all that peers send cut into single octets;
`play(text)` plays one from Python. The format is relayproxy/record/dialog.py's. The script is played from top to bottom:

- `C>` and `U<` are sent (lines joined by `&` in one write), `C<` and `U>` must come, octet by octet as they stand. In these `*` stands for
  anything in its line, `**` at the end also for the lines that belong to it (folded lines of a field, further lines of a reply),
  `\x2a` for an asterisk; `&` tells nothing there.
- What is expected comes at once (within half a second); with a time, within half a second of it. What is sent with a time waits for it.
- Before the script acts, all that we sent must have been expected: an early 250 is found. But mail data streams: before `C> |` what went
  upstream may still wait to be expected. `@ loose` ends all that, `@ strict` begins it again.
- `C open [ADDRESS]` is the client's (by itself at the first line); `U open [ADDRESS]`, `U refused` ... answer a dial. `eof`, `close`,
  `reset` are the peer's doing, with ` by us` behind it ours, which must come; the peer of `close by us` then closes too.
- `C tls VERSION CIPHER`, `U tls VERSION CIPHER`: the peer makes the handshake, and from there on all of its leg is under TLS; `*` may stand in
  both words. `C tls failed`, `U tls failed`: it comes to no end, and nobody goes on. The client trusts the relay's authority alone.
- At the end nothing more may have come, no end either; both peers close, and the session must end and have closed all.

Notes, besides those above:

    @ config KEY = TOML             before all else: configuration laid over a usual one; `listener.KEY` is the one listener's; `rules.files` are shipped ones
    @ rule {TOML}                   before all else: a rule of the file that the relay has
    @ python LINE, @ python |LINE   before all else: a line of the Python file that the relay has behind it; the | keeps spaces
    @ upstream offers KEYWORD ...   the dial, upstream's greeting, our EHLO, its answer, and our greeting: `C< 220 *`
    @ client says EHLO [NAME]       the client's EHLO (or HELO) and our answer, whatever we offer
    @ envelope SENDER RECIPIENT ... MAIL and RCPTs, passed on and accepted; <> is the null sender
    @ data                          DATA, passed on, and 354 on both legs
    @ quit                          QUIT on both legs, in any order, and all ends
    @ record PATH = JSON            the next transaction line says so; consecutive ones, `@ kept` too, speak of the same line; `@ record none`
    @ kept [sent] header = JSON     the message of that transaction, as the store has it: its header section or its `body` as it came or, `sent`, as it left or is
                                    to leave; null: this was not kept. `@ kept sent = null`: it did not leave. `@ kept whole = JSON`: whether it came to its end.
                                    `@ kept none`: nothing of it was kept
    @ log [no] EVENT KEY=VALUE ...  such a line is in the log; an `error` (but of upstream's) that is not expected fails the dialog
    @ quiet SECONDS                 so long, nothing comes
    @ sni [NAME]                    whom the client asks for in its handshake, and whose certificate it must see: relay.test, if nothing is said
    @ certificate KIND              what upstream shows in its handshakes: good (for the host that was dialled, of a CA that the relay trusts),
                                    expired, wrong-name, self-signed, unknown-issuer
    @ hello                         our handshake with upstream begins, and upstream does not answer
    @ abrupt C|U                    the peer's `eof` and `close` come without the word for it in TLS (close_notify)
    @ stall C|U, @ resume C|U       the peer takes no octets, and takes them again
    @ sigterm                       what SIGTERM does
    @ store full|broken|hangs|well  from here on nothing can be written to the store, for want of space or for another reason, or it is not said whether; or it
                                    can again
    @ whole                         play only as written, not octet by octet (where it matters what came together)
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import trio
from dialog_facts import FactError, Facts, agrees
from dialog_relay import DialRefusedByDialog, start
from dialog_report import report
from dialog_script import (
    NOTES,
    configuration,
    expand,
    find,
    host_of,
    is_to_us,
    is_url,
    lines_of,
    peer_address,
    script,
    sent,
)
from dialog_tls import CERTIFICATES, FarTls, client_context, server_context
from dialog_wire import Leg
from trio.testing import MockClock, wait_all_tasks_blocked

from relayproxy.record.dialog import (
    Comment,
    DialogError,
    Event,
    Line,
    Note,
    Session,
    parse,
    print_dialog,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dialog_relay import Driven, Reason, Start
    from dialog_tls import Certificate

    from relayproxy.record import dialog

#: How far from its time what is expected may come.
SLACK: Final = 0.5
#: How long a session may take to end after both peers have closed: our lingering close and a QUIT that nobody answers fit.
ENDING: Final = 60.0
_REASONS: Final[Mapping[str, Reason]] = {
    "refused": "refused",
    "timeout": "timeout",
    "unresolved": "unresolved",
    "unreachable": "unreachable",
}
#: RFC 8446 §5.1: a record of a handshake.
_HELLO: Final = b"\x16\x03"
_CLIENT: Final = ("127.0.0.1", 50000)


class DialogMismatch(AssertionError):  # noqa: N818 - it says what is the matter
    """The relay did something else than the dialog says."""


def play(text: str, *, bytewise: bool = False, start: Start = start) -> None:
    """Play the sessions of a dialog, in turn, against one relay. DialogMismatch, DialogError."""
    sessions = parse(text)
    if not any(isinstance(entry, Line | Event | Note) for session in sessions for entry in session.entries):
        raise DialogError(1, "a dialog with something in it", "nothing")
    trio.run(_Player(text, sessions, bytewise=bytewise).play, start, clock=MockClock(autojump_threshold=0))


@dataclasses.dataclass(slots=True)
class _Dial:
    """A dial that waits for the script's answer: a leg, or why there is none."""

    url: str
    seconds: float
    answered: trio.Event = dataclasses.field(default_factory=trio.Event)
    answer: Leg | Reason | None = None


class _Player:
    def __init__(self, text: str, sessions: Sequence[Session], *, bytewise: bool) -> None:
        self._text = text
        self._sessions = sessions
        self._bytewise = bytewise
        self._facts = Facts()
        self._happened: list[dialog.Entry] = []
        self._driven: Driven
        self._crash: BaseException | None = None
        self._begin_session()

    def _begin_session(self) -> None:
        self._began = 0.0
        self._client: Leg | None = None
        self._upstreams: list[Leg] = []
        self._dials: list[_Dial] = []
        self._dialled = trio.Event()
        self._over = trio.Event()
        self._strict = True
        self._noticed: set[Leg] = set()  # whose end by us was expected
        self._attributes: dict[str, str] = {}
        self._hosts: list[str] = []  # of the upstreams
        self._sni: str | None = "relay.test"
        self._certificate: Certificate = "good"

    async def play(self, start: Start) -> None:
        entries = [entry for session in self._sessions for entry in session.entries]
        notes = [entry for entry in entries if isinstance(entry, Note)]
        for note in notes:
            if note.key not in NOTES:
                raise DialogError(note.number, f"a note of {', '.join(NOTES)}", f'"{note.key}"')
        self._driven = start(
            configuration([note for note in notes if note.key in ("config", "rule", "python")]), self._dial
        )
        lines: list[dict[str, Any]] = []
        try:
            for session in self._sessions:
                await self._play_session(session)
        finally:
            lines = self._driven.close()
        if unmet := self._facts.unmet(lines):
            self._fail_facts([(fact.number, f"expected {fact.expected}\n    found    {fact.found}") for fact in unmet])

    async def _play_session(self, session: Session) -> None:
        self._begin_session()
        self._began = trio.current_time()
        self._attributes = dict(session.attributes)
        failure: Exception | None = None
        async with trio.open_nursery() as self._nursery:
            try:
                await self._play_entries(list(session.entries))
            except (DialogMismatch, DialogError) as error:
                failure = error  # raised outside, where no group is made of it
            self._nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _play_entries(self, queue: list[dialog.Entry]) -> None:
        number = 0
        while queue:
            entry = queue.pop(0)
            number = entry.number or number
            match entry:
                case Comment() | Note(key="config" | "rule" | "python" | "whole"):
                    continue
                case Note(key="record" | "kept" | "log"):
                    self._fact(entry)
                case Note(key="store", text="full" | "broken" | "hangs" | "well" as how):
                    self._driven.store(how)
                case Note(key="upstream" | "client" | "envelope" | "data"):
                    queue[:0] = expand(entry)
                case _:
                    self._facts.turn()
                    await self._act(entry, queue)
        self._facts.turn()
        await self._finish(number)

    def _fact(self, note: Note) -> None:
        read = {"record": self._facts.record, "kept": self._facts.kept, "log": self._facts.log}[note.key]
        try:
            read(note.number, note.text)
        except FactError as error:
            raise DialogError(note.number, str(error), f'"@ {note.key} {note.text}"') from None

    async def _act(self, entry: dialog.Entry, queue: list[dialog.Entry]) -> None:
        if self._client is None and not (isinstance(entry, Event) and (entry.leg, entry.name) == ("C", "open")):
            self._open_client(Event("C", "open"))
        match entry:
            case Line() if is_to_us(entry):
                group = [entry]
                while queue and isinstance(queue[0], Line) and queue[0].joined:
                    joined = queue.pop(0)
                    assert isinstance(joined, Line)
                    group.append(joined)
                await self._before_acting(entry)
                await self._send(group)
            case Line():
                await self._expect(entry)
            case Event(by_us=True):
                await self._expect_end(entry)
            case Event(name="open" | "refused" | "timeout" | "unresolved" | "unreachable"):
                if entry.leg == "C":
                    self._open_client(entry)
                else:
                    await self._answer_dial(entry)
            case Event():
                await (self._start_tls if entry.name == "tls" else self._end_peer)(entry)
            case Note():
                await self._play_note(entry)

    # The script acts.

    async def _before_acting(self, entry: Line | Event | Note, *, but_for: Leg | None = None) -> None:
        """Let the relay come to rest, wait for the entry's time, and see that nothing came that is not expected before it."""
        await wait_all_tasks_blocked()
        if entry.time is not None:
            late = self._now() - entry.time / 1e6
            if late > SLACK:
                self._fail(
                    entry.number, f"this was to be at +{entry.time / 1e6:.3f}, and it is +{self._now():.3f} already"
                )
            await trio.sleep_until(self._began + entry.time / 1e6)
            await wait_all_tasks_blocked()
        if self._strict:
            streaming = isinstance(entry, Line) and entry.data and entry.leg == "C"
            for leg in self._legs():
                if leg.unread and leg is not but_for and not (streaming and leg is not self._client):
                    self._fail(entry.number, "before this comes", self._unread(leg))

    async def _send(self, group: list[Line]) -> None:
        leg = self._leg(group[0])
        octets = b"".join(sent(line) for line in group)
        if leg.far_gone:
            raise DialogError(group[0].number, "nothing more on a connection that its peer closed", "a line to send")
        if leg.closed:
            self._fail(group[0].number, "cannot be sent: we have closed this connection")
        self._note(group[0], octets)
        if not self._bytewise:
            leg.far_send(octets)
            return
        for at in range(len(octets)):
            leg.far_send(octets[at : at + 1])
            await wait_all_tasks_blocked()

    async def _start_tls(self, event: Event) -> None:
        leg = self._leg(event)
        # The relay's own hello may have come already, if it is the client of this handshake.
        await self._before_acting(event, but_for=leg if event.leg == "U" else None)
        if event.leg == "C":
            context = client_context(self._driven.authority(), has_name=self._sni is not None)
            tls = FarTls(context, server=False, sni=self._sni)
        else:
            tls = FarTls(server_context(self._certificate, self._hosts[-1]), server=True)
        leg.far_start_tls(tls)
        until = trio.current_time() + SLACK
        await wait_all_tasks_blocked()
        while tls.state == "handshake" and not leg.ended and trio.current_time() < until:
            changed = leg.changed
            with trio.move_on_at(until):
                await changed.wait()
            await wait_all_tasks_blocked()
        words = tls.words if tls.state == "started" else ("failed",)
        self._happened.append(Event(event.leg, "tls", words, time=self._microseconds()))
        failed = (tls.state != "started", event.arguments[0] == "failed")
        if failed[0] != failed[1] or not all(map(agrees, words, event.arguments)):
            self._fail(event.number, f"expected this, came: tls {' '.join(words)} {tls.why}".rstrip())

    async def _end_peer(self, event: Event) -> None:
        await self._before_acting(event)
        leg = self._leg(event)
        self._happened.append(dataclasses.replace(event, time=self._microseconds()))
        {"eof": leg.far_eof, "close": leg.far_close, "reset": leg.far_reset}[event.name]()

    def _open_client(self, event: Event) -> None:
        if self._client is not None:
            raise DialogError(event.number, "one client in a session (@ session ID begins another)", '"C open"')
        address, port = peer_address(event.arguments[0]) if event.arguments else _CLIENT
        self._happened = [Event("C", "open", event.arguments, time=0)]
        self._client = Leg(lambda octets: self._sent_by_us("C", octets))
        self._nursery.start_soon(self._session, self._client, address, port)

    async def _session(self, client: Leg, address: str, port: int | None) -> None:
        try:
            await self._driven.session(client, address, port, self._attributes.get("listener"))
        except Exception as error:  # noqa: BLE001 - told with the mismatch that follows from it
            self._crash = error
        finally:
            self._over.set()

    async def _dial(self, url: str, seconds: float) -> Leg:
        dial = _Dial(url, seconds)
        self._dials.append(dial)
        self._dialled.set()
        try:
            with trio.move_on_after(seconds):
                await dial.answered.wait()
                if not isinstance(dial.answer, Leg) and dial.answer == "timeout":
                    await trio.sleep_forever()
        finally:
            if dial in self._dials:
                self._dials.remove(dial)
        if isinstance(dial.answer, Leg):
            return dial.answer
        raise DialRefusedByDialog(dial.answer or "timeout")

    async def _answer_dial(self, event: Event) -> None:
        with trio.move_on_at(await self._window(event)):
            while not self._dials:
                self._dialled = trio.Event()
                await self._dialled.wait()
        if not self._dials:
            self._fail(event.number, "expected that we dial; we do not")
        dial = self._dials.pop(0)
        self._punctual(event, trio.current_time())
        if event.arguments and not is_url(dial.url, event.arguments[0]):
            self._fail(event.number, f"expected that we dial {event.arguments[0]}; we dial {dial.url}")
        self._happened.append(Event("U", event.name, (dial.url,), time=self._microseconds()))
        if event.name == "open":
            dial.answer = Leg(lambda octets: self._sent_by_us("U", octets))
            self._upstreams.append(dial.answer)
            self._hosts.append(host_of(dial.url))
        else:
            dial.answer = _REASONS[event.name]
        dial.answered.set()
        await wait_all_tasks_blocked()

    async def _hear_hello(self, note: Note) -> None:
        leg = self._leg(Event("U", "tls", number=note.number))
        await self._before_acting(note, but_for=leg)
        if not leg.unread.startswith(_HELLO):
            self._fail(note.number, "expected that our handshake begins", self._unread(leg))
        leg.far_take(len(leg.unread))

    async def _play_note(self, note: Note) -> None:
        if note.key == "hello":
            await self._hear_hello(note)
            return
        await self._before_acting(note)
        match note.key, note.text:
            case (("strict" | "loose"), ""):
                self._strict = note.key == "strict"
            case (("stall" | "resume"), ("C" | "U") as name):
                at = Event("C" if name == "C" else "U", "eof", number=note.number)
                self._leg(at).far_stall(stalled=note.key == "stall")
            case "sni", name if " " not in name:
                self._sni = name or None
            case "certificate", kind if kind in CERTIFICATES:
                self._certificate = cast("Certificate", kind)
            case "abrupt", ("C" | "U") as name:
                self._leg(Event("C" if name == "C" else "U", "eof", number=note.number)).far_is_abrupt = True
            case "sigterm", "":
                self._happened.append(Note("sigterm", time=self._microseconds()))
                self._driven.sigterm()
            case "quiet", seconds if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", seconds):
                later = round((self._now() + float(seconds)) * 1e6)
                strict, self._strict = self._strict, True
                await self._before_acting(dataclasses.replace(note, time=later))
                self._strict = strict
            case "quit", "":
                await self._quit(note.number)
            case _:
                usage = {
                    "abrupt": " C|U",
                    "certificate": f" {'|'.join(CERTIFICATES)}",
                    "quiet": " SECONDS",
                    "resume": " C|U",
                    "sni": " [NAME]",
                    "stall": " C|U",
                    "store": " full|broken|hangs|well",
                }.get(note.key, "")
                raise DialogError(note.number, f"@ {note.key}{usage}", f'"@ {note.key} {note.text}"')

    async def _quit(self, number: int) -> None:
        """Whether the client or upstream is bidden goodbye first is the relay's affair."""

        async def play(lines: list[str]) -> None:
            for entry in script(lines, number):
                if isinstance(entry, Line) and is_to_us(entry):
                    await self._send([entry])
                else:
                    await self._act(entry, [])

        (quit_,) = script(["C> QUIT"], number)
        assert isinstance(quit_, Line)
        await self._send([quit_])
        failures: list[Exception] = []

        async def keep(lines: list[str]) -> None:
            try:
                await play(lines)
            except (DialogMismatch, DialogError) as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep, ["C< 221 *", "C close by us"])
            if self._upstreams and not self._upstreams[-1].closed:
                nursery.start_soon(keep, ["U> QUIT", "U< 221 2.0.0 bye", "U close by us"])
        if failures:
            raise failures[0]

    # What must come.

    async def _window(self, entry: Line | Event) -> float:
        """Until when an entry must have come."""
        await wait_all_tasks_blocked()
        due = trio.current_time() if entry.time is None else self._began + entry.time / 1e6
        return due + SLACK

    def _punctual(self, entry: Line | Event, arrived: float) -> None:
        if entry.time is not None and abs(arrived - self._began - entry.time / 1e6) > SLACK:
            self._fail(entry.number, f"expected at +{entry.time / 1e6:.3f}, came at +{arrived - self._began:.3f}")

    async def _expect(self, line: Line) -> None:
        leg = self._leg(line)
        until = await self._window(line)
        while not (count := find(line, leg.unread)):
            # An end that has come already makes of too little nothing.
            if count == 0 or leg.ended or trio.current_time() >= until:
                self._fail(line.number, "expected this", self._unread(leg))
            changed = leg.changed
            with trio.move_on_at(until):
                await changed.wait()
            await wait_all_tasks_blocked()
        self._punctual(line, leg.far_take(count))

    async def _expect_end(self, event: Event) -> None:
        leg = self._leg(event)
        until = await self._window(event)
        while not (leg.ended and (leg.closed or event.name != "reset")):
            if leg.unread or trio.current_time() >= until:
                break
            changed = leg.changed
            with trio.move_on_at(until):
                await changed.wait()
            await wait_all_tasks_blocked()
        if leg.unread or not leg.ended:
            self._fail(event.number, "expected this", self._unread(leg))
        self._punctual(event, trio.current_time())
        self._noticed.add(leg)
        if event.name != "eof" and not leg.far_gone:
            leg.far_close()

    async def _finish(self, number: int) -> None:
        """Nothing more comes; both peers close; the session ends and leaves nothing open."""
        if self._client is None:
            raise DialogError(number, "a session in which something happens", "nothing but notes")
        await wait_all_tasks_blocked()
        for leg in self._legs():
            if leg.unread or (leg.ended and leg not in self._noticed and not leg.far_gone):
                self._fail(
                    number, "behind the end of the script nothing more was expected", self._unread(leg), after=True
                )
        if self._dials:
            self._fail(number, "behind the end of the script a dial was not expected", after=True)
        for leg in self._legs():
            leg.far_close()
            leg.far_stall(stalled=False)
        with trio.move_on_after(ENDING):
            await self._over.wait()
        if not self._over.is_set():
            self._fail(
                number, f"both peers have closed, and the session has not ended within {ENDING:.0f} s", after=True
            )
        if self._crash is not None:
            self._fail(number, "the session raised an exception", after=True)
        self._check_what_is_left(number, self._client)

    def _check_what_is_left(self, number: int, client: Leg) -> None:
        """The session has ended."""
        for leg in self._legs():
            if not leg.closed:
                which = "client's" if leg is self._client else "upstream's"
                self._fail(number, f"the session has ended, and has not closed the {which} connection", after=True)
        try:
            self._driven.check_recording(client, self._upstreams)
        except AssertionError as error:
            self._fail(number, f"it is not recorded as it was: {error}", after=True)

    # Where we are.

    def _now(self) -> float:
        return trio.current_time() - self._began

    def _microseconds(self) -> int:
        return round(self._now() * 1e6)

    def _legs(self) -> list[Leg]:
        return [*([] if self._client is None else [self._client]), *self._upstreams]

    def _leg(self, entry: Line | Event) -> Leg:
        if entry.leg == "C":
            assert self._client is not None
            return self._client
        if not self._upstreams:
            raise DialogError(entry.number, "U open before anything else of upstream's", "a U line")
        return self._upstreams[-1]

    def _note(self, line: Line, octets: bytes) -> None:
        self._happened += lines_of(line.leg, line.arrow, octets, time=self._microseconds())

    def _sent_by_us(self, leg: dialog.Leg, octets: bytes) -> None:
        if octets.startswith(_HELLO):
            self._happened.append(Note("hello", time=self._microseconds()))
        elif octets:
            self._happened += lines_of(leg, "<" if leg == "C" else ">", octets, time=self._microseconds())
        else:
            self._happened.append(Event(leg, "close", by_us=True, time=self._microseconds()))

    def _unread(self, leg: Leg) -> list[str]:
        """What came and was not expected, as lines of a dialog."""
        name: dialog.Leg = "C" if leg is self._client else "U"
        if leg.unread.startswith(_HELLO):
            return ["@ hello"]
        lines = list(lines_of(name, "<" if name == "C" else ">", bytes(leg.unread)))[:20]
        shown = print_dialog([Session(entries=tuple(lines))]).splitlines()[1:] if lines else []
        return [*shown, *([f"{name} close by us"] if leg.ended and leg not in self._noticed else [])] or ["(nothing)"]

    # How it is told.

    def _fail(self, number: int, what: str, came: list[str] | None = None, *, after: bool = False) -> NoReturn:
        told = [what] if came is None else [f"{what}, came:", *(f"    {line}" for line in came)]
        others = [dial.url for dial in self._dials]
        told += [f"(we are dialling {url}, and the script has no U open here)" for url in others]
        self._tell([(number, "\n".join(told))], after=after)

    def _fail_facts(self, unmet: list[tuple[int, str]]) -> NoReturn:
        self._tell(unmet, after=False)

    def _tell(self, marks: list[tuple[int, str]], *, after: bool) -> NoReturn:
        mode = " (single octets sent)" if self._bytewise else ""
        raise DialogMismatch(report(self._text, marks, self._happened, mode=mode, crash=self._crash, after=after))
