"""The store's files: whole or not there, on a disk and in an object store."""

import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pytest

from batch_pipeline.errors import StoreError
from batch_pipeline.store.files import SCRATCH, STALE_SCRATCH_SECONDS, Files
from batch_pipeline.store.store import open_store


@pytest.fixture(params=["disk", "memory"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    """A store's files on a disk, and in an object store (in the memory of this process)."""
    on_disk = request.param == "disk"
    made = Files(str(tmp_path / "store") if on_disk else f"memory://{secrets.token_hex(4)}/store")
    made.prepare()
    assert made.is_local is on_disk
    return made


def put(files: Files, name: str, content: bytes) -> str:
    with files.scratch() as folder:
        local = Path(folder, "file")
        local.write_bytes(content)
        assert files.put(str(local), name) == name
        assert not local.exists()
    assert not Path(folder).exists()
    return name


def test_what_is_put_is_there_whole_until_it_is_removed(files: Files) -> None:
    name = "invoices/20260301/requests/00000.jsonl"
    assert not files.exists(name)
    put(files, name, b"a\nb\n")
    assert files.exists(name) and files.size(name) == 4
    with files.open(name) as lines:
        assert list(lines) == [b"a\n", b"b\n"]
    with files.local(name) as path:
        assert Path(path).read_bytes() == b"a\nb\n"
    put(files, name, b"later")
    with files.open(name) as lines:
        assert lines.read() == b"later"
    files.remove(name)
    files.remove(name)
    assert not files.exists(name)
    put(files, "invoices/x/a", b"1")
    files.remove("invoices/x")
    assert not files.exists("invoices/x/a")


def test_duckdb_reads_the_files_by_their_urls(files: Files, tmp_path: Path) -> None:
    with files.scratch() as folder, duckdb.connect() as connection:
        local = f"{folder}/rows.parquet"
        connection.execute(f"copy (select 42 as answer) to '{local}' (format parquet)")
        name = files.put(local, "invoices/with a space/rows.parquet")
        plain = put(files, "invoices/x/plain.csv", b"a\n1\n")
        files.register(connection)
        found = connection.execute("select answer from read_parquet($1)", [[files.url(name)]])
        assert found.fetchall() == [(42,)]
        assert connection.execute("from read_csv($1)", [files.url(plain)]).fetchall() == [(1,)]


def test_a_scratch_folder_is_gone_even_when_its_block_fails(files: Files) -> None:
    with pytest.raises(RuntimeError), files.scratch() as folder:
        Path(folder, "half").write_text("x")
        raise RuntimeError("the disk is full")
    assert not Path(folder).exists()


def test_what_a_killed_process_left_is_swept_after_a_day(tmp_path: Path) -> None:
    files = Files(str(tmp_path))
    old, young = tmp_path / SCRATCH / "bp-old", tmp_path / SCRATCH / "bp-young"
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "half").write_text("x")
    long_ago = old.stat().st_mtime - STALE_SCRATCH_SECONDS - 60
    os.utime(old, (long_ago, long_ago))
    with files.scratch():
        pass
    assert not old.exists() and (young / "half").exists()


def test_names_for_files_of_one_place_differ(files: Files) -> None:
    assert len({files.new_part() for _ in range(50)}) == 50


def test_a_root_that_cannot_be_written_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for root in (str(tmp_path / "file"), str(tmp_path / "file/below"), "/proc/nowhere"):
        with pytest.raises(StoreError, match="cannot be written") as failed:
            open_store(root)
        assert root in str(failed.value)


def test_a_store_makes_its_folders_and_leaves_no_trace_of_trying(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "deep" / "down"))
    assert {path.name for path in (tmp_path / "deep" / "down").iterdir()} <= {
        "ledger.sqlite", "ledger.sqlite-shm", "ledger.sqlite-wal", "ledger.json", ".scratch",
    }  # fmt: skip
    assert open_store(str(tmp_path / "deep" / "down")).ledger.id == store.ledger.id


def test_a_store_may_be_opened_by_many_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        stores = list(threads.map(lambda _: open_store(str(tmp_path / "store")), range(40)))
    assert len({store.ledger.id for store in stores}) == 1


def test_a_url_that_no_package_serves_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot be opened.*fsspec package"):
        open_store("nonsense://bucket", ledger=f"sqlite:///{tmp_path}/none")


def test_a_remote_root_needs_a_ledger_of_its_own() -> None:
    with pytest.raises(StoreError, match="is remote, and a ledger needs a database"):
        open_store("memory://bucket")
