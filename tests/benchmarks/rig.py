"""One measurement: a fresh sink, a fresh peer, a load between them, and the proof that nothing was lost or altered.

A peer is a script peers/NAME.sh, called as `NAME.sh start LISTEN_PORT UPSTREAM_PORT WORKDIR`, which stays in the
foreground, listens on 127.0.0.1:LISTEN_PORT, relays to 127.0.0.1:UPSTREAM_PORT, ends on SIGTERM, and exits 3 where
it cannot run on this machine or cannot do what is asked. `direct` is no peer at all: the load speaks to the sink.

BENCH_TLS asks for one of none, starttls, implicit, the same on both legs. BENCH_CERT and BENCH_KEY are what the peer
shows to the client; the sink shows the same; BENCH_CA is the authority that signed it, for peers that verify. The load
never goes on in clear where it was to use TLS, and the sink counts what came to it in clear.

The load and the sink both sum a hash over the bodies (header sections are left out, since a relay may add fields):
equal counts and equal sums mean that each acknowledged message arrived once and whole. How results are put into
words does not belong here (tables.py).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import msgspec
from certificates import Certificates
from processes import Started, cpu_of, free_port, machine_busy, memory_of, on_cpus

HERE = Path(__file__).resolve().parent
Placement = Literal["split", "one", "free"]
Tls = Literal["none", "starttls", "implicit"]
SUMS = 1 << 64  # smtpload adds its hashes modulo this


class Scenario(msgspec.Struct, frozen=True):
    """What the load does."""

    title: str
    clients: int = 32
    octets: int = 4096
    per_session: int = 1
    pipeline: bool = False
    idle: int = 0  # sessions that are only held open; then nothing else counts
    tls: Tls = "none"  # on both legs
    placement: Placement = "split"
    warm: float = 0.5
    by_default: bool = True


SCENARIOS = {
    "S1": Scenario("new session per message, 4 KiB, 32 clients"),
    "S2": Scenario("100 messages a session, 4 KiB, 32 clients", per_session=100),
    "S3": Scenario("10 MiB messages, 4 clients", clients=4, octets=10 << 20, warm=0.2),
    "S4": Scenario("as S1, STARTTLS on both legs", tls="starttls"),
    "S4i": Scenario("as S1, implicit TLS on both legs", tls="implicit", by_default=False),
    "S5": Scenario("as S2, implicit TLS on both legs", per_session=100, tls="implicit"),
    "S5s": Scenario("as S2, STARTTLS on both legs", per_session=100, tls="starttls", by_default=False),
    "S6": Scenario("idle sessions: memory of one", idle=2000),
    "S6t": Scenario("idle sessions, implicit TLS on both legs: memory of one", idle=1000, tls="implicit"),
    "S7": Scenario("as S2, the client pipelines MAIL, RCPT, DATA", per_session=100, pipeline=True),
    "S8": Scenario("latency: 1 client, new session per message, 4 KiB", clients=1, placement="one"),
    "S9": Scenario("as S1 with 500 clients", clients=500, by_default=False),
}
# A process or two a session: what one costs shows with fewer, and two thousand would only wear the machine out.
#: Seconds that idle sessions are held.
HOLD = 8
IDLE_SESSIONS = {"postfix-prequeue": 100}


class Quantiles(msgspec.Struct, frozen=True):
    p50: float
    p99: float


class Load(msgspec.Struct, frozen=True):
    """What `smtpload load` prints."""

    messages: int = 0
    failed: int = 1
    failures: dict[str, int] = {}
    msgs_s: float = 0
    mb_s: float = 0
    bytes: int = 0
    checksum: str = "0"
    cpu: float = 0
    transaction_ms: Quantiles | None = None
    session_ms: Quantiles | None = None


class Sink(msgspec.Struct, frozen=True):
    """What `smtpload sink` prints."""

    messages: int
    checksum: str
    open: int
    max_open: int
    aborted: int
    tls: int  # handshakes
    resumed: int  # of them, those that took up an earlier session
    clear: int  # messages that came without TLS
    cpu: float


class Idle(msgspec.Struct, frozen=True):
    """What `smtpload idle` prints: a line when all sessions are open, one at the end."""

    ready: int = 0
    lost: int = 0


class Rate(msgspec.Struct, frozen=True, tag="rate"):
    """A peer under load; CPU in seconds, memory in KiB."""

    load: Load
    span: float
    peer_cpu: float
    sink_cpu: float
    other_cpu: float  # of processes that are not ours, and what the machine's host took
    intact: bool
    recorded: bool | None  # a transaction line for every message; None where the peer writes none
    memory_before: int = 0
    memory_peak: int = 0
    clear: int = 0  # messages that reached the sink without TLS
    resumed: float = 0  # share of the upstream handshakes that took up an earlier session


class Held(msgspec.Struct, frozen=True, tag="held"):
    """A peer that holds idle sessions; memory in KiB."""

    ready: int
    lost: int
    upstream_open: int  # with TLS: of those that have done the handshake
    resident: float  # a session
    proportional: float  # a session
    processes: int


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """No measurement: the peer is not installed or lacks the TLS mode (`cannot`), or did not run."""

    why: str
    cannot: bool = False


Measurement = Rate | Held | Failed


class Options(msgspec.Struct, frozen=True):
    seconds: float
    placement: Placement | None
    timeout: float = 15  # seconds without progress after which the load gives a session up
    keep: bool = False


def smtpload() -> str:
    """The load generator, built where it is missing or older than its source."""
    binary, source = HERE / "smtpload", HERE / "smtpload.c"
    if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
        warnings = ["-O2", "-Wall", "-Wextra", "-Wno-format-nonliteral"]
        built = binary.with_name(f".smtpload.{os.getpid()}")  # two runs may build at once
        subprocess.run(
            [os.environ.get("CC", "cc"), *warnings, "-o", str(built), str(source), "-lssl", "-lcrypto"], check=True
        )
        built.replace(binary)
    return str(binary)


class SinkProcess:
    """Takes all mail and throws it away; says what it took when it is asked."""

    def __init__(
        self,
        binary: str,
        folder: Path,
        cpus: set[int] | None,
        tls: Tls = "none",
        certificates: Certificates | None = None,
    ) -> None:
        self.port, self.output = free_port(), folder / "sink.out"
        argv = [binary, "sink", "--port", str(self.port), "--max-seconds", "600", "--die-with-parent"]
        if tls != "none" and certificates:  # the certificate makes it offer STARTTLS
            argv += ["--tls", tls, "--cert", str(certificates.certificate), "--key", str(certificates.key)]
        with self.output.open("wb") as output:
            self.process = Started(argv, cpus, output)
        self.pid, self.end = self.process.pid, self.process.end

    def stats(self) -> Sink:
        """Counts since it began."""
        before = len(self.output.read_bytes().splitlines())
        os.kill(self.pid, signal.SIGUSR1)
        for _ in range(5000):
            time.sleep(0.001)
            lines = self.output.read_bytes().splitlines()
            if len(lines) > before:
                return msgspec.json.decode(lines[-1], type=Sink)
        raise RuntimeError("the sink does not answer")


class Rig:
    """Starts and ends everything, in a work folder of its own."""

    def __init__(self, options: Options, work: Path) -> None:
        self.options, self.work, self.binary = options, work, smtpload()
        self.certificates = Certificates.make(work)
        self.count = 0

    def cpus(self, scenario: Scenario) -> tuple[set[int] | None, set[int] | None]:
        """Where load and sink run, and where the peer runs."""
        placement = self.options.placement or scenario.placement
        cpus = sorted(os.sched_getaffinity(0))
        if placement == "split" and len(cpus) > 1:
            return {cpus[0]}, {cpus[1]}
        return ({cpus[-1]}, {cpus[-1]}) if placement == "one" else (None, None)

    def measure(self, peer: str, scenario: Scenario) -> Measurement:
        """One peer, one scenario, once."""
        self.count += 1
        folder = self.work / f"{self.count}-{peer}"
        folder.mkdir()
        run = _Run(self, peer, scenario, folder)
        try:
            return run.measure()
        finally:
            run.end()
            if not self.options.keep:
                shutil.rmtree(folder, ignore_errors=True)


class _Run:
    """The processes of one measurement."""

    def __init__(self, rig: Rig, peer: str, scenario: Scenario, folder: Path) -> None:
        self.options, self.binary, self.certificates = rig.options, rig.binary, rig.certificates
        self.peer, self.scenario, self.folder = peer, scenario, folder
        self.rig_cpus, self.peer_cpus = rig.cpus(scenario)
        self.idle = IDLE_SESSIONS.get(peer, scenario.idle)
        self.sink = SinkProcess(self.binary, folder, self.rig_cpus, scenario.tls, self.certificates)
        self.port = self.sink.port
        self.proxy: Started | None = None
        if peer != "direct":
            self.port = free_port()
            self.proxy = self._start_peer(self.sink.port)

    def _start_peer(self, upstream: int) -> Started:
        beside = Path(sys.executable).with_name("relayproxy")
        environ = {
            **os.environ,
            "BENCH_PYTHON": sys.executable,
            "RELAYPROXY": os.environ.get("RELAYPROXY", str(beside)),
            "POSTFIX_PROCESSES": str(max(100, self.idle + 100)),
            "BENCH_TLS": self.scenario.tls,
            "BENCH_CERT": str(self.certificates.certificate),
            "BENCH_KEY": str(self.certificates.key),
            "BENCH_CA": str(self.certificates.authority),
        }
        script = str(HERE / "peers" / f"{self.peer}.sh")
        with (self.folder / "peer.out").open("wb") as output:
            argv = [script, "start", str(self.port), str(upstream), str(self.folder)]
            return Started(argv, self.peer_cpus, output, environ)

    def end(self) -> None:
        if self.proxy:
            self.proxy.end()
        self.sink.end()

    def measure(self) -> Measurement:
        """Wait for the peer, then see what it does."""
        if failed := self._wait_until_ready():
            return failed
        return self._hold() if self.scenario.idle else self._rate()

    def _wait_until_ready(self) -> Failed | None:
        """A message goes through: nothing else tells that of a peer that we do not know."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if self.proxy and (status := self.proxy.status()) is not None:
                said = (self.folder / "peer.out").read_text(errors="replace").strip().splitlines()
                return Failed(said[-1] if said else f"ended with {status}", cannot=status == 3)
            if self._load("--messages", 1, "--timeout", 10).messages == 1:
                return None
            time.sleep(0.1)
        return Failed("not ready after 30 s")

    def _target(self) -> list[str]:
        return ["--port", str(self.port), "--tls", self.scenario.tls, "--die-with-parent"]

    def _load(self, *arguments: object, limit: float = 120) -> Load:
        argv = [self.binary, "load", *self._target(), *map(str, arguments)]
        with on_cpus(self.rig_cpus):
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        with process:
            try:
                output, _ = process.communicate(timeout=limit)
            except subprocess.TimeoutExpired:
                process.kill()
                return Load(failures={"load-timeout": 1})
        return msgspec.json.decode(output, type=Load)

    def _rate(self) -> Rate:
        scenario, options, proxy = self.scenario, self.options, self.proxy
        arguments = [
            "--concurrency",
            scenario.clients,
            "--size",
            scenario.octets,
            "--per-session",
            scenario.per_session,
        ]
        arguments += [
            "--messages",
            10_000_000,
            "--timeout",
            options.timeout,
            *(["--pipeline"] if scenario.pipeline else []),
        ]
        self._load(*arguments, "--seconds", scenario.warm)
        time.sleep(0.1)  # sessions of the warm-up end
        pid = proxy.pid if proxy else None
        memory = memory_of(pid) if pid else None
        sink, busy, cpu, begun = self.sink.stats(), machine_busy(), sum(cpu_of(pid)), time.monotonic()
        load = self._load(*arguments, "--seconds", options.seconds, limit=options.seconds + 4 * options.timeout)
        span = time.monotonic() - begun
        peer_cpu, busy = sum(cpu_of(pid)) - cpu, machine_busy() - busy
        after = self.sink.stats()
        for _ in range(20):  # a peer may still be handing over what it has already acknowledged
            if after.messages - sink.messages >= load.messages and after.open <= sink.open:
                break
            time.sleep(0.1)
            after = self.sink.stats()
        sink_cpu, summed = after.cpu - sink.cpu, (int(after.checksum, 16) - int(sink.checksum, 16)) % SUMS
        peak = memory_of(pid) if pid else None
        return Rate(
            load=load,
            span=span,
            peer_cpu=peer_cpu,
            sink_cpu=sink_cpu,
            other_cpu=max(0.0, busy - peer_cpu - sink_cpu - load.cpu),
            intact=after.messages - sink.messages == load.messages and summed == int(load.checksum, 16),
            recorded=self._recorded(after.messages),
            memory_before=memory.resident if memory else 0,
            memory_peak=peak.peak if peak else 0,
            clear=after.clear - sink.clear,
            resumed=(after.resumed - sink.resumed) / max(1, after.tls - sink.tls),
        )

    def _recorded(self, messages: int) -> bool | None:
        """Whether our own log has a line for each message: it is complete once the process has ended."""
        if not self.peer.startswith("relayproxy") or not self.proxy:
            return None
        self.proxy.end()
        with (self.folder / "log.jsonl").open("rb") as log:
            return sum(b'"event":"transaction"' in line and b'"outcome":"accepted"' in line for line in log) == messages

    def _hold(self) -> Held | Failed:
        pid = self.proxy.pid if self.proxy else self.sink.pid
        before, handshakes = memory_of(pid), self.sink.stats().tls
        arguments = [*self._target(), "--sessions", str(self.idle), "--hold", str(HOLD), "--timeout", "60"]
        with on_cpus(self.rig_cpus):
            process = subprocess.Popen(
                [self.binary, "idle", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
            )
        with process:
            if process.stdout is None:
                raise RuntimeError("no pipe")
            try:
                opened = msgspec.json.decode(process.stdout.readline() or b"{}", type=Idle)
                time.sleep(HOLD - 1.5)  # they are idle only once what follows a beginning has been done
                held = memory_of(pid)
                output, _ = process.communicate(timeout=120)
            except subprocess.TimeoutExpired:
                process.kill()
                return Failed("sessions did not open and close in time")
        if not opened.ready:
            return Failed("no session opened")
        sink = self.sink.stats()
        upstream = sink.max_open if self.scenario.tls == "none" else min(sink.max_open, sink.tls - handshakes)
        return Held(
            ready=opened.ready,
            lost=msgspec.json.decode(output.splitlines()[-1], type=Idle).lost,
            upstream_open=upstream,
            resident=(held.resident - before.resident) / opened.ready,
            proportional=(held.proportional - before.proportional) / opened.ready,
            processes=held.processes,
        )
