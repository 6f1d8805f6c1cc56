"""The diagrams of relayproxy/README.md, drawn from the tables: `python tests/smtp/diagram.py` prints them."""

from __future__ import annotations

from collections import defaultdict

from relayproxy.smtp.dialogue import CHANNEL, TRANSACTION, Table


def diagram(table: Table, start: str) -> str:
    """A table as Mermaid's state diagram: an arrow for each change of state; what stays where it is is left out."""
    arrows: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (state, event), row in table.items():
        for severity, target in row.items():
            if target != state:
                arrows[state, target].append(f"{event} {severity}yz")
    lines = ["```mermaid", "stateDiagram-v2", f"  [*] --> {start}"]
    lines += [f"  {state} --> {target}: {_short(labels)}" for (state, target), labels in arrows.items()]
    return "\n".join([*lines, "```"])


def _short(labels: list[str]) -> str:
    """`END 2yz, END 4yz, END 5yz` as `END`, since whatever the answer is it leads there."""
    by_event: dict[str, list[str]] = defaultdict(list)
    for label in labels:
        event, severity = label.rsplit(" ", 1)
        by_event[event].append(severity)
    short: dict[str, list[str]] = defaultdict(list)
    for event, severities in by_event.items():
        short["" if len(severities) == 3 else " " + "/".join(severities)].append(event)
    return "; ".join(", ".join(events) + severities for severities, events in short.items())


def diagrams() -> str:
    return f"{diagram(CHANNEL, 'connected')}\n\n{diagram(TRANSACTION, 'none')}"


if __name__ == "__main__":
    print(diagrams())  # noqa: T201
