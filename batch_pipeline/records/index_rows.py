"""Reading index files: each where it is, or where its rows are compacted."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from batch_pipeline.records.connections import quote_files
from batch_pipeline.store.submissions import IndexRow

COLUMNS = "key_hash, content_hash, version, custom_id, attempt, status"
NO_ROWS = (
    "SELECT NULL::UUID AS key_hash, NULL::UUID AS content_hash, '' AS version, '' AS custom_id,"
    " 0 AS attempt, '' AS status, 0::BIGINT AS file WHERE false"
)


@dataclass(frozen=True)
class IndexRows:
    """Index files as SQL.

    Attributes:
        sql: a query for their rows: the columns of an index file, and ``file``, a number for the file.
        numbers: of each file, in the order in which they were given. A row of another number is of a file
            that was not given.
        paths: the files that are read.
    """

    sql: str
    numbers: list[int]
    paths: list[str]


@dataclass(frozen=True)
class Located:
    """Where the rows of an index file are.

    Attributes:
        path: the file itself.
        compacted: the compaction that has its rows; None: there is none.
        place: the file's place in that.
    """

    path: str
    compacted: str | None = None
    place: int | None = None


def located(rows: Iterable[IndexRow], url: Callable[[str], str]) -> list[Located]:
    """Return where index files of the ledger are; ``url`` says where a file of the store is."""
    return [Located(url(row.name), row.compacted and url(row.compacted), row.place) for row in rows]


def index_rows(files: Sequence[Located]) -> IndexRows:
    """Return SQL for the rows of index files; of none of them, for no rows.

    What was only selected is left out of a compaction: all of it came to something, which is in it.
    """
    alone = [file.path for file in files if file.compacted is None]
    last: dict[str, int] = {}
    for file in files:
        if file.compacted is not None and file.place is not None:
            last[file.compacted] = max(last.get(file.compacted, 0), file.place)
    first: dict[str, int] = {}
    at = len(alone)
    for path, place in last.items():
        first[path] = at
        at += place + 1
    places = iter(range(len(alone)))
    numbers = [
        next(places) if file.compacted is None else first[file.compacted] + (file.place or 0)
        for file in files
    ]
    # A compaction may go on with files that were not given: their numbers would be those of the next one.
    parts = [
        f"SELECT {COLUMNS}, rows.file + {start} AS file FROM read_parquet({quote_files([path])}) AS rows"
        f" WHERE rows.file <= {last[path]}"
        for path, start in first.items()
    ]
    if alone:
        parts.append(
            f"SELECT {COLUMNS}, CAST(file_index AS BIGINT) AS file"
            f" FROM read_parquet({quote_files(alone)}, union_by_name = true)"
        )
    return IndexRows(" UNION ALL ".join(parts) or NO_ROWS, numbers, [*alone, *first])
