"""Shipped rule files: their own tests hold, nothing about them is doubtful that they do not say, and they are in what is installed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from rule_texts import Told

from relayproxy.rules.cases import differences
from relayproxy.rules.decision import Faults
from relayproxy.rules.doubts import doubts
from relayproxy.rules.facts import Facts, Recipient, Stage
from relayproxy.rules.gates import DataGate, EnvelopeGate
from relayproxy.rules.load import load, shipped

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "rules").glob("*.toml"))
README = (ROOT / "rules/README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_their_own_tests_hold_and_each_rule_is_in_one(path: Path) -> None:
    loaded = load([path])
    assert {case.name: differences(case, loaded.rules) for case in loaded.cases} == {
        case.name: () for case in loaded.cases
    }
    assert len(loaded.cases) >= 2


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_they_begin_with_what_they_do_to_mail_and_how_they_are_used(path: Path) -> None:
    comment = path.read_text(encoding="utf-8").split("\n\n")[0]
    assert all(line.startswith("#") for line in comment.splitlines())
    assert ("copy it" in comment.lower()) or f"As it is: relayproxy:{path.stem}" in comment


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_those_that_name_a_domain_are_to_be_copied_and_the_others_work_as_they_are(path: Path) -> None:
    rules = tomllib.loads(path.read_text(encoding="utf-8"))["rule"]
    names_one = "example" in str(rules)
    assert names_one == ("It names a domain" in path.read_text(encoding="utf-8"))
    assert ("as it is" in re.findall(rf"^\| `{path.stem}` \|.*\|(.*)\|$", README, re.MULTILINE)[0]) != names_one


def test_the_readme_lists_them_all() -> None:
    section = README.split("\n## Shipped rules\n")[1].split("\n## ")[0]
    assert re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE) == [path.stem for path in FILES]


def test_nothing_about_them_is_doubtful_but_what_they_say() -> None:
    found = {(path.stem, doubt.what.partition(" shows")[0]) for path in FILES for doubt in doubts(load([path]).rules)}
    assert found == {("staging-redirect", "add_header")}
    assert "`check` warns that X-Original-To shows recipients" in (ROOT / "rules/staging-redirect.toml").read_text()


def test_staging_keeps_nothing_back_but_the_header_section() -> None:
    for name in ("staging-redirect", "allow-list", "subject-tag", "strip-tracking", "sender-rewrite"):
        gates = load([f"relayproxy:{name}"]).rules.gates
        assert (gates.envelope, gates.dot) == (EnvelopeGate.LIVE, False)
        assert gates.data <= DataGate.HEADER


TROUBLE = [
    # stage, which rule says it, what befalls
    (Stage.RCPT, "trouble: a recipient is put off", None),
    (Stage.DATA, "trouble: slow data", Faults(throttle=4096)),
    (Stage.EOM, "trouble: a pause", Faults(delay=20.0)),
]


@pytest.mark.parametrize(("stage", "name", "faults"), TROUBLE)
def test_each_trouble_comes_by_chance_at_its_stage(stage: Stage, name: str, faults: Faults | None) -> None:
    rules = load(["relayproxy:provider-trouble"]).rules
    facts = Facts(listener="default", client="127.0.0.1", recipients=(Recipient("jane@customer.example"),))
    # Rarer than any that this one is about.
    decision = rules.evaluate(stage, facts, Told(chance=0.03))
    assert [fired.rule for fired in decision.fired] == [name]
    assert decision.faults == faults
    assert (decision.answer is not None) == (stage is Stage.RCPT)
    assert rules.evaluate(stage, facts, Told(chance=0.5)).fired == ()


def test_the_250_that_is_lost_is_the_rarest() -> None:
    rules = load(["relayproxy:provider-trouble"]).rules
    decision = rules.evaluate(Stage.EOM, Facts(listener="default", client=""), Told(chance=0.0))
    assert decision.faults == Faults(delay=20.0, disconnect="before-reply")
    assert decision.answer is None  # upstream has it


def test_they_are_looked_for_where_they_are_installed_or_else_in_the_source_tree(tmp_path: Path) -> None:
    package = tmp_path / "relayproxy" / "rules"
    assert shipped(package) == tmp_path / "rules"
    (package / "shipped").mkdir(parents=True)
    assert shipped(package) == package / "shipped"


def test_they_are_in_what_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert shipped() == ROOT / "rules"
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included == {"rules": "relayproxy/rules/shipped"}
    # What an image is built of is copied into it, or the wheel cannot be made.
    copied = re.findall(r"^COPY (\S+) \./\S+$", (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(copied) >= {"relayproxy", *included}
