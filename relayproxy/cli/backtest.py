"""`relayproxy backtest RULES... [SELECT]`: what would these rules have done to the recorded traffic? A gate for CI (DESIGN §4).

Trying rules does not belong here (replay/backtest.py), nor how it is told (backtest_report.py).
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, NamedTuple

from cyclopts import Parameter

from relayproxy.cli.recordings import StoreUrl  # noqa: TC001 - cyclopts reads annotations when it runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from relayproxy.cli.backtest_report import Report
    from relayproxy.cli.recordings import Named
    from relayproxy.record.store.interface import Reader, Stored
    from relayproxy.replay.backtest import Trial
    from relayproxy.rules.decision import Decision
    from relayproxy.rules.facts import Draws, Facts, Stage
    from relayproxy.rules.guard import Guard
    from relayproxy.rules.load import Loaded
    from relayproxy.rules.playing import Decide
    from relayproxy.rules.ruleset import RuleSet

FailOn = Literal["change", "leak"]

#: Of chance, where nothing says otherwise: the same traffic and the same rules give the same.
SEED: Final = 1
#: Changed messages that are shown to people.
SHOWN: Final = 20
_RULE_FILES: Final = (".toml", ".py")
#: Messages between two moves of the bar.
_STEP: Final = 256


def backtest(
    *rules_and_select: Annotated[str, Parameter(show_default=False)],
    against: Annotated[list[str] | None, Parameter(negative="", metavar="RULES")] = None,
    allow: Annotated[list[str] | None, Parameter(negative="", metavar="PATTERN")] = None,
    fail_on: Annotated[list[FailOn] | None, Parameter(negative="")] = None,
    limit: Annotated[int | None, Parameter(metavar="N")] = None,
    json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    seed: Annotated[int | None, Parameter(metavar="N")] = None,
    store: StoreUrl = None,
    config: Annotated[Path | None, Parameter(name="--config")] = None,
) -> int:
    """Say what rules would have done to the recorded traffic, and what of that is not what was done. Nothing is sent.

    Upstream is thought to do as it did, and to take what rules stopped then and would not stop now. Messages of which something was not kept are tried as far
    as that goes, and counted.
    Exit status 1: there is what --fail-on names, or nothing matched that could be tried.

    Parameters
    ----------
    rules_and_select
        files of rules (.toml, .py) and relayproxy:NAME, in order, default: those of the configuration; behind them, which transactions: an id or the beginning of one, latest, or an expression, default: all
    against
        compare with what these rules would have done, not with what was done; again for another file
    allow
        whom mail may go to, in place of the configuration's guard; again for another
    fail_on
        exit with status 1 where there is a leak (a recipient outside of the guard would be reached) or a change; again for the other
    limit
        show only so many messages; default: 20, with --json all
    json
        a JSON line a message, and one that sums up
    seed
        of what chance decides; default: the configuration's, else 1
    store
        where they are; default: what the configuration says, else sqlite:relayproxy.db
    config
        the configuration, for its store, rules and guard; default: ./relayproxy.toml where there is one

    """
    from relayproxy.cli import Failed, in_words
    from relayproxy.cli.backtest_report import Report
    from relayproxy.cli.recordings import NOTHING, has_colour, is_terminal, reading, recorded

    if limit is not None and limit < 0:
        raise Failed(f"--limit: expected 0 or more, got {limit}")
    files, select = _parted(rules_and_select)
    named = recorded(select)
    tried = _read(files, allow, config)
    other = _read(against, allow, config) if against else None
    gates = set(fail_on or ())
    if "leak" in gates and tried.guard is None:
        raise Failed("--fail-on leak: expected a guard: --allow, or [guard] allow in the configuration")
    report = Report(
        tried.loaded.rules,
        None if other is None else other.loaded.rules,
        guard=tried.guard,
        limit=limit if limit is not None or json else SHOWN,
        json=json,
        colour=has_colour(),
    )
    rule_sets = [one.loaded.rules for one in (tried, other) if one is not None]
    new_trial = partial(_trial, seed=seed)

    def work(decide: Decide) -> None:
        with reading(store, config) as reader, in_words():
            trial = new_trial(tried, reader, decide)
            other_trial = None if other is None else new_trial(other, reader, decide)
            _try(reader, named, report, trial, other_trial, bar=not (json and is_terminal()))
            report.end()

    _run(work, rule_sets, tried)
    if not report.tried:
        untried = f": of {report.untried} no addresses were kept" if report.untried else ""
        raise Failed(f"nothing matched that could be tried{untried}", NOTHING)
    failed = ("leak" in gates and report.leaks) or ("change" in gates and report.has_changed)
    return 1 if failed else 0


class _Tried(NamedTuple):
    loaded: Loaded
    guard: Guard | None
    captures: bool
    seed: int | None
    threads: int
    seconds: float


def _parted(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """Files of rules, and SELECT behind them. Raises Failed."""
    from relayproxy.cli import Failed

    files = [argument for argument in arguments if _is_rules(argument)]
    others = [argument for argument in arguments if not _is_rules(argument)]
    if len(others) > 1 or (others and arguments[-1] != others[0]):
        told = " and ".join(others) if len(others) > 1 else f"{others[0]} in front of {arguments[-1]}"
        raise Failed(f"expected files of rules (.toml, .py, relayproxy:NAME), and behind them one SELECT, got {told}")
    return files, others[0] if others else None


def _is_rules(argument: str) -> bool:
    """No SELECT ends like a file of rules: an id has no dot, and an expression has a colon in front of its last word."""
    from relayproxy.rules.load import SHIPPED

    if argument.startswith(SHIPPED):
        return True
    return argument.endswith(_RULE_FILES) and (":" not in argument or Path(argument).is_file())


def _read(files: Sequence[str], allow: Sequence[str] | None, config: Path | None) -> _Tried:
    """Rules in the place of the configuration's, as of `run --rules`; where there is no configuration nobody knows which upstreams there are. Raises Failed."""
    from relayproxy.cli.config import Flags, default_file, load_with_rules
    from relayproxy.cli.config_rules import guard_captures
    from relayproxy.relay.rulebook import guard_of

    flags = Flags(rules=tuple(files) or None, allow=tuple(allow) if allow else None)
    if config is None and default_file() is None and files:
        settings, _ = load_with_rules(None, Flags(allow=flags.allow))
        loaded = _load(files)
    else:
        settings, loaded = load_with_rules(config, flags)
    guard, limits = guard_of(settings), settings.limits
    return _Tried(loaded, guard, guard_captures(settings), settings.rules.seed, limits.rule_threads, limits.rule_time)


def _load(files: Sequence[str]) -> Loaded:
    from relayproxy.cli import Failed
    from relayproxy.rules.load import RuleError, load

    try:
        return load(files)
    except RuleError as error:
        raise Failed(str(error), who="") from error


def _trial(tried: _Tried, reader: Reader, decide: Decide, *, seed: int | None) -> Trial:
    from relayproxy.replay.backtest import Trial
    from relayproxy.replay.draws import Redrawn

    chosen = next(one for one in (seed, tried.seed, SEED) if one is not None)
    return Trial(
        tried.loaded.rules,
        reader.body,
        Redrawn(chosen),
        guard=tried.guard,
        captures=tried.captures,
        decide=decide,
    )


def _try(reader: Reader, named: Named, report: Report, trial: Trial, other: Trial | None, *, bar: bool) -> None:
    from relayproxy.cli.recordings import transactions
    from relayproxy.replay.effects import recorded

    with _progress(reader, named, wanted=bar) as advance:
        for stored in transactions(reader, named):
            before = recorded(stored) if other is None else other.effect(stored)
            report.add(stored, before, trial.effect(stored))
            advance(stored)


def _run(work: Callable[[Decide], None], rule_sets: Sequence[RuleSet], tried: _Tried) -> None:
    """Functions of Python files have their time, as in a relay; where there are none nothing else is needed."""
    from relayproxy.rules.facts import Stage
    from relayproxy.rules.ruleset import RuleSet

    if not any(rules.calls_at(stage) for rules in rule_sets for stage in Stage):
        work(RuleSet.evaluate)
        return
    import trio

    from relayproxy.relay.workers import Workers

    async def main() -> None:
        workers = Workers(tried.threads, tried.seconds)

        def decide(rules: RuleSet, stage: Stage, facts: Facts, draws: Draws) -> Decision:
            if not rules.calls_at(stage):
                return rules.evaluate(stage, facts, draws)
            return trio.from_thread.run(workers.decide, rules.begin(stage, facts, draws), workers.turn())

        await trio.to_thread.run_sync(work, decide, abandon_on_cancel=True)

    trio.run(main)


@contextmanager
def _progress(reader: Reader, named: Named, *, wanted: bool) -> Iterator[Callable[[Stored], None]]:
    """A bar on a terminal's standard error, along the time of what is recorded: nobody need count it; nothing elsewhere."""
    ends = _ends(reader, named) if wanted and sys.stderr.isatty() else None
    if ends is None:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn

    from relayproxy.record.times import microseconds

    began, ended = map(microseconds, ends)
    columns = "trying", BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=max(ended - began, 1))
        count = 0

        def advance(stored: Stored) -> None:
            nonlocal count
            count += 1
            if count % _STEP == 0:
                progress.update(task, completed=microseconds(stored.record.time) - began)

        yield advance


def _ends(reader: Reader, named: Named) -> tuple[str, str] | None:
    """When the first and the last of what is recorded came, where all of it or an expression is named."""
    from relayproxy.cli.recordings import expression

    select = expression(named)
    if named is not None and select is None:
        return None
    first = [*reader.transactions(select, limit=1)]
    last = [*reader.transactions(select, limit=1, newest_first=True)]
    return (first[0].record.time, last[0].record.time) if first and last else None
