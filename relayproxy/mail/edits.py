"""Edits of a header section as values: noted when a rule says them, made when the header section is there (DESIGN §6 "Actions", PROTOCOL §1.11).

Invariants: what no edit names stays octet for octet; an edit makes one field or raises ValueError, and then nothing is edited. Addresses in a value
belong in address_edits.py, text as a value in field_text.py, octets of the section in header.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, assert_never

import msgspec

from relayproxy.mail.address_edits import Pair, replaced, rewritten
from relayproxy.mail.field_text import field_value
from relayproxy.mail.header import HeaderSection

if TYPE_CHECKING:
    from relayproxy.mail.address_edits import Spares

#: Where ReplaceAddress looks.
DESTINATIONS: Final = frozenset({"to", "cc", "bcc", "resent-to", "resent-cc", "resent-bcc"})


class AddField(msgspec.Struct, frozen=True, gc=False):
    """A field at the end, or, `index`: before the one that has that index now, 0 = top. `value` is decoded text on one line."""

    name: str
    value: str
    index: int | None = None


class ChangeField(msgspec.Struct, frozen=True, gc=False):
    """Another value for the n-th field of that name, from 1; where there are fewer, one more at the end, as milter has it (smfi_chgheader)."""

    name: str
    n: int
    value: str


class DeleteField(msgspec.Struct, frozen=True, gc=False):
    """The n-th field of that name goes, None: all of them."""

    name: str
    n: int | None = None


class ReplaceAddress(msgspec.Struct, frozen=True):
    """In To, Cc and Bcc (Resent- ones too), wherever `old` stands (compared in canonical form), `new` is to stand; display names stay.

    `origin`: whose address it was, as in facts.Recipient. What one recipient's edits make of an address is what its later ones look for; another's do not.
    """

    old: str
    new: str
    origin: int = -1


class RewriteAddresses(msgspec.Struct, frozen=True):
    """Every address in those fields that nobody spares is to be `to`."""

    fields: tuple[str, ...]
    spare: tuple[Spares, ...]
    to: str


HeaderEdit = AddField | ChangeField | DeleteField | ReplaceAddress | RewriteAddresses


def edited(section: HeaderSection, edits: tuple[HeaderEdit, ...], *, utf8: bool = False) -> HeaderSection:
    """A new section with the edits made in order; all that they do not name stays octet for octet.

    `utf8`: the message may carry UTF-8 in its header section (SMTPUTF8); else what is not ASCII is encoded (RFC 2047). Raises ValueError where an edit gives no field.
    """
    made = HeaderSection(bytes(section))
    # There is one for each recipient: they are made together, or a thousand of them would take seconds, and what became of one recipient's address would
    # be taken for another's. They wait in each field until another edit names it.
    replacements: list[Pair] = []
    begin = dict.fromkeys(DESTINATIONS, 0)
    for edit in edits:
        if isinstance(edit, ReplaceAddress):
            replacements.append(Pair(edit.old, edit.new, edit.origin))
            continue
        names = edit.fields if isinstance(edit, RewriteAddresses) else (edit.name,)
        for name in DESTINATIONS.intersection(map(str.lower, names)):
            made = replaced(made, (name,), replacements[begin[name] :], utf8=utf8)
            begin[name] = len(replacements)
        match edit:
            case AddField(name, value, index):
                octets = field_value(name, value, utf8=utf8)
                made.insert(len(made.fields) if index is None else index, _octets(name), octets)
            case ChangeField(name, n, value):
                octets = field_value(name, value, utf8=utf8)
                if n > made.count(_octets(name)):
                    made.add(_octets(name), octets)
                else:
                    made.change(_octets(name), n, octets)
            case DeleteField(name, n):
                made.delete(_octets(name), n)
            case RewriteAddresses(fields, spare, to):
                made = rewritten(made, fields, spare, to, utf8=utf8)
            case _:
                assert_never(edit)
    for at in set(begin.values()):
        made = replaced(made, [name for name in begin if begin[name] == at], replacements[at:], utf8=utf8)
    return made


def headers_changed(before: HeaderSection, after: HeaderSection) -> tuple[str, ...]:
    """Names of fields that are not the same in both, each once, in order and spelling of their first appearance."""
    spelled: dict[bytes, str] = {}
    came: dict[bytes, list[bytes]] = {}
    left: dict[bytes, list[bytes]] = {}
    for section, values in ((before, came), (after, left)):
        for field in section.fields:
            if field.name:
                key = field.name.lower()
                spelled.setdefault(key, field.name.decode("ascii"))
                values.setdefault(key, []).append(field.value)
    return tuple([name for key, name in spelled.items() if came.get(key) != left.get(key)])


def _octets(name: str) -> bytes:
    try:
        return name.encode("ascii")
    except UnicodeEncodeError:
        raise ValueError(
            f"expected a field name of printable ASCII without colon and space, got {name[:80]!r}"
        ) from None
