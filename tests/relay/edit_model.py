"""What edits make of a message, once more and otherwise: slowly, line by line, for the few edits that `test_edits_anything.py` draws (DESIGN §6 "Actions").

It shares nothing with the product: fields are lists of lines, an edit goes through all of them.
"""

from __future__ import annotations

from typing import NamedTuple

Field = list[bytes]  # its lines, each with its CRLF


class Edit(NamedTuple):
    """`action` as rules have it. `n`: index of insert_header, from 0; of change_header and delete_header from 1, 0: all."""

    action: str
    name: bytes
    n: int = 0
    #: Short, printable ASCII; `{id}` stands for what the field X-Id says.
    value: bytes = b""


def cut(message: bytes) -> tuple[list[Field], bytes]:
    """Fields, and all from the empty line on."""
    fields: list[Field] = []
    rest = message
    while rest and not rest.startswith(b"\r\n"):
        line, crlf, rest = rest.partition(b"\r\n")
        if line[:1] in (b" ", b"\t") and fields:
            fields[-1].append(line + crlf)
        else:
            fields.append([line + crlf])
    return fields, rest


def name_of(field: Field) -> bytes:
    """In lower case; b"" of a line that is no field."""
    name, colon, _ = field[0].partition(b":")
    name = name.rstrip(b" \t")
    return name.lower() if colon and name and all(0x21 <= octet <= 0x7E for octet in name) else b""


def made(message: bytes, edits: list[Edit]) -> bytes:
    """The message with the edits made in order."""
    fields, rest = cut(message)
    text: bytes | None = None
    for edit in edits:
        if edit.action == "replace_body":
            text = edit.value
        else:
            _make(fields, edit)
    if text is not None:
        had_version = any(name_of(field) == b"mime-version" for field in fields)
        fields = [field for field in fields if not name_of(field).startswith(b"content-")]
        if not had_version:
            fields.append([b"MIME-Version: 1.0\r\n"])
        fields += [[b"Content-Type: text/plain; charset=utf-8\r\n"], [b"Content-Transfer-Encoding: 7bit\r\n"]]
        body = text.replace(b"\n", b"\r\n")
        rest = b"\r\n" + (body if body.endswith(b"\r\n") or not body else body + b"\r\n")
    return b"".join([b"".join(field) for field in fields]) + rest


def _make(fields: list[Field], edit: Edit) -> None:
    places = [place for place, field in enumerate(fields) if name_of(field) == edit.name.lower()]
    one = [b"%b: %b\r\n" % (edit.name, edit.value)]
    match edit.action:
        case "add_header":
            fields.append(one)
        case "change_header" if edit.n > len(places):
            fields.append(one)  # as milter has it
        case "insert_header":
            fields.insert(edit.n, one)
        case "change_header":
            field = fields[places[edit.n - 1]]
            fields[places[edit.n - 1]] = [field[0][: field[0].index(b":") + 1] + b" " + edit.value + b"\r\n"]
        case "delete_header":
            gone = places if edit.n == 0 else places[edit.n - 1 : edit.n]
            for place in reversed(gone):
                del fields[place]
