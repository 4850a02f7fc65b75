"""The files of a Parquet source: which ones a path names, and what their folders say."""

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

import duckdb
import fsspec

from batch_pipeline.errors import InputError
from batch_pipeline.records.connections import (
    quote_files,
    quote_list,
    quote_name,
    quote_paths,
    quote_text,
)

FILE = "_bp_file"
"""The column that holds each row's file while its folders are read."""
FORMATS = {
    "_delta_log": ("a Delta table", "delta_scan"),
    "metadata": ("an Iceberg table", "iceberg_scan"),
    ".hoodie": ("a Hudi table", None),
}
"""The folder that tells a table format: what it is called, and DuckDB's function that reads it."""
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"

MOST_DIGITS = 38
"""Of a DECIMAL in DuckDB."""


def list_files(path: str, endings: tuple[str, ...] = (".parquet",)) -> dict[str, dict[str, Any]]:
    """Return the files that a source's path names, by URL or local path, with what the file system tells of
    each; none when there are none. In a folder it takes those whose names end with one of ``endings``.

    As Spark's and Hive's readers do, it passes over names that begin with ``_`` or ``.``, in folders
    and where a pattern does not say so itself: they are not written yet, or no data.
    """
    filesystem, inner = fsspec.url_to_fs(path)
    filesystem.invalidate_cache()  # this process may have listed the folder before
    local = "://" not in path
    if filesystem.isdir(inner):
        root, pattern = inner.rstrip("/"), []
        found = {
            name: info
            for name, info in filesystem.find(inner, detail=True).items()
            if str(name).endswith(endings)
        }
    elif filesystem.isfile(inner):
        root, pattern = str(PurePosixPath(inner).parent), [PurePosixPath(inner).name]
        found = {inner: filesystem.info(inner)}
    else:
        root, pattern = _split(filesystem, inner)
        literal = root.replace("[", "[[]")
        found = {
            name: info
            for name, info in filesystem.glob("/".join([literal, *pattern]), detail=True).items()
            if info.get("type") == "file"
        }
    return {
        str(name) if local else filesystem.unstrip_protocol(name): dict(info)
        for name, info in sorted(found.items())
        if _is_data(str(name)[len(root) :], pattern)
    }


def matching_files(path: str) -> list[str]:
    """Return the files that a Parquet source reads.

    Raises:
        InputError: there are none, or a log beside them says which of them count.
    """
    found = list(list_files(path))
    _refuse_tables(path)
    if not found:
        raise InputError(
            f"No Parquet file matches {path}. Correct `path`"
            f" (relative paths start at the project root), or write the files first."
            f" Names that begin with `_` or `.` are passed over."
        )
    return found


def files_sql(connection: duckdb.DuckDBPyConnection, files: Sequence[str]) -> str:
    """Return a SELECT of the rows of files, with the values of their folders as columns.

    A folder ``day=2026-03-01`` makes a column ``day`` where the files have none; a file outside of
    such folders has NULL there. Where they have one, its values stay what they are.

    Raises:
        InputError: a folder says something else than its files' own column of that name.
    """
    plain = f"read_parquet({quote_files(files)}, union_by_name = true)"
    alike = _by_folder_names(files)
    folders = sorted({name for names in alike for name in names})
    if not folders:
        return f"SELECT * FROM {plain}"
    own = _columns(connection, plain)
    spelled = {name.lower(): name for name in own}
    both = {spelled[name.lower()]: name for name in folders if name.lower() in spelled}
    if not both and len(alike) == 1:
        return f"SELECT * FROM read_parquet({quote_paths(files)}, union_by_name = true)"
    rows = f"read_parquet({quote_files(files)}, union_by_name = true, filename = '{FILE}')"
    for column, folder in both.items():
        _check_agreement(connection, rows, column, own[column], folder)
    replaced = ", ".join(
        f"coalesce({quote_name(column)}, TRY_CAST({_folder_value(folder)} AS {own[column]}))"
        f" AS {quote_name(column)}"
        for column, folder in both.items()
    )
    added = "".join(
        f", CAST({_folder_value(name)} AS {kind}) AS {quote_name(name)}"
        for name, kind in _folder_columns(connection, alike).items()
        if name.lower() not in spelled
    )
    replaced = f" REPLACE ({replaced})" if both else ""
    return f"SELECT * EXCLUDE ({FILE}){replaced}{added} FROM {rows}"


def check_decimals(connection: duckdb.DuckDBPyConnection, files: Sequence[str], path: str) -> None:
    """Check that no file has decimals of more digits than DuckDB has: it reads them as DOUBLE.

    Args:
        connection: it has the files as the view ``source``.
        files: the files.
        path: what was declared, for the message.

    Raises:
        InputError: one has; it names the column, and says what to do.
    """
    if not any("DOUBLE" in kind for kind in _columns(connection, "source").values()):
        return
    found = connection.execute(
        "SELECT file_name, name, precision, scale FROM"
        f" parquet_schema({quote_paths(files)}) WHERE precision > {MOST_DIGITS} LIMIT 1"
    ).fetchone()
    if found is None:
        return
    file, name, digits, places = found
    raise InputError(
        f"The column `{name}` of {file} (Parquet files at {path}) holds decimals of {digits} digits"
        f" ({places} behind the point), and DuckDB would read them as DOUBLE, of 15 digits, without a"
        f" word. Nothing was sent. Write it as decimal({MOST_DIGITS}, ...) or as text, for example with"
        f' pyarrow: table.set_column(i, name, table[name].cast("string")). If 15 digits will do, read the'
        f" files through DuckDB: DuckDBSource(database=..., key=..., query="
        f'"select * from read_parquet({quote_list([path])})").'
    )


def _split(filesystem: Any, path: str) -> tuple[str, list[str]]:
    """Return the folder that a pattern starts from, and the parts of the pattern below it."""
    parts = path.split("/")
    for place, part in enumerate(parts):
        is_pattern = any(sign in part for sign in "*?[")
        if is_pattern and not (
            set("*?").isdisjoint(part) and filesystem.isdir("/".join(parts[: place + 1]))
        ):
            return "/".join(parts[:place]), parts[place:]
    return "/".join(parts[:-1]), parts[-1:]


def _is_data(below: str, pattern: Sequence[str]) -> bool:
    """Return whether a file is one to read, by the part of its path that was not given as it is."""
    return not any(
        part.startswith(("_", "."))
        and not ("=" in part and part.startswith("_"))  # a folder that holds a column's value
        and not any(given[0] == part[0] and fnmatchcase(part, given) for given in pattern if given)
        for part in below.split("/")
        if part
    )


def _refuse_tables(path: str) -> None:
    """Refuse the files of a table format: its log tells which of them are its rows now."""
    filesystem, inner = fsspec.url_to_fs(path)
    for name in _around(filesystem, inner):
        folder, log = _log_of(name)
        if log is None or not _is_data(folder[len(inner.rstrip("/")) :], []):
            continue
        called, function = FORMATS[log]
        table = folder if "://" not in path else filesystem.unstrip_protocol(folder)
        if function:
            query = f"select * from {function}({quote_text(table)})"
            way = (
                f'Read it through DuckDB: DuckDBSource(database=..., key=..., query="{query}").'
                " `database` may be any DuckDB file."
            )
        else:
            way = (
                "DuckDB has no reader for it: let a job write its rows as plain Parquet into a folder,"
                " and name that."
            )
        raise InputError(
            f"{table} is {called}: its files also hold rows that were replaced or deleted, and only"
            f" its log ({log}) says which count. {way}"
        )


def _around(filesystem: Any, path: str) -> Iterator[str]:
    """Yield the names of files that may be a log: below a folder, or beside what a pattern names."""
    if filesystem.isdir(path):
        yield from map(str, filesystem.find(path))
    elif not filesystem.isfile(path):
        root = _split(filesystem, path)[0]
        for folder in (root, *map(str, list(PurePosixPath(root).parents)[:2])):
            for log in FORMATS:
                if filesystem.isdir(f"{folder}/{log}"):
                    yield from map(str, filesystem.ls(f"{folder}/{log}", detail=False))


def _log_of(name: str) -> tuple[str, str | None]:
    """Return the folder and the log's name when a file belongs to a table format's log."""
    *parts, last = name.split("/")
    for place, part in enumerate(parts):
        is_iceberg = last.endswith(".metadata.json") or last == "version-hint.text"
        if part in FORMATS and (part != "metadata" or is_iceberg):
            return "/".join(parts[:place]), part
    return "", None


def _by_folder_names(files: Sequence[str]) -> dict[frozenset[str], list[str]]:
    """Return files by the names that their folders give values to, as in ``day=2026-03-01``."""
    found: dict[frozenset[str], list[str]] = {}
    for file in files:
        parts = (part.partition("=") for part in file.split("/")[:-1])
        names = frozenset(name for name, sign, _ in parts if name and sign)
        found.setdefault(names, []).append(file)
    return found


def _folder_columns(
    connection: duckdb.DuckDBPyConnection, alike: Mapping[frozenset[str], Sequence[str]]
) -> dict[str, str]:
    """Return the columns that folders make, in DuckDB's order, with the types it finds in them.

    DuckDB makes no column of folders that not every file has: it is asked about files alike.
    """
    kinds: dict[str, set[str]] = {}
    spelled: dict[str, str] = {}
    for names, files in alike.items():
        found = _columns(connection, f"read_parquet({quote_paths(files)})") if names else {}
        for name in names & found.keys():
            kinds.setdefault(name.lower(), set()).add(found[name])
            spelled[name.lower()] = max(name, spelled.get(name.lower(), name))
    types = {spelled[low]: next(iter(k)) if len(k) == 1 else "VARCHAR" for low, k in kinds.items()}
    return dict(sorted(types.items()))


def _folder_value(name: str) -> str:
    """Return SQL for what a row's folders say of a name; NULL when they say nothing."""
    found = quote_text(f"(?i)/{re.escape(name)}=([^/]*)/")
    value = f"url_decode(regexp_extract({FILE}, {found}, 1))"
    return f"CASE WHEN regexp_matches({FILE}, {found}) THEN nullif({value}, {quote_text(NO_VALUE)}) END"


def _columns(connection: duckdb.DuckDBPyConnection, rows: str) -> Mapping[str, str]:
    return {
        row[0]: row[1] for row in connection.execute(f"DESCRIBE SELECT * FROM {rows}").fetchall()
    }


def _check_agreement(
    connection: duckdb.DuckDBPyConnection, rows: str, column: str, kind: str, folder: str
) -> None:
    """Check that no folder says something else than the rows below it."""
    own, said = quote_name(column), _folder_value(folder)
    text = f"CAST({own} AS VARCHAR)"
    same = f"{text} = {said} OR coalesce(TRY_CAST({said} AS {kind}) = {own}, false)"
    if kind.startswith(("DATE", "TIMESTAMP")):
        same += f" OR starts_with({text}, {said})"  # a moment, in the folder of its day
    differs = connection.execute(
        f"SELECT {text}, {said}, {FILE} FROM {rows}"
        f" WHERE {own} IS NOT NULL AND {said} IS NOT NULL AND NOT ({same}) LIMIT 1"
    ).fetchone()
    if differs is None:
        return
    value, folders, file = differs
    raise InputError(
        f"The column `{column}` of {file} holds {value}, and its folder says {folder}={folders}."
        f" Which one counts is not for us to say. Give the folder or the column another name, or read"
        f" the files through DuckDB: DuckDBSource(database=..., key=..., query="
        f'"select * from read_parquet({quote_list([file])}, hive_partitioning = false)").'
    )
