"""Faults on the command line: `batch-pipeline emulator --fault ...`."""

import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anthropic
import pytest
from click.testing import CliRunner, Result

from batch_pipeline.cli.main import main
from batch_pipeline.emulator import EmulatorProcess, RunningEmulator
from batch_pipeline.emulator.faults import KINDS
from batch_pipeline.emulator.process import _free_port
from batch_pipeline_tests.support.api_requests import requests


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["emulator", *words])


@contextmanager
def serving(folder: Path, *words: str) -> Iterator[RunningEmulator]:
    """An emulator as a shell would start it."""
    port = _free_port()
    command = [sys.executable, "-m", "batch_pipeline.cli", "emulator", "--port", str(port)]
    command += ["--state-dir", str(folder), *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert "not a server for production" in process.stderr.readline()
            emulator = RunningEmulator(f"http://127.0.0.1:{port}")
            while True:
                try:
                    assert emulator._call("GET", "health")["pid"] == process.pid
                    break
                except OSError:
                    assert process.poll() is None
            yield emulator
        finally:
            process.send_signal(signal.SIGINT)


def test_faults_lie_in_wait_from_the_start(
    connect: Callable[..., anthropic.Anthropic], tmp_path: Path
) -> None:
    faults = ("create:drop_after:nth=2,times=2", "spend_limit:nth=4,times=all")
    with serving(tmp_path, *(word for fault in faults for word in ("--fault", fault))) as emulator:
        create = connect().with_options(base_url=emulator.base_url).messages.batches.create
        create(requests=requests(1))
        for _ in range(2):
            with pytest.raises(anthropic.APIConnectionError):
                create(requests=requests(1))
        for _ in range(2):
            with pytest.raises(anthropic.RateLimitError):
                create(requests=requests(1))
        assert len(emulator.batches()) == 3


def test_a_fault_is_laid_on_an_emulator_that_runs(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    done = run("--to", claude_emulator.base_url, "--fault", "clock_skew:seconds=-900")
    assert done.exit_code == 0, done.output
    assert "clock_skew on any: has hit 0 calls" in done.output
    assert run("--to", claude_emulator.base_url, "--fault", "queue_full").exit_code == 0
    with pytest.raises(anthropic.RateLimitError):
        client.messages.batches.create(requests=requests(1))
    laid = {fault["kind"]: fault for fault in claude_emulator.faults()}
    assert laid["clock_skew"]["seconds"] == -900 and laid["queue_full"]["hits"] == 1


def test_the_documented_curl_lays_and_clears_a_fault(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    url = f"{claude_emulator.base_url}/_emulator/faults"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.open(url, b'{"kind": "queue_full", "times": null}').close()
    with pytest.raises(anthropic.RateLimitError):
        client.messages.batches.create(requests=requests(1))
    opener.open(urllib.request.Request(url, method="DELETE")).close()
    client.messages.batches.create(requests=requests(1))


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("drop_aftr", "did you mean drop_after"),
        ("create", "write [CALL:]KIND[:NAME=VALUE,...], such as create:drop_after:nth=2,times=3"),
        ("create:drop_after:nth", "'nth' is no setting"),
        ("creates:drop_after", "unknown kind 'creates'"),
        ("list:queue_full", "it does on create"),
        ("queue_full:retry=3", "it has retry_after, when, nth, times, batch_id, key"),
        ("queue_full:times=some", "times cannot be 'some'; it is a whole number or none"),
        ("clock_skew", "needs the setting seconds"),
    ],
)
def test_a_fault_that_cannot_be_read_names_the_option_and_what_is_allowed(
    fault: str, why: str
) -> None:
    done = run("--fault", fault)
    assert done.exit_code == 2
    text = " ".join(done.output.split())
    assert "Invalid value for '--fault'" in text and why in text
    assert "--list-faults" in text


def test_values_may_hold_commas_and_colons(claude_emulator: EmulatorProcess) -> None:
    url = claude_emulator.base_url
    fields = '{"request_counts": {"processing": 1, "errored": 2}}'
    for fault in (
        f"retrieve:change_fields:fields={fields},nth=2",
        "redirect:location=http://127.0.0.1:9/a,b,times=none",
        "list:delete_batch:which=all",
    ):
        assert run("--to", url, "--fault", fault).exit_code == 0
    fields, redirect, delete = claude_emulator.faults()
    assert fields["fields"] == {"request_counts": {"processing": 1, "errored": 2}}
    assert fields["nth"] == 2
    assert redirect["location"] == "http://127.0.0.1:9/a,b" and redirect["times"] is None
    assert delete["which"] == "all"


def test_all_faults_are_listed_readably() -> None:
    done = run("--list-faults")
    assert done.exit_code == 0
    shown = " ".join(done.output.split())
    for kind in KINDS.values():
        assert kind.name in shown
        for name in kind.settings:
            assert name in shown
    assert "seconds=?" in shown and "create:drop_after:nth=2,times=3" in shown
    assert max(map(len, done.output.splitlines())) <= 110


def test_an_emulator_that_is_not_there_is_said_to_be_not_there() -> None:
    for url in (f"http://127.0.0.1:{_free_port()}", "127.0.0.1:8787"):
        done = run("--to", url, "--fault", "queue_full")
        assert done.exit_code == 1
        assert f"--to {url}" in done.output and "batch-pipeline emulator" in done.output
    done = run("--to", "http://127.0.0.1:8787")
    assert done.exit_code == 2 and "--fault" in done.output


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_it_serves_this_machine_only_and_says_why(tmp_path: Path, host: str) -> None:
    done = run("--host", host, "--state-dir", str(tmp_path / "state"))
    assert done.exit_code == 2
    text = " ".join(done.output.split())
    assert "this machine only" in text and "no server for production" in text
    assert not (tmp_path / "state").exists()
    assert "no server for production" in " ".join(run("--help").output.split())
