"""What every store promises, whatever is behind (record/store/interface.py): run a store through it by a class of one's own with a fixture `store`.

`store` is a Store that is empty, with `backend(keep=...)`, `reader()` and `bodies`.
"""

from __future__ import annotations

import random
import threading
from contextlib import closing, suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stored_things import (
    HEADER,
    NOW,
    RECEIVED,
    SECOND,
    body,
    held,
    ids,
    message,
    record,
    release,
    session,
    transaction,
    whole,
)

from relayproxy.record.report import encode
from relayproxy.record.select import parse
from relayproxy.record.store.interface import Keep, Message, RecordError, StoreError, TransactionWrite
from relayproxy.record.store.spool import Spool
from relayproxy.record.wire import WireEvent, WireOctets
from relayproxy.record.wire import encode as encode_wire

if TYPE_CHECKING:
    from relayproxy.record.report import ReleaseOutcome
    from relayproxy.record.wire import WireEntry

HOUR = 3600 * SECOND
DAY = 24 * HOUR


def noise(octets: int, seed: int = 0) -> bytes:
    """What no compression makes smaller."""
    return random.Random(seed).randbytes(octets)  # noqa: S311 - the same each time is what is wanted


def done(backend: Any) -> None:
    """All the upkeep there is."""
    while backend.upkeep():
        pass


class StoreContract:
    """The promises."""

    # What is written is read.

    def test_a_transaction_is_read_as_it_was_written(self, store: Any) -> None:
        with closing(store.backend()) as backend, store.reader() as reader:
            backend.write([transaction("T1", b"hello\r\n.\r\n", subject="grüße")], durable=False)
            stored = reader.transaction("T1")
            assert stored.record == record("T1", subject="grüße")
            assert stored.document == encode(stored.record)
            assert stored.final
            assert stored.message.header == HEADER
            assert stored.message.body == sha256(b"hello\r\n.\r\n").digest()
            assert stored.message.body_size == 10
            assert stored.message.header_sent == RECEIVED + HEADER
            assert (stored.message.body_sent, stored.message.whole, stored.message.exact) == (None, True, True)
            assert whole(reader, stored) == HEADER + b"\r\nhello\r\n.\r\n"
            assert whole(reader, stored, sent=True) == RECEIVED + HEADER + b"\r\nhello\r\n.\r\n"
            assert reader.transaction("T2") is None

    def test_what_left_may_be_another_message(self, store: Any) -> None:
        sent = Message(HEADER, b"", body(b"a"), b"Subject: x\r\n", body(b"b"), whole=False, exact=False)
        with closing(store.backend()) as backend, store.reader() as reader:
            backend.write([TransactionWrite(record(), sent)], durable=False)
            stored = reader.transaction("T1")
            assert not stored.final
            assert (stored.message.whole, stored.message.exact) == (False, False)
            assert whole(reader, stored) == HEADER + b"a"
            # Who put a body behind a header section without an end put that end there, too.
            assert whole(reader, stored, sent=True) == b"Subject: x\r\n\r\nb"

    @pytest.mark.parametrize(
        "kept", [None, Message(HEADER, b"\r\n", None)], ids=["nothing", "the header section alone"]
    )
    def test_a_message_that_was_not_kept_is_none(self, store: Any, kept: Message | None) -> None:
        with closing(store.backend()) as backend, store.reader() as reader:
            backend.write([TransactionWrite(record(), kept, final=True)], durable=False)
            stored = reader.transaction("T1")
            assert whole(reader, stored) is None
            assert (stored.message is None) == (kept is None)

    def test_a_message_that_never_left_was_not_sent(self, store: Any) -> None:
        with closing(store.backend()) as backend, store.reader() as reader:
            backend.write([TransactionWrite(record(sent=False), message())], durable=False)
            stored = reader.transaction("T1")
            assert whole(reader, stored) is not None
            assert whole(reader, stored, sent=True) is None

    @pytest.mark.parametrize(
        "octets",
        [b"", b"x", b"line\r\n" * 100_000, noise(70_000), noise(65_000), b"\0" * 3_000_000],
        ids=["empty", "one", "compressible", "incompressible", "nearly a file", "zeros"],
    )
    def test_any_body_comes_back_whole(self, store: Any, octets: bytes) -> None:
        with closing(store.backend()) as backend, store.reader() as reader:
            backend.write([transaction("T1", octets)], durable=True)
            assert whole(reader, reader.transaction("T1")) == HEADER + b"\r\n" + octets
            assert b"".join(reader.body(sha256(octets).digest())) == octets

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(header=st.binary(max_size=50), sent=st.none() | st.binary(max_size=50), octets=st.binary(max_size=300))
    def test_any_octets_come_back(self, store: Any, header: bytes, sent: bytes | None, octets: bytes) -> None:
        with closing(store.backend()) as backend, store.reader() as reader:
            for header_sent in (sent, None if sent is None else sent + header):
                backend.write(
                    [TransactionWrite(record(), Message(header, b"\r\n", body(octets), header_sent))], durable=False
                )
                stored = reader.transaction("T1")
                assert whole(reader, stored) == header + b"\r\n" + octets
                assert stored.message.header_sent == header_sent

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(subject=st.text(st.characters(codec=None), max_size=20))  # lone surrogates and NUL included
    def test_any_text_can_be_kept(self, store: Any, subject: str) -> None:
        with closing(store.backend()) as backend, store.reader() as reader:
            backend.write([transaction(subject=subject)], durable=False)
            stored = reader.transaction("T1")
            assert stored.document == encode(record(subject=subject))
            assert encode(stored.record) == stored.document

    async def test_a_body_that_was_spooled_to_disk_comes_back(self, store: Any) -> None:
        octets = noise(300_000)
        with closing(store.backend()) as backend, store.reader() as reader:
            spool = Spool(store.bodies, 1000)
            for at in range(0, len(octets), 7000):
                await spool.add(octets[at : at + 7000])
            spooled = await spool.finish()
            assert spooled.octets is None
            backend.write([TransactionWrite(record(), Message(HEADER, b"\r\n", spooled))], durable=False)
            spool.discard()
            assert whole(reader, reader.transaction("T1")) == HEADER + b"\r\n" + octets

    # Written again.

    def test_written_again_it_replaces_what_was_there_but_for_the_message(self, store: Any) -> None:
        with closing(store.backend()) as backend, store.reader() as reader:
            backend.write([transaction(outcome="unknown", final=False)], durable=False)
            first = reader.transaction("T1")
            assert (first.record.outcome, first.final) == ("unknown", False)
            backend.write([TransactionWrite(record(outcome="tempfailed"), None, final=True)], durable=False)
            stored = reader.transaction("T1")
            assert (stored.record.outcome, stored.final) == ("tempfailed", True)
            assert stored.revision > first.revision
            assert whole(reader, stored) == HEADER + b"\r\nhello\r\n"
            assert ids(reader) == ["T1"]

    def test_a_later_message_replaces_the_one_before(self, store: Any) -> None:
        with closing(store.backend()) as backend, store.reader() as reader:
            backend.write([transaction("T1", b"one"), transaction("T2", b"one")], durable=False)
            backend.write([transaction("T1", b"two")], durable=False)
            done(backend)
            assert whole(reader, reader.transaction("T1")) == HEADER + b"\r\ntwo"
            assert whole(reader, reader.transaction("T2")) == HEADER + b"\r\none"
            backend.write([transaction("T2", b"two")], durable=False)
            done(backend)
            with pytest.raises(StoreError, match="not there any more"):
                list(reader.body(sha256(b"one").digest()))

    def test_what_stays_not_final_reads_as_it_was_written_last(self, store: Any) -> None:
        with closing(store.backend()) as backend:
            backend.write([transaction("T1", outcome="unknown", final=False)], durable=False)
            backend.write([transaction("T2", None, outcome="aborted", final=False)], durable=False)
        with closing(store.backend()) as backend, store.reader() as reader:
            done(backend)
            assert [(one.record.outcome, one.final) for one in reader.transactions()] == [
                ("unknown", False),
                ("aborted", False),
            ]

    def test_a_batch_is_written_whole_or_not_at_all(self, store: Any) -> None:
        with closing(store.backend()) as backend, store.reader() as reader:
            bad = transaction("T2", b"x", size=1 << 80)
            with pytest.raises(Exception) as raised:  # noqa: PT011 - whatever, but for the error of a store that cannot be written
                backend.write([transaction("T1", noise(100_000)), bad, transaction("T3", b"y")], durable=False)
            assert not isinstance(raised.value, RecordError)
            assert ids(reader) == []
            with pytest.raises(StoreError):
                list(reader.body(body(noise(100_000)).digest))
            backend.write([transaction("T1", noise(100_000))], durable=False)
            assert whole(reader, reader.transaction("T1")) == HEADER + b"\r\n" + noise(100_000)

    def test_many_in_one_batch(self, store: Any) -> None:
        with closing(store.backend()) as backend, store.reader() as reader:
            writes = [transaction(f"T{number:03}", b"%d" % (number // 2), at=NOW + number) for number in range(77)]
            backend.write([*writes, session(), session("S2")], durable=False)
            assert ids(reader) == [f"T{number:03}" for number in range(77)]
            assert whole(reader, reader.transaction("T076")) == HEADER + b"\r\n38"

    # What is held.

    def test_what_is_held_is_read_as_it_came_and_as_it_is_to_leave(self, store: Any) -> None:
        with closing(store.backend()) as backend, store.reader() as reader:
            backend.write([held()], durable=True)
            stored = reader.transaction("T1")
            assert stored.record.held.released == ()
            assert whole(reader, stored) == HEADER + b"\r\nheld"
            assert whole(reader, stored, sent=True) == RECEIVED + HEADER + b"\r\nheld"

    def test_a_release_is_claimed_then_settled_and_stands_in_the_record(self, store: Any) -> None:
        with closing(store.backend()) as backend, store.reader() as reader:
            backend.write([held(), held("T2")], durable=True)
            outcomes: tuple[ReleaseOutcome, ...] = ("tempfailed", "accepted")
            for attempt, outcome in enumerate(outcomes):
                before = reader.revision()
                assert backend.claim("T1", attempt, release())
                assert reader.transaction("T1").record.held.released[attempt] == release("unknown")
                assert [one.record.transaction for one in reader.transactions(after_revision=before)] == ["T1"]
                backend.released("t1", attempt, release(outcome))
            stored = reader.transaction("T1")
            assert stored.record.held.released == (release("tempfailed"), release("accepted"))
            assert (stored.record.outcome, stored.document) == ("held", encode(stored.record))
            assert reader.transaction("T2").record.held.released == ()
            assert ids(reader, select=parse("held:true", now=NOW)) == ["T2"]
            assert ids(reader, select=parse("outcome:held & held:false", now=NOW)) == ["T1"]

    @pytest.mark.parametrize(
        ("id_", "attempt"),
        [("T1", 1), ("T2", 0), ("T3", 0), ("T4", 0), ("T5", 0), ("T5", 1)],
        ids=["none before it", "claimed already", "not held", "not there", "claimed and released", "released"],
    )
    def test_nobody_can_claim_what_is_not_his_to_claim(self, store: Any, id_: str, attempt: int) -> None:
        with closing(store.backend()) as backend, store.reader() as reader:
            backend.write([held("T1"), held("T2"), transaction("T3"), held("T5")], durable=True)
            assert backend.claim("T2", 0, release("aborted"))
            assert backend.claim("T5", 0, release())
            backend.released("T5", 0, release("accepted"))
            before = reader.revision()
            assert not backend.claim(id_, attempt, release())
            assert reader.revision() == before
            assert backend.claim("T2", 1, release())

    def test_of_those_who_claim_at_once_one_wins(self, store: Any) -> None:
        ends = [store.backend() for _ in range(3)]
        ends[0].write([held(f"T{number}") for number in range(20)], durable=False)
        won: list[tuple[int, int]] = []

        def claim(end: int) -> None:
            won.extend([(number, end) for number in range(20) if ends[end].claim(f"T{number}", 0, release())])

        threads = [threading.Thread(target=claim, args=(end,)) for end in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(number for number, _ in won) == list(range(20))
        for end in ends:
            end.close()

    def test_who_holds_it_may_write_it_again_and_takes_no_release_away(self, store: Any) -> None:
        with closing(store.backend()) as backend, closing(store.backend()) as relay, store.reader() as reader:
            relay.write([held(final=False)], durable=True)
            assert backend.claim("T1", 0, release())
            backend.released("T1", 0, release("accepted"))
            relay.write([held()._replace(message=None)], durable=False)
            stored = reader.transaction("T1")
            assert (stored.final, stored.record.held.released) == (True, (release("accepted"),))
            assert ids(reader, select=parse("held:true", now=NOW)) == []

    @pytest.mark.parametrize("outcome", ["accepted", "rejected", "tempfailed", "aborted", "unknown"])
    def test_what_was_released_may_go_and_nothing_else_that_is_held(self, store: Any, outcome: Any) -> None:
        with closing(store.backend(keep=Keep(age=60, bytes=0))) as backend, store.reader() as reader:
            backend.write([held(at=NOW - 9 * DAY)], durable=False)
            assert backend.claim("T1", 0, release())
            backend.released("T1", 0, release(outcome))
            done(backend)
            assert ids(reader) == ([] if outcome == "accepted" else ["T1"])
            if outcome == "accepted":
                backend.write([held()], durable=False)
                assert reader.transaction("T1").record.held.released == (), (
                    "nothing is left of the one that was removed"
                )

    # Sessions.

    def test_a_sessions_wire_is_in_order_and_the_rest_is_what_was_written_last(self, store: Any) -> None:
        parts: list[list[WireEntry]] = [
            [WireOctets(2, "C", ">", b"MAIL\r\n")],
            [WireEvent(1, "C", "open", ("x",)), WireOctets(3, "C", "<", b"250\r\n" * 200)],
        ]
        with closing(store.backend()) as backend, store.reader() as reader:
            backend.write([session(wire=encode_wire(parts[0]))], durable=False)
            assert reader.session("S1").ended is None
            backend.write([session(part=1, wire=encode_wire(parts[1]))] * 2, durable=False)
            backend.write([session(part=2, ended=NOW + 5)], durable=False)
            stored = reader.session("S1")
            assert (stored.id, stored.listener, stored.client, stored.began) == ("S1", "submission", "10.0.0.5", NOW)
            assert (stored.ended, stored.why) == (NOW + 5, "QUIT")
            assert list(stored.wire) == sorted(parts[0] + parts[1], key=lambda entry: entry.time)
            assert reader.session("S2") is None

    def test_a_sessions_transactions_are_in_order(self, store: Any) -> None:
        with closing(store.backend()) as backend, store.reader() as reader:
            later = [transaction("T2", at=NOW + SECOND), transaction("T1", at=NOW), transaction("T3", session="S2")]
            backend.write(later, durable=False)
            assert [stored.record.transaction for stored in reader.of_session("S1")] == ["T1", "T2"]
            assert reader.of_session("S3") == []

    # Finding.

    def test_they_come_by_the_time_of_mail(self, store: Any) -> None:
        with closing(store.backend()) as backend, store.reader() as reader:
            order = list(range(200))
            random.Random(1).shuffle(order)  # noqa: S311 - the same each time is what is wanted
            # Some have one time: then as they were written.
            backend.write(
                [transaction(f"T{number:03}", None, at=NOW + number * 1_000_000) for number in order], durable=False
            )
            expected = [f"T{number:03}" for number in range(200)]
            assert ids(reader) == expected
            assert ids(reader, newest_first=True) == expected[::-1]
            assert ids(reader, limit=3) == expected[:3]
            assert ids(reader, newest_first=True, limit=130) == expected[:69:-1]
            assert ids(reader, limit=0) == []

    def test_of_one_time_none_is_left_out_or_comes_twice(self, store: Any) -> None:
        with closing(store.backend()) as backend, store.reader() as reader:
            backend.write([transaction(f"T{number:03}", None) for number in range(150)], durable=False)
            assert ids(reader) == [f"T{number:03}" for number in range(150)]
            assert ids(reader, newest_first=True) == [f"T{number:03}" for number in range(149, -1, -1)]

    def test_what_was_written_after_a_revision(self, store: Any) -> None:
        with closing(store.backend()) as backend, store.reader() as reader:
            assert reader.revision() == 0
            backend.write([transaction("T1"), transaction("T2")], durable=False)
            before = reader.revision()
            assert before >= 2
            assert ids(reader, after_revision=before) == []
            backend.write([transaction("T3"), TransactionWrite(record("T1"), None, final=True)], durable=False)
            found = list(reader.transactions(after_revision=before))
            assert [stored.record.transaction for stored in found] == ["T1", "T3"]
            assert max(stored.revision for stored in found) == reader.revision()

    def test_ids_by_their_beginning(self, store: Any) -> None:
        with closing(store.backend()) as backend, store.reader() as reader:
            backend.write(
                [transaction("01JAB", session="01JAC"), transaction("01JAD"), session("01JAC")], durable=False
            )
            assert reader.ids("01ja", limit=9) == ["01JAB", "01JAC", "01JAD"]
            assert reader.ids("01JA") == ["01JAB", "01JAC"]
            assert reader.ids("01jad") == ["01JAD"]
            assert reader.ids("%") == reader.ids("02") == []

    def test_who_reads_slowly_sees_what_is_written_meanwhile_and_stops_nobody(self, store: Any) -> None:
        with closing(store.backend()) as backend, store.reader() as reader:
            backend.write(
                [transaction(f"T{number:03}", None, at=NOW + number * SECOND) for number in range(300)], durable=False
            )
            slowly = reader.transactions()
            first = next(slowly)
            backend.write([transaction("T999", None, at=NOW + 999 * SECOND)], durable=False)
            rest = [stored.record.transaction for stored in slowly]
            assert first.record.transaction == "T000"
            assert rest[-1] == "T999"

    @pytest.mark.parametrize(
        ("expression", "found"),
        [
            ("sender:a@example.com", ["T1", "T2", "T3"]),
            ("outcome:accepted", ["T1", "T3"]),
            ("!outcome:accepted & size:>50B", ["T2"]),
            ("subject:/^in.?voice/", ["T1"]),
            ("recipient:*@customer.example & sent.recipient:b@x", ["T1", "T2", "T3"]),
            ("header.X-Colour:red", ["T3"]),
            ("text:invoice", ["T1", "T2"]),
            ('text:"thousand PENGUINS" | text:"straße"', ["T2", "T3"]),
            ("!text:penguins", ["T1", "T3"]),
            ("text:penguin", []),
            ("since:1h", ["T1", "T3"]),
            ("client:10.0.0.0/8 & auth:app", ["T1", "T2", "T3"]),
            ("session:S1", ["T1", "T2", "T3"]),
        ],
    )
    def test_an_expression_finds_what_matches_with_an_index_and_without(
        self, store: Any, expression: str, found: list[str]
    ) -> None:
        with closing(store.backend()) as backend, store.reader() as reader:
            backend.write(
                [
                    transaction("T1", b"Please pay.\r\n", subject="Invoice 7"),
                    transaction(
                        "T2",
                        b"An invoice for a thousand penguins." + b" and so on" * 9000 + noise(70_000),
                        outcome="rejected",
                        at=NOW - DAY,
                    ),
                    TransactionWrite(record("T3"), message("Straße 5\r\n".encode(), b"X-Colour: red\r\n"), final=True),
                ],
                durable=False,
            )
            select = parse(expression, now=NOW)
            assert sorted(ids(reader, select=select)) == found
            done(backend)
            assert sorted(ids(reader, select=select)) == found
            assert (
                ids(reader, select=select, newest_first=True, limit=1)
                == ids(reader, select=select, newest_first=True)[:1]
            )

    def test_words_go_when_the_message_does(self, store: Any) -> None:
        with closing(store.backend()) as backend, store.reader() as reader:
            backend.write([transaction("T1", b"penguins"), transaction("T2", None, final=False)], durable=False)
            done(backend)
            backend.write([transaction("T1", b"walruses")], durable=False)
            for _ in range(2):
                assert ids(reader, select=parse("text:penguins", now=NOW)) == []
                assert ids(reader, select=parse("text:walruses", now=NOW)) == ["T1"]
                done(backend)

    # Several at once.

    def test_two_may_write_at_once(self, store: Any) -> None:
        ends = [store.backend(), store.backend()]

        def write(number: int) -> None:
            for count in range(20):
                ends[number].write([transaction(f"T{number}-{count}", b"the same")], durable=False)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with store.reader() as reader:
            stored = list(reader.transactions())
            assert len(stored) == 40
            assert {one.revision for one in stored} == set(range(1, 41))
            assert all(whole(reader, one) == HEADER + b"\r\nthe same" for one in stored)
        for end in ends:
            end.close()

    # Retention.

    def test_what_is_too_old_goes_with_its_message_and_session(self, store: Any) -> None:
        with closing(store.backend(keep=Keep(age=DAY // SECOND))) as backend, store.reader() as reader:
            old, new = NOW - 2 * DAY, NOW
            backend.write(
                [
                    transaction("old", noise(100_000), session="S-old", at=old),
                    session("S-old", began=old - SECOND, ended=old, wire=encode_wire([])),
                    session("S-only", began=old, ended=old),
                    transaction("new", b"new", session="S-new", at=new),
                    session("S-new", began=old, ended=new),
                ],
                durable=False,
            )
            done(backend)
            assert ids(reader) == ["new"]
            assert [reader.session(one) is not None for one in ("S-old", "S-only", "S-new")] == [False, False, True]
            with pytest.raises(StoreError):
                list(reader.body(sha256(noise(100_000)).digest()))
            assert list(store.bodies.folder.glob("*.zst")) == []

    def test_a_body_stays_as_long_as_anything_names_it(self, store: Any) -> None:
        with closing(store.backend(keep=Keep(age=DAY // SECOND))) as backend, store.reader() as reader:
            shared = noise(100_000)
            backend.write([transaction("old", shared, at=NOW - 2 * DAY), transaction("new", shared)], durable=False)
            done(backend)
            assert ids(reader) == ["new"]
            assert whole(reader, reader.transaction("new")) == HEADER + b"\r\n" + shared

    def test_what_is_held_stays_and_so_does_what_is_under_way(self, store: Any) -> None:
        with closing(store.backend(keep=Keep(age=60, bytes=0))) as backend, store.reader() as reader:
            backend.write(
                [
                    transaction("held", b"held", at=NOW - 9 * DAY, outcome="held"),
                    transaction("gone", b"gone", at=NOW - DAY, outcome="unknown", final=False),
                    transaction(
                        "under way", b"new", at=NOW - 1800 * SECOND, outcome="unknown", final=False, session="S2"
                    ),
                    session("S2", began=NOW - 1801 * SECOND),
                    session("S3", began=NOW - 1801 * SECOND),
                ],
                durable=False,
            )
            done(backend)
            assert ids(reader) == ["held", "under way"]
            assert whole(reader, reader.transaction("held")) == HEADER + b"\r\nheld"
            assert reader.session("S2") is not None
            assert reader.session("S3") is not None

    def test_where_there_is_too_much_the_oldest_go_and_no_more_than_needed(self, store: Any) -> None:
        with closing(store.backend(keep=Keep(bytes=1_000_000))) as backend, store.reader() as reader:
            for number in range(8):
                # No text, so that the index takes nothing.
                kept = message(noise(200_000, number), b"Content-Type: application/octet-stream\r\n")
                made = record(f"T{number}", at=NOW + number * SECOND)
                backend.write([TransactionWrite(made, kept, final=True)], durable=False)
            done(backend)
            assert ids(reader) == ["T4", "T5", "T6", "T7"]
            assert (whole(reader, reader.transaction("T4")) or b"").endswith(noise(200_000, 4))

    def test_sessions_without_transactions_count_too(self, store: Any) -> None:
        with closing(store.backend(keep=Keep(bytes=1_000_000))) as backend, store.reader() as reader:
            wire = encode_wire([WireOctets(0, "C", ">", noise(50_000))])
            for number in range(40):
                at = NOW + number * SECOND
                backend.write([session(f"S{number}", began=at, ended=at, wire=wire)], durable=False)
            done(backend)
            left = [number for number in range(40) if reader.session(f"S{number}") is not None]
            assert 10 <= len(left) <= 19
            assert left[-1] == 39

    def test_a_body_that_is_removed_while_it_is_read_is_whole_or_an_error(self, store: Any) -> None:
        with closing(store.backend(keep=Keep(age=60))) as backend, store.reader() as reader:
            large, small = noise(1_000_000), b"small" * 100_000
            backend.write(
                [transaction("T1", large, at=NOW - DAY), transaction("T2", small, at=NOW - DAY)], durable=False
            )
            begun = [reader.body(sha256(one).digest()) for one in (large, small)]
            first = [next(one) for one in begun]
            late = reader.message(reader.transaction("T1"))
            done(backend)
            assert ids(reader) == []
            for head, rest, octets in zip(first, begun, (large, small), strict=True):
                with suppress(StoreError):
                    assert head + b"".join(rest) == octets
            with pytest.raises(StoreError):
                next(late)

    # Trying.

    def test_a_store_that_can_be_written_says_so(self, store: Any) -> None:
        with closing(store.backend()) as backend:
            backend.probe()
            backend.probe()

    def test_a_reader_beside_an_empty_store(self, store: Any) -> None:
        with closing(store.backend()), store.reader() as reader:
            assert ids(reader) == []
            assert reader.ids("") == []
