"""Real programs that send mail: each gives the whole message, byte for byte, and tells the reply that decided."""

from __future__ import annotations

import base64
import json
import os
import re
import smtplib
import ssl
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, Self
from urllib.parse import quote

from real_cast import took_part
from real_process import PEERS, missing, program

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from real_certificates import Files

Tls = Literal["off", "starttls", "implicit"]


class Login(NamedTuple):
    """As whom, and how; of the OAuth mechanisms the secret is the token."""

    mechanism: str
    user: str
    secret: str


class Way(NamedTuple):
    """How a client is to get in: TLS, always with a look at the certificate, which `ca` signed for localhost; AUTH."""

    tls: Tls = "off"
    ca: Path | None = None
    login: Login | None = None
    certificate: Files | None = None


CLEAR = Way()


class Mail(NamedTuple):
    """What is to be sent; the message's lines end with CRLF."""

    sender: str
    recipient: str
    message: bytes


class Said(NamedTuple):
    """The reply that decided: the first refusal, else the one to the end of data."""

    code: int
    text: str


class Client(Protocol):
    def __call__(self, port: int, mail: Mail, work: Path, way: Way = CLEAR) -> Said: ...


def _run(
    argv: Sequence[str], given: bytes = b"", environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, **environ} if environ else None
    done = subprocess.run(argv, check=False, capture_output=True, input=given, env=environ, timeout=100)
    said = (text.decode(errors="replace").replace("\r\n", "\n") for text in (done.stdout, done.stderr))
    return subprocess.CompletedProcess(argv, done.returncode, *said)


def _decided(done: subprocess.CompletedProcess[str], transcript: str, reply: str, quit_: str) -> Said:
    """From a transcript; `reply` matches the mark of a line that the server sent, `quit_` the client's QUIT."""
    before_quit = re.split(quit_, transcript, maxsplit=1, flags=re.MULTILINE)[0]
    replies = [
        Said(int(m[1]), m[2].strip()) for m in re.finditer(rf"^{reply}(\d\d\d)[ -](.*)$", before_quit, re.MULTILINE)
    ]
    assert replies, f"{done.args} heard no reply:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    said = next((reply for reply in replies if reply.code >= 400), replies[-1])
    assert (done.returncode == 0) == (said.code < 400), (
        f"ended with {done.returncode} after {said}:\n{transcript[-2000:]}"
    )
    return said


def with_smtplib(port: int, mail: Mail, work: Path, way: Way = CLEAR) -> Said:  # noqa: ARG001 - it needs no file
    took_part("smtplib", "client")
    context = ssl.create_default_context(cafile=way.ca)
    if way.certificate:
        context.load_cert_chain(way.certificate.certificate, way.certificate.key)
    where, implicit = ("localhost", port), way.tls == "implicit"
    connected = (
        smtplib.SMTP_SSL(*where, local_hostname="client.test", timeout=60, context=context)
        if implicit
        else smtplib.SMTP(*where, local_hostname="client.test", timeout=60)
    )
    with connected as smtp:
        if way.tls == "starttls":
            smtp.starttls(context=context)
        smtp.ehlo()
        try:
            if way.login:
                _log_in(smtp, way.login)
            return _send(smtp, mail)
        except smtplib.SMTPResponseException as error:  # another answer than 235, or than 354
            text = error.smtp_error
            return Said(error.smtp_code, text if isinstance(text, str) else text.decode())


def _log_in(smtp: smtplib.SMTP, login: Login) -> None:
    smtp.user, smtp.password = login.user, login.secret  # where its methods find them
    smtp.auth(login.mechanism, getattr(smtp, f"auth_{login.mechanism.lower().replace('-', '_')}"))


def _send(smtp: smtplib.SMTP, mail: Mail) -> Said:
    options = [f"SIZE={len(mail.message)}"] if smtp.has_extn("size") else []
    options += ["BODY=8BITMIME"] if smtp.has_extn("8bitmime") else []
    code, text = smtp.mail(mail.sender, options)
    if code < 400:
        code, text = smtp.rcpt(mail.recipient)
    if code < 400:
        code, text = smtp.data(mail.message)
    return Said(code, text.decode())


def _swaks(port: int, mail: Mail, work: Path, way: Way, *options: str) -> Said:
    """Its --no-data-fixup sends a file as it stands, so the dots are ours to double and to end."""
    took_part("swaks", "client")
    path = work / "swaks.eml"
    stuffed = re.sub(rb"(?m)^\.", b"..", mail.message)
    path.write_bytes(stuffed + b".\r\n")
    argv = [program("swaks"), "--server", f"localhost:{port}", "--helo", "client.test", "--timeout", "60s"]
    argv += ["--from", mail.sender, "--to", mail.recipient, "--data", f"@{path}", "--no-data-fixup", "--suppress-data"]
    if way.tls != "off":
        argv += ["--tls" if way.tls == "starttls" else "--tls-on-connect", "--tls-sni", "localhost"]
        argv += ["--tls-verify", "--tls-ca-path", str(way.ca)]
    if way.certificate:
        argv += ["--tls-cert", str(way.certificate.certificate), "--tls-key", str(way.certificate.key)]
    if way.login:
        argv += ["--auth", way.login.mechanism, "--auth-user", way.login.user, "--auth-password", way.login.secret]
    done = _run([*argv, *options])
    if "requires Net::SSLeay" in done.stdout + done.stderr:
        missing("swaks needs Perl's Net::SSLeay for TLS")
    return _decided(done, done.stdout, r"<[-~*][*~]? *", r"^ ?[-~]> QUIT$")


def with_swaks(port: int, mail: Mail, work: Path, way: Way = CLEAR) -> Said:
    return _swaks(port, mail, work, way)


def with_swaks_pipelining(port: int, mail: Mail, work: Path, way: Way = CLEAR) -> Said:
    return _swaks(port, mail, work, way, "--pipeline")


def with_curl(port: int, mail: Mail, work: Path, way: Way = CLEAR) -> Said:
    took_part("curl", "client")
    path = work / "curl.eml"
    path.write_bytes(mail.message)
    argv = [program("curl"), "--disable", "--silent", "--show-error", "--verbose", "--max-time", "60", "--noproxy", "*"]
    argv += ["--mail-from", mail.sender, "--mail-rcpt", mail.recipient, "--upload-file", str(path), "--ipv4"]
    if way.tls != "off":
        argv += ["--ssl-reqd", "--cacert", str(way.ca)]
    if way.certificate:
        argv += ["--cert", str(way.certificate.certificate), "--key", str(way.certificate.key)]
    if way.login:
        bearer = way.login.mechanism in {"XOAUTH2", "OAUTHBEARER"}
        argv += ["--user", way.login.user if bearer else f"{way.login.user}:{way.login.secret}"]
        argv += ["--oauth2-bearer", way.login.secret] if bearer else []
        argv += ["--login-options", f"AUTH={way.login.mechanism}"]
    scheme = "smtps" if way.tls == "implicit" else "smtp"
    done = _run([*argv, f"{scheme}://localhost:{port}/client.test"])
    return _decided(done, done.stderr.replace("\r", ""), "< ", "^> QUIT$")


def with_msmtp(port: int, mail: Mail, work: Path, way: Way = CLEAR) -> Said:
    """It wants LF lines, and secrets in a file that nobody else reads."""
    took_part("msmtp", "client")
    settings = {"host": "localhost", "port": port, "domain": "client.test", "from": mail.sender, "timeout": 60}
    settings |= {"set_from_header": "off", "set_date_header": "off"}
    if way.tls != "off":
        settings |= {"tls": "on", "tls_starttls": "on" if way.tls == "starttls" else "off", "tls_trust_file": way.ca}
    if way.certificate:
        settings |= {"tls_cert_file": way.certificate.certificate, "tls_key_file": way.certificate.key}
    if way.login:
        mechanism = way.login.mechanism.lower()
        if mechanism not in _run([program("msmtp"), "--version"]).stdout.split():
            missing(f"this msmtp was built without {mechanism}")
        settings |= {"auth": mechanism, "user": way.login.user, "password": way.login.secret}
    conf = work / "msmtprc"
    conf.touch(mode=0o600)
    conf.write_text("account default\n" + "".join(f"{key} {value}\n" for key, value in settings.items()))
    argv = [program("msmtp"), "--file", str(conf), "--debug", "--", mail.recipient]
    done = _run(argv, mail.message.replace(b"\r\n", b"\n"))
    return _decided(done, done.stdout, "<-- ", "^--> QUIT\n<-- ")  # it shows the message too, which says QUIT


def with_s_nail(port: int, mail: Mail, work: Path, way: Way = CLEAR) -> Said:
    """Its Resend gives a message of a mailbox on as it is, but for an empty line at the end; secrets are in a file that nobody else reads."""
    took_part("s-nail", "client")
    for name in ("new", "tmp", "cur"):
        (work / "mailbox" / name).mkdir(parents=True, exist_ok=True)
    (work / "mailbox/cur/1.mail:2,S").write_bytes(mail.message.replace(b"\r\n", b"\n") + b"\n")
    scheme = "smtps" if way.tls == "implicit" else "smtp"
    settings = {"hostname": "client.test", "ttycharset": "utf-8", "smtp-auth": "none", "socket-connect-timeout": "60"}
    settings["mta"] = f"{scheme}://localhost:{port}"
    if way.tls != "off":
        settings |= {"tls-ca-file": str(way.ca), "tls-ca-no-defaults": "", "tls-verify": "strict"}
    if way.tls == "starttls":
        settings["smtp-use-starttls"] = ""
    if way.login:
        user, secret = quote(way.login.user, safe=""), quote(way.login.secret, safe="")
        settings["mta"] = f"{scheme}://{user}:{secret}@localhost:{port}"
        settings["smtp-auth"] = way.login.mechanism.lower()
    conf = work / "s-nail.rc"
    conf.touch(mode=0o600)
    lines = ["v15-compat", *(f"{key}={value}" for key, value in settings.items())]
    conf.write_text("".join(f"set {line}\n" for line in lines))
    argv = [program("s-nail"), "-:u", "-vv", "-R", "-#", "-r", mail.sender, "-f", f"maildir://{work / 'mailbox'}"]
    given = f"Resend 1 {mail.recipient}\nxit $?\n".encode()
    done = _run(argv, given, {"MAILRC": str(conf)})
    return _decided(done, done.stderr, "s-nail: >>> SERVER: ", r"^s-nail: >>> QUIT\n(?=s-nail: >>> SERVER: )")


def with_nodemailer(port: int, mail: Mail, work: Path, way: Way = CLEAR) -> Said:
    """A script of a few lines, since nodemailer is a library; it is told all in JSON."""
    took_part("nodemailer", "client")
    path = work / "nodemailer.eml"
    path.write_bytes(mail.message)
    job: dict[str, object] = {"port": port, "tls": way.tls, "ca": str(way.ca), "message": str(path)}
    job |= {"sender": mail.sender, "recipient": mail.recipient, "login": way.login and way.login._asdict()}
    modules = PEERS / "node/node_modules"
    if not (modules / "nodemailer").is_dir():
        missing(f"nodemailer is not installed in {PEERS / 'node'}")
    script = Path(__file__).with_name("nodemailer-send.js")
    done = _run([program("node"), str(script), json.dumps(job)], environ={"NODE_PATH": str(modules)})
    assert done.returncode == 0, done
    return Said(**json.loads(done.stdout))


class _Openssl:
    """`openssl s_client`, and a person in front of it: a line, and the reply to it."""

    def __init__(self, port: int, work: Path, way: Way, options: tuple[str, ...]) -> None:
        argv = [program("openssl"), "s_client", "-crlf", "-quiet", "-connect", f"127.0.0.1:{port}"]
        argv += ["-servername", "localhost", "-verify_hostname", "localhost", "-verify_return_error"]
        argv += ["-CAfile", str(way.ca)]
        argv += ["-starttls", "smtp", "-name", "client.test"] if way.tls == "starttls" else []
        if way.certificate:
            argv += ["-cert", str(way.certificate.certificate), "-key", str(way.certificate.key)]
        argv += options
        self._errors = (work / "s_client").open("w+")
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors)

    def reply(self) -> Said:
        output = self.process.stdout
        assert output
        lines: list[str] = []
        while not lines or lines[-1][3:4] == "-":
            lines.append(output.readline().decode())
            assert lines[-1], f"s_client ended: {self._errors.seek(0)} {self._errors.read()}"
        return Said(int(lines[-1][:3]), lines[-1][4:].strip())

    def say(self, text: bytes) -> Said:
        """Its lines end with LF, it makes CRLF of them."""
        entry = self.process.stdin
        assert entry
        entry.write(text)
        entry.flush()
        return self.reply()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        self._errors.close()


def with_openssl(port: int, mail: Mail, work: Path, way: Way = CLEAR, *options: str) -> Said:
    """Under TLS only; what was said before STARTTLS it keeps to itself."""
    took_part("openssl s_client", "client")
    with _Openssl(port, work, way, options) as session:
        if way.tls == "implicit":
            assert session.reply().code == 220
        commands = [b"EHLO client.test"]
        if way.login:
            assert way.login.mechanism == "PLAIN", "a person can do no other"
            response = f"\0{way.login.user}\0{way.login.secret}".encode()
            commands.append(b"AUTH PLAIN " + base64.b64encode(response))
        commands += [f"MAIL FROM:<{mail.sender}> BODY=8BITMIME".encode(), f"RCPT TO:<{mail.recipient}>".encode()]
        for command in [*commands, b"DATA"]:
            said = session.say(command + b"\n")
            if said.code >= 400:
                break
        else:
            stuffed = re.sub(rb"(?m)^\.", b"..", mail.message)
            said = session.say(stuffed.replace(b"\r\n", b"\n") + b".\n")
        assert session.say(b"QUIT\n").code == 221
        return said


def with_smtp_source(port: int, mail: Mail, work: Path, way: Way = CLEAR) -> Said:
    """Speaks HELO only; its file has LF lines, it doubles the dots and adds an empty line at the end.

    It says nothing when all went well; it can do no TLS.
    """
    assert way == CLEAR
    took_part("smtp-source", "client")
    assert mail.message.endswith(b"\r\n\r\n"), "smtp-source cannot send a message that ends otherwise"
    path = work / "smtp-source.eml"
    path.write_bytes(mail.message.removesuffix(b"\r\n").replace(b"\r\n", b"\n"))
    argv = [program("smtp-source"), "-4", "-M", "client.test", "-f", mail.sender, "-t", mail.recipient, "-F", str(path)]
    done = _run([*argv, f"127.0.0.1:{port}"])
    if done.returncode == 0 and not done.stderr:
        return Said(250, "")
    refused = re.search(r"\b([45]\d\d)[ -](.*)", done.stderr)
    assert refused, done
    return Said(int(refused[1]), refused[2].strip())


CLIENTS: dict[str, Client] = {
    "smtplib": with_smtplib,
    "swaks": with_swaks,
    "swaks-pipelining": with_swaks_pipelining,
    "curl": with_curl,
    "msmtp": with_msmtp,
    "nodemailer": with_nodemailer,
    "s-nail": with_s_nail,
    "smtp-source": with_smtp_source,
}
SECURE_CLIENTS: dict[str, Client] = {
    "smtplib": with_smtplib,
    "openssl": with_openssl,
    "swaks": with_swaks,
    "curl": with_curl,
    "msmtp": with_msmtp,
    "nodemailer": with_nodemailer,
    "s-nail": with_s_nail,
}
