"""Trouble of a disk or an object store is said in words for the person who must act."""

import errno
import os
from pathlib import Path

import dagster as dg
import duckdb
import pytest

from batch_pipeline.definitions.failures import as_failures
from batch_pipeline.errors import StoreError
from batch_pipeline.store.files import Files
from batch_pipeline.store.trouble import meaning_of

needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has a full disk")


def full_by_python() -> None:
    with open("/dev/full", "wb") as file:
        file.write(b"x" * 1_000_000)


def full_by_duckdb() -> None:
    duckdb.connect().execute(
        "copy (select range from range(1_000_000)) to '/dev/full' (format csv)"
    )


def full_temporary_folder() -> None:
    connection = duckdb.connect()
    connection.execute("set memory_limit = '20MB'; set max_temp_directory_size = '1MB'")
    connection.execute(
        "create table t as select range::varchar || repeat('x', 100) as y from range(1_000_000)"
    )


@needs_full
@pytest.mark.parametrize("write", [full_by_python, full_by_duckdb, full_temporary_folder])
def test_a_full_disk_is_said_with_where_and_what_to_do(write) -> None:
    with pytest.raises(dg.Failure) as raised, as_failures():
        write()
    said = str(raised.value.description)
    assert said.startswith("There is no room left on a disk")
    assert "TMPDIR" in said and "then run this again" in said
    assert ("/dev/full" in said) == (write is full_by_duckdb)


class ClientError(Exception):
    """As the client of an object store names it."""


ClientError.__module__ = "botocore.exceptions"

STORES = [
    ClientError(
        "An error occurred (SlowDown) when calling the PutObject operation: Reduce your rate"
    ),
    ClientError(
        "An error occurred (503) when calling the GetObject operation: Service Unavailable"
    ),
    ClientError("An error occurred (InternalError) when calling the ListObjectsV2 operation"),
    OSError("[Errno 16] Please reduce your request rate: s3://bucket/store/file"),
    duckdb.HTTPException("HTTP Error: Unable to connect to 's3://bucket/x': HTTP 503"),
]


@pytest.mark.parametrize("error", STORES)
def test_an_object_store_that_is_busy_is_told_from_one_that_refuses(error: Exception) -> None:
    meant = meaning_of(error)
    assert isinstance(meant, StoreError)
    assert "The object store does not do its work at the moment" in str(meant)
    assert "tried again" in str(meant)


@pytest.mark.parametrize(
    "error",
    [
        ClientError("An error occurred (AccessDenied) when calling the GetObject operation"),
        ValueError("503"),
        FileNotFoundError("/a/file"),
        KeyError("InternalError"),
    ],
)
def test_any_other_error_stays_what_it_is(error: Exception) -> None:
    assert meaning_of(error) is None
    with pytest.raises(type(error)), as_failures():
        raise error


def test_a_root_on_a_full_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Files(str(tmp_path))

    def full(*_args: object, **_how: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.filesystem, "open", full)
    with pytest.raises(StoreError, match="There is no room left on a disk"):
        files.prepare()
