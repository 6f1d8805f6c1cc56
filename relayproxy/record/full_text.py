"""Words of a message, for the full-text search: which there are, and what an index has to be given so that it finds them.

Invariants: a text becomes words in one way, `words`, in the index and in the question; so an index over `searchable`, whose
tokenizer parts at spaces and knows nothing of what is around a token, finds at least the transactions that have the words. Case and ways to write one character
do not matter (case folding, NFKC): "STRASSE" finds "straße".
What a body says does not belong here (mail/body_text.py), nor the index (store/).
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from relayproxy.record.report import TransactionRecord

_WORD: Final = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """Letters and digits that stand together, folded; in order."""
    if text.isascii():
        return _WORD.findall(text.lower())
    return _WORD.findall(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()))


def summary(record: TransactionRecord) -> str:
    """What is searched besides the body: subject, sender and recipients, as received."""
    envelope = record.envelope.received
    subject = (record.message and record.message.subject) or ""
    return "\n".join([subject, envelope.sender, *[recipient.address for recipient in envelope.recipients]])


def searchable(record: TransactionRecord, body_text: str) -> str:
    """What an index is given of a transaction: its words, separated by spaces."""
    return " ".join(words(f"{summary(record)}\n{body_text}"))
