r"""What DKIM signatures cover (RFC 6376 §3.2, §3.5, §5.4): `signed_fields`, and which of them an edit breaks.

    signed_fields(section)                          # [Signature("example.test", ("from", "subject", "subject"), ...)]
    broken(section, edited(section, edits))         # those that verified before and do not any more

A signature covers the last field of a name where `h=` has the name once, the last two where it has it twice, and so on; where there are fewer, that there is no other
(§5.4.2): then another field of that name breaks it too. White space counts, or not, as its `c=` says.

Invariants: nothing raises, whatever the octets; the work is linear in them for each signature. Keys, hashes and whether a signature is good do not belong here: one that no verifier
could read (§6.1.1) is none, and one whose own field is gone or changed is not broken but gone.
"""

# ruff: noqa: ERA001 - the productions quoted here are no code
from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from relayproxy.mail.header import unfold

if TYPE_CHECKING:
    from relayproxy.mail.header import Field, HeaderSection

# RFC 6376 §3.2
#   tag-list  =  tag-spec *( ";" tag-spec ) [ ";" ]
#   tag-spec  =  [FWS] tag-name [FWS] "=" [FWS] tag-value [FWS]
#   tag-name  =  ALPHA *ALNUMPUNC
#   ALNUMPUNC =  ALPHA / DIGIT / "_"
#   tval      =  1*VALCHAR
#   VALCHAR   =  %x21-3A / %x3C-7E
_TAG: Final = re.compile(rb"[ \t]*+([A-Za-z][A-Za-z0-9_]*+)[ \t]*+=([!-:<-~ \t]*+)")
#: §3.5, all that are required; i=, l=, q=, t=, x=, z= may be there.
_REQUIRED: Final = frozenset({b"v", b"a", b"b", b"bh", b"d", b"h", b"s"})
_SPACE: Final = re.compile(rb"[ \t]+")


class Signature(msgspec.Struct, frozen=True, gc=False):
    """`fields`: what `h=` names, in lower case, as often as it does. `body`: whether any of the body is covered (`l=0` is none of it)."""

    domain: str
    fields: tuple[str, ...]
    body: bool
    #: `c=` for the header section: white space and case of names do not count.
    relaxed: bool
    #: Of the field that it stands in.
    octets: bytes


def signed_fields(section: HeaderSection) -> list[Signature]:
    """Of each DKIM-Signature that a verifier could read, from the top."""
    read = [_signature(_octets(section, field)) for field in section.get_all(b"DKIM-Signature")]
    return [signature for signature in read if signature is not None]


def broken(before: HeaderSection, after: HeaderSection) -> list[Signature]:
    """Signatures that are in both and covered something in the first that is not so in the other. (The body is not looked at.)"""
    there = {_octets(after, field) for field in after.get_all(b"DKIM-Signature")}
    return [
        signature
        for signature in signed_fields(before)
        if signature.octets in there and _covered(before, signature) != _covered(after, signature)
    ]


def _octets(section: HeaderSection, field: Field) -> bytes:
    return bytes(section)[field.start : field.end].removesuffix(b"\r\n")


def _signature(octets: bytes) -> Signature | None:
    tags = _tags(octets.partition(b":")[2])
    if tags is None or not tags.keys() >= _REQUIRED or tags[b"v"] != b"1":
        return None
    return Signature(
        domain=tags[b"d"].decode("ascii").lower(),
        fields=tuple([name.strip(b" \t").decode("ascii").lower() for name in tags[b"h"].split(b":")]),
        body=tags.get(b"l", b"1").strip(b"0") != b"",
        relaxed=tags.get(b"c", b"simple").partition(b"/")[0] == b"relaxed",
        octets=octets,
    )


def _tags(value: bytes) -> dict[bytes, bytes] | None:
    """None where it is no tag-list, or has a tag twice (§3.2)."""
    *specs, last = unfold(value).split(b";")
    if last.strip(b" \t"):
        specs.append(last)
    tags: dict[bytes, bytes] = {}
    for spec in specs:
        match = _TAG.fullmatch(spec)
        if match is None or match[1] in tags:
            return None
        tags[match[1]] = match[2].strip(b" \t")
    return tags


def _covered(section: HeaderSection, signature: Signature) -> list[bytes]:
    """What the signature covers of a section, in its order and as it is hashed (§3.4.1, §3.4.2, §5.4.2); b"" for a field that is not there."""
    left: dict[str, list[Field]] = {}
    covered = []
    for name in signature.fields:
        if name not in left:
            left[name] = [
                field for field in section.get_all(name.encode("ascii")) if _octets(section, field) != signature.octets
            ]
        covered.append(_hashed(section, left[name].pop(), relaxed=signature.relaxed) if left[name] else b"")
    return covered


def _hashed(section: HeaderSection, field: Field, *, relaxed: bool) -> bytes:
    if not relaxed:
        return _octets(section, field)
    return field.name.lower() + b":" + _SPACE.sub(b" ", unfold(field.value)).strip(b" ")
