"""Requests as one SQL expression, for prompts that only put columns between constant text.

Its bytes are those that rendering and serialising would give, or it says that it leaves the record to
these: control characters that one writes as ``\\u001F`` and the other as ``\\u001f``, texts that may be
blank, years of five digits. What has no proven twin in SQL makes no expression at all.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import duckdb
import pyarrow as pa
from jinja2 import nodes

from batch_pipeline.records.connections import memory_connection, quote_text
from batch_pipeline.requests.compiled import Form
from batch_pipeline.requests.pieces import Piece
from batch_pipeline.requests.prompt import RECORD, Prompt

SPACES = "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007" \
    "\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"  # fmt: skip
"""What Python's ``strip`` takes away."""
OF_JINJA = {"self", "super", "loop", "caller", "varargs", "kwargs"}
"""Names that may mean something of Jinja's own, whatever the columns are called."""
MOST_BYTES = 1 << 24
"""Of records whose lines are made at once; wider ones are rendered one by one, in less memory."""
LAST_MOMENT = "TIMESTAMP '9999-12-31 23:59:59.999999'"
FIRST_MOMENT = "TIMESTAMP '1000-01-01'"


class _NoTwin(Exception):
    """SQL has no expression that is proven to print the same."""


@dataclass(frozen=True)
class Column:
    """A column as SQL.

    Attributes:
        text: what ``{{ }}`` prints for its value; NULL for NULL.
        is_odd: whether a value prints otherwise; None: none does.
    """

    text: str
    is_odd: str | None = None


@dataclass(frozen=True)
class Lines:
    """Lines of request files.

    Attributes:
        text: one after the other.
        ends: where each ends, with its line end.
        left: the places of records whose line must be made in another way.
    """

    text: memoryview
    ends: Sequence[int]
    left: list[int]

    def line(self, place: int) -> memoryview:
        """Return one of them."""
        return self.text[self.ends[place - 1] if place else 0 : self.ends[place]]


class LineWriter:
    """Makes the lines of many records at once."""

    def __init__(self, connect: Callable[[], duckdb.DuckDBPyConnection], sql: str):
        self._connect = connect
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._sql = sql

    def write(self, piece: Piece) -> Lines | None:
        """Return the lines of some records; None when it cannot make any of them."""
        if piece.records.nbytes > MOST_BYTES:
            return None
        try:
            return self._written(piece)
        except duckdb.Error:  # it is short of memory: a text is held in several forms
            self._connection = None
            return None

    def _written(self, piece: Piece) -> Lines | None:
        columns = {f"c{n}": column for n, column in enumerate(piece.records.columns)}
        numbers = pa.array(piece.rows, pa.int64())
        doubled = pa.array(piece.doublings, pa.int64())
        marked = pa.array(piece.marked or [False] * len(piece), pa.bool_())
        table = pa.table(
            {**columns, "id": piece.custom_ids, "n": numbers, "doubled": doubled, "marked": marked}
        )
        connection = self._connection = self._connection or self._connect()
        connection.register("_bp_piece", table)
        made = connection.sql(self._sql).to_arrow_table()
        connection.unregister("_bp_piece")
        if made.column("n").to_pylist() != piece.rows:
            return None
        lines = pa.concat_arrays(made.column("line").chunks)
        if lines.null_count or not pa.types.is_string(lines.type):
            return None
        _, offsets, text = lines.buffers()
        places = memoryview(offsets).cast("i")[lines.offset : lines.offset + len(lines) + 1]
        start = places[0]
        ends = [end - start for end in places[1:]]
        left = [
            place for place, is_left in enumerate(made.column("is_left").to_pylist()) if is_left
        ]
        if any(piece.corrections):
            corrected = (place for place, one in enumerate(piece.corrections) if one is not None)
            left = sorted({*left, *corrected})
        return Lines(memoryview(text).cast("B")[start:], ends, left)


@contextmanager
def line_writer(
    form: Form | None, columns: Sequence[str], schema: pa.Schema
) -> Iterator[LineWriter | None]:
    """Give what makes the lines of a template's requests in SQL; None where SQL cannot.

    Args:
        form: the template's.
        columns: those that it reads, in the order of what it will be given.
        schema: of the file with the records.
    """
    sql = line_sql(form, columns, schema) if form else None
    if sql is None:
        yield None
        return
    with ExitStack() as stack:

        def connect() -> duckdb.DuckDBPyConnection:
            connection = stack.enter_context(memory_connection())
            # Else lines come in any order.
            connection.execute("SET threads = 1")
            return connection

        yield LineWriter(connect, sql)


def line_sql(form: Form, columns: Sequence[str], schema: pa.Schema) -> str | None:
    """Return a query of the lines of ``_bp_piece`` (``c0``, ``c1``, ..., ``id``, ``n``, ``doubled``,
    ``marked``).

    It gives ``n``, ``line`` and ``is_left``: this line is not known to be right. None: SQL cannot.
    """
    known = {
        name: _column(f"c{number}", schema.field(name).type) for number, name in enumerate(columns)
    }
    try:
        texts = [_prompt_sql(prompt, known) for prompt in form.prompts]
    except _NoTwin:
        return None
    constants = [quote_text(part.decode()) for part in form.constants]
    if form.unmarked is not None:
        number, other = form.unmarked
        constants[number] = (
            f"CASE WHEN marked THEN {constants[number]} ELSE {quote_text(other.decode())} END"
        )
    inner = ", ".join(f"{text} AS t{number}" for number, (text, _) in enumerate(texts))
    parts = [constants[0], "to_json(id)"]
    for number, constant in enumerate(constants[1:-1]):
        parts += [constant, f"j{number}"]
    odd = {column.is_odd for column in known.values() if column is not None and column.is_odd}
    left = ["doubled <> 0", *sorted(odd)]
    for number, (_, may_be_blank) in enumerate(texts):
        left.append(f"contains(j{number}, '\\u00')")
        if may_be_blank:
            left.append(f"NOT regexp_matches(t{number}, {quote_text(f'[^{SPACES}]')})")
    json = ", ".join(f"CAST(to_json(t{n}) AS VARCHAR) AS j{n}" for n in range(len(texts)))
    sql = (
        f"SELECT n, concat({', '.join([*parts, constants[-1]])}) AS line, {' OR '.join(left)} AS is_left"
        f" FROM (SELECT *, {json} FROM (SELECT *, {inner} FROM _bp_piece))"
    )
    return None if "\0" in sql else sql


def _column(name: str, kind: pa.DataType) -> Column | None:
    """Return SQL for what a template prints of a column, by what Arrow has of it; None: not known."""
    text = f"CAST({name} AS VARCHAR)"
    if pa.types.is_string(kind):
        return Column(name)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_date32(kind):
        return Column(text)
    if pa.types.is_decimal128(kind) and kind.precision > kind.scale:  # else .5 is no 0.5
        return Column(text)
    if pa.types.is_float64(kind):
        return Column(text, f"coalesce(isnan({name}), false)")  # DuckDB tells nan from -nan
    if pa.types.is_timestamp(kind) and kind.unit == "us" and kind.tz in (None, "UTC"):
        wall = f"CAST({name} AS TIMESTAMP)"
        offset = " || '+00:00'" if kind.tz else ""
        form = "%Y-%m-%dT%H:%M:%S"
        return Column(
            f"CASE WHEN microsecond({wall}) % 1000000 = 0 THEN strftime({wall}, '{form}')"
            f" ELSE strftime({wall}, '{form}.%f') END{offset}",
            f"coalesce(NOT {wall} BETWEEN {FIRST_MOMENT} AND {LAST_MOMENT}, false)",
        )
    return None


def _prompt_sql(prompt: Prompt, columns: Mapping[str, Column | None]) -> tuple[str, bool]:
    """Return SQL for a prompt's text, and whether it may be blank."""
    parts: list[str] = []
    blank = True
    for output in prompt.tree().body:
        if not isinstance(output, nodes.Output):
            raise _NoTwin
        for node in output.nodes:
            if isinstance(node, nodes.TemplateData):
                blank = blank and not node.data.strip()
                parts.append(quote_text(node.data))
            else:
                parts.append(_text_sql(node, columns))
    return f"concat({', '.join(parts)})", blank


def _text_sql(node: nodes.Node, columns: Mapping[str, Column | None]) -> str:
    """Return SQL for what ``{{ }}`` prints: never NULL."""
    return f"coalesce({_value_sql(node, columns)}, '')"


def _value_sql(node: nodes.Node, columns: Mapping[str, Column | None]) -> str:
    """Return SQL for what ``{{ }}`` prints; NULL for NULL."""
    match node:
        case nodes.Const(value=str() as text):
            return quote_text(text)
        case nodes.Name(name=name) if name not in OF_JINJA:
            return _column_sql(name, columns)
        case nodes.Getitem(node=nodes.Name(name="record"), arg=nodes.Const(value=str() as name)):
            if RECORD not in columns:
                return _column_sql(name, columns)
        case nodes.Getattr(node=nodes.Name(name="record"), attr=name) if not hasattr(dict, name):
            if RECORD not in columns:
                return _column_sql(name, columns)
        case nodes.Concat(nodes=parts):
            return f"concat({', '.join(_text_sql(part, columns) for part in parts)})"
        case nodes.Filter(node=nodes.Expr() as inner, dyn_args=None, dyn_kwargs=None, kwargs=[]):
            return _filter_sql(node.name, inner, node.args, columns)
    raise _NoTwin


def _filter_sql(
    name: str,
    inner: nodes.Expr,
    given: Sequence[nodes.Expr],
    columns: Mapping[str, Column | None],
) -> str:
    words = [
        one.value for one in given if isinstance(one, nodes.Const) and isinstance(one.value, str)
    ]
    match name, words:
        case _ if len(words) != len(given):
            raise _NoTwin
        case "string", []:
            return _text_sql(inner, columns)
        case "trim", []:
            return f"trim({_text_sql(inner, columns)}, {quote_text(SPACES)})"
        case "default" | "d", [text]:
            return f"coalesce({_value_sql(inner, columns)}, {quote_text(text)})"
        case "replace", [old, new] if old:
            return f"replace({_text_sql(inner, columns)}, {quote_text(old)}, {quote_text(new)})"
    raise _NoTwin


def _column_sql(name: str, columns: Mapping[str, Column | None]) -> str:
    column = columns.get(name)
    if column is None:
        raise _NoTwin
    return column.text
