"""`--redirect-all`: the rules that send everything which the guard does not allow to one address, and have a reply-all reach nobody else.

Two, behind all others: who would get the message by the envelope, and who is named in its header section; the second for each message, since one that goes
to allowed recipients alone may still name others. From stays: it is nobody's to answer for. What the guard allows is spared in both, by the guard itself and
not by its patterns, so that no address is left which it would then refuse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relayproxy.mail.pattern import AddressPattern, Pattern
from relayproxy.rules.actions import RedirectRecipient, RewriteHeaderAddresses
from relayproxy.rules.conditions import All, Part
from relayproxy.rules.facts import Stage
from relayproxy.rules.rule import Rule
from relayproxy.rules.template import address as address_template

if TYPE_CHECKING:
    from relayproxy.rules.facts import Draws, Facts, Recipient
    from relayproxy.rules.guard import Guard
    from relayproxy.rules.rule import Subject

NAME: Final = "redirect-all"
#: Where a mail program looks when it answers all (RFC 5322 §3.6.3), the same of who passed it on (§3.6.6), and what mutt and Gnus obey instead.
FIELDS: Final = (
    "To", "Cc", "Bcc", "Reply-To", "Resent-To", "Resent-Cc", "Resent-Bcc", "Resent-Reply-To", "Mail-Followup-To", "Mail-Reply-To",
)  # fmt: skip


def redirect_all(address: str, guard: Guard) -> tuple[Rule, ...]:
    """The rules. `address` is one that the guard allows; else nothing would arrive anywhere."""
    to = address_template(address.replace("{", "{{").replace("}", "}}"))
    where = "--redirect-all"
    return (
        Rule(NAME, Outside(guard), (RedirectRecipient(to),), where=where),
        # Behind the header edits of all other rules that need not wait for the end of the message.
        Rule(
            f"{NAME}: header",
            All(()),
            (RewriteHeaderAddresses(FIELDS, (Inside(guard),), to),),
            at=Stage.EOH,
            where=where,
        ),
    )


class Outside(Part, frozen=True):
    """The guard does not allow the recipient."""

    guard: Guard

    @property
    def reads(self) -> frozenset[Subject]:
        return frozenset({"recipient"})

    def holds(self, facts: Facts, recipient: Recipient | None, draws: Draws, groups: dict[str, str]) -> bool:  # noqa: ARG002
        return recipient is not None and not self.guard.allows(recipient.address.encode("utf-8", "replace"))


class Inside(AddressPattern):
    """What the guard allows, as a pattern."""

    __slots__ = ("_guard",)

    def __init__(self, guard: Guard) -> None:
        super().__init__("*", Pattern.parse("*"))
        self._guard = guard

    def matches(self, value: str) -> bool:
        return self._guard.allows(value.encode("utf-8", "replace"))

    def groups(self, value: str) -> dict[str, str] | None:
        return {} if self.matches(value) else None
