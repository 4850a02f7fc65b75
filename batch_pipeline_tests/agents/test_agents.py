"""The judges of the agents' tasks: a right solution passes, a wrong one fails, and so does what was there before."""

from pathlib import Path

import pytest

from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.agents.judges import JUDGES, PLAYED
from batch_pipeline_tests.agents.scene import NAMES, TASKS, FailedTask, Scene, lay, prompt_of, solve
from batch_pipeline_tests.support.extent import only_whole
from batch_pipeline_tests.support.pooling import pooled


def judged(task: str, solution: str, folder: Path, emulator: EmulatorProcess) -> str:
    """Return why a solution fails; "" when it passes."""
    scene = Scene(folder, emulator)
    lay(task, folder)
    with scene.at_home(), pooled():
        if name := PLAYED.get(task):
            scene.night(name)
            scene.forget()
        if solution != "start":
            solve(task, folder, solution)
        try:
            JUDGES[task](scene)
        except FailedTask as error:
            return str(error)
    return ""


def test_there_are_ten_each_with_all_that_it_needs() -> None:
    assert len(NAMES) == 10 and set(NAMES) == set(JUDGES)
    for name in NAMES:
        told = prompt_of(name)
        assert 100 < len(told) < 800
        # The task says what is wanted, not which field of ours does it.
        assert not [word for word in ("renamed_from", "skip_when", "Budget", "qualify", "Classify") if word in told]  # fmt: skip
        for one in ("right", "wrong"):
            folder, edits = TASKS / name / one, TASKS / name / f"{one}.toml"
            assert edits.is_file() != any(folder.rglob("*.py"))


def test_a_judge_fails_a_wrong_solution_for_what_is_wrong_with_it(
    tmp_path: Path, claude_emulator: EmulatorProcess
) -> None:
    assert "has its row" in judged("empty", "wrong", tmp_path, claude_emulator)


@only_whole
@pytest.mark.parametrize("solution", ["right", "wrong", "start"])
@pytest.mark.parametrize("task", NAMES)
def test_every_judge_tells_them_apart(
    task: str, solution: str, tmp_path: Path, claude_emulator: EmulatorProcess
) -> None:
    why = judged(task, solution, tmp_path / "shop", claude_emulator)
    assert (why == "") == (solution == "right"), why
