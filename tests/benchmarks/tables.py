"""What the measurements say: medians, a table a scenario, ratios to each peer, and the targets with must and aim.

Pure: measurements in, text out. The targets are DESIGN's, as far as there is something to measure for them now
(no rules yet). `relayproxy` is without a store, `relayproxy-recording` records in full.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from rig import SCENARIOS, Failed, Held, Measurement, Quantiles, Rate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

OURS = "relayproxy"
RECORDING = "relayproxy-recording"
BUSY = 0.85  # share of a core from which we call it the limit
NOISY = 0.15  # share of a core that others may use before a measurement counts as disturbed


class Rates(msgspec.Struct, frozen=True):
    """The rounds of one peer in one scenario, in medians; losses and failures are over all rounds."""

    rates: list[float]
    mb_s: float
    session_ms: Quantiles | None
    transaction_ms: Quantiles | None
    cpu_per_1000: float | None  # seconds of the peer's processes, kernel included
    peak_mib: float | None
    growth_mib: float | None  # peak over what it held before the load
    failures: dict[str, int]
    intact: bool
    recorded: bool | None
    clear: int  # messages that reached the sink without TLS
    resumed: float  # share of the upstream handshakes that took up an earlier session
    bound: str
    noisy: bool

    @property
    def rate(self) -> float:
        return median(self.rates)


Summary = Rates | Held | Failed
Results = dict[str, dict[str, Summary]]  # scenario -> peer -> summary


def disturbed(measurement: Measurement) -> bool:
    """Other processes took a good part of a core meanwhile."""
    return isinstance(measurement, Rate) and measurement.other_cpu > NOISY * measurement.span


def summarize(rounds: Sequence[Measurement]) -> Summary:
    """Medians over the undisturbed rounds, where there are any."""
    every = [r for r in rounds if isinstance(r, Rate)]
    if not every:
        return rounds[-1] if isinstance(rounds[-1], Held | Failed) else Failed("nothing measured")
    good = [r for r in every if not disturbed(r)] or every
    failures: dict[str, int] = {}
    for r in every:
        for what, count in r.load.failures.items():
            failures[what] = failures.get(what, 0) + count
    for failed in (r for r in rounds if isinstance(r, Failed)):
        failures[failed.why] = failures.get(failed.why, 0) + 1
    peer_busy = median(r.peer_cpu / r.span for r in good)
    rig_busy = median((r.load.cpu + r.sink_cpu) / r.span for r in good)
    with_peer = [r for r in good if r.memory_peak]
    recorded = [r.recorded for r in every if r.recorded is not None]
    return Rates(
        rates=[r.load.msgs_s for r in good],
        mb_s=median(r.load.mb_s for r in good),
        session_ms=_quantiles([r.load.session_ms for r in good]),
        transaction_ms=_quantiles([r.load.transaction_ms for r in good]),
        cpu_per_1000=median(1000 * r.peer_cpu / max(1, r.load.messages) for r in with_peer) if with_peer else None,
        peak_mib=max(r.memory_peak for r in with_peer) / 1024 if with_peer else None,
        growth_mib=max(r.memory_peak - r.memory_before for r in with_peer) / 1024 if with_peer else None,
        failures=failures,
        intact=all(r.intact for r in every),
        recorded=all(recorded) if recorded else None,
        clear=sum(r.clear for r in every),
        resumed=median(r.resumed for r in good),
        bound="peer" if peer_busy > BUSY else "rig" if rig_busy > BUSY else "wait",
        noisy=any(map(disturbed, good)),
    )


def _quantiles(several: Sequence[Quantiles | None]) -> Quantiles | None:
    there = [q for q in several if q]
    return Quantiles(median(q.p50 for q in there), median(q.p99 for q in there)) if there else None


def added_ms(results: Results, scenario: str, peer: str) -> float | None:
    """What a peer adds to the median session."""
    of_peer, direct = (results.get(scenario, {}).get(name) for name in (peer, "direct"))
    if isinstance(of_peer, Rates) and isinstance(direct, Rates) and of_peer.session_ms and direct.session_ms:
        return of_peer.session_ms.p50 - direct.session_ms.p50
    return None


def _number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    cells = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    return "\n".join([cells[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *cells[1:]])


def scenario_table(name: str, results: Results) -> str:
    """All peers in one scenario."""
    peers = results[name]
    if SCENARIOS[name].idle:
        header = ["peer", "sessions", "lost", "upstream open", "PSS KiB/session", "RSS KiB/session", "processes"]
        rows = [[peer, *_held_cells(summary, len(header) - 1)] for peer, summary in peers.items()]
    else:
        header = ["peer", "messages/s (min-max)", "MB/s", "CPU s/1000", "peak MiB", "transaction ms p50/p99"]
        header += ["session ms p50/p99", "added ms", "failed", "intact", "bound"]
        rows = [
            [peer, *_rate_cells(summary, added_ms(results, name, peer), len(header) - 1)]
            for peer, summary in peers.items()
        ]
        if SCENARIOS[name].tls != "none":
            header.append("TLS upstream")
            rows = [[*row, _upstream_tls(summary)] for row, summary in zip(rows, peers.values(), strict=True)]
    notes = [f"\n{peer}: {summary.why}" for peer, summary in peers.items() if isinstance(summary, Failed)]
    return f"\n### {name}: {SCENARIOS[name].title}\n\n" + _table(header, rows) + "".join(notes)


def _held_cells(summary: Summary, width: int) -> list[str]:
    if not isinstance(summary, Held):
        return ["-"] * width
    s = summary
    counts = [str(s.ready), str(s.lost), str(s.upstream_open)]
    return [*counts, _number(s.proportional, 1), _number(s.resident, 1), str(s.processes)]


def _rate_cells(summary: Summary, added: float | None, width: int) -> list[str]:
    if not isinstance(summary, Rates):
        return ["-"] * width
    s = summary
    digits = 1 if s.rate < 100 else 0
    spread = f"{_number(min(s.rates), digits)}-{_number(max(s.rates), digits)}"
    return [
        f"{_number(s.rate, digits)} ({spread})" + (" noisy" if s.noisy else ""),
        _number(s.mb_s, 1),
        _number(s.cpu_per_1000, 3),
        _number(s.peak_mib),
        *(f"{_number(q.p50, 2)}/{_number(q.p99, 2)}" if q else "-" for q in (s.transaction_ms, s.session_ms)),
        _number(added, 2),
        ", ".join(f"{count} {what}" for what, count in s.failures.items()) or "0",
        ("yes" if s.intact else "NO") + ("" if s.recorded is None else ", logged" if s.recorded else ", LOG SHORT"),
        s.bound,
    ]


def _upstream_tls(summary: Summary) -> str:
    if not isinstance(summary, Rates):
        return "-"
    if summary.clear:
        return "no"
    return f"yes, {summary.resumed:.0%} resumed" if summary.resumed else "yes"


def ratio_table(results: Results) -> str:
    """Our rate over each peer's; in parentheses their CPU time for a message over ours."""
    names = [name for name in results if isinstance(results[name].get(OURS), Rates)]
    if not names:
        return ""
    peers = list(dict.fromkeys(peer for name in names for peer in results[name] if peer != OURS))
    rows = [[peer, *(_ratio(results[name][OURS], results[name].get(peer)) for name in names)] for peer in peers]
    return f"\n### {OURS} as a multiple of each peer: rate (work done in the same CPU time)\n\n" + _table(
        ["peer", *names], rows
    )


def _ratio(ours: Summary, theirs: Summary | None) -> str:
    if not isinstance(ours, Rates) or not isinstance(theirs, Rates) or not theirs.rate:
        return "-"
    cpu = f" ({theirs.cpu_per_1000 / ours.cpu_per_1000:.2f})" if theirs.cpu_per_1000 and ours.cpu_per_1000 else ""
    return f"{ours.rate / theirs.rate:.2f}{cpu}"


class Target(NamedTuple):
    """A row of DESIGN's targets. Values count upwards to must and aim, or down to them where `at_most`."""

    title: str
    value: Callable[[Results], float | None]
    must: float | None
    aim: float | None
    at_most: bool = False
    unit: str = "x"

    def met(self, value: float, bound: float) -> bool:
        return value <= bound if self.at_most else value >= bound


def _over(scenario: str, peer: str, ours: str | None = None) -> Callable[[Results], float | None]:
    def value(results: Results) -> float | None:
        mine = results.get(ours or scenario, {}).get(OURS)
        theirs = results.get(scenario, {}).get(peer)
        known = isinstance(mine, Rates) and isinstance(theirs, Rates) and theirs.rate
        return mine.rate / theirs.rate if known and isinstance(mine, Rates) and isinstance(theirs, Rates) else None

    return value


def _recording(scenario: str) -> Callable[[Results], float | None]:
    def value(results: Results) -> float | None:
        rates = [results.get(scenario, {}).get(peer) for peer in (RECORDING, OURS)]
        if all(isinstance(one, Rates) and one.rate for one in rates):
            with_, without = (one.rate for one in rates if isinstance(one, Rates))
            return with_ / without
        return None

    return value


def _growth(results: Results) -> float | None:
    ours = results.get("S3", {}).get(OURS)
    return ours.growth_mib if isinstance(ours, Rates) else None


def _latency(results: Results) -> float | None:
    ours, theirs = (added_ms(results, "S8", peer) for peer in (OURS, "postfix-prequeue"))
    return ours / theirs if ours is not None and theirs is not None and theirs > 0 else None


def _least(*values: Callable[[Results], float | None]) -> Callable[[Results], float | None]:
    def value(results: Results) -> float | None:
        return min((found for v in values if (found := v(results)) is not None), default=None)

    return value


def _idle(scenario: str) -> Callable[[Results], float | None]:
    def value(results: Results) -> float | None:
        ours = results.get(scenario, {}).get(OURS)
        return ours.proportional if isinstance(ours, Held) else None

    return value


ALL_AT_32 = [name for name, scenario in SCENARIOS.items() if scenario.clients <= 32 and not scenario.idle]


def _altered(scenarios: Sequence[str]) -> Callable[[Results], float | None]:
    def value(results: Results) -> float | None:
        ours = [s for name in scenarios if isinstance(s := results.get(name, {}).get(OURS), Rates)]
        return sum(not s.intact or bool(s.failures) for s in ours) if ours else None

    return value


TARGETS = (
    Target("new session per message, to Postfix", _over("S1", "postfix-prequeue"), 1.2, 2.2),
    Target("new session per message, to haproxy", _over("S1", "haproxy"), None, 0.45),
    Target("100 messages a session, to Postfix", _over("S2", "postfix-prequeue"), 2, 4.5),
    Target("100 messages a session, to nodemailer", _over("S2", "nodemailer"), 1.2, 2.5),
    Target("10 MiB messages, to Postfix", _over("S3", "postfix-prequeue"), 1.5, 3),
    Target("10 MiB messages, to haproxy", _over("S3", "haproxy"), None, 0.6),
    Target("10 MiB messages, growth of memory", _growth, 10, None, at_most=True, unit=" MiB"),
    Target("STARTTLS on both legs, new session, to nodemailer", _over("S4", "nodemailer"), 2, None),
    Target("the same, to Postfix with TLS on one leg", _over("S4", "postfix-prequeue"), None, 1),
    Target("TLS, 100 messages a session, to nodemailer", _least(_over("S5", "nodemailer"), _over("S5s", "nodemailer")), 1.2, 2),
    Target("pipelining client, to its own rate without", _over("S2", OURS, ours="S7"), 1, 1.5),
    Target("latency added to a session, to Postfix's", _latency, 1.25, 1, at_most=True),
    Target("recording in full, to the rate without, new session", _recording("S1"), 0.6, 0.8),
    Target("recording in full, 100 messages a session", _recording("S2"), 0.6, 0.8),
    Target("recording in full, 10 MiB messages", _recording("S3"), 0.6, 0.8),
    Target("idle session, both legs", _idle("S6"), 10, 5, at_most=True, unit=" KiB"),
    Target("idle session, TLS on both legs", _idle("S6t"), 120, 70, at_most=True, unit=" KiB"),
    Target("scenarios with loss or damage, 32 clients", _altered(ALL_AT_32), 0, None, at_most=True, unit=""),
    Target("scenarios with loss or damage, 500 clients", _altered(("S9",)), None, 0, at_most=True, unit=""),
)  # fmt: skip


def target_table(results: Results) -> str:
    """Where we stand."""
    rows = []
    for target in TARGETS:
        value, sign = target.value(results), "<= " if target.at_most else ""
        cells = [target.title, "not measured" if value is None else f"{value:.2f}{target.unit}"]
        for bound in (target.must, target.aim):
            known = value is not None and bound is not None
            verdict = (
                (" yes" if target.met(value, bound) else " NO")
                if known and value is not None and bound is not None
                else ""
            )
            cells.append("-" if bound is None else f"{sign}{bound:g}{target.unit}{verdict}")
        rows.append(cells)
    return "\n### targets\n\n" + _table(["target", OURS, "must", "aim"], rows)


def missed(results: Results) -> list[str]:
    """What fails the run: a `must` that was measured and not met, mail lost, altered or sent in clear by us, a log without it."""
    out = [
        f"{target.title}: {value:.2f}{target.unit}, must be {'at most' if target.at_most else 'at least'} {target.must:g}"
        for target in TARGETS
        if target.must is not None
        and (value := target.value(results)) is not None
        and not target.met(value, target.must)
    ]
    for name, peers in results.items():
        match peers.get(OURS):
            case Failed(why=why):
                out.append(f"{name}: {OURS} was not measured: {why}")
            case Rates(recorded=False):
                out.append(f"{name}: not every message has its line in the log")
            case Rates(clear=clear) if clear and SCENARIOS[name].tls != "none":
                out.append(f"{name}: {clear} messages went upstream without TLS")
            case Held(ready=ready, lost=lost, upstream_open=opened) if lost or opened < ready:
                out.append(f"{name}: {lost} of {ready} sessions lost, {opened} open upstream")
            case _:
                pass
    return out
