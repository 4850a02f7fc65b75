"""The rows of results as Parquet files: hash-bucketed files behind one manifest."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import fsspec
import pyarrow as pa

from batch_pipeline.errors import InputError
from batch_pipeline.records.connections import (
    SMALL_MEMORY,
    is_unreadable,
    memory_connection,
    with_enough_memory,
)
from batch_pipeline.results.bucket_merge import DATA_FOLDER, merge_buckets, rows_sql
from batch_pipeline.results.manifest import FOLDER, Manifest, ManifestFolder
from batch_pipeline.results.merging import (
    Merged,
    OvertakenError,
    Rows,
    Snapshot,
    Wanted,
    Writer,
    check_key_is_there,
    copy_rows,
    is_read_only,
    nearest,
)
from batch_pipeline.results.readable import rows_of
from batch_pipeline.store.files import is_whole_parquet
from batch_pipeline.store.tally import Tally

log = logging.getLogger(__name__)

MAX_LOST_RACES = 100
"""How often a merge starts again because another writer was faster."""


class ParquetRows:
    """The rows of a ``ParquetDataset``, whose fields these are, read at run time."""

    def __init__(self, url: str, rows_per_bucket: int, grace_seconds: float) -> None:
        """Read nothing yet."""
        self._url, self._rows_per_bucket = url, rows_per_bucket
        self._grace_seconds = grace_seconds

    def check(self, wanted: Wanted | None = None) -> None:
        """Check that results may be written here; to be called before any money is spent.

        Args:
            wanted: whose results they are.

        Raises:
            InputError: the folder holds something else, or the results of another pipeline, or
                cannot be written.
        """
        filesystem, root = self._filesystem()
        self._check_writable()
        if not filesystem.exists(root):
            return
        if (manifest := ManifestFolder(filesystem, root).latest()) is not None:
            if wanted is not None:
                wanted.writer.check_owner(manifest.owner, self._place)
                check_key_is_there(wanted.key, manifest.columns, self._place)
            return
        if not filesystem.isdir(root):
            raise InputError(f"The destination {self._url} is a file. Name an empty or new folder.")
        found = map(_last_part, filesystem.ls(root, detail=False))
        others = sorted(name for name in found if name not in (DATA_FOLDER, FOLDER))
        if others:
            raise InputError(
                f"The destination {self._url} holds files that batch_pipeline did not write"
                f" ({', '.join(others[:3])}). Nothing in it was changed. Name an empty or new"
                f" folder."
            )

    def _check_writable(self) -> None:
        """Check that a local folder, and what is in it, or where it is to be made, is not read-only."""
        if "://" in self._url:
            return
        root = Path(self._url)
        inside = [one for one in (root / DATA_FOLDER, root / FOLDER) if one.exists()]
        for one in (nearest(root), *inside):
            if is_read_only(one):
                raise InputError(
                    f"The destination ({self._place}) cannot be written: {one} is read-only for the"
                    " user that runs this. Nothing was sent or changed. Give that user write access,"
                    " or name another destination."
                )

    def snapshot(self, key: Sequence[str], path: str | None, only: str | None = None) -> Snapshot:
        """Return what the dataset holds now, with its rows' custom_ids and keys in a file.

        Args:
            key: the key columns.
            path: a local file to write; None: none.
            only: a local Parquet file of custom_ids: other rows are left out.

        Raises:
            InputError: the folder holds something else, or was filled under another key.
        """
        self.check()
        manifest = self._manifest()
        if manifest is None:
            return Snapshot(0, {}, None, None)
        check_key_is_there(key, manifest.columns, self._place)
        there = self._there(manifest)
        try:
            tally = self._copy(there, key, path, only)
        except Exception as error:
            readable = self._readable(there, error)
            tally = self._copy(readable, key, path, only)
        # Nobody adds columns to these files: all are ours.
        ours = frozenset(name.lower() for name in manifest.columns)
        return Snapshot(manifest.number, manifest.columns, ours, path, manifest.owner, tally)

    def _copy(
        self, manifest: Manifest, key: Sequence[str], path: str | None, only: str | None
    ) -> Tally:
        with memory_connection(SMALL_MEMORY) as con:
            rows = rows_sql(con, self._url, manifest)
            return with_enough_memory(
                con, lambda: copy_rows(con, rows, manifest.columns, key, path, only)
            )

    def _readable(self, manifest: Manifest, error: Exception) -> Manifest:
        """Return the state without the files that are damaged in their middle; raise ``error`` if none is."""
        if not is_unreadable(error):
            raise error
        whole = tuple(
            file for file in manifest.files if rows_of(f"{self._url}/{file.path}") is not None
        )
        if len(whole) == len(manifest.files):
            raise error
        return replace(manifest, files=whole)

    def _there(self, manifest: Manifest) -> Manifest:
        """Return the state without the files that somebody deleted or damaged: their rows are gone."""
        filesystem, root = self._filesystem()
        folder = f"{root}/{DATA_FOLDER}"
        filesystem.invalidate_cache()
        found = filesystem.ls(folder, detail=False) if filesystem.isdir(folder) else []
        names = {f"{DATA_FOLDER}/{_last_part(name)}" for name in found}
        if "://" not in self._url:
            names = {name for name in names if is_whole_parquet(f"{self._url}/{name}")}
        return replace(manifest, files=tuple(f for f in manifest.files if f.path in names))

    def whose(self) -> tuple[int, str]:
        """Return which state of the dataset this is, and the pipeline whose it is; "" when none says so."""
        manifest = self._manifest()
        return (manifest.number, manifest.owner) if manifest else (0, "")

    @property
    def _place(self) -> str:
        return f"Parquet dataset {self._url}"

    def columns(self) -> dict[str, str]:
        """Return the columns, name to DuckDB type, in order; empty when nothing was merged."""
        manifest = self._manifest()
        return manifest.columns if manifest else {}

    def key(self) -> tuple[str, ...]:
        """Return the key columns; none when nothing was merged."""
        manifest = self._manifest()
        return manifest.key if manifest else ()

    def row_count(self) -> int:
        """Return how many rows there are."""
        manifest = self._manifest()
        return manifest.rows if manifest else 0

    def files(self) -> list[str]:
        """Return the paths (or URLs) of the Parquet files that are the dataset's rows now."""
        manifest = self._manifest()
        return [f"{self._url}/{file.path}" for file in manifest.files] if manifest else []

    def sample(self, n: int) -> pa.Table:
        """Return any ``n`` rows."""
        with memory_connection(SMALL_MEMORY) as con:
            return con.sql(f"SELECT * FROM {self.relation(con)} LIMIT {int(n)}").to_arrow_table()

    def look(self) -> str | None:
        """Return the name of the newest manifest, which each write makes; None: there is none."""
        names = ManifestFolder(*self._filesystem()).names()
        return names[-1] if names else None

    def relation(self, con: duckdb.DuckDBPyConnection) -> str:
        """Return SQL that reads all rows through ``con``, as in ``SELECT * FROM <it>``."""
        manifest = self._manifest()
        if manifest is None:
            raise InputError(f"There are no results yet at {self._url}.")
        return rows_sql(con, self._url, manifest)

    def merge(
        self,
        rows: str | Rows | None,
        key: Sequence[str],
        deleted_path: str | None,
        writer: Writer | None = None,
    ) -> Merged:
        """Put rows into the dataset and take rows out, in one step.

        The step is the creation of the next manifest. A crash before it leaves the old rows; a
        writer that finds the number taken starts again from the other writer's rows.

        Args:
            rows: a local Parquet file of result rows, unique by key, or a query for them; each
                replaces the row of its key. Columns the dataset lacks are added, types are widened where needed.
            key: the key columns.
            deleted_path: a local Parquet file with the key columns of rows to remove.
            writer: whose rows they are, and which manifest they are meant to follow.

        Raises:
            InputError: the folder holds something else, or the results of another pipeline, or was
                filled under another key.
            OvertakenError: another writer changed it since ``writer`` looked at it.
        """
        self.check()
        filesystem, root = self._filesystem()
        folder = ManifestFolder(filesystem, root)
        for _ in range(MAX_LOST_RACES):
            before = folder.latest()
            if writer is not None:
                writer.check_owner(before and before.owner, self._place)
                # The next manifest gets the next number, which only one writer can take: what is
                # compared here holds until then.
                writer.check_generation(before.number if before else 0)
            if before is None and rows is None:
                return Merged(0, 0, 0, 0)
            if before is not None:
                check_key_is_there(key, before.columns, self._place)
                before = self._there(before)
            if "://" not in self._url:
                Path(self._url, DATA_FOLDER).mkdir(parents=True, exist_ok=True)
            try:
                after = merge_buckets(
                    self._url, before, rows, key, deleted_path, self._rows_per_bucket
                )
            except Exception as error:
                if before is None:
                    raise
                # Their other rows are lost, too: whoever looks again sees it, and has all of them.
                readable = self._readable(before, error)
                folder.publish(replace(readable, number=before.number + 1))
                raise OvertakenError from error
            owner = writer.pipeline if writer else before.owner if before else ""
            if folder.publish(replace(after.manifest, owner=owner)):
                self._sweep(folder)
                return after.merged
            for file in after.written:
                filesystem.rm_file(f"{root}/{file.path}")
        raise InputError(
            f"Other writers kept changing {self._url}: {MAX_LOST_RACES} merges in a row came too"
            f" late. Let fewer pipelines write there at the same time."
        )

    def sign(self, writer: Writer) -> None:
        """Write down, by another manifest of the same files, that they are this writer's."""
        folder = ManifestFolder(*self._filesystem())
        before = folder.latest()
        if before is None:
            return
        writer.check_owner(before.owner, self._place)
        writer.check_generation(before.number)
        after = replace(before, number=before.number + 1, owner=writer.pipeline)
        if not folder.publish(after):
            raise OvertakenError

    def sweep(self) -> None:
        """Delete manifests but the last, and files that it does not name, without any grace.

        Nobody may be merging meanwhile.
        """
        folder = ManifestFolder(*self._filesystem())
        if folder.latest() is not None:
            self._sweep(folder, 0.0)

    def _sweep(self, folder: ManifestFolder, grace_seconds: float | None = None) -> None:
        """Delete manifests, and files that no manifest names, that are older than the grace."""
        filesystem = folder.filesystem
        grace = self._grace_seconds if grace_seconds is None else grace_seconds
        oldest = datetime.now(UTC) - timedelta(seconds=grace)

        def is_old(name: str) -> bool:
            return grace <= 0 or filesystem.modified(name) < oldest

        try:
            *earlier, _ = names = folder.names()
            dropped = {name for name in earlier if is_old(name)}
            named = {
                file.path
                for name in names
                if name not in dropped
                for file in folder.read(name).files
            }
            data = filesystem.ls(f"{folder.root}/{DATA_FOLDER}", detail=False)
            unnamed = [
                str(name)
                for name in data
                if f"{DATA_FOLDER}/{_last_part(name)}" not in named and is_old(name)
            ]
            for name in (*unnamed, *dropped):
                filesystem.rm_file(name)
        except (OSError, InputError) as error:
            # The merge itself is done; the next one tries again.
            log.warning("Old files of %s could not be deleted: %s", self._url, error)

    def _manifest(self) -> Manifest | None:
        return ManifestFolder(*self._filesystem()).latest()

    def _filesystem(self) -> tuple[fsspec.AbstractFileSystem, str]:
        filesystem, root = fsspec.url_to_fs(self._url)
        return filesystem, root.rstrip("/")


def _last_part(path: object) -> str:
    return str(path).rstrip("/").rsplit("/", 1)[-1]
