"""Which store is read: the flag, else the environment, else the configuration, else the default; and from where its path counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from relayproxy.cli import Failed
from relayproxy.cli.store_url import store_url

WRITTEN = '[record]\nstore = "sqlite:mail.db"\n'


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_order(tmp_path: Path) -> None:
    environ = {"RELAYPROXY_STORE": "sqlite:environ.db"}
    assert store_url(None, None, {}) == "sqlite:relayproxy.db"
    Path("relayproxy.toml").write_text(WRITTEN)
    assert store_url(None, None, {}) == f"sqlite:{tmp_path}/mail.db"
    assert store_url(None, None, environ) == "sqlite:environ.db"
    assert store_url("sqlite:flag.db", None, environ) == "sqlite:flag.db"


def test_a_path_counts_from_the_configuration_s_folder(tmp_path: Path) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    config = folder / "x.toml"
    config.write_text(WRITTEN)
    assert store_url(None, Path("etc/x.toml"), {}) == f"sqlite:{folder}/mail.db"
    assert store_url(None, None, {"RELAYPROXY_CONFIG": "etc/x.toml"}) == f"sqlite:{folder}/mail.db"
    config.write_text('[record]\nstore = "sqlite:/var/mail.db"\n')
    assert store_url(None, config, {}) == "sqlite:/var/mail.db"
    config.write_text("[log]\n")
    assert store_url(None, config, {}) == f"sqlite:{folder}/relayproxy.db"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x", "x.toml: expected TOML"),
        ("record = 1", "x.toml: record.store: expected a text such as sqlite:relayproxy.db, got something else"),
        ('[record]\nstore = ["postgresql://u:hunter2@h/db"]', "got something else"),
    ],
)
def test_what_is_wrong_with_it_is_told(text: str, said: str) -> None:
    Path("x.toml").write_text(text)
    with pytest.raises(Failed, match=said):
        store_url(None, Path("x.toml"), {})


def test_a_configuration_that_is_not_there() -> None:
    with pytest.raises(Failed, match=r"none\.toml: cannot be read: No such file or directory"):
        store_url(None, Path("none.toml"), {})
