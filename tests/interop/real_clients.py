"""Real programs that send mail: each gives the whole message, byte for byte, and tells the reply that decided."""

from __future__ import annotations

import re
import smtplib
import subprocess
from typing import TYPE_CHECKING, NamedTuple, Protocol

from real_process import program

if TYPE_CHECKING:
    from pathlib import Path


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
    def __call__(self, port: int, mail: Mail, work: Path) -> Said: ...


def _run(argv: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, check=False, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=100
    )


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


def with_smtplib(port: int, mail: Mail, work: Path) -> Said:  # noqa: ARG001 - it needs no file
    with smtplib.SMTP("127.0.0.1", port, local_hostname="client.test", timeout=60) as smtp:
        smtp.ehlo()
        options = [f"SIZE={len(mail.message)}"] if smtp.has_extn("size") else []
        options += ["BODY=8BITMIME"] if smtp.has_extn("8bitmime") else []
        code, text = smtp.mail(mail.sender, options)
        if code < 400:
            code, text = smtp.rcpt(mail.recipient)
        if code < 400:
            try:
                code, text = smtp.data(mail.message)
            except smtplib.SMTPDataError as error:  # another answer than 354
                code, text = error.smtp_code, bytes(str(error.smtp_error), "utf-8")
        return Said(code, text.decode())


def _swaks(port: int, mail: Mail, work: Path, *options: str) -> Said:
    """Its --no-data-fixup sends a file as it stands, so the dots are ours to double and to end."""
    path = work / "swaks.eml"
    stuffed = re.sub(rb"(?m)^\.", b"..", mail.message)
    path.write_bytes(stuffed + b".\r\n")
    argv = [program("swaks"), "--server", f"127.0.0.1:{port}", "--helo", "client.test", "--timeout", "60s"]
    argv += ["--from", mail.sender, "--to", mail.recipient, "--data", f"@{path}", "--no-data-fixup", "--suppress-data"]
    done = _run([*argv, *options])
    return _decided(done, done.stdout, r"<[-~*]. *", r"^ ?[-~]> QUIT$")


def with_swaks(port: int, mail: Mail, work: Path) -> Said:
    return _swaks(port, mail, work)


def with_swaks_pipelining(port: int, mail: Mail, work: Path) -> Said:
    return _swaks(port, mail, work, "--pipeline")


def with_curl(port: int, mail: Mail, work: Path) -> Said:
    path = work / "curl.eml"
    path.write_bytes(mail.message)
    argv = [program("curl"), "--disable", "--silent", "--show-error", "--verbose", "--max-time", "60", "--noproxy", "*"]
    argv += ["--mail-from", mail.sender, "--mail-rcpt", mail.recipient, "--upload-file", str(path)]
    done = _run([*argv, f"smtp://127.0.0.1:{port}/client.test"])
    return _decided(done, done.stderr.replace("\r", ""), "< ", "^> QUIT$")


def with_smtp_source(port: int, mail: Mail, work: Path) -> Said:
    """Speaks HELO only; its file has LF lines, it doubles the dots and adds an empty line at the end.

    It says nothing when all went well.
    """
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
    "smtp-source": with_smtp_source,
}
