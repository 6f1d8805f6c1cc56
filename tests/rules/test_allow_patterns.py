"""What `check` says of an entry of `[guard] allow` that guards less than it seems, or allows nobody."""

from __future__ import annotations

import pytest

from relayproxy.rules.allow_patterns import doubt
from relayproxy.rules.guard import Guard

NOTHING = "guards nothing: it allows every address"
BEHIND = (
    "is searched for anywhere in an address, so that domains of others may stand behind it; $ at its end keeps them out"
)
BEFORE = "names no @, so that domains of others may end like that; an @ in front of the domain keeps them out"
WITHIN = "allows domains of others too, as its wildcard does not stand for whole names in front of a domain of yours (*@*.example.com)"
ANYWHERE = "has no @, so that its wildcard stands for domains of others too"

DOUBTFUL = [
    # entry, what is said, somebody whom it allows
    ("*", NOTHING, "a@evil.test"),
    ("*@*", NOTHING, "a@evil.test"),
    ("**@*?", NOTHING, "a@evil.test"),
    ("*@*.*", NOTHING, "a@evil.test"),
    ("/./", NOTHING, "a@evil.test"),
    ("/@/", NOTHING, "a@evil.test"),
    ("/^[^@]+@.*$/", NOTHING, "a@evil.test"),
    ("*@*example.test", WITHIN, "a@evilexample.test"),
    ("jane@*", WITHIN, "jane@evil.test"),
    ("*@example.*", WITHIN, "a@example.evil.test"),
    ("*@example.t?st", WITHIN, "a@example.tast"),
    ("jane*", ANYWHERE, "jane@evil.test"),
    ("*.example.test", ANYWHERE, "a@evil.example.test"),
    ("*@*.com", "allows every domain in com", "a@evil.com"),
    (r"/@example\.test/", BEHIND, "a@example.test.evil.test"),
    (r"/@example\.test\$?/", BEHIND, "a@example.test.evil.test"),
    (r"/@a\.test$|@b\.test/", BEHIND, "a@b.test.evil.test"),
    (r"/(?:@a\.test|@b\.test)|@c\.test$/", BEHIND, "a@b.test.evil.test"),
    (r"/example\.test$/", BEFORE, "a@evilexample.test"),
    (r"/(?i)(?:a|b)\.test\z/", BEFORE, "a@evilb.test"),
    (r"/^.*example\.test$/", BEFORE, "a@evilexample.test"),
    ("example.test", "allows a recipient without a domain; all of a domain is *@example.test", "example.test"),
    ("@example.test", "allows no address; all of a domain is *@example.test", None),
    ("jane doe@example.test", "allows no address, as none is written so", None),
    ("<jane@example.test>", "allows no address, as none is written so", None),
]  # fmt: skip


@pytest.mark.parametrize(("entry", "said", "somebody"), DOUBTFUL)
def test_an_entry_that_hardly_anybody_means(entry: str, said: str, somebody: str | None) -> None:
    assert doubt(entry) == said
    assert somebody is None or Guard.parse([entry]).allows(somebody.encode())


@pytest.mark.parametrize(
    "entry",
    [
        "*@example.test", "*@*.example.test", "*@*.test", "*@localhost", "*@[192.0.2.1]", "qa+*@example.test", "jane@example.test", '"jane doe"@example.test', "postmaster", "root",
        "*@münchen.test", "*@*.example.com.", r"/@example\.test$/", r"/^(jane|joe)@example\.test$/", r"/(?:@a\.test|@b\.test)$/", r"/@a\.test$|@b\.test\z/", r"/(@a\.test$|@b\.test$)/",
        r"/[|(]x@a\.test$/", r"/[]|)]x@a\.test$/", r"/[[:alpha:]|]@a\.test$/", r"/\(@a\.test$/", "/^postmaster$/",
    ],
)  # fmt: skip
def test_an_entry_that_is_as_it_should_be(entry: str) -> None:
    assert doubt(entry) is None
