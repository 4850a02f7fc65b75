"""How many tokens an answer takes at most: known from the form of its output."""

import math
from collections.abc import Mapping
from typing import Any

import orjson

from batch_pipeline.requests.schema_reader import SchemaReader

BYTES_PER_TOKEN = 1.5
"""Fewer than in any usual text (2.5): labels are codes and names, and may be written in any script."""
TOKENS_PER_WORD = 4
"""More than in any usual text (2 or 3): models count words loosely, and some languages have long ones."""
FREE_WORDS = 25
"""Words of a text whose length no schema says."""
FREE_ITEMS = 10
"""Parts of a list whose length no schema says."""
AROUND = 16
"""Braces, quotes and spaces that a model may put around an answer."""
MOST = 32_000
"""Tokens that each model of today writes."""


def words_tokens(words: int) -> int:
    """Return how many tokens a text of so many words has at most."""
    return words * TOKENS_PER_WORD


def json_tokens(value: Any) -> int:
    """Return how many tokens a value has at most, as JSON."""
    return math.ceil(len(orjson.dumps(value)) / BYTES_PER_TOKEN)


def rounded(tokens: int) -> int:
    """Return the room for an answer of so many tokens: a multiple of 16, and never too many."""
    return min(16 * math.ceil((tokens + AROUND) / 16), MOST)


def schema_tokens(schema: Mapping[str, Any]) -> int:
    """Return how many tokens an answer has at most that fits a (checked) schema."""
    return _tokens(schema, SchemaReader(schema))


def _tokens(schema: Mapping[str, Any], reader: SchemaReader) -> int:
    if "$ref" in schema:
        return _tokens(reader.resolve(schema["$ref"], "output"), reader)
    if "enum" in schema or "const" in schema:
        return max(json_tokens(one) for one in schema.get("enum", [schema.get("const")]))
    for word in ("anyOf", "oneOf", "allOf"):
        if word in schema:
            return max(_tokens(one, reader) for one in schema[word])
    kind = schema.get("type")
    if isinstance(kind, list):
        return max(_tokens({**schema, "type": one}, reader) for one in kind)
    match kind:
        case "object":
            parts = schema.get("properties", {}).items()
            return sum(json_tokens({name: ""}) + _tokens(inner, reader) for name, inner in parts)
        case "array":
            items = schema.get("items", {})
            # Of a list of labels, each may be there once.
            labels = items.get("enum", ()) if isinstance(items, Mapping) else ()
            if labels:
                return json_tokens(labels)
            return 4 + min(schema.get("maxItems", FREE_ITEMS), MOST) * _tokens(items, reader)
        case "string" if "format" in schema:
            return 32
        case "string" if "maxLength" in schema:
            return math.ceil(schema["maxLength"] / BYTES_PER_TOKEN)
        case "string":
            return words_tokens(FREE_WORDS)
    return 16
