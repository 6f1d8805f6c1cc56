"""README.md names who takes part, in the table that the run makes and in the one that tells how each is found; versions and counts are the run's."""

from __future__ import annotations

import re

import pytest
import real_cast
from real_cast import CAST, README


def rows(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]


def test_the_table_has_a_row_for_everybody() -> None:
    heads, *made = rows(real_cast.split()[1])
    assert heads == ["program", "version", "plays", "tests in which it took part", "passed"]
    assert [(program, plays) for program, _, plays, _, _ in made] == list(CAST)


def test_it_is_of_a_run_in_which_everybody_took_part_and_all_passed() -> None:
    _, *made = rows(real_cast.split()[1])
    for program, version, _, tried, passed in made:
        assert re.match(r"[0-9]+(\.[0-9]+)*", version), program
        assert re.match(r"[a-z ]+ [0-9]+", tried), program
        assert passed == "all", program


def test_how_each_is_found_is_told() -> None:
    section = README.read_text(encoding="utf-8").split("## Who takes part")[1].split("\n\n| file |")[0]
    told = {row[0].strip("`"): row[1] for row in rows(section)[1:]}
    assert set(told) == {program for program, _ in CAST}
    for program, plays in CAST:
        assert plays.removeprefix("client by ") in told[program]


def test_what_is_tried_is_told_of_every_file() -> None:
    told = {row[0] for row in rows(real_cast.split()[2].split("\n## ")[0])[1:]}
    files = {path.stem for path in README.parent.glob("test_*.py")} - {"test_table"}
    assert told == {name.removeprefix("test_").replace("_", " ") for name in files}


def test_nobody_takes_part_who_is_not_in_the_cast() -> None:
    with pytest.raises(AssertionError, match="sendmail as upstream is not in CAST"):
        real_cast.took_part("sendmail", "upstream")
