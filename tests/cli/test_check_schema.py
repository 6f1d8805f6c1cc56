"""What `check` prints is a configuration again; what `schema` prints describes it, and the records."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from relayproxy.cli import main
from relayproxy.cli.config import load
from relayproxy.relay.settings import Guard
from relayproxy.tls.authority import Authority

if TYPE_CHECKING:
    from relayproxy.relay.settings import Config, Settings

ROOT = Path(__file__).resolve().parents[2]

FULL = r"""
hostname = "[IPv6:2001:db8::1]"
state = "/tmp/a \"b\" \\ ü"
drain = "1500ms"
[[listener]]
name = "a"
address = "[::]:0"
clients = ["10.0.0.0/8", "::1"]
tls = "implicit"
upstream = "x.y"
[[listener]]
name = "b"
address = "unix:/run/b.sock"
upstream = "keep"
[upstream."x.y"]
url = ["smtp://a.example", "smtp://192.0.2.1:26"]
ehlo = "client"
[upstream.local]
url = "smtp://127.0.0.1"
credentials = { user = "a \"b\"", password_file = "../secret" }
[upstream.tokens]
url = "smtp://[::1]"
[upstream.tokens.credentials]
user = "app"
token_command = "token --for 'a b'"
mechanism = "XOAUTH2"
[upstream.variable]
url = "smtp://mail.example"
credentials = { user = "app", password_env = "RELAYPROXY_PASSWORD", mechanism = "CRAM-MD5" }
[upstream.tls]
url = ["smtp+starttls://a.example", "smtps://b.example:26"]
verify = "ca"
[upstream.keep]
[tls]
minimum = "TLSv1.3"
keylog = "/tmp/keys.log"
[rules]
files = []
redirect_all = '"q {a} \" "@x.test'
seed = -1
[guard]
allow = ["*@münchen.test", '/@x\.test$/', "@\"\u007f", '"q {a} \" "@x.test']
otherwise = "capture"
[log]
file = "/var/log/relay.jsonl"
format = "text"
level = "debug"
[timeouts.upstream]
connect = "0.25s"
end_of_data = "1d"
[limits]
sessions = 7
message_bytes = "1000B"
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No ./relayproxy.toml but what a test writes."""
    monkeypatch.chdir(tmp_path)


def schema(what: str, capsys: pytest.CaptureFixture[str]) -> Any:
    assert main(["schema", what]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("text", ["", FULL], ids=["defaults", "everything"])
def test_what_check_prints_is_the_same_configuration_again(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("it.toml").write_text(text)
    assert main(["check", "it.toml"]) == 0
    printed = capsys.readouterr().out
    Path("again.toml").write_text(printed)
    first, again = load(Path("it.toml"), environ={}), load(Path("again.toml"), environ={})
    assert [one.upstream or next(iter(first.upstream)) for one in first.listener] == [
        one.upstream for one in again.listener
    ]
    assert again.model_copy(update={"listener": first.listener}) == first
    assert main(["check", "--config", "again.toml"]) == 0
    assert capsys.readouterr().out == printed


def test_check_shows_what_environment_makes_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RELAYPROXY_UPSTREAM", "smtp://smtp.example.com")
    assert main(["check"]) == 0
    assert tomllib.loads(capsys.readouterr().out)["upstream"] == {
        "default": {"url": ["smtp://smtp.example.com"], "ehlo": "own", "identity": "none"}
    }


@pytest.mark.parametrize("what", ["config", "rules", "record"])
def test_schemas_are_schemas(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = schema(what, capsys)
    jsonschema.Draft202012Validator.check_schema(made)
    assert (made["$schema"], made["$id"]) == (
        "https://json-schema.org/draft/2020-12/schema",
        f"urn:relayproxy:schema:{what}:1",
    )


@pytest.mark.parametrize("text", ["", FULL], ids=["defaults", "everything"])
def test_the_schema_takes_what_is_a_configuration(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = schema("config", capsys)
    jsonschema.validate(tomllib.loads(text), made)
    Path("it.toml").write_text(text)
    main(["check", "it.toml"])
    jsonschema.validate(tomllib.loads(capsys.readouterr().out), made)


@pytest.mark.parametrize(
    "text", ["drain = 30", "hostnam = 'x'", "listener = []", "[limits]\nerrors = 0", "[log]\nlevel = 'loud'"]
)
def test_the_schema_refuses_what_is_none(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tomllib.loads(text), schema("config", capsys))


def test_every_default_in_the_schema_is_as_one_writes_it(capsys: pytest.CaptureFixture[str]) -> None:
    made = schema("config", capsys)
    validator = jsonschema.Draft202012Validator(made)
    shown = 0
    for table in (made, *made["$defs"].values()):
        for key in table["properties"].values():
            if "default" in key and key["default"] is not None:
                validator.evolve(schema={**key, "$defs": made["$defs"]}).validate(key["default"])
                shown += 1
    assert shown > 30


def tables(config: Config) -> dict[str, Settings]:
    """By their headers in the example."""
    (upstream,) = config.upstream.values()
    return {
        "": config,
        "[listener]": config.listener[0],
        "upstream.provider": upstream,
        "tls": config.tls,
        "rules": config.rules,
        "guard": config.guard or Guard(),
        "record": config.record,
        "log": config.log,
        "timeouts.client": config.timeouts.client,
        "timeouts.upstream": config.timeouts.upstream,
        "limits": config.limits,
    }


def said_to_be_defaults(example: str) -> list[tuple[str, str]]:
    """Table and key of each setting that is switched off, with no other default in the words above it."""
    found, table, words = [], "", ""
    above = False
    for line in example.splitlines():
        if line.startswith("# "):
            words = words + line if above else line
            above = True
        elif header := re.fullmatch(r"#?\[(.+)\]", line):
            table = header[1]
        elif setting := re.match(r"(#?)([a-z_]+) = ", line):
            above = False
            if setting[1] and "Default: " not in words:
                found.append((table, setting[2]))
    assert len(found) > 40
    return found


def test_the_example_is_right_and_changes_nothing_that_it_shows_as_a_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    example = (ROOT / "deploy/example.toml").read_text()
    assert main(["check", str(ROOT / "deploy/example.toml")]) == 0
    capsys.readouterr()
    # With every commented-out setting switched on, it is still right, and knows each key there is.
    authority = Authority.open(Path("authority").absolute())
    certificate, key = authority.leaf(["relay.example.test"])
    for name in ("ca.pem", "clients.pem", "client.pem", "fullchain.pem"):
        Path(name).write_bytes(certificate.public_bytes(Encoding.PEM) + authority.certificate_pem)
    for name in ("client.key", "privkey.pem"):
        Path(name).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    Path("all.toml").write_text(re.sub(r"(?m)^#(?=[a-z_\[])", "", example))
    config, usual = load(Path("all.toml"), environ={}), load(environ={})
    other = {
        (table, key)
        for table, key in said_to_be_defaults(example)
        if getattr(tables(config)[table], key) != getattr(tables(usual)[table], key)
    }
    assert not other
    shown = tomllib.loads(Path("all.toml").read_text())
    keys = schema("config", capsys)
    assert set(shown) == set(keys["properties"])
    for table, name in ((shown["limits"], "Limits"), (shown["timeouts"]["client"], "ClientTimeouts"), (shown["log"], "Log"), (shown["record"], "Record"),
                        (shown["rules"], "Rules"), (shown["guard"], "Guard"),
                        (shown["timeouts"]["upstream"], "UpstreamTimeouts"), (shown["listener"][0], "Listener"), (shown["tls"], "Tls"),
                        (next(iter(shown["upstream"].values())), "Upstream")):  # fmt: skip
        assert set(table) == set(keys["$defs"][name]["properties"])
