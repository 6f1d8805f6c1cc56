"""Rules and guard that are read again are for the relay that runs: with its upstreams and its store (DESIGN §6 "Rule files reload")."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from dialog_relay import MemoryTarget

from relayproxy.cli.config import Flags, load_with_rules
from relayproxy.cli.rulebook import rulebook
from relayproxy.record.log import Reporter
from relayproxy.relay.rulebook import Drawn
from relayproxy.rules.facts import Facts, Stage
from relayproxy.tls.authority import Authority

if TYPE_CHECKING:
    from relayproxy.rules.ruleset import RuleSet

ONE = '[upstream.one]\nurl = "smtp://one.test"\n[[listener]]\nupstream = "one"\n'
TWO = ONE + '[upstream.two]\nurl = "smtp://two.test"\n'
NO_STORE = '[record]\nstore = "none"\n'
CAPTURES = '[guard]\nallow = ["*@inside.test"]\notherwise = "capture"\n'
ROUTE = '[[rule]]\nname = "to two"\nthen = [{ route = "two" }]\n'
HOLD = '[[rule]]\nname = "held"\nthen = [{ hold = "look" }]\n'
PYTHON = 'ACTIONS = ["route"]\ndef mail(mail):\n    mail.route("two")\n'
GUARD_OF_NOBODY = "mail may go to nobody; what is for others is refused (550)"
OF_THE_START = "(upstreams and store are those that the relay was started with)"


def written(name: str, text: str) -> Path:
    path = Path(name).absolute()
    path.write_text(text)
    return path


async def reload(before: str, after: str, rules: str, file: str = "rules.toml") -> tuple[str | None, RuleSet]:
    """Start with one configuration, read the other: why it was not taken, and the rules in force."""
    path = written("relayproxy.toml", before)
    book = rulebook(*load_with_rules(path, Flags()), path, Flags())
    written("relayproxy.toml", f'{after}[rules]\nfiles = ["{file}"]\n')
    folder = written(file, rules).parent
    told: list[str | None] = []
    await book.reload(lambda _, error=None, **_more: told.append(error))
    (error,) = told
    return None if error is None else error.replace(f"{folder}/", ""), book.rules


async def told_of(before: str, after: str) -> dict[str, Any]:
    """What the log has of it, but for the time."""
    path = written("relayproxy.toml", before)
    book = rulebook(*load_with_rules(path, Flags()), path, Flags())
    written("relayproxy.toml", after)
    log = MemoryTarget()
    reporter = Reporter(log, format_="json")
    await book.reload(reporter.reloaded)
    assert reporter.close(5.0)
    return {key: value for key, value in json.loads(log.written).items() if key not in ("v", "event", "time")}


async def taken(before: str, after: str, rules: str) -> tuple[str | None, list[str]]:
    """The same with their names."""
    error, in_force = await reload(before, after, rules)
    return error, [rule.name for rule in in_force.rules]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


async def test_a_route_to_an_upstream_that_came_with_it_keeps_what_was() -> None:
    expected = f"rules.toml:1: route: expected the name of an upstream, got 'two'; known are one {OF_THE_START}"
    assert await taken(ONE, TWO, ROUTE) == (expected, [])


async def test_a_route_to_an_upstream_that_left_with_it_is_taken() -> None:
    assert await taken(TWO, ONE, ROUTE) == (None, ["to two"])


async def test_a_function_that_is_read_again_routes_to_upstreams_of_the_start_alone() -> None:
    error, rules = await reload(ONE, TWO, PYTHON, "rules.py")
    assert error is None
    decision = rules.evaluate(Stage.MAIL, Facts(listener="", client=""), Drawn(1, lambda: 0))
    assert decision.route is None
    assert decision.failure is not None
    assert "expected the name of an upstream, got 'two'" in decision.failure


async def test_what_is_held_needs_the_store_of_the_start() -> None:
    expected = f'rules.toml:1: hold: expected a store that keeps what is held, as record.store is "none" {OF_THE_START}'
    assert await taken(ONE + NO_STORE, ONE, HOLD) == (expected, [])
    assert await taken(ONE, ONE + NO_STORE, HOLD) == (None, ["held"])


async def test_what_a_guard_captures_needs_the_store_of_the_start() -> None:
    expected = f'guard.otherwise: expected "refuse", as record.store is "none" {OF_THE_START}'
    assert await taken(ONE + NO_STORE, ONE + CAPTURES, "") == (expected, [])
    assert await taken(ONE, ONE + CAPTURES, "") == (None, [])


async def test_a_password_in_a_url_is_not_told_there_either() -> None:
    told = await told_of(ONE, ONE + '[[listener]]\naddress = "smtp://app@a.test:hunter2@mail.test"\n')
    assert told["error"] is not None
    assert "hunter2" not in told["error"]


async def test_whom_the_guard_allows_from_there_on_is_told() -> None:
    what = {"level": "info", "what": "rules and guard", "error": None}
    narrower = await told_of(ONE + '[guard]\nallow = ["*@a.test"]\n', ONE + '[guard]\nallow = ["b@a.test"]\n')
    assert narrower == what | {"guard": "mail may go to b@a.test; what is for others is refused (550)"}
    nobody, anybody = {"guard": GUARD_OF_NOBODY}, {"guard": "mail may go to anybody: there is no guard"}
    assert await told_of(ONE, ONE + "[guard]\n") == what | nobody
    assert await told_of(ONE + "[guard]\n", ONE) == what | anybody | {"level": "warning"}
    assert await told_of(ONE, ONE) == what | anybody


async def test_what_takes_a_restart_is_told() -> None:
    after = 'drain = "1s"\n' + TWO.replace("one.test", "another.test") + "[limits]\nsessions = 1\n[rules]\nseed = 1\n"
    told = await told_of(ONE, after + '[tls]\nminimum = "TLSv1.3"\n')
    assert (told["level"], told["error"]) == ("warning", None)
    assert told["restart"] == [
        "drain",
        "upstream.one.url",
        "upstream.two",
        "tls.minimum",
        "rules.seed",
        "limits.sessions",
    ]
    assert "restart" not in await told_of(after, after)
    assert (await told_of(ONE, ONE + '[[listener]]\nname = "b"\naddress = "127.0.0.1:2"\n'))["restart"] == ["listener"]
    assert (await told_of(ONE, ONE + 'address = "127.0.0.1:2"\n'))["restart"] == ["listener[0].address"]


async def test_a_guard_is_tightened_whatever_has_become_of_a_certificate(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path)
    certificate, key = authority.leaf(["relay.test"])
    pem = written("certificate.pem", certificate.public_bytes(Encoding.PEM).decode())
    written("key.pem", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())
    before = ONE + '[tls]\ncertificate = "certificate.pem"\nkey = "key.pem"\n[guard]\nallow = '
    path = written("relayproxy.toml", before + '["*@inside.test"]\n')
    book = rulebook(*load_with_rules(path, Flags()), path, Flags())
    written("relayproxy.toml", before + "[]\n")
    pem.write_text("spoilt")
    told: list[str | None] = []
    await book.reload(lambda _, error=None, **_more: told.append(error))
    assert (told, book.admits(b"a@inside.test")) == ([None], False)
