"""Words of a message, and that an index of them and a question speak of the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import recorded

from relayproxy.record.full_text import searchable, words

TEXTS = [
    ("", []),
    ("Hello, World!", ["hello", "world"]),
    ("jane.doe@x-1.test", ["jane", "doe", "x", "1", "test"]),
    ("a_b", ["a", "b"]),
    ("Straße STRASSE", ["strasse", "strasse"]),
    ("gru\u0308ße", ["grüsse"]),
    ("\uff46ull", ["full"]),
    ("日本 語", ["日本", "語"]),
]


@pytest.mark.parametrize(("text", "found"), TEXTS)
def test_a_text_has_words(text: str, found: list[str]) -> None:
    assert words(text) == found


@given(st.text())
def test_words_of_words_are_the_same(text: str) -> None:
    assert words(" ".join(words(text))) == words(text)


def test_an_index_is_given_subject_addresses_and_body() -> None:
    record = recorded(sender="a@x.test", recipients=("b@y.test", "c@z.test"), message=(None, "Your bill", 1))
    assert searchable(record, "Please pay") == "your bill a x test b y test c z test please pay"
    assert searchable(recorded(sender="", recipients=(), message=None), "") == ""
