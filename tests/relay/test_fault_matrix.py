"""The fault matrix (PROTOCOL §4), cell by cell: at each stage of a session something dies; what client, upstream and record see of it.

`CELLS` is the matrix. The dialogs of a cell are dialogs/faults/sN-COLUMN*.dialog, which are played like all dialogs; here is held that no
cell is without one and that each session of each ends as the matrix says. SIGKILL needs processes, and is played here.
Column DF is a recorder that cannot write. No rule runs in S2 and S3, and none from S7 on, so that none raises there; one that takes too long is test_workers.py's.
Nor is SIGKILL in S8: whether our 250 had left the machine is nothing that a test can arrange, and both legs see what they see in S7 or S9.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from relay_on_sockets import END_OF_DATA, relay_process, until_stored, upstream_server

from relayproxy.record.dialog import Event, Line, Note, parse
from relayproxy.record.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from relay_on_sockets import Client

    from relayproxy.record.dialog import Session
    from relayproxy.record.store.interface import Stored

FAULTS = Path(__file__).parents[1] / "dialogs" / "faults"


class Cell(NamedTuple):
    """`client`: the last replies that it hears, "gone" where it is not there to hear any; `upstream`: how its connection ends, "X" is closed
    without QUIT; `record`: the outcomes, "none" where there is no transaction. Alternatives are separated by `|`.
    """

    client: str
    upstream: str
    record: str


#: "itself": upstream closed first. What a refusal of a transaction that goes on says: 451 for the command, 421 for the next.
LOST = "451 4.4.2, 421 4.4.2"
CELLS = {
    "S0": {
        "client-vanishes": Cell("gone", "QUIT|X", "none"),
        "upstream-vanishes": Cell("421 4.4.1|421 4.4.3", "itself", "none"),
        "upstream-stalls": Cell("421 4.4.2", "X|itself", "none"),
        "upstream-421": Cell("421 4.7.0|421 4.3.2", "X", "none"),
        "df": Cell("421 4.3.2", "none", "none"),
        # No QUIT, its reply being outstanding; none at all for who comes later.
        "sigterm": Cell("421 4.3.2", "X|none", "none"),
        "rule-exception": Cell("421 4.3.0", "none", "none"),
    },
    "S1": {
        "client-vanishes": Cell("gone", "QUIT", "none"),
        "upstream-vanishes": Cell("421 4.4.2|221", "itself", "none"),
        "upstream-stalls": Cell("421 4.4.2", "X", "none"),
        "upstream-421": Cell("421 4.4.2|421 4.3.2", "X|itself", "none"),
        # The session lives: here the store does so again, and the next transaction is reset.
        "df": Cell("221 2.0.0", "RSET QUIT", "tempfailed|aborted"),
        "sigterm": Cell("421 4.3.2", "QUIT", "none"),
        "rule-exception": Cell("451 4.3.0, 221 2.0.0", "QUIT", "none"),
    },
    "S2": {
        # An implicit handshake with the client comes before upstream is dialled.
        "client-vanishes": Cell("gone", "QUIT|none", "none"),
        "upstream-vanishes": Cell("421 4.7.5", "itself", "none"),
        "upstream-stalls": Cell("421 4.4.2", "X", "none"),
        "upstream-421": Cell("421 4.3.2", "X", "none"),
        # Before 220, and in front of a handshake without a word.
        "df": Cell("nothing", "none", "none"),
        # In the middle of its own handshake the client cannot be told.
        "sigterm": Cell("421 4.3.2|220 2.0.0|nothing", "QUIT|X|none", "none"),
    },
    "S3": {
        "client-vanishes": Cell("gone", "* QUIT|* X", "none"),
        "upstream-vanishes": Cell("454 4.7.0, 421 4.4.2", "itself", "none"),
        "upstream-stalls": Cell("454 4.7.0, 421 4.4.2", "X", "none"),
        "upstream-421": Cell("421 4.3.2", "X", "none"),
        "df": Cell("454 4.7.0, 221 2.0.0", "* QUIT", "none"),
        # A reply that was pending is heard, and upstream then bidden goodbye; where we are the server there is none.
        "sigterm": Cell("421 4.3.2", "X|QUIT|none", "none"),
    },
    "S4": {
        "client-vanishes": Cell("gone", "RSET QUIT", "aborted"),
        "upstream-vanishes": Cell(f"{LOST}|421 4.4.2", "itself", "tempfailed"),
        "upstream-stalls": Cell(LOST, "X", "tempfailed"),
        "upstream-421": Cell("421 4.3.2", "X", "tempfailed"),
        "df": Cell("452 4.3.1, 221 2.0.0", "RSET QUIT", "aborted"),
        # Within the grace the transaction may end as ever; at its end a reply that is outstanding is 421.
        "sigterm": Cell("421 4.3.2", "QUIT|RSET QUIT|X", "accepted|aborted|tempfailed"),
        # The command is refused alone: of a RCPT the transaction goes on, and here is reset.
        "rule-exception": Cell(
            "451 4.3.0, 221 2.0.0|451 4.3.0, 250 2.1.5, 250 2.0.0, 221 2.0.0", "QUIT|RSET QUIT", "tempfailed|aborted"
        ),
    },
    "S5": {
        "client-vanishes": Cell("gone", "X", "aborted"),
        "upstream-vanishes": Cell(LOST, "itself", "tempfailed"),
        "upstream-stalls": Cell(LOST, "X", "tempfailed"),
        "upstream-421": Cell("421 4.3.2", "X", "tempfailed"),
        "df": Cell("452 4.3.1, 221 2.0.0", "RSET QUIT", "tempfailed"),
        "sigterm": Cell("421 4.3.2", "QUIT|X", "accepted|tempfailed"),
        "rule-exception": Cell("451 4.3.0, 221 2.0.0", "RSET QUIT", "tempfailed"),
    },
    "S6": {
        "client-vanishes": Cell("gone", "X", "aborted"),
        "upstream-vanishes": Cell(LOST, "itself", "tempfailed"),
        "upstream-stalls": Cell(LOST, "X", "tempfailed"),
        "upstream-421": Cell("421 4.3.2", "X|itself", "tempfailed"),
        "df": Cell("452 4.3.1, 221 2.0.0", "X", "tempfailed"),
        "sigterm": Cell("421 4.3.2", "QUIT|X", "accepted|tempfailed"),
        # Behind closed gates upstream has heard nothing that a close would have to end.
        "rule-exception": Cell("451 4.3.0, 221 2.0.0", "X|QUIT", "tempfailed"),
    },
    "S7": {
        "client-vanishes": Cell("gone", "QUIT", "accepted|rejected|tempfailed"),
        "upstream-vanishes": Cell(LOST, "itself", "unknown"),
        "upstream-stalls": Cell(LOST, "X", "unknown"),
        "upstream-421": Cell("421 4.3.2", "X", "tempfailed"),
        "df": Cell("250 2.0.0, 221 2.0.0", "QUIT", "accepted"),
        "sigterm": Cell("421 4.3.2", "QUIT|X", "accepted|unknown"),
    },
    "S8": {
        "client-vanishes": Cell("gone", "QUIT", "accepted"),
        "upstream-vanishes": Cell("250 2.0.0, 421 4.4.2", "itself", "accepted"),
        "upstream-421": Cell("250 2.0.0, 421 4.3.2", "X|itself", "accepted"),
        "df": Cell("250 2.0.0, 221 2.0.0", "QUIT", "accepted"),
        # A client that takes nothing until the grace ends does not hear its 250.
        "sigterm": Cell("250 2.0.0, 421 4.3.2|nothing", "QUIT", "accepted"),
    },
    "S9": {
        "client-vanishes": Cell("gone", "QUIT", "accepted"),
        "upstream-vanishes": Cell("250 2.0.0, 421 4.4.2", "itself", "accepted"),
        "upstream-421": Cell("250 2.0.0, 421 4.4.2", "itself", "accepted"),
        "df": Cell("452 4.3.1, 221 2.0.0", "QUIT", "accepted|tempfailed"),
        "sigterm": Cell("250 2.0.0, 421 4.3.2", "QUIT", "accepted"),
    },
}
#: Where the client only half-closes, it is there: these sessions stand beside the cell, so that it is not overdone.
THERE = {("S0", "client-vanishes"), ("S6", "client-vanishes")}


class Seen(NamedTuple):
    """What a session of a dialog shows; `dot`: whether upstream got the end of a message."""

    client: str
    upstream: str
    record: list[str]
    dot: bool
    client_left: bool


def seen(session: Session) -> Seen:
    heard: list[str] = []
    said: set[str] = set()
    end = "none"
    record: list[str] = []
    dot = client_left = False
    for entry in session.entries:
        match entry:
            case Line(leg="C", arrow="<"):
                code, _, rest = entry.octets.decode().strip().partition(" ")
                heard.append(f"{code} {rest[:5]}" if re.match(r"\d\.\d\.\d\b", rest) else code)
            case Line(leg="U", arrow=">", data=True):
                dot = dot or entry.octets == b".\r\n"
            case Line(leg="U", arrow=">"):
                said.add(entry.octets.decode().strip())
            case Event(leg="C", name="close" | "reset" | "eof", by_us=False):
                client_left = True
            case Event(leg="U", name="close", by_us=True) if end == "none":
                end = "X"
            case Event(leg="U", name="close" | "reset" | "refused" | "unresolved" | "timeout", by_us=False):
                end = "itself"
            case Note(key="record") if match := re.fullmatch(r'(none)|outcome = "(\w+)"', entry.text):
                record.append(match[1] or match[2])
            case _:
                pass
    if "QUIT" in said:
        end = "QUIT"
    first = [verb for verb in ("*", "RSET") if verb in said]
    return Seen(", ".join(heard) or "nothing", " ".join([*first, end]), record, dot, client_left)


@pytest.mark.parametrize(
    ("row", "column"),
    [pytest.param(row, column, id=f"{row}-{column}") for row, cells in CELLS.items() for column in cells],
)
def test_cell(row: str, column: str) -> None:
    cell = CELLS[row][column]
    files = sorted(FAULTS.glob(f"{row.lower()}-{column}*.dialog"))
    assert files, f"no dialog plays {row}, {column}"
    for file in files:
        sessions = [seen(session) for session in parse(file.read_text(encoding="utf-8"))]
        assert any(shown.record for shown in sessions), f"{file.name} says nothing of the record"
        for shown in sessions:
            _hold(file.name, shown, cell, row, there=(row, column) in THERE and shown.client != "nothing")


def _hold(name: str, shown: Seen, cell: Cell, row: str, *, there: bool) -> None:
    """One session of a dialog against its cell."""
    if cell.client == "gone":
        assert shown.client_left, f"{name}: the client does not leave"
    else:
        ends = tuple(cell.client.split("|"))
        assert shown.client.endswith(ends), f"{name}: the client hears {shown.client}"
    if there:
        return
    assert shown.upstream in cell.upstream.split("|"), f"{name}: upstream's end is {shown.upstream}"
    assert set(shown.record) <= set(cell.record.split("|")), f"{name}: the record is {shown.record}"
    # I3: in front of S7 a dot is there only where the message came to its end after all.
    assert shown.dot == (row in ("S7", "S8", "S9") or "accepted" in shown.record), f"{name}: a dot, or none"


# SIGKILL: the kernel closes both legs; upstream gets nothing that ends a message (I3), the client not a word more.

PASSWORD = b"aHVudGVyMg=="
STORE = "relayproxy.db"


class Left(NamedTuple):
    """What the store says of a transaction that was cut off: its outcome, the last reply and whether that was heard, how many recipients, whether a message."""

    outcome: str
    reply: int | None
    acknowledged: bool
    recipients: int
    message: bool


#: At the other stages there is none.
KILLED = {
    "S4": Left("aborted", 250, acknowledged=True, recipients=1, message=False),
    "S5": Left("aborted", 250, acknowledged=True, recipients=1, message=False),
    "S6": Left("aborted", 250, acknowledged=True, recipients=1, message=True),
    "S7": Left("unknown", None, acknowledged=False, recipients=1, message=True),
}
#: How a session comes to stand at a stage, what upstream does not answer meanwhile, how the conversation with upstream ends, and its messages.
STAGES = {
    "S0": ({"EHLO"}, b"EHLO relay.test\r\n", 0),
    "S1": (set[str](), b"EHLO relay.test\r\n", 0),
    "S2": (set[str](), b"EHLO relay.test\r\n", 0),
    "S3": (set[str](), b"AUTH LOGIN\r\n", 0),
    "S4": (set[str](), b"RCPT TO:<b@upstream.test>\r\n", 0),
    "S5": ({"DATA"}, b"DATA\r\n", 0),
    "S6": (set[str](), b"half of it", 0),
    "S7": ({"."}, END_OF_DATA, 1),
    "S9": (set[str](), END_OF_DATA, 1),
}


async def bring_to(stage: str, client: Client) -> None:
    if stage == "S0":
        return
    await client.hello()
    match stage:
        case "S2":
            assert (await client.say("STARTTLS"))[0] == 220
            await client.send(b"\x16\x03\x01\x02\x00")  # and no more of the handshake
        case "S3":
            assert (await client.say("AUTH LOGIN"))[0] == 334
            await client.send(PASSWORD)  # and no CRLF
        case "S4":
            await client.envelope()
        case "S5":
            await client.envelope()
            await client.send(b"DATA\r\n")
        case "S6":
            await client.begin_message()
        case "S7":
            await client.begin_message()
            await client.send(END_OF_DATA)
        case "S9":
            assert (await client.message())[0] == 250


def left(stored: Stored) -> Left:
    record = stored.record
    code = None if record.reply is None else record.reply.code
    return Left(record.outcome, code, record.acknowledged, len(record.recipients), record.message is not None)


def secret_in(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file() and PASSWORD in file.read_bytes()]


@pytest.mark.slow
@pytest.mark.parametrize("stage", [pytest.param(stage, id=f"{stage}-sigkill") for stage in STAGES])
async def test_cell_of_a_process(tmp_path: Path, stage: str) -> None:
    silent_to, ends, messages = STAGES[stage]
    async with upstream_server() as upstream, relay_process(tmp_path, upstream) as relay:
        upstream.offers += (b"AUTH LOGIN",)
        upstream.silent_to = silent_to
        client = await relay.connect()
        await bring_to(stage, client)
        await upstream.until(lambda: bool(upstream.conversations) and upstream.conversations[0].endswith(ends))
        if stage in KILLED:
            await until_stored(tmp_path / STORE, 1, lambda stored: left(stored) == KILLED[stage])
        relay.kill()
        assert await client.gone(), "not a word more"
        await upstream.until(lambda: upstream.open == 0)
        assert upstream.conversations[0].endswith(ends), "nor to upstream"
        assert upstream.messages == messages
        await relay.ended()
        assert not [line for line in relay.lines if PASSWORD.decode() in str(line)]
        assert not secret_in(tmp_path)
    if stage in KILLED:
        with SqliteStore(tmp_path / STORE).reader() as reader:
            (stored,) = reader.transactions()
            assert (left(stored), stored.final) == (KILLED[stage], False)
            assert reader.ids(stored.record.session) == [stored.record.session]
            assert (b"half of it" in b"".join(reader.message(stored) or ())) == (stage == "S7")
