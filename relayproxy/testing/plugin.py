"""The pytest plugin: the fixture `relayproxy`, what it is told by its marker, and nothing else where no test asks for it.

    @pytest.mark.relayproxy(redirect_all="qa@example.test")
    def test_welcome(relayproxy):
        sign_up("jane@customer.example", smtp=(relayproxy.host, relayproxy.port))
        assert relayproxy.wait_for("recipient:jane@customer.example").message["Subject"] == "Welcome"

Invariants: to load it costs no more than pytest's own hooks do: what relays and speaks TLS is imported when the first test asks for it; each test has a relay and a store of its own, on a free port of 127.0.0.1;
the authority for TLS is made once a run. What went wrong within a relay is its test's error, in words. What is asked for does not belong here (marker.py), nor how it runs (relay.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from relayproxy.testing.relay import RelayFixture

_RELAY = "relayproxy(upstream=, rules=, redirect_all=, allow=, tls=, auth=, config=): what the test's relay is like, in the words of relayproxy's configuration"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _RELAY)


@pytest.fixture(scope="session", name="_relayproxy_state")
def _state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the authority is kept that signs the certificates of all relays of the run."""
    return tmp_path_factory.mktemp("relayproxy-state")


@pytest.fixture(name="relayproxy")
def _relay(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _relayproxy_state: Path
) -> Iterator[RelayFixture]:
    """A relay on a free port of 127.0.0.1 that keeps this test's mail (`capture:`), or stands in front of a server."""
    from relayproxy.testing.marker import MarkerError, asked_for, loaded  # noqa: PLC0415 - nobody else needs it
    from relayproxy.testing.relay import RelayFixture  # noqa: PLC0415
    from relayproxy.testing.thread import Trouble  # noqa: PLC0415

    node = request.node
    wrong = None
    try:
        asked = asked_for("relayproxy", [(mark.args, mark.kwargs) for mark in node.iter_markers("relayproxy")])
        config, rules = loaded(asked, tmp_path_factory.mktemp("relayproxy"), _relayproxy_state, node.path.parent)
        relay = RelayFixture(config, rules)
    except (MarkerError, Trouble) as error:
        wrong = str(error)
    if wrong is not None:  # out here it shows alone, not behind what it came from
        pytest.fail(wrong, pytrace=False)
    yield relay
    try:
        relay.close()
    except Trouble as error:
        wrong = str(error)
    if wrong is not None:
        pytest.fail(wrong, pytrace=False)
