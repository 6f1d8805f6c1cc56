"""A message's content under rules: what they ask of it is gathered while it comes, what has to wait waits here, and edits of the body are made once all decided (DESIGN §6).

Invariants: nothing grows with the message: what waits is spooled, what is looked for is bounded (mail/mime.py). Stuffing is the last thing done to content (PROTOCOL §1.5).
When anything leaves does not belong here (gated.py).
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from relayproxy.mail.body_edit import Stripper, plain_body
from relayproxy.mail.edits import edited
from relayproxy.mail.header import HeaderSection
from relayproxy.mail.mime import Scanner
from relayproxy.net.spool import Spool
from relayproxy.rules.facts import Content
from relayproxy.rules.gates import DataGate
from relayproxy.smtp.data import Stuffer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from relayproxy.mail.edits import HeaderEdit
    from relayproxy.relay.keeping import Keeping
    from relayproxy.relay.message import Intake
    from relayproxy.relay.plan import Plan
    from relayproxy.rules.facts import BodyEdit


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

    async def add(self, intake: Intake) -> None:
        """What the intake's last slice brought of the body. Raises SpoolError."""
        if self._plan.rules.reads_content:
            if self._scanner is None:
                self._scanner = Scanner(self._plan.facts.header or HeaderSection(b""))
            self._scanner.feed(intake.body)
        if self._spool is not None:
            await self._spool.add(intake.body)

    def content(self, size: int) -> Content:
        """All has come."""
        if self._scanner is None:
            return Content(size)
        self._scanner.finish()
        return Content.of(size, self._scanner)

    async def finish(self, intake: Intake, keeping: Keeping | None) -> None:
        """Make the edits; what leaves is then known, and told to `intake` and `keeping`. Raises SpoolError."""
        plan = self._plan
        header = plan.facts.header or HeaderSection(b"")
        for edit in plan.facts.body:
            header = await self._edit(edit, header)
        intake.edit(header)
        if self._edited is None:
            return
        intake.body_leaves(b"")  # it may be empty
        if keeping is not None:
            await keeping.body_leaves(b"")
        async with aclosing(self._edited.pieces()) as pieces:
            async for piece in pieces:
                intake.body_leaves(piece)
                if keeping is not None:
                    await keeping.body_leaves(piece)

    async def _edit(self, edit: BodyEdit, header: HeaderSection) -> HeaderSection:
        source = self._edited or self._spool
        made = Spool(self._memory)
        edits: tuple[HeaderEdit, ...] = ()
        try:
            if edit.text is not None:
                edits, octets = plain_body(header, edit.text)
                await made.add(octets)
            elif edit.strip is not None and source is not None:
                stripper = Stripper(header, edit.strip)
                async with aclosing(source.pieces()) as pieces:
                    async for piece in pieces:
                        await made.add(stripper.feed(piece))
                await made.add(stripper.finish())
                edits = stripper.edits
        except BaseException:
            made.close()
            raise
        if source is not None:
            source.close()
        self._edited = made
        return edited(header, edits) if edits else header

    async def wire(self, intake: Intake) -> AsyncGenerator[bytes, None]:
        """Mail data as it leaves, in pieces. Raises SpoolError."""
        source = self._edited or self._spool
        stuffer = Stuffer()
        yield stuffer.feed(intake.top)
        if source is not None:
            async with aclosing(source.pieces()) as pieces:
                async for piece in pieces:
                    yield stuffer.feed(piece)

    def close(self) -> None:
        """Nothing of it is wanted any more."""
        for spool in (self._spool, self._edited):
            if spool is not None:
                spool.close()
