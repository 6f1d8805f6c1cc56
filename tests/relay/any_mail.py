"""Addresses, messages, sessions and upstreams at random, for what must hold of any: drawn from `random.Random`, which hypothesis can stand in for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from talk import Body

if TYPE_CHECKING:
    from random import Random

    from talk import Move

LOCALS = [
    b"jane", b"JANE", b"j.doe", b"qa", b"qa+x", b"qa+evil.test", b"root", b"postmaster", b"PostMaster", b"a..b", b"a.", b".a", b"=?utf-8?q?jane?=", b"jane=evil.test",
    b"jane%evil.test", b"jane%customer.test", b"JANE%Customer.Test", b"jane%evil.test%example.test", b"evil.test!jane", b"customer.test!jane", b"customer.test!JANE",
    b'"jane doe"', b'"jane"', b'"ja\\ne"', b'"jane@evil.test"', b'"jane@customer.test"', b'"jane\\@customer.test"', b'"jane@customer.test"@evil.test', b'""', b'" "', b'"a\\"b"', b'"a\\\\"', b'"<"',
    b'"a> NOTIFY=NEVER"', b'"a,b"', b'"a\\', b'"a', b'a"b"', b"a\\@evil.test", b"jane@evil.test", b"@", b"", b"jane+40evil.test", b"jane&#64;evil.test", b"jane\\x{40}evil.test", b"jane%40evil.test",
    "j\u00fcrgen".encode(), "ju\u0308rgen".encode(), "\uff4aane".encode(), "jane\uff20evil.test".encode(), "jane\uff05evil.test".encode(), "evil.test\uff01jane".encode(), "\u212aate".encode(),
    "\u0442est".encode(), "jane\u200b".encode(), "jane\u202e".encode(), b"j\xe4ne", b"jane\xc0\x80", b"jane\0", b"jane\r", b"ja ne", b"a" * 64, b"a" * 65, b"a" * 240, b"jane(x)", b"<jane", b"jane>", b"jane,joe", b"*", b"?ne", b"jane;joe",
]  # fmt: skip
DOMAINS = [
    b"example.test", b"EXAMPLE.Test", b"example.test.", b"example.test..", b".example.test", b"evil.test", b"Evil.TEST.", b"example.test.evil.test", b"notexample.test", b"x.example.test",
    b"x.sub.test", b"x.y.SUB.test.", b"sub.test", b"plus.test", b"one.test", b"exact.test", b"Exact.test.", b"customer.test", b"xn--mnchen-3ya.test", b"XN--MNCHEN-3YA.TEST", b"xn--evilx-sj33a.sub.test",
    b"xn--xn--a-.sub.test", b"xn--9999999999.sub.test", b"xn--example.test", "m\u00fcnchen.test".encode(), "mu\u0308nchen.test".encode(), "M\u00dcNCHEN.test".encode(), "m\u00fcnchen.evil.test".encode(),
    "\uff45xample.test".encode(), "example\u3002test".encode(), "example.test\u3002evil.test".encode(), "x\u2024y.sub.test".encode(), "evil.test\uff20x.sub.test".encode(), "e\u0445ample.test".encode(),
    "stra\u00dfe.sub.test".encode(), "\u00fc".encode() * 64 + b".sub.test", b"[192.0.2.1]", b"[192.0.2.2]", b"[IPv6:2001:db8::1]", b"[IPv6:::ffff:192.0.2.1]", b"192.0.2.1", b"[x:evil.test]", b"[example.test]",
    b"", b"example_x.test", b"-example.test", b"example.test%00.evil.test", b"example.test\0.evil.test", b"example.test\r", b"example.test>", b"example.test@evil.test", b"evil.test@example.test", b"@example.test",
    b"a" * 63 + b".sub.test", b"a" * 64 + b".sub.test", b"a." * 120 + b"sub.test", b"example.test:25", b"example.test/evil.test", b"example.test ", b"example.test,evil.test", b"\xff.sub.test",
]  # fmt: skip
PLAIN = [
    b"example.test",
    b"EXAMPLE.Test.",
    b"evil.test",
    b"x.sub.test",
    b"plus.test",
    b"one.test",
    b"exact.test",
    b"xn--mnchen-3ya.test",
    b"[192.0.2.1]",
]
ROUTES = [b"", b"", b"", b"", b"", b"", b"", b"", b"@evil.test:", b"@example.test:", b"@evil.test,@example.test:", b"@example.test,@evil.test:", b"@:", b"@evil.test"]  # fmt: skip
BEHIND = [
    b"", b"", b"", b"", b"", b"", b"", b" ", b" NOTIFY=NEVER", b" NOTIFY=SUCCESS,FAILURE", b" ORCPT=rfc822;jane@evil.test", b" ORCPT=rfc822;jane+40evil.test", b" orcpt=RFC822;jane@example.test",
    b" ORCPT=utf-8;jane\\x{40}evil.test", b" ORCPT=utf-8;jane@example.test", b" ORCPT=rfc822;jane+0D+0ARCPT", b" ORCPT=x400;jane", b" NOTIFY=NEVER ORCPT=rfc822;a@evil.test", b" X=jane@evil.test", b" <jane@evil.test>",
    b"> <jane@evil.test", b">,<jane@evil.test", b"\rRCPT TO:<jane@evil.test>", b" SIZE=1", b" ORCPT=rfc822;jane@example.test ORCPT=rfc822;jane@evil.test",
]  # fmt: skip
#: Texts that fields, names and senders bring into templates.
TEXTS = [
    b"hello", b"jane@evil.test", b"jane@example.test", b"jane@evil.test, joe@evil.test", b"x>\tRCPT TO:<jane@evil.test>", b"a@evil.test> NOTIFY=NEVER", b'"a@evil.test"', b"evil.test", b"example.test@evil.test",
    b"=?utf-8?q?a=0D=0ARCPT_TO:<jane@evil.test>?=", b"=?utf-8?q?x=0D=0A.=0D=0AMAIL_FROM:<evil@evil.test>?=", b"=?utf-8?b?AA0KLg0K?=", b"=?utf-8?q?jane=40evil.test?=", b"=?utf-8?q?=EF=BC=A0evil.test?=",
    b"=?utf-8?q?=E2=80=A8Bcc:_x?=", b"=?utf-16?b?AEAADQAK?=", b"=?utf-7?q?+AA0-+AAo-?=", b"{recipient}", b"{{", b"%0d%0a", b"\\r\\n", b".", b"..", b"250 2.0.0 ok", b"250-x", b"jane%evil.test", b"a" * 300, b"", "gr\u00fc\u00dfe \u2028".encode(),
    b"(a comment)", b"<>", b"Group: jane@evil.test, joe@example.test;", b"=?utf-8?q?" + b"x" * 60 + b"?= " * 20,
]  # fmt: skip
FIELDS = [b"Subject", b"X-To", b"X-Dom", b"To", b"Cc", b"X-Env", b"subject", b"From", b"Reply-To"]


def address(rng: Random) -> bytes:
    """What may stand behind `RCPT TO:`."""
    odd = rng.random()
    if odd < 0.3:  # else nearly none would be taken
        return b"<%b@%b>%b" % (rng.choice(LOCALS[:8]), rng.choice(PLAIN), rng.choice(BEHIND[:10]))
    local, domain = rng.choice(LOCALS), rng.choice(DOMAINS)
    if odd < 0.6:
        local, domain = rng.choice(LOCALS[:27]), rng.choice(DOMAINS[:20])
    at = rng.choice([b"@"] * 30 + [b"@@", b"\\@", "\uff20".encode(), b"%"]) if domain else rng.choice([b"", b"@"])
    return b"<%b%b%b%b>%b" % (rng.choice(ROUTES), local, at, domain, rng.choice(BEHIND))


def message(rng: Random, id_: int, *, plain: bool = False) -> bytes:
    """A header section with a field `X-Id` that no other message has, and a body; as it is, without stuffing."""
    fields = [b"%b: %b\r\n" % (rng.choice(FIELDS), rng.choice(TEXTS)) for _ in range(rng.randrange(5))]
    fields.insert(rng.randrange(len(fields) + 1), b"X-Id: %d\r\n" % id_)
    if not plain and rng.random() < 0.3:
        fields.insert(
            rng.randrange(len(fields) + 1),
            rng.choice([
                b"no colon\r\n", b"X-Folded: a\r\n b\r\n\tc\r\n", b"Subject : x\r\n", b"To:\r\n jane@evil.test\r\n", b"X: a\r\n \r\n b\r\n", b"From x\r\n", b"\xe4: x\r\n", b"X-8: \xe4\r\n",
            ]),
        )  # fmt: skip
    if rng.random() < 0.3:
        fields += [b"Content-Type: multipart/mixed; boundary=b\r\n"]
        body = rng.choice([
            b"--b\r\n\r\nleak\r\n--b\r\nContent-Disposition: attachment; filename=a.exe\r\n\r\nMZ\r\n.\r\n..\r\n--b--\r\n", b"--b\r\n\r\n.\r\n--b\r\nContent-Type: x/y; name=a.exe\r\n\r\n.", b"--b--", b"--b\r\n",
        ])  # fmt: skip
    else:
        body = b"".join(rng.choices([b"text\r\n", b".\r\n", b"..\r\n", b"leak\r\n", b"\r\n", b"MAIL FROM:<evil@evil.test>\r\n", b"\xe4\r\n", b"x" * 3000 + b"\r\n"], k=rng.randrange(5)))  # fmt: skip
    return b"".join(fields) + rng.choice([b"\r\n", b"\r\n", b"\r\n", b""] if not body else [b"\r\n"]) + body


def stuffed(content: bytes) -> bytes:
    """As DATA has it, its end included."""
    if not content.endswith(b"\r\n"):
        content += b"\r\n"
    lines = content.split(b"\r\n")[:-1]
    return b"".join([(b"." if line.startswith(b".") else b"") + line + b"\r\n" for line in lines]) + b".\r\n"


def chunked(rng: Random, content: bytes) -> list[bytes]:
    """As BDAT has it."""
    cuts = sorted(rng.randrange(len(content) + 1) for _ in range(rng.randrange(3)))
    pieces = [content[start:end] for start, end in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    return [
        b"BDAT %d%b\r\n%b" % (len(piece), b" LAST" if number == len(pieces) - 1 else b"", piece)
        for number, piece in enumerate(pieces)
    ]


HELLOS = [b"EHLO client.test\r\n"] * 8 + [b"HELO evil.test\r\n", b"EHLO [192.0.2.1]\r\n", b"EHLO x>RCPT\r\n", b"EHLO jane@evil.test\r\n", b"EHLO " + b"a" * 300 + b"\r\n"]  # fmt: skip
SENDERS = [
    b"<s@example.test>", b"<s@example.test>", b"<>", b"<jane@evil.test>", b'<"a b"@evil.test>', b"<jane%evil.test@example.test>", b"<@evil.test:s@example.test>", b"<root>", "<j\u00fcrgen@m\u00fcnchen.test> SMTPUTF8".encode(),
    b"<s@example.test> SMTPUTF8", b"<s@example.test> SMTPUTF8 BODY=8BITMIME", b"<s@example.test> SIZE=200", b"<s@example.test> RET=HDRS ENVID=x+2By", b"<s@example.test",
]  # fmt: skip
NOISE: list[Move] = [
    b"RSET\r\n", b"NOOP\r\n", b"VRFY jane@evil.test\r\n", b"EHLO client.test\r\n", b"XYZZY\r\n", b"MAIL FROM:<x@example.test>\r\n", b"HELP\r\n",
]  # fmt: skip
#: Behind these there is little more, or nothing.
LEAVING: list[Move] = [
    "eof",
    "close",
    "reset",
    b"QUIT\r\n",
    b"DATA\r\n",
    b"HELO x\r\n",
    b"BDAT 3\r\nabc",
    b"BDAT x\r\n",
]


def session(rng: Random, ids: list[int], recipients: int, *, leaves: float = 0.15) -> list[Move]:
    """A client's moves, a message for each id at most; `recipients`: of one transaction, at most."""
    hello = rng.choice(HELLOS)
    moves: list[Move] = [hello, "wait"]
    for id_ in ids:
        gaps = rng.choice([0.0, 1.0, 0.3])
        parts: list[Move] = [b"MAIL FROM:" + rng.choice(SENDERS) + b"\r\n"]
        parts += [b"RCPT TO:" + address(rng) + b"\r\n" for _ in range(rng.randint(1, recipients))]
        parts += rng.choices(NOISE, k=rng.choice([0, 0, 0, 1]))
        content = message(rng, id_)
        way = rng.random() * (0.7 if hello.startswith(b"HELO") else 1)
        if way < 0.7:
            parts += ["wait", b"DATA\r\n", "wait", Body(stuffed(content))]
        elif way < 0.85:
            parts += chunked(rng, content)
        else:
            parts += [rng.choice(NOISE)]
        for part in parts:
            if rng.random() < leaves / len(parts):
                moves.append(rng.choice(LEAVING))
            moves += [part, *(["wait"] if rng.random() < gaps else [])]
    return moves


def steps(rng: Random, ids: list[int], recipients: int) -> list[bytes]:
    """Commands, chunks and mail data of a client that keeps to the protocol, each by itself."""
    made: list[bytes] = [rng.choice(HELLOS[:9])]
    for id_ in ids:
        made.append(b"MAIL FROM:" + rng.choice(SENDERS[:8] if rng.random() < 0.9 else SENDERS) + b"\r\n")
        made += [b"RCPT TO:" + address(rng) + b"\r\n" for _ in range(rng.randint(1, recipients))]
        content = message(rng, id_)
        way = rng.random()
        if way < 0.6:
            made += [b"DATA\r\n", Body(stuffed(content))]
        elif way < 0.85 and made[0].startswith(b"EHLO"):
            made += chunked(rng, content)
        else:
            made.append(rng.choice([b"RSET\r\n", b"NOOP\r\n", b"VRFY x\r\n", b"EHLO client.test\r\n"]))
    return made


def one_by_one(commands: list[bytes]) -> list[Move]:
    """Each when the one before it was answered."""
    return [move for command in commands for move in (command, "wait")]


def in_groups(commands: list[bytes]) -> list[Move]:
    """In as few writes as there can be: what changes what octets mean ends one (RFC 2920 §3.1)."""
    moves: list[Move] = []
    group = b""
    for command in commands:
        if isinstance(command, Body):
            moves += [group, "wait", command, "wait"]
            group = b""
        else:
            group += command
        if command[:4] in (b"EHLO", b"HELO", b"VRFY", b"NOOP"):
            moves += [group, "wait"]
            group = b""
    return [*moves, group, "wait"]


ODD_ANSWERS = [
    b"421 bye\r\n", b"450 4.0.0 not now\r\n", b"451 4.3.0 later\r\n", b"550 5.0.0 no\r\n", b"550-5.0.0 no\r\n550 5.0.0 never\r\n", b"close", b"reset", b"stall", b"", b"250 ok\r\n250 ok\r\n", b"garbage\r\n", b"250-a\r\n550 b\r\n",
    b"250 ok\r\n", b"354 go\r\n", b"299\r\n",
]  # fmt: skip
#: The last two take nothing that they were not offered.
GOOD_REFUSALS = [b"450 4.0.0 not now\r\n", b"550 5.0.0 no\r\n", b"452 4.5.3 too many\r\n"]
OFFER = b"250-up.test\r\n250-PIPELINING\r\n250-SIZE 100000\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 DSN\r\n"
OFFERS = [
    OFFER,
    OFFER,
    OFFER.replace(b"250-PIPELINING\r\n", b""),
    b"250 up.test\r\n",
    b"250-up.test\r\n250 PIPELINING\r\n",
]


class Moods:
    """An upstream's: what it answers where that is not the usual (talk.Answers)."""

    def __init__(self, rng: Random, odd: float, refuses: float = 0.0) -> None:
        """Chances of an answer that no good server gives, or gives seldom; and of an orderly refusal."""
        self._rng = rng
        self._odd = odd
        self._refuses = refuses
        self.given: dict[int, bytes] = {}

    def get(self, n: int, usual: bytes, /) -> bytes:
        answer = usual
        if n > 0 and self._rng.random() < self._odd:
            answer = self._rng.choice(ODD_ANSWERS)
        elif n > 0 and self._rng.random() < self._refuses and usual.startswith((b"250 ok", b"354")):
            answer = self._rng.choice(GOOD_REFUSALS)
        self.given[n] = answer
        return answer


def config(rules: list[str], allow: list[str] | None, *, captures: bool = False) -> dict[str, Any]:
    """A relay's, with room for all that comes."""
    made: dict[str, Any] = {
        "limits": {"errors": 10**6, "junk_commands": 10**6},
        "upstream": {"default": {"url": "smtp://upstream.test:25"}, "other": {"url": "smtp://other.test:25"}},
        "rule": rules,
    }
    if allow is not None:
        made["guard"] = {"allow": allow, **({"otherwise": "capture"} if captures else {})}
    return made
