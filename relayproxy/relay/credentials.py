"""Our own credentials: where the secret comes from, and logging in with it at an upstream (DESIGN §5 `credentials`).

A file, an environment variable or a command is asked anew at each login, so that a secret may be changed while relayproxy runs; only what a command
gave is kept, for TOKEN_LIFE seconds or until upstream refuses it: asking may take a second and a server of somebody else's.

Invariants: a secret is in memory while it is used, and nowhere else: no error, log line or record quotes it, what the command
prints to standard error included, nor a reply that repeats it (PROTOCOL I10, attack 21). Reading blocks no other session.
How mechanisms look on the wire does not belong here (smtp/sasl_client.py), nor which settings fit together (cli/config_auth.py).
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from relayproxy.net.shared import Shared
from relayproxy.net.threads import Threads
from relayproxy.smtp import sasl
from relayproxy.smtp.commands import Auth, Command, SaslCancel, SaslResponse
from relayproxy.smtp.replies import Reply
from relayproxy.smtp.sasl_client import BEARER, Proof, UpstreamUnproven, choose

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from relayproxy.record.report import AuthOutcome
    from relayproxy.relay.settings import Config, Credentials

#: Seconds that a command may take.
COMMAND_SECONDS: Final = 30.0
#: Seconds that what it gave is used again.
TOKEN_LIFE: Final = 300.0
#: Seconds that reading a file may take.
READING_SECONDS: Final = 30.0
#: Octets of a secret; AUTH's line has not many more.
MAX_SECRET: Final = 8192

_FILES: Final = Threads("secrets")
_PROOFS: Final = Threads("proofs")

#: Says a command to upstream and hears the reply to it.
Ask = Callable[[Command], Awaitable[Reply]]
#: Hears how a login went: the mechanism, the user, the outcome and the last reply, as they may be written down.
Tell = Callable[[bytes, bytes, "AuthOutcome", "Reply | None"], None]


class LoginFailed(Exception):  # noqa: N818  it is a fact, and reads as one
    """Upstream has not let us in. `for_good`: it will not elsewhere, either."""

    def __init__(self, what: str, *, for_good: bool = False) -> None:
        super().__init__(what)
        self.what = what
        self.for_good = for_good


class Login:
    """One upstream's credentials, of all sessions."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        command = credentials.token_command
        self._tokens = None if command is None else Shared(partial(self._ask_for_token, command))
        self._kept: str | None = None
        self._kept_until = 0.0

    async def log_in(self, ask: Ask, offered: bytes, *, private: bool, tell: Tell) -> None:
        """Log in to a server that offers these mechanisms. `private`: nobody else can hear it. Raises LoginFailed, and what `ask` raises."""
        credentials = self._credentials
        fixed = BEARER if credentials.token_command is not None else credentials.mechanism
        mechanism = choose(offered, fixed=fixed, private=private)
        if mechanism is None:
            wanted = fixed or "a mechanism that we know"
            where = "" if private else ", fit for a connection that others can hear,"
            raise LoginFailed(f"the server does not offer {wanted}{where} for our credentials")
        kept = self._token_in_force
        secret = await self._secret()
        refusal = await self._try(ask, mechanism, secret, tell)
        if refusal is not None and secret == kept and refusal.severity == 5:
            # What was kept may have had its day: once more, with one that is fresh.
            self._forget(secret)
            secret = await self._secret()
            refusal = await self._try(ask, mechanism, secret, tell)
        if refusal is not None:
            self._forget(secret)
            raise LoginFailed(f"the server answered {refusal.code} to our credentials", for_good=refusal.severity == 5)

    async def _try(self, ask: Ask, mechanism: str, secret: str, tell: Tell) -> Reply | None:
        """One exchange; the reply where it was refused."""
        user = self._credentials.user
        try:
            proof = Proof(mechanism, user, secret, nonce=secrets.token_urlsafe(24).encode("ascii"))
        except ValueError as error:
            raise LoginFailed(f"our credentials do not fit {mechanism}: {error}") from None
        witness = sasl.Witness(mechanism.encode("ascii"))
        reply: Reply | None = None
        outcome: AuthOutcome = "failed"
        try:
            reply = await self._exchange(ask, mechanism, proof, witness)
            if reply.severity == 2:
                proof.check()
            outcome = "accepted" if reply.severity == 2 else "refused" if reply.severity == 5 else "failed"
        except UpstreamUnproven as error:
            raise LoginFailed(f"{mechanism}: {error}", for_good=True) from None
        finally:
            witness.hear(sasl.encode(secret.encode()))  # however a server came to repeat it
            told = None if reply is None else witness.tellable(reply)
            tell(mechanism.encode("ascii"), user.encode(), outcome, told)
        return None if reply.severity == 2 else reply

    @staticmethod
    async def _exchange(ask: Ask, mechanism: str, proof: Proof, witness: sasl.Witness) -> Reply:
        initial = None
        if proof.initial is not None:
            initial = sasl.encode(proof.initial)
            witness.hear(initial)
        reply = await ask(Auth(mechanism.encode("ascii"), initial))
        while reply.severity == 3:
            try:
                challenge = sasl.decode(reply.lines[0].strip(b" "))
                if proof.is_slow:
                    response = await _PROOFS.run(partial(proof.respond, challenge))
                else:
                    response = proof.respond(challenge)
            except (UpstreamUnproven, ValueError) as error:
                await ask(SaslCancel())
                raise UpstreamUnproven(
                    str(error) if isinstance(error, UpstreamUnproven) else "a challenge is no base64"
                ) from None
            line = sasl.encode(response)
            witness.hear(line)
            reply = await ask(SaslResponse(line))
        return reply

    # The secret.

    async def _secret(self) -> str:
        """From where the configuration says. Raises LoginFailed."""
        credentials = self._credentials
        if self._tokens is not None:
            return self._token_in_force or await self._tokens.result()
        if (path := credentials.password_file) is not None:
            try:
                return await _FILES.read(partial(secret_of, path), READING_SECONDS, "a file")
            except TimeoutError as error:
                raise LoginFailed(f"password_file {path}: {error}") from None
        return _of_variable(credentials.password_env or "")

    async def _ask_for_token(self, command: tuple[str, ...]) -> str:
        """For all sessions that need one; it is kept, too, where it comes too late for them."""
        token = self._kept = await _run(command)
        self._kept_until = trio.current_time() + TOKEN_LIFE
        return token

    @property
    def _token_in_force(self) -> str | None:
        return self._kept if trio.current_time() < self._kept_until else None

    def _forget(self, token: str) -> None:
        """It was refused. Another session may have asked for a fresh one meanwhile, which stays."""
        if self._kept == token:
            self._kept = None


class SessionLogin(NamedTuple):
    """The same as one session uses it: `tell` hears how logging in went, `alarm` that upstream wants more all the same."""

    login: Login
    tell: Tell
    alarm: Callable[[str], None]


def without_secret(config: Config) -> Iterator[str]:
    """What whoever starts a relay, or checks its configuration, should hear: where a login would fail now. It is asked for at each, so it is no error."""
    for name, upstream in config.upstream.items():
        if upstream.credentials is not None and (what := _missing(upstream.credentials)) is not None:
            yield f"upstream.{name}.credentials: {what}; until that is mended clients hear 421"


def _missing(credentials: Credentials) -> str | None:
    """Why there is no secret now, as far as that is known without running anything."""
    path, command, variable = credentials.password_file, credentials.token_command, credentials.password_env
    try:
        if path is not None and not path.is_fifo():  # what is read from a pipe is gone
            secret_of(path)
        if variable is not None:
            _of_variable(variable)
    except LoginFailed as error:
        return error.what
    if command is not None and shutil.which(command[0]) is None:
        return f"the command {command[0]} cannot be run"
    return None


def _of_variable(name: str) -> str:
    """What the environment has. Raises LoginFailed."""
    if (value := os.environ.get(name)) is None:
        raise LoginFailed(f"the environment has no variable {name}")
    return _checked(value, f"the variable {name}")


def secret_of(path: Path) -> str:
    """What a file of one line holds. Raises LoginFailed."""
    whence = f"password_file {path}"
    try:
        with path.open("rb") as file:
            octets = file.read(MAX_SECRET + 1)
    except OSError as error:
        raise LoginFailed(f"{whence}: cannot be read: {error.strerror}") from None
    return _decoded(octets, whence)


def _decoded(octets: bytes, whence: str) -> str:
    try:
        return _checked(octets.decode(), whence)
    except UnicodeDecodeError:
        raise LoginFailed(f"{whence}: expected a secret in UTF-8") from None


def _checked(value: str, whence: str) -> str:
    """The secret without its line's end; of what is none only its place is told."""
    secret = value.removesuffix("\n").removesuffix("\r")
    if not secret or len(value) > MAX_SECRET or any(c < " " or c == "\x7f" for c in secret):
        raise LoginFailed(f"{whence}: expected a secret of one line and {MAX_SECRET} octets at most")
    return secret


async def _run(command: tuple[str, ...]) -> str:
    """What a command prints. No shell; what it says to standard error is nobody's, since it may be a secret too."""
    whence = f"the command {command[0]}"
    try:
        process = await trio.lowlevel.open_process(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise LoginFailed(f"{whence} cannot be run: {error.strerror}") from None
    printed, ended = b"", False
    try:
        with trio.move_on_after(COMMAND_SECONDS) as patience:
            if process.stdout is not None:
                async with process.stdout as stdout:
                    while len(printed) <= MAX_SECRET and (data := await stdout.receive_some()):
                        printed += data
            if len(printed) <= MAX_SECRET:
                await process.wait()
                ended = True
    finally:
        if not ended:  # nor has anybody asked how it went, so that the number is still its own, and its group's
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)  # what a script has begun would outlive it
            with trio.CancelScope(shield=True):
                await process.wait()
    if patience.cancelled_caught:
        raise LoginFailed(f"{whence} has not ended within {COMMAND_SECONDS:g} s")
    if len(printed) <= MAX_SECRET and process.returncode:
        raise LoginFailed(f"{whence} has ended with status {process.returncode}")
    return _decoded(printed, whence)
