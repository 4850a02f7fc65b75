"""The blocks that turns are made of: text, images, documents, calls and results of tools."""

import base64
import binascii
from collections.abc import Iterator
from typing import Any

from batch_pipeline.emulator.errors import ApiError, invalid
from batch_pipeline.emulator.rules.messages import content_lists
from batch_pipeline.emulator.rules.rule import OUR_READING, Asked, rule
from batch_pipeline.emulator.rules.shape import a_text, an_object, fields_of, one_of

MAX_IMAGE_BYTES = 10_000_000
_CACHED = {"cache_control": "object?"}
_NAMED = {**_CACHED, "caller": "object", "toolset_name": "text?"}
# SDK types/content_block_param.py, types/beta/beta_content_block_param.py: type -> required, optional
BLOCKS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "text": ({"text": "text"}, {**_CACHED, "citations": "list?"}),
    "image": ({"source": "object"}, {**_CACHED, "transformations": "object?"}),
    "document": (
        {"source": "object"},
        {**_CACHED, "citations": "object?", "context": "text?", "title": "text?"},
    ),
    "search_result": (
        {"content": "list", "source": "text", "title": "text"},
        {**_CACHED, "citations": "object"},
    ),
    "thinking": ({"signature": "text", "thinking": "text"}, {}),
    "redacted_thinking": ({"data": "text"}, {}),
    "tool_use": ({"id": "text", "input": "object", "name": "text"}, _NAMED),
    "tool_result": (
        {"tool_use_id": "text"},
        {**_CACHED, "content": "any", "is_error": "truth", "toolset_name": "text?"},
    ),
    "server_tool_use": ({"id": "text", "input": "object", "name": "text"}, _NAMED),
    "container_upload": ({"file_id": "text"}, _CACHED),
    "mcp_tool_use": (
        {"id": "text", "input": "object", "name": "text", "server_name": "text"},
        _CACHED,
    ),
    "mcp_tool_result": (
        {"tool_use_id": "text"},
        {**_CACHED, "content": "any", "is_error": "truth"},
    ),
    "compaction": (
        {},
        {
            **_CACHED,
            "content": "text?",
            "encrypted_content": "text?",
            "signature": "text?",
            "tool_changes": "list?",
        },
    ),
    "mcp_tool_listing": ({"mcp_server_name": "text", "tools": "list"}, {}),
    "fallback": ({"from": "object", "to": "object"}, {"trigger": "any"}),
    "tool_addition": ({"tool": "object"}, _CACHED),
    "tool_removal": ({"tool": "object"}, _CACHED),
}
# Results of server tools have each a shape of their own; of these only the call is looked at.
_SERVER_RESULTS = (
    "web_search_tool_result",
    "web_fetch_tool_result",
    "code_execution_tool_result",
    "bash_code_execution_tool_result",
    "text_editor_code_execution_tool_result",
    "tool_search_tool_result",
    "advisor_tool_result",
)
_IN_RESULTS = ("text", "image", "search_result", "document", "tool_reference", "browser_state")
_OF_THE_SYSTEM = ("text", "tool_addition", "tool_removal")
# What files of a media type begin with.
_IMAGES = {
    "image/jpeg": (b"\xff\xd8\xff",),
    "image/png": (b"\x89PNG\r\n\x1a\n",),
    "image/gif": (b"GIF87a", b"GIF89a"),
    "image/webp": (b"RIFF",),
}


@rule("SDK types/content_block_param.py and the types of its parts, types/beta")
def wrong_block(asked: Asked) -> None:
    """A block of no type that there is, or whose fields are missing, of another type, or unknown."""
    for where, role, blocks in content_lists(asked):
        for position, block in enumerate(blocks):
            _check_block(block, f"{where}.{position}", _OF_THE_SYSTEM if role == "system" else None)


def _check_block(block: Any, where: str, among: tuple[str, ...] | None) -> None:
    if not isinstance(block, dict):
        raise invalid(f"{where}: Input should be an object")
    if "type" not in block:
        raise invalid(f"{where}.type: Field required")
    kind = block["type"]
    known = among or (*BLOCKS, *_SERVER_RESULTS)
    if not isinstance(kind, str) or kind not in known:
        listed = ", ".join(f"'{name}'" for name in known)
        raise invalid(
            f"{where}: Input tag '{kind}' found using 'type' does not match any of the expected "
            f"tags: {listed}"
        )
    if kind not in BLOCKS:
        required = {"tool_use_id": "text", "content": "any"} if kind in _SERVER_RESULTS else {}
        fields_of(block, where, {"type": "any", **required}, more=True)
        return
    required, optional = BLOCKS[kind]
    fields_of(block, f"{where}.{kind}", {"type": "any", **required}, optional)
    if kind == "text":
        _check_text(block["text"])
    for position, cited in enumerate(block.get("citations") or () if kind == "text" else ()):
        fields_of(cited, f"{where}.text.citations.{position}", {"type": "text"}, more=True)
    if kind == "document" and block.get("citations") is not None:
        fields_of(block["citations"], f"{where}.document.citations", {}, {"enabled": "truth"})
    if kind == "search_result":
        for position, part in enumerate(block["content"]):
            _check_block(part, f"{where}.search_result.content.{position}", ("text",))
    if kind == "tool_result":
        _check_result(block.get("content", ""), f"{where}.tool_result.content")
    if kind == "mcp_tool_result":
        _check_result(block.get("content", ""), f"{where}.mcp_tool_result.content")


def _check_text(text: str) -> None:
    if not text:
        raise invalid("messages: text content blocks must be non-empty")
    if not text.strip():
        raise invalid("messages: text content blocks must contain non-whitespace text")


def _check_result(content: Any, where: str) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise invalid(f"{where}: Input should be a valid string or list")
    for position, block in enumerate(content):
        _check_block(block, f"{where}.{position}", _IN_RESULTS)


@rule("SDK types: base64_image_source_param.py, url_..., file_...; the 10 MB are our reading")
def wrong_image(asked: Asked) -> None:
    """An image of no source or media type that there is, or whose data is none such image."""
    for where, block in _all_blocks(asked, "image"):
        where, source = f"{where}.image.source", an_object(block.get("source"), f"{where}.source")
        kind = one_of(source.get("type"), ("base64", "url", "file"), f"{where}.type")
        if kind == "url":
            _check_url(source, where)
        elif kind == "file":
            fields_of(source, where, {"type": "any", "file_id": "text"})
        else:
            fields_of(source, where, {"type": "any", "media_type": "any", "data": "text"})
            media = one_of(source["media_type"], tuple(_IMAGES), f"{where}.media_type")
            data = _decoded(source["data"], f"{where}.data")
            if len(data) > MAX_IMAGE_BYTES:
                raise invalid(f"{where}.data: image exceeds {MAX_IMAGE_BYTES} bytes")
            if not data.startswith(_IMAGES[media]):
                raise invalid(f"{where}.data: The image does not match the media type {media}")


@rule(
    "SDK types: base64_pdf_source_param.py, plain_text_source_param.py, content_block_source_param.py"
)
def wrong_document(asked: Asked) -> None:
    """A document of no source or media type that there is, or a PDF that is none."""
    kinds = ("base64", "text", "content", "url", "file")
    for where, block in _all_blocks(asked, "document"):
        source = an_object(block.get("source"), f"{where}.source")
        where = f"{where}.document.source"
        kind = one_of(source.get("type"), kinds, f"{where}.type")
        if kind == "url":
            _check_url(source, where)
        elif kind == "file":
            fields_of(source, where, {"type": "any", "file_id": "text"})
        elif kind == "content":
            fields_of(source, where, {"type": "any", "content": "any"})
            if not isinstance(source["content"], str | list):
                raise invalid(f"{where}.content: Input should be a valid string or list")
            parts = source["content"] if isinstance(source["content"], list) else ()
            for position, part in enumerate(parts):
                _check_block(part, f"{where}.content.{position}", ("text", "image"))
        else:
            fields_of(source, where, {"type": "any", "media_type": "any", "data": "text"})
            wanted = "text/plain" if kind == "text" else "application/pdf"
            one_of(source["media_type"], (wanted,), f"{where}.media_type")
            data = _decoded(source["data"], f"{where}.data") if kind == "base64" else b"%PDF"
            if not data.startswith(b"%PDF"):
                raise invalid(f"{where}.data: The PDF specified was not valid.")


@rule("docs Files API: File not found (404)")
def unknown_file(asked: Asked) -> None:
    """A `file_id` that does not exist: a 404."""
    named = [
        block["source"]["file_id"]
        for kind in ("image", "document")
        for _, block in _all_blocks(asked, kind)
        if block["source"]["type"] == "file"
    ]
    named += [block["file_id"] for _, block in _all_blocks(asked, "container_upload")]
    for id in named:
        if not asked.occasion.has_file(id):
            raise ApiError("not_found_error", f"File not found: {id}")


@rule(OUR_READING)
def wrong_url(asked: Asked) -> None:
    """A source that is no https URL."""
    for kind in ("image", "document"):
        for where, block in _all_blocks(asked, kind):
            source = block["source"]
            if source["type"] == "url" and not source["url"].startswith("https://"):
                raise invalid(f"{where}.source.url: Only HTTPS URLs are supported")


def _check_url(source: dict[str, Any], where: str) -> None:
    fields_of(source, where, {"type": "any", "url": "text"})
    a_text(source["url"], f"{where}.url", filled=True)


def _decoded(data: str, where: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise invalid(f"{where}: invalid base64 data") from None


def _all_blocks(asked: Asked, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every block of a kind with its place, also those in results of tools and in documents."""
    for where, _, blocks in content_lists(asked):
        yield from _among(blocks, where, kind)


def _among(blocks: Any, where: str, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for position, block in enumerate(blocks if isinstance(blocks, list) else ()):
        here = f"{where}.{position}"
        if block["type"] == kind:
            yield here, block
        if block["type"] == "tool_result":
            yield from _among(block.get("content"), f"{here}.content", kind)
        source = block.get("source")
        if block["type"] == "document" and isinstance(source, dict):
            yield from _among(source.get("content"), f"{here}.source.content", kind)
