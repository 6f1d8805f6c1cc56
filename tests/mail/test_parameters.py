"""No name that a program may show is missed (RFC 2045, RFC 2183, RFC 2231, RFC 2047; PROTOCOL attack 19)."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.mail.parameters import LONGEST, PLACES, file_names, values, without_comments

NAMES = [
    # value, names that must be among the readings
    ("attachment; filename=a.exe", ["a.exe"]),
    ('attachment; filename="a.exe"', ["a.exe"]),
    ("ATTACHMENT; FileName = a.exe ; size=1", ["a.exe"]),
    ('application/x; name="a.exe"; charset=x', ["a.exe"]),
    ('attachment; filename="a.txt"; name="b.exe"; filename=c.exe', ["a.txt", "b.exe", "c.exe"]),
    # quoting
    ("attachment; filename=my own file.exe", ["my own file.exe", "my"]),
    ("attachment; filename=report (1).exe", ["report (1).exe", "report .exe"]),
    ('attachment; filename="my own; file.exe"', ["my own; file.exe"]),
    ('attachment; filename="a.exe', ["a.exe"]),
    ('attachment; filename="a.exe; size=1', ["a.exe", "a.exe; size=1"]),
    ('attachment; filename="a.txt".exe', ["a.txt", "a.txt.exe"]),
    ('attachment; filename=a".exe"', ["a.exe"]),
    ("attachment; filename='a.exe'", ["a.exe", "'a.exe'"]),
    (r'attachment; filename="a\"b.exe"', ['a"b.exe']),
    (r'attachment; filename="C:\new\a.exe"', [r"C:\new\a.exe", "C:newa.exe"]),
    ('attachment; filename="C:\\a.exe\\"; size="1"', ["C:\\a.exe\\"]),
    # what stands around it
    ("attachment filename=a.exe", ["a.exe"]),
    ("filename=a.exe", ["a.exe"]),
    ("attachment;;; filename=a.exe", ["a.exe"]),
    ("attachment;filename\t=\ta.exe", ["a.exe"]),
    ('attachment; x="; filename=a.exe', ["a.exe"]),
    ("attachment (that); filename (is) = (the (file)) a.exe (name)", ["a.exe"]),
    ("attachment; filename=(a.exe", ["(a.exe"]),
    ('attachment; filename="\ta.exe "', ["a.exe"]),
    ('attachment; filename="a.exe. ."', ["a.exe", "a.exe. ."]),
    ("attachment; xname=a.exe; x-name=b.exe; names=c.exe", []),
    # RFC 2047 where none may be
    ("attachment; filename==?utf-8?Q?gr=C3=BC=C3=9Fe.exe?=", ["grüße.exe"]),
    ('attachment; filename="=?utf-8?B?YS5leGU=?="', ["a.exe"]),
    ('attachment; filename="=?utf-8?Q?a=2E?= =?utf-8?Q?exe?="', ["a.exe"]),
    ("attachment; filename==?utf-8?Q?a;b.exe?=", ["a;b.exe"]),
    ("=?utf-8?Q?attachment;_filename=3Da.exe?=", ["a.exe"]),
    ('attachment; filename="=?utf-8?Q?a.exe=00.txt?="', ["a.exe", "a.exe.txt"]),
    # in character sets that nobody knows, or of which programs take the octets as they are
    ('attachment; filename="=?x-unknown?Q?invoice=2Eexe?="', ["invoice.exe"]),
    ("attachment; filename==?windows-31j?B?aW52b2ljZS5leGU=?=", ["invoice.exe"]),
    ('attachment; filename="=?cp-850?Q?invoice=2Eexe?="', ["invoice.exe"]),
    ('attachment; filename="=?x-sjis?Q?invoice=2Eexe?="', ["invoice.exe"]),
    ('attachment; filename="=?zlib?Q?invoice=2Eexe?="', ["invoice.exe"]),
    ('attachment; filename="=??Q?invoice=2Eexe?="', ["invoice.exe"]),
    ('attachment; filename="=?a b/c?Q?invoice=2Eexe?="', ["invoice.exe"]),
    ('attachment; filename="=?x-unknown*en?Q?invoice=2Eexe?="', ["invoice.exe"]),
    ('attachment; filename="=?x-unknown?Q?=FC=2Eexe?="', ["ü.exe", r"\xfc.exe"]),
    ('attachment; filename="=?x-unknown?Q?=C3=BC=2E?= =?y?Q?exe?="', ["ü.exe"]),
    ('attachment; filename="=?x-utf-16?Q?a=00=2E=00e=00x=00e=00?="', ["a.exe"]),
    ('attachment; filename="=?utf-8?Q?what?.exe?="', ["what?.exe"]),
    ('attachment; filename="=?utf-8?B?aW52b2ljZXMuZXhlA?="', ["invoices.exe"]),
    ('attachment; filename="=?utf-7?Q?invoice.+AGU-xe?="', ["invoice.exe"]),
    ('attachment; filename="=?unicode-1-1-utf-7?Q?invoice.+AGU-xe?="', ["invoice.exe"]),
    ('attachment; filename="=?utf-7?Q?+2AA-.exe?="', ["?.exe"]),
    ('attachment; filename="=?latin--1?Q?=FC=2Eexe?="', ["ü.exe"]),  # as Python spells it too
    ('attachment; filename="=?EBCDIC-CP--CA?Q?=81K=85=A7=85?="', ["a.exe"]),
    ('attachment; filename="=?cp875?Q?=81K=85=A7=85?="', ["a.exe"]),
    ("=?x-unknown?Q?attachment;_filename=3Da.exe?=", ["a.exe"]),
    ("attachment; filename*=utf-7''invoice.%2BAGU-xe", ["invoice.exe"]),
    ("attachment; filename*=x-unknown''%FC%2Eexe", ["ü.exe"]),
    ("attachment; filename*0*=utf-7''invoice.%2BAGU; filename*1=-xe", ["invoice.exe"]),
    ("attachment; filename*=utf-8''=?x-unknown?Q?a=2Eexe?=", ["a.exe"]),
    # few know these
    ('attachment; filename="=?cp037?Q?a=2Eexe?="', ["a.exe"]),
    ('attachment; filename="=?utf-16?Q?a=2Eexe?="', ["a.exe"]),
    ('attachment; filename="=?iso-2022-jp?Q?=1B$Ba=2Eexe?="', ["\x1b$Ba.exe"]),
    ("attachment; filename*0*=cp037''; filename*1*=%61%2E%65%78%65", ["a.exe"]),
    # RFC 2231
    ("attachment; filename*=utf-8''gr%C3%BC%C3%9Fe.exe", ["grüße.exe"]),
    ("attachment; filename*=iso-8859-1'de'gr%FC%DFe.exe", ["grüße.exe"]),
    ("attachment; filename*=\"utf-8''a%2Eexe\"", ["a.exe"]),
    ("attachment; filename*=a%2Eexe", ["a.exe"]),
    ("attachment; filename*=nonsense''a.exe", ["a.exe"]),
    ('attachment; filename*0="a."; filename*1=exe', ["a.exe"]),
    ("attachment; filename*1*=%65xe; filename*0*=utf-8''gr%C3%BC%2E", ["grü.exe"]),
    ("attachment; filename*0*=utf-8''a%2E; filename*1=e%78e", ["a.exe", "a.e%78e"]),
    ("attachment; filename*0=utf-8''a%2Eexe", ["a.exe"]),
    ("attachment; filename*0=a.exe; filename*2=.txt", ["a.exe", "a.exe.txt"]),
    ("attachment; filename*0=a; filename*1=.txt; filename*1=.exe", ["a.txt", "a.exe"]),
    ('attachment; filename*0="=?utf-8?B?YS5"; filename*1="leGU=?="', ["a.exe"]),
    ("attachment; filename *0* = utf-8''a.exe", ["a.exe"]),
    ("attachment; filename*=utf-8''a.exe; filename=a.txt", ["a.exe", "a.txt"]),
]


@pytest.mark.parametrize(("value", "names"), NAMES)
def test_names_are_found(value: str, names: list[str]) -> None:
    found = file_names(value.encode())
    assert found.complete
    assert set(names) <= set(found.names)
    assert names or not found.names


def test_octets_that_are_no_text_are_told_as_they_are() -> None:
    assert file_names(b'a; filename="gr\xfc.exe"').names == (r"gr\xfc.exe",)


BOUNDARIES = [
    (b"multipart/mixed; boundary=b", [b"b"]),
    (b'multipart/mixed; boundary="b c"; x=y', [b"b c"]),
    (b"multipart/mixed; boundary=b c", [b"b c", b"b"]),
    (b'multipart/mixed; boundary="b', [b"b"]),
    (b"multipart/mixed; boundary=b (c)", [b"b (c)", b"b"]),
    (b"multipart/mixed; boundary=b; boundary=c", [b"b", b"c"]),
    (b"multipart/mixed; boundary*=us-ascii''b%20c", [b"b c"]),
    (b"multipart/mixed; boundary*0=b; boundary*1=c", [b"bc"]),
]


@pytest.mark.parametrize(("value", "readings"), BOUNDARIES)
def test_a_parameter_is_read_in_all_ways(value: bytes, readings: list[bytes]) -> None:
    assert values(value, b"boundary") == readings


TOO_MUCH = [
    b"a; " + b"name=x;" * PLACES,
    b"a;" + b" " * LONGEST + b"name=x",
    b'a; name="' + b"x" * 5000 + b'.exe"',
    b"a; " + b"()" * 1001 + b"name=x",
    b'a; name="=?unicode_escape?Q?a=5Cx2eexe?="',
    b"a; name==?IDNA*en?Q?a?=",
    b"a; name*=raw-unicode-escape''a%5Cu002eexe",
]


@pytest.mark.parametrize("value", TOO_MUCH)
def test_what_is_not_all_read_says_so(value: bytes) -> None:
    assert not file_names(value).complete


@pytest.mark.parametrize(
    "piece",
    [
        b"name=",
        b'name="',
        b'name="\\',
        b'name*0="',
        b"name*1*=%",
        b"(",
        b"()",
        b'\\(("',
        b"(\\",
        b'\\"',
        b'\\"\\(',
        b'(\\"a"\\(',
        b"=?a?q? ",
        b"=?utf-8?Q?x?=",
        b"=?x?Q?+AGU-?=",
        b"name=+AGU;",
        b"name==?x?B?YQ?=;",
        b"=?unicode",
        b'"',
        b"*",
    ],
)
def test_none_is_slow(piece: bytes) -> None:
    started = time.process_time()
    file_names(b"a/b; " + piece * (LONGEST // len(piece)))
    assert time.process_time() - started < 0.5


PIECES = st.sampled_from([
    b"filename", b"name", b"boundary", b"*", b"0", b"1", b"=", b";", b'"', b"\\", b"(", b")", b"'", b"utf-8''", b"%2E", b"%", b"a", b" ", b"\xff", b"\0", b"=?utf-8?Q?", b"=?x?B?", b"=?utf-7?Q?", b"+2AA-", b"?=",
])  # fmt: skip


@given(st.lists(PIECES, max_size=30).map(b"".join) | st.binary())
def test_no_octets_raise(value: bytes) -> None:
    assert "" not in file_names(value).names
    assert b"" not in values(value, b"boundary")


# The same with no thought of what it costs.
COMMENT = re.compile(rb'("(?:[^"\\]|\\.)*")|\((?:[^()\\]|\\.)*\)', re.DOTALL)


@given(st.lists(st.sampled_from([b'"', b"(", b")", b"\\", b"a"]), max_size=16).map(b"".join))
def test_comments_are_what_the_grammar_says(value: bytes) -> None:
    plain = value
    for _ in range(5):
        plain = COMMENT.sub(lambda match: match[1] or b"", plain)
    assert without_comments(value) == plain
