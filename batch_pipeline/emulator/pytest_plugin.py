"""The pytest fixture `claude_emulator`: a clean Message Batches API for each test.

def test_my_pipeline(claude_emulator):
    claude_emulator.fault("create", "drop_after", nth=2)  # accepted, but the reply is lost
    client = anthropic.Anthropic(api_key="any", base_url=claude_emulator.base_url)
"""

from collections.abc import Iterator

import pytest

from batch_pipeline.emulator.process import EmulatorProcess


@pytest.fixture(scope="session")
def _claude_emulator_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorProcess]:
    # Starting a process takes longer than most tests: all share one, and each gets it cleared.
    with EmulatorProcess(tmp_path_factory.mktemp("claude_emulator")) as emulator:
        yield emulator


@pytest.fixture
def claude_emulator(_claude_emulator_process: EmulatorProcess) -> Iterator[EmulatorProcess]:
    """A local Message Batches API without batches, faults or a past. See `EmulatorProcess`.

    A test may kill and restart it. Set options with `claude_emulator.configure(...)`.
    """
    emulator = _claude_emulator_process
    emulator.start()
    emulator.reset()
    yield emulator
    emulator.start()
    emulator.reset()
