"""ESMTP parameters of MAIL and RCPT (RFC 5321 §4.1.1.11; RFC 1870, 3461, 4954, 6152, 6531).

Invariants: order, spelling and values stay as they came (DESIGN §9.4); each stands once; the values of those that relayproxy knows
keep their own grammar, decoded forms included. Those that it does not know are kept: whether they were offered
does not belong here (capabilities.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relayproxy.smtp import grammar, local_replies
from relayproxy.smtp.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    ValueCheck = Callable[[bytes | None], None]

#: ESMTP parameters as they came: keyword in the peer's own spelling, value as octets, None where there is no "=".
Parameters = tuple[tuple[bytes, bytes | None], ...]


def get(parameters: Parameters, keyword: bytes) -> bytes | None:
    """The value of a parameter: keyword in upper case; b"" where it stands without a value, None where it does not stand."""
    for name, value in parameters:
        if name.upper() == keyword:
            return b"" if value is None else value
    return None


def written(parameters: Parameters) -> bytes:
    if not parameters:
        return b""
    return b"".join([b" " + name if value is None else b" %b=%b" % (name, value) for name, value in parameters])


def parse(rest: bytes, values: dict[bytes, ValueCheck]) -> Parameters:
    """What stands behind a path: `values` is MAIL or RCPT. Raises RemoteProtocolError (501 5.5.4; 555 for BODY=BINARYMIME)."""
    parameters: list[tuple[bytes, bytes | None]] = []
    seen: set[bytes] = set()
    for word in rest.split(b" "):
        if not word:
            continue
        match = grammar.PARAMETER.fullmatch(word)
        if match is None:
            raise RemoteProtocolError("expected parameters of the form KEYWORD=value", local_replies.PARAMETER_SYNTAX)
        name, value = match.groups()
        keyword = name.upper()
        if keyword in seen:
            raise RemoteProtocolError("expected each parameter once", local_replies.PARAMETER_SYNTAX)
        seen.add(keyword)
        try:
            if (check := values.get(keyword)) is not None:
                check(value)
            elif value is not None:
                grammar.utf8(value)
        except ValueError as error:
            raise RemoteProtocolError(f"{keyword.decode('ascii')}: {error}", local_replies.PARAMETER_SYNTAX) from None
        parameters.append((name, value))
    return tuple(parameters)


def _required(value: bytes | None) -> bytes:
    if value is None:
        raise ValueError("expected a value")
    return value


def _size(value: bytes | None) -> None:
    grammar.number(_required(value))


def _body(value: bytes | None) -> None:
    """RFC 6152 §2. BINARYMIME is of an extension that is never offered (PROTOCOL §1.4), not wrong."""
    kind = _required(value).upper()
    if kind == b"BINARYMIME":
        raise RemoteProtocolError("BODY=BINARYMIME was not offered", local_replies.UNKNOWN_PARAMETER)
    if kind not in (b"7BIT", b"8BITMIME"):
        raise ValueError("expected 7BIT or 8BITMIME")


def _smtputf8(value: bytes | None) -> None:
    """RFC 6531 §3.4: without a value."""
    if value is not None:
        raise ValueError("expected no value")


def _ret(value: bytes | None) -> None:
    """RFC 3461 §4.3."""
    if _required(value).upper() not in (b"FULL", b"HDRS"):
        raise ValueError("expected FULL or HDRS")


def _envid(value: bytes | None) -> None:
    """RFC 3461 §4.4."""
    if len(_required(value)) > grammar.MAX_ENVID:
        raise ValueError(f"expected at most {grammar.MAX_ENVID} octets")
    grammar.xtext(_required(value))


def _auth_parameter(value: bytes | None) -> None:
    """RFC 4954 §5: xtext, or `<>` (which is xtext too)."""
    if len(_required(value)) > grammar.MAX_AUTH:
        raise ValueError(f"expected at most {grammar.MAX_AUTH} octets")
    grammar.xtext(_required(value))


def _notify(value: bytes | None) -> None:
    """RFC 3461 §4.1."""
    if grammar.NOTIFY.fullmatch(_required(value)) is None:
        raise ValueError("expected NEVER, or some of SUCCESS, FAILURE, DELAY separated by commas")


def _orcpt(value: bytes | None) -> None:
    """RFC 3461 §4.2."""
    grammar.original_recipient(_required(value))


#: What MAIL's and RCPT's values must be: keyword in upper case, a check that raises ValueError, or RemoteProtocolError with a reply of its own.
MAIL: Final[dict[bytes, ValueCheck]] = {
    b"SIZE": _size,
    b"BODY": _body,
    b"SMTPUTF8": _smtputf8,
    b"RET": _ret,
    b"ENVID": _envid,
    b"AUTH": _auth_parameter,
}
RCPT: Final[dict[bytes, ValueCheck]] = {b"NOTIFY": _notify, b"ORCPT": _orcpt}
