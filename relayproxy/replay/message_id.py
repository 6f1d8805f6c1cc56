"""`--new-message-id`: the rule that gives each message a Message-ID of its own, in front of all others, none of which may keep it from that.

It is that of the transaction in the relay between player and target (between.py), so that no server takes a message for one that it has had (RFC 5322 §3.6.4). A signature over
the field breaks. Saying when it is wanted does not belong here.
"""

from __future__ import annotations

from relayproxy.rules.actions import AddHeader, DeleteHeader
from relayproxy.rules.conditions import All
from relayproxy.rules.rule import Rule
from relayproxy.rules.template import text


def new_message_id(hostname: str) -> Rule:
    """The rule; `hostname` stands behind the @."""
    identity = AddHeader("Message-ID", text(f"<{{transaction}}@{hostname}>"))
    return Rule("new Message-ID", All(()), (DeleteHeader("Message-ID"), identity), where="--new-message-id")
