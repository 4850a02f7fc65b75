"""The command line."""

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import insert

from batch_pipeline.cli import main
from batch_pipeline.emulator.process import _free_port
from batch_pipeline.store.store import Store, open_store
from batch_pipeline.store.submissions import Endpoint, know_endpoint
from batch_pipeline.store.tables import FileState, holds, request_files

ENDPOINT = Endpoint("http://127.0.0.1:1", "org", "default")


def run(*words: str):
    return CliRunner().invoke(main, list(words))


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
                error="the API refuses it: model: no such model",
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
    assert result.exit_code == 0
    for words in ("s1/00000", "1,200 requests", "no such model", "--resend s1/00000"):
        assert words in result.output
    for words in ("packages", "401: no such key", "--release packages"):
        assert words in result.output


def test_held_lists_one_pipeline(store: Store):
    assert "s1/00000" not in run("held", "packages", "--store", store.files.base).output


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
    assert "Nothing is held" in run(*command).output


def test_deciding_about_what_is_not_held_says_what_is(store: Store):
    result = run("held", "--store", store.files.base, "--drop", "s9/00000")
    assert result.exit_code == 1
    assert "s9/00000 is not held" in result.output
    assert "s1/00000" in result.output


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path):
    result = run("held", "--store", str(tmp_path / "nothing"))
    assert result.exit_code == 1
    assert "no store" in result.output
    assert not (tmp_path / "nothing").exists()


def test_importing_the_command_line_is_light():
    code = (
        "import sys, batch_pipeline.cli; print('dagster' in sys.modules, 'duckdb' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


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
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert "not a server for production" in process.stderr.readline()
            options = _options(port)
            assert options["rates"] == {"errored": 0.03}
            assert options["batch_seconds"] == 5
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
