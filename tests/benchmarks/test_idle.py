"""What an idle session costs, on both legs, at the numbers that DESIGN §10 promises it for."""

from __future__ import annotations

import resource
import shutil
import subprocess
from typing import TYPE_CHECKING, Final

import msgspec
import pytest
from rig import SCENARIOS, Held, Options, Rig, smtpload

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

#: Descriptors of the relay that are no session's.
OTHERS: Final = 400
#: Fewer say nothing of thousands.
FEWEST: Final = 5000


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    if not shutil.which("cc"):
        pytest.skip("no C compiler to build smtpload with")
    try:
        smtpload()
    except subprocess.CalledProcessError:
        pytest.skip("smtpload does not build here: OpenSSL's headers are missing")
    return Rig(Options(seconds=1, placement="free"), tmp_path)


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("scenario", "sessions", "kib"), [("S6", 10_000, 10), ("S6t", 1000, 120)])
def test_idle_sessions(rig: Rig, scenario: str, sessions: int, kib: int) -> None:
    """Ten thousand of them, or as many as this machine has descriptors for: the relay has two a session, and may not have more than the hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = sessions if hard == resource.RLIM_INFINITY else min(sessions, (hard - OTHERS) // 2)
    if most < min(sessions, FEWEST):
        pytest.skip(f"the hard limit on descriptors is {hard}: too few for {sessions} sessions")
    held = rig.measure("relayproxy", msgspec.structs.replace(SCENARIOS[scenario], idle=most))
    assert isinstance(held, Held), held
    assert (held.ready, held.lost, held.upstream_open) == (most, 0, most)
    assert held.proportional < kib
    assert held.resident < kib
