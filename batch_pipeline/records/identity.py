"""A record's identity, as SQL: which record it is, what it says, and how a request names it.

Golden values in the tests guard these expressions: a change here would ask every record again.
"""

from collections.abc import Mapping, Sequence

from batch_pipeline.records.connections import quote_name, quote_text

CUSTOM_ID_LENGTH = 64
"""The Message Batches API's limit on ``custom_id``, in characters."""

NESTED_TYPES = ("STRUCT", "MAP", "UNION", "VARIANT")


def column_text_sql(column: str, duckdb_type: str, table: str = "source") -> str:
    """Return SQL for the text of a column's value that hashes are built on (NULL stays NULL)."""
    reference = f"{quote_name(table)}.{quote_name(column)}"
    if duckdb_type.endswith("]") or duckdb_type.startswith(NESTED_TYPES):
        # A cast of a nested value to text does not quote its strings: two values could look alike.
        return f"CAST(to_json({reference}) AS VARCHAR)"
    text = f"CAST({reference} AS VARCHAR)"
    # What columns have for comparing (NOCASE, NOACCENT) is not their text, and two of them exclude
    # each other where texts are joined.
    return f"({text} COLLATE C)" if duckdb_type == "VARCHAR" else text


def hash_sql(columns: Sequence[str], types: Mapping[str, str], table: str = "source") -> str:
    """Return SQL for a UUID that two rows share when they agree on all ``columns``.

    It is the first 128 bits of the sha256 of each column's name and value, length-prefixed in
    bytes, NULLs marked. The session's time zone must be UTC.

    Args:
        columns: the columns, in the order that counts.
        types: each column's DuckDB type.
        table: the name or alias under which the query knows the rows.
    """
    parts: list[str] = []
    for column in columns:
        text = column_text_sql(column, types[column], table)
        name = quote_text(f"{len(column.encode())}:{column}")
        # As `name || coalesce('V' || strlen(text) || ':' || text, 'N')`, with one copy of the texts
        # instead of three: concat leaves out what is NULL.
        marks = (
            f"if({text} IS NULL, '{null}', '{mark}')" for null, mark in (("N", "V"), ("", ":"))
        )
        parts.append(f"{name}, {next(marks)}, strlen({text}), {next(marks)}, {text}")
    return f"CAST(substr(sha256(concat({', '.join(parts) or quote_text('')})), 1, 32) AS UUID)"


def key_hash_sql(keys: Sequence[str], types: Mapping[str, str], table: str = "source") -> str:
    """Return SQL for the UUID of a record: same key, same hash."""
    return hash_sql(keys, types, table)


def content_hash_sql(
    columns: Sequence[str], types: Mapping[str, str], table: str = "source"
) -> str:
    """Return SQL for the UUID of what is asked about a record: the columns the template reads."""
    return hash_sql(columns, types, table)


def same_content_sql(
    columns: Sequence[str], types: Mapping[str, str], table: str = "source"
) -> str:
    """Return SQL for 64 bits that tell whether a row still reads as it did a moment ago.

    Another release of DuckDB may compute others: what keeps them keeps its version beside them.
    """
    texts = [column_text_sql(column, types[column], table) for column in columns]
    return bits_sql(texts) if texts else "CAST(0 AS UBIGINT)"


def bits_sql(texts: Sequence[str]) -> str:
    """Return SQL for 64 cheap bits of some texts, of which any may be NULL."""
    return f"hash({', '.join(map(read_twice_sql, texts))})"


def read_twice_sql(text: str) -> str:
    """Return SQL for what DuckDB's ``hash`` is given of a text, so that it takes no other one for it.

    It reads eight bytes at a time, and of what differs only in the last of two such eights (a capital at
    two places, say) it often makes the same. Read a second time, four bytes further on, these are not
    the last of any.
    """
    return f"{text}, concat('1234', {text})"


def variant_sql(key_hash: str, content_hash: str, version: str) -> str:
    """Return SQL for 16 hex characters that name a record in one content and one version.

    Args:
        key_hash: SQL for the key hash.
        content_hash: SQL for the content hash.
        version: the template's version, a plain string.
    """
    joined = f"CAST({key_hash} AS VARCHAR) || CAST({content_hash} AS VARCHAR)"
    return f"substr(sha256({joined} || {quote_text(version)}), 1, 16)"


def custom_id_sql(ledger_id: str, variant: str, attempt: str, key_texts: Sequence[str]) -> str:
    """Return SQL for a ``custom_id``: ``ledger-variant-attempt``, plus ``-key`` where that fits.

    Args:
        ledger_id: 8 hex characters, a plain string.
        variant: SQL for the variant (``variant_sql``).
        attempt: SQL for the attempt, counted from 1.
        key_texts: SQL for the text of each key column; they are joined by ``_``.
    """
    plain = f"{quote_text(ledger_id + '-')} || {variant} || '-' || {attempt}"
    key = " || '_' || ".join(key_texts)
    return (
        f"CASE WHEN regexp_full_match({key}, '[A-Za-z0-9_-]+')"
        f" AND length({plain} || '-' || {key}) <= {CUSTOM_ID_LENGTH}"
        f" THEN {plain} || '-' || {key} ELSE {plain} END"
    )
