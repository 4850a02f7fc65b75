"""`doctor` says before a night what only one machine reaches, where runs happen on several."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from batch_pipeline import (
    BatchPipeline,
    BatchStore,
    ClaudeBatches,
    DuckDBSource,
    MessageTemplate,
    ParquetDataset,
    ParquetSource,
)
from batch_pipeline.cli.checks import check_emulator
from batch_pipeline.cli.hosts import check_hosts, elsewhere, network_disk
from batch_pipeline.cli.project import Declared
from batch_pipeline.emulator.options import Options


@dg.executor(name="k8s")
def in_pods(_: Any) -> Any: ...


def declared(store: BatchStore, url: str = "https://api.anthropic.com", **more: Any) -> Declared:
    fields = {
        "source": ParquetSource(path="s3://bucket/in/*.parquet", key="k"),
        "destination": ParquetDataset(path="s3://bucket/out"),
        **more,
    }
    pipeline = BatchPipeline(
        name="p",
        request=MessageTemplate(model="claude-haiku-4-5", max_tokens=9, prompt="{{ k }}"),
        **fields,
    )
    return Declared(pipeline, ClaudeBatches(base_url=url), store)


def bad(one: Declared) -> list[tuple[str, str, str]]:
    found = check_hosts([one], elsewhere([one.pipeline]))
    return [(check.name, check.level, check.found + " " + check.todo) for check in found]


POSTGRES = BatchStore(root="s3://bucket/store", ledger="postgresql://host/ledger")
SQLITE = BatchStore(root="s3://bucket/store", ledger="sqlite:////ledgers/ledger.sqlite")
FOLDER = BatchStore(root="/data/store")


@pytest.fixture(autouse=True)
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)


def test_postgres_and_an_object_store_do_for_several_machines():
    assert bad(declared(POSTGRES, executor=in_pods)) == []
    assert bad(declared(FOLDER)) == []


def test_a_sqlite_ledger_does_not_do_for_an_object_store_or_for_several_machines():
    ((name, level, said),) = bad(declared(SQLITE))
    assert (name, level) == ("ledger", "failed")
    assert "/ledgers/ledger.sqlite" in said and "PostgreSQL" in said and "object store" in said
    for store in (SQLITE, FOLDER):
        ((name, level, said), *_) = bad(declared(store, executor=in_pods))
        assert (name, level) == ("ledger", "failed")
        assert "in pods: each machine would have a ledger of its own" in said


def test_what_lies_on_a_disk_is_said_where_runs_happen_on_several_machines():
    folder = BatchStore(root="/data/store", ledger="postgresql://host/ledger")
    source = DuckDBSource(database="/data/w.duckdb", table="t", key="k")
    found = bad(declared(folder, executor=in_pods, source=source))
    assert [(name, level) for name, level, _ in found] == [
        ("reach", "warning"),
        ("source there", "warning"),
    ]
    assert all("doctor --deep" in said for *_, said in found)


def test_an_address_that_each_machine_calls_itself():
    for url in ("http://127.0.0.1:8799", "http://localhost:8799"):
        assert bad(declared(POSTGRES, url)) == []
        ((name, level, said),) = bad(declared(POSTGRES, url, executor=in_pods))
        assert (name, level) == ("address", "failed") and "calls itself" in said


def test_the_emulator_is_refused_in_production():
    mine, url = Options.organization, "http://emulator.internal:8799"
    assert list(check_emulator(url, mine, "")) == []
    assert list(check_emulator(url, "another", "runs happen in pods")) == []
    (check,) = check_emulator(url, mine, "runs happen in pods")
    assert (
        check.level == "failed" and "made up" in check.found and "ANTHROPIC_BASE_URL" in check.todo
    )


def test_where_runs_happen_is_read_from_dagsters_instance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    module = tmp_path / "launchers_of_this_test.py"
    module.write_text(
        "from dagster._core.launcher import DefaultRunLauncher\n"
        "class K8sRunLauncher(DefaultRunLauncher): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text(
        f"run_launcher:\n  module: {module.stem}\n  class: K8sRunLauncher\n"
    )
    assert elsewhere([]) == "in pods"


def test_a_sqlite_ledger_on_a_network_disk(tmp_path: Path):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "overlay / overlay rw 0 0\nserver:/x /mnt/team\\040data nfs4 rw 0 0\ntmpfs /mnt/team\\040data/fast tmpfs rw 0 0\n"
    )
    assert network_disk(Path("/mnt/team data/store/ledger.sqlite"), mounts) == "nfs4"
    assert network_disk(Path("/mnt/team data/fast/ledger.sqlite"), mounts) == ""
    assert network_disk(Path("/mnt/team/ledger.sqlite"), mounts) == ""
    assert network_disk(Path("/data/ledger.sqlite"), tmp_path / "none") == ""
