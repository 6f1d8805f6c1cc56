"""What is wrong with a configuration, in words: what was expected, what came, and the nearest name that is known (DESIGN §4).

Where it stands is said before it, by whoever knows the source (config.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, get_args

from relayproxy.record.store.location import without_password
from relayproxy.relay.settings import Settings
from relayproxy.rules.wording import nearest, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydantic_core import ErrorDetails

    from relayproxy.rules.locate import Place


def expected(root: type[Settings], details: ErrorDetails) -> str:
    """What pydantic found, in our words: what was expected and what came instead."""
    place = details["loc"]
    context, given = details.get("ctx", {}), details["input"]
    match details["type"]:
        case "extra_forbidden":
            return f"unknown key; {nearest(str(place[-1]), _keys(root, place[:-1]))}"
        case "value_error":
            wanted = str(context["error"]).removeprefix("expected ")
            if ", got " in wanted:
                return f"expected {wanted}"
        case "literal_error":
            wanted = str(context["expected"])
        case "string_pattern_mismatch" if place[-1] == "password_env":
            wanted = "the name of a variable"
        case "string_pattern_mismatch":
            wanted = "a name of at most 64 letters, digits, dots, hyphens and underscores"
        case "greater_than_equal":
            wanted = f"an integer of at least {context['ge']}"
        case kind:
            wanted = next((words for prefix, words in _TYPES.items() if kind.startswith(prefix)), details["msg"])
    # What stands in the place of credentials may be a secret.
    if "credentials" in place:
        return f"expected {wanted}, got something else"
    if isinstance(given, str) and (place[-1:] == ("store",) or "//" in given):  # an address has a colon and an @, too
        given = without_password(given)
    return f"expected {wanted}, got {shown(given)}"


_TYPES: Final = {
    "bool": "true or false",
    "dict": "a table",
    "int": "an integer",
    "model": "a table",
    "string": "a string",
    "tuple": "a list",
}


def _keys(root: type[Settings], place: Place) -> Iterable[str]:
    """What may stand in that table."""
    table = root
    for part in place:
        if (
            part in table.model_fields
        ):  # else the index of a list or the name of an upstream: the table is there already
            annotation = table.model_fields[str(part)].annotation
            table = next(_tables(annotation), table)
    return table.model_fields


def _tables(annotation: object) -> Iterator[type[Settings]]:
    for one in (annotation, *get_args(annotation)):
        if isinstance(one, type) and issubclass(one, Settings):
            yield one
