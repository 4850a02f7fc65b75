"""A demo of its own for each test: its folder, its port, fewer packages, and batches that end soon."""

import io
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from rich.console import Console

from batch_pipeline.demo import live, packages, play
from batch_pipeline.demo.screen import Screen
from batch_pipeline.emulator.process import _free_port
from batch_pipeline_tests.support.pooling import pooled

SOME_PACKAGES = 60


@pytest.fixture
def demo_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run the demo in; the working directory."""
    (tmp_path / "workspace.yaml").write_text("load_from: []\n")
    few = tmp_path / "few_packages.parquet"
    duckdb.sql(
        f"copy (select * from read_parquet('{packages.PACKAGES}') limit {SOME_PACKAGES}) "
        f"to '{few}' (format parquet)"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BATCH_PIPELINE_DEMO_PORT", str(_free_port()))
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "DAGSTER_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(packages, "PACKAGES", few)
    monkeypatch.setattr(live, "PACKAGES", few)
    monkeypatch.setattr(play, "BATCH_SECONDS", 0.5)
    monkeypatch.setattr(play, "LIVE_PAUSE_SECONDS", 0.1)
    return tmp_path


@pytest.fixture(autouse=True)
def _pooled() -> Iterator[None]:
    with pooled():
        yield


@pytest.fixture
def screen() -> Screen:
    """A screen whose text can be read."""
    return Screen(Console(file=io.StringIO(), width=160))


def shown(screen: Screen) -> str:
    """What a screen shows."""
    return screen.console.file.getvalue()
