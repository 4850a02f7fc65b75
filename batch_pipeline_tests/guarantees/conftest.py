"""What the tests of ordinary life share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.store.clock import going_by
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.house import House
from batch_pipeline_tests.support.pooling import pooled


@pytest.fixture(autouse=True)
def _pooled() -> Iterator[None]:
    with pooled():
        yield


@pytest.fixture
def house(tmp_path: Path, claude_emulator: EmulatorProcess) -> Iterator[House]:
    """A warehouse with 40 records, a store and an API."""
    with going_by(HandClock()) as clock:
        yield House(tmp_path, claude_emulator, clock)
