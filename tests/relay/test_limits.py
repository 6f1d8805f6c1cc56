"""Each limit and each deadline is a setting, is in force, and is told (PROTOCOL §1.7, §1.13): a dialog sets it, reaches it and hears the reply.

The dialogs are in dialogs/ (limits/, timeouts/ and beside what they limit); here is that none is missing. What needs sockets is elsewhere:
`sessions` and `sessions_per_client` in test_service.py; `rule_time` and `rule_threads`, for which threads are needed, in test_workers.py; `spool_memory`, behind which a body waits on disk and nobody is refused, in record/store/.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from relayproxy.relay.settings import ClientTimeouts, Limits, UpstreamTimeouts

DIALOGS = Path(__file__).parents[1] / "dialogs"
#: A line that breaks a limit of ours or is answered as upstream's fault is told as that; all others are told as `limit`.
VIOLATIONS = {"command_bytes", "auth_bytes", "reply_bytes", "reply_lines", "ehlo_keywords", "proxy_header_bytes"}
ELSEWHERE = {"sessions", "sessions_per_client", "rule_time", "rule_threads", "spool_memory"}


@cache
def dialogs() -> dict[str, str]:
    return {file.stem: file.read_text(encoding="utf-8") for file in DIALOGS.glob("*/*.dialog")}


def sets(text: str, key: str) -> bool:
    return re.search(rf"^@ config {re.escape(key)} = ", text, re.MULTILINE) is not None


@pytest.mark.parametrize("limit", sorted(Limits.model_fields.keys() - ELSEWHERE))
def test_a_dialog_reaches(limit: str) -> None:
    told = r"^@ log violation" if limit in VIOLATIONS else rf'^@ log limit limit="?{limit}\b'
    reached = [
        name
        for name, text in dialogs().items()
        if sets(text, f"limits.{limit}") and re.search(told, text, re.MULTILINE)
    ]
    assert reached, f"no dialog sets limits.{limit} and expects its line in the log"


@pytest.mark.parametrize(
    "deadline",
    [
        *(f"client.{name}" for name in ClientTimeouts.model_fields),
        *(f"upstream.{name}" for name in UpstreamTimeouts.model_fields),
    ],
)
def test_a_dialog_waits_for(deadline: str) -> None:
    """One that is set to what no default is, so that it is this one that ends the wait."""
    name = deadline.replace(".", "-")
    assert sets(dialogs().get(name, ""), f"timeouts.{deadline}"), f"there is no dialog timeouts/{name}"
