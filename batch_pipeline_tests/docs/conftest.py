"""A reader's project."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.docs.project import Project
from batch_pipeline_tests.support.pooling import pooled


@pytest.fixture(autouse=True)
def _pooled() -> Iterator[None]:
    with pooled():
        yield


@pytest.fixture
def project(
    tmp_path: Path, claude_emulator: EmulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Project]:
    """The project of a reader, who is in its folder and has set the variables of the API."""
    project = Project(tmp_path, claude_emulator)
    (tmp_path / "dagster_home").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, value in project.environment.items():
        monkeypatch.setenv(name, value)
    yield project
    sys.modules.pop("pipelines", None)
