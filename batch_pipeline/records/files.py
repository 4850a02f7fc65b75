"""Files that records name: where they may be, whether they changed, and what is in them.

A path in a record is data. It is looked up below one declared folder or URL, and nowhere else. A code location
declares them, and loads no DuckDB for it.
"""

import errno
import os
import re
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from batch_pipeline.errors import InputError, plain
from batch_pipeline.settings import project_path

if TYPE_CHECKING:
    import duckdb

MISSING = "missing"
"""The mark of a file that is not there."""
OUTSIDE = "outside"
"""That of a path that leads out of the folder, which is not looked up."""
AS_TEXT = re.compile(r"VARCHAR|U?(TINY|SMALL|BIG)?INT(EGER)?|UUID|ENUM\(.*\)")
"""Types that SQL prints as a template does."""


class FileUnusable(Exception):
    """A record's file cannot be sent; the text says why."""


@dataclass(frozen=True)
class PathText:
    """A path as a template declares it: texts, and between them columns.

    Attributes:
        parts: (text, False) or (column, True), in order.
    """

    parts: tuple[tuple[str, bool], ...]

    @property
    def columns(self) -> list[str]:
        """The columns that it reads."""
        return [part for part, is_column in self.parts if is_column]

    def sql(self) -> str:
        """Return SQL for the path of a row of ``source``; NULL prints as nothing."""
        from batch_pipeline.records.connections import quote_name, quote_text

        texts = [
            f"CAST(source.{quote_name(part)} AS VARCHAR)" if is_column else quote_text(part)
            for part, is_column in self.parts
        ]
        return f"concat({', '.join(texts)})"


@dataclass(frozen=True)
class FilesRead:
    """Which files a question reads of each record.

    Attributes:
        root: the folder or URL that they are in, as declared.
        paths: where each of a record's files is, below it.
    """

    root: str
    paths: tuple[PathText, ...]

    def check(self, types: Mapping[str, str]) -> None:
        """Refuse columns whose text SQL and templates might not print alike.

        Raises:
            InputError: it names the column.
        """
        for path in self.paths:
            for column in path.columns:
                kind = types.get(column, "VARCHAR")
                if not AS_TEXT.fullmatch(kind):
                    raise InputError(
                        f"The column `{column}` is part of a file's path and is {kind}; it must be text or a whole "
                        "number. Cast it in the source's query."
                    )

    def content_sql(self, con: "duckdb.DuckDBPyConnection", content_hash: str) -> str:
        """Return SQL for the UUID of a row's content, the state of its files included.

        Args:
            con: it gets the function that looks at a file; no file is opened.
            content_hash: SQL for the UUID of its columns.

        Raises:
            InputError: the folder is not there.
        """
        import duckdb

        root = FilesRoot(self.root)
        root.check()
        # The instance may be shared with another connection, which has such a function, too.
        name = f"_bp_mark_{secrets.token_hex(8)}"
        text = duckdb.sqltype("VARCHAR")
        con.create_function(name, root.mark, [text], text)
        marks = ", '|', ".join(f"{name}({path.sql()})" for path in self.paths)
        return (
            f"CAST(substr(sha256(concat(CAST({content_hash} AS VARCHAR), {marks})), 1, 32) AS UUID)"
        )


class FilesRoot:
    """The folder or URL below which files are.

    Args:
        declared: as a template declares it.
    """

    def __init__(self, declared: str) -> None:
        self.url = project_path(declared).rstrip("/") or "/"
        self._listed: dict[str, dict[str, Mapping[str, Any]]] = {}

    @cached_property
    def _place(self) -> tuple[Any, str]:
        """The file system, None for the local one, and where in it."""
        import fsspec
        from fsspec.implementations.local import LocalFileSystem

        if "://" not in self.url:
            return None, os.path.realpath(self.url)
        filesystem, inner = fsspec.url_to_fs(self.url)
        if isinstance(filesystem, LocalFileSystem):  # file://, which follows links, too
            return None, os.path.realpath(inner)
        filesystem.invalidate_cache()  # this process may have listed a folder before
        return filesystem, str(inner).rstrip("/")

    def check(self) -> None:
        """Refuse a local folder that is not there: else every file would be taken for missing.

        Raises:
            InputError: it is not.
        """
        filesystem, root = self._place
        if filesystem is None and not os.path.isdir(root):
            raise InputError(
                f"The folder of the files that records name (files_root) is not there: {self.url}. Nothing was asked or "
                "changed. Mount it, make it, or correct files_root (relative paths start at the project root)."
            )

    def inside(self, path: str) -> str:
        """Return where in the file system a path leads.

        Raises:
            FileUnusable: it is none, or leads out of the folder: also by a link.
        """
        filesystem, root = self._place
        out = FileUnusable(
            f"The path {plain(path)!r} leads out of {self.url} (files_root). It was not looked up."
        )
        if not path.strip():
            raise FileUnusable("The record names no file.")
        if filesystem is None:
            try:
                found = os.path.realpath(os.path.join(root, path))
            except (ValueError, OSError):  # no name of a file: a NUL in it, or half a character
                raise out from None
            if os.path.commonpath([root, found]) != root or found == root:
                raise out
            return found
        below = path.removeprefix(f"{self.url}/")
        # Some file systems read %2e as a dot, and a backslash as a slash.
        parts = re.split(r"[/\\]", unquote(unquote(below)))
        if "://" in below or below.startswith("/") or ".." in parts:
            raise out
        return f"{root}/{below}"

    def mark(self, path: str) -> str:
        """Return a text that is another one after each write to a file: by its size and time, or its etag.

        Raises:
            InputError: nobody can say: the file system does not answer.
        """
        from batch_pipeline.records.fingerprint import marks_of

        try:
            place = self.inside(path)
        except FileUnusable:
            return OUTSIDE
        filesystem, _ = self._place
        try:
            if filesystem is None:
                found = os.stat(place)
                if not stat.S_ISREG(found.st_mode):
                    return MISSING
                return f"{found.st_size}:{found.st_mtime_ns}"
            folder, _, name = place.rpartition("/")
            info = self._of(folder).get(name)
        except OSError as error:
            if _is_gone(error):
                return MISSING
            raise InputError(f"{place} cannot be looked at: {error}") from error
        if info is None or info.get("type") == "directory":
            return MISSING
        return ":".join([str(info.get("size")), *marks_of(info)])

    def _of(self, folder: str) -> Mapping[str, Mapping[str, Any]]:
        """Return what is in a folder of an object store by name; it is listed once."""
        if folder not in self._listed:
            filesystem, _ = self._place
            try:
                found = filesystem.ls(folder, detail=True)
            except FileNotFoundError:
                found = []
            self._listed[folder] = {str(one["name"]).rsplit("/", 1)[-1]: one for one in found}
        return self._listed[folder]

    def read(self, path: str, most: int) -> bytes:
        """Return a file's bytes.

        Args:
            path: as the record names it.
            most: a larger one is not read.

        Raises:
            FileUnusable: it is not there, larger, empty, or may not be read.
            InputError: the file system does not answer.
        """
        place = self.inside(path)
        filesystem, _ = self._place
        try:
            size = _size(filesystem, place)
            if size is None:
                raise FileNotFoundError
            if size > most:
                raise FileUnusable(
                    f"The file {plain(path)} is too large: {size:,} bytes; {most:,} at most can be sent."
                )
            data = Path(place).read_bytes() if filesystem is None else filesystem.cat_file(place)
        except OSError as error:
            self.check()
            if isinstance(error, PermissionError):
                raise FileUnusable(f"The file {plain(path)} may not be read.") from error
            if _is_gone(error):
                raise FileUnusable(
                    f"The file {plain(path)} is not there (below {self.url})."
                ) from error
            raise InputError(
                f"The file {plain(path)} cannot be read: {plain(str(error))}. Nothing was sent; run it again when "
                f"{self.url} can be reached."
            ) from error
        if not data:
            raise FileUnusable(f"The file {plain(path)} is empty.")
        if len(data) > most:
            raise FileUnusable(f"The file {plain(path)} is too large: {len(data):,} bytes.")
        return data


def _size(filesystem: Any, place: str) -> int | None:
    """Return a file's size; None when there is none, or it is no file: a pipe would never end."""
    if filesystem is None:
        found = os.stat(place)
        return found.st_size if stat.S_ISREG(found.st_mode) else None
    info = filesystem.info(place)
    return None if info.get("type") == "directory" else int(info.get("size") or 0)


def _is_gone(error: OSError) -> bool:
    names = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)
    return (
        isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError)
        or error.errno in names
    )
