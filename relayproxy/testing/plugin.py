"""The pytest plugin: the fixtures `relayproxy` and `smtp_cassette`, what their markers say, and nothing else where no test asks for them.

    @pytest.mark.relayproxy(redirect_all="qa@example.test")
    def test_welcome(relayproxy):
        sign_up("jane@customer.example", smtp=(relayproxy.host, relayproxy.port))
        assert relayproxy.wait_for("recipient:jane@customer.example").message["Subject"] == "Welcome"

    @pytest.mark.smtp_cassette(upstream="smtp://127.0.0.1:25")
    def test_a_refusal(smtp_cassette):
        ...

Invariants: to load it costs no more than pytest's own hooks do: what relays and speaks TLS is imported when the first test asks for it; each test has a server and a store of its own, on a free port of 127.0.0.1;
the authority for TLS is made once a run. What went wrong within is its test's error, in words; where the test fails by itself, it is told beside. What is asked for does not belong here (marker.py), nor how it runs (relay.py, cassette.py).
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from relayproxy.testing.cassette import CassetteFixture
    from relayproxy.testing.relay import RelayFixture

#: What a test has open, by its fixture's name; and whether its own code has passed.
_OPEN = pytest.StashKey["dict[str, RelayFixture | CassetteFixture]"]()
_PASSED = pytest.StashKey[bool]()
_MARKERS = (
    "relayproxy(upstream=, rules=, redirect_all=, allow=, tls=, auth=, config=): what the test's relay is like, in the words of relayproxy's configuration",
    "smtp_cassette(path=, mode=, upstream=, strict=, repeats=, tls=, allow=, config=): what the test's recorded server plays, and of which real one it is recorded",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("relayproxy").addoption(
        "--smtp-cassette-mode",
        choices=("none", "once", "new_episodes", "all"),
        help="in place of what markers say: none: what is not in a cassette fails its test; once: a cassette that is not there yet is recorded; new_episodes: what is not in one is; all: everything is. "
        "Default: the marker's mode; where there is none, once if it names an upstream; where CI is set, none",
    )


def pytest_configure(config: pytest.Config) -> None:
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Note whether the test passes, for its cassette; where it does not, tell what went wrong between a server of it and others."""
    if (opened := item.stash.get(_OPEN, None)) is None:
        return
    item.stash[_PASSED] = call.when == "call" and call.excinfo is None
    if call.excinfo is not None and call.when != "teardown":
        for name, one in opened.items():
            if troubles := one.troubles():
                item.add_report_section(call.when, name, "\n".join(troubles))


@pytest.fixture(scope="session", name="_relayproxy_cassettes")
def _cassettes() -> dict[Path, str]:
    """Which test of the run had which."""
    return {}


@pytest.fixture(scope="session", name="_relayproxy_state")
def _state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the authority is kept that signs the certificates of all servers of the run."""
    return tmp_path_factory.mktemp("relayproxy-state")


@pytest.fixture(name="relayproxy")
def _relay(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _relayproxy_state: Path
) -> Iterator[RelayFixture]:
    """A relay on a free port of 127.0.0.1 that keeps this test's mail (`capture:`), or stands in front of a server."""
    from relayproxy.testing.marker import MarkerError, asked_for, loaded  # noqa: PLC0415 - nobody else needs it
    from relayproxy.testing.relay import RelayFixture  # noqa: PLC0415
    from relayproxy.testing.thread import Trouble  # noqa: PLC0415

    with _told(MarkerError, Trouble):
        asked = asked_for("relayproxy", _marks(request.node, "relayproxy"))
        folder = tmp_path_factory.mktemp("relayproxy")
        relay = RelayFixture(*loaded(asked, folder, _relayproxy_state, request.path.parent))
    request.node.stash.setdefault(_OPEN, {})["relayproxy"] = relay
    yield relay
    del request.node.stash[_OPEN]["relayproxy"]
    with _told(Trouble):
        relay.close()


@pytest.fixture
def smtp_cassette(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    _relayproxy_state: Path,
    _relayproxy_cassettes: dict[Path, str],
) -> Iterator[CassetteFixture]:
    """The server that a .dialog file was recorded of, on a free port of 127.0.0.1: what comes and is not in it fails the test."""
    from relayproxy.testing.cassette import (  # noqa: PLC0415 - nobody else needs it
        CassetteFixture,
        claim,
        mode_of,
        path_of,
        real_server,
    )
    from relayproxy.testing.marker import MarkerError, asked_for, loaded  # noqa: PLC0415
    from relayproxy.testing.thread import Trouble  # noqa: PLC0415

    with _told(MarkerError, Trouble):
        asked = asked_for("smtp_cassette", _marks(request.node, "smtp_cassette"))
        path = path_of(asked, request.path, request.node.nodeid)
        folder = tmp_path_factory.mktemp("smtp_cassette")
        config, _ = loaded(asked, folder, _relayproxy_state, request.path.parent, "smtp_cassette")
        option = request.config.getoption("--smtp-cassette-mode")
        mode, in_ci = mode_of(asked, option, os.environ, real=real_server(config) is not None)
        claim(_relayproxy_cassettes, path, request.node.nodeid, asked, mode)
        cassette = CassetteFixture(path, mode, config, asked, in_ci=in_ci)
    request.node.stash.setdefault(_OPEN, {})["smtp_cassette"] = cassette
    yield cassette
    del request.node.stash[_OPEN]["smtp_cassette"]
    with _told(Trouble):
        try:
            wrong = cassette.close(passed=request.node.stash.get(_PASSED, False))
        finally:
            if cassette.note is not None:
                request.node.add_report_section("teardown", "smtp_cassette", cassette.note)
        if wrong is not None:
            raise Trouble(wrong)


def _marks(node: pytest.Item, name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """What the markers of that name say, the nearest first."""
    return [(mark.args, dict(mark.kwargs)) for mark in node.iter_markers(name)]


@contextmanager
def _told(*troubles: type[Exception]) -> Iterator[None]:
    """Each of these is its test's failure, in its own words alone."""
    try:
        yield
    except troubles as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
