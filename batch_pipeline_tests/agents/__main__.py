"""Try an agent: `python -m batch_pipeline_tests.agents` lists the tasks, lays a task's folder, and judges it."""

import shutil
import tempfile
from pathlib import Path

import click

from batch_pipeline.cli.skill import FOLDER, NAME, skill_text
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.agents.judges import JUDGES, PLAYED
from batch_pipeline_tests.agents.scene import NAMES, FailedTask, Scene, lay, prompt_of


@click.group()
def main() -> None:
    """Ten tasks for coding agents, each judged on the emulator."""


@main.command("list")
def names() -> None:
    """Show the tasks' names."""
    click.echo("\n".join(NAMES))


@main.command()
@click.argument("task", type=click.Choice(NAMES))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--skill", is_flag=True, help="With our skill, as `batch-pipeline skill --install` writes it.")  # fmt: skip
def prepare(task: str, folder: Path, skill: bool) -> None:
    """Write the folder of a task, and print what the agent is told."""
    lay(task, folder)
    if task in PLAYED:
        with _scene(folder) as scene, scene.at_home():
            scene.night(PLAYED[task])
    if skill:
        (folder / FOLDER / NAME).mkdir(parents=True)
        (folder / FOLDER / NAME / "SKILL.md").write_text(skill_text(), encoding="utf-8")
    click.echo(prompt_of(task))


@main.command("judge")
@click.argument("task", type=click.Choice(NAMES))
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
def judge_one(task: str, folder: Path) -> None:
    """Judge what an agent left in a folder; exit code 1 when it fails. A copy of the folder is used."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "shop"
        shutil.copytree(folder, copy)
        with _scene(copy) as scene, scene.at_home():
            try:
                JUDGES[task](scene)
            except FailedTask as error:
                raise SystemExit(f"{task}: failed: {error}") from error
    click.echo(f"{task}: passed")


PORT = 8797
"""Always the same: what was asked at another address would be another API."""


class _scene:
    """A scene on an emulator of its own, which keeps its batches beside the folder's store."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._emulator = EmulatorProcess(folder / "data" / "emulator", PORT)

    def __enter__(self) -> Scene:
        self._emulator.start()
        return Scene(self._folder, self._emulator)

    def __exit__(self, *_error: object) -> None:
        self._emulator.stop()


if __name__ == "__main__":
    main(prog_name="python -m batch_pipeline_tests.agents")
