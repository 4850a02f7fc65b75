"""The manifest of a Parquet dataset: which files are its rows, and who may say so next."""

import os
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path

import fsspec
import orjson

from batch_pipeline.errors import InputError

FORMAT = 1
FOLDER = "_manifests"


@dataclass(frozen=True)
class DataFile:
    """One Parquet file of a dataset: all rows of one bucket."""

    bucket: int
    path: str
    rows: int


@dataclass(frozen=True)
class Manifest:
    """One state of a dataset.

    Attributes:
        number: counts up by one with each change.
        key: the key columns, which decide a row's bucket.
        columns: name to DuckDB type, in order; every file has exactly these.
        buckets: how many buckets the keys are spread over.
        files: the data files, at most one per bucket, relative to the dataset's folder.
        owner: the pipeline whose results these are; "" of a manifest that an earlier version wrote.
    """

    number: int
    key: tuple[str, ...]
    columns: dict[str, str]
    buckets: int
    files: tuple[DataFile, ...] = field(default=())
    owner: str = ""

    @property
    def rows(self) -> int:
        """How many rows the dataset has."""
        return sum(file.rows for file in self.files)


@dataclass(frozen=True)
class ManifestFolder:
    """The numbered manifests of one dataset, ``_manifests/00000012.json``; the highest counts."""

    filesystem: fsspec.AbstractFileSystem
    root: str

    def names(self) -> list[str]:
        """Return the paths of all manifests, oldest first."""
        folder = f"{self.root}/{FOLDER}"
        self.filesystem.invalidate_cache()
        if not self.filesystem.isdir(folder):
            return []
        found = self.filesystem.ls(folder, detail=False)
        return sorted(str(name) for name in found if str(name).endswith(".json"))

    def latest(self) -> Manifest | None:
        """Return the dataset's present state; None when there is none yet."""
        names = self.names()
        return self.read(names[-1]) if names else None

    def read(self, name: str) -> Manifest:
        """Return the manifest in the file ``name``.

        Raises:
            InputError: it is damaged.
        """
        try:
            content = orjson.loads(self.filesystem.cat_file(name))
        except orjson.JSONDecodeError as error:
            raise InputError(
                f"The destination's manifest {name} is damaged: it cannot be read as JSON ({error})."
                " Nothing was sent or changed. Bring it back from a backup, or delete it: the next run"
                " puts the rows in again from the store, at no cost."
            ) from error
        return Manifest(
            number=content["number"],
            key=tuple(content["key"]),
            columns=dict(content["columns"]),
            buckets=content["buckets"],
            files=tuple(DataFile(**file) for file in content["files"]),
            owner=content.get("owner", ""),
        )

    def publish(self, manifest: Manifest) -> bool:
        """Make ``manifest`` the present state, all or nothing.

        Returns:
            False when another writer took the number first: nothing has changed then. On an object
            store without conditional writes, two writers at the same instant are not told apart.
        """
        content = orjson.dumps(
            {"format": FORMAT, **asdict(manifest), "columns": list(manifest.columns.items())}
        )
        path = f"{self.root}/{FOLDER}/{manifest.number:08d}.json"
        if "file" in _protocols(self.filesystem):
            return _link_new(Path(path), content)
        return _create_new(self.filesystem, path, content)


def _protocols(filesystem: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def _link_new(path: Path, content: bytes) -> bool:
    """Create a local file with all its content at once; False when it exists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with draft.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    return True


def _create_new(filesystem: fsspec.AbstractFileSystem, path: str, content: bytes) -> bool:
    filesystem.invalidate_cache()
    if filesystem.exists(path):
        return False
    try:
        filesystem.pipe_file(path, content, mode="create")
    except FileExistsError:
        return False
    except (NotImplementedError, TypeError):
        filesystem.pipe_file(path, content)
    return True
