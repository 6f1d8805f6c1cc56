"""A client and an upstream that say anything at all, in any pieces: what must hold whatever they do (PROTOCOL §0).

Both are on memory streams and virtual time; hypothesis makes up what they say and shrinks what went wrong. `--hypothesis-profile=long` tries two
hundred times as much.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from talk import Move, Server, Talk, all_replies

#: An address that only ever stands in the octets of chunks: a command that has it was made of what is no command.
EVIL = b"MAIL FROM:<evil@example.test>\r\nRCPT TO:<evil@example.test>\r\n"

commands = st.sampled_from([
    b"EHLO client.test\r\n", b"HELO client.test\r\n", b"MAIL FROM:<a@example.test>\r\n", b"MAIL FROM:<a@example.test> SIZE=100 BODY=8BITMIME\r\n",
    b"MAIL FROM:<>\r\n", b"RCPT TO:<b@example.test>\r\n", b"RCPT TO:<c@example.test> NOTIFY=NEVER\r\n", b"DATA\r\n", b"RSET\r\n", b"NOOP\r\n", b"VRFY b\r\n",
    b"HELP\r\n", b"QUIT\r\n", b"AUTH PLAIN AGEAYg==\r\n", b"AUTH LOGIN\r\n", b"*\r\n", b"AGEAYg==\r\n", b"STARTTLS\r\n", b"MAIL FROM:<a@b> X=1\r\n", b"XYZZY\r\n",
    b"EXPN x\r\n", b"NOOP\n", b"RCPT TO:<b\0@example.test>\r\n", b"BDAT x\r\n", b"GET / HTTP/1.1\r\n", b"\r\n",
])  # fmt: skip
content = st.lists(
    st.sampled_from([
        b"Subject: hi\r\n", b"\r\n", b"text\r\n", b"..\r\n", b".\r", b"\n", b"\r", b"\0", b"\xe4\xf6", b"x" * 3000, EVIL, b".\r\n", b"\n.\r\n", b" folded\r\n",
        b"Received: from x by y; z\r\n",
    ]),
    max_size=6,
).map(b"".join)  # fmt: skip
#: A dot on a line of its own in the middle, as a smuggler would have it: with CRLF around it, with less, or cut in two by the next chunk.
smuggled = st.sampled_from([b"x\r\n.\r\n" + EVIL, b".\r\n" + EVIL, b"x\r\n.", b"\r\n" + EVIL, b"x\n.\r\n" + EVIL])
chunks = st.builds(
    lambda octets, last: b"BDAT %d%b\r\n%b" % (len(octets), b" LAST" if last else b"", octets),
    st.one_of(content, smuggled),
    st.booleans(),
)
bodies = st.builds(lambda octets: octets.replace(EVIL, b"") + b"\r\n.\r\n", content)
actions = st.sampled_from(["wait", "wait", "wait", "eof", "close", "reset", "idle"])


def episode(body: st.SearchStrategy[list[bytes]]) -> st.SearchStrategy[list[Move]]:
    """A transaction as it should be, but for what a mutation puts in, takes out or does."""
    whole = body.map(lambda parts: [b"MAIL FROM:<a@example.test>\r\n", b"RCPT TO:<b@example.test>\r\n", *parts])
    noise = st.lists(st.tuples(st.integers(0, 6), st.one_of(commands, actions)), max_size=2)
    gaps = st.one_of(st.just([True] * 9), st.lists(st.booleans(), min_size=9, max_size=9))

    def mutate(parts: list[bytes], noise: list[tuple[int, Move]], gaps: list[bool]) -> list[Move]:
        moves: list[Move] = []
        for number, part in enumerate(parts):
            moves += [part, *(["wait"] if gaps[number % 9] else [])]
            moves += [move for at, move in noise if at == number]
        return moves

    return st.builds(mutate, whole, noise, gaps)


by_data = episode(st.one_of(st.just(b"Subject: hi\r\n\r\ntext\r\n.\r\n"), bodies).map(lambda body: [b"DATA\r\n", body]))
by_chunks = episode(
    st.lists(chunks, max_size=3).flatmap(
        lambda parts: content.map(lambda octets: [*parts, b"BDAT %d LAST\r\n%b" % (len(octets), octets)])
    )
)
junk = st.lists(st.one_of(commands, chunks, actions), max_size=3)
moves: st.SearchStrategy[list[Move]] = st.builds(
    lambda hello, episodes: [hello, "wait", *[move for episode in episodes for move in episode]],
    st.sampled_from([b"EHLO client.test\r\n"] * 9 + [b"HELO client.test\r\n"]),
    st.lists(st.one_of(by_data, by_data, by_chunks, junk), min_size=1, max_size=3),
)
pieces = st.lists(st.integers(1, 200), max_size=12)

# What upstream answers to its n-th line or message, where that is not what a good server does.
answers = st.dictionaries(
    st.integers(0, 12),
    st.sampled_from([
        b"250 ok\r\n", b"250-a\r\n250 b\r\n", b"354 go\r\n", b"421 bye\r\n", b"450 4.0.0 not now\r\n", b"550 5.0.0 no\r\n", b"250 ok\r\n250 ok\r\n", b"220 hi\r\n", b"25",
        b"250 ok\n", b"garbage\r\n", b"250-a\r\n550 b\r\n", b"235 2.7.0 in\r\n", b"334 VXNlcm5hbWU6\r\n", b"299\r\n", b"close", b"reset", b"stall", b"",
    ]),
    max_size=2,
)  # fmt: skip
offers = st.sampled_from([
    b"250 up.test\r\n", b"250-up.test\r\n250-PIPELINING\r\n250-SIZE 2000\r\n250-8BITMIME\r\n250-DSN\r\n250 AUTH PLAIN LOGIN\r\n", b"250-up.test\r\n250 PIPELINING\r\n", b"502 no\r\n",
])  # fmt: skip
#: Of who takes it from us who the client is.
INTRODUCED = b"250-up.test\r\n250-PIPELINING\r\n250-XCLIENT NAME ADDR PORT\r\n250 XFORWARD NAME ADDR HELO SOURCE\r\n"

_COMMAND = re.compile(
    rb"(?:EHLO relay\.test|HELO relay\.test|MAIL FROM:<(?:a@example\.test|a@b)?>[A-Z0-9= ]*|RCPT TO:<[bc]@example\.test>(?: NOTIFY=NEVER)?"
    rb"|DATA|RSET|NOOP|VRFY b|QUIT|AUTH (?:PLAIN AGEAYg==|LOGIN)|AGEAYg==|\*"
    rb"|XCLIENT NAME=\[UNAVAILABLE\] PORT=50000 ADDR=127\.0\.0\.1"
    rb"|XFORWARD NAME=\[UNAVAILABLE\] ADDR=127\.0\.0\.1 HELO=(?:client\.test|\[UNAVAILABLE\]) SOURCE=REMOTE)"
)


configs = st.fixed_dictionaries(
    {}, optional={"trace": st.just(False), "listener": st.just([{"line_endings": "normalise"}])}
)


@given(moves, pieces, answers, offers, configs)
@settings(deadline=None)
def test_whatever_both_sides_say(
    moves: list[Move], pieces: list[int], answers: dict[int, bytes], offer: bytes, config: dict[str, Any]
) -> None:
    check(Talk(moves, pieces, Server(answers, offer), config))


@pytest.mark.parametrize("identity", ["xclient", "xforward", "proxy-v1", "proxy-v2"])
@given(moves, pieces, answers, st.one_of(st.just(INTRODUCED), st.just(INTRODUCED), offers), configs)
@settings(deadline=None, max_examples=settings().max_examples * 2 // 5)
def test_and_whoever_the_client_is(
    identity: str, moves: list[Move], pieces: list[int], answers: dict[int, bytes], offer: bytes, config: dict[str, Any]
) -> None:
    upstream = {"default": {"url": "smtp://upstream.test:25", "identity": identity}}
    talk = Talk(moves, pieces, Server(answers, offer, identity=identity), {**config, "upstream": upstream})
    assert talk.server.odd_headers == []
    check(talk)


def check(talk: Talk) -> None:
    server = talk.server
    # The client hears whole replies and nothing else (I5, I6).
    assert all_replies(talk.heard)
    # Upstream hears commands that the client gave, and none that were made of a chunk's octets (I4, attack 4).
    assert [line for line in server.commands if _COMMAND.fullmatch(line) is None] == []
    assert not any(b"evil" in line for line in server.commands)
    # It takes no mail without having been told, and having taken, whose it is (attack 27).
    assert all(envelope.introduced for envelope, _ in server.delivered)
    # Whoever reads mail data otherwise finds the same end (attack 1).
    for message in server.messages:
        for end in (b"\n", b"\r"):
            assert b"." not in (message + b"\r\n").replace(b"\r\n", end).split(end), message
    # What upstream took is never told as refused or given up, and nothing else is told as accepted (I1, I2).
    told = [line for line in talk.log if line["event"] == "transaction"]
    outcomes = Counter(line["outcome"] for line in told)
    assert outcomes["accepted"] <= server.taken <= outcomes["accepted"] + outcomes["unknown"]
    assert len(server.messages) <= sum(
        outcomes[outcome] for outcome in ("accepted", "rejected", "tempfailed", "unknown")
    )
    for line in told:
        if line["outcome"] == "accepted":
            assert (line["reply"]["origin"], line["reply"]["code"] // 100) == ("upstream", 2)
    # Nothing went wrong on our side.
    assert [line for line in talk.log if line["event"] == "error" and line["where"] != "upstream"] == []
