"""Citations of the documents that ask for them.

SDK types/citation_char_location.py has their form for a plain text. That every answer cites the beginning of the
first such text, and nothing of other documents, is our reading.
"""

from collections.abc import Iterator
from typing import Any

_CITED_CHARACTERS = 80


def cited_documents(params: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The documents that ask for citations, each with its place among all documents."""
    place = -1
    for message in params["messages"]:
        if isinstance(message["content"], str):
            continue
        for block in message["content"]:
            if block.get("type") not in ("document", "search_result"):
                continue
            place += 1
            if (block.get("citations") or {}).get("enabled"):
                yield place, block


def citation_of(params: dict[str, Any]) -> dict[str, Any] | None:
    """What an answer cites; None where no plain text asks for it."""
    for place, block in cited_documents(params):
        source = block.get("source")
        if isinstance(source, dict) and source.get("type") == "text" and source["data"]:
            cited = source["data"][:_CITED_CHARACTERS]
            return {
                "type": "char_location",
                "cited_text": cited,
                "document_index": place,
                "document_title": block.get("title"),
                "file_id": None,
                "start_char_index": 0,
                "end_char_index": len(cited),
            }
    return None
