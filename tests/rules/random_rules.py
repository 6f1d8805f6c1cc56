"""Any rules, for what must hold of all of them."""

from __future__ import annotations

from hypothesis import strategies as st
from rule_pieces import Address, Always, Text, When, address_patterns, addresses

from relayproxy.mail.pattern import Pattern
from relayproxy.rules import actions
from relayproxy.rules.facts import Stage
from relayproxy.rules.rule import Action, Rule

SUBJECTS = ["client", "sender", "recipient", "recipients", "header:subject", "body"]

ACTIONS: list[Action] = [
    actions.ChangeSender(Address("other@example.test")),
    actions.ChangeSender(Address("of+{header:subject}@example.test")),
    actions.AddRecipient(addresses("archive@example.test")),
    actions.AddRecipient(addresses("copy+{sender}")),
    actions.DeleteRecipient(),
    actions.DeleteRecipient(address_patterns("*@customer.example")),
    actions.RewriteRecipient(addresses("qa@example.test", "qa2@example.test")),
    actions.RewriteRecipient(addresses("{sender}")),
    actions.RedirectRecipient(Address("qa@example.test")),
    actions.RewriteHeaderAddresses(("To", "Cc"), address_patterns("*@example.test"), Address("qa@example.test")),
    actions.AddHeader("X-Original-To", Text("{recipient}")),
    actions.AddHeader("Subject", Text("again"), 0),
    actions.ChangeHeader("Subject", 1, Text("[test] {header:subject}")),
    actions.DeleteHeader("Subject"),
    actions.ReplaceBody(Text("gone")),
    actions.StripAttachment(Pattern.parse("*.exe")),
    actions.Refuse("reject", 550, Text("5.7.1 no {sender}")),
    actions.Refuse("tempfail", 451, Text("4.7.1 later")),
    actions.Discard(),
    actions.Hold(Text("look at it")),
    actions.Accept(),
    actions.Route("other"),
    actions.Tag(Text("t")),
    actions.Delay(1.0),
    actions.Throttle(1000),
    actions.Cut("reset"),
    actions.DropReply(),
]


@st.composite
def random_rules(draw: st.DrawFn, max_size: int = 8) -> tuple[Rule, ...]:
    """With globs that often match what rule_pieces.mail gives."""
    rules = []
    for number in range(draw(st.integers(0, max_size))):
        subject = draw(st.sampled_from([None, *SUBJECTS]))
        when = (
            Always() if subject is None else When(subject, draw(st.sampled_from(["*", "*@customer.example", "1", "x"])))
        )
        then = tuple(draw(st.lists(st.sampled_from(ACTIONS), min_size=1, max_size=3)))
        rules.append(Rule(str(number), when, then, draw(st.sampled_from([None, None, None, *Stage]))))
    return tuple(rules)
