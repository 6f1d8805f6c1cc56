"""Files, environment and flags; and that everything which is wrong with them is told, in one go, with its place."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from relayproxy.cli.config import ConfigError, Flags, load
from relayproxy.cli.config_rules import guarded
from relayproxy.tls.authority import Authority

if TYPE_CHECKING:
    from relayproxy.relay.settings import Config, Upstream

TLS_UPSTREAM = '[upstream.a]\nurl = ["smtp+starttls://x", "smtps://y"]\n'
REMOTE = '[upstream.provider]\nurl = "smtp://smtp.example.com:587"\n'


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No ./relayproxy.toml but what a test writes."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(text: str, flags: Flags | None = None, **environ: str) -> Config:
    Path("it.toml").write_text(text)
    return load(Path("it.toml"), flags, environ)


def wrong(text: str, flags: Flags | None = None, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text, flags, **environ)
    return list(caught.value.lines)


def urls(upstream: Upstream) -> list[str]:
    return [url.short for url in upstream.url]


@pytest.mark.parametrize(
    ("given", "state"), [("/var/state", "/var/state"), ("state", "~/.local/state"), ("", "~/.local/state")]
)
def test_the_state_folder_is_where_such_folders_are(given: str, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", given)
    assert load(environ={}).state == Path(state).expanduser() / "relayproxy"


def test_nothing_at_all_is_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    config = load(environ={})
    assert [(one.name, str(one.address), one.clients) for one in config.listener] == [
        ("default", "127.0.0.1:2525", None)
    ]
    assert {name: urls(upstream) for name, upstream in config.upstream.items()} == {"capture": ["capture:"]}
    assert (config.trace, config.drain, config.log.file, config.log.format) == (True, 30.0, None, None)
    assert config.state == Path("~/.local/state/relayproxy").expanduser()
    assert config.listener[0].tls == "starttls"
    assert (config.tls.certificate, config.tls.client_ca, config.tls.minimum, config.tls.keylog) == (
        None,
        None,
        "TLSv1.2",
        None,
    )
    assert (config.timeouts.upstream.end_of_data, config.limits.message_bytes) == (600.0, 100 << 20)


def test_every_key_of_a_file() -> None:
    config = read("""
        hostname = "relay.example.test"
        state = "state"
        trace = false
        drain = "1m"
        [[listener]]
        name = "submission"
        address = "[::]:2525"
        upstream = "provider"
        clients = ["10.0.0.0/8", "::1"]
        [[listener]]
        name = "local"
        address = "unix:/run/relay.sock"
        upstream = "keep"
        [upstream.provider]
        url = ["smtp://smtp.example.com:587", "smtp://[2001:db8::1]"]
        ehlo = "client"
        identity = "xforward"
        [upstream.keep]
        url = "capture:"
        [log]
        file = "log/relay.jsonl"
        format = "text"
        level = "debug"
        [timeouts.client]
        command = "90s"
        [timeouts.upstream]
        end_of_data = "20m"
        [limits]
        sessions = 5
        message_bytes = "1GiB"
    """)
    here = Path.cwd()
    assert (config.hostname, config.state, config.trace, config.drain) == (
        "relay.example.test",
        here / "state",
        False,
        60.0,
    )
    assert config.listener[0].clients == (ip_network("10.0.0.0/8"), ip_network("::1"))
    assert [one.upstream for one in config.listener] == ["provider", "keep"]
    assert urls(config.upstream["provider"]) == ["smtp://smtp.example.com:587", "smtp://[2001:db8::1]"]
    assert (config.upstream["provider"].ehlo, config.upstream["provider"].identity) == ("client", "xforward")
    assert (config.log.file, config.log.format, config.log.level) == (here / "log/relay.jsonl", "text", "debug")
    assert (config.timeouts.client.command, config.timeouts.upstream.end_of_data) == (90.0, 1200.0)
    assert (config.limits.sessions, config.limits.message_bytes) == (5, 1 << 30)


def test_paths_in_a_file_are_relative_to_it_others_to_the_working_directory(elsewhere: Path) -> None:
    folder = elsewhere / "etc"
    folder.mkdir()
    (folder / "relay.toml").write_text('state = "s"\n[log]\nfile = "l"\n')
    assert load(folder / "relay.toml", environ={}).state == folder / "s"
    assert load(folder / "relay.toml", environ={}).log.file == folder / "l"
    assert load(folder / "relay.toml", Flags(log="l"), {}).log.file == elsewhere / "l"


def pem(name: str) -> None:
    """A certificate of its own, and in the file of that name with .key behind it its key."""
    authority = Authority.open(Path(f"{name}.state").absolute())
    certificate, key = authority.leaf(["relay.test"])
    Path(name).write_bytes(certificate.public_bytes(Encoding.PEM) + authority.certificate_pem)
    Path(f"{name}.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def test_tls() -> None:
    for name in ("server", "ours", "theirs"):
        pem(name)
    config = read(f"""
        [[listener]]
        tls = "implicit"
        [tls]
        certificate = "server"
        key = "server.key"
        client_ca = "theirs"
        minimum = "TLSv1.3"
        keylog = "keys.log"
        [upstream.a]
        url = "smtps://smtp.example.com"
        verify = "pin:sha256:{"aB" * 32}"
        certificate = "ours"
        key = "ours.key"
        [timeouts.client]
        handshake = "10s"
        [timeouts.upstream]
        handshake = "20s"
    """)
    here = Path.cwd()
    assert config.listener[0].tls == "implicit"
    assert (config.tls.certificate, config.tls.key, config.tls.client_ca) == (
        here / "server",
        here / "server.key",
        here / "theirs",
    )
    assert (config.tls.minimum, config.tls.keylog) == ("TLSv1.3", here / "keys.log")
    upstream = config.upstream["a"]
    assert (upstream.verify, upstream.certificate, upstream.key) == (
        f"pin:sha256:{'ab' * 32}",
        here / "ours",
        here / "ours.key",
    )
    assert (config.timeouts.client.handshake, config.timeouts.upstream.handshake) == (10, 20)
    assert not Path("keys.log").exists(), "reading a configuration leaves no trace"


def test_files_of_certificates_that_are_not_what_they_should_be_are_told_at_once() -> None:
    pem("good")
    pem("other")
    Path("text").write_text("no certificate")
    here = Path.cwd()
    assert wrong(
        """[tls]
certificate = "missing"
key = "good"
client_ca = "text"
[upstream.a]
url = "smtps://x"
ca = "missing"
[upstream.b]
url = "smtps://y"
certificate = "good"
key = "other.key"
[[listener]]
upstream = "a"
"""
    ) == [
        f"it.toml:2: tls.certificate: {here}/missing: cannot be read: No such file or directory",
        f"it.toml:3: tls.key: {here}/good: expected a private key in PEM, got a certificate, or a damaged one",
        f"it.toml:4: tls.client_ca: {here}/text: expected certificates in PEM, got something else",
        f"it.toml:7: upstream.a.ca: {here}/missing: cannot be read: No such file or directory",
        f"it.toml:11: upstream.b.key: {here}/other.key: expected the key of the certificate in {here}/good, got another key",
    ]


def test_where_the_file_is_found(elsewhere: Path) -> None:
    (elsewhere / "relayproxy.toml").write_text('drain = "1s"')
    (elsewhere / "other.toml").write_text('drain = "2s"')
    (elsewhere / "third.toml").write_text('drain = "3s"')
    other = {"RELAYPROXY_CONFIG": "other.toml"}
    assert load(environ={}).drain == 1
    assert load(environ=other).drain == 2
    assert load(Path("third.toml"), environ=other).drain == 3


@pytest.mark.parametrize(
    ("flags", "environ", "listen"),
    [
        (Flags(), {}, ["127.0.0.1:1"]),
        (Flags(), {"RELAYPROXY_LISTEN": "127.0.0.1:2, unix:/run/x"}, ["127.0.0.1:2", "unix:/run/x"]),
        (Flags(listen=("127.0.0.1:3",)), {"RELAYPROXY_LISTEN": "127.0.0.1:2,unix:/run/x"}, ["127.0.0.1:3"]),
    ],
)
def test_flags_replace_environment_which_replaces_the_file(
    flags: Flags, environ: dict[str, str], listen: list[str]
) -> None:
    config = read('[[listener]]\naddress = "127.0.0.1:1"\n', flags, **environ)
    assert [str(one.address) for one in config.listener] == listen
    assert len({one.name for one in config.listener}) == len(listen)


def test_an_upstream_on_the_command_line_is_the_only_one_of_all_listeners() -> None:
    config = read(
        REMOTE
        + '[upstream.second]\n[[listener]]\nname="a"\nupstream = "provider"\n[[listener]]\nname="b"\nupstream="second"',
        Flags(upstream="smtp://127.0.0.1:2526"),
    )
    assert {name: urls(upstream) for name, upstream in config.upstream.items()} == {
        "default": ["smtp://127.0.0.1:2526"]
    }
    assert [one.upstream for one in config.listener] == [None, None]


GUARDED = "[guard]\nallow = ['*@file.test']\notherwise = 'capture'\n"


@pytest.mark.parametrize(
    ("text", "flags", "environ", "allow"),
    [
        ("", Flags(), {}, None),
        ("[guard]", Flags(), {}, ()),
        (GUARDED, Flags(), {}, ("*@file.test",)),
        (GUARDED, Flags(allow=("a@x.test", "b@x.test")), {}, ("a@x.test", "b@x.test")),
        (GUARDED, Flags(), {"RELAYPROXY_ALLOW": "a@x.test, b@x.test"}, ("a@x.test", "b@x.test")),
        (GUARDED, Flags(), {"RELAYPROXY_ALLOW": ""}, ()),
        (GUARDED, Flags(redirect_all="qa@x.test"), {}, ("qa@x.test",)),
        ("", Flags(), {"RELAYPROXY_REDIRECT_ALL": "qa@x.test"}, ("qa@x.test",)),
        (GUARDED, Flags(redirect_all="qa@x.test", allow=("*@x.test",)), {}, ("*@x.test",)),
        (GUARDED, Flags(redirect_all="qa@x.test"), {"RELAYPROXY_ALLOW": "*@x.test"}, ("*@x.test",)),
        (GUARDED, Flags(allow=("*@x.test",)), {"RELAYPROXY_REDIRECT_ALL": "qa@x.test"}, ("*@x.test",)),
        ("[rules]\nredirect_all = 'qa@x.test'", Flags(), {}, ("qa@x.test",)),
        (GUARDED + "[rules]\nredirect_all = 'qa@file.test'", Flags(), {}, ("*@file.test",)),
    ],
)
def test_whom_the_guard_allows(text: str, flags: Flags, environ: dict[str, str], allow: tuple[str, ...] | None) -> None:
    guard = read(text, flags, **environ).guard
    assert (None if guard is None else guard.allow) == allow
    assert guard is None or guard.otherwise == ("capture" if text.startswith(GUARDED) else "refuse")


def test_rules_are_files_beside_the_configuration_or_come_with_it(elsewhere: Path) -> None:
    (elsewhere / "etc").mkdir()
    for name in ("etc/a", "a", "c", "d"):
        (elsewhere / f"{name}.toml").write_text("")
    shipped, absolute = "relayproxy:staging-redirect", elsewhere / "c.toml"
    Path("etc/it.toml").write_text(f"[rules]\nfiles = ['a.toml', '{shipped}', '{absolute}']\nseed = 7\n")
    rules = load(Path("etc/it.toml"), environ={}).rules
    assert rules.files == (elsewhere / "etc/a.toml", shipped, absolute)
    assert rules.seed == 7
    environ = {"RELAYPROXY_RULES": f"a.toml, {shipped}"}
    assert load(Path("etc/it.toml"), environ=environ).rules.files == (elsewhere / "a.toml", shipped)
    assert load(Path("etc/it.toml"), Flags(rules=("d.toml",)), environ).rules.files == (elsewhere / "d.toml",)


def test_what_is_wrong_with_rules_is_told_with_what_is_wrong_beside_them() -> None:
    Path("rules.toml").write_text("[[rule]]\nthn = 1\n")
    here = Path.cwd()
    assert wrong('[rules]\nfiles = ["rules.toml", "none.toml"]\n[tls]\nclient_ca = "missing"\n') == [
        f"it.toml:4: tls.client_ca: {here}/missing: cannot be read: No such file or directory",
        f"{here}/rules.toml:1: rule[0]: expected the key then, which is missing",
        f"{here}/rules.toml:2: rule[0].thn: unknown key; the nearest known is then",
        f"{here}/none.toml: cannot be read: No such file or directory",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", None),
        ("[guard]", "guard: mail may go to nobody; what is for others is refused (550)"),
        (GUARDED, "guard: mail may go to *@file.test; what is for others is captured"),
        (
            GUARDED + "[rules]\nredirect_all = 'qa@file.test'",
            "guard: mail may go to *@file.test; what is for others is sent to qa@file.test",
        ),
    ],
)
def test_who_is_guarded_in_words(text: str, said: str | None) -> None:
    assert guarded(read(text)) == said


def test_what_is_captured_is_recorded_under_the_name_capture() -> None:
    assert list(read(REMOTE, Flags(upstream="capture:")).upstream) == ["capture"]


def test_clients_are_those_of_all_listeners() -> None:
    config = read("", Flags(listen=("0.0.0.0:0", "[::]:0"), clients=("10.0.0.0/8",)), RELAYPROXY_CLIENTS="::1")
    assert [one.clients for one in config.listener] == [(ip_network("10.0.0.0/8"),)] * 2
    assert read("", RELAYPROXY_CLIENTS="::1, 10.0.0.1").listener[0].clients == (
        ip_network("::1"),
        ip_network("10.0.0.1"),
    )


def test_the_log_of_flags_and_environment() -> None:
    log = read('[log]\nlevel = "debug"', Flags(log="-"), RELAYPROXY_LOG="x", RELAYPROXY_LOG_FORMAT="text").log
    assert (log.file, log.format, log.level) == (None, "text", "debug")


# Each wrong line alone: (file, the one error).
WRONG = [
    ('hostnam = "x"', "it.toml:1: hostnam: unknown key; the nearest known is hostname"),
    (
        "\n[replay]\nmode = 1",
        "it.toml:2: replay: unknown key; known are drain, guard, hostname, limits, listener, log, record, rules, state, timeouts, tls, trace, upstream",
    ),
    ('[[listener]]\n\ncolour = "off"', "it.toml:3: listener[0].colour: unknown key; known are address, auth, auth_in_clear, clients, line_endings, name, proxy_protocol, tls, upstream"),
    ('[[listener]]\ntls = "startls"', "it.toml:2: listener[0].tls: expected 'off', 'starttls' or 'implicit', got 'startls'"),
    ('[timeouts.upstream]\nend_of_date = "1m"', "it.toml:2: timeouts.upstream.end_of_date: unknown key; the nearest known is end_of_data"),
    ("[limits]\nrecipient = 3", "it.toml:2: limits.recipient: unknown key; the nearest known is recipients"),
    ('[upstream.a]\nurls = "x"', "it.toml:2: upstream.a.urls: unknown key; the nearest known is url"),
    ('drain = "30"', "it.toml:1: drain: expected a duration such as \"30s\", \"5m\", \"14d\", got '30'"),
    ("drain = 30", 'it.toml:1: drain: expected a duration such as "30s", "5m", "14d", got 30'),
    ('[limits]\nmessage_bytes = "1MB"', "it.toml:2: limits.message_bytes: expected a size such as \"10KiB\", \"100MiB\", got '1MB'"),
    ("[limits]\nsessions = 0", "it.toml:2: limits.sessions: expected an integer of at least 1, got 0"),
    ('[limits]\nsessions = "5"', "it.toml:2: limits.sessions: expected an integer, got '5'"),
    ("trace = 1", "it.toml:1: trace: expected true or false, got 1"),
    ('hostname = "relay_ä.test"', "it.toml:1: hostname: expected a host name in ASCII such as \"relay.example.test\", or an address such as \"[192.0.2.1]\", got 'relay_ä.test'"),
    ("state = 5", "it.toml:1: state: expected a path, got 5"),
    ('[log]\nformat = "yaml"', "it.toml:2: log.format: expected 'json' or 'text', got 'yaml'"),
    ('listener = "x"', "it.toml:1: listener: expected a list, got 'x'"),
    ("listener = []", "it.toml:1: listener: expected at least one"),
    ("[listener]\nname = 'x'", "it.toml:1: listener: expected a list, got a table"),
    ('[[listener]]\naddress = "localhost"', "it.toml:2: listener[0].address: expected host:port, [v6]:port, unix:/path or fd:NAME, got 'localhost'"),
    ('[[listener]]\nname = "a b"', "it.toml:2: listener[0].name: expected a name of at most 64 letters, digits, dots, hyphens and underscores, got 'a b'"),
    ('[[listener]]\naddress = "0.0.0.0:25"', "it.toml:2: listener[0].address: expected clients beside it (who may connect), as 0.0.0.0:25 is not loopback"),
    ('[[listener]]\nproxy_protocol = ["127.0.0.1"]', "it.toml:2: listener[0].proxy_protocol: expected clients beside it (who may connect), as the addresses that it tells are not loopback"),
    ('[[listener]]\naddress = "fd:submission"', "it.toml:2: listener[0].address: expected clients beside it (who may connect), as fd:submission is not loopback"),
    ('[[listener]]\nclients = [\n"::1",\n"10.0.0.1/8",\n]', "it.toml:4: listener[0].clients[1]: expected an address or a network such as \"127.0.0.0/8\", \"::1\", got '10.0.0.1/8'"),
    ('[[listener]]\n[[listener]]\naddress="unix:/a"', "it.toml:2: listener[1].name: expected a name of its own, got 'default' again"),
    (REMOTE + '[[listener]]\nupstream = "provide"', "it.toml:4: listener[0].upstream: expected the name of an upstream, got 'provide'; the nearest known is provider"),
    (REMOTE + "[upstream.b]\n[[listener]]\n", "it.toml:4: listener[0].upstream: expected the name of an upstream, as there is more than one; known are b, provider"),
    ("upstream = {}", "it.toml:1: upstream: expected at least one"),
    ("[upstream.'a b']", "it.toml:1: upstream.a b: expected a name of at most 64 letters, digits, dots, hyphens and underscores, got 'a b'"),
    ("[upstream.a]\nurl = 25", "it.toml:2: upstream.a.url: expected a url, or a list of them, got 25"),
    ("[upstream.a]\nurl = []", "it.toml:2: upstream.a.url: expected at least one, got a list"),
    ('[upstream.a]\nurl = "imaps://x"', "it.toml:2: upstream.a.url[0]: expected smtp://, smtp+starttls://, smtps:// or lmtp://, then host[:port] or [v6][:port]; or lmtp+unix:/path, or capture:, got the scheme 'imaps'"),
    ('[upstream.a]\nurl = [\n"smtp://x",\n"capture:"]', "it.toml:2: upstream.a.url: expected capture: alone: it never fails over, and a message that it kept has not gone on, got a list"),
    ('[upstream.a]\nurl = ["smtp://x", "smtps://y"]', "it.toml:2: upstream.a.url: expected urls that all ask for TLS, or none that does: a failover would go on in clear"),
    ('[upstream.a]\nurl = [\n"smtps://y",\n"imaps://x"]', "it.toml:4: upstream.a.url[1]: expected smtp://, smtp+starttls://, smtps:// or lmtp://, then host[:port] or [v6][:port]; or lmtp+unix:/path, or capture:, got the scheme 'imaps'"),
    ('[upstream.a]\nidentity = "xclient"', "it.toml:2: upstream.a.identity: expected a server's url beside it, as capture: is told by the record who the client is"),
    ('[upstream.a]\nurl = "smtp://[::1]"\nidentity = "proxy"', "it.toml:3: upstream.a.identity: expected 'none', 'xclient', 'xforward', 'proxy-v1' or 'proxy-v2', got 'proxy'"),
    ('[upstream.a]\nurl = "smtp://[::1]"\ncredentials = "hunter2"', "it.toml:3: upstream.a.credentials: expected a table, got something else"),
    ('[upstream.a]\nurl = "smtp://[::1]"\ncredentials = { user = "", password_env = "P" }', "it.toml:3: upstream.a.credentials.user: expected a user's name without control characters, got something else"),
    ('[upstream.a]\nurl = "smtp://[::1]"\ncredentials = { user = "a", password = "hunter2", password_env = "P" }', "it.toml:3: upstream.a.credentials.password: unknown key; the nearest known is password_env or password_file"),
    ('[upstream.a]\nurl = "smtp://[::1]"\ncredentials = { user = "a", password_env = "hunter 2" }', "it.toml:3: upstream.a.credentials.password_env: expected the name of a variable, got something else"),
    ('[upstream.a]\nurl = "smtp://[::1]"\ncredentials = { user = "a", token_command = "hunter\'" }', 'it.toml:3: upstream.a.credentials.token_command: expected a command such as "oauth2-token --user app", or a list of its words, got something else'),
    ('[upstream.a]\nurl = "smtp://[::1]"\ncredentials = { user = "a" }', "it.toml:3: upstream.a.credentials: expected one of password_file, password_env, token_command, got none"),
    ('[upstream.a]\nurl = "smtp://[::1]"\ncredentials = { user = "a", password_env = "P", password_file = "p" }', "it.toml:3: upstream.a.credentials: expected one of password_file, password_env, token_command, got password_file and password_env"),
    ('[upstream.a]\nurl = "smtp://[::1]"\ncredentials = { user = "a", password_env = "P", mechanism = "XOAUTH2" }', "it.toml:3: upstream.a.credentials: expected token_command, as XOAUTH2 shows a token and no password"),
    ('[upstream.a]\nurl = "smtp://[::1]"\ncredentials = { user = "a", token_command = "p", mechanism = "PLAIN" }', 'it.toml:3: upstream.a.credentials: expected mechanism = "XOAUTH2" or none, as token_command gives a token and no password'),
    ('[upstream.a]\ncredentials = { user = "a", password_env = "P" }', "it.toml:2: upstream.a.credentials: expected a server's url beside it, as capture: asks nobody who it is"),
    ('[upstream.a]\nurl = ["smtp://localhost", "smtp://mail.example"]\ncredentials = { user = "a", password_env = "P" }', 'it.toml:3: upstream.a.credentials: expected a url beside it that asks for TLS, or mechanism = "SCRAM-SHA-256" or mechanism = "CRAM-MD5": others could hear the secret on its way to mail.example'),
    ('[upstream.a]\nurl = ["lmtp+unix:/run/lmtp", "lmtp://mail.example"]\ncredentials = { user = "a", password_env = "P" }', 'it.toml:3: upstream.a.credentials: expected a url beside it that asks for TLS, or mechanism = "SCRAM-SHA-256" or mechanism = "CRAM-MD5": others could hear the secret on its way to mail.example'),
    ('[upstream.a]\nurl = "smtp://[::1]"\ncredentials = { user = "a", password_env = "P" }\n[[listener]]\nauth = "pass"', 'it.toml:5: listener[0].auth: expected "any" or "off", as its upstream has credentials of its own'),
    ('[[listener]]\nauth = "pass"\n[upstream.a]\nurl = "capture:"', 'it.toml:2: listener[0].auth: expected "any" or "off", as capture: has nobody to ask'),
    (TLS_UPSTREAM + 'verify = "pin:sha256:00"', "it.toml:3: upstream.a.verify: expected full, ca, none, or pin:sha256: and the 64 hexadecimal digits of the certificate's digest, got 'pin:sha256:00'"),
    (TLS_UPSTREAM + 'key = "k"', "it.toml:3: upstream.a.key: expected certificate beside it"),
    (TLS_UPSTREAM + 'certificate = "c"', "it.toml:3: upstream.a.certificate: expected key beside it"),
    (TLS_UPSTREAM + 'verify = "none"\nca = "c"', "it.toml:4: upstream.a.ca: expected verify = \"full\" or \"ca\" beside it, as 'none' asks no CA"),
    ('[upstream.a]\nurl = "smtp://x"\nverify = "full"', "it.toml:3: upstream.a.verify: expected a url beside it that asks for TLS, smtp+starttls:// or smtps://"),
    ('[upstream.a]\nca = "c"', "it.toml:2: upstream.a.ca: expected a url beside it that asks for TLS, smtp+starttls:// or smtps://"),
    ('[tls]\ncertificate = "c"', "it.toml:2: tls.certificate: expected key beside it"),
    ('[tls]\nclient_ca = "c"\n[[listener]]\ntls = "off"', 'it.toml:2: tls.client_ca: expected a listener with tls = "starttls" or "implicit", as all are "off"'),
    ('[tls]\nminimum = "SSLv3"', "it.toml:2: tls.minimum: expected 'TLSv1.2' or 'TLSv1.3', got 'SSLv3'"),
    ("[rules]\nfiles = 'x'", "it.toml:2: rules.files: expected a list, got 'x'"),
    ("[rules]\nfiles = [\n'x',\n5]", "it.toml:4: rules.files[1]: expected a path, got 5"),
    ("[rules]\nfiles = ['relayproxy:../x']", "it.toml:2: rules.files[0]: expected relayproxy: and the name of rules that come with it, such as relayproxy:staging-redirect, got 'relayproxy:../x'"),
    ("[rules]\nseed = '1'", "it.toml:2: rules.seed: expected an integer, got '1'"),
    ("[rules]\nredirect_all = 'qa'", "it.toml:2: rules.redirect_all: expected an address such as qa@example.test, without * and ?, got 'qa'"),
    ("[rules]\nredirect_all = '@a:qa@x.test'", "it.toml:2: rules.redirect_all: expected an address such as qa@example.test, without * and ?, got '@a:qa@x.test'"),
    ("[rules]\nredirect_all = '*@x.test'", "it.toml:2: rules.redirect_all: expected an address such as qa@example.test, without * and ?, got '*@x.test'"),
    ("[rules]\nredirect_all = 'qa@x.test'\n[guard]\nallow = ['*@y.test']", "it.toml:2: rules.redirect_all: expected an address that the guard allows (*@y.test), got 'qa@x.test'"),
    ("guard = false", "it.toml:1: guard: expected a table, got false"),
    ("[guard]\nallow = '*'", "it.toml:2: guard.allow: expected a list, got '*'"),
    ("[guard]\nallow = [\n'*@x.test',\n'']", "it.toml:4: guard.allow[1]: expected an address, or a pattern such as *@example.test, got ''"),
    ("[guard]\nallow = ['/[/']", "it.toml:2: guard.allow[0]: expected a regular expression (RE2) between the slashes: missing ]: [, got '/[/'"),
    ("[guard]\nallow = [{ in = 'x' }]", "it.toml:2: guard.allow[0]: expected a string, got a table"),
    ("[guard]\notherwise = 'hold'", "it.toml:2: guard.otherwise: expected 'refuse' or 'capture', got 'hold'"),
    ("[upstream.a]\nurl = 'smtp://x'\n[record]\nstore = 'none'\n[guard]\notherwise = 'capture'", 'it.toml:6: guard.otherwise: expected "refuse", or a store beside it that keeps what others would get, as store is "none"'),
    ("a = 1\ndrain = \n", "it.toml:2: expected TOML, at column 9: Invalid value"),
    ("list = [\n", "it.toml: expected TOML, at its end: Invalid value"),
    ("a = 1\na = 2\n", "it.toml:2: expected TOML, at column 6: Cannot overwrite a value"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line"), WRONG)
def test_each_mistake_is_told_with_its_place_and_what_was_expected(text: str, line: str) -> None:
    assert wrong(text) == [line]


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    mistakes = [
        ('drain = "x"', 1),
        ("[[listener]]", None),
        ('adress = "x"', 3),
        ('upstream = "nobody"', 4),
        ("[limits]", None),
        ("errors = 0", 6),
        ("[log]", None),
        ('level = "loud"', 8),
    ]
    lines = wrong("\n".join(text for text, _ in mistakes))
    assert [line.split(":")[1] for line in lines] == [str(number) for _, number in mistakes if number]


@pytest.mark.parametrize(
    ("flags", "environ", "line"),
    [
        (Flags(listen=("x",)), {}, "--listen: expected host:port, [v6]:port, unix:/path or fd:NAME, got 'x'"),
        (Flags(listen=("[::]:25",)), {}, "--listen: expected clients beside it (who may connect), as [::]:25 is not loopback"),
        (Flags(clients=("any",)), {}, "--clients: expected an address or a network such as \"127.0.0.0/8\", \"::1\", got 'any'"),
        (Flags(upstream="x"), {}, "--upstream: expected smtp://, smtp+starttls://, smtps:// or lmtp://, then host[:port] or [v6][:port]; or lmtp+unix:/path, or capture:, got 'x'"),
        (Flags(log_format="yaml"), {}, "--log-format: expected 'json' or 'text', got 'yaml'"),
        (Flags(), {"RELAYPROXY_UPSTREAM": "x"}, "RELAYPROXY_UPSTREAM: expected smtp://, smtp+starttls://, smtps:// or lmtp://, then host[:port] or [v6][:port]; or lmtp+unix:/path, or capture:, got 'x'"),
        (Flags(redirect_all="qa"), {}, "--redirect-all: expected an address such as qa@example.test, without * and ?, got 'qa'"),
        (Flags(redirect_all="qa@x.test", allow=("*@y.test",)), {}, "--redirect-all: expected an address that the guard allows (*@y.test), got 'qa@x.test'"),
        (Flags(allow=("*@x.test", "/[/")), {}, "--allow: expected a regular expression (RE2) between the slashes: missing ]: [, got '/[/'"),
        (Flags(), {"RELAYPROXY_RULES": "relayproxy:"}, "RELAYPROXY_RULES: expected relayproxy: and the name of rules that come with it, such as relayproxy:staging-redirect, got 'relayproxy:'"),
        (Flags(), {"RELAYPROXY_LISTEN": ","}, "RELAYPROXY_LISTEN: expected at least one"),
        (Flags(), {"RELAYPROXY_UPSTREM": "x"}, "RELAYPROXY_UPSTREM: unknown variable; the nearest known is RELAYPROXY_UPSTREAM"),
    ],
)  # fmt: skip
def test_mistakes_in_flags_and_variables_are_told_under_their_names(
    flags: Flags, environ: dict[str, str], line: str
) -> None:
    assert wrong("", flags, **environ) == [line]


def test_a_flag_mends_nothing_that_is_no_table() -> None:
    assert wrong('listener = "x"', Flags(clients=("::1",))) == ["it.toml:1: listener: expected a list, got 'x'"]


def test_a_variable_of_a_flag_that_is_not_built_is_no_silent_wish() -> None:
    assert wrong("", RELAYPROXY_INSPECT="127.0.0.1:1")[0].startswith("RELAYPROXY_INSPECT: unknown variable")


def test_variables_that_kubernetes_gives_beside_a_service_of_our_name_are_none_of_ours() -> None:
    kept = read(
        "", RELAYPROXY_SERVICE_HOST="10.0.0.1", RELAYPROXY_PORT="tcp://10.0.0.1:25", RELAYPROXY_PORT_25_TCP_PROTO="tcp"
    )
    assert kept == read("")


@pytest.mark.parametrize(
    "name", ["RELAYPROXY_PORT", "RELAYPROXY_SERVICE_X", "RELAYPROXY_INTEROP_X", "RELAYPROXY_PORT_X"]
)
def test_others_that_are_like_them_are_mistakes(name: str) -> None:
    assert wrong("", None, **{name: "25"})[0].startswith(f"{name}: unknown variable")


def test_a_secret_in_a_url_is_not_quoted() -> None:
    (line,) = wrong('[upstream.a]\nurl = "smtp://user:hunter2@smtp.example.com"')
    assert "hunter2" not in line


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_file_that_cannot_be_read(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name}: cannot be read: "):
        load(Path(name), environ={})


def test_a_file_that_is_no_text() -> None:
    Path("it.toml").write_bytes(b'a = 1\nb = "\xff"')
    with pytest.raises(ConfigError, match=r"it.toml:2: expected UTF-8, found the byte 0xff"):
        load(Path("it.toml"), environ={})


def test_a_file_that_is_nested_too_deep() -> None:
    assert wrong("[rules]\nfiles = " + "[" * 3000 + "]" * 3000) == ["it.toml: expected TOML that is nested less deep"]
