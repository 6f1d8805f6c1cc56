"""`--redirect-all`: the rules that send everything which the guard does not allow to one address, and have a reply-all reach nobody else.

Three, behind all others, also where one of these says `accept`: who would get the message by the envelope, who is named in its header section, and who is answered where that does not say. The last
two are for each message, since one that goes to allowed recipients alone may still name others. From stays, since it is what is tested: where answers would go there,
and it is outside, a Reply-To has them go to the one address. What the guard allows is spared, by the guard itself and not by its patterns, so that no address is left
which it would then refuse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relayproxy.mail.address_list import found
from relayproxy.mail.canonical import dequoted, split
from relayproxy.mail.odd import is_plain
from relayproxy.rules.actions import AddHeader, DeleteHeader, RedirectRecipient, RewriteHeaderAddresses
from relayproxy.rules.conditions import All, Part
from relayproxy.rules.facts import Stage
from relayproxy.rules.rule import Rule, header
from relayproxy.rules.template import address as address_template
from relayproxy.rules.template import text as text_template

if TYPE_CHECKING:
    from relayproxy.rules.facts import Draws, Facts, Recipient
    from relayproxy.rules.guard import Guard
    from relayproxy.rules.rule import Subject

NAME: Final = "redirect-all"
#: Where a mail program looks when it answers all (RFC 5322 §3.6.3), the same of who passed it on (§3.6.6), what mutt and Gnus obey instead, and where
#: programs send word by themselves: that it was read (RFC 8098 §2.1), that it did not arrive.
FIELDS: Final = (
    "To", "Cc", "Bcc", "Reply-To", "Resent-To", "Resent-Cc", "Resent-Bcc", "Resent-Reply-To", "Mail-Followup-To", "Mail-Reply-To",
    "Disposition-Notification-To", "Return-Receipt-To", "Errors-To",
)  # fmt: skip


def redirect_all(address: str, guard: Guard) -> tuple[Rule, ...]:
    """The rules. `address` is one that the guard allows; else nothing would arrive anywhere."""
    written = address.replace("{", "{{").replace("}", "}}")
    to = address_template(written)
    where = "--redirect-all"
    return (
        Rule(NAME, Outside(guard), (RedirectRecipient(to),), where=where, always=True),
        # Behind the header edits of all other rules that need not wait for the end of the message.
        Rule(
            f"{NAME}: header",
            All(()),
            (RewriteHeaderAddresses(FIELDS, (Inside(guard),), to),),
            at=Stage.EOH,
            where=where,
            always=True,
        ),
        Rule(
            f"{NAME}: answers",
            AnsweredOutside(guard),
            (DeleteHeader("Reply-To"), AddHeader("Reply-To", text_template(written))),
            where=where,
            always=True,
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


class AnsweredOutside(Part, frozen=True):
    """No Reply-To names anybody, and From does whom the guard does not allow."""

    guard: Guard

    @property
    def reads(self) -> frozenset[Subject]:
        return frozenset({header("From"), header("Reply-To")})

    def holds(self, facts: Facts, recipient: Recipient | None, draws: Draws, groups: dict[str, str]) -> bool:  # noqa: ARG002
        section = facts.header
        if section is None or any(found(field.value) for field in section.get_all(b"Reply-To")):
            return False
        authors = [one.address for field in section.get_all(b"From") for one in found(field.value)]
        return any(one is None or not self.guard.allows(one.encode("utf-8", "replace")) for one in authors)


class Inside:
    """Spares what the guard allows, where all who read a field find the same address."""

    __slots__ = ("_guard",)

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def spares(self, address: str) -> bool:
        local, _ = split(address)
        return is_plain(dequoted(local)) and self._guard.allows(address.encode("utf-8", "replace"))
