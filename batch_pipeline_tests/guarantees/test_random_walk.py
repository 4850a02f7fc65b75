"""A random walk through nights that go wrong: whatever happens, each request is paid once and each record has its row.

See ``support.random_walk`` for what may happen, and ``soak`` for many more episodes than these.
"""

from pathlib import Path

import pytest

from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.support.extent import every_form, extent
from batch_pipeline_tests.support.postgres import Schemas
from batch_pipeline_tests.support.random_walk import DEPLOYMENTS, episode

EPISODES = extent(2, 300)


@every_form
@pytest.mark.parametrize("seed", range(EPISODES))
def test_whatever_happens_each_answer_is_paid_once_and_each_record_has_its_row(
    seed: int, claude_emulator: EmulatorProcess, tmp_path: Path, schemas: Schemas
) -> None:
    if seed % 2:
        with schemas.some(DEPLOYMENTS) as urls:
            episode(seed, claude_emulator, tmp_path, urls)
    else:
        episode(seed, claude_emulator, tmp_path)
