"""The folder that an agent works in: how it begins, and what a judge does there."""

import os
import shutil
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from batch_pipeline.cli.project import Declared, Project, inside, load_project
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.support.stage_calls import StageCalls

TASKS = Path(__file__).parent / "tasks"
BASE = "base"
NAMES = sorted(one.name for one in TASKS.iterdir() if (one / "task.md").is_file())
DATABASE = "shop.duckdb"
TABLES = "tables.sql"


class FailedTask(Exception):
    """What an agent left does not do what the task asks for; the text says what."""


def check(condition: Any, why: str) -> None:
    """Fail a task unless a condition holds."""
    if not condition:
        raise FailedTask(why)


def prompt_of(task: str) -> str:
    """Return what an agent is told."""
    return (TASKS / task / "task.md").read_text(encoding="utf-8")


def lay(task: str, folder: Path) -> None:
    """Write the folder that an agent gets: what all begin with, and over it what is the task's own."""
    for part in (BASE, f"{task}/start"):
        _copy(part, folder)
    tables = folder / TABLES
    with duckdb.connect(str(folder / DATABASE)) as con:
        con.execute(tables.read_text(encoding="utf-8"))
    tables.unlink()


def solve(task: str, folder: Path, solution: str) -> None:
    """Put a solution of ours into the folder of a task: ``right`` or ``wrong``, files or edits of a file."""
    _copy(f"{task}/{solution}", folder)
    edits = TASKS / task / f"{solution}.toml"
    if edits.is_file():
        told = tomllib.loads(edits.read_text(encoding="utf-8"))
        file = folder / told["file"]
        text = file.read_text(encoding="utf-8")
        for edit in told["edit"]:
            assert text.count(edit["old"]) == 1, f"{edits}: this stands not once: {edit['old']}"
            text = text.replace(edit["old"], edit["new"])
        file.write_text(text, encoding="utf-8")


def _copy(part: str, folder: Path) -> None:
    if (TASKS / part).is_dir():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(TASKS / part, folder, dirs_exist_ok=True, ignore=ignored)


class Scene:
    """A folder with what an agent left there, and the emulated API.

    Attributes:
        folder: it; the working directory while it is judged.
        emulator: the API.
    """

    def __init__(self, folder: Path, emulator: EmulatorProcess) -> None:
        self.folder, self.emulator = folder, emulator

    @contextmanager
    def at_home(self) -> Iterator[None]:
        """Be in the folder, with the variables that name the API; what was imported of it is forgotten."""
        mine = {"ANTHROPIC_API_KEY": "any", "ANTHROPIC_BASE_URL": self.emulator.base_url}
        before = {name: os.environ.get(name) for name in mine}
        os.environ.update(mine)
        try:
            with inside(self.folder):
                yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            self.forget()

    def forget(self) -> None:
        """Let the project's code be imported anew."""
        for name, module in [*sys.modules.items()]:
            if str(getattr(module, "__file__", None) or "").startswith(f"{self.folder}{os.sep}"):
                del sys.modules[name]
        for cache in self.folder.rglob("__pycache__"):
            shutil.rmtree(cache)

    def project(self) -> Project:
        """Return what the project declares.

        Raises:
            FailedTask: it cannot be loaded.
        """
        try:
            return load_project(self.folder)
        except Exception as error:
            raise FailedTask(f"the project cannot be loaded: {error}") from error

    def declared(self, name: str) -> Declared:
        """Return a pipeline of the project."""
        found = {one.pipeline.name: one for one in self.project().declared}
        check(name in found, f"there is no pipeline {name}, but {', '.join(found) or 'none'}")
        return found[name]

    def night(self, name: str) -> int:
        """Play a night of a pipeline; return how many requests were billed for it.

        Raises:
            FailedTask: a step fails.
        """
        one, before = self.declared(name), self.billed
        nights = StageCalls(one.pipeline, one.claude, one.store)
        try:
            nights.submit()
            nights.collect()
        except Exception as error:
            raise FailedTask(f"a night of {name} fails: {error}") from error
        return self.billed - before

    @property
    def billed(self) -> int:
        """How many requests were billed so far."""
        return self.emulator.bill()["requests"]

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement in the project's database, and return its rows.

        Raises:
            FailedTask: the database has no such table or column.
        """
        with duckdb.connect(str(self.folder / DATABASE)) as con:
            try:
                return con.execute(statement).fetchall()
            except duckdb.Error as error:
                raise FailedTask(f"{statement}: {error}") from error
