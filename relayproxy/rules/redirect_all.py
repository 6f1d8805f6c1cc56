"""`--redirect-all`: the rules that send everything which the guard does not allow to one address, and have an answer reach nobody else.

Three, behind all others: who gets the message by the envelope, who is named in its header section where mail programs look (FIELDS), and who is answered where that
does not say. They run always, also behind an `accept`, each behind the last rule that writes what it looks after (stages.py): where one names somebody from the
whole message, as a function at eom may, that is at the end of the message, and DATA leaves then. The last two are for each message, since one that goes to allowed
recipients alone may still name others.

What the guard allows is spared, by the guard itself and not by its patterns, so that no address is left which it would then refuse. What stays as it came: the
reverse-path, which a mail server tells that it cannot deliver; From, Sender and the text with its links (those of List-Unsubscribe too), since they are what is tested.
Where answers could go to From, and it is not wholly inside or not there, a Reply-To has them go to the one address; it stands on top, since programs take a
line that is no field for the end of the section (Postfix and Exim make it so).
"""

from __future__ import annotations

import re
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from relayproxy.mail.address_list import found
from relayproxy.mail.canonical import dequoted, split
from relayproxy.mail.odd import is_plain
from relayproxy.mail.words import unfold
from relayproxy.rules.actions import AddHeader, DeleteHeader, RedirectRecipient, RewriteHeaderAddresses
from relayproxy.rules.conditions import All, Part
from relayproxy.rules.rule import Rule, header
from relayproxy.rules.template import address as address_template
from relayproxy.rules.template import text as text_template

if TYPE_CHECKING:
    from relayproxy.rules.facts import Draws, Facts, Recipient
    from relayproxy.rules.guard import Guard
    from relayproxy.rules.rule import Subject

NAME: Final = "redirect-all"
#: In these nobody outside is left.
FIELDS: Final = (
    "To", "Cc", "Bcc", "Reply-To",  # where a mail program looks when it answers all (RFC 5322 §3.6.3)
    "Resent-To", "Resent-Cc", "Resent-Bcc", "Resent-Reply-To",  # the same, of who passed it on (§3.6.6)
    "Mail-Followup-To", "Mail-Reply-To", "Mail-Copies-To",  # what mutt and Gnus obey instead
    "Apparently-To",  # sendmail's To where there was none, and read as one by mutt and by `sendmail -t`
    "Disposition-Notification-To",  # where programs send word that it was read (RFC 8098 §2.1)
    "Return-Receipt-To", "Read-Receipt-To", "X-Confirm-Reading-To",  # the same, of older ones
    "Errors-To",  # where mail servers send word that it did not arrive
)  # fmt: skip
#: This goes, whomever it names: its values are URLs, mail programs offer to answer there, and where it is the Reply-To, Thunderbird answers From instead.
LIST: Final = "List-Post"

_QUOTED: Final = re.compile(rb'"(?:[^"\\]|\\.?)*(?:"|\Z)', re.DOTALL)
#: A group, a semicolon, or nothing between two commas: programs differ in what they read, some read nobody, and then answer From.
_UNLIKE_A_LIST: Final = re.compile(rb"[:;]|(?:^|,)[ \t]*(?:,|$)")


def redirect_all(address: str, guard: Guard) -> tuple[Rule, ...]:
    """The rules. `address` is one that the guard allows; else nothing would arrive anywhere."""
    inside = Inside(guard)
    written = address.replace("{", "{{").replace("}", "}}")
    to = address_template(written)
    where = "--redirect-all"
    return (
        Rule(NAME, Outside(guard), (RedirectRecipient(to),), where=where, always=True),
        Rule(
            f"{NAME}: header",
            All(()),
            (RewriteHeaderAddresses(FIELDS, (inside,), to), DeleteHeader(LIST)),
            where=where,
            always=True,
        ),
        Rule(
            f"{NAME}: answers",
            AnsweredOutside(inside),
            (DeleteHeader("Reply-To"), AddHeader("Reply-To", text_template(written), 0)),
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
    """From does not name people inside alone, and there is no one Reply-To that all programs read. Where From names nobody, they answer Sender, or the reverse-path."""

    inside: Inside

    @property
    def reads(self) -> frozenset[Subject]:
        return frozenset({header("From"), header("Reply-To")})

    def holds(self, facts: Facts, recipient: Recipient | None, draws: Draws, groups: dict[str, str]) -> bool:  # noqa: ARG002
        section = facts.header
        if section is None:
            return False
        seen = [*takewhile(lambda field: field.name, section.fields)]
        authors = section.get_all(b"From")
        if authors and authors[0] in seen and all(self._names(field.value) for field in authors):
            return False
        answers = section.get_all(b"Reply-To")
        return not (len(answers) == 1 and answers[0] in seen and self._names(answers[0].value, plainly=True))

    def _names(self, value: bytes, *, plainly: bool = False) -> bool:
        """Whether it names people, and these are inside; `plainly`: in a list of mailboxes that no program reads otherwise, or not at all."""
        if plainly and _UNLIKE_A_LIST.search(_QUOTED.sub(b"x", unfold(value))):
            return False
        named = found(value)
        if plainly and not all(one.address is not None and one.address.isascii() for one in named):
            return False
        return bool(named) and all(one.address is not None and self.inside.spares(one.address) for one in named)


class Inside:
    """Spares what the guard allows, where all who read a field find the same address."""

    __slots__ = ("_guard",)

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def spares(self, address: str) -> bool:
        local, _ = split(address)
        return is_plain(dequoted(local)) and self._guard.allows(address.encode("utf-8", "replace"))
