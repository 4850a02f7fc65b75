"""Whether records share the text of a long column, which ``cache_by`` would cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import duckdb
from jinja2 import nodes

from batch_pipeline.records.connections import quote_files, quote_name
from batch_pipeline.requests.cache_groups import ASSUMED_HITS, factors, fewest_members
from batch_pipeline.requests.prices import BatchPrice, Tokens
from batch_pipeline.requests.prompt import Prompt
from batch_pipeline.requests.template import MessageTemplate

SHARED = """
-- One row: of the texts that enough records share, how many there are, how many records, and the bytes of the
-- texts, of each once and of all.
SELECT count(*), coalesce(sum(members), 0), coalesce(sum(bytes), 0), coalesce(sum(bytes * members), 0) FROM (
    SELECT count(*) AS members, max(strlen({column})) AS bytes
    FROM read_parquet({path}) WHERE _kind = 'ask' GROUP BY hash({column})
) WHERE members >= {fewest} AND bytes >= {shortest}
"""


@dataclass(frozen=True)
class SharedColumn:
    """A column whose texts records share.

    Attributes:
        column: its name.
        texts: how many texts there are that enough records share.
        requests: that have one of these.
        tokens: of such a text, on average.
        cache: for how long it would be cached.
        usd: what `cache_by` would have saved.
    """

    column: str
    texts: int
    requests: int
    tokens: int
    cache: str
    usd: Decimal


def shared_column(
    connection: duckdb.DuckDBPyConnection,
    records: str,
    template: MessageTemplate,
    price: BatchPrice,
    bytes_a_token: float,
    least: int,
) -> SharedColumn | None:
    """Return the column of which ``cache_by`` would save most; None: it would save nothing of any.

    Args:
        connection: reads the file.
        records: the submission's ``records.parquet``.
        template: the question.
        price: of the model.
        bytes_a_token: of the requests.
        least: tokens from which the model caches.
    """
    cache = template.cache or "1h"
    fewest = fewest_members(cache, ASSUMED_HITS, price)
    plain = price.cost(Tokens(input=1000))
    if template.cache_by or template.prompt is None or fewest is None or plain is None:
        return None
    write, read = factors(cache, price)
    each = ASSUMED_HITS * read + (1 - ASSUMED_HITS) * write
    path, found = quote_files([records]), []
    described = connection.execute(f"DESCRIBE SELECT * FROM read_parquet({path})").fetchall()
    kinds = {row[0]: row[1] for row in described}
    for column in printed_columns(template.prompt):
        if kinds.get(column) != "VARCHAR":
            continue
        sql = SHARED.format(
            column=quote_name(column), path=path, fewest=fewest, shortest=int(least * bytes_a_token)
        )
        [(texts, requests, once, all_bytes)] = connection.execute(sql).fetchall()
        if texts:
            saved = (1 - each) * float(all_bytes - once) - (write - 1) * float(once)
            usd = plain / 1000 * Decimal(str(saved / bytes_a_token))
            tokens = int(once) // int(texts * bytes_a_token)
            found.append(SharedColumn(column, texts, int(requests), tokens, cache, usd))
    best = max(found, key=lambda one: one.usd, default=None)
    return best if best and best.usd > 0 else None


def printed_columns(prompt: str) -> Sequence[str]:
    """Return the names that a prompt prints as they are: ``{{ document }}``."""
    names = (
        node.name
        for output in Prompt(prompt, "prompt").tree().find_all(nodes.Output)
        for node in output.nodes
        if isinstance(node, nodes.Name)
    )
    return list(dict.fromkeys(names))
