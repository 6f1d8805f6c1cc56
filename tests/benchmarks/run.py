"""Measures SMTP relays against each other on this machine, on 127.0.0.1 only.

    python tests/benchmarks/run.py
    python tests/benchmarks/run.py --peers direct,postfix-prequeue,relayproxy --scenarios S1,S2 --rounds 5

In each scenario the peers are measured in turn, and the turn is repeated (A B C, A B C, ...), so that what the machine
does meanwhile falls on all of them. README.md says how to read the tables.

Exit status: 0; 1 when relayproxy missed a `must`, or lost or altered a message, or sent one in clear that was to go by
TLS; 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import get_args

import msgspec
from rig import HERE, SCENARIOS, Failed, Held, Measurement, Options, Placement, Rate, Rig, Scenario
from tables import OURS, Results, disturbed, missed, ratio_table, scenario_table, summarize, target_table

PEERS = "direct,haproxy,postfix-prequeue,nodemailer,aiosmtpd,relayproxy,relayproxy-recording"
GROUPS = {
    "default": [name for name, scenario in SCENARIOS.items() if scenario.by_default],
    "plain": [name for name, scenario in SCENARIOS.items() if scenario.tls == "none"],
    "tls": [name for name, scenario in SCENARIOS.items() if scenario.tls != "none"],
    "all": list(SCENARIOS),
}


def say(text: str) -> None:
    """A table, for standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """How far we are, for whoever waits."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=PEERS, help=f"of direct, {', '.join(sorted(peers()))}; default: {PEERS}")
    parser.add_argument(
        "--scenarios",
        default="default",
        help=f"of {', '.join(SCENARIOS)}, or groups of them: {', '.join(GROUPS)} ({', '.join(GROUPS['default'])})",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5, help="of load in each measurement")
    parser.add_argument(
        "--placement", choices=get_args(Placement), help="of all scenarios; default: what each asks for"
    )
    parser.add_argument("--out", type=Path, help="write all measurements as JSON")
    parser.add_argument("--keep", action="store_true", help="keep the peers' work folders")
    parsed = parser.parse_args()
    parsed.scenarios = [name for given in parsed.scenarios.split(",") for name in GROUPS.get(given, [given])]
    parsed.peers = parsed.peers.split(",")
    for given, known in ((parsed.scenarios, set(SCENARIOS)), (parsed.peers, {"direct", *peers()})):
        if unknown := set(given) - known:
            parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
    return parsed


def peers() -> set[str]:
    """Every script in peers/ is one."""
    return {path.stem for path in (HERE / "peers").glob("*.sh")} - {"lib", "versions"}


def measure(rig: Rig, peer: str, name: str) -> Measurement:
    """Once, and at most twice again while others disturb: the quietest counts."""
    best = rig.measure(peer, SCENARIOS[name])
    for _ in range(2):
        if not (isinstance(best, Rate) and disturbed(best)):
            break
        again = rig.measure(peer, SCENARIOS[name])
        if isinstance(again, Rate) and again.other_cpu / again.span < best.other_cpu / best.span:
            # what a round lost or gave away stays so, however noisy it was
            intact, recorded = again.intact and best.intact, again.recorded and best.recorded
            clear = again.clear + best.clear
            best = msgspec.structs.replace(again, intact=intact, recorded=recorded, clear=clear)
    return best


def outline(measurement: Measurement) -> str:
    """A measurement in a few words."""
    match measurement:
        case Rate(load=load, intact=intact):
            return f"{load.msgs_s:.0f}/s, failed {load.failed}, {'intact' if intact else 'NOT INTACT'}"
        case Held(ready=ready, proportional=proportional):
            return f"{ready} sessions, {proportional:.1f} KiB each"
        case Failed(why=why):
            return why


def rounds(rig: Rig, name: str, scenario: Scenario, names: list[str], count: int) -> dict[str, list[Measurement]]:
    """All peers in one scenario, interleaved."""
    raw: dict[str, list[Measurement]] = {peer: [] for peer in names}
    for number in range(1 if scenario.idle else count):
        for peer, so_far in raw.items():
            if so_far and isinstance(so_far[0], Failed) and so_far[0].cannot:
                continue
            so_far.append(measure(rig, peer, name))
            note(f"[{time.strftime('%H:%M:%S')}] {name} round {number + 1} {peer}: {outline(so_far[-1])}")
    return raw


def main() -> int:
    """Measure, print, judge."""
    a = arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):  # end what we started
        signal.signal(number, lambda *_: sys.exit(130))
    environ = {**os.environ, "BENCH_PYTHON": sys.executable}
    versions = subprocess.run(
        [str(HERE / "peers" / "versions.sh")], check=True, capture_output=True, text=True, env=environ
    ).stdout
    say(versions.rstrip())
    work = Path(tempfile.mkdtemp(prefix="relayproxy-bench-"))
    work.chmod(0o755)  # Postfix's processes have users of their own
    results: Results = {}
    raw: dict[str, dict[str, list[Measurement]]] = {}
    try:
        rig = Rig(Options(a.seconds, a.placement, keep=a.keep), work)
        for name in dict.fromkeys(a.scenarios):
            raw[name] = rounds(rig, name, SCENARIOS[name], a.peers, a.rounds)
            results[name] = {peer: summarize(of_peer) for peer, of_peer in raw[name].items()}
            say(scenario_table(name, results))
            if a.out:
                a.out.parent.mkdir(parents=True, exist_ok=True)
                a.out.write_bytes(msgspec.json.format(msgspec.json.encode({"versions": versions, "measurements": raw})))
    finally:
        if not a.keep:
            shutil.rmtree(work, ignore_errors=True)
    if OURS not in a.peers:
        return 0
    say(ratio_table(results))
    say(target_table(results))
    failed = missed(results)
    for line in failed:
        note(f"missed: {line}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
