r"""Templates (DESIGN §6): texts with `{...}` in them, for what rules write.

    text("from {sender}", groups)                                                # a field's value, a reason, a tag
    reply_text("5.7.1 No mail for {recipient}", groups)                          # what stands behind a reply's code
    address("qa+{recipient.local}={recipient.domain}@example.test", groups)      # one address

`groups` are the named groups that the rule's patterns have. `{{` and `}}` are braces. None: a text is what it is, with no placeholders in it.

Invariants: nothing of a template's result can be a second line, reply or address, whatever stands in the mail: what is put in has no control
characters (a space is in their place), so that a line stays one; an address is checked as a whole, by the grammar of what leaves (attack 10).
An address is put together of local parts without their quotes, and quoted as a whole where it is no dot-atom (RFC 5321 §4.1.2). It is split at the last `@`
of the template itself, so that an `@` that came in stays in the local part; where the template has none, at that of the one address that is put in.
Which action takes which kind does not belong here (action_syntax.py).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from relayproxy.mail.canonical import canonical_domain, dequoted, quoted, split
from relayproxy.rules.rule import BadAddress, header
from relayproxy.rules.wording import nearest, shown
from relayproxy.smtp.commands import Path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from relayproxy.rules.facts import Facts, Recipient
    from relayproxy.rules.rule import Subject, Template

    Getter = Callable[[Facts, Recipient | None, Mapping[str, str]], str]

#: Characters of one value that are put in.
MAX_VALUE: Final = 16 * 1024
#: Characters of a reply's text, so that it is one line (RFC 5321 §4.5.3.1.5: 512 octets with code and CRLF).
MAX_REPLY: Final = 500
#: RFC 5321 §4.5.3.1.1, §4.5.3.1.3 (a path is counted with its angle brackets). Addresses that come may have longer local parts.
MAX_LOCAL: Final = 64
MAX_ADDRESS: Final = 254

_PIECE: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+")
#: RFC 5322 §3.6.8 ftext.
_FIELD_NAME: Final = re.compile(r"[!-9;-~]+")
# C0, DEL, C1, and what some take for the end of a line; lone surrogates are no text.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_NOT_PRINTABLE: Final = re.compile(r"[^ -~]")
_QUOTED_PAIR: Final = re.compile(r"\\(.)", re.DOTALL)


class Placeholder(msgspec.Struct, frozen=True):
    """`{name}`. `is_part`: of an address, so that an `@` in it is none that splits."""

    name: str
    reads: Subject | None
    value: Getter
    is_part: bool = False


Pieces = tuple[str | Placeholder, ...]


class Text(msgspec.Struct, frozen=True):
    """What it gives has no control characters but those that stand in the template; for a reply it is printable ASCII of one line."""

    pieces: Pieces
    is_reply: bool = False

    @property
    def reads(self) -> frozenset[Subject]:
        return _reads(self.pieces)

    def render(self, facts: Facts, recipient: Recipient | None, groups: Mapping[str, str]) -> str:
        whole = "".join(
            [
                piece
                if isinstance(piece, str)
                else piece.value(facts, recipient, groups)
                if piece is _BODY
                else _sound(piece.value(facts, recipient, groups))
                for piece in self.pieces
            ]
        )
        return _NOT_PRINTABLE.sub("?", whole[:MAX_REPLY]) if self.is_reply else whole


class Address(msgspec.Struct, frozen=True):
    """`local` and `domain` are what stands on both sides of the template's own `@`; `domain` is None where it has none.

    `may_be_null`: it may give "", the null sender.
    """

    local: Pieces
    domain: Pieces | None
    may_be_null: bool = False

    @property
    def reads(self) -> frozenset[Subject]:
        return _reads(self.local + (self.domain or ()))

    def render(self, facts: Facts, recipient: Recipient | None, groups: Mapping[str, str]) -> str:
        def given(piece: Placeholder) -> tuple[str, str]:
            value = piece.value(facts, recipient, groups)[:MAX_VALUE]
            if piece.is_part:
                return value, ""
            local, domain = split(value)
            return dequoted(local), domain

        local, domain = "", ""
        for piece in self.local:
            if isinstance(piece, str):
                part, at = piece, ""
            else:
                part, at = given(piece)
            if self.domain is not None:
                local += f"{part}@{at}" if at else part
            elif domain:
                domain += part  # behind the one address that is put in
            else:
                local, domain = local + part, at
        for piece in self.domain or ():
            domain += piece if isinstance(piece, str) else piece.value(facts, recipient, groups)[:MAX_VALUE]
        return self.checked(local, domain)

    def checked(self, local: str, domain: str) -> str:
        """What it gives of these. Raises BadAddress."""
        if self.domain is None and not domain and not local and self.may_be_null:
            return ""
        if not local or (self.domain is not None and not domain):
            written = local if self.domain is None else f"{local}@{domain}"
            raise BadAddress(f"expected an address such as user@example.com, got {shown(written)}")
        return _address(local, domain)


def text(source: str, groups: Iterable[str] | None = (), *, lines: bool = False) -> Template:
    """Of one line, or, `lines`, a body of several, in which `{body}` is the text of the one that came. Raises ValueError: what was expected."""
    if not lines and (found := _CONTROL.search(source)):
        raise ValueError(
            f"expected one line without control characters, got {found[0]!r} at character {found.start() + 1}"
        )
    return Text(_pieces(source, groups, is_body=lines))


def reply_text(source: str, groups: Iterable[str] | None = (), *, lead: str = "", start: int = 0) -> Template:
    """Of the source from `start` on; `lead` is put before it. Raises ValueError."""
    if found := _NOT_PRINTABLE.search(source, start):
        raise ValueError(f"expected one line of printable ASCII, got {found[0]!r} at character {found.start() + 1}")
    made = Text(_joined([lead, *_pieces(source, groups, start)]), is_reply=True)
    literal = sum(len(piece) for piece in made.pieces if isinstance(piece, str))
    if literal > MAX_REPLY:
        raise ValueError(f"expected a reply of at most {MAX_REPLY} characters, got {literal}")
    return made


def address(source: str, groups: Iterable[str] | None = (), *, may_be_null: bool = False) -> Template:
    """`may_be_null`: "" may stand there, and be given, for the null sender. Raises ValueError."""
    pieces = _pieces(source, groups)
    if _constant(pieces) is not None:
        return _constant_address("".join(map(str, pieces)), may_be_null=may_be_null)
    for index in range(len(pieces) - 1, -1, -1):
        piece = pieces[index]
        if isinstance(piece, str) and "@" in piece:
            before, _, behind = piece.rpartition("@")
            local, domain = _joined([*pieces[:index], before]), _joined([behind, *pieces[index + 1 :]])
            if not local or not domain:
                raise ValueError(f"expected an address such as user@example.com, got {shown(source)}")
            return Address(_unquoted(local), domain, may_be_null)
    whole = [piece.name for piece in pieces if isinstance(piece, Placeholder) and not piece.is_part]
    if len(whole) > 1:
        raise ValueError(f"expected an @ between {{{'} and {'.join(whole)}}}: each may give a whole address")
    return Address(pieces, None, may_be_null)


def placeholder_names() -> list[str]:
    """Those that are no named groups."""
    return [*_KNOWN, "header.NAME"]


def _body(facts: Facts, _recipient: Recipient | None, _groups: Mapping[str, str]) -> str:
    """Of several lines, each ended as the template's own are."""
    return "" if facts.content is None else facts.content.text.replace("\r\n", "\n")


def is_placeholder(name: str) -> bool:
    """Whether a named group cannot have this name."""
    return name in _KNOWN or name == BODY


def _constant_address(written: str, *, may_be_null: bool) -> Template:
    local, domain = split(written)
    made = Address((dequoted(local),), (domain,) if len(local) < len(written) else None, may_be_null)
    if not written and may_be_null:
        return made
    try:
        if Path.parse(written.encode()).address != written.encode():
            raise BadAddress(f"expected one address without a source route, got {shown(written)}")
        made.checked(dequoted(local), domain)
    except (ValueError, UnicodeEncodeError) as error:
        raise ValueError(
            str(error)
            if isinstance(error, BadAddress)
            else f"expected an address such as user@example.com, got {shown(written)}"
        ) from None
    return made


def _unquoted(pieces: Pieces) -> Pieces:
    """A local part whose quotes stand in the template: what is meant."""
    match pieces:
        case (str() as only,):
            return (dequoted(only),)
        case (str() as first, *between, str() as last) if first[:1] == '"' == last[-1:]:
            bare = [first[1:], *between, last[:-1]]
            return _joined([_QUOTED_PAIR.sub(r"\1", piece) if isinstance(piece, str) else piece for piece in bare])
        case _:
            return pieces


def _joined(pieces: Iterable[str | Placeholder]) -> Pieces:
    """Without texts of nothing; two texts that stand side by side are one."""
    joined: list[str | Placeholder] = []
    for piece in pieces:
        if isinstance(piece, str) and joined and isinstance(joined[-1], str):
            joined[-1] += piece
        elif piece != "":
            joined.append(piece)
    return tuple(joined)


def _pieces(source: str, groups: Iterable[str] | None, start: int = 0, *, is_body: bool = False) -> Pieces:
    if groups is None:
        return _joined([source[start:]])
    found: list[str | Placeholder] = []
    named = (*groups, BODY) if is_body else groups
    for match in _PIECE.finditer(source, start):
        written = match[0]
        if match[1] is not None:
            is_whole = is_body and match[1] == BODY
            found.append(_BODY if is_whole else _placeholder(match[1], named, match.start() + 1))
        elif written in ("{", "}"):
            raise ValueError(
                f"expected a placeholder such as {{recipient}}, or {written * 2} for a brace, got {written} at character {match.start() + 1}"
            )
        else:
            found.append(written[0] if written in ("{{", "}}") else written)
    return _joined(found)


def _placeholder(name: str, groups: Iterable[str], at: int) -> Placeholder:
    if name in _KNOWN:
        reads, value = _KNOWN[name]
        return Placeholder(name, reads, value, name.endswith((".local", ".domain")))
    field = name.removeprefix("header.")
    if field != name and _FIELD_NAME.fullmatch(field):
        return Placeholder(name, header(field), _field(field.encode("ascii")))
    if name in groups:
        return Placeholder(name, None, lambda _facts, _recipient, found: found.get(name, ""))
    raise ValueError(
        f"unknown placeholder {{{shown(name)[1:-1]}}} at character {at}; {nearest(name, [*placeholder_names(), *groups])}"
    )


def _field(name: bytes) -> Getter:
    """Of the first field of that name."""

    def value(facts: Facts, _recipient: Recipient | None, _groups: Mapping[str, str]) -> str:
        found = () if facts.header is None else facts.header.texts(name)
        return found[0] if found else ""

    return value


def _of_recipient(part: Callable[[str], str]) -> Getter:
    return lambda _facts, recipient, _groups: "" if recipient is None else part(recipient.address)


def _of_sender(part: Callable[[str], str]) -> Getter:
    return lambda facts, _recipient, _groups: part(facts.sender)


def _local(written: str) -> str:
    return dequoted(split(written)[0])


def _domain(written: str) -> str:
    return split(written)[1]


def _reads(pieces: Pieces) -> frozenset[Subject]:
    return frozenset(piece.reads for piece in pieces if isinstance(piece, Placeholder) and piece.reads is not None)


def _constant(pieces: Pieces) -> str | None:
    texts = [piece for piece in pieces if isinstance(piece, str)]
    return "".join(texts) if len(texts) == len(pieces) else None


def _sound(value: str) -> str:
    value = value[:MAX_VALUE]
    return value if value.isprintable() else _CONTROL.sub(" ", value)


def _address(local: str, domain: str) -> str:
    """Of a local part without quotes, and a domain in any form. Raises BadAddress."""
    written = quoted(local)
    try:
        _check(written, domain)  # before U-labels become A-labels: what others take for a dot would be one no more
        if not domain.isascii():
            domain = canonical_domain(domain)
            _check(written, domain)
        if not domain.isascii():
            raise BadAddress("expected a domain whose labels have at most 63 octets")
    except (ValueError, UnicodeEncodeError) as error:
        wrong = str(error) if isinstance(error, BadAddress) else "expected an address such as user@example.com"
        raise BadAddress(f"{wrong}, got {shown(f'{written}@{domain}' if domain else written)}") from None
    return f"{written}@{domain}" if domain else written


def _check(local: str, domain: str) -> None:
    path = Path.parse((f"{local}@{domain}" if domain else local).encode())
    if len(path.local) > MAX_LOCAL:
        raise BadAddress(f"expected a local part of at most {MAX_LOCAL} octets")
    if len(path.address) > MAX_ADDRESS:
        raise BadAddress(f"expected an address of at most {MAX_ADDRESS} octets")


_KNOWN: Final[Mapping[str, tuple[Subject, Getter]]] = {
    "recipient": ("recipient", _of_recipient(str)),
    "recipient.local": ("recipient", _of_recipient(_local)),
    "recipient.domain": ("recipient", _of_recipient(_domain)),
    "sender": ("sender", _of_sender(str)),
    "sender.local": ("sender", _of_sender(_local)),
    "sender.domain": ("sender", _of_sender(_domain)),
    "client": ("client", lambda facts, _recipient, _groups: facts.client),
    "helo": ("helo", lambda facts, _recipient, _groups: facts.helo),
    "auth": ("auth", lambda facts, _recipient, _groups: facts.user or ""),
    "session": ("session", lambda facts, _recipient, _groups: facts.session),
    "transaction": ("transaction", lambda facts, _recipient, _groups: facts.transaction),
}


#: In a body, the text of the one that came, as conditions see it (mail/body_text.py): of a message of one text part, all of it.
BODY: Final = "body"
_BODY: Final = Placeholder(BODY, "body", _body)
