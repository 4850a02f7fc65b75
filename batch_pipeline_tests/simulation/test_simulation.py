"""Whatever happens in a night, each answer is paid once and each record has its row; and a seed tells it all.

``make simulate``, ``make mutations``, ``make crash-points`` and ``make model`` do much more of the same.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_pipeline_tests.simulation import model
from batch_pipeline_tests.simulation.crash_points import SCENES, Night, Trial, ends_of
from batch_pipeline_tests.simulation.episode import play, play_in
from batch_pipeline_tests.simulation.places import Places, placed
from batch_pipeline_tests.support.extent import every_form, extent

EPISODES = extent(8, 300)
ONE_POINT_IN = extent(60, 1)
STATES = extent(60, 3_000)


@pytest.fixture
def places() -> Iterator[Places]:
    with placed() as places:
        yield places


def test_whatever_happens_each_answer_is_paid_once_and_each_record_has_its_row(
    places: Places, tmp_path: Path
) -> None:
    for seed in range(EPISODES):
        play(seed, places, tmp_path / str(seed))


def test_a_seed_tells_the_same_story_each_time(places: Places, tmp_path: Path) -> None:
    stories: list[list[str]] = [[], []]
    for number, story in enumerate(stories):
        play(30, places, tmp_path / str(number), story.append)
    assert stories[0] == stories[1]
    assert len(stories[0]) > 10


@every_form
@pytest.mark.parametrize("scene", extent(SCENES[:2], SCENES))
def test_a_night_that_ends_at_a_point_costs_nothing_and_loses_nothing(
    scene: str, places: Places, tmp_path: Path
) -> None:
    plain = Night(Trial(scene), places, tmp_path / "plain")
    play_in(plain, "make crash-points")
    assert len(plain.points) > 100
    for trial in ends_of(scene, len(plain.points), ONE_POINT_IN):
        night = Night(trial, places, tmp_path / "night")
        play_in(night, "make crash-points")
        assert night.told.ends, f"{trial} was never reached"


def test_no_state_of_sending_pays_twice_or_loses_a_batch() -> None:
    found = model.search(model.WORLDS[0], most=STATES)
    assert not found.wrong, found.wrong
    assert found.states >= STATES
