"""The house rules that a machine can hold (DESIGN §3): who imports whom, what stands where, that every module says what it is for."""

from __future__ import annotations

import ast
import fnmatch
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

import relayproxy

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "relayproxy"
MODULES = sorted(PACKAGE.rglob("*.py"))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())

TOP = {
    ".ci", ".git", ".gitignore", "CHANGELOG.md", "LICENSE", "Makefile", "README.md", "deploy", "pyproject.toml", "relayproxy", "rules", "tests",
}  # fmt: skip
LONGEST = 450
#: Words that say nothing (DESIGN §2).
EMPTY_WORDS = re.compile(r"(?i)(?:handler|manager|util|helper)s?$")

EXTRAS = PROJECT["project"]["optional-dependencies"]
each_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))


@pytest.mark.slow
def test_imports_keep_the_contracts(capsys: pytest.CaptureFixture[str]) -> None:
    status = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True, no_logo=True)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


def test_the_contracts_are_those_of_the_design() -> None:
    names = [contract["name"] for contract in PROJECT["tool"]["importlinter"]["contracts"]]
    assert names == [
        "a floor imports only floors below it",
        "smtp, mail, rules, the TLS engine and what is pure of record and replay: no I/O, no clock, no logging",
        "OpenSSL only in tls",
        "psycopg only in the PostgreSQL store",
        "no asyncio",
        "the verbs know nothing of each other",
    ]


def test_the_top_level_is_that_of_the_design() -> None:
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split()]
    there = {entry.name for entry in ROOT.iterdir()}
    assert {name for name in there - TOP if not any(fnmatch.fnmatch(name, pattern) for pattern in ignored)} == set()


@each_module
def test_a_module_says_what_it_is_for(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_bytes()))
    assert docstring
    assert docstring.splitlines()[0][-1] in ".:,;?", "its first line is a sentence, or the beginning of one"


@each_module
def test_a_module_is_no_longer_than_one_can_read(path: Path) -> None:
    assert len(path.read_bytes().splitlines()) <= LONGEST


@each_module
def test_nothing_is_named_by_a_word_that_says_nothing(path: Path) -> None:
    named = [
        node.name
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert [name for name in [path.stem, *named] if EMPTY_WORDS.search(name)] == []


def declared(requirements: list[str]) -> set[str]:
    """Their names as they are imported."""
    names = {re.split(r"[>=\[]", one)[0].strip() for one in requirements}
    imported_as = {
        "backports.zstd": "backports",
        "dkimpy": "dkim",
        "google-re2": "re2",
        "import-linter": "importlinter",
        "pyOpenSSL": "OpenSSL",
    }
    return {imported_as.get(name, name) for name in names}


def imported(paths: list[Path]) -> set[str]:
    """What is none of ours and not the standard library's."""
    found: set[str] = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    ours = {"relayproxy", *(path.stem for path in paths), *(path.parent.name for path in paths)}
    return found - sys.stdlib_module_names - ours


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    # pydantic_core comes with pydantic, which pins it exactly; compression is the standard library's from Python 3.14 on.
    extras = {"postgresql"}
    needed = declared([*PROJECT["project"]["dependencies"], *(one for extra in extras for one in EXTRAS[extra])])
    assert imported(MODULES) - {"pydantic_core", "compression"} == needed


def test_so_it_is_with_the_tests() -> None:
    paths = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "deploy").rglob("*.py")]
    called = {"mypy", "ruff"}  # by make lint
    loaded = {"pytest-timeout", "pytest-trio", "pytest-xdist"}  # by pytest
    development = declared(EXTRAS["dev"])
    assert declared(EXTRAS["postgresql"]) <= development
    assert imported(paths) - imported(MODULES) == development - declared(EXTRAS["postgresql"]) - called - loaded


def test_no_two_test_files_have_one_name() -> None:
    """pytest collects a name once, whatever folder it is in: tests are no packages."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert len(names) == len(set(names)), sorted({name for name in names if names.count(name) > 1})


def test_the_version_is_one() -> None:
    assert PROJECT["project"]["version"] == relayproxy.__version__


def test_make_has_the_targets_that_are_promised() -> None:
    targets = set(re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text()))
    assert targets >= {"run", "test", "lint", "bench"}


def test_ci_can_be_run() -> None:
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
