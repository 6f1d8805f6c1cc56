r"""What more than secrets is left out of records, where the configuration says so: `[record] redact` (DESIGN §5).

    privacy = Privacy.parse(["subject", "header.X-Customer", "addresses"])

`subject` and `header.NAME`: the values of these fields, in the kept message and in the record; `body`: all of it; `addresses`: whatever has the form of an address, in
the record, on both legs' wire and in header sections (but for Message-ID and its like). What is left out is told by its length, `<redacted N>`. Passwords and tokens always are (redact.py).

Invariants: linear in what it is given. Digests are those of the real octets. A message that only we hold (capture:, a rule's `hold`, the guard's copies) is kept as it is, and so
is the envelope that it is to leave with: the log alone goes without that (`told`). Pure.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from relayproxy.mail.header import HeaderSection
from relayproxy.record.report import HeldRecord, ReleaseRecord, TransactionRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from relayproxy.record.report import ClientRecord
    from relayproxy.record.store.interface import Message

#: A local part, quoted or not, "@", and a domain or an address literal; begun where an address can begin, so that no octet is looked at twice.
#: "+40" is an "@" in xtext (RFC 3461 §4); a backslash may be doubled, as it is in records.
_ADDRESS: Final = re.compile(
    rb"""(?:"(?>(?:[^"\\\r\n]++|\\{1,2}[^\r\n])*)"|(?<![^\s<>()\[\],:;"@])(?:[^\s<>()\[\],:;"@+]++|\+(?!40))+)(?:@|\+40)(?:\[[^\]\s]*+\]|[^\s<>()\[\],:;"@]++)"""
)
# Where a scan from a "[" or a quote comes to no address, none does from one that is within it, and each would cost a scan again.
_BRACKETS: Final = re.compile(rb"\[[^\]\s]*+(\]?+)")
_ESCAPED_QUOTES: Final = re.compile(
    rb"""("[^"\\\r\n]*+)((?:\\{1,2}[^\r\n][^"\\\r\n]*+)+)(?=("(?:@|\+40)[^\s<>()\],:;"@])?)"""
)
_FIELD_NAME: Final = re.compile(r"header\.[!-9;-~]+")
#: Identifiers that have the form of an address.
_IDENTIFIERS: Final = frozenset({b"message-id", b"in-reply-to", b"references", b"content-id", b"resent-message-id"})
_EXPECTED: Final = '"subject", "header.NAME", "body" or "addresses"'


class Privacy(NamedTuple):
    """`fields`: names in lower case."""

    fields: frozenset[bytes] = frozenset()
    body: bool = False
    addresses: bool = False

    @classmethod
    def parse(cls, names: Iterable[str]) -> Privacy:
        """Of what the configuration lists. Raises ValueError, which says what was expected."""
        fields: set[bytes] = set()
        named = set(names)
        for name in named - {"body", "addresses"}:
            if name != "subject" and _FIELD_NAME.fullmatch(name) is None:
                raise ValueError(_EXPECTED)
            fields.add(name.removeprefix("header.").lower().encode("ascii"))
        return cls(frozenset(fields), "body" in named, "addresses" in named)

    def spans(self, octets: bytes) -> list[tuple[int, int]]:
        """Offset and length of what is left out of some lines of the wire."""
        if not self.addresses:
            return []
        return [(match.start(), match.end() - match.start()) for match in _addresses(octets)]

    def text(self, text: str) -> str:
        """The same of a text in a record."""
        if not self.addresses:
            return text
        return _hide(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")

    def client(self, client: ClientRecord) -> ClientRecord:
        """Who a session's client says it is."""
        if not self.addresses:
            return client
        helo = None if client.helo is None else self.text(client.helo)
        user = None if client.auth is None or client.auth.user is None else self.text(client.auth.user)
        auth = None if client.auth is None else msgspec.structs.replace(client.auth, user=user)
        return msgspec.structs.replace(client, helo=helo, auth=auth)

    def record(self, record: TransactionRecord) -> TransactionRecord:
        """What is kept of a transaction."""
        if not self.fields and not self.addresses:
            return record
        told: dict[str, Any] = msgspec.to_builtins(record)
        message = told["message"] or {}
        identity, subject = message.get("id"), message.get("subject")
        if self.addresses:
            told = self._texts(told)
            message = told["message"] or {}
        if identity is not None:
            message["id"] = _blank(identity) if b"message-id" in self.fields else identity
        if subject is not None and b"subject" in self.fields:
            message["subject"] = _blank(subject)
        return msgspec.structs.replace(msgspec.convert(told, TransactionRecord), held=record.held)

    def told(self, record: TransactionRecord) -> TransactionRecord:
        """What is told of one that is kept so."""
        if not self.addresses or not isinstance(record.held, HeldRecord):
            return record
        held = msgspec.convert(self._texts(msgspec.to_builtins(record.held)), HeldRecord)
        return msgspec.structs.replace(record, held=held)

    def release(self, release: ReleaseRecord) -> ReleaseRecord:
        """What is kept of a try to send on what is held."""
        if not self.addresses:
            return release
        return msgspec.convert(self._texts(msgspec.to_builtins(release)), ReleaseRecord)

    def _texts(self, value: Any) -> Any:
        match value:
            case str():
                return self.text(value)
            case dict():
                return {key: self._texts(inner) for key, inner in value.items()}
            case list() | tuple():
                return [self._texts(inner) for inner in value]
            case _:
                return value

    def message(self, message: Message) -> Message:
        """What is kept of a message; one that is changed is not `exact` any more."""
        header, sent = self._header(message.header), self._header(message.header_sent or b"")
        if self.body:
            message = message._replace(body=None, body_sent=None)
        if (header, sent) == (message.header, message.header_sent or b""):
            return message
        header_sent = None if message.header_sent is None else sent
        return message._replace(header=header, header_sent=header_sent, exact=False)

    def _header(self, raw: bytes) -> bytes:
        if not raw or not (self.fields or self.addresses):
            return raw
        kept: list[bytes] = []
        for field in HeaderSection(raw).fields:
            octets, name = raw[field.start : field.end], field.name.lower()
            if name in self.fields:
                at = octets.index(b":") + 1
                kept.append(octets[:at] + b" <redacted %d>\r\n" % len(field.value.strip()))
            else:
                kept.append(_hide(octets) if self.addresses and name not in _IDENTIFIERS else octets)
        return b"".join(kept)


def _addresses(octets: bytes) -> Iterator[re.Match[bytes]]:
    """Where they are; what they are may be changed."""
    if b"[" in octets:
        octets = _BRACKETS.sub(lambda match: match[0] if match[1] else match[0].replace(b"[", b"("), octets)
    if b"\\" in octets:
        octets = _ESCAPED_QUOTES.sub(
            lambda match: match[0] if match[3] else match[1] + match[2].replace(b'"', b"("), octets
        )
    return _ADDRESS.finditer(octets)


def _hide(octets: bytes) -> bytes:
    kept, start = [], 0
    for match in _addresses(octets):
        kept += [octets[start : match.start()], b"<redacted %d>" % len(match[0])]
        start = match.end()
    return b"".join(kept) + octets[start:]


def _blank(text: str) -> str:
    return f"<redacted {len(text)}>"
