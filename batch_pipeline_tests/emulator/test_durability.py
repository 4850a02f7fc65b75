"""What survives: a kill, a restart, another emulator next door; and what a reset forgets."""

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import anthropic
import pytest

from batch_pipeline.emulator import EmulatorError, EmulatorProcess, RunningEmulator, serve
from batch_pipeline_tests.support.api_requests import requests


def test_a_batch_that_was_answered_survives_a_kill(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(manual=True, answers="digest")
    ended = client.messages.batches.create(requests=requests(5, "ended"))
    claude_emulator.end()
    before = sorted(line.to_json() for line in client.messages.batches.results(ended.id))
    bill = claude_emulator.bill()
    still_open = client.messages.batches.create(requests=requests(7, "open"))
    claude_emulator.kill()
    with pytest.raises(anthropic.APIConnectionError):
        client.messages.batches.list()

    claude_emulator.restart()
    assert [b.id for b in client.messages.batches.list()] == [still_open.id, ended.id]
    assert claude_emulator.bill() == bill
    after = sorted(line.to_json() for line in client.messages.batches.results(ended.id))
    assert after == before
    assert client.messages.batches.retrieve(still_open.id).processing_status == "in_progress"
    claude_emulator.end()
    assert client.messages.batches.retrieve(still_open.id).request_counts.succeeded == 7


def test_a_batch_accepted_without_a_reply_survives_a_kill(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("create", "drop_after")
    with pytest.raises(anthropic.APIConnectionError):
        client.messages.batches.create(requests=requests(3))
    claude_emulator.kill()
    claude_emulator.restart()
    [batch] = client.messages.batches.list().data
    assert batch.request_counts.succeeded == 3


def test_the_clock_and_the_statistics_survive_a_restart(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    client.messages.batches.create(requests=requests(3))
    claude_emulator.set_clock("2031-01-01T00:00:00Z")
    claude_emulator.kill()
    claude_emulator.restart()
    assert client.messages.batches.create(requests=requests(1)).created_at.year == 2031
    stats = claude_emulator.stats()
    assert stats["calls"]["POST /v1/messages/batches"] == 2
    assert stats["max_queued"] == 4


def test_large_batches_survive_a_kill_too_and_a_reset_forgets_them(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    asked = requests(300, system="x" * 2000)
    ended = client.messages.batches.create(requests=asked).id
    assert len(list(client.messages.batches.results(ended))) == 300
    claude_emulator.kill()
    claude_emulator.restart()
    assert len(list(client.messages.batches.results(ended))) == 300
    assert claude_emulator.requests(ended) == asked
    assert len(claude_emulator.billed_requests()) == 300
    assert any(claude_emulator.state_dir.rglob("*.jsonl"))
    claude_emulator.reset()
    assert claude_emulator.batches() == []
    assert not any(claude_emulator.state_dir.rglob("*.jsonl"))


def test_a_state_of_an_earlier_version_is_gone_on_with(
    connect: Callable[..., anthropic.Anthropic], tmp_path: Path
) -> None:
    with EmulatorProcess(tmp_path) as emulator:
        client = connect().with_options(base_url=emulator.base_url)
        id = client.messages.batches.create(requests=requests(3)).id
        client.messages.batches.retrieve(id)
        emulator.stop()
        # As it was: one column less, and every text a file.
        with closing(sqlite3.connect(tmp_path / "emulator.sqlite")) as connection, connection:
            for name, body in connection.execute("select name, body from texts").fetchall():
                (tmp_path / "batches" / id).mkdir(parents=True, exist_ok=True)
                (tmp_path / "batches" / id / f"{name}.jsonl").write_bytes(body)
            connection.execute("drop table texts")
            connection.execute("alter table batches drop column archived_at")
        emulator.start()
        assert len(list(client.messages.batches.results(id))) == 3
        assert emulator.bill()["requests"] == len(emulator.billed_requests()) == 3


def test_steering_goes_on_over_restarts_and_in_forked_children(
    claude_emulator: EmulatorProcess,
) -> None:
    elsewhere = RunningEmulator(claude_emulator.base_url)
    assert elsewhere.stats() == claude_emulator.stats()
    claude_emulator.kill()
    with pytest.raises(OSError):
        claude_emulator.stats()
    claude_emulator.restart()
    assert elsewhere.stats() == claude_emulator.stats()
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            try:
                for _ in range(50):
                    assert claude_emulator.stats()["batches"] == 0
                    assert claude_emulator.now() > 0
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(child)
    for _ in range(50):
        assert claude_emulator.faults() == []
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]


def test_a_reset_forgets_everything_and_drops_calls_in_flight(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    client.messages.batches.create(requests=requests(1))
    claude_emulator.advance(1e6)
    claude_emulator.fault("create", "delay_before", seconds=60)
    failures: list[Exception] = []

    def create() -> None:
        try:
            client.messages.batches.create(requests=requests(1, "late"))
        except anthropic.APIConnectionError as error:
            failures.append(error)

    waiting = threading.Thread(target=create)
    waiting.start()
    while not claude_emulator.faults()[0]["hits"]:
        time.sleep(0.01)
    claude_emulator.reset(queue_limit=5)
    waiting.join(30)
    assert len(failures) == 1
    assert claude_emulator.batches() == []
    assert claude_emulator.faults() == []
    assert claude_emulator.stats()["calls"] == {}
    assert claude_emulator.now() < time.time() + 1e5
    with pytest.raises(anthropic.RateLimitError):
        client.messages.batches.create(requests=requests(6))


def test_two_emulators_know_nothing_of_each_other(
    connect: Callable[..., anthropic.Anthropic], tmp_path: Path
) -> None:
    with EmulatorProcess(tmp_path, batch_seconds=3600) as other:
        mine, theirs = connect(), connect().with_options(base_url=other.base_url)
        batch = theirs.messages.batches.create(requests=requests(1))
        assert theirs.messages.batches.retrieve(batch.id).processing_status == "in_progress"
        assert mine.messages.batches.list().data == []


def test_an_emulator_dies_with_the_process_that_made_it(
    connect: Callable[..., anthropic.Anthropic], tmp_path: Path
) -> None:
    script = (
        "import sys, time\n"
        "from batch_pipeline.emulator import EmulatorProcess\n"
        "emulator = EmulatorProcess(sys.argv[1]).start()\n"
        "sys.stdout.write(emulator.base_url + '\\n'); sys.stdout.flush(); time.sleep(600)\n"
    )
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root},
        text=True,
    ) as maker:
        assert maker.stdout is not None
        orphan = connect().with_options(base_url=maker.stdout.readline().strip())
        orphan.messages.batches.list()
        maker.kill()
    deadline = time.monotonic() + 30
    with pytest.raises(anthropic.APIConnectionError):
        while time.monotonic() < deadline:
            orphan.messages.batches.list()
            time.sleep(0.02)


def test_it_moves_to_another_port_when_its_own_was_taken(
    claude_emulator: EmulatorProcess, tmp_path: Path
) -> None:
    late = EmulatorProcess(tmp_path)
    late.port = claude_emulator.port
    with late:
        assert late.base_url != claude_emulator.base_url
        assert late.batches() == []
    with pytest.raises(EmulatorError, match="already in use"):
        EmulatorProcess(tmp_path, port=claude_emulator.port).start()


def test_it_listens_on_this_machine_only(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="this machine only"):
        serve(tmp_path, host="0.0.0.0")


def test_unknown_options_are_named(claude_emulator: EmulatorProcess, tmp_path: Path) -> None:
    with pytest.raises(EmulatorError, match="unknown option batch_minutes"):
        claude_emulator.configure(batch_minutes=3)
    with pytest.raises(EmulatorError, match="unknown rate"):
        claude_emulator.configure(rates={"lost": 0.5})
    with pytest.raises(EmulatorError, match="unknown option batch_minutes"):
        EmulatorProcess(tmp_path, batch_minutes=3).start()


def test_what_was_sent_can_be_read_back(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    asked = requests(4)
    batch = client.messages.batches.create(requests=asked)
    assert claude_emulator.requests(batch.id) == asked
