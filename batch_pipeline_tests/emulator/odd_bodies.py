"""Bodies, queries and headers such as no client should send, the same ones for the same seed.

Each body is a good one in which something was exchanged, taken away, doubled or broken: types
swapped, nulls, numbers no program counts with, deep nesting, text that is no text.
"""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "amount": {"type": "number"},
        "due": {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1},
        "inner": {"$ref": "#/$defs/inner"},
    },
    "required": ["name", "amount", "due", "tags", "inner"],
    "additionalProperties": False,
    "$defs": {
        "inner": {
            "type": "object",
            "properties": {"reference": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]+$"}},
            "required": ["reference"],
            "additionalProperties": False,
        }
    },
}
MARK = {"type": "ephemeral", "ttl": "1h"}
TOOL = {"name": "record", "description": "Keeps it.", "input_schema": SCHEMA}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
TEXT = "Supplier: Nimbus Ltd\nText: hosting for March, Rs 1,24,500.50, due 3 Sep 2026, ref AB-12."


def _asked(content: Any = TEXT, **changes: Any) -> dict[str, Any]:
    asked = {"model": "claude-haiku-4-5", "max_tokens": 300}
    return {**asked, "messages": [{"role": "user", "content": content}], **changes}


def _turns(*turns: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]


GOOD: list[dict[str, Any]] = [
    _asked(),
    _asked(system="You are a clerk.\nIT: cloud, hosting"),
    _asked(
        system=[{"type": "text", "text": "You are a clerk.", "cache_control": MARK}],
        stop_sequences=["due", "\n"],
        metadata={"user_id": "somebody"},
        service_tier="auto",
    ),
    _asked(output_config={"format": {"type": "json_schema", "schema": SCHEMA}}),
    _asked(model="claude-opus-5-5", output_config={"effort": "low"}, thinking={"type": "adaptive"}),
    _asked(max_tokens=3000, thinking={"type": "enabled", "budget_tokens": 1024}),
    _asked(tools=[{**TOOL, "strict": True}], tool_choice={"type": "auto"}),
    _asked(tools=[TOOL], tool_choice={"type": "tool", "name": "record"}),
    _asked(
        tools=[TOOL, {"type": "web_search_20250305", "name": "web_search", "max_uses": 2}],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
    ),
    _asked(
        [
            {"type": "text", "text": TEXT, "cache_control": MARK},
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/png", "data": PIXEL},
            },
            {
                "type": "document",
                "source": {"type": "text", "media_type": "text/plain", "data": "Rent, EUR 40"},
                "title": "Lease",
                "citations": {"enabled": True},
            },
        ]
    ),
    _asked(
        messages=_turns(
            ("user", "What is the weather?"),
            ("assistant", [{"type": "tool_use", "id": "toolu_1", "name": "record", "input": {}}]),
            ("user", [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "dry"}]),
        ),
        tools=[TOOL],
    ),
    _asked(
        messages=_turns(("user", "Count."), ("assistant", "one two"), ("user", "Go on.")),
        cache_control={"type": "ephemeral"},
    ),
    _asked(model="claude-sonnet-4-5", messages=_turns(("user", "Count."), ("assistant", "one,"))),
]


DEEP = "as deep as a parser goes"


def _nested(depth: int) -> Any:
    value: Any = "deep"
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


ODD: list[Any] = [
    None, True, False, 0, -1, 1, 1.5, -0.0, 1e300, 2**31, 2**53 + 1, 2**63, 2**64, 10**30,
    float("nan"), float("inf"), "", " ", "\x00", "a\x00b", "\ud800", "x\udfff", "٣٤", "²", "१२",
    "3 \u017fep 2026", "\u200b", "\U0001d7dc", "é" * 500, "a-" * 3000, "9" * 400, "-" * 300, "$" + "9" * 320,
    "(a+)+$", "[", "(?P<x>", "a{99999999}", "#", "#/", "#/$defs/inner", "#/properties/name/type",
    "claude-haiku-4-5", "claude-opus-5-5", "claude-sonnet-5-5", "claude-nothing-1", "gpt-4",
    "text", "image", "document", "tool_use", "tool_result", "thinking", "user", "assistant",
    "system", "base64", "url", "file", "json_schema", "object", "array", "string", "adaptive",
    "enabled", "disabled", "any", "tool", "auto", "none", "ephemeral", "5m", "1h",
    [], {}, [None], [[]], [{}], {"": None}, {"type": None}, {"type": []}, {"type": {"type": "text"}},
    {"type": "text"}, {"type": "text", "text": None}, {"type": "text", "text": {"a": 1}},
    {"type": "tool", "name": None}, {"type": "tool", "name": []}, {"type": "enabled"},
    {"type": "ephemeral", "ttl": []}, {"type": "image", "source": "x"}, {"$ref": "#"}, {"$ref": 5},
    {"$ref": "#/$defs/inner"}, {"enum": []}, {"enum": {}}, {"enum": [[], {}, None]}, {"const": {}},
    {"type": "array", "items": [], "minItems": 10**9}, {"type": "array", "items": False},
    {"type": "string", "minLength": 10**9}, {"type": "string", "pattern": "(a+)+$"},
    {"type": "integer", "minimum": 10**30}, {"type": ["object", 5]}, {"anyOf": []}, {"anyOf": {}},
    {"allOf": [{"$ref": "#"}]}, {"anyOf": [{"$ref": "#"}]}, {"properties": []},
    {"properties": {"a": True}}, {"type": "object", "properties": {"a": {"$ref": "#"}}},
    {"type": "object", "required": "name"}, {"type": "object", "required": [[], None]},
    _nested(60), _nested(260), DEEP,
]  # fmt: skip
KEYS = [
    "", "a", "type", "text", "content", "role", "model", "name", "id", "data", "$ref", "anyOf",
    "enum", "stream", "speed", "temperature", "top_k", "thinking", "tool_choice", "tools", "system",
    "cache_control", "context_management", "mcp_servers", "fallbacks", "user_profile_id", "\x00",
]  # fmt: skip

QUERIES = [
    "limit=", "limit=0", "limit=-1", "limit=1001", "limit=%D9%A3", "limit=%C2%B2", "limit=1e3",
    "limit=" + "9" * 5000, "limit=0x10", "limit=5.0", "limit=NaN", "limit=null", "limit=%00",
    "limit=2&limit=x", "limit", "limit=%ED%A0%80", "after_id=none", "before_id=none",
    "after_id=a&before_id=b", "after_id=", "after_id=%00", "after_id=" + "x" * 9000,
    "after_id=%ED%A0%80", "before_id[]=3", "%=%", "&&&", "beta=true", "after_id=' or 1=1 --",
    "lifecycle=gone", "lifecycle[]=active&lifecycle[]=", "page=", "page=page_%00", "ids=x&ids[]=",
]  # fmt: skip
HEADERS = [
    ("content-type", "text/plain"), ("content-type", ""), ("content-type", "application/json; charset=utf-16"),
    ("content-type", "multipart/form-data"), ("content-type", "multipart/form-data; boundary="),
    ("content-type", "multipart/form-data; boundary=" + "x" * 3000), ("content-type", "\xff\xfe"),
    ("content-length", "²"), ("content-length", "9" * 5000), ("content-length", "-5"),
    ("content-encoding", "gzip"), ("accept", "\x01"), ("host", ""), ("host", "\xe9\xff"),
    ("anthropic-version", ""), ("anthropic-version", "2023-06-01"), ("anthropic-version", "tomorrow"),
    ("anthropic-version", "2026-10-21, 2026-10-21"), ("anthropic-beta", ""), ("anthropic-beta", ",,,"),
    ("anthropic-beta", "nothing-2020-01-01"), ("anthropic-beta", "\xff"),
    ("anthropic-beta", "output-300k-2026-03-24, files-api-2025-04-14"),
    ("authorization", ""), ("authorization", "Bearer "), ("authorization", "Basic \xff"),
    ("x-api-key", "\xff\xfe"), ("anthropic-workspace-id", "\x7f\xff"),
]  # fmt: skip


def odd_params(random: random.Random) -> dict[str, Any]:
    """Parameters of a message with one to three things wrong in them."""
    params = copy.deepcopy(random.choice(GOOD))
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        _spoil(params, random)
    return params


def _spoil(params: dict[str, Any], random: random.Random) -> None:
    places = list(_places(params))
    holder, key = random.choice(places)
    how = random.random()
    if how < 0.55:
        holder[key] = copy.deepcopy(random.choice(ODD))
    elif how < 0.65:
        del holder[key]
    elif how < 0.75:
        other, name = random.choice(places)
        holder[key] = copy.deepcopy(other[name])
    elif how < 0.8:
        holder[key] = random.choice(([holder[key]], {"type": holder[key]}, str(holder[key])))
    elif isinstance(holder, dict):
        holder[random.choice(KEYS)] = copy.deepcopy(random.choice(ODD))
    else:
        holder.insert(key, copy.deepcopy(random.choice(ODD)))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Everything inside a value, as what holds it and where."""
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    else:
        return
    for key, one in inner:
        yield value, key
        yield from _places(one)


def odd_body(random: random.Random, counting: bool = False) -> bytes:
    """The body of a direct call: mostly JSON, with something wrong in it or about it.

    Args:
        random: Draws what is wrong.
        counting: Whether it is for counting tokens, which takes less.
    """
    how = random.random()
    if how < 0.02:
        return written(copy.deepcopy(random.choice(ODD)), random)
    params = odd_params(random)
    for name in ("max_tokens", "stop_sequences", "metadata", "service_tier") if counting else ():
        params.pop(name, None)
    text = written(params, random)
    if how < 0.04:
        return text[: random.randrange(len(text))]
    if how < 0.05:
        return b"\xef\xbb\xbf" + text
    if how < 0.06:
        return text.decode(errors="replace").encode("utf-16")
    if how < 0.08:
        at = random.randrange(len(text))
        return text[:at] + bytes([random.randrange(256)]) + text[at + 1 :]
    if how < 0.1:
        return text.replace(b'"model"', b'"max_tokens": {}, "model"', 1)
    return text


def written(value: Any, random: random.Random) -> bytes:
    """A value as JSON, also what JSON has no words for."""
    text = json.dumps(value, ensure_ascii=random.random() < 0.8)
    text = text.replace(f'"{DEEP}"', "[" * 900 + "]" * 900)
    return text.encode("utf-8", "surrogatepass")
