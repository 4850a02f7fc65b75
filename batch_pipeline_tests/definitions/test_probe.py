"""A run that looks from where runs happen says what it does not reach, and makes nothing there."""

import json
from pathlib import Path

import pytest

from batch_pipeline import BatchStore
from batch_pipeline.cli.project import inside, load_project
from batch_pipeline.definitions.probe import look_from_here
from batch_pipeline.errors import BatchPipelineError
from batch_pipeline_tests.support.extent import only_whole
from batch_pipeline_tests.support.user_project import UserProject


def test_a_worker_that_reaches_another_store_says_so(user_project: UserProject, tmp_path: Path):
    with inside(user_project.folder):
        one = load_project(user_project.folder).declared[0]
        here = one.store.open()
        (Path(here.files.root) / "seen").write_text("")

        def look(store: BatchStore, file: str = "seen") -> None:
            look_from_here(one.pipeline, one.claude, store, here.ledger.id, file)

        look(one.store)
        with pytest.raises(
            BatchPipelineError, match=r"does not have the file unseen.* another store"
        ):
            look(one.store, "unseen")
        with pytest.raises(
            BatchPipelineError, match=r"there is no folder .*one volume at one path"
        ):
            look(BatchStore(root=str(tmp_path / "not mounted")))
        assert not (tmp_path / "not mounted").exists()
        (tmp_path / "empty").mkdir()
        with pytest.raises(BatchPipelineError, match=r"no file .*ledger.sqlite.*PostgreSQL"):
            look(BatchStore(root=str(tmp_path / "empty")))
        assert not list((tmp_path / "empty").iterdir())
        other = BatchStore(root=str(tmp_path / "other"))
        other.open()
        with pytest.raises(BatchPipelineError, match=f"is .*, and not {here.ledger.id}"):
            look(other)
        (user_project.folder / "warehouse.duckdb").unlink()
        with pytest.raises(BatchPipelineError, match=r"warehouse\.duckdb"):
            look(one.store)


@only_whole
def test_doctor_has_runs_look(
    user_project: UserProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    found = json.loads(user_project.run("doctor", "--deep", "--json").stdout)["checks"]
    assert [one["found"] for one in found if one["name"] == "deep"] == [
        "DAGSTER_HOME is not set here, so no run can be launched"
    ]
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text("run_coordinator:\n  module: dagster._core.run_coordinator\n  class: DefaultRunCoordinator\n")  # fmt: skip
    found = json.loads(user_project.run("doctor", "--deep", "--json").stdout)["checks"]
    seen = {one["name"]: (one["level"], one["found"]) for one in found if "from a run" in one["name"]}  # fmt: skip
    assert seen.keys() == {"from a run of notes", "from a run of letters"}
    assert all(level == "ok" and "reaches this store" in said for level, said in seen.values())
    store = Path(user_project.store().files.root)
    assert not list(store.glob(".probe-*"))
