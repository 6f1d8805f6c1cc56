"""How a dialog that does not hold is told: the whole of it with the places marked, and what really happened, as a dialog."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

from relayproxy.record.dialog import Session, print_dialog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relayproxy.record import dialog


def report(
    text: str,
    marks: Sequence[tuple[int, str]],
    happened: Sequence[dialog.Entry],
    *,
    mode: str,
    crash: BaseException | None,
    after: bool,
) -> str:
    """`marks`: line of the dialog (0: of none) and what is the matter there; `after`: behind that line rather than in it."""
    numbers = {number for number, _ in marks}
    first_number, first = marks[0]
    out = [f"line {first_number}: {first.splitlines()[0].removesuffix(':')}" if first_number else first, ""]
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        out.append(f"{'>' if number in numbers and not after else ' '}{number:4}  {line}".rstrip())
        for place, told in marks:
            if place == number:
                out += (f"^     {part}" for part in told.split("\n"))
    for place, told in marks:
        if not place:
            out += ["", told]
    out += ["", f"What happened{mode}:", ""]
    try:
        out += print_dialog([Session("actual", (), tuple(happened))]).splitlines()[2:]
    except ValueError as error:
        out.append(str(error))
    if crash is not None:
        out += ["", *"".join(traceback.format_exception(crash)).splitlines()]
    return "\n".join(out)
