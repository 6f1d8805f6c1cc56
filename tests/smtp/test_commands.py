"""Lines to commands and back: RFC 5321 §4.1; PROTOCOL §1.2, attacks 4, 10, 14, 29."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relayproxy.smtp import local_replies
from relayproxy.smtp.commands import (
    Auth,
    Bdat,
    Command,
    Data,
    Ehlo,
    Helo,
    Help,
    Mail,
    Noop,
    Path,
    Quit,
    Rcpt,
    Rset,
    StartTls,
    Vrfy,
    get,
    parse_command,
)
from relayproxy.smtp.errors import LocalProtocolError, RemoteProtocolError
from relayproxy.smtp.replies import Reply

A = Path(b"a", b"x")
B = Path(b"b", b"y")
NULL = Path(b"", b"")
Row = tuple[bytes, Command, bytes | None]

# line, command, the line that leaves (None: as it came)
COMMANDS: list[Row] = [
    # a session typed by hand
    (b"EHLO [IPv6:::1]", Ehlo(b"[IPv6:::1]"), None),
    (b"MAIL FROM:<a@x> SIZE=328", Mail(A, ((b"SIZE", b"328"),)), None),
    (b"RCPT TO: <b@y> NOTIFY=success,failure", Rcpt(B, ((b"NOTIFY", b"success,failure"),)), b"RCPT TO:<b@y> NOTIFY=success,failure"),
    (b"DATA", Data(), None),
    # names
    (b"EHLO client.example.com", Ehlo(b"client.example.com"), None),
    (b"ehlo  app_1 ", Ehlo(b"app_1"), b"EHLO app_1"),
    (b"EHLO x)", Ehlo(b"x)"), None),
    (b"HELO [192.0.2.1]", Helo(b"[192.0.2.1]"), None),
    (b"HELO " + b"x" * 255, Helo(b"x" * 255), None),
    # MAIL, the common form and every way to stray from it
    (b"MAIL FROM:<a@x>", Mail(A), None),
    (b"mail from:<a@x>", Mail(A), b"MAIL FROM:<a@x>"),
    (b"mail FROM:<a@x> size=328", Mail(A, ((b"size", b"328"),)), b"MAIL FROM:<a@x> size=328"),
    (b"MAIL FROM:<a@x> SIZE=1 BODY=8BITMIME", Mail(A, ((b"SIZE", b"1"), (b"BODY", b"8BITMIME"))), None),
    (b"MAIL FROM:<a@x> BODY=8BITMIME", Mail(A, ((b"BODY", b"8BITMIME"),)), None),
    (b"MAIL FROM:<a@x> BODY=7bit SIZE=1", Mail(A, ((b"BODY", b"7bit"), (b"SIZE", b"1"))), None),
    (b"MAIL FROM:<a@x> Body=8bitMime", Mail(A, ((b"Body", b"8bitMime"),)), None),
    (b"MAIL   FROM:   <a@x>   SIZE=1  ", Mail(A, ((b"SIZE", b"1"),)), b"MAIL FROM:<a@x> SIZE=1"),
    (b"MAIL FROM:<a@x> \t", Mail(A), b"MAIL FROM:<a@x>"),
    (b"MAIL FROM:<>", Mail(NULL), None),
    (b"MAIL FROM: <> SIZE=0", Mail(NULL, ((b"SIZE", b"0"),)), b"MAIL FROM:<> SIZE=0"),
    (b"MAIL FROM:<@r,@s:a@x>", Mail(A), b"MAIL FROM:<a@x>"),
    (b"MAIL FROM:<a@x> SMTPUTF8", Mail(A, ((b"SMTPUTF8", None),)), None),
    (b"MAIL FROM:<a@x> RET=hdrs ENVID=QQ+2B1", Mail(A, ((b"RET", b"hdrs"), (b"ENVID", b"QQ+2B1"))), None),
    (b"MAIL FROM:<a@x> ENVID=" + b"e" * 100, Mail(A, ((b"ENVID", b"e" * 100),)), None),
    (b"MAIL FROM:<a@x> AUTH=<>", Mail(A, ((b"AUTH", b"<>"),)), None),
    (b"MAIL FROM:<a@x> AUTH=e+3Dmc2@example.com", Mail(A, ((b"AUTH", b"e+3Dmc2@example.com"),)), None),
    (b"MAIL FROM:<a@x> UNKNOWN X-1=,;<>", Mail(A, ((b"UNKNOWN", None), (b"X-1", b",;<>"))), None),
    ("MAIL FROM:<ü@é.x> SMTPUTF8".encode(), Mail(Path("ü".encode(), "é.x".encode()), ((b"SMTPUTF8", None),)), None),
    # RCPT
    (b"RCPT TO:<b@y>", Rcpt(B), None),
    (b"rcpt to:<b@y>", Rcpt(B), b"RCPT TO:<b@y>"),
    (b"RCPT TO:<Postmaster>", Rcpt(Path(b"Postmaster", b"")), None),
    (b'RCPT TO:<"b >c"@[192.0.2.1]>', Rcpt(Path(b'"b >c"', b"[192.0.2.1]")), None),
    (b"RCPT TO:<b@y> ORCPT=rfc822;b+2Bc@y NOTIFY=NEVER", Rcpt(B, ((b"ORCPT", b"rfc822;b+2Bc@y"), (b"NOTIFY", b"NEVER"))), None),
    (b"RCPT TO:<b@y> NOTIFY=SUCCESS,FAILURE,DELAY", Rcpt(B, ((b"NOTIFY", b"SUCCESS,FAILURE,DELAY"),)), None),
    ("RCPT TO:<b@y> ORCPT=utf-8;ü@y".encode(), Rcpt(B, ((b"ORCPT", "utf-8;ü@y".encode()),)), None),
    (b"RCPT TO:<b@y> SIZE=x", Rcpt(B, ((b"SIZE", b"x"),)), None),
    # the others
    (b"quit", Quit(), b"QUIT"),
    (b"QUIT  ", Quit(), b"QUIT"),
    (b"RSET", Rset(), None),
    (b"NOOP", Noop(), None),
    (b"NOOP whatever it is", Noop(), b"NOOP"),
    (b"HELP", Help(), None),
    (b"HELP MAIL", Help(), b"HELP"),
    (b"VRFY <b@y>", Vrfy(b"<b@y>"), None),
    (b"vrfy  Jane Doe", Vrfy(b"Jane Doe"), b"VRFY Jane Doe"),
    (b"STARTTLS", StartTls(), None),
    (b"BDAT 0", Bdat(0, last=False), None),
    (b"BDAT 1000 LAST", Bdat(1000, last=True), None),
    (b"bdat 0086 last", Bdat(86, last=True), b"BDAT 86 LAST"),
    (b"BDAT 99999999999999999999", Bdat(10**20 - 1, last=False), None),
    (b"AUTH PLAIN", Auth(b"PLAIN"), None),
    (b"auth plain =", Auth(b"PLAIN", b"="), b"AUTH PLAIN ="),
    (b"AUTH SCRAM-SHA-256 biwsbj11c2Vy", Auth(b"SCRAM-SHA-256", b"biwsbj11c2Vy"), None),
]  # fmt: skip


@pytest.mark.parametrize(("line", "command", "wire"), COMMANDS)
def test_a_line_is_a_command_and_leaves_in_one_form(line: bytes, command: Command, wire: bytes | None) -> None:
    assert parse_command(line) == command
    assert type(parse_command(line)) is type(command)
    assert command.wire() == (line if wire is None else wire) + b"\r\n"


REFUSALS = {
    local_replies.UNKNOWN_COMMAND: [
        b"", b"FOO", b"MAILFROM:<a@x>", b"MAIL:<a@x>", b"RCPTTO:<b@y>", b"EHLOx", b"LHLO x", b"DATA.", b"Subject: x", b"AUTHPLAIN AGEAYg==", "MÄIL".encode(), b"BDATA 5",
    ],
    local_replies.SYNTAX_ERROR: [
        b"EHLO", b"HELO ", b"EHLO two words", "EHLO bücher.example".encode(), b"EHLO " + b"x" * 256, b"EHLO \x80",
        b"MAIL", b"MAIL a@x", b"MAIL FROM", b"MAIL FROM:", b"MAIL FROM:a@x", b"MAIL FROM:a@x>", b"MAIL FROM:<a@x", b"MAIL FROM <a@x>", b"MAIL TO:<a@x>", b"MAIL FROM :<a@x>",
        b"MAIL FROM:<a@x>SIZE=1", b"MAIL FROM:<a@x>> SIZE=1", b"MAIL FROM:<a@x>,<b@y>", b"MAIL FROM:<a@b@c>", b"MAIL FROM:<< >>", b"MAIL FROM:<\xff@x>", b"MAIL FROM:<a b@x>",
        b"RCPT", b"RCPT TO:", b"RCPT TO:b@y", b"RCPT TO:<>", b"RCPT TO:<@x>", b"RCPT TO:<@r:b>", b"RCPT FROM:<b@y>", b"RCPT TO:<b@y><c@z>", b"RCPT TO:<b@[1.2.3.999]>",
        b"RCPT TO:<" + b"b" * 252 + b"@x.y>",
        # attacks 10 and 14: what another program might read as a second line, or as the end of this one
        b"MAIL FROM:<a@x>\rRCPT TO:<b@y>", b"MAIL FROM:<a@x>\nRCPT TO:<b@y>", b'MAIL FROM:<"a\r\nRCPT TO:<v>"@x>', b"MAIL FROM:<a@x> SIZE=1\rX", b"MAIL FROM:<a\x00@x>", b"RCPT TO:<b@y>\x00",
        b"RCPT TO:<b@y>\x1b[2J", b"RCPT TO:<b@y>\x7f", b"RCPT\tTO:<b@y>", b"RCPT TO:\t<b@y>", b"NOOP \x00", b"NOOP a\nb", b"QUIT\r", b"DATA\n", b"\x44ATA\x00", b"FOO\x00", b"EHLO x\nMAIL", b"HELP\x08",
        b"VRFY", b"VRFY \xff", b"VRFY \xc2\x9b",
        b"AUTH", b"AUTH PLAIN AGEAYg", b"AUTH PLAIN A=", b"AUTH PLAIN AGEA Yg==", b"AUTH PLAIN *", b"AUTH PL@IN", b"AUTH " + b"X" * 21, b"AUTH PLAIN ====",
    ],
    local_replies.PARAMETER_SYNTAX: [
        b"DATA x", b"RSET x", b"QUIT now", b"STARTTLS x", b"STARTTLS FOO=1",
        b"MAIL FROM:<a@x> =", b"MAIL FROM:<a@x> SIZE==1", b"MAIL FROM:<a@x> -A=1", b"MAIL FROM:<a@x> A_B", b"MAIL FROM:<a@x> A=", b"MAIL FROM:<a@x> A=b=c", "MAIL FROM:<a@x> Ä=1".encode(), b"MAIL FROM:<a@x> A=\xff",
        b"MAIL FROM:<a@x> SIZE=1 SIZE=1", b"MAIL FROM:<a@x> SIZE=1 BODY=7BIT size=2", b"MAIL FROM:<a@x> X X", b"MAIL FROM:<a@x> <b@y>",
        b"MAIL FROM:<a@x> SIZE", b"MAIL FROM:<a@x> SIZE=", b"MAIL FROM:<a@x> SIZE=x", b"MAIL FROM:<a@x> SIZE=1_0", b"MAIL FROM:<a@x> SIZE=+5", b"MAIL FROM:<a@x> SIZE=-1", b"MAIL FROM:<a@x> SIZE=" + b"9" * 21,
        "MAIL FROM:<a@x> SIZE=\u0663".encode(),
        b"MAIL FROM:<a@x> BODY", b"MAIL FROM:<a@x> BODY=9BIT", b"MAIL FROM:<a@x> BODY=8BIT", b"MAIL FROM:<a@x> SMTPUTF8=1", b"MAIL FROM:<a@x> RET", b"MAIL FROM:<a@x> RET=ALL",
        b"MAIL FROM:<a@x> ENVID", b"MAIL FROM:<a@x> ENVID=a+0A", b"MAIL FROM:<a@x> ENVID=+zz", b"MAIL FROM:<a@x> ENVID=" + b"e" * 101,
        b"MAIL FROM:<a@x> AUTH", b"MAIL FROM:<a@x> AUTH=a+0D+0AX", b"MAIL FROM:<a@x> AUTH=a+00", b"MAIL FROM:<a@x> AUTH=" + b"a" * 501,
        b"RCPT TO:<b@y> NOTIFY", b"RCPT TO:<b@y> NOTIFY=", b"RCPT TO:<b@y> NOTIFY=NEVER,SUCCESS", b"RCPT TO:<b@y> NOTIFY=SUCCESS,", b"RCPT TO:<b@y> NOTIFY=ALWAYS",
        b"RCPT TO:<b@y> ORCPT=b@y", b"RCPT TO:<b@y> ORCPT=rfc822;", b"RCPT TO:<b@y> ORCPT=rfc822;b+0A@y", b"RCPT TO:<b@y> ORCPT=rfc822;b ORCPT=rfc822;b", b"RCPT TO:<b@y> ORCPT",
    ],
    local_replies.UNKNOWN_PARAMETER: [b"MAIL FROM:<a@x> BODY=BINARYMIME", b"MAIL FROM:<a@x> SIZE=1 body=binarymime"],
    local_replies.NOT_IMPLEMENTED: [
        b"ETRN x", b"TURN", b"ATRN x", b"SEND FROM:<a@x>", b"SOML FROM:<a@x>", b"SAML FROM:<a@x>", b"BURL imap://x", b"XEXCH50 1 2", b"X-LINK2STATE LAST CHUNK={0}",
        b"XCLIENT ADDR=192.0.2.1", b"xforward NAME=x", b"EXPN list",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("reply", "line"), [(reply, line) for reply, lines in REFUSALS.items() for line in lines])
def test_what_is_no_command_gets_the_reply_that_fits(reply: Reply, line: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as error:
        parse_command(line)
    assert error.value.reply is reply
    assert not error.value.fatal


# PROTOCOL §1.1(5), attack 29: no line behind these can be meant for us
@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1", b"POST /", b"post / HTTP/1.0", b"CONNECT mail:25 HTTP/1.1", b"HEAD /", b"PUT /x", b"OPTIONS *", b"DELETE /x", b"PATCH /x", b"TRACE /", b"PRI * HTTP/2.0", b"GET",
        b"\x16\x03\x01\x02\x00\x01\x00", b"\x80.", b" MAIL FROM:<a@x>", b" ", b"\t", b"\r", b"\x00", b"{}", b"<a@x>", b"1", b".", "ÄHLO".encode(), b"GET /\x00",
    ],
)  # fmt: skip
def test_another_protocol_ends_the_session(line: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as error:
        parse_command(line)
    assert error.value.reply is local_replies.NOT_SMTP
    assert error.value.fatal


# attack 4: how many octets are no commands is not known
@pytest.mark.parametrize(
    "line",
    [
        b"BDAT", b"BDAT ", b"BDAT LAST", b"BDAT 1_0", b"BDAT +5", b"BDAT -1", b"BDAT 999999999999999999999", b"BDAT 5 LAST x", b"BDAT 5 x", b"BDAT 5LAST", b"BDAT 0x10", b"BDAT 5\n", b"BDAT\x005",
        "BDAT \u0665".encode(),
    ],
)  # fmt: skip
def test_a_chunk_whose_size_is_unclear_ends_the_session(line: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as error:
        parse_command(line)
    assert error.value.reply.code == 501
    assert error.value.fatal


def test_an_error_says_what_was_expected_and_quotes_nothing() -> None:
    with pytest.raises(RemoteProtocolError, match="expected") as error:
        parse_command(b"AUTH PLAIN s3cret!")
    assert "s3cret" not in str(error.value)
    assert error.value.__cause__ is None


# attack 10: what a template or a fault of ours would smuggle never leaves
UNSENDABLE: list[Command] = [
    Mail(Path(b"a@x>\r\nRCPT TO:<v", b"x")),
    Mail(Path(b"a", b"x> SIZE=1")),
    Mail(Path(b"a", b"x\r\nRSET")),
    Mail(Path(b"a\n", b"x")),
    Mail(Path(b"a@b", b"x")),
    Mail(Path(b"", b"x")),
    Mail(Path(b"@r:a", b"x")),
    Mail(A, ((b"SIZE", b"1 BODY=8BITMIME"),)),
    Mail(A, ((b"SIZE", b"1\r\nRSET"),)),
    Mail(A, ((b"X Y", None),)),
    Mail(A, ((b"SIZE", b""),)),
    Mail(A, ((b"SIZE", b"1"), (b"size", b"2"))),
    Rcpt(NULL),
    Rcpt(Path(b"b c", b"y")),
    Rcpt(Path(b"b", b"y\x00")),
    Rcpt(Path(b"<b", b"y>")),
    Rcpt(Path(b"b@y> <c", b"z")),
    Rcpt(B, ((b"ORCPT", b"rfc822;v\nRCPT TO:<v@z>"),)),
    Rcpt(Path(b"b" * 300, b"y")),
    Ehlo(b""),
    Ehlo(b"x\r\nMAIL FROM:<v@z>"),
    Ehlo(b"two words"),
    Helo(b"x\x00"),
    Vrfy(b""),
    Vrfy(b"b\nRSET"),
    Vrfy(b" b"),
    Bdat(-1, last=False),
    Bdat(10**20, last=True),
    Auth(b"PLAIN X"),
    Auth(b"plain"),
    Auth(b"PLAIN", b"AGEA\r\n"),
    Auth(b"PLAIN", b""),
]


@pytest.mark.parametrize("command", UNSENDABLE, ids=repr)
def test_what_would_be_read_otherwise_is_never_sent(command: Command) -> None:
    with pytest.raises(LocalProtocolError, match=f"{command.verb} cannot be sent"):
        command.wire()


@pytest.mark.parametrize(
    ("address", "path"),
    [
        (b"", NULL),
        (b"a@x", A),
        (b"postmaster", Path(b"postmaster", b"")),
        (b'"a@b"@x', Path(b'"a@b"', b"x")),
        (b"a@[192.0.2.1]", Path(b"a", b"[192.0.2.1]")),
    ],
)
def test_an_address_is_a_path_without_brackets(address: bytes, path: Path) -> None:
    assert Path.parse(address) == path
    assert path.address == address


@pytest.mark.parametrize("address", [b"<a@x>", b"a@x>", b"a@x> <b@y", b"a@x\r\n", b" a@x", b"a@b@c", b"\xff@x"])
def test_what_is_more_or_less_than_an_address_is_no_path(address: bytes) -> None:
    with pytest.raises(ValueError, match="expected"):
        Path.parse(address)


@pytest.mark.parametrize(
    ("path", "ascii_only"),
    [(NULL, True), (A, True), (Path("ü".encode(), b"x"), False), (Path(b"a", "é".encode()), False)],
)
def test_a_path_knows_whether_it_needs_smtputf8(path: Path, ascii_only: bool) -> None:
    assert path.is_ascii is ascii_only


def test_parameters_are_found_whatever_their_case() -> None:
    command = parse_command(b"MAIL FROM:<a@x> size=12 SmtpUtf8")
    assert isinstance(command, Mail)
    parameters = command.parameters
    assert get(parameters, b"SIZE") == b"12"
    assert get(parameters, b"SMTPUTF8") == b""
    assert get(parameters, b"BODY") is None


def outcome(line: bytes) -> Command | tuple[Reply, bool]:
    try:
        return parse_command(line)
    except RemoteProtocolError as error:
        return error.reply, error.fatal


WORDS = [
    b"MAIL", b"mail", b"RCPT", b" ", b"FROM:", b"from:", b"TO:", b"<", b">", b"a", b"@", b"x.y", b".", b"-", b'"', b"\\", b"[", b"]", b"1.2.3.4", b"IPv6:", b"::1", b"SIZE=", b"1", b"BODY=", b"7BIT",
    b"8BITMIME", b"NOTIFY=", b"NEVER", b",", b"ORCPT=", b"rfc822;", b"+2B", b"+0A", b"AUTH", b"=", b"PLAIN", b"EHLO", b"VRFY", b"BDAT", b"LAST", b"SMTPUTF8", b"\xc3\xbc", b"\xff", b"\r", b"\n", b"\x00", b"\t",
]  # fmt: skip
lines = st.one_of(st.binary(max_size=60), st.lists(st.sampled_from(WORDS), max_size=14).map(b"".join))
mutated = st.builds(
    lambda row, at, octets: row[0][:at] + octets + row[0][at:],
    st.sampled_from(COMMANDS),
    st.integers(0, 40),
    st.sampled_from(WORDS),
)


@given(lines | mutated)
@example(b"MAIL FROM:<a@x> \xc2\x85=")
@example(b"BDAT " + b"9" * 5000)
def test_any_line_is_a_command_that_leaves_as_it_is_or_a_refusal(line: bytes) -> None:
    result = outcome(line)
    if isinstance(result, Command):
        wire = result.wire()
        assert wire.endswith(b"\r\n")
        assert not set(wire[:-2]) & set(b"\r\n\x00")
        assert parse_command(wire[:-2]) == result


@given(
    st.sampled_from(COMMANDS), st.integers(0, 40), st.sampled_from([b"\r", b"\n", b"\x00", b"\x0b", b"\x1f", b"\x7f"])
)
def test_a_control_character_anywhere_is_refused(row: Row, at: int, control: bytes) -> None:
    line = row[0][:at] + control + b"." + row[0][at:]
    assert not isinstance(outcome(line), Command)


dots = st.lists(st.sampled_from([b"a", b"Z", b"9", b".", b"..", b"+tag", b"!#$%&'*/=?^_`{|}~-"]), min_size=1).map(
    b"".join
)
labels = st.lists(
    st.sampled_from([b"a", b"Z9", b"xn--a", b"a-b", b"a--b", b"9", b"example"]), min_size=1, max_size=5
).map(b".".join)
sizes = st.sampled_from(
    [b"", b" SIZE=1", b" size=12345", b" Size=0 BODY=7BIT", b" BODY=8bitmime", b" SIZE=1 body=8BITMIME"]
)


@given(dots, labels, sizes)
def test_the_common_form_is_parsed_as_the_careful_way_does(local: bytes, domain: bytes, size: bytes) -> None:
    # Two spaces send a line the careful way.
    assert parse_command(b"MAIL FROM:<%b@%b>%b" % (local, domain, size)) == parse_command(
        b"MAIL  FROM:<%b@%b>%b" % (local, domain, size)
    )
    assert parse_command(b"RCPT TO:<%b@%b>" % (local, domain)) == parse_command(b"RCPT  TO:<%b@%b>" % (local, domain))
