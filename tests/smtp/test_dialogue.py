"""The dialogue tables, cell by cell: every state, event and severity; what is not written here has no place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import pytest

from relayproxy.smtp.dialogue import CHANNEL, EVENTS, FRAMING, TRANSACTION, Channel, Dialogue, Framing, Transaction
from relayproxy.smtp.errors import LocalProtocolError

# state: events > next state after 2yz, 3yz, 4yz, 5yz ("." = as before, "-" = no such reply here)
CHANNEL_CELLS = """
connected: GREETING                                  > greeted -  closing refused
greeted:   EHLO                                      > extended - . .
greeted:   HELO                                      > basic - . .
greeted:   RSET NOOP VRFY HELP                       > . - . .
greeted:   QUIT                                      > closing - closing closing
refused:   QUIT                                      > closing - closing closing
basic:     EHLO                                      > extended - . .
basic:     HELO                                      > . - . .
basic:     MAIL RCPT END BDAT BDAT_LAST              > . - . .
basic:     DATA                                      > . . . .
basic:     RSET NOOP VRFY HELP                       > . - . .
basic:     QUIT                                      > closing - closing closing
extended:  EHLO                                      > . - . .
extended:  HELO                                      > basic - . .
extended:  MAIL RCPT END BDAT BDAT_LAST              > . - . .
extended:  DATA                                      > . . . .
extended:  AUTH RESPONSE                             > . . . .
extended:  CANCEL                                    > - - . .
extended:  RSET NOOP VRFY HELP                       > . - . .
extended:  STARTTLS                                  > handshake - . .
extended:  XCLIENT                                   > greeted - . .
extended:  XFORWARD                                  > . - . .
extended:  QUIT                                      > closing - closing closing
handshake: TLS                                       > greeted - - -
"""

TRANSACTION_CELLS = """
none:   GREETING TLS                                 > . - . .
none:   MAIL                                         > mail - . .
none:   AUTH RESPONSE                                > . . . .
none:   CANCEL                                       > - - . .
none:   XCLIENT XFORWARD                             > . - . .
none:   RSET EHLO HELO STARTTLS NOOP VRFY HELP QUIT  > . - . .
mail:   RCPT                                         > rcpt - . .
mail:   BDAT                                         > - - failed failed
mail:   BDAT_LAST                                    > - - none none
mail:   RSET EHLO HELO STARTTLS                      > none - . .
mail:   NOOP VRFY HELP                               > . - . .
mail:   QUIT                                         > none - none none
rcpt:   RCPT                                         > . - . .
rcpt:   DATA                                         > - data . .
rcpt:   BDAT                                         > bdat - failed failed
rcpt:   BDAT_LAST                                    > none - none none
rcpt:   RSET EHLO HELO STARTTLS                      > none - . .
rcpt:   NOOP VRFY HELP                               > . - . .
rcpt:   QUIT                                         > none - none none
data:   END                                          > none - none none
bdat:   BDAT                                         > . - failed failed
bdat:   BDAT_LAST                                    > none - none none
bdat:   RSET EHLO HELO STARTTLS                      > none - . .
bdat:   NOOP VRFY HELP                               > . - . .
bdat:   QUIT                                         > none - none none
failed: BDAT                                         > - - . .
failed: BDAT_LAST                                    > - - none none
failed: RSET EHLO HELO STARTTLS                      > none - . .
failed: NOOP VRFY HELP                               > . - . .
failed: QUIT                                         > none - none none
"""

FRAMING_CELLS = """
command: GREETING EHLO HELO MAIL RCPT BDAT BDAT_LAST RSET NOOP VRFY HELP QUIT > . - . .
command: XCLIENT XFORWARD                             > . - . .
command: DATA                                        > - data . .
command: AUTH                                        > . sasl . .
command: STARTTLS                                    > tls - . .
data:    END                                         > command - command command
sasl:    RESPONSE                                    > command . command command
sasl:    CANCEL                                      > - - command command
tls:     TLS                                         > command - command command
"""


Table = Mapping[tuple[str, str], Mapping[int, str]]


def cells(text: str) -> Table:
    table = {}
    for line in text.strip().splitlines():
        state, _, rest = line.partition(":")
        events, _, targets = rest.partition(">")
        for event in events.split():
            row = zip((2, 3, 4, 5), targets.split(), strict=True)
            table[state, event.replace("_", " ")] = {
                severity: state if target == "." else target for severity, target in row if target != "-"
            }
    return table


MACHINES = [
    pytest.param(CHANNEL, CHANNEL_CELLS, get_args(Channel), id="channel"),
    pytest.param(TRANSACTION, TRANSACTION_CELLS, get_args(Transaction), id="transaction"),
    pytest.param(FRAMING, FRAMING_CELLS, get_args(Framing), id="framing"),
]


@pytest.mark.parametrize(("table", "text", "states"), MACHINES)
def test_every_cell(table: Table, text: str, states: tuple[str, ...]) -> None:
    expected = cells(text)
    for state in states:
        for event in EVENTS:
            assert table.get((state, event)) == expected.get((state, event)), (state, event)


@pytest.mark.parametrize(
    ("table", "states"), [pytest.param(*machine.values[::2], id=machine.id) for machine in MACHINES]
)
def test_tables_name_only_states_and_events_that_exist(table: Table, states: tuple[str, ...]) -> None:
    for (state, event), row in table.items():
        assert state in states
        assert event in EVENTS
        assert set(row.values()) <= set(states)


def walk(*steps: tuple[str, int]) -> Dialogue:
    dialogue = Dialogue()
    for event, severity in steps:
        dialogue.advance(event, severity)
    return dialogue


READY = (("GREETING", 2), ("EHLO", 2))
ACCEPTED = (*READY, ("MAIL", 2), ("RCPT", 2))


@pytest.mark.parametrize("verdict", [2, 4, 5])
def test_every_verdict_on_a_message_resets_the_transaction_i12(verdict: int) -> None:
    dialogue = walk(*ACCEPTED, ("DATA", 3), ("END", verdict))
    assert (dialogue.transaction, dialogue.framing) == ("none", "command")
    assert not dialogue.admits("RCPT")
    assert not dialogue.admits("DATA")


@pytest.mark.parametrize("event", ["RSET", "EHLO", "HELO", "STARTTLS"])
def test_reset_is_total_i12(event: str) -> None:
    dialogue = walk(*ACCEPTED, (event, 2))
    assert dialogue.transaction == "none"


def test_a_session_after_starttls_must_begin_again() -> None:
    dialogue = walk(*READY, ("STARTTLS", 2))
    assert not dialogue.admits("EHLO")
    dialogue.advance("TLS", 2)
    assert not dialogue.admits("MAIL")
    assert not dialogue.admits("STARTTLS")
    assert dialogue.admits("EHLO")


@pytest.mark.parametrize(
    ("steps", "event", "severity"),
    [(READY, "MAIL", 3), (ACCEPTED, "DATA", 2), (READY, "RCPT", 2), ((), "EHLO", 2), (ACCEPTED, "AUTH", 3)],
)
def test_what_has_no_place_is_refused_and_changes_nothing(
    steps: tuple[tuple[str, int], ...], event: str, severity: int
) -> None:
    dialogue = walk(*steps)
    before = (dialogue.channel, dialogue.transaction, dialogue.framing)
    with pytest.raises(LocalProtocolError, match=event):
        dialogue.advance(event, severity)
    assert (dialogue.channel, dialogue.transaction, dialogue.framing) == before
