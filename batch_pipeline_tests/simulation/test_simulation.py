"""Whatever happens in a night, each answer is paid once and each record has its row; and a seed tells it all.

``make simulate`` plays many more episodes than these.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_pipeline_tests.simulation.episode import play
from batch_pipeline_tests.simulation.places import Places, placed
from batch_pipeline_tests.support.extent import extent

EPISODES = extent(30, 500)
AT_ONCE = 10  # a test each would take longer than they do
REPLAYED = 7


@pytest.fixture(scope="module")
def places() -> Iterator[Places]:
    with placed() as places:
        yield places


@pytest.mark.parametrize("first", range(0, EPISODES, AT_ONCE))
def test_whatever_happens_each_answer_is_paid_once_and_each_record_has_its_row(
    first: int, places: Places, tmp_path: Path
) -> None:
    for seed in range(first, first + AT_ONCE):
        play(seed, places, tmp_path / str(seed))
