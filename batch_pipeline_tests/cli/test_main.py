"""The command line."""

import json
import signal
import subprocess
import sys
import urllib.request
from datetime import datetime
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from sqlalchemy import insert

from batch_pipeline.cli.main import main
from batch_pipeline.cli.output import Row, listing
from batch_pipeline.emulator.process import _free_port
from batch_pipeline.store.store import Store, open_store
from batch_pipeline.store.submissions import Endpoint, know_endpoint
from batch_pipeline.store.tables import FileState, holds, request_files

ENDPOINT = Endpoint("http://127.0.0.1:1", "org", "default")


ERROR = "the API refuses it: [bold red]no such model[/] \x1b[2J"


def run(*words: str, **environment: str):
    return CliRunner().invoke(main, list(words), env=environment)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with one held file and one held pipeline."""
    made = open_store(str(tmp_path / "store"))
    know_endpoint(made.ledger, ENDPOINT)
    with made.ledger.write() as tx:
        tx.execute(
            insert(request_files).values(
                id="s1/00000", submission_id="s1", pipeline="invoices", partition="",
                endpoint_id=ENDPOINT.id, number=1, seq=0, kind="batch", path="p", requests=1200,
                bytes=10, first_row=0, last_row=1199, state=FileState.HELD,
                error=ERROR,
            )
        )  # fmt: skip
        made.ledger.record(tx, "s1/00000", "invoices", "", "sending", "held", "refused")
        tx.execute(
            insert(holds).values(
                pipeline="packages", endpoint_id=ENDPOINT.id, reason="401: no such key",
                since=made.clock.now(),
            )
        )  # fmt: skip
    return made


def state(store: Store) -> str:
    return store.ledger.rows(request_files.select())[0]["state"]


def test_held_lists_what_waits_and_why(store: Store):
    result = run("held", "--store", store.files.base)
    assert result.exit_code == 3
    for words in ("s1/00000", "1,200", "no such model", "held --resend s1/00000"):
        assert words in result.output
    for words in ("packages", "401: no such key", "held packages --release"):
        assert words in result.output


def test_held_lists_one_pipeline(store: Store):
    assert "s1/00000" not in run("held", "packages", "--store", store.files.base).output


def test_held_lists_as_json(store: Store):
    result = run("held", "--store", store.files.base, "--json")
    assert result.exit_code == 3
    listed = json.loads(result.stdout)
    assert [(one["id"], one["requests"]) for one in listed["files"]] == [("s1/00000", 1200)]
    assert listed["files"][0]["error"] == ERROR
    assert [one["pipeline"] for one in listed["pipelines"]] == ["packages"]
    assert datetime.fromisoformat(listed["pipelines"][0]["since"]).tzinfo is not None


def test_what_an_error_says_is_text_and_steers_no_terminal(store: Store):
    for terminal in ({}, {"FORCE_COLOR": "1", "TERM": "xterm"}):
        output = run("held", "--store", store.files.base, **terminal).output
        assert "[bold red]no such model[/]" in output
        assert "\\x1b[2J" in output and "\x1b[2J" not in output


def test_a_pipe_gets_no_colour_and_no_line_over_120_letters(store: Store):
    output = run("held", "--store", store.files.base).output
    assert "\x1b" not in output
    assert max(map(len, output.splitlines())) <= 120
    assert all(line == line.rstrip() for line in output.splitlines())


def test_a_narrow_terminal_gets_all_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "50")
    file = "20260301T230000-0123abcd/00000"
    listing(
        "Files",
        ["pipeline", "partition", "requests", "file"],
        [Row(("customer_letters", "", 1_234_567, file), ("a reason " * 9,), "this and that " * 9)],
    )
    lines = [click.unstyle(line) for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= 50
    assert "partition" not in lines[1]  # it is empty in all rows
    assert "1,234,567" in lines[2]  # what is long gives way, not the numbers
    start = lines[1].index("file")
    assert "".join(line[start:].strip() for line in lines[2:4]) == file
    said = " ".join(" ".join(lines[4:]).split())
    assert said == f"{'a reason ' * 9}To do: {'this and that ' * 9}".strip()


def test_a_held_file_can_be_sent_again(store: Store):
    assert run("held", "--store", store.files.base, "--resend", "s1/00000").exit_code == 0
    assert state(store) == FileState.READY


def test_a_held_file_can_be_given_up(store: Store):
    assert run("held", "--store", store.files.base, "--drop", "s1/00000").exit_code == 0
    row = store.ledger.rows(request_files.select())[0]
    assert row["state"] == FileState.ENDED
    assert "no such model" in row["error"]


def test_a_held_pipeline_can_be_released(store: Store):
    command = ("held", "packages", "--store", store.files.base)
    assert run(*command, "--release").exit_code == 0
    assert not store.ledger.rows(holds.select())


def test_nothing_held_is_nothing_to_do(tmp_path: Path):
    open_store(str(tmp_path / "store"))
    result = run("held", "--store", str(tmp_path / "store"))
    assert (result.exit_code, result.output) == (0, "Nothing is held.\n")


def test_deciding_about_what_is_not_held_says_what_is(store: Store):
    result = run("held", "--store", store.files.base, "--drop", "s9/00000")
    assert result.exit_code == 1
    assert "s9/00000 is not held" in result.output
    assert "s1/00000" in result.output


def test_a_pipeline_that_is_not_there_says_which_are(store: Store):
    result = run("held", "invoice", "--store", store.files.base)
    assert result.exit_code == 1
    assert "There are: invoices, packages." in result.output


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path):
    result = run("held", "--store", str(tmp_path / "nothing"))
    assert result.exit_code == 1
    assert "no store" in result.output
    assert not (tmp_path / "nothing").exists()


def test_a_store_is_named_from_the_current_folder(store: Store, monkeypatch: pytest.MonkeyPatch):
    folder = Path(store.files.base).parent
    (folder / "pyproject.toml").touch()
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    assert "s1/00000" in run("held", "--store", "../store").output


def test_a_ledger_is_named_without_showing_its_password(store: Store):
    command = ("held", "--store", store.files.base, "--ledger")
    assert "s1/00000" in run(*command, f"sqlite:///{store.files.base}/ledger.sqlite").output
    for url in ("postgres//user:secret@host/db", "postgresql://user:secret@127.0.0.1:1/db"):
        result = run(*command, url)
        assert result.exit_code == 1
        assert "secret" not in result.output


@pytest.mark.parametrize(
    "words",
    [
        ("held", "--release", "--store", "STORE"),
        ("held", "--json", "--drop", "s1/00000", "--store", "STORE"),
        ("held", "--store", "STORE", "--project", "."),
        ("held", "--ledger", "sqlite:///somewhere"),
        ("reconcile", "--base-url", "http://127.0.0.1:1"),
        ("held", "--project", "no/such/folder"),
        ("cancel", "--yes"),
    ],
)
def test_wrong_usage_has_a_code_of_its_own(store: Store, words: tuple[str, ...]):
    given = [store.files.base if word == "STORE" else word for word in words]
    assert run(*given).exit_code == 2
    assert state(store) == FileState.HELD


@pytest.mark.parametrize("command", ["held", "reconcile", "cancel", "rebuild-ledger"])
def test_help_says_what_the_exit_code_means(command: str):
    said = " ".join(run(command, "--help").output.split())
    assert "0 done, or nothing to do; 1 an error; 2 wrong usage; 3 something waits for a" in said


def test_an_unknown_command_or_flag_is_answered_with_the_nearest_one():
    assert "Did you mean 'status'?" in run("statsu").output
    assert "Did you mean 'rebuild-ledger'?" in run("rebuild-leger").output
    assert "Did you mean '--until-done'?" in run("status", "--until-don").output


def test_the_emulator_answers_until_it_is_interrupted(tmp_path: Path):
    port = _free_port()
    command = [sys.executable, "-m", "batch_pipeline.cli", "emulator", "--port", str(port)]
    command += [
        "--state-dir",
        str(tmp_path / "state"),
        "--rate",
        "errored=0.03",
        "--batch-seconds",
        "5",
        "--any-model",
        "--downloadable-files",
        "--public-url",
        "https://relay/claude",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert "not a server for production" in process.stderr.readline()
            options = _options(port)
            assert options["rates"] == {"errored": 0.03}
            assert options["batch_seconds"] == 5
            assert options["any_model"] and options["downloadable_files"]
            assert options["public_url"] == "https://relay/claude"
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def _options(port: int) -> dict:
    for _ in range(200):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/_emulator/options") as reply:
                return json.load(reply)
        except OSError:
            import time

            time.sleep(0.05)
    raise AssertionError("the emulator did not answer")


def test_a_rate_that_is_none_is_a_usage_error():
    result = run("emulator", "--rate", "errored")
    assert result.exit_code == 2
    assert "NAME=SHARE" in result.output
