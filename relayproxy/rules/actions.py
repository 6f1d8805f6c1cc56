"""The actions, each with what it reads, writes and asks of a configuration (DESIGN §6 "Actions"). How they are written does not belong here (action_syntax.py), nor what comes of them (evaluation.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, Literal

import msgspec

from relayproxy.mail.edits import DESTINATIONS
from relayproxy.rules.rule import header
from relayproxy.rules.wording import nearest

if TYPE_CHECKING:
    from collections.abc import Collection

    from relayproxy.mail.address_edits import Spares
    from relayproxy.mail.pattern import AddressPattern, Pattern
    from relayproxy.rules.decision import Disconnect
    from relayproxy.rules.rule import Action, Subject, Template

_NONE: Final[frozenset[Subject]] = frozenset()
RECIPIENTS: Final[frozenset[Subject]] = frozenset({"recipient", "recipients"})


class Act(msgspec.Struct, frozen=True):
    """What all have."""

    name: ClassVar[str] = ""
    stops: ClassVar[bool] = False
    ends: ClassVar[bool] = False

    @property
    def reads(self) -> frozenset[Subject]:
        return _NONE

    @property
    def writes(self) -> frozenset[Subject]:
        return _NONE


class ChangeSender(Act, frozen=True):
    name: ClassVar[str] = "change_sender"
    address: Template

    @property
    def reads(self) -> frozenset[Subject]:
        return self.address.reads

    @property
    def writes(self) -> frozenset[Subject]:
        return frozenset({"sender"})


class AddRecipient(Act, frozen=True):
    name: ClassVar[str] = "add_recipient"
    addresses: tuple[Template, ...]

    @property
    def reads(self) -> frozenset[Subject]:
        return _NONE.union(*[address.reads for address in self.addresses])

    @property
    def writes(self) -> frozenset[Subject]:
        return RECIPIENTS


class DeleteRecipient(Act, frozen=True):
    """None: the one that the rule runs for; else all that match of those that are there, at rcpt that RCPT's."""

    name: ClassVar[str] = "delete_recipient"
    patterns: tuple[AddressPattern, ...] | None = None

    @property
    def reads(self) -> frozenset[Subject]:
        return frozenset({"recipient"})

    @property
    def writes(self) -> frozenset[Subject]:
        return RECIPIENTS


class RewriteRecipient(Act, frozen=True):
    name: ClassVar[str] = "rewrite_recipient"
    addresses: tuple[Template, ...]

    @property
    def reads(self) -> frozenset[Subject]:
        return frozenset({"recipient"}).union(*[address.reads for address in self.addresses])

    @property
    def writes(self) -> frozenset[Subject]:
        return RECIPIENTS


class RedirectRecipient(Act, frozen=True):
    name: ClassVar[str] = "redirect_recipient"
    address: Template

    @property
    def reads(self) -> frozenset[Subject]:
        return self.address.reads | {"recipient"}

    @property
    def writes(self) -> frozenset[Subject]:
        return RECIPIENTS | {header(field) for field in DESTINATIONS}


class RewriteHeaderAddresses(Act, frozen=True):
    name: ClassVar[str] = "rewrite_header_addresses"
    fields: tuple[str, ...]
    spare: tuple[Spares, ...]
    to: Template

    @property
    def reads(self) -> frozenset[Subject]:
        return self.to.reads

    @property
    def writes(self) -> frozenset[Subject]:
        return frozenset(header(field) for field in self.fields)


class AddHeader(Act, frozen=True):
    """`index` None: add_header, else insert_header."""

    field: str
    value: Template
    index: int | None = None

    @property
    def name(self) -> str:  # type: ignore[override]
        return "add_header" if self.index is None else "insert_header"

    @property
    def reads(self) -> frozenset[Subject]:
        return self.value.reads

    @property
    def writes(self) -> frozenset[Subject]:
        return frozenset({header(self.field)})


class ChangeHeader(Act, frozen=True):
    name: ClassVar[str] = "change_header"
    field: str
    n: int
    value: Template

    @property
    def reads(self) -> frozenset[Subject]:
        return self.value.reads

    @property
    def writes(self) -> frozenset[Subject]:
        return frozenset({header(self.field)})


class DeleteHeader(Act, frozen=True):
    name: ClassVar[str] = "delete_header"
    field: str
    n: int | None = None

    @property
    def writes(self) -> frozenset[Subject]:
        return frozenset({header(self.field)})


class ReplaceBody(Act, frozen=True):
    name: ClassVar[str] = "replace_body"
    text: Template

    @property
    def reads(self) -> frozenset[Subject]:
        return self.text.reads

    @property
    def writes(self) -> frozenset[Subject]:
        return frozenset({"body", "attachment"})


class StripAttachment(Act, frozen=True):
    name: ClassVar[str] = "strip_attachment"
    pattern: Pattern

    @property
    def reads(self) -> frozenset[Subject]:
        return frozenset({"attachment"})

    @property
    def writes(self) -> frozenset[Subject]:
        return frozenset({"body", "attachment"})


Kind = Literal["reject", "tempfail", "reply"]


class Refuse(Act, frozen=True):
    """`reject`, `tempfail`, `reply`: `text` gives all of it behind the code, enhanced code first where it has one."""

    kind: Kind
    code: int
    text: Template
    stops: ClassVar[bool] = True
    ends: ClassVar[bool] = True

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.kind

    @property
    def reads(self) -> frozenset[Subject]:
        return self.text.reads


class Discard(Act, frozen=True):
    name: ClassVar[str] = "discard"
    stops: ClassVar[bool] = True
    ends: ClassVar[bool] = True


class Hold(Act, frozen=True):
    """Later rules run all the same: it is held as they leave it."""

    name: ClassVar[str] = "hold"
    reason: Template

    @property
    def reads(self) -> frozenset[Subject]:
        return self.reason.reads


class Accept(Act, frozen=True):
    name: ClassVar[str] = "accept"
    stops: ClassVar[bool] = True


class Route(Act, frozen=True):
    name: ClassVar[str] = "route"
    upstream: str


class Tag(Act, frozen=True):
    name: ClassVar[str] = "tag"
    text: Template

    @property
    def reads(self) -> frozenset[Subject]:
        return self.text.reads


class Delay(Act, frozen=True):
    """Seconds."""

    name: ClassVar[str] = "delay"
    seconds: float


class Throttle(Act, frozen=True):
    """Octets a second."""

    name: ClassVar[str] = "throttle"
    rate: int


class Cut(Act, frozen=True):
    name: ClassVar[str] = "disconnect"
    how: Disconnect
    stops: ClassVar[bool] = True


class DropReply(Act, frozen=True):
    name: ClassVar[str] = "drop_reply"


def misfit(action: Action, upstreams: Collection[str] | None, *, has_store: bool) -> str | None:
    """What an action asks for that a configuration does not have, in words. `upstreams`: their names, None where nobody knows."""
    match action:
        case Route(upstream=name) if upstreams is not None and name not in upstreams:
            return f"route: expected the name of an upstream, got {name!r}; {nearest(name, upstreams)}"
        case Hold() if not has_store:
            return 'hold: expected a store that keeps what is held, as record.store is "none"'
        case _:
            return None
