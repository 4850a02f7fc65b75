"""How a DuckDB table is built: what a team may have added to it, and making it again with other types."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import duckdb

from batch_pipeline.errors import InputError
from batch_pipeline.records.connections import OpenDatabase, quote_name, quote_text

REBUILT = "_bp_rebuilt"
"""What a table is called while it is made again; nobody sees it, the transaction renames it."""


@dataclass(frozen=True)
class Column:
    """A column: its name and type, its default (SQL), whether it may be NULL, how it is computed."""

    name: str
    kind: str
    default: str | None
    nullable: bool
    formula: str | None
    comment: str | None

    @property
    def generated(self) -> bool:
        """Whether it is computed from others, and takes no values."""
        return self.formula is not None


@dataclass(frozen=True)
class Constraint:
    """A constraint of the table: PRIMARY KEY, UNIQUE, CHECK or FOREIGN KEY."""

    kind: str
    text: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Index:
    """An index: its columns are plain ones, or ``columns`` is None."""

    name: str
    unique: bool
    columns: tuple[str, ...] | None
    sql: str
    comment: str | None


@dataclass(frozen=True)
class Shape:
    """A table as it is built."""

    columns: tuple[Column, ...]
    constraints: tuple[Constraint, ...]
    indexes: tuple[Index, ...]
    comment: str | None
    referenced_by: tuple[str, ...]

    @property
    def is_plain(self) -> bool:
        """Whether DuckDB can change the type of any column in place."""
        return not (
            self.constraints or self.indexes or any(column.generated for column in self.columns)
        )


def is_view(database: OpenDatabase, schema: str, table: str) -> bool:
    """Return whether a view has that name."""
    return bool(
        _select(
            database,
            "SELECT 1 FROM duckdb_views() WHERE database_name = ? AND lower(schema_name) = lower(?)"
            " AND lower(view_name) = lower(?)",
            schema,
            table,
        )
    )


def shape_of(database: OpenDatabase, schema: str, table: str) -> Shape | None:
    """Return how a table is built; None when there is none."""
    where = (
        " WHERE database_name = ? AND lower(schema_name) = lower(?)"
        " AND lower(table_name) = lower(?)"
    )
    found = _select(database, f"SELECT sql, comment FROM duckdb_tables(){where}", schema, table)
    if not found:
        return None
    sql, comment = found[0]
    columns = _select(
        database,
        "SELECT column_name, data_type, column_default, is_nullable, comment"
        f" FROM duckdb_columns(){where} ORDER BY column_index",
        schema,
        table,
    )
    constraints = _select(
        database,
        "SELECT constraint_type, constraint_text, constraint_column_names"
        f" FROM duckdb_constraints(){where} AND constraint_type <> 'NOT NULL'"
        " ORDER BY constraint_index",
        schema,
        table,
    )
    indexes = _select(
        database,
        f"SELECT index_name, is_unique, expressions, sql, comment FROM duckdb_indexes(){where}"
        " ORDER BY index_oid",
        schema,
        table,
    )
    users = _select(
        database,
        "SELECT DISTINCT table_name FROM duckdb_constraints() WHERE database_name = ?"
        " AND constraint_type = 'FOREIGN KEY' AND lower(schema_name) = lower(?)"
        " AND lower(referenced_table) = lower(?)",
        schema,
        table,
    )
    return Shape(
        tuple(
            Column(name, kind, default, nullable, _formula(sql, name, kind), said)
            for name, kind, default, nullable, said in columns
        ),
        tuple(Constraint(kind, text, tuple(names)) for kind, text, names in constraints),
        tuple(
            Index(name, unique, _plain_columns(columns, expressions), made, said)
            for name, unique, expressions, made, said in indexes
        ),
        comment,
        tuple(name for (name,) in users),
    )


def check_shape(
    shape: Shape,
    destination: str,
    key: Sequence[str],
    columns: Mapping[str, str],
    answers: Sequence[str],
) -> None:
    """Check that any row of results can be put into a table, whatever its values.

    Args:
        shape: how the table is built.
        destination: which table of which file, for the messages.
        key: the key columns.
        columns: the columns of the results.
        answers: those of them that are NULL in a row without an answer.

    Raises:
        InputError: a row might be turned away; it says by what, and what to do.
    """
    ours = {name.lower() for name in columns}
    keys = {name.lower() for name in key}
    empty = {name.lower() for name in answers}

    def refuse(what: str, do: str) -> None:
        raise InputError(
            f"The destination ({destination}) {what}. Nothing was sent or changed. {do}, or name"
            " another destination."
        )

    for column in shape.columns:
        name, mine = column.name, column.name.lower() in ours
        if column.generated and mine:
            refuse(
                f"computes the column `{name}`, which the results have to fill",
                "Give the computed column another name",
            )
        if not column.nullable and not mine and column.default is None:
            refuse(
                f"has a column `{name}` that is NOT NULL, has no default, and is not of the results:"
                " no new row could be put in",
                f"Give it a default (ALTER TABLE ... ALTER COLUMN {quote_name(name)} SET DEFAULT ...)"
                " or let it be NULL (... DROP NOT NULL)",
            )
        if not column.nullable and column.name.lower() in empty:
            refuse(
                f"has the column `{name}` NOT NULL, and a record without an answer has no value in it",
                f"Let it be NULL (ALTER TABLE ... ALTER COLUMN {quote_name(name)} DROP NOT NULL)",
            )
    uniques = [
        (f"a constraint {one.text}", one.columns)
        for one in shape.constraints
        if one.kind in ("PRIMARY KEY", "UNIQUE")
    ] + [(f"a unique index {one.name}", one.columns) for one in shape.indexes if one.unique]
    for what, names in uniques:
        if names is None or not keys <= {name.lower() for name in names}:
            refuse(
                f"has {what}, and the key of the results is {', '.join(key)}: rows of two records"
                " might exclude each other",
                "Drop it, or make one over the key's columns",
            )
    for one in shape.constraints:
        held = [name for name in one.columns if name.lower() in ours]
        if one.kind in ("CHECK", "FOREIGN KEY") and held:
            refuse(
                f"has a constraint {one.text}, which may turn away rows for their"
                f" {', '.join(held)}",
                "Drop it, and test that in an asset downstream",
            )


def check_types(
    shape: Shape, destination: str, now: Mapping[str, str], grown: Mapping[str, str]
) -> None:
    """Check that the types of a table's columns can be changed.

    Raises:
        InputError: another table's foreign key stands in the way.
    """
    changed = [name for name in now if grown[name] != now[name]]
    if changed and shape.referenced_by:
        raise InputError(
            f"The destination ({destination}) must change the type of its column `{changed[0]}` from"
            f" {now[changed[0]]} to {grown[changed[0]]}, and DuckDB cannot while a foreign key of the"
            f" table {', '.join(shape.referenced_by)} refers to it. Nothing was sent or changed. Make"
            " that table again without the foreign key."
        )


def rebuild(
    database: OpenDatabase, schema: str, table: str, shape: Shape, kinds: Mapping[str, str]
) -> None:
    """Make a table again with other types, inside a transaction, and all else as it was.

    Args:
        database: a connection inside a transaction.
        schema: the table's schema.
        table: the table.
        shape: how it is built.
        kinds: the types that its columns get, by name.
    """
    con = database.connection
    place = f"{quote_name(database.catalog)}.{quote_name(schema)}"
    old, new = f"{place}.{quote_name(table)}", f"{place}.{quote_name(REBUILT)}"
    parts = [_declared(column, kinds[column.name]) for column in shape.columns]
    parts += [one.text for one in shape.constraints]
    con.execute(f"CREATE TABLE {new} ({', '.join(parts)})")
    stored = ", ".join(quote_name(one.name) for one in shape.columns if not one.generated)
    casts = ", ".join(
        f"CAST({quote_name(one.name)} AS {kinds[one.name]})"
        for one in shape.columns
        if not one.generated
    )
    con.execute(f"INSERT INTO {new} ({stored}) SELECT {casts} FROM {old}")
    con.execute(f"DROP TABLE {old}")
    con.execute(f"ALTER TABLE {new} RENAME TO {quote_name(table)}")
    for index in shape.indexes:
        con.execute(index.sql)
        if index.comment is not None:
            said = quote_text(index.comment)
            con.execute(f"COMMENT ON INDEX {place}.{quote_name(index.name)} IS {said}")
    if shape.comment is not None:
        con.execute(f"COMMENT ON TABLE {old} IS {quote_text(shape.comment)}")
    for column in shape.columns:
        if column.comment is not None:
            said = quote_text(column.comment)
            con.execute(f"COMMENT ON COLUMN {old}.{quote_name(column.name)} IS {said}")


def _declared(column: Column, kind: str) -> str:
    parts = [quote_name(column.name), kind]
    if column.formula is not None:
        parts.append(f"GENERATED ALWAYS AS ({column.formula})")
    elif column.default is not None:
        parts.append(f"DEFAULT ({column.default})")
    if not column.nullable:
        parts.append("NOT NULL")
    return " ".join(parts)


def _formula(sql: str, name: str, kind: str) -> str | None:
    """Return how a column is computed, from the table's own text: no catalogue of DuckDB says so."""
    for before, spelled in product(("(", ", "), (quote_name(name), name)):
        _, found, rest = sql.partition(f"{before}{spelled} {kind} GENERATED ALWAYS AS(")
        if found:
            return _until_closed(rest)
    return None


def _until_closed(text: str) -> str:
    """Return what stands before the parenthesis that closes an open one; quoted ones do not count."""
    depth, quoted = 1, ""
    for place, letter in enumerate(text):
        if quoted:
            quoted = "" if letter == quoted else quoted
        elif letter in "'\"":
            quoted = letter
        else:
            depth += {"(": 1, ")": -1}.get(letter, 0)
            if not depth:
                return text[:place]
    raise ValueError(f"no end of the expression: {text[:200]}")


def _plain_columns(columns: Sequence[tuple], expressions: str) -> tuple[str, ...] | None:
    """Return an index's columns; None when one of them is an expression."""
    names = {str(row[0]).lower() for row in columns}
    parts = [part.strip().strip("'").strip('"') for part in expressions.strip("[]").split(",")]
    return tuple(parts) if all(part.lower() in names for part in parts) else None


def _select(database: OpenDatabase, sql: str, schema: str, table: str) -> list[tuple]:
    con: duckdb.DuckDBPyConnection = database.connection
    return con.execute(sql, [database.catalog, schema, table]).fetchall()
