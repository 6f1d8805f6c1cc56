"""A message's content under rules: what they ask of it is gathered while it comes, what has to wait waits here, and edits of the body are made once all decided (DESIGN §6).

Invariants: nothing grows with the message: what waits is spooled, what is looked for is bounded (mail/mime.py). Stuffing is the last thing done to content (PROTOCOL §1.5).
When anything leaves does not belong here (gated.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from relayproxy.mail.body_edit import Stripper, replaced
from relayproxy.mail.edits import edited
from relayproxy.mail.header import HeaderSection
from relayproxy.mail.mime import Scanner
from relayproxy.net.spool import Spool, SpoolError
from relayproxy.rules.gates import DataGate
from relayproxy.smtp import local_replies
from relayproxy.smtp.data import Stuffer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from relayproxy.mail.edits import HeaderEdit
    from relayproxy.relay.keeping import Keeping
    from relayproxy.relay.message import Intake
    from relayproxy.relay.plan import Plan
    from relayproxy.rules.facts import BodyEdit
    from relayproxy.smtp.replies import Reply


class Content(NamedTuple):
    """What rules see of a message at its end (rules/facts.py)."""

    size: int
    text: str
    attachments: tuple[str, ...]


class Rewriting:
    """One message's. `holds`: all of it waits for its end."""

    __slots__ = ("_edited", "_memory", "_plan", "_scanner", "_spool", "holds")

    def __init__(self, plan: Plan, memory: int) -> None:
        """`memory`: octets of it that wait there; the rest waits on disk."""
        self.holds = plan.rules.gates.data is DataGate.EOM
        self._plan = plan
        self._memory = memory
        self._spool = Spool(memory) if self.holds else None
        self._edited: Spool | None = None
        self._scanner: Scanner | None = None

    async def add(self, intake: Intake) -> Reply | None:
        """What the intake's last slice brought of the body; a refusal where it cannot wait."""
        if self._plan.rules.reads_content:
            if self._scanner is None:
                self._scanner = Scanner(intake.header or HeaderSection(b""))
            self._scanner.feed(intake.body)
        try:
            if self._spool is not None:
                await self._spool.add(intake.body)
        except SpoolError as error:
            return _refusal(error)
        return None

    def content(self, size: int) -> Content:
        """All has come."""
        if self._scanner is None:
            return Content(size, "", ())
        self._scanner.finish()
        return Content(size, self._scanner.text, self._scanner.attachments)

    async def finish(self, intake: Intake, keeping: Keeping | None) -> Reply | None:
        """Make the edits; what leaves is then known, and told to `intake` and `keeping`. A refusal where there is no room for it."""
        plan, header = self._plan, self._plan.header
        if header is None or self._spool is None:
            return local_replies.RULE_FAILED
        try:
            for edit in plan.facts.body:
                header = await self._edit(edit, header)
            plan.header = header
            intake.edit(header)
            if self._edited is not None:
                async for piece in self._edited.pieces():
                    intake.body_leaves(piece)
                    if keeping is not None:
                        await keeping.body_leaves(piece)
        except SpoolError as error:
            return _refusal(error)
        except ValueError:  # an edit that makes no field: the message does not leave without it
            return local_replies.RULE_FAILED
        return None

    async def _edit(self, edit: BodyEdit, header: HeaderSection) -> HeaderSection:
        source = self._edited or self._spool
        made = Spool(self._memory)
        edits: tuple[HeaderEdit, ...] = ()
        try:
            if edit.text is not None:
                edits, octets = replaced(edit.text, header)
                await made.add(octets)
            elif edit.strip is not None and source is not None:
                stripper = Stripper(header, edit.strip)
                async for piece in source.pieces():
                    await made.add(stripper.feed(piece))
                await made.add(stripper.finish())
                edits = stripper.edits
        except BaseException:
            made.close()
            raise
        if self._edited is not None:
            self._edited.close()
        self._edited = made
        return edited(header, edits) if edits else header

    async def wire(self, intake: Intake) -> AsyncIterator[tuple[bytes, bool]]:
        """Mail data as it leaves, in pieces; True with the last, which is to leave with the dot. Raises SpoolError."""
        source = self._edited or self._spool
        stuffer = Stuffer()
        separator = intake.separator or (b"\r\n" if self._edited is not None else b"")
        waiting = stuffer.feed(intake.top(separator))
        if source is not None:
            async for piece in source.pieces():
                yield waiting, False
                waiting = stuffer.feed(piece)
        yield waiting, True

    def close(self) -> None:
        """Nothing of it is wanted any more."""
        for spool in (self._spool, self._edited):
            if spool is not None:
                spool.close()


def _refusal(error: SpoolError) -> Reply:
    return local_replies.DISK_FULL if error.full else local_replies.MESSAGE_NOT_HELD
