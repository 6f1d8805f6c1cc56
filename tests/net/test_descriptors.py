"""File descriptors: how many there may be, and that we take no more than the system gives."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
from relayproxy.net.descriptors import make_room
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 1000))
print(make_room(int(sys.argv[1])), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.slow  # limits can be lowered for good only, so it takes a process
@pytest.mark.parametrize(
    ("wanted", "there_may_be", "soft"),
    [(50, 50, 100), (100, 100, 100), (500, 500, 500), (1000, 1000, 1000), (5000, 1000, 1000)],
)
def test_as_many_as_are_wanted_or_as_the_system_gives(wanted: int, there_may_be: int, soft: int) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] not in range(1000):
        told = subprocess.run([sys.executable, "-c", SCRIPT, str(wanted)], capture_output=True, text=True, check=True)
        assert told.stdout.split() == [str(there_may_be), str(soft), "1000"]
    else:
        pytest.skip("this process may not have 1000 open files")
