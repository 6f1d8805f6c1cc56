"""`relayproxy check` of rules: their stages, the gates, their own tests, and what is doubtful."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest
from outputs import unread

from relayproxy.cli import main
from relayproxy.cli.config import load
from relayproxy.rules.load import shipped

ROOT = Path(__file__).resolve().parents[2]
REDIRECT = """
[[rule]]
name = "to QA"
when = { not = { recipient = "*@example.test" } }
then = [{ rewrite_recipient = "qa@example.test" }]
[[test]]
name = "a customer"
given = { recipients = ["jane@customer.example"] }
expect = { recipients = ["qa@example.test"] }
[[test]]
name = "a colleague"
given = { recipients = ["joe@example.test"] }
expect = { recipients = ["joe@example.test"], rules = [] }
"""
TAGS = """
[[rule]]
name = "tag"
when = { header.Subject = "*invoice*" }
then = [{ tag = "invoice" }, { hold = "look" }]
[[test]]
name = "an invoice"
given = { message = "Subject: Your invoice\\n\\nhello\\n" }
expect = { tags = ["invoice"], held = "look", recipients = ["recipient@example.com"] }
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No ./relayproxy.toml but what a test writes."""
    monkeypatch.chdir(tmp_path)
    Path("redirect.toml").write_text(REDIRECT)
    Path("tags.toml").write_text(TAGS)


def check(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str], list[str]]:
    status = main(["check", *arguments])
    out, err = capsys.readouterr()
    return status, out.splitlines(), err.splitlines()


def test_files_of_rules_by_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    assert check("redirect.toml", "tags.toml", capsys=capsys) == (
        0,
        [
            "rcpt    to QA (redirect.toml:2): it reads recipient",
            "eoh     tag (tags.toml:2): it reads header.subject",
            "MAIL and RCPT leave as they come",
            "DATA leaves at the end of the header section: tag",
            "the final dot leaves as it comes",
            "tests of the rules: 3, failed: 0",
        ],
        [],
    )


def test_rules_of_a_configuration_are_told_in_comments_behind_it(capsys: pytest.CaptureFixture[str]) -> None:
    Path("it.toml").write_text("[rules]\nfiles = ['redirect.toml']\n[guard]\nallow = ['*@example.test']\n")
    here = Path.cwd()
    status, out, err = check("it.toml", capsys=capsys)
    assert (status, err) == (0, [])
    assert out[-6:] == [
        "# guard: mail may go to *@example.test; what is for others is refused (550)",
        f"# rcpt    to QA ({here}/redirect.toml:2): it reads recipient",
        "# MAIL and RCPT leave as they come",
        "# DATA leaves as it comes",
        "# the final dot leaves as it comes",
        "# tests of the rules: 2, failed: 0",
    ]
    assert tomllib.loads("\n".join(out))["rules"]["files"] == [f"{here}/redirect.toml"]


def test_the_flags_are_those_of_run(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--rules", "tags.toml", "--redirect-all", "qa@example.test", "--allow", "*@example.test")
    status, out, err = check(*flags, capsys=capsys)
    assert (status, err) == (0, [])
    said = [line.removeprefix("# ").partition(" (")[0] for line in out if line.startswith("# ")]
    assert [line for line in said if line.startswith(("guard:", "rcpt", "eoh"))] == [
        "guard: mail may go to *@example.test; what is for others is sent to qa@example.test",
        "eoh     tag",
        "rcpt    redirect-all",
        "eoh     redirect-all: header",
        "eoh     redirect-all: answers",
    ]
    Path("again.toml").write_text("\n".join(out))
    again = load(Path("again.toml"), environ={})
    assert again.rules.redirect_all == "qa@example.test"
    assert again.guard is not None
    assert again.guard.allow == ("*@example.test",)


def test_a_configuration_and_rules_are_both_checked(capsys: pytest.CaptureFixture[str]) -> None:
    Path("it.toml").write_text("drain = '1s'\n")
    status, out, _ = check("it.toml", "redirect.toml", capsys=capsys)
    assert status == 0
    assert 'drain = "1s"' in out
    assert out[-1] == "tests of the rules: 2, failed: 0"


def test_tests_of_a_file_are_about_that_file_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Path("all.toml").write_text("[[rule]]\nthen = [{ rewrite_recipient = 'x@example.test' }]\n")
    assert check("all.toml", "redirect.toml", capsys=capsys)[0] == 0


def test_where_a_shipped_file_is_to_be_copied_from_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = check("relayproxy:greylist", capsys=capsys)
    assert (status, err) == (0, [])
    name, _, path = out[0].partition(" is ")
    assert (name, Path(path)) == ("relayproxy:greylist", shipped() / "greylist.toml")
    assert Path(path).is_file()
    assert out[-1] == "tests of the rules: 2, failed: 0"


def test_the_staging_configuration_is_right_with_a_domain_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    """As deploy/README.md has it set up."""
    section = (ROOT / "deploy/README.md").read_text().split("\n## For staging\n")[1].split("\n## ")[0]
    commands = [line.strip() for line in section.splitlines() if line.startswith("    ")]
    assert commands.pop() == "/opt/relayproxy/bin/relayproxy check /etc/relayproxy/relayproxy.toml"
    for command in commands:
        command = command.replace("/etc/relayproxy", str(Path.cwd() / "etc"))  # noqa: PLW2901
        subprocess.run(["/bin/sh", "-c", command], check=True, cwd=ROOT, timeout=30)
    status, out, err = check("etc/relayproxy.toml", capsys=capsys)
    assert status == 0
    assert [line for line in err if "X-Original-To" not in line] == []
    assert "# guard: mail may go to *@staging.example.com; what is for others is captured" in out
    assert out[-1].startswith("# tests of the rules: ")
    assert out[-1].endswith(", failed: 0")
    assert "example.test" not in "".join(out)


def test_a_test_that_fails_is_told_with_what_came_and_is_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    Path("wrong.toml").write_text(REDIRECT.replace('["qa@example.test"]', '["qa@x.test"]'))
    for arguments in (["wrong.toml"], ["--rules", "wrong.toml"]):
        status, out, err = check(*arguments, capsys=capsys)
        assert status == 1
        assert out[-1].removeprefix("# ") == "tests of the rules: 2, failed: 1"
        assert [line.removeprefix(f"{Path.cwd()}/") for line in err] == [
            "wrong.toml:6: a customer: recipients: expected qa@x.test, got qa@example.test"
        ]


def test_what_is_doubtful_is_a_warning_and_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    Path("odd.toml").write_text(
        "[[rule]]\nname = 'all'\nthen = [{ add_header = ['X-For', '{recipient}'] }, { accept = true }]\n[[rule]]\nname = 'none'\nthen = [{ tag = 'x' }]\n"
    )
    Path("it.toml").write_text("[rules]\nfiles = ['odd.toml']\n[guard]\nallow = ['*', '*@example.test']\n")
    status, _, err = check("it.toml", capsys=capsys)
    where = f"relayproxy: warning: {Path.cwd()}/odd.toml"
    assert status == 0
    assert err == [
        "relayproxy: warning: guard.allow: * guards nothing: it allows every address",
        f"{where}:1: all: add_header shows each recipient to all others, those of Bcc too: {{recipient}} stands in X-For",
        f"{where}:1: all: accept is of the whole message: no rule runs for recipients that are named behind the first one that this rule applies to",
        f"{where}:4: none: never runs: the rule 'all' above has accept without a condition",
    ]


def test_more_days_than_a_server_has_locks_for_are_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    store = "[record]\nstore = '{}'\n[record.keep]\nage = '{}'\n"
    for url, age, warned in (
        ("postgresql://db.example.test/mail", "365d", True),
        ("postgresql://db.example.test/mail", "none", True),
        ("postgresql://db.example.test/mail", "14d", False),
        ("sqlite:x.db", "365d", False),
    ):
        Path("it.toml").write_text(store.format(url, age))
        status, _, err = check("it.toml", capsys=capsys)
        assert status == 0
        assert ["max_locks_per_transaction" in line for line in err] == [True] * warned


def test_a_secret_that_is_not_there_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is read at each login, and may be there by then."""
    given = {
        "file": "password_file = 'secret'",
        "variable": "password_env = 'SMTP_SECRET'",
        "command": "token_command = ['./token']",
    }
    Path("it.toml").write_text(
        "".join(
            f"[upstream.{name}]\nurl = 'smtp://127.0.0.1'\ncredentials = {{ user = 'app', {key} }}\n"
            for name, key in given.items()
        )
        + "[[listener]]\naddress = '127.0.0.1:0'\nupstream = 'file'\n"
    )
    monkeypatch.delenv("SMTP_SECRET", raising=False)
    status, _, err = check("it.toml", capsys=capsys)
    assert status == 0
    later = "; until that is mended clients hear 421"
    assert err == [
        f"relayproxy: warning: upstream.file.credentials: password_file {Path.cwd()}/secret: cannot be read: No such file or directory{later}",
        f"relayproxy: warning: upstream.variable.credentials: the environment has no variable SMTP_SECRET{later}",
        f"relayproxy: warning: upstream.command.credentials: the command ./token cannot be run{later}",
    ]
    Path("secret").write_text("sesame\n")
    Path("token").touch(0o700)
    monkeypatch.setenv("SMTP_SECRET", "sesame")
    assert check("it.toml", capsys=capsys)[2] == []


def test_what_run_would_not_start_with_is_a_warning_in_the_same_words(capsys: pytest.CaptureFixture[str]) -> None:
    here = Path.cwd()
    Path("a file").touch()
    wrong = {
        "state = 'a file/state'": f"the state folder {here}/a file/state cannot be used: {here}/a file: Not a directory; state in the configuration moves it",
        "[record]\nstore = 'sqlite:no/store.db'": f"the store cannot be opened: {here}/no/store.db: there is no folder {here}/no",
        "[record]\nstore = 'sqlite:.'": f"the store cannot be opened: {here}: expected a file, found a folder",
        "[log]\nfile = 'no/log'": f"the log cannot be opened: {here}/no/log: there is no folder {here}/no",
        "[log]\nfile = '.'": f"the log cannot be opened: {here}: expected a file, found a folder",
    }
    for text, what in wrong.items():
        Path("it.toml").write_text(text if text.startswith("state") else f"state = 'state'\n{text}")
        status, _, err = check("it.toml", capsys=capsys)
        assert (status, err) == (0, [f"relayproxy: warning: {what}; run does not start before that is mended"])
        assert main(["run", "it.toml"]) == 2
        assert capsys.readouterr().err.splitlines() == [f"relayproxy: {what}"]
    assert not Path("state").exists()
    Path("it.toml").write_text("state = 'new/state'\n[record]\nstore = 'sqlite:new/state/store.db'")
    assert check("it.toml", capsys=capsys)[2] == []  # run makes the folder
    assert not Path("new").exists()


def test_a_signature_that_a_test_shows_to_break_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    signed = (
        "DKIM-Signature: v=1; a=rsa-sha256; d=app.test; s=k; h=From; bh=x; b=y; l=0\\nFrom: a@app.test\\n\\nhello\\n"
    )
    Path("it.toml").write_text(
        "[[rule]]\nname = 'rename'\nthen = [{ change_header = ['From', 'b@app.test'] }]\n"
        f'[[test]]\nname = "signed"\ngiven = {{ message = "{signed}" }}\nexpect = {{ header.From = "b@app.test" }}\n'
    )
    status, _, err = check("it.toml", capsys=capsys)
    assert (status, err) == (
        0,
        ["relayproxy: warning: it.toml:4: signed: 'rename' breaks the DKIM signature of app.test, which covers from"],
    )


WRONG = [
    # arguments, what is said
    (["bad.toml"], ["bad.toml:2: rule[0].thn: unknown key; the nearest known is then", "bad.toml:1: rule[0]: expected the key then, which is missing"]),
    (["relayproxy:nothing"], ["relayproxy:nothing: expected the name of a rule file that is shipped; known are "]),
    (["--rules", "missing.toml"], ["missing.toml: cannot be read: No such file or directory"]),
    (["--rules", "route.toml"], ["route.toml:1: route: expected the name of an upstream, got 'elswhere'; known are capture"]),
    (["early.toml"], ['early.toml:1: at: expected at = "eom" or later (it reads body), got "rcpt"']),
    (["route.toml", "early.toml", "--redirect-all", "qa@example.test"], ["relayproxy: expected --rules route.toml and --rules early.toml beside the other flags, "]),
    (["one.toml", "two.toml"], ["relayproxy: expected one configuration, got one.toml and two.toml"]),
    (["missing.toml"], ["missing.toml: cannot be read: No such file or directory"]),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "said"), WRONG, ids=" ".join)
def test_what_is_wrong_is_status_2(arguments: list[str], said: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.toml").write_text("[[rule]]\nthn = 1\n")
    Path("route.toml").write_text("[[rule]]\nthen = [{ route = 'elswhere' }]\n")
    Path("early.toml").write_text("[[rule]]\nwhen = { body = 'x' }\nat = 'rcpt'\nthen = [{ tag = 'x' }]\n")
    for name in ("one.toml", "two.toml"):
        Path(name).write_text("drain = '1s'\n")
    status, _, err = check(*arguments, capsys=capsys)
    assert status == 2
    assert all(any(one in line for line in err) for one in said), err


def test_what_is_held_needs_a_store(capsys: pytest.CaptureFixture[str]) -> None:
    Path("it.toml").write_text(
        "[upstream.a]\nurl = 'smtp://127.0.0.1'\n[record]\nstore = 'none'\n[rules]\nfiles = ['tags.toml']\n"
    )
    status, _, err = check("it.toml", capsys=capsys)
    assert (status, err) == (
        2,
        [f'{Path.cwd()}/tags.toml:2: hold: expected a store that keeps what is held, as record.store is "none"'],
    )


FUNCTIONS = """
from pathlib import Path
with Path("ran").open("a") as file:
    file.write("x")
ACTIONS = {"rcpt": ["redirect_recipient"], "eom": ["reject"]}
def rcpt(mail):
    if mail.recipient.domain != "example.test":
        mail.redirect_recipient("qa@example.test")
def eom(mail):
    if len(mail.attachments) > 10:
        mail.reject("Too many attachments")
"""
TESTS = """
[[test]]
name = "a customer"
given = { recipients = ["jane@customer.example"], message = "To: jane@customer.example\\n\\nhello\\n" }
expect = { recipients = ["qa@example.test"], header.To = "qa@example.test", rules = ["functions.py: rcpt"] }
[[test]]
name = "the other"
given = {}
expect = { reply = true }
"""


def test_functions_are_shown_and_tested_by_the_file_behind_them(capsys: pytest.CaptureFixture[str]) -> None:
    Path("functions.py").write_text(FUNCTIONS)
    Path("tests.toml").write_text(TESTS)
    status, out, err = check("functions.py", "tests.toml", "tags.toml", capsys=capsys)
    assert out == [
        "rcpt    functions.py: rcpt (functions.py:6): it is the function of that stage",
        "eom     functions.py: eom (functions.py:9): it is the function of that stage",
        "eom     tag (tags.toml:2): the rule 'functions.py: eom' above can stop it",
        "MAIL and RCPT leave at the end of the message: tag",
        "DATA leaves at the end of the message: tag",
        "the final dot waits for the rules: functions.py: eom",
        "tests of the rules: 3, failed: 1",
    ]
    assert (status, err) == (1, ["tests.toml:6: the other: reply: expected it, got none"])
    assert Path("ran").read_text() == "x"


def test_functions_of_a_configuration_are_read_once(capsys: pytest.CaptureFixture[str]) -> None:
    Path("functions.py").write_text(FUNCTIONS)
    Path("it.toml").write_text("[rules]\nfiles = ['functions.py']\n")
    status, out, err = check("it.toml", capsys=capsys)
    assert (status, err) == (0, [])
    assert out[-1] == f"# the final dot waits for the rules: {Path.cwd()}/functions.py: eom"
    assert Path("ran").read_text() == "x"


def test_what_is_wrong_with_functions_is_told_with_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("functions.py").write_text("import nothing_of_that_name\n")
    assert check("functions.py", capsys=capsys) == (
        2,
        [],
        [
            "functions.py:1: expected Python that runs when it is loaded, got ModuleNotFoundError: No module named 'nothing_of_that_name'"
        ],
    )


def test_a_reader_that_has_had_enough_changes_no_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    Path("redirect.toml").write_text(REDIRECT.replace('["joe@example.test"], rules', '["jane@example.test"], rules'))
    with unread():
        assert main(["check", "redirect.toml"]) == 1
    assert "a colleague: " in capsys.readouterr().err
