"""The guard (DESIGN §6, §9.3): whom it allows, and that nobody else gets through, however an address is written and whoever reads it."""

from __future__ import annotations

import re
import time
import unicodedata
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relayproxy.mail.pattern import PatternError
from relayproxy.rules.guard import Guard
from relayproxy.smtp.commands import Path, Rcpt, parse_command

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ALLOWED = [
    "*@example.test",
    "*@*.sub.test",
    "*@münchen.test",
    "qa+*@plus.test",
    r"/^[a-z]+@re[0-9]\.test$/",
    "jane@exact.test",
    "jane%customer.test@example.test",
    "customer.test!jane@example.test",
    '"jane@customer.test"@example.test',
    "*@[192.0.2.1]",
    "postmaster",
]
GUARD = Guard.parse(ALLOWED)

ADDRESSES = [
    # as it stands between the angle brackets, whether it may leave
    ("jane@example.test", True),
    ("JANE@Example.TEST", True),
    ("jane@example.test.", True),
    ("jane@example.test..", False),
    ("jane@notexample.test", False),
    ("jane@sub.example.test", False),
    ("jane@example.test.evil.test", False),
    ("jane@x.sub.test", True),
    ("jane@x.y.SUB.test.", True),
    ("jane@sub.test", False),
    ("qa+1@plus.test", True),
    ("qa@plus.test", False),
    ("abc@re7.test", True),
    ("a.c@re7.test", False),
    ("jane@exact.test", True),
    ("Jane@EXACT.test.", True),
    ('"jane"@exact.test', True),
    ('"ja\\ne"@exact.test', True),
    ("joe@exact.test", False),
    # quoted
    ('"jane doe"@example.test', True),
    ('""@example.test', True),
    ('"a@b.test"@example.test', False),
    ('"a\\@b.test"@example.test', False),
    ('"jane@customer.test"@example.test', True),
    ('"jane@example.test"@evil.test', False),
    ('"jane@exact.test"', False),
    ("a\\@b.test@example.test", False),
    # who routes by something else than the last @
    ("jane%evil.test@example.test", False),
    ("jane%customer.test@example.test", True),
    ("JANE%CUSTOMER.test@example.test", True),
    ('"jane%customer.test"@example.test', True),
    ('"jane%evil.test"@example.test', False),
    ("evil.test!jane@example.test", False),
    ('"evil.test:jane"@example.test', False),
    ("customer.test!jane@example.test", True),
    ("jane@evil.test@example.test", False),
    ("jane@example.test@evil.test", False),
    ("jane@@example.test", False),
    ("@evil.test:jane@example.test", False),
    ("@example.test:jane@example.test", False),
    ("@evil.test,@b.test:jane@example.test", False),
    # without a domain
    ("postmaster", True),
    ("POSTMASTER", True),
    ("jane", False),
    ("postmaster@", False),
    ("", False),
    ("@example.test", False),
    # literals
    ("jane@[192.0.2.1]", True),
    ("jane@[192.0.2.2]", False),
    ("jane@[IPv6:2001:db8::1]", False),
    ("jane@192.0.2.1", False),
    # other scripts: the same name in all its forms, and what only looks like one
    ("jane@münchen.test", True),
    ("jane@MÜNCHEN.test.", True),
    ("jane@mu\u0308nchen.test", True),
    ("jane@xn--mnchen-3ya.test", True),
    ("jane@XN--MNCHEN-3YA.test", True),
    ("jürgen@example.test", True),
    ("jane@munchen.test", False),
    ("jane@\uff45xample.test", False),
    ("jane@example\u3002test", False),
    ("jane@example.test\u3002evil.test", False),
    ("jane@example\uff0etest", False),
    ("jane\uff20example.test", False),
    ("jane\uff20evil.test@example.test", False),
    ("jane\uff05evil.test@example.test", False),
    ("evil.test\uff01jane@example.test", False),
    ("\uff4aane@example.test", False),
    ("jane@x\u2024y.sub.test", False),
    ("jane@e\u212aample.sub.test", False),
    ("\u212aate@example.test", False),
    ("jane@xn--eviltest-rm3g.sub.test", False),
    ("jane@xn--evilx-sj33a.sub.test", False),
    ("jane@xn--xample-hy68a.sub.test", False),
    ("jane@xn--xn--a-.sub.test", False),
    ("jane@xn--9999999999.sub.test", False),
    ("jane@" + "ü" * 64 + ".sub.test", False),
    ("jane@straße.sub.test", True),
    ("jane@ex\u0430mple.test", False),  # Cyrillic
    # what no line can carry
    ("jane@example.test\r\nRCPT TO:<joe@evil.test>", False),
    ("jane\0@example.test", False),
    ("jane\t@example.test", False),
    ("jane\x85@example.test", False),
    ("jane@example.test> RCPT TO:<joe@evil.test", False),
    (" jane@example.test", False),
    ("jane@example.test ", False),
    ("<jane@example.test>", False),
    ("Jane <jane@example.test>", False),
    ("jane@example.test,joe@evil.test", False),
    ("a" * 300 + "@example.test", False),
]


@pytest.mark.parametrize(("address", "allowed"), ADDRESSES)
def test_whom_it_allows(address: str, allowed: bool) -> None:
    assert GUARD.allows(address.encode()) == allowed


@pytest.mark.parametrize(
    "octets", [b"j\xe4ne@example.test", b"jane@m\xfcnchen.test", b"jane@example.test\xff", b"\xc0\xae@example.test"]
)
def test_octets_that_are_no_utf8_are_nobodys_address(octets: bytes) -> None:
    assert not Guard.parse(["*"]).allows(octets)
    assert not GUARD.allows(octets)


@pytest.mark.parametrize("address", [b"", b"jane", b"jane@example.test", b'"a@b"@example.test'])
def test_without_an_entry_nobody_is_allowed(address: bytes) -> None:
    assert not Guard.parse([]).allows(address)


@pytest.mark.parametrize("entry", ["*", "*@*", "/./", "/@/", "*example.test", "*%*@*", "*!*", "*@*@example.test"])
@pytest.mark.parametrize(
    "address",
    ["jane%x@example.test", "x!jane@example.test", '"a@b"@example.test', "jane", "jane@xn--9999999999.example.test"],
)
def test_no_wildcard_speaks_for_what_is_odd(entry: str, address: str) -> None:
    assert not Guard.parse([entry]).allows(address.encode())


@pytest.mark.parametrize(
    "address",
    [
        "jane%x@example.test",
        "x!jane@example.test",
        '"a@b"@example.test',
        "jane",
        "jane@xn--9999999999.test",
        "\uff4aane@b.test",
    ],
)
def test_an_entry_without_a_wildcard_does(address: str) -> None:
    assert Guard.parse([address]).allows(address.encode())


@pytest.mark.parametrize(
    ("entry", "address"),
    [
        ("*@EXAMPLE.test.", "jane@example.test"),
        ('"*"@example.test', "jane@example.test"),
        ("JANE@Example.test.", "jane@example.test"),
        ('"jane"@example.test', "jane@example.test"),
        ("*@xn--mnchen-3ya.test", "jane@münchen.test"),
        ("jane@MU\u0308NCHEN.test", "jane@XN--mnchen-3ya.test"),
        ("JÜRGEN@example.test", "jürgen@example.test"),
        ("*@*.münchen.test", "jane@a.xn--mnchen-3ya.test"),
        ("j?ne@example.test", "jane@example.test"),
        ("/@münchen\\.test$/", "jane@xn--mnchen-3ya.test"),
    ],
)
def test_an_entry_may_be_written_in_any_form(entry: str, address: str) -> None:
    assert Guard.parse([entry]).allows(address.encode())


def test_what_is_no_pattern_is_told() -> None:
    with pytest.raises(PatternError) as caught:
        Guard.parse(["*@example.test", "/[/"])
    assert str(caught.value) == "'/[/': expected a regular expression (RE2) between the slashes: missing ]: ["


@pytest.mark.parametrize("entry", ["*@", "**@", "joe@", "*@.", "*@*.", "*@*.*.", "*@?."])
def test_an_entry_whose_domain_is_missing_is_none_for_everybody(entry: str) -> None:
    found = entry.partition("@")[2]
    with pytest.raises(PatternError) as caught:
        Guard.parse([entry])
    assert (
        str(caught.value) == f"{entry!r}: expected a domain behind the @, found {repr(found) if found else 'nothing'}"
    )


def test_it_says_whom_it_allows() -> None:
    assert Guard.parse([]).what == "nobody"
    assert Guard.parse(["*@example.test", "qa@x.test"]).what == "*@example.test, qa@x.test"
    assert (
        Guard.parse([f"{n}@x.test" for n in range(7)]).what
        == "0@x.test, 1@x.test, 2@x.test, 3@x.test, 4@x.test and 2 more"
    )


# Parameters.

PARAMETERS = [
    # of a RCPT, whether they leave
    (b"ORCPT=rfc822;jane@example.test", True),
    (b"orcpt=RFC822;Jane@EXAMPLE.test", True),
    (b"ORCPT=rfc822;qa+2B1@plus.test", True),
    (b"ORCPT=rfc822;jane@evil.test", False),
    (b"ORCPT=rfc822;jane+40evil.test", False),
    (b"ORCPT=rfc822;jane+40example.test", True),
    (b"ORCPT=rfc822;jane+25evil.test@example.test", False),
    (b"ORCPT=rfc822;<jane@example.test>", False),
    (b"ORCPT=rfc822;jane@example.test,joe@evil.test", False),
    (b"ORCPT=rfc822;+22a@b.test+22@example.test", False),
    (b"ORCPT=rfc822;postmaster", True),
    (b"ORCPT=rfc822;jane", False),
    (b"ORCPT=utf-8;jane@example.test", True),
    (b"ORCPT=UTF-8;jane@m\xc3\xbcnchen.test", True),
    (b"ORCPT=utf-8;jane@m\\x{FC}nchen.test", True),
    (b"ORCPT=utf-8;jane\\x{40}example.test", True),
    (b"ORCPT=utf-8;jane\\x{40}evil.test", False),
    (b"ORCPT=utf-8;jane\\x{FF20}evil.test@example.test", False),
    (b"ORCPT=utf-8;jane@example.test\\x{0D}\\x{0A}", False),
    (b"ORCPT=utf-8;\\x{D800}@example.test", False),
    (b"ORCPT=utf-8;\\x{FFFFFF}@example.test", False),
    (b'ORCPT=utf-8;"a\\b"@example.test', False),
    (b"ORCPT=utf-8;jane@evil.test", False),
    (b"ORCPT=x400;jane@example.test", False),
    (b"ORCPT=unknown;+00", False),
    (b"ORCPT=jane@example.test", False),
    (b"ORCPT", False),
    (b"NOTIFY=SUCCESS,DELAY", True),
    (b"XORCPT=jane@evil.test", False),
]  # fmt: skip


@pytest.mark.parametrize(("parameter", "leaves"), PARAMETERS)
def test_what_of_a_rcpt_leaves(parameter: bytes, leaves: bool) -> None:
    name, _, value = parameter.partition(b"=")
    rcpt = Rcpt(Path(b"jane", b"example.test"), ((b"NOTIFY", b"FAILURE"), (name, value or None)))
    guarded = GUARD.guarded(rcpt)
    assert guarded == (rcpt if leaves else Rcpt(rcpt.path, ((b"NOTIFY", b"FAILURE"),)))
    assert guarded is rcpt or not leaves


# Everything there is, by somebody who thinks otherwise.

LOCALS = [
    "jane", "Jane", "j.a..ne.", "jane+tag", '"jane"', '"jane doe"', '"a\\"b"', '"\\\\"', '""', "jürgen", "ju\u0308rgen", "postmaster", "\uff4aane", "\u212aate",
    "jane%evil.test", '"jane%evil.test"', "evil.test!jane", '"evil.test!jane"', '"jane@evil.test"', '"jane\\@evil.test"', "jane@evil.test", '"@evil.test:jane"',
    "jane\uff20evil.test", "jane\ufe6bevil.test", "jane\uff05evil.test", "evil.test\uff01jane", "jane\u203cevil", '"jane\uff20evil.test"', "jane\\@evil.test", "qa+1",
]  # fmt: skip
DOMAINS = [
    *["example.test", "a.sub.test"] * 10, "EXAMPLE.Test", "example.test.", "example.test..", "evil.test", "evil.test.", "sub.example.test", "a.sub.test", "A.B.SUB.TEST", "sub.test",
    "münchen.test", "MÜNCHEN.test", "mu\u0308nchen.test", "xn--mnchen-3ya.test", "XN--MNCHEN-3YA.TEST", "xn--example-.sub.test", "xn--evil-.test", "xn--a.sub.test",
    "xn--xample-hy68a.sub.test", "xn--eviltest-rm3g.sub.test", "\uff45xample.test", "example\u3002test", "example\uff0etest", "example\uff61test", "x\u2024y.sub.test", "\u2488sub.test",
    "e\u212aample.sub.test", "evil.test\uff20example.test", "[192.0.2.1]", "[192.0.2.2]", "[IPv6:::1]", "[IPv6:2001:DB8::1]", "192.0.2.1", "exact.test", "plus.test", "re1.test", "",
    "example.test@evil.test", "example.test%evil.test", "ex\u00adample.test", "example.test\u200b", "\u0131.sub.test", "\u0130.sub.test",
]  # fmt: skip
ROUTES = ["", "", "", "@evil.test:", "@evil.test,@example.test:", "@EXAMPLE.test:"]
BEHIND = ["", " ", ">", "\r\n", "\0", "\u2028", ",joe@evil.test", "> RCPT TO:<joe@evil.test"]


@st.composite
def addresses(draw: st.DrawFn) -> bytes:
    """One made of parts, and then perhaps damaged."""
    domain = draw(st.sampled_from(DOMAINS))
    at = draw(st.sampled_from(["@"] * 12 + ["@@", "\uff20", "%", ""]))
    text = (
        draw(st.sampled_from(ROUTES))
        + draw(st.sampled_from(LOCALS))
        + at
        + domain
        + draw(st.sampled_from([*[""] * 8, *BEHIND]))
    )
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        place = draw(st.integers(0, len(text)))
        cut = draw(st.integers(0, 1))
        text = (
            text[:place]
            + draw(
                st.sampled_from(
                    ["", "@", '"', "\\", ".", "%", "!", ":", "<", ">", "a", "\u3002", "\uff20", "\uff0e", "\x00", " "]
                )
            )
            + text[place + cut :]
        )
    return text.encode("utf-8", "surrogatepass") if draw(st.integers(0, 20)) else text.encode("utf-16-le")


def unquoted(text: str) -> str:
    return re.sub(r'\\(.)|"', lambda match: match[1] or "", text)


def domains(text: str) -> Iterator[str]:
    """Where that could go, by all that mail programs have ever read in an address: after the last @, after the first, the way of %, of !, of a source route."""
    yield text.rpartition("@")[2]
    local = text.rpartition("@")[0]
    if "@" in local:
        yield text.partition("@")[2]
        yield local.rpartition("@")[2]
    if "%" in local:
        yield local.rpartition("%")[2]
    if "!" in local:
        yield local.partition("!")[0]
    if ":" in local:
        yield local.partition(":")[0]


def readings(address: str) -> set[str]:
    """All domains, each in lower case and as text: mapped and decoded, before it is split or after."""
    found: set[str] = set()
    for text in (address, unicodedata.normalize("NFKC", address).replace("\u3002", ".")):
        for one in (text, unquoted(text)):
            for domain in domains(one):
                plain = unicodedata.normalize("NFKC", domain.lower())
                found |= {plain, ".".join(map(decoded, plain.split(".")))}
    return {name.removesuffix(".") for name in found}


def decoded(label: str) -> str:
    if not label.startswith("xn--"):
        return label
    try:
        return unicodedata.normalize("NFKC", label[4:].encode().decode("punycode")).replace("\u3002", ".")
    except UnicodeError:
        return label


def is_ours(domain: str) -> bool:
    """Of those entries that have a wildcard."""
    return (
        domain in ("example.test", "münchen.test", "xn--mnchen-3ya.test", "[192.0.2.1]", "plus.test")
        or (domain.endswith(".sub.test") and domain.count("@") == 0)
        or re.fullmatch(r"re[0-9]\.test", domain) is not None
    )


def named(address: str) -> bool:
    """Whether an entry without wildcard is this address, but for the case of ASCII letters, quotes and the last dot."""
    quoted = re.fullmatch(r'"((?:[^"\\]|\\.)*)"(@.*)?', address)
    plain = (
        (repr(re.sub(r"\\(.)", r"\1", quoted[1])) + (quoted[2] or ""))
        if quoted
        else re.sub(r"^[^@]*", lambda match: repr(match[0]), address)
    )
    lower = "".join(c.lower() if c.isascii() else c for c in plain).removesuffix(".")
    return lower in {
        "'jane'@exact.test",
        "'jane%customer.test'@example.test",
        "'customer.test!jane'@example.test",
        "'jane@customer.test'@example.test",
        "'postmaster'",
    }


@given(addresses() | st.text(max_size=20).map(lambda text: text.encode() + b"@example.test"))
@example(b'"jane@customer.test"@example.test')
@example(b"jane@xn--eviltest-rm3g.sub.test")
def test_whoever_reads_what_it_allows_finds_nobody_outside(address: bytes) -> None:
    if not GUARD.allows(address):
        return
    text = address.decode()
    assert Path.parse(address).address == address
    assert not any(unicodedata.category(character) == "Cc" for character in text)
    assert named(text) or all(map(is_ours, readings(text))), readings(text)
    # And so does the line, whose parse is what leaves.
    assert parse_command(Rcpt(Path.parse(address)).wire().removesuffix(b"\r\n")) == Rcpt(Path.parse(address))


@st.composite
def spellings(draw: st.DrawFn) -> str:
    """A mailbox of ours, in one of the ways to write it."""
    local = draw(st.text(alphabet="abcXYZ019.+-_=/#$&'*?^`{|}~äß日", min_size=1, max_size=10))
    if draw(st.booleans()):
        local = (
            '"'
            + "".join(
                "\\" + c if draw(st.booleans()) and c.isascii() else c
                for c in local + draw(st.sampled_from(["", " ", "(,)", ";"]))
            )
            + '"'
        )
    domain = draw(
        st.sampled_from(
            ["example.test", "a.sub.test", "xn--mnchen-3ya.test", "münchen.test", "mu\u0308nchen.test", "a.b.sub.test"]
        )
    )
    return (
        f"{local}@{''.join(c.upper() if draw(st.booleans()) else c for c in domain)}{draw(st.sampled_from(['', '.']))}"
    )


@given(spellings())
def test_a_mailbox_that_is_allowed_is_so_in_every_spelling(address: str) -> None:
    assert GUARD.allows(address.encode())


@given(
    st.lists(
        st.sampled_from(
            ["*@example.test", "*@*.test", "jane@example.test", "*", "/@example/", "a%b@example.test", "postmaster"]
        )
    ),
    addresses(),
)
def test_more_entries_never_allow_less(entries: Iterable[str], address: bytes) -> None:
    entries = list(entries)
    each = [Guard.parse([entry]).allows(address) for entry in entries]
    assert Guard.parse(entries).allows(address) == any(each)


@given(st.binary(max_size=60) | addresses())
def test_whatever_an_orcpt_names_is_allowed_or_dropped(value: bytes) -> None:
    for kind in (b"rfc822", b"utf-8"):
        encoded = b"".join(
            b"+%02X" % octet if octet in b"+=" or not 33 <= octet <= 126 else bytes((octet,)) for octet in value
        )
        rcpt = Rcpt(Path(b"jane", b"example.test"), ((b"ORCPT", kind + b";" + encoded),))
        assert GUARD.guarded(rcpt) is not rcpt or GUARD.allows(value)


@pytest.mark.slow
def test_it_is_quick_however_many_entries_there_are() -> None:
    many = Guard.parse([f"user{n}@a{n}.test" for n in range(3000)] + [f"*@b{n}.test" for n in range(3000)])
    started = time.process_time()
    for n in range(1000):
        assert many.allows(b"x@b%d.test" % n) != many.allows(b"x@c%d.test" % n)
        assert many.allows(b"user%d@a%d.test" % (n, n))
    assert time.process_time() - started < 0.5
