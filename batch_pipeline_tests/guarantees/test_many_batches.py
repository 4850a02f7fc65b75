"""Many pipelines with many open batches: how often their sensors read the API's list."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.store.clock import going_by
from batch_pipeline_tests.benchmarks.ticks import LIST, RUN_SECONDS, lose, pipelines
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.dagster_nights import Nights
from batch_pipeline_tests.support.extent import extent, only_whole

PIPELINES, BATCHES = extent(6, 50), 2


@pytest.fixture
def clock() -> Iterator[HandClock]:
    with going_by(HandClock()) as clock:
        yield clock


def test_many_sensors_read_the_list_once_an_interval(
    claude_emulator: EmulatorProcess, tmp_path: Path, clock: HandClock
) -> None:
    with pipelines(claude_emulator, tmp_path, PIPELINES, BATCHES) as runs:
        check_intervals(runs, claude_emulator, clock)


def check_intervals(runs: list[Nights], claude_emulator: EmulatorProcess, clock: HandClock) -> None:
    def interval() -> tuple[int, set[str]]:
        """Let each sensor tick once; return how often the list was read, and what is asked for."""
        clock.advance(RUN_SECONDS)
        before = claude_emulator.stats()["calls"].get(LIST, 0)
        asked = {one.job_name for run in runs for one in run.tick().run_requests or []}
        return claude_emulator.stats()["calls"].get(LIST, 0) - before, asked

    everyone = {f"pipeline_{number}_collect" for number in range(PIPELINES)}
    assert interval() == (1, set())  # all of them start, and have just sent their batches
    assert interval() == (1, set())
    lose(runs[0].store.open(), 1)  # of its size, each batch that nobody knows may be it
    lists, _asked = interval()
    assert lists == 1
    claude_emulator.end()
    lists, asked = interval()
    assert lists == 1 and asked >= everyone
    # No collect run began: all is asked for again, and nobody has to look who the key belongs to.
    lists, asked = interval()
    assert lists == 1 and asked >= everyone


@only_whole
def test_more_than_a_page_of_open_batches_takes_a_call_for_each_page(
    claude_emulator: EmulatorProcess,
    tmp_path: Path,
    clock: HandClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(BatchesApi.page, "__defaults__", (None, 6))  # instead of 1,000
    with pipelines(claude_emulator, tmp_path, 5, 4) as runs:
        clock.advance(RUN_SECONDS)
        before = claude_emulator.stats()["calls"].get(LIST, 0)
        for run in runs:
            assert run.tick().skip_message.startswith("0 of 4 batches ended")
        assert claude_emulator.stats()["calls"][LIST] - before == 4  # for 20 batches
