"""Rules: SQL conditions that settle a record, so that nothing is asked about it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from batch_pipeline.errors import InputError

SKIPPED = "skipped"
RULE = "rule"
STATUSES = (SKIPPED, RULE)
"""What ``_status`` says of a record that a rule settled."""
NOT_IN_A_RULE = {
    "SUBQUERY": "a subquery",
    "WINDOW": "a window function",
    "PARAMETER": "a parameter",
    "STAR": "a *",
}


@dataclass(frozen=True)
class Rule:
    """A rule that settles records.

    Attributes:
        condition: SQL over the columns of a record.
        status: what becomes of those for which it holds.
        answer: their answer, as a judged one is kept: text, or JSON text; None for those that are skipped.
    """

    condition: str
    status: Literal["skipped", "rule"]
    answer: str | None = None

    @property
    def outcome(self) -> str:
        """What becomes of its records, in one text: records.parquet keeps it."""
        return self.status if self.answer is None else f"{self.status}:{self.answer}"


def check_condition(condition: Any, what: str) -> None:
    """Refuse what is no SQL condition over one record, as far as that is told without the source.

    Raises:
        InputError: it begins with ``what``.
    """
    if not isinstance(condition, str) or not condition.strip():
        raise InputError(
            f"{what} is {condition!r}; it must be a condition in SQL, such as amount < 5."
        )
    import duckdb
    import orjson

    with duckdb.connect() as connection:
        connection.execute("SET autoinstall_known_extensions = false")
        (text,) = connection.execute(
            "SELECT CAST(json_serialize_sql(?) AS VARCHAR)", [f"SELECT {condition}\n"]
        ).fetchall()[0]
        tree = orjson.loads(text)
        if tree.get("error"):
            raise InputError(f"{what} ({condition}) is no SQL: {tree.get('error_message')}")
        expression = _only_expression(tree)
        if expression is None:
            raise InputError(
                f"{what} ({condition}) must be one condition, such as amount < 5, and nothing else."
            )
        names = {str(one["function_name"]).lower() for one in _nodes(expression, "FUNCTION")}
        for kind, shown in NOT_IN_A_RULE.items():
            if any(True for _ in _nodes(expression, kind)):
                raise InputError(
                    f"{what} ({condition}) has {shown}; it is about one record at a time, by its own columns. Let the "
                    "source's query compute a column, and name that."
                )
        kinds = _function_kinds(connection)
    for name in sorted(names):
        if "aggregate" in kinds.get(name, ()) and "scalar" not in kinds.get(name, ()):
            raise InputError(
                f"{what} ({condition}) has the aggregate {name}(); it is about one record at a time, by its own "
                "columns. Let the source's query compute a column, and name that."
            )
        if "volatile" in kinds.get(name, ()):
            raise InputError(
                f"{what} ({condition}) has {name}(), which says something else each time: it must hold for the same "
                "records from night to night."
            )


def _only_expression(tree: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the expression of ``SELECT expression``; None when the statement is anything more."""
    statements = tree.get("statements", [])
    if len(statements) != 1:
        return None
    node = statements[0]["node"]
    if node.get("type") != "SELECT_NODE" or len(node["select_list"]) != 1:
        return None
    more = (
        node["from_table"]["type"] != "EMPTY",
        *(node.get(name) for name in ("where_clause", "group_expressions", "having", "qualify")),
        *(node.get(name) for name in ("sample", "modifiers")),
        node.get("aggregate_handling") not in (None, "STANDARD_HANDLING"),
        node["select_list"][0].get("alias"),
    )
    return None if any(more) else node["select_list"][0]


def _nodes(tree: Any, kind: str) -> Iterator[Mapping[str, Any]]:
    """Yield the nodes of a class in an expression."""
    if isinstance(tree, Mapping):
        if tree.get("class") == kind:
            yield tree
        for value in tree.values():
            yield from _nodes(value, kind)
    elif isinstance(tree, Sequence) and not isinstance(tree, str):
        for value in tree:
            yield from _nodes(value, kind)


_kinds: dict[str, set[str]] = {}


def _function_kinds(connection: Any) -> dict[str, set[str]]:
    """Return of each function of DuckDB what it is: aggregate, scalar, volatile."""
    if not _kinds:
        rows = connection.execute(
            "SELECT lower(function_name), function_type, stability FROM duckdb_functions()"
        ).fetchall()
        for name, kind, stability in rows:
            found = _kinds.setdefault(name, set())
            found.add(kind)
            if stability == "VOLATILE":
                found.add("volatile")
    return _kinds
