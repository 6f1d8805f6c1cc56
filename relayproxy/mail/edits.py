"""Edits of a header section as values: noted when a rule says them, made when the header section is there (DESIGN §6 "Actions", PROTOCOL §1.11)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from relayproxy.mail.header import HeaderSection
    from relayproxy.mail.pattern import AddressPattern


class AddField(msgspec.Struct, frozen=True, gc=False):
    """A field at the end, or, `index`: before the one that has that index now, 0 = top. `value` is decoded text on one line."""

    name: str
    value: str
    index: int | None = None


class ChangeField(msgspec.Struct, frozen=True, gc=False):
    """Another value for the n-th field of that name, from 1; nothing where there is none."""

    name: str
    n: int
    value: str


class DeleteField(msgspec.Struct, frozen=True, gc=False):
    """The n-th field of that name goes, None: all of them."""

    name: str
    n: int | None = None


class ReplaceAddress(msgspec.Struct, frozen=True):
    """In To, Cc and Bcc (Resent- ones too), wherever `old` stands (compared in canonical form), `new` is to stand; display names stay."""

    old: str
    new: str


class RewriteAddresses(msgspec.Struct, frozen=True):
    """Every address in those fields that no pattern spares is to be `to`."""

    fields: tuple[str, ...]
    spare: tuple[AddressPattern, ...]
    to: str


HeaderEdit = AddField | ChangeField | DeleteField | ReplaceAddress | RewriteAddresses


def edited(section: HeaderSection, edits: tuple[HeaderEdit, ...], *, utf8: bool = False) -> HeaderSection:
    """A new section with the edits made in order; all that they do not name stays octet for octet.

    `utf8`: the message may carry UTF-8 in its header section (SMTPUTF8); else what is not ASCII is encoded (RFC 2047). Raises ValueError where an edit gives no field.
    """
    raise NotImplementedError
