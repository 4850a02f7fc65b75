"""The demo's code location, as `workspace.yaml` loads it."""

import subprocess
import sys
from pathlib import Path

import dagster as dg

from batch_pipeline.demo.definitions import defs

ROOT = Path(__file__).parents[2]


def test_the_workspace_names_the_demo():
    assert "python_module: batch_pipeline.demo.definitions" in (ROOT / "workspace.yaml").read_text()


def test_both_pipelines_and_what_follows_them_are_there():
    keys = {key.to_user_string() for key in defs.resolve_all_asset_keys()}
    stages = {"records", "requests", "batches", "results"}
    assert {f"{name}/{stage}" for name in ("invoices", "packages") for stage in stages} < keys
    assert {"invoices/incoming", "invoices/approvals", "packages/accuracy"} < keys
    assert {job.name for job in defs.jobs or ()} >= {"invoices_submit", "packages_collect"}


def test_what_follows_the_results_runs_by_itself():
    sensor = next(one for one in defs.sensors or () if one.name == "downstream")
    assert isinstance(sensor, dg.SensorDefinition)
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING


def test_loading_it_touches_nothing(tmp_path: Path):
    subprocess.run(
        [sys.executable, "-c", "import batch_pipeline.demo.definitions"],
        cwd=tmp_path, check=True, env={"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert list(tmp_path.iterdir()) == []
