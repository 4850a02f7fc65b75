"""A message as server-sent events: the same message, in pieces."""

from collections.abc import Iterator
from typing import Any

import orjson

_PIECE = 24


def events_of(message: dict[str, Any]) -> Iterator[bytes]:
    """The events of a message that is already whole.

    Args:
        message: The message as it would be answered without streaming.
    """
    usage = message["usage"]
    begun = {"stop_reason": None, "stop_sequence": None, "stop_details": None, "content": []}
    unspoken = {
        key: value
        for key, value in usage.items()
        if key not in ("output_tokens_details", "iterations")
    }
    start = {**message, **begun, "usage": {**unspoken, "output_tokens": 1}}
    yield _event("message_start", message=start)
    yield _event("ping")
    for index, block in enumerate(message["content"]):
        empty, deltas = _taken_apart(block)
        yield _event("content_block_start", index=index, content_block=empty)
        for delta in deltas:
            yield _event("content_block_delta", index=index, delta=delta)
        yield _event("content_block_stop", index=index)
    ended = {name: message[name] for name in ("stop_reason", "stop_sequence", "stop_details")}
    counted = {
        name: usage[name]
        for name in (
            "input_tokens",
            "cache_creation_input_tokens",
            "cache_read_input_tokens",
            "output_tokens",
            "output_tokens_details",
            "iterations",
        )
        if name in usage
    }
    yield _event("message_delta", delta=ended, usage=counted)
    yield _event("message_stop")


def _taken_apart(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """How a block begins, and what is added to it piece by piece."""
    if block["type"] == "text":
        pieces = [{"type": "text_delta", "text": piece} for piece in _pieces(block["text"])]
        if "citations" not in block:
            return {**block, "text": ""}, pieces
        cited = [{"type": "citations_delta", "citation": one} for one in block["citations"]]
        return {**block, "text": "", "citations": []}, [*pieces, *cited]
    if block["type"] == "thinking":
        pieces = [
            {"type": "thinking_delta", "thinking": piece} for piece in _pieces(block["thinking"])
        ]
        signature = {"type": "signature_delta", "signature": block["signature"]}
        return {**block, "thinking": "", "signature": ""}, [*pieces, signature]
    if block["type"] == "compaction":
        # SDK types/beta/beta_compaction_content_block_delta.py
        return {**block, "content": None}, [
            {"type": "compaction_delta", "content": block["content"]}
        ]
    written = orjson.dumps(block["input"]).decode()
    pieces = [
        {"type": "input_json_delta", "partial_json": piece} for piece in ["", *_pieces(written)]
    ]
    return {**block, "input": {}}, pieces


def _pieces(text: str) -> list[str]:
    return [text[at : at + _PIECE] for at in range(0, len(text), _PIECE)]


def _event(type: str, **fields: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (type.encode(), orjson.dumps({"type": type, **fields}))
