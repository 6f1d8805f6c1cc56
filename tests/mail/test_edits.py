"""Edits of a header section: DESIGN §6; RFC 5322 §3.4; PROTOCOL §1.11, attacks 10, 13, 19, 30."""

from __future__ import annotations

import contextlib
import inspect
import re
import time
from email.headerregistry import HeaderRegistry
from email.utils import getaddresses
from typing import Any

import dkim  # type: ignore[import-untyped]
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.mail.canonical import canonical
from relayproxy.mail.edits import (
    AddField,
    ChangeField,
    DeleteField,
    HeaderEdit,
    ReplaceAddress,
    RewriteAddresses,
    edited,
    headers_changed,
)
from relayproxy.mail.header import HeaderSection, decode, unfold
from relayproxy.mail.pattern import AddressPattern

RAW = (
    b"Received: from a by b;\r\n\tMon, 23 Nov 2026 22:14:00 +0000\r\n"
    b"From: App <app@example.test>\r\n"
    b'To: "Doe, Jane" <jane@customer.test>,\r\n\tJoe (who is jane@customer.test) <joe@CUSTOMER.test>\r\n'
    b"Subject:hi\r\n there\r\n"
    b"CC: jane@customer.test; qa@example.test\r\n"
    b"X-To: jane@customer.test\r\n"
)


def made(*edits: HeaderEdit, raw: bytes = RAW, utf8: bool = False) -> bytes:
    return bytes(edited(HeaderSection(raw), edits, utf8=utf8))


QA = (AddressPattern.parse("*@example.test"),)


def rewrite(*fields: str, spare: tuple[AddressPattern, ...] = QA, to: str = "qa@example.test") -> RewriteAddresses:
    return RewriteAddresses(fields, spare, to)


EDITS: list[tuple[str, list[HeaderEdit], bytes]] = [
    ("none", [], RAW),
    ("a field at the end", [AddField("X-Tag", "für")], RAW + b"X-Tag: =?utf-8?q?f=C3=BCr?=\r\n"),
    ("on top", [AddField("X-Tag", "1", 0)], b"X-Tag: 1\r\n" + RAW),
    ("in order", [AddField("X", "1", 0), AddField("X", "2", 0)], b"X: 2\r\nX: 1\r\n" + RAW),
    ("a change", [ChangeField("subject", 1, "ho")], RAW.replace(b":hi\r\n there", b": ho")),
    ("of none", [ChangeField("SUBJECT", 2, "ho"), ChangeField("X", 1, "x")], RAW + b"SUBJECT: ho\r\nX: x\r\n"),
    ("none goes", [DeleteField("X-None"), DeleteField("To", 2)], RAW),
    ("what was added", [AddField("X", "1"), ChangeField("x", 1, "2")], RAW + b"X: 2\r\n"),
    ("a field goes", [DeleteField("SUBJECT")], RAW.replace(b"Subject:hi\r\n there\r\n", b"")),
    (
        "an address",
        [ReplaceAddress("jane@Customer.Test", "qa+jane=customer.test@example.test")],
        RAW.replace(b"<jane@customer.test>", b"<qa+jane=customer.test@example.test>").replace(
            b"CC: jane@customer.test", b"CC: qa+jane=customer.test@example.test"
        ),
    ),
    ("of another case", [ReplaceAddress("joe@customer.test", "qa@X.test")], RAW.replace(b"joe@CUSTOMER.test", b"qa@x.test")),
    ("that is nowhere", [ReplaceAddress("jim@customer.test", "qa@example.test")], RAW),
    (
        "one after the other",
        [ReplaceAddress("jane@customer.test", "joe@customer.test"), AddField("X", "1"), ReplaceAddress("joe@customer.test", '"a b"@c.test')],
        RAW.replace(b"<jane@customer.test>", b'<"a b"@c.test>').replace(b"CC: jane@customer.test", b'CC: "a b"@c.test').replace(b"joe@CUSTOMER.test", b'"a b"@c.test')
        + b"X: 1\r\n",
    ),
    (
        "and not the other way",
        [ReplaceAddress("joe@customer.test", "x@y.test"), ReplaceAddress("jane@customer.test", "joe@customer.test")],
        RAW.replace(b"<jane@customer.test>", b"<joe@customer.test>").replace(b"CC: jane@customer.test", b"CC: joe@customer.test").replace(b"joe@CUSTOMER.test", b"x@y.test"),
    ),
    (
        "of two recipients, one of whom becomes the other",
        [ReplaceAddress("jane@customer.test", "joe@customer.test", 0), ReplaceAddress("joe@customer.test", "x@y.test", 1)],
        RAW.replace(b"<jane@customer.test>", b"<joe@customer.test>").replace(b"CC: jane@customer.test", b"CC: joe@customer.test").replace(b"joe@CUSTOMER.test", b"x@y.test"),
    ),
    (
        "of the same with a change of one field between them",
        [ReplaceAddress("jane@customer.test", "joe@customer.test", 0), ChangeField("To", 1, "joe@customer.test"), ReplaceAddress("joe@customer.test", "x@y.test", 1)],
        re.sub(rb"To: \"(?s:.*)(?=Subject)", b"To: x@y.test\r\n", RAW).replace(b"CC: jane@customer.test", b"CC: joe@customer.test"),
    ),
    (
        "of two recipients, one of whom by way of the other",
        [ReplaceAddress("jane@customer.test", "joe@customer.test", 0), ReplaceAddress("joe@customer.test", "a@b.test", 0), ReplaceAddress("joe@customer.test", "x@y.test", 1)],
        RAW.replace(b"<jane@customer.test>", b"<a@b.test>").replace(b"CC: jane@customer.test", b"CC: a@b.test").replace(b"joe@CUSTOMER.test", b"x@y.test"),
    ),
    (
        "before and behind a change of the same field",
        [ReplaceAddress("jane@customer.test", "x@y.test"), ChangeField("Cc", 1, "jane@customer.test"), DeleteField("To")],
        re.sub(rb"To: \"(?s:.*)(?=Subject)", b"", RAW).replace(b"CC: jane@customer.test; qa@example.test", b"CC: jane@customer.test"),
    ),
    (
        "all addresses",
        [rewrite("to", "Cc")],
        RAW.replace(b"<jane@customer.test>", b"<qa@example.test>").replace(b"joe@CUSTOMER.test", b"qa@example.test").replace(b"CC: jane@customer.test", b"CC: qa@example.test"),
    ),
    ("in other fields", [rewrite("X-To", "From")], RAW.replace(b"X-To: jane@customer.test", b"X-To: qa@example.test")),
]  # fmt: skip


@pytest.mark.parametrize(("edits", "raw"), [row[1:] for row in EDITS], ids=[row[0] for row in EDITS])
def test_edits_are_made_in_order_and_touch_nothing_else(edits: list[HeaderEdit], raw: bytes) -> None:
    section = HeaderSection(RAW)
    assert bytes(edited(section, tuple(edits))) == raw
    assert bytes(section) == RAW


REWRITTEN: list[tuple[str, bytes, bytes]] = [
    ("names, comments and folding stay", b' "x@y.test" <a@b.test>,\r\n\t(c) d@e.test (f)', b' "x@y.test" <qa@example.test>,\r\n\t(c) qa@example.test (f)'),
    ("what is spared stays", b"A <a@EXAMPLE.test>, b@c.test", b"A <a@EXAMPLE.test>, qa@example.test"),
    ("groups", b"T: a@b.test, c@example.test;, d@e.test", b"T: qa@example.test, c@example.test;, qa@example.test"),
    ("an empty group", b"undisclosed-recipients:;", b"undisclosed-recipients:;"),
    ("nothing", b" ", b" "),
    ("an address as a name", b"a@b.test <a@b.test>", b"qa@example.test <qa@example.test>"),
    ("a local part alone", b"root, R <root>", b"qa@example.test, R <qa@example.test>"),
    ("words", b"Jane Doe, a@example.test", b"qa@example.test, a@example.test"),
    ("a source route", b"<@evil.test:a@example.test>", b"qa@example.test"),
    ("a comment in an address", b"a (x) @ example.test", b"qa@example.test"),
    ("a percent hack", b"x%evil.test@example.test", b"qa@example.test"),
    ("a UUCP path", b"evil!x@example.test", b"qa@example.test"),
    ("two at signs", b'"x@evil.test"@example.test', b"qa@example.test"),
    ("a comma in quotes", b'"x, y"@example.test', b"qa@example.test"),
    ("an at sign in disguise", "x\uff20evil.test@example.test".encode(), b"qa@example.test"),
    ("a letter that is one", "jürgen@example.test".encode(), "jürgen@example.test".encode()),
    ("an encoded word with an address", b"=?utf-8?q?=3Cx=40evil=2Etest=3E?= <a@example.test>", b"qa@example.test"),
    ("an encoded word as a local part", b"=?utf-8?q?x=40evil=2Etest=2C?=@example.test", b"qa@example.test"),
    ("a quote without an end", b'a@example.test, "b <c@d.test>, e@f.test', b"a@example.test, qa@example.test"),
    ("a bare LF", b"a@example.test\nTo: x@evil.test", b"qa@example.test"),
    ("a line of white space", b"a@example.test\r\n \r\n , b@c.test", b"qa@example.test, qa@example.test"),
    ("a line of white space at the end", b"b@c.test,\r\n ", b"qa@example.test,qa@example.test"),
]  # fmt: skip


@pytest.mark.parametrize(("came", "left"), [row[1:] for row in REWRITTEN], ids=[row[0] for row in REWRITTEN])
def test_what_is_not_spared_is_rewritten_and_what_is_odd_goes(came: bytes, left: bytes) -> None:
    assert made(rewrite("To"), raw=b"To:%b\r\nX: y\r\n" % came) == b"To:%b\r\nX: y\r\n" % left
    assert (
        made(rewrite("To"), rewrite("To"), raw=b"to\t:%b" % came) == b"to\t:%b" % left
    )  # every field of that name, in any state


def test_an_odd_address_is_spared_by_its_own_pattern() -> None:
    raw = b"To: x%y@example.test, root, Root@example.test\r\n"
    spare = (AddressPattern.parse("X%Y@example.test"), AddressPattern.parse("root"), AddressPattern.parse("/^root/"))
    assert made(rewrite("To", spare=spare), raw=raw) == raw


@pytest.mark.parametrize(
    ("pattern", "address"),
    [("?*@example.test", "x%y@example.test"), ("x?y@example.test", "x%y@example.test"), ("/@example.test$/", "x%y@example.test"), ("*@*.test", "x@evil\u3002y.test")],
)  # fmt: skip
def test_attack_30_no_pattern_for_many_spares_an_odd_one(pattern: str, address: str) -> None:
    raw = f"To: {address}, x+y@example.test\r\n".encode()
    left = made(rewrite("To", spare=(AddressPattern.parse(pattern), *QA), to="z@z.test"), raw=raw)
    assert left == b"To: z@z.test, x+y@example.test\r\n"


def test_what_is_the_new_address_already_stays_as_it_is_written() -> None:
    raw = b"To: a@B.Test, Z <z@Z.test>\r\n"
    assert made(rewrite("To", to="z@z.test"), raw=raw) == b"To: z@z.test, Z <z@Z.test>\r\n"


def test_every_instance_is_rewritten() -> None:
    raw = b"Cc: a@b.test\r\nX: y\r\ncC: c@d.test\r\n"
    assert made(rewrite("CC"), raw=raw) == b"Cc: qa@example.test\r\nX: y\r\ncC: qa@example.test\r\n"


def test_resent_fields_have_the_address_replaced_and_others_do_not() -> None:
    raw = b"".join(
        b"%b: a@b.test\r\n" % name
        for name in (b"Resent-To", b"Resent-Cc", b"Resent-Bcc", b"Bcc", b"From", b"Reply-To", b"Sender")
    )
    assert made(ReplaceAddress("a@b.test", "c@d.test"), raw=raw) == raw.replace(b"a@b.test", b"c@d.test", 4)


def test_an_address_is_replaced_in_odd_elements_too() -> None:
    raw = b"To: Jane [a@b.test], <mailto:a@b.test>, 'a@b.test', a (x) @ b . test\r\nX: y\r\n"
    assert made(ReplaceAddress("a@b.test", "c@d.test"), raw=raw) == (
        b"To: Jane [c@d.test], <mailto:c@d.test>, 'c@d.test', c@d.test\r\nX: y\r\n"
    )


def test_lines_that_grow_too_long_are_folded() -> None:
    for separator in (b", ", b","):
        value = separator.join(b"u%d@c.test" % number for number in range(80))
        assert len(value) < 998
        left = made(rewrite("To"), raw=b"To: %b\r\nX: y\r\n" % value)
        assert max(map(len, left.split(b"\r\n"))) <= 78
        assert unfold(left) == b"To: %b\r\nX: y\r\n" % b", ".join([b"qa@example.test"] * 80)


def test_lines_that_were_too_long_elsewhere_stay() -> None:
    raw = b"To: a@b.test\r\nX: " + b"y" * 2000 + b"\r\n"
    assert made(rewrite("To"), raw=raw) == raw.replace(b"a@b.test", b"qa@example.test")


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (AddField("X Y", "z"), "expected a field name"),
        (AddField("Größe", "z"), "expected a field name"),
        (AddField("X", "a\r\nBcc: b@c.test"), "one line without control characters"),
        (ChangeField("Subject", 1, "a\nb"), "one line without control characters"),
        (ReplaceAddress("a@b.test", "c@d.test, e@f.test"), "expected an address"),
        (ReplaceAddress("a@b.test", ""), "expected an address"),
        (rewrite("To", to="ü@x.test"), "expected an ASCII address"),
        (rewrite("To", to="a@x.test\r\n"), "expected an address"),
    ],
)
def test_an_edit_that_gives_no_field_is_an_error(edit: HeaderEdit, what: str) -> None:
    section = HeaderSection(RAW)
    with pytest.raises(ValueError, match=re.escape(what)):
        edited(section, (DeleteField("To"), edit))
    assert bytes(section) == RAW


def test_nothing_is_put_on_top_of_white_space() -> None:
    with pytest.raises(ValueError, match="begins with white space"):
        made(AddField("X", "y", 0), raw=b" a\r\n")


def test_where_utf8_may_stand_it_does() -> None:
    raw = made(AddField("X", "für"), rewrite("Cc", to="jü@bücher.test"), raw=b"Cc: a@b.test\r\n", utf8=True)
    assert raw == "Cc: jü@xn--bcher-kva.test\r\nX: für\r\n".encode()


@pytest.mark.parametrize(
    ("edits", "names"),
    [
        ([], ()),
        ([ReplaceAddress("jane@customer.test", "x@y.test"), AddField("X-Original-To", "jane@customer.test")], ("To", "CC", "X-Original-To")),
        ([AddField("subject", "x")], ("Subject",)),
        ([DeleteField("cc"), AddField("X", "1", 0), AddField("x", "2", 0)], ("CC", "x")),
        ([ChangeField("X-To", 1, "jane@customer.test")], ()),
    ],
)  # fmt: skip
def test_the_names_of_what_has_changed(edits: list[HeaderEdit], names: tuple[str, ...]) -> None:
    section = HeaderSection(RAW)
    assert headers_changed(section, edited(section, tuple(edits))) == names


def test_lines_that_are_no_fields_have_no_name_to_tell() -> None:
    assert headers_changed(HeaderSection(b"A: b\r\nx"), HeaderSection(b"A: b\r\ny\r\n")) == ()


@pytest.mark.slow
def test_a_thousand_recipients_take_no_time() -> None:
    users = [f"user{number}@customer.test" for number in range(1000)]
    raw = f"To: {', '.join(users)}\r\n".encode()
    edits = [
        edit
        for user in users
        for edit in (
            ReplaceAddress(user, f"qa+{user.replace('@', '=')}@example.test"),
            AddField("X-Number", user[4:-14]),
        )
    ]
    started = time.process_time()
    left = made(*edits, raw=raw)
    assert time.process_time() - started < 2  # a tenth of that; made one by one they take twenty times as long
    assert (left.count(b"=customer.test@example.test"), left.count(b"\r\nX-Number: ")) == (1000, 1000)


@pytest.mark.parametrize(
    "part", [b"a@b,", b"a,", b",<", b"(", b'"', b"<", b"a@b <c@d>,", b"=?utf-8?q?a?= <a@b>,", b"\xff@\xff,"]
)
def test_attack_19_a_hostile_value_takes_no_time(part: bytes) -> None:
    raw = b"To: %b\r\n" % (part * (16 * 1024 // len(part)))
    for edit in (rewrite("To"), ReplaceAddress("a@c", "a@d")):
        started = time.process_time()
        made(edit, raw=raw)
        assert time.process_time() - started < 0.5


# Properties: other readers as second opinions.

tokens = [
    b"a", b"evil@x.test", b"good@example.test", b"@", b".", b",", b";", b":", b"<", b">", b'"', b"(", b")", b"\\", b" ", b"\t", b"\r\n ", b"[", b"]", b"=?utf-8?q?", b"?=",
    b"=?utf-8?q?J=C3=BC?=", b"=?utf-8?q?=22?=", b"=?utf-8?b?PGV2aWxAeC50ZXN0Pg==?=", b"=40", b"<evil@x.test>", b"<good@example.test>", b'"b c"', b'"evil@x.test"', b"Team:",
    b"'", b"\xc3\xbc", b"\xff", b"\n", b"\0", b"\r", b"(c)", b'\\"', b"!", b"%", b"@evil.test:", b"mailto:", "\uff20".encode(), b"\x0b", b"\xc2\xa0",
]  # fmt: skip
soup = st.one_of(st.lists(st.sampled_from(tokens), max_size=14).map(b"".join), st.binary(max_size=40))


def read_by_others(value: bytes) -> set[str]:
    """What two parsers of the standard library find there, as it is, and when encoded words are decoded first."""
    found: set[str] = set()
    lenient = {"strict": False} if "strict" in inspect.signature(getaddresses).parameters else {}
    for text in (unfold(value).decode("utf-8", "replace"), decode(value.decode("utf-8", "replace").encode())):
        found |= {address for _, address in getaddresses([text], **lenient)}
        with contextlib.suppress(AttributeError, IndexError, TypeError):  # its own faults
            header: Any = HeaderRegistry()("to", text)
            found |= {address.addr_spec for address in header.addresses}
    return found - {"", "<>"}


@given(soup)
def test_other_readers_find_nothing_that_is_not_spared(value: bytes) -> None:
    section = edited(HeaderSection(b"To: %b\r\n" % value), (rewrite("To"),))
    (field,) = section.get_all(b"To")
    for address in read_by_others(field.value):
        assert QA[0].matches(address)
        assert canonical(address).count("@") == 1
        assert not set('%!<>,;:\\"()\uff20') & set(address)
    assert bytes(edited(section, (rewrite("To"),))) == bytes(section)


lines = st.lists(
    st.sampled_from([b"To: a@b.test\r\n", b"To :", b"cc: c@d.test,\r\n e@f.test\r\n", b"X: y\r\n", b"no colon\r\n", b"From a b\r\n", b"\r\n", b" z\r\n", b"\n", b"\0", b"Subject: a\r\n"])
).map(b"".join)  # fmt: skip
edits = st.one_of(
    st.builds(AddField, st.sampled_from(["To", "X"]), st.text(max_size=20), st.one_of(st.none(), st.integers(0, 3))),
    st.builds(ChangeField, st.sampled_from(["To", "x"]), st.integers(0, 2), st.text(max_size=20)),
    st.builds(DeleteField, st.sampled_from(["to", "X"]), st.one_of(st.none(), st.integers(0, 2))),
    st.builds(ReplaceAddress, st.sampled_from(["a@b.test", "c@d.test"]), st.sampled_from(["e@f.test", '"g h"@i.test'])),
    st.builds(rewrite, st.sampled_from(["TO", "cc"])),
)


@given(st.one_of(lines, st.tuples(st.just(b"To:"), soup).map(b"".join)), edits)
def test_for_any_octets_only_what_is_named_changes(raw: bytes, edit: HeaderEdit) -> None:
    before = HeaderSection(raw)
    try:
        after = edited(before, (edit,))
    except ValueError:
        return
    match edit:
        case AddField(name):
            named, grown = {name.lower()}, 1
        case ChangeField(name, n):
            named, grown = {name.lower()}, int(n > before.count(name.encode()))
        case DeleteField(name, n):
            count = before.count(name.encode())
            named, grown = {name.lower()}, -(count if n is None else int(1 <= n <= count))
        case ReplaceAddress():
            named, grown = {"to", "cc", "bcc"}, 0
        case RewriteAddresses(fields):
            named, grown = {field.lower() for field in fields}, 0

    def others(section: HeaderSection) -> list[bytes]:
        octets = bytes(section)
        return [
            octets[field.start : field.end].removesuffix(b"\r\n")  # a last line has no CRLF until something follows
            for field in section.fields
            if field.name.lower().decode() not in named
        ]

    assert others(after) == others(before)
    assert len(after.fields) == len(before.fields) + grown
    assert {name.lower() for name in headers_changed(before, after)} <= named


KEY = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - it is quick
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
PUBLIC = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
RECORD = b"v=DKIM1; k=rsa; p=" + b"".join(PUBLIC.splitlines()[1:-1])


def test_a_signature_over_other_fields_holds() -> None:
    body = b"\r\nhello\r\n"
    signature = dkim.sign(RAW + body, b"s", b"example.test", PEM, include_headers=[b"from", b"subject", b"x-to"])
    left = made(AddField("X-New", "für"), rewrite("To", "Cc"), DeleteField("Received"), raw=signature + RAW)
    assert dkim.verify(left + body, dnsfunc=lambda *_args, **_kwargs: RECORD)
    assert not dkim.verify(made(rewrite("X-To"), raw=left) + body, dnsfunc=lambda *_args, **_kwargs: RECORD)
