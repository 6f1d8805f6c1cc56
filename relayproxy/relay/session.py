"""One client session, read top to bottom like RFC 5321 §3: greet, answer commands group by group, take a message, say goodbye.

Linear code. The legs are a `ClientLeg` (client_leg.py) and an `UpstreamLeg` (upstream_leg.py); what passes between them is decided here, and a
`Transaction` (transaction.py) collects what is told afterwards.
Invariants (PROTOCOL §0): one reply a command, in order; a 2xx to the message is upstream's own or a named exception's (I1); after
upstream's verdict nothing local changes it (I2); no dot leaves unless the client's own end of data came (I3).
What may come when does not belong here (smtp/dialogue.py), nor how things are sent (delivery.py).
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn, TypeGuard

from relayproxy.net.peer import PeerLost, PeerStalled
from relayproxy.relay.allowance import JUNK, Allowance
from relayproxy.relay.auth import Authentication
from relayproxy.relay.client_leg import Goodbye
from relayproxy.relay.connect import UpstreamUnavailable, greet_again
from relayproxy.relay.delivery import Passed
from relayproxy.relay.gated import put_rules_between
from relayproxy.relay.handshake import Handshake
from relayproxy.relay.messages import Messages
from relayproxy.relay.outgoing import Refusal
from relayproxy.relay.transactions import Transactions
from relayproxy.relay.transfer import Transfer
from relayproxy.relay.upstream import UNASKED
from relayproxy.relay.upstream_leg import UpstreamLeg
from relayproxy.smtp import local_replies
from relayproxy.smtp.commands import Auth, Bdat, Data, Ehlo, Helo, Mail, Noop, Quit, Rcpt, Rset, StartTls, Vrfy
from relayproxy.smtp.grammar import number
from relayproxy.smtp.parameters import get
from relayproxy.smtp.server import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from relayproxy.record.recorder import Recording
    from relayproxy.record.report import ClientRecord
    from relayproxy.relay.client_leg import ClientLeg
    from relayproxy.relay.context import Context
    from relayproxy.relay.ruling import Ruling
    from relayproxy.relay.upstream_leg import Connect
    from relayproxy.smtp.commands import Command
    from relayproxy.smtp.replies import Reply

#: Besides MAIL, RCPT, RSET and DATA.
PASSED_ON = frozenset({Noop, Vrfy})


class Session:
    """What one client says, and what it is answered."""

    __slots__ = (
        "_allowance", "_auth", "_came", "_client", "_context", "_handshake", "_helo", "_idle", "_leg", "_messages", "_pending", "_quit", "_ruling", "_transactions", "_transfer",
        "id",
    )  # fmt: skip

    def __init__(
        self,
        id_: str,
        new_id: Callable[[], str],
        client: ClientLeg,
        context: Context,
        connect: Connect,
        recording: Recording | None = None,
    ) -> None:
        self.id = id_
        self._client = client
        self._context = context
        self._leg = UpstreamLeg(self.id, context, connect, (client.peer.address, client.peer.port))
        self._transfer = Transfer(client, self._say, context, self.id)
        self._handshake = Handshake(client, self._transfer, self._say, context.reporter, self.id)
        self._transactions = Transactions(self.id, new_id, context, client, recording)
        self._helo: Ehlo | Helo | None = None
        self._idle = self._quit = False
        self._pending: list[Reply] = []  # to what came first in the group that is being answered
        self._came = 0.0  # when the group came that is being answered
        self._allowance = Allowance(context.limits, context.reporter, id_)
        self._auth = Authentication(client, context, self.id)
        self._ruling: Ruling | None = None
        self._messages = Messages(
            client, context, self._leg, self._transactions, self._transfer, self._allowance, self._say
        )

    async def run(self) -> str:
        """Hold the session; why it ended, in words."""
        try:
            try:
                if self._context.tls == "implicit":
                    await self._handshake.make()
                await self._greet()
                await self._converse()
            except Goodbye as bye:
                if bye.reply is not None:
                    await self._end_with(bye.reply)
                return bye.why
            except PeerStalled:
                # Of the client's leg: upstream's troubles are replies (upstream.py). A shutdown wakes those that wait.
                shutting_down = self._context.shutting_down
                if shutting_down and self._transactions.open is not None:
                    self._transactions.open.lost(local_replies.SHUTTING_DOWN)
                await self._end_with(local_replies.SHUTTING_DOWN if shutting_down else local_replies.CLIENT_IDLE)
                return "shutdown" if shutting_down else "the client was silent for too long"
            except PeerLost:
                raise
            except Exception as error:  # noqa: BLE001  a fault of ours: told with its place, and the client is not left without an answer
                self._context.reporter.error("session", "a fault of ours", session=self.id, exception=error)
                if self._transactions.open is not None:
                    self._transactions.open.lost(local_replies.INTERNAL_ERROR)
                await self._end_with(local_replies.INTERNAL_ERROR)
                return "a fault of ours"
        except PeerLost:
            return "the client was lost"
        finally:
            await self._leave()

    @property
    def client(self) -> ClientRecord:
        """Whom we speak to, as far as it has said."""
        return self._client.record(self._helo, self._auth.record)

    @property
    def transactions(self) -> int:
        """How many were told of."""
        return self._transactions.told

    async def _leave(self) -> None:
        self._context.late.over(self)
        try:
            self._transfer.abandon()
            await self._transactions.close()
        finally:
            try:
                await self._client.peer.close(agreed=self._quit)
            finally:
                await self._leg.leave()
                # They have `_say`, which has us, or a ruling, which has the client: circles.
                del self._messages, self._handshake, self._transfer
                self._client.faults = None

    async def _say(self, replies: Sequence[Reply] = ()) -> None:
        """Write what is pending, and these; only then has the client heard them, and what they ended is told."""
        if said := [*self._pending, *replies]:
            self._pending.clear()
            if await self._client.answer(said):
                self._transactions.said()
            else:
                self._transactions.unsaid()
            if self._client.why is not None:
                raise Goodbye(self._client.why)

    async def _end_with(self, reply: Reply) -> None:
        """The last words, unless a rule ends the connection before them."""
        with suppress(Goodbye):
            await self._say([reply])

    def wind_down(self) -> None:
        """Shutting down: end what waits while no transaction is open; the others notice by themselves."""
        self._handshake.abandon()
        if not self._leg.stop_dialling() and self._idle and self._transactions.open is None:
            self._client.peer.expire()

    def catch_up(self) -> None:
        """Have it recorded what was said."""
        self._transactions.spill()

    def look_after_client(self) -> None:
        """Called now and then: what was said is recorded, and who left while all wait for upstream is not waited for (PROTOCOL §4, S0, S6)."""
        self.catch_up()
        if self._leg.alone and not self._client.protocol.unread and self._client.peer.gone:
            self._leg.stop_waiting()
        self._client.pause_for_nobody()

    def cut_off(self) -> None:
        """The grace of the shutdown is over: every wait ends now."""
        self._client.expire()
        self._leg.expire()

    async def _greet(self) -> None:
        """Upstream first, so that what we offer is what it offers (PROTOCOL §1.1 (1)); but rules before it."""
        try:
            if (ruling := self._put_rules_between()) is not None:
                self._leg.routed = await ruling.connect()
            await self._leg.dial(None)
        except (Refusal, UpstreamUnavailable) as error:
            await self._say([error.reply])
            if error.reply.severity != 5:
                raise Goodbye(error.what) from None
            return  # RFC 7504: everything but QUIT is now 503
        if self._context.shutting_down:
            raise Goodbye("shutdown", local_replies.SHUTTING_DOWN)
        await self._say([self._context.greeting])

    async def _converse(self) -> NoReturn:
        while not self._client.closing:
            if self._context.shutting_down and self._transactions.open is None:
                raise Goodbye("shutdown", local_replies.SHUTTING_DOWN)
            self._idle = True
            if self._transactions.owes:
                self._context.late.note(self)
            group = await self._client.group()
            self._idle = False
            if not group:
                raise Goodbye("the client closed the connection")
            if type(group[0]) is not Quit:
                self._check_that_we_go_on(group[0])
            await self._answer(group)
        raise Goodbye("421 was answered")

    def _check_that_we_go_on(self, command: Command | Refused) -> None:
        """Before a group: 421 where there is no upstream any more, or no service."""
        if self._leg.upstream is not None:
            self._leg.upstream.listen()
            if (failure := self._leg.upstream.failure) is not None:
                if self._transactions.open is not None and not isinstance(command, Rset | Ehlo | Helo):
                    self._transactions.open.lost(failure)
                raise Goodbye(self._leg.upstream.trouble or "upstream is gone", failure)
        if self._context.shutting_down and self._transactions.open is None:
            raise Goodbye("shutdown", local_replies.SHUTTING_DOWN)

    def _put_rules_between(self) -> Ruling | None:
        """Where rules or a guard are in force, or have come to be since the session began."""
        if self._lacks_rules:
            between = self._client, self._leg, self._context, self._transactions, self._reroute, self._helo
            self._ruling = put_rules_between(*between)
        return self._ruling

    @property
    def _lacks_rules(self) -> bool:
        return self._ruling is None and self._context.rulebook.active

    async def _answer(self, group: list[Command | Refused]) -> None:  # noqa: C901, PLR0912  a table of commands
        """Answer all of a group in one write; what goes upstream goes as a group too (RFC 2920)."""
        asked: list[Command] = []
        pending, self._came = self._pending, self._context.now()
        for command in group:
            if type(command) in JUNK and not self._allowance.covers_junk():
                pending += [*await self._ask(asked), self._allowance.over("junk_commands", local_replies.TOO_MUCH_JUNK)]
                break
            if self._goes_upstream(command, asked):
                asked.append(command)
                continue
            pending += await self._ask(asked) if asked else ()
            asked = []
            if pending and any(reply.code == 421 for reply in pending):
                break  # a rule's: nothing that stands behind it is done
            match command:
                case Data():
                    await self._messages.data()
                    return
                case Auth():
                    await self._authenticate(command)
                    return
                case StartTls():
                    await self._handshake.answer(self._reset)
                    self._helo = None
                    return
                case Bdat() | Refused(command=Bdat(), fatal=False):
                    pending.append(await self._messages.chunk(command, self._refuse))
                case Quit():
                    await self._say([local_replies.QUIT_OK])
                    self._quit = not self._client.protocol.unread
                    raise Goodbye("QUIT")
                case Refused() if command.changes_framing and self._client.spoke_early():
                    self._transfer.refuse_early_input(self._transactions.open)
                case _:
                    pending.append(await self._answer_here(command))
        else:
            pending += await self._ask(asked) if asked else ()
        await self._say()
        if type(last := group[-1]) is Refused and last.fatal:
            raise Goodbye(last.what)

    async def _answer_here(self, command: Command | Refused) -> Reply:  # noqa: PLR0911  a table of commands
        """The answer to what is not simply passed on."""
        if isinstance(command, Refused):
            return self._refuse(command)
        if self._leg.upstream is not None and self._leg.upstream.failure is not None:
            return self._leg.upstream.failure  # lost by what went before it in its group; it is not dialled again (I7)
        match command:
            case Ehlo() | Helo():
                return await self._hello(command)
            case Mail():
                return await self._mail(command)
            case Rcpt():
                transaction = self._transactions.open
                if transaction is not None and (refusal := self._context.unrecorded) is not None:
                    self._note(Passed(command, (), refusal))
                    return refusal
                if transaction is not None and self._allowance.covers_recipient(transaction, (), self._leg.recipients):
                    return (await self._ask([command]))[0]  # others in front of it were refused, so there is room
                return self._refuse_recipient(command)
            case Rset():
                return await self._reset() or UNASKED["RSET"]
            case _:
                return UNASKED[command.verb]  # where there is no upstream connection to ask

    def _goes_upstream(self, command: Command | Refused, asked: list[Command]) -> TypeGuard[Command]:
        """Whether the command is passed on, in the group that `asked` is so far."""
        upstream = self._leg.upstream
        if upstream is None or upstream.spent or upstream.failure is not None or self._transfer.chunking:
            return False  # chunking: upstream is in the middle of mail data
        # What is asked with each command is asked of its class itself: `isinstance` costs four times as much where the answer is no.
        if (kind := type(command)) is Rcpt:
            # Without either, MAIL in front of it in its group was refused by us.
            begun = (self._transactions.open is not None or bool(asked)) and self._context.unrecorded is None
            return begun and self._allowance.covers_recipient(self._transactions.open, asked, self._leg.recipients)
        if type(command) is Mail:
            return not self._lacks_rules and self._objection_to_mail(command, asked) is None
        if kind is Rset:
            return bool(asked) or self._transactions.open is not None
        return kind in PASSED_ON

    async def _ask(self, commands: list[Command]) -> list[Reply]:
        """Pass commands on and take note of the replies."""
        if not commands or (way := self._leg.way) is None:
            return []
        started = self._context.now()
        if self._ruling is not None:
            self._ruling.user = self._auth.user
        answers = await way.pass_on(commands)
        waited = self._context.now() - started
        if (transaction := self._transactions.open) is not None:
            transaction.upstream_seconds += waited
        for passed in answers:
            self._note(passed, waited)
        return [passed.reply for passed in answers]

    def _note(self, passed: Passed, waited: float = 0.0) -> None:
        reply = passed.reply
        if type(received := passed.received) is Mail:
            self._allowance.begin_message()
            self._auth.out_of_step = False
            self._transactions.begin(
                received, passed, upstream=self._leg.upstream, helo=self._helo, auth=self._auth.record, came=self._came,
                waited=waited,
            )  # fmt: skip
        elif type(received) is Rcpt:
            if self._transactions.open is not None:
                self._transactions.open.recipient(received, passed)
                if reply.code == 421:
                    self._transactions.open.lost(reply)
        elif type(received) is Rset and reply.severity == 2:
            self._transactions.end()

    def _refuse(self, refused: Refused) -> Reply:
        """A line that was no acceptable command: counted, told, answered."""
        if (
            self._transactions.mail_refused
            and refused.reply is local_replies.BAD_SEQUENCE
            and isinstance(refused.command, Rcpt | Data)
        ):
            return refused.reply  # sent behind a MAIL whose refusal was on its way (RFC 2920)
        self._auth.tell_refused(refused)
        reply = self._allowance.counted(refused.reply)
        if isinstance(refused.command, Mail | Rcpt) and refused.reply.code not in (501, 503):
            self._note(Passed(refused.command, (), reply))
        return reply

    def _refuse_recipient(self, command: Rcpt) -> Reply:
        if self._transactions.open is None:
            return local_replies.BAD_SEQUENCE
        if self._allowance.covers_refused_recipient(self._transactions.open):
            self._note(Passed(command, (), local_replies.TOO_MANY_RECIPIENTS))
        if self._leg.recipients is None and self._allowance.tells_recipients():
            self._allowance.over("recipients", local_replies.TOO_MANY_RECIPIENTS)
        return local_replies.TOO_MANY_RECIPIENTS

    async def _hello(self, command: Ehlo | Helo) -> Reply:
        """EHLO and HELO begin anew, at any time: upstream is told with RSET (PROTOCOL §1.1 (3))."""
        upstream = self._leg.upstream
        if upstream is None:
            return local_replies.BAD_SEQUENCE
        refusal = await self._reset()
        if refusal is None and (self._context.says_client_name or self._auth.passed) and not upstream.spent:
            name = command.name if self._context.says_client_name else self._context.ehlo_name
            refusal = await greet_again(upstream, name)
        if refusal is not None:
            return refusal
        ruling = self._put_rules_between()
        if ruling is not None and (answer := (await ruling.helo(command.name)).answer) is not None:
            return answer
        self._helo = command
        self._leg.hear(command)
        if isinstance(command, Helo):
            self._client.protocol.offered = self._context.nothing
            return self._context.hello
        offer = self._auth.offer(upstream)
        self._client.protocol.offered = offer.capabilities
        return offer.reply

    async def _reset(self) -> Reply | None:
        """End the transaction that is open, with RSET upstream; where that fails, the 421 that ends the session."""
        if (failure := await self._messages.abandon()) is not None or self._transactions.open is None:
            return failure
        if (reply := (await self._ask([Rset()]))[0]).severity == 2:
            return None
        return reply if reply.code == 421 else local_replies.UPSTREAM_GONE

    async def _authenticate(self, command: Auth) -> None:
        """AUTH, behind the replies to what came before it in its group."""
        await self._say()
        reply = None if self._context.unrecorded is None else local_replies.AUTH_UNAVAILABLE
        if reply is None and (self._leg.upstream is None or self._leg.upstream.spent):
            reply = await self._dial_again()
        if reply is None and self._leg.upstream is not None:
            self._idle = True  # a shutdown does not wait for the client
            reply = await self._auth.converse(command, self._leg.upstream)
            self._idle = False
        await self._say([self._allowance.counted(reply or local_replies.UPSTREAM_GONE)])

    def _objection_to_mail(self, command: Mail, asked: Sequence[Command] = ()) -> Reply | None:
        """What speaks against a new transaction before upstream is asked; `asked` goes with it in its group."""
        if self._context.shutting_down and self._transactions.open is not None:
            return local_replies.SHUTTING_DOWN  # the transaction that may still end has ended: this is another one
        if (refusal := self._context.unrecorded) is not None:
            return refusal
        if not self._allowance.covers_message(sum([other.verb == "MAIL" for other in asked]) if asked else 0):
            return local_replies.TOO_MANY_MESSAGES
        size = get(command.parameters, b"SIZE")
        if size is not None and number(size) > self._context.max_size(self._leg.upstream):
            return local_replies.MESSAGE_TOO_BIG
        return None

    async def _mail(self, command: Mail) -> Reply:
        """MAIL that could not just be passed on: refused here, or first there have to be rules, or a new connection."""
        self._put_rules_between()
        objection = self._objection_to_mail(command)
        if objection is None and self._leg.upstream is not None and self._leg.upstream.spent:
            objection = await self._dial_again()
        if objection is None:
            return (await self._ask([command]))[0]
        self._allowance.tell_limit(objection)
        self._note(Passed(command, (), objection))
        return objection

    async def _reroute(self, to: str | None) -> Reply | None:
        """To another upstream, before MAIL has left; what the client hears where that cannot be (DESIGN §6)."""
        if self._auth.passed:
            return local_replies.MISCONFIGURED
        refusal = await self._leg.reroute(to) or self._auth.gap(self._leg.upstream, local_replies.MISCONFIGURED)
        self._leg.fits = refusal is None
        return refusal

    async def _dial_again(self) -> Reply | None:
        """A new connection in place of one that was closed, if it offers all that was offered, and knew no client by name (I7)."""
        if self._auth.passed:
            return local_replies.UPSTREAM_GONE
        return await self._leg.dial_again() or self._auth.gap(self._leg.upstream, local_replies.UPSTREAM_GONE)
