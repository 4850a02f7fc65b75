"""What earlier nights tell of the key: how it was spelled when it was hashed, and what has changed.

A record's hash holds the names of the key's columns as they were declared on the first night. Case,
quotes and order make no other key of them, so the spelling of then is found out, and gone on with.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, permutations, product

import duckdb

from batch_pipeline.records.columns import file_columns, stored_type
from batch_pipeline.records.connections import let_read, quote_files, quote_text
from batch_pipeline.records.identity import key_hash_sql
from batch_pipeline.store.erasures import ERASED

MOST_SPELLINGS = 500
MOST_PERMUTED = 4  # columns of a key whose orders are tried
MOST_COMBINED = 6  # columns of a key whose spellings are combined
AT_ONCE = 50


@dataclass(frozen=True)
class Earlier:
    """What a file of earlier records tells.

    Attributes:
        keys: the key's columns, spelled and in the order that hashes go by.
        is_key: whether it was the key then; None when there is nothing to tell by.
        columns: the columns of then, name in lower case to the type they were stored in.
    """

    keys: tuple[str, ...]
    is_key: bool | None = None
    columns: Mapping[str, str] | None = None

    def retyped(self, names: Sequence[str], types: Mapping[str, str]) -> list[str]:
        """Return what became of columns whose type is another one than then, for a message."""
        if self.columns is None:
            return []
        now = {name.lower(): stored_type(kind) for name, kind in types.items()}
        return [
            f"`{name}` was {self.columns[name.lower()]} and is {now[name.lower()]}"
            for name in names
            if name.lower() in self.columns
            and name.lower() in now
            and self.columns[name.lower()] != now[name.lower()]
        ]


def look_back(
    con: duckdb.DuckDBPyConnection,
    keys: Sequence[str],
    types: Mapping[str, str],
    records: Sequence[str],
) -> Earlier:
    """Find out how a key was spelled in earlier nights.

    Args:
        con: a connection that may read ``records``.
        keys: the key's columns, as they are declared now.
        types: the source's columns.
        records: the latest files of selected records, the newest first.
    """
    newest: Earlier | None = None
    for path in records:
        try:
            found = _look_into(con, tuple(keys), types, path)
        except (duckdb.Error, OSError):
            continue  # it is lost, or damaged; an older one may tell
        if found is not None and found.is_key:
            return found
        newest = newest or found
    return newest or Earlier(tuple(keys))


def _look_into(
    con: duckdb.DuckDBPyConnection, keys: tuple[str, ...], types: Mapping[str, str], path: str
) -> Earlier | None:
    let_read(con, [path])
    then = file_columns(con, path)
    lower = {name.lower(): kind for name, kind in then.items()}
    if not all(key.lower() in lower for key in keys):
        return Earlier(keys, False, lower)
    named = {**{name.lower(): name for name in types}, **{name.lower(): name for name in then}}
    sources = {name.lower(): name for name in types}
    spellings = islice(_spellings(keys, named, sources), MOST_SPELLINGS)
    # Of a record that was erased the key is gone, and its hash is not.
    told = f" WHERE _reason IS DISTINCT FROM {quote_text(ERASED)}" if "_reason" in then else ""
    at_once = 1  # most often it is spelled as ever
    while some := list(islice(spellings, at_once)):
        at_once = AT_ONCE
        tests = ", ".join(
            f"_key_hash = {key_hash_sql(one, {key: lower[key.lower()] for key in one}, 'records')}"
            for one in some
        )
        row = con.execute(
            f"SELECT {tests} FROM read_parquet({quote_files([path])}) AS records{told} LIMIT 1"
        ).fetchone()
        if row is None:
            return None
        if True in row:
            return Earlier(some[row.index(True)], True, lower)
    return Earlier(keys, False, lower)


def _spellings(
    keys: tuple[str, ...], then: Mapping[str, str], now: Mapping[str, str]
) -> Iterator[tuple[str, ...]]:
    """Yield what a key may have been called, the likeliest first, each once."""
    orders = list(permutations(keys)) if 1 < len(keys) <= MOST_PERMUTED else [keys]
    forms = {
        key: (
            key,
            now.get(key.lower(), key),
            then.get(key.lower(), key),
            key.lower(),
            key.upper(),
            key.capitalize(),
        )
        for key in keys
    }
    seen: set[tuple[str, ...]] = set()
    for spellings in (_alike, _one_otherwise, _combined):
        for order in orders:
            for spelling in spellings([forms[key] for key in order]):
                if spelling not in seen:
                    seen.add(spelling)
                    yield spelling


def _alike(forms: Sequence[tuple[str, ...]]) -> Iterable[tuple[str, ...]]:
    return zip(*forms, strict=True)


def _one_otherwise(forms: Sequence[tuple[str, ...]]) -> Iterable[tuple[str, ...]]:
    declared = [some[0] for some in forms]
    for place, some in enumerate(forms):
        for form in some:
            yield (*declared[:place], form, *declared[place + 1 :])


def _combined(forms: Sequence[tuple[str, ...]]) -> Iterable[tuple[str, ...]]:
    # Of a wide key there are more than could be tried.
    return product(*forms) if len(forms) <= MOST_COMBINED else ()
