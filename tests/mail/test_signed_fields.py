"""What DKIM signatures cover, and what breaks them: RFC 6376 §3.2, §3.5, §5.4; PROTOCOL §1.11. dkimpy is the judge."""

from __future__ import annotations

import time

import dkim  # type: ignore[import-untyped]
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from relayproxy.mail.dkim import broken, signed_fields
from relayproxy.mail.edits import AddField, ChangeField, DeleteField, HeaderEdit, ReplaceAddress, edited
from relayproxy.mail.header import HeaderSection

TAGS = b"v=1; a=rsa-sha256; d=Example.test; s=s; bh=aGFzaA==; b=c2ln"

READ: list[tuple[bytes, list[tuple[str, tuple[str, ...], bool]]]] = [
    (TAGS + b"; h=From:To", [("example.test", ("from", "to"), True)]),
    (TAGS + b";\r\n\th = From :\r\n\t to : to;", [("example.test", ("from", "to", "to"), True)]),
    (TAGS + b"; h=from; l=0", [("example.test", ("from",), False)]),
    (TAGS + b"; h=from; l=10", [("example.test", ("from",), True)]),
    (TAGS + b"; x=1; h=from; future_1=a=b", [("example.test", ("from",), True)]),
    (b"", []),
    (TAGS, []),  # no h=
    (TAGS + b"; h=from; h=to", []),
    (TAGS + b"; h=from; ; x=1", []),
    (TAGS + b"; h=from; 1x=1", []),
    (TAGS + b"; h=from; x", []),
    (TAGS + b"; h=from; n=\xc3\xbc", []),
    (TAGS.replace(b"v=1", b"v=2") + b"; h=from", []),
    (TAGS.replace(b"; s=s", b"") + b"; h=from", []),
]


@pytest.mark.parametrize(("value", "there"), READ)
def test_signatures_are_read(value: bytes, there: list[tuple[str, tuple[str, ...], bool]]) -> None:
    section = HeaderSection(b"From: a\r\nDKIM-Signature: %b\r\n" % value)
    assert [(one.domain, one.fields, one.body) for one in signed_fields(section)] == there


KEY = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - it is quick
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
PUBLIC = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
RECORD = b"v=DKIM1; k=rsa; p=" + b"".join(PUBLIC.splitlines()[1:-1])
BODY = b"\r\nhello\r\n"
RAW = (
    b"Received: from a by b\r\nFrom: App <app@example.test>\r\nTo: Jane <jane@customer.test>,\r\n\tj@x.test\r\n"
    b"Subject: hi\r\nX-Note: one\r\nX-Note: two\r\nX-Last: z\r\n"
)


def signed(names: list[bytes], how: bytes) -> HeaderSection:
    signature = dkim.sign(RAW + BODY, b"s", b"example.test", PEM, include_headers=names, canonicalize=(how, b"simple"))
    return HeaderSection(signature + RAW)


def verifies(section: HeaderSection) -> bool:
    return bool(dkim.verify(bytes(section) + BODY, dnsfunc=lambda *_args, **_kwargs: RECORD))


BREAKS: list[tuple[list[bytes], bytes, HeaderEdit, bool]] = [
    ([b"from"], b"simple", AddField("X", "1"), False),
    ([b"from"], b"simple", AddField("Subject", "1"), False),
    ([b"from", b"subject"], b"simple", AddField("Subject", "1"), True),  # the last one counts
    ([b"from", b"subject"], b"simple", AddField("Subject", "1", 0), False),
    ([b"from", b"subject", b"subject"], b"simple", AddField("Subject", "1", 0), True),  # there was none
    ([b"from", b"x-new"], b"relaxed", AddField("X-New", "1"), True),
    ([b"from", b"x-note"], b"relaxed", ChangeField("X-Note", 1, "new"), False),
    ([b"from", b"x-note"], b"relaxed", ChangeField("X-Note", 2, "new"), True),
    ([b"from", b"x-note", b"x-note"], b"relaxed", ChangeField("X-Note", 1, "new"), True),
    ([b"from", b"x-note"], b"simple", DeleteField("X-Note", 1), False),
    ([b"from", b"x-note"], b"simple", DeleteField("X-Note"), True),
    ([b"from", b"x-note"], b"relaxed", ChangeField("X-Note", 3, "new"), True),  # there are two: it is added
    ([b"from", b"subject"], b"simple", ChangeField("Subject", 1, "hi"), False),
    ([b"from", b"subject"], b"simple", ChangeField("Subject", 1, "hi  there"), True),
    ([b"from", b"to"], b"simple", ChangeField("To", 1, "Jane <jane@customer.test>, j@x.test"), True),
    ([b"from", b"to"], b"relaxed", ChangeField("To", 1, "Jane  <jane@customer.test>, j@x.test"), False),
    ([b"from", b"to"], b"relaxed", ReplaceAddress("jane@customer.test", "qa@example.test"), True),
    ([b"from", b"to"], b"relaxed", ReplaceAddress("jim@customer.test", "qa@example.test"), False),
]


@pytest.mark.parametrize(("names", "how", "edit", "breaks"), BREAKS)
def test_what_breaks_a_signature_is_told(names: list[bytes], how: bytes, edit: HeaderEdit, breaks: bool) -> None:
    before = signed(names, how)
    after = edited(before, (edit,))
    assert verifies(before)
    assert [one.domain for one in broken(before, after)] == (["example.test"] if breaks else [])
    assert verifies(after) != breaks


def test_a_signature_that_goes_is_not_broken() -> None:
    before = signed([b"from", b"subject"], b"simple")
    assert broken(before, edited(before, (DeleteField("DKIM-Signature"), DeleteField("Subject")))) == []


def test_signatures_are_told_one_by_one() -> None:
    one, two = signed([b"from", b"subject"], b"relaxed"), signed([b"from"], b"relaxed")
    before = HeaderSection(bytes(one).removesuffix(RAW) + bytes(two))
    assert [one.fields for one in broken(before, edited(before, (DeleteField("subject"),)))] == [("from", "subject")]
    assert [one.fields for one in signed_fields(before)] == [("from", "subject"), ("from",)]


named = st.sampled_from(["From", "to", "Subject", "X-NOTE", "X-New"])
edits = st.one_of(
    st.builds(AddField, named, st.sampled_from(["a", "hi", "b  c"]), st.one_of(st.none(), st.integers(0, 8))),
    st.builds(ChangeField, named, st.integers(1, 2), st.sampled_from(["hi", "one", "App  <app@example.test>"])),
    st.builds(DeleteField, named, st.one_of(st.none(), st.integers(1, 2))),
)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from([b"to", b"subject", b"x-note", b"x-new"]), max_size=5),
    st.sampled_from([b"simple", b"relaxed"]),
    st.lists(edits, min_size=1, max_size=2),
)
def test_a_verifier_says_the_same(names: list[bytes], how: bytes, made: list[HeaderEdit]) -> None:
    before = signed([b"from", *names], how)
    after = edited(before, tuple(made))
    if after.count(b"From") == 1:  # dkimpy, as §5.4, wants it
        assert verifies(after) == (broken(before, after) == [])


@given(
    st.one_of(
        st.binary(max_size=60),
        st.lists(st.sampled_from([TAGS, b"; h=", b"from", b":", b";", b"=", b" ", b"\r\n ", b"\xff", b"\0"])).map(
            b"".join
        ),
    )
)
def test_any_octets_can_be_read(value: bytes) -> None:
    section = HeaderSection(b"DKIM-Signature: %b\r\nFrom: a\r\n" % value)
    assert broken(section, section) == []


def test_attack_19_a_long_list_takes_no_time() -> None:
    for part in (b"from:", b":", b";", b"a=b;", b" ", b"\r\n "):
        section = HeaderSection(b"DKIM-Signature: %b; h=%b\r\nFrom: a\r\n" % (TAGS, part * (32 * 1024 // len(part))))
        started = time.process_time()
        broken(section, section)
        assert time.process_time() - started < 0.5
