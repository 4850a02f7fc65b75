"""The store's files: immutable, named once, on a local disk or in an object store.

A file counts only once a ledger row names it, so nothing here relies on renames. What is being
written lives in a scratch folder of this machine and is put in place whole.
"""

import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import fsspec

from batch_pipeline.errors import StoreError
from batch_pipeline.store.trouble import meaning_of

SCRATCH = ".scratch"
STALE_SCRATCH_SECONDS = 24 * 3600
MAGIC = b"PAR1"
"""What a Parquet file begins and ends with."""
PART = re.compile(r"[\w .=-]+", re.ASCII)
"""What may stand between the slashes of a name: nothing that a file system, a URL or DuckDB would
read as more than a letter; dots alone do not do, either."""
PATTERN = re.compile(r"[*?\[]")
"""What DuckDB takes for a pattern: it would read the files of ``data1`` for those of ``data[1]``."""


class Files:
    """Files under one root.

    Args:
        root: an absolute path, or a URL that fsspec understands (``s3://bucket/prefix``).

    Raises:
        StoreError: there is no filesystem for the URL, or it cannot be taken literally; and from
            every method: a name that would leave the root.
    """

    def __init__(self, root: str):
        self.root = root
        try:
            self.filesystem, self.base = fsspec.core.url_to_fs(root)
        except (ValueError, ImportError) as error:
            raise StoreError(
                f"The store's root {root} cannot be opened ({error}). Set BatchStore(root=...) to a folder, or to "
                "a URL whose fsspec package is installed (s3fs for s3://, gcsfs for gs://)."
            ) from error
        self.is_local = "file" in _protocols(self.filesystem)
        if found := PATTERN.search(self.base):
            raise StoreError(
                f"The store's root {root} holds {found.group()!r}, which DuckDB reads as a pattern. "
                "Set BatchStore(root=...) to a place without *, ? and [."
            )

    def _path(self, name: str) -> str:
        """Return where a name lies; none leads out of the root, whoever wrote the ledger."""
        if not _is_name(name):
            raise StoreError(
                f"{name[:200]!r} is no name of a file in the store {self.root}. Names are made of "
                "letters, digits and slashes, and lead nowhere else: somebody changed the ledger."
            )
        return f"{self.base}/{name}"

    def prepare(self) -> None:
        """Make the root, and prove that it can be written.

        Raises:
            StoreError: it cannot.
        """
        # Of threads, and of containers that share a store, several may have one process id.
        probe = f"{self.base}/.writable-{secrets.token_hex(8)}"
        try:
            self.filesystem.makedirs(self.base, exist_ok=True)
            with self.filesystem.open(probe, "wb") as out:
                out.write(b"ok")
            self.filesystem.rm_file(probe)
        except Exception as error:
            if meant := meaning_of(error):
                raise meant from error
            raise StoreError(
                f"The store's root {self.root} cannot be written ({error}). Give the user that "
                "runs Dagster "
                "write access to it, or set BatchStore(root=...) to a place that it can write."
            ) from error

    def url(self, name: str) -> str:
        """Return where ``name`` lives, in the form DuckDB reads (a path, or a URL; see ``register``)."""
        path = self._path(name)
        return path if self.is_local else self.filesystem.unstrip_protocol(path)

    def register(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let a DuckDB connection read this store's URLs."""
        if self.is_local:
            return
        # The source may be in the same object store, and be known to the connection already.
        if not any(map(connection.filesystem_is_registered, _protocols(self.filesystem))):
            connection.register_filesystem(self.filesystem)

    def exists(self, name: str) -> bool:
        """Return whether the file is there."""
        return self.filesystem.exists(self._path(name))

    def names(self, folder: str) -> set[str]:
        """Return the names of all files under a folder; of the whole store when it is "".

        Left out is what cannot be a name of ours, such as a file that somebody else put there.
        """
        path = self._path(folder) if folder else self.base.rstrip("/")
        self.filesystem.invalidate_cache(path)
        if not self.filesystem.exists(path):
            return set()
        start = len(self.base.rstrip("/")) + 1
        names = (found[start:] for found in self.filesystem.find(path))
        return set(filter(_is_name, names))

    def present(self, names: Iterable[str]) -> set[str]:
        """Return those of the names that are there, wherever they lie: a renamed pipeline has two folders."""
        wanted = set(names)
        folders = {name.split("/", 1)[0] for name in wanted}
        return wanted & {name for folder in folders for name in self.names(folder)}

    def damaged(self, names: Iterable[str]) -> set[str]:
        """Return those Parquet files, of names that are there, which were emptied or cut short.

        Of an object store none: a file is whole there, or is not there.
        """
        if not self.is_local:
            return set()
        return {name for name in names if not is_whole_parquet(self._path(name))}

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders right in a folder ("": the root); one cheap listing."""
        return [name for name, is_folder in self._listed(folder) if is_folder]

    def file_names(self, folder: str) -> list[str]:
        """Return the names of the files right in a folder; none when it is not there."""
        return [name for name, is_folder in self._listed(folder) if not is_folder]

    def _listed(self, folder: str) -> list[tuple[str, bool]]:
        """Return what is right in a folder and has a name that can be ours, and which are folders."""
        path = self._path(folder) if folder else self.base.rstrip("/")
        try:
            if self.is_local:
                with os.scandir(path) as found:
                    there = [(one.name, one.is_dir()) for one in found]
            else:
                self.filesystem.invalidate_cache(path)
                there = [
                    (one["name"].rstrip("/").rsplit("/", 1)[-1], one["type"] == "directory")
                    for one in self.filesystem.ls(path, detail=True)
                ]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [(name, is_folder) for name, is_folder in there if _is_name(name)]

    def size(self, name: str) -> int:
        """Return the file's size in bytes."""
        return self.filesystem.size(self._path(name))

    def open(self, name: str):
        """Open a file for reading bytes."""
        return self.filesystem.open(self._path(name), "rb")

    def put(self, local_path: str, name: str) -> str:
        """Put a finished local file in place, durably and whole, and return its name.

        The local file is gone afterwards. Putting the same name twice leaves the later one.
        """
        target = self._path(name)
        if not self.is_local:
            self.filesystem.put_file(local_path, target)
            os.unlink(local_path)
            return name
        parent = os.path.dirname(target)
        os.makedirs(parent, exist_ok=True)
        with open(local_path, "rb") as done:
            os.fsync(done.fileno())
        os.replace(local_path, target)
        _sync_folder(parent)
        return name

    def new_part(self) -> str:
        """Return a short random part for names that no other process may share."""
        return secrets.token_hex(3)

    def remove(self, name: str) -> None:
        """Remove a file or a folder that no ledger row names. Missing is fine."""
        path = self._path(name)
        if self.filesystem.exists(path):
            self.filesystem.rm(path, recursive=True)

    @contextmanager
    def local(self, name: str) -> Iterator[str]:
        """Give a path on this machine that holds the file's bytes, for as long as the block runs."""
        if self.is_local:
            yield self._path(name)
            return
        with self.scratch() as folder:
            path = os.path.join(folder, os.path.basename(name))
            self.filesystem.get_file(self._path(name), path)
            yield path

    @contextmanager
    def scratch(self) -> Iterator[str]:
        """Give a folder on this machine that is gone when the block ends.

        For a local store it lies under the root, on the same disk as the place the files go to;
        what a killed process left there is swept after a day.
        """
        parent = None
        if self.is_local:
            parent = os.path.join(self.base, SCRATCH)
            os.makedirs(parent, exist_ok=True)
            _sweep(parent)
        folder = tempfile.mkdtemp(prefix="bp-", dir=parent)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def is_whole_parquet(path: str) -> bool:
    """Return whether a local file begins and ends as a Parquet file does."""
    try:
        with open(path, "rb") as file:
            head = file.read(4)
            if head != MAGIC or file.seek(0, os.SEEK_END) < 3 * len(MAGIC):
                return False
            file.seek(-len(MAGIC), os.SEEK_END)
            return file.read(4) == MAGIC
    except FileNotFoundError:
        return False


def _is_name(name: str) -> bool:
    return all(PART.fullmatch(part) and part.strip(".") for part in name.split("/"))


def _protocols(filesystem) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def _sync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(parent: str) -> None:
    for folder in Path(parent).iterdir():
        try:
            if time.time() - folder.stat().st_mtime > STALE_SCRATCH_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
        except FileNotFoundError:
            continue
