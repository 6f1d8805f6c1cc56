"""The recipients of a message while rules change them (DESIGN §6; PROTOCOL §1.11).

Identical ones collapse into one, or mail would be delivered twice: `collapsed`, which serves within one RCPT's recipients and across RCPTs.
Which rule runs for which recipient does not belong here (evaluation.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from relayproxy.mail.canonical import canonical
from relayproxy.rules.facts import Recipient

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from relayproxy.mail.pattern import AddressPattern


def collapsed(recipients: Iterable[Recipient]) -> tuple[Recipient, ...]:
    """The first of those that are one in canonical form, which says for whose RCPTs it stands."""
    found: dict[str, Recipient] = {}
    for one in recipients:
        address = canonical(one.address)
        first = found.setdefault(address, one)
        if first is not one:
            stands_for = {first.origin, *first.also}
            more = [origin for origin in (one.origin, *one.also) if origin >= 0 and origin not in stands_for]
            if more:
                found[address] = msgspec.structs.replace(first, also=(*first.also, *more))
    return tuple(found.values())


class Recipients:
    """What becomes of recipients while one rule runs; each is known by its place before the rule."""

    __slots__ = ("_added", "_became", "_changed")

    def __init__(self, before: Sequence[Recipient]) -> None:
        self._became: list[tuple[Recipient, ...]] = [(one,) for one in before]
        self._added: tuple[Recipient, ...] = ()
        self._changed = False

    def add(self, addresses: Iterable[str]) -> None:
        self._added += tuple([Recipient(address) for address in addresses])
        self._changed = True

    def rewrite(self, place: int, one: Recipient, addresses: Iterable[str]) -> None:
        """`one` is who stood there before."""
        self._became[place] = tuple([_rewritten(one, address) for address in addresses])
        self._changed = True

    def delete(self, place: int) -> None:
        self._became[place] = ()
        self._changed = True

    def delete_matching(self, patterns: Sequence[AddressPattern]) -> None:
        def left(of: tuple[Recipient, ...]) -> tuple[Recipient, ...]:
            return tuple([one for one in of if not any(pattern.matches(one.address) for pattern in patterns)])

        self._became = [left(became) for became in self._became]
        self._added = left(self._added)
        self._changed = True

    @property
    def result(self) -> tuple[Recipient, ...] | None:
        """Who they are now; None where nothing was done to them: what no rule touches stays, identical ones too."""
        if not self._changed:
            return None
        return collapsed([one for became in (*self._became, self._added) for one in became])


def _rewritten(one: Recipient, address: str) -> Recipient:
    if address == one.address:
        return one
    return msgspec.structs.replace(one, address=address, parameters=_without_orcpt(one.parameters))


def _without_orcpt(parameters: Mapping[str, str | None]) -> Mapping[str, str | None]:
    """RFC 3461 §4.2 names whom the sender meant, which is what the rewriting hides."""
    return {keyword: value for keyword, value in parameters.items() if keyword != "ORCPT"}
