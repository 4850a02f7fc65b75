"""DuckDB connections: short, bounded in memory, and patient with a database file that is in use."""

import ctypes
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import duckdb
import fsspec
import pyarrow as pa
import tenacity

from batch_pipeline.errors import InputError, LostFileError, sentence
from batch_pipeline.settings import LOCK_WAIT_SECONDS
from batch_pipeline.store.trouble import meaning_of

MEMORY_LIMIT = "512MB"
"""What DuckDB may hold in memory per connection; the rest spills to the system's temp folder."""

SMALL_MEMORY = "128MB"
"""Enough for a night of ordinary size; a start for work that may ask for more.

Measured: with libraries, and what DuckDB takes beside its limit, a process that selects 1,000,000 records
has 393 MB then. Parquet that DuckDB wrote has pages of up to 100 MB, and sorting 100,000 records of 1 KB
read from such a page takes 200 MB: that asks for more.
"""

MANY_ROWS = 1_000_000
"""From here on work on all rows deserves ``MEMORY_LIMIT`` from the start."""

MORE_MEMORY = ("256MB", "1GB")
"""What it may hold after the limit before was too low; after that, whatever DuckDB's default is."""
ASIDE_MEMORY = "32MB"
"""What a connection may hold while another one works."""


_most_megabytes = 256
"""What the store allows; see ``limit_memory``."""

UNREADABLE = (
    duckdb.IOException,
    duckdb.InvalidInputException,
    duckdb.SerializationException,
    duckdb.InternalException,
    pa.ArrowException,
    FileNotFoundError,
)
"""What DuckDB, Arrow and fsspec raise for a file that is gone, empty, cut short or of another kind."""

Result = TypeVar("Result")

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
"""Of glibc; other C libraries give back what is freed by themselves, or never."""


class DatabaseInUseError(Exception):
    """The file is open elsewhere in a way that excludes us; worth trying again."""


@dataclass(frozen=True)
class OpenDatabase:
    """A connection whose default catalog is one database file."""

    connection: duckdb.DuckDBPyConnection
    catalog: str


def limit_memory(megabytes: int) -> None:
    """Let no connection of this process begin with more memory than this."""
    global _most_megabytes  # of the process, as its memory is
    _most_megabytes = megabytes


def _within_limit(memory_limit: str) -> str:
    """Return a limit, or the store's where that is lower."""
    number, unit = memory_limit[:-2], memory_limit[-2:]
    return f"{min(int(number) * {'MB': 1, 'GB': 1000}[unit], _most_megabytes)}MB"


@contextmanager
def memory_connection(
    memory_limit: str = MEMORY_LIMIT, threads: int | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield an in-memory DuckDB with UTC, a memory limit, and a folder of its own to spill to.

    Where wide rows may need more than ``memory_limit``, work inside ``with_enough_memory``.

    Args:
        memory_limit: what it may hold at first.
        threads: how many it works on; None: one for each core. For statements about a few thousand
            rows more than one cost more than they bring.
    """
    with tempfile.TemporaryDirectory(
        prefix="batch-pipeline-", ignore_cleanup_errors=True
    ) as spill_folder:
        connection = duckdb.connect(
            ":memory:",
            config={
                "memory_limit": _within_limit(memory_limit),
                "temp_directory": spill_folder,
                "preserve_insertion_order": False,
                # A name in a user's query never means a Python variable of ours.
                "python_enable_replacements": False,
                **({} if threads is None else {"threads": threads}),
            },
        )
        try:
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute("SET enable_progress_bar = false")
            # Tells our own instances from shared ones, whose limits are not ours to change.
            connection.execute("SET VARIABLE _bp_memory_step = 0")
            yield connection
        finally:
            connection.close()
            give_memory_back()


def give_memory_back() -> None:
    """Let the system have what was freed: libraries keep it for later, each for itself.

    Without it a process that judged answers still has their memory when it writes its table.
    """
    pa.default_memory_pool().release_unused()
    if _trim is not None:
        _trim(0)


def with_enough_memory(
    connection: duckdb.DuckDBPyConnection, action: Callable[[], Result]
) -> Result:
    """Return what ``action`` returns, repeating it with more memory when DuckDB runs out of it.

    DuckDB works on 2,048 rows at once per thread and can spill none of them: documents of 200 kB
    need half a gigabyte at any limit. ``action`` must bear being repeated.
    """
    while True:
        try:
            return action()
        except duckdb.OutOfMemoryException:
            if not _give_more_memory(connection):
                raise


def allow_memory(connection: duckdb.DuckDBPyConnection, memory_limit: str) -> None:
    """Set the memory limit of a connection of ours; leave a shared instance as it is."""
    if _memory_step(connection) == 0:
        connection.execute(f"SET memory_limit = {quote_text(_within_limit(memory_limit))}")


def compress_texts(connection: duckdb.DuckDBPyConnection) -> None:
    """Let what a connection of ours writes into a database have its texts as zstd.

    DuckDB's search for what is best for them takes most of what a table of texts costs to write, and
    what it finds is larger.
    """
    if _memory_step(connection) is not None:
        connection.execute("SET force_compression = 'zstd'")


@contextmanager
def one_thread(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Let a connection of ours work on one thread for the block: each further one needs memory."""
    if _memory_step(connection) != 0:
        yield
        return
    connection.execute("SET threads = 1")
    try:
        yield
    finally:
        connection.execute("RESET threads")


@contextmanager
def aside(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Let a connection of ours keep its tables on disk for the block, in which another one works."""
    limit = connection.execute("SELECT current_setting('memory_limit')").fetchone()
    assert limit is not None
    with suppress(duckdb.OutOfMemoryException):  # then it keeps what it cannot write
        connection.execute(f"SET memory_limit = {quote_text(ASIDE_MEMORY)}")
    give_memory_back()
    try:
        yield
    finally:
        connection.execute(f"SET memory_limit = {quote_text(limit[0])}")


@contextmanager
def in_order(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Let a connection of ours make tables for the block whose rows are in the order they were read in."""
    if _memory_step(connection) is None:
        yield
        return
    connection.execute("SET preserve_insertion_order = true")
    try:
        yield
    finally:
        connection.execute("SET preserve_insertion_order = false")


@contextmanager
def kept_sides(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Let a connection of ours keep the right side of a join in memory for the block, whichever is smaller."""
    if _memory_step(connection) is None:
        yield
        return
    connection.execute("SET disabled_optimizers = 'build_side_probe_side'")
    try:
        yield
    finally:
        connection.execute("RESET disabled_optimizers")


def _give_more_memory(connection: duckdb.DuckDBPyConnection) -> bool:
    step = _memory_step(connection)
    if step is None or step > len(MORE_MEMORY):
        return False
    if step == len(MORE_MEMORY):
        connection.execute("RESET memory_limit")
    else:
        # A further thread has such rows of its own.
        connection.execute("SET threads = 1")
        connection.execute(f"SET memory_limit = {quote_text(MORE_MEMORY[step])}")
    connection.execute(f"SET VARIABLE _bp_memory_step = {step + 1}")
    return True


def _memory_step(connection: duckdb.DuckDBPyConnection) -> int | None:
    row = connection.execute("SELECT getvariable('_bp_memory_step')").fetchone()
    return row[0] if row else None


@contextmanager
def open_database(
    path: str,
    *,
    read_only: bool,
    wait_seconds: float = LOCK_WAIT_SECONDS,
    memory_limit: str = MEMORY_LIMIT,
    row_group_size: int | None = None,
) -> Iterator[OpenDatabase]:
    """Yield a connection to the DuckDB file at ``path``; close it in any case.

    The file is attached to an in-memory DuckDB, so that memory limit and time zone are ours alone.
    When this process already has the file open, that instance is shared instead.

    Args:
        path: the database file; created when missing unless ``read_only``.
        read_only: nothing can be written, and other readers are let in.
        wait_seconds: how long to wait, in total, while the file is in use elsewhere.
        memory_limit: as for ``memory_connection``; a shared instance keeps its own.
        row_group_size: rows that are held in memory until they are written together, a power of two;
            None: DuckDB's 122,880. A shared instance keeps its own.

    Raises:
        InputError: the file is missing, is no DuckDB database, or stayed in use.
    """
    if read_only and not Path(path).is_file():
        raise InputError(
            f"There is no DuckDB database at {path}. Correct `database`"
            f" (relative paths start at the project root), or create the file first."
        )
    if not read_only:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    with memory_connection(memory_limit) as own:
        how = "READ_ONLY" if read_only else ""
        if row_group_size is not None:
            how = f"ROW_GROUP_SIZE {row_group_size}"
        opened = _when_free(path, wait_seconds, lambda: _open_once(path, own, how))
        try:
            yield opened
        finally:
            if opened.connection is not own:
                opened.connection.close()


def attach_database(
    connection: duckdb.DuckDBPyConnection, path: str, wait_seconds: float = LOCK_WAIT_SECONDS
) -> str:
    """Make the DuckDB file at ``path`` readable through ``connection``; return its catalog's name.

    Raises:
        InputError: the file is missing, is no DuckDB database, or stayed in use.
    """
    attached = connection.execute("SELECT database_name, path FROM duckdb_databases()").fetchall()
    for name, file in attached:
        if file and Path(file).resolve() == Path(path).resolve():
            return name
    catalog = f"{Path(path).stem}_{len(attached)}"
    sql = f"ATTACH {quote_text(path)} AS {quote_name(catalog)} (READ_ONLY)"
    _when_free(path, wait_seconds, lambda: _attach_once(path, connection, sql))
    return catalog


def _when_free(path: str, wait_seconds: float, action: Callable[[], Result]) -> Result:
    """Return what ``action`` returns, trying again while it raises DatabaseInUseError."""
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(DatabaseInUseError),
        stop=tenacity.stop_after_delay(wait_seconds),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=2.0),
        reraise=True,
    )
    try:
        return attempts(action)
    except DatabaseInUseError as error:
        raise InputError(
            f"The DuckDB database {path} stayed in use for {wait_seconds:g} seconds. DuckDB says:"
            f" {error}. Close the program that holds it (a notebook, a DuckDB shell or UI,"
            f" another run), then run this again."
        ) from error


def _open_once(path: str, own: duckdb.DuckDBPyConnection, how: str) -> OpenDatabase:
    catalog = Path(path).stem
    if catalog.lower() in ("memory", "system", "temp"):
        catalog += "_database"
    mode = f" ({how})" if how else ""
    try:
        _attach_once(path, own, f"ATTACH {quote_text(path)} AS {quote_name(catalog)}{mode}")
    except DatabaseInUseError as error:
        if "set lock" in str(error):
            raise
        return _share_instance(path)
    own.execute(f"USE {quote_name(catalog)}")
    return OpenDatabase(own, catalog)


def _share_instance(path: str) -> OpenDatabase:
    """Join the instance that this process has already opened for writing."""
    with _in_use_told_apart(path):
        connection = duckdb.connect(path)
    # Only what is local to this connection: memory and folders belong to the other opener.
    connection.execute("SET SESSION TimeZone = 'UTC'")
    row = connection.execute("SELECT current_database()").fetchone()
    return OpenDatabase(connection, row[0] if row else Path(path).stem)


def _attach_once(path: str, connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    with _in_use_told_apart(path):
        connection.execute(sql)


@contextmanager
def _in_use_told_apart(path: str) -> Iterator[None]:
    """Raise DatabaseInUseError when DuckDB says that the file is in use, InputError otherwise."""
    signs = ("Could not set lock", "file handle conflict", "already attached", "different config")
    try:
        yield
    except duckdb.Error as error:
        text = str(error).rstrip(".")
        if any(sign in text for sign in signs):
            raise DatabaseInUseError(text) from error
        raise InputError(
            f"The DuckDB database {path} cannot be opened. DuckDB says: {text}."
        ) from error


def let_read(connection: duckdb.DuckDBPyConnection, paths: Iterable[str]) -> None:
    """Make object-store URLs among ``paths`` readable (and writable) through fsspec.

    Raises:
        InputError: the URL's protocol is unknown, or its package is not installed.
    """
    for protocol in sorted({path.split("://", 1)[0] for path in paths if "://" in path}):
        if protocol == "file" or connection.filesystem_is_registered(protocol):
            continue
        try:
            connection.register_filesystem(fsspec.filesystem(protocol))
        except (ValueError, ImportError) as error:
            raise InputError(
                f"Files at {protocol}:// cannot be read: {error}. Install the fsspec package for"
                f" this protocol (s3fs for s3://, gcsfs for gs://), or correct the path."
            ) from error


def is_unreadable(error: BaseException) -> bool:
    """Return whether an error says that a file is gone or damaged.

    What is damaged in its middle raises whatever the decoder stumbles over: of DuckDB also its plain Error,
    of Arrow also an OSError without a number.
    """
    if meaning_of(error) is not None:
        return False
    if isinstance(error, OSError):
        return isinstance(error, FileNotFoundError) or error.errno is None
    return isinstance(error, UNREADABLE) or type(error) is duckdb.Error


@contextmanager
def lost_files_told(doing: str, way_on: str) -> Iterator[None]:
    """Raise LostFileError for a file that is gone or damaged.

    Args:
        doing: whose files are read, and what for.
        way_on: what to do next, in whole sentences.
    """
    try:
        yield
    except Exception as error:
        if not is_unreadable(error):
            raise
        raise LostFileError(
            f"{doing}: a file cannot be read: {sentence(first_line(error))} {way_on}"
        ) from error


def quote_name(name: str) -> str:
    """Return ``name`` as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    """Return ``text`` as a SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def quote_list(texts: Iterable[str]) -> str:
    """Return ``texts`` as a SQL list of string literals."""
    return "[" + ", ".join(quote_text(text) for text in texts) + "]"


def quote_files(paths: Iterable[str]) -> str:
    """Return paths as the arguments of ``read_parquet`` that read the columns of these files.

    As it stands ``a[1].parquet`` is a pattern to DuckDB, and reads ``a1.parquet``; and below a
    folder called ``env=prod`` it makes a column ``env``, or puts ``prod`` into the file's own.
    """
    return f"{quote_paths(paths)}, hive_partitioning = false"


def quote_paths(paths: Iterable[str]) -> str:
    """Return paths as a SQL list of patterns, each of which names one file."""
    return quote_list(re.sub(r"[*?\[]", r"[\g<0>]", path) for path in paths)


def first_line(error: Exception) -> str:
    """Return DuckDB's message without the drawing of where in the SQL it happened."""
    return re.split(r"\n\s*\n|\nLINE ", str(error), maxsplit=1)[0].strip()
