"""When envelope and DATA may leave, computed from the rule set: as little is held as the rules require (DESIGN sentence 4, the table at the end of §6).

Each action at each stage asks for a row of that table; the gates are the latest of all rows. Opening them does not belong here, nor what is done while they are closed.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from relayproxy.rules.actions import (
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteHeader,
    DeleteRecipient,
    Discard,
    Hold,
    RedirectRecipient,
    Refuse,
    ReplaceBody,
    RewriteHeaderAddresses,
    RewriteRecipient,
    Route,
    StripAttachment,
)
from relayproxy.rules.facts import Stage
from relayproxy.rules.function import kinds

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from relayproxy.rules.rule import Rule


class EnvelopeGate(IntEnum):
    """When MAIL and RCPT leave: as they come, MAIL with the first RCPT, at DATA, at the end of the header section, at the end of the message."""

    LIVE = 0
    RCPT = 1
    DATA = 2
    EOH = 3
    EOM = 4


class DataGate(IntEnum):
    """When DATA leaves: as it comes, so with the header section held back (edited), at the end of the header section, at the end of the message (spooled)."""

    LIVE = 0
    HEADER = 1
    EOH = 2
    EOM = 3


class Gates(NamedTuple):
    """`dot`: the final dot waits for the rules at eom. The rules that force each, by name; None where it is open."""

    envelope: EnvelopeGate = EnvelopeGate.LIVE
    data: DataGate = DataGate.LIVE
    dot: bool = False
    envelope_rule: str | None = None
    data_rule: str | None = None
    dot_rule: str | None = None


class _Row(NamedTuple):
    """What one action at one stage asks for."""

    envelope: EnvelopeGate = EnvelopeGate.LIVE
    data: DataGate = DataGate.LIVE


_LIVE: Final = _Row()
_RCPT: Final = _Row(EnvelopeGate.RCPT)
_DATA: Final = _Row(EnvelopeGate.DATA)
_EOH: Final = _Row(EnvelopeGate.EOH, DataGate.EOH)
_EOM: Final = _Row(EnvelopeGate.EOM, DataGate.EOM)
# The envelope has left: it can be added to, or taken back by RSET, while DATA has not.
_DATA_AT_EOH: Final = _Row(data=DataGate.EOH)
# The header section leaves first: what is done to it for what comes later keeps DATA back, the envelope not.
_HEADER: Final = _Row(data=DataGate.HEADER)
_DATA_AT_EOM: Final = _Row(data=DataGate.EOM)
_DATA_AND_HEADER: Final = _Row(EnvelopeGate.DATA, DataGate.HEADER)

_ANY_HEADER_EDIT: Final = (_HEADER, _HEADER, _HEADER, _HEADER, _HEADER, _HEADER, _DATA_AT_EOM)
# Up to mail nothing has left; at data RSET takes back what has, as from the header section on.
_NOTHING_IS_TO_LEAVE: Final = (_LIVE, _LIVE, _LIVE, _DATA, _LIVE, _DATA_AT_EOH, _EOM)
# Whenever it is said, it is done at eom, and only then is known what MAIL may say of size and 8-bit content.
_ANY_BODY_EDIT: Final = (_EOM,) * 7
# fmt: off
#: By stage. What is not here (accept, tag, faults) changes nothing that leaves.
_ROWS: Final[Mapping[type, tuple[_Row, ...]]] = {
    #                   connect helo   mail   rcpt   data   eoh           eom
    ChangeSender:      (_LIVE, _LIVE, _LIVE, _DATA, _DATA, _EOH,         _EOM),
    Route:             (_LIVE, _LIVE, _LIVE, _RCPT, _DATA, _EOH,         _EOM),
    AddRecipient:      (_LIVE, _LIVE, _LIVE, _LIVE, _LIVE, _DATA_AT_EOH, _EOM),  # its RCPT leaves behind the others
    DeleteRecipient:   (_LIVE, _LIVE, _LIVE, _LIVE, _DATA, _EOH,         _EOM),
    RewriteRecipient:  (_LIVE, _LIVE, _LIVE, _LIVE, _DATA, _EOH,         _EOM),
    RedirectRecipient: (_HEADER, _HEADER, _HEADER, _HEADER, _DATA_AND_HEADER, _EOH, _EOM),  # the same, and edits the header section
    Refuse:            (_LIVE, _LIVE, _LIVE, _LIVE, _LIVE, _DATA_AT_EOH, _LIVE),  # at eom it is enough to keep the dot back
    Discard: _NOTHING_IS_TO_LEAVE,
    Hold: _NOTHING_IS_TO_LEAVE,
    AddHeader: _ANY_HEADER_EDIT,
    ChangeHeader: _ANY_HEADER_EDIT,
    DeleteHeader: _ANY_HEADER_EDIT,
    RewriteHeaderAddresses: _ANY_HEADER_EDIT,
    ReplaceBody: _ANY_BODY_EDIT,
    StripAttachment: _ANY_BODY_EDIT,
}
# fmt: on


def gates(placed: Iterable[tuple[Rule, Stage]]) -> Gates:
    """Of rules at their stages."""
    found = Gates()
    for rule, stage in placed:
        for kind in [kind for action in rule.then for kind in kinds(action)]:
            row = _ROWS[kind][stage] if kind in _ROWS else _LIVE
            if row.envelope > found.envelope:
                found = found._replace(envelope=row.envelope, envelope_rule=rule.name)
            if row.data > found.data:
                found = found._replace(data=row.data, data_rule=rule.name)
        # Whatever it does: a rule that goes wrong must be able to refuse the message.
        if stage is Stage.EOM and not found.dot:
            found = found._replace(dot=True, dot_rule=rule.name)
    return found
