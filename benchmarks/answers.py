"""Answers that look real: lines of results, each without the custom_id it begins with."""

from pathlib import Path
from typing import Any, get_args

import duckdb
import orjson

from batch_pipeline.demo.packages import PACKAGES
from benchmarks.question import MODEL, Entry

DIFFERENT = 1_000  # answers; the server goes round them
ODD = 200  # one in so many is no plain answer


def write_answers(folder: Path) -> None:
    """Write ``text.jsonl`` and ``structured.jsonl``: what follows the custom_id in each line."""
    rows = duckdb.execute(
        "select package, summary, left(description, 120) from read_parquet(?) order by package "
        f"limit {DIFFERENT}",
        [str(PACKAGES)],
    ).fetchall()
    for kind in ("text", "structured"):
        lines = [_line(number, kind, *row) for number, row in enumerate(rows)]
        (folder / f"{kind}.jsonl").write_bytes(b"".join(lines))


def _line(number: int, kind: str, package: str, summary: str, description: str) -> bytes:
    sentence = f"{package} gives you {summary[:1].lower()}{summary[1:]}."
    if kind == "text":
        answer = f"{sentence} {' '.join(description.split())}"[:160]
    else:
        audiences = get_args(Entry.model_fields["audience"].annotation)
        entry = Entry(
            audience=audiences[number % len(audiences)],
            confidence=round(0.5 + number % 50 / 100, 2),
            is_library=package.startswith("lib"),
            keywords=summary.lower().split()[:3],
            said=sentence[:90],
        )
        answer = entry.model_dump_json()
    result: dict[str, Any] = {"type": "succeeded", "message": _message(number, answer)}
    if number % ODD == ODD - 1:
        result = _odd(number // ODD, result)
    # The custom_id and its opening are written by the server.
    return b"," + orjson.dumps({"result": result})[1:] + b"\n"


def _message(number: int, answer: str) -> dict[str, Any]:
    return {
        "id": f"msg_{number:024d}",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [{"type": "text", "text": answer}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "stop_details": None,
        "usage": {
            "input_tokens": 480 + number % 90,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 30 + number % 40,
            "service_tier": "batch",
            "inference_geo": "not_available",
        },
    }


def _odd(which: int, result: dict[str, Any]) -> dict[str, Any]:
    """Return one of what comes instead of a plain answer now and then."""
    match which % 5:
        case 0:
            result["message"]["stop_reason"] = "max_tokens"
        case 1:
            result["message"]["stop_reason"] = "refusal"
        case 2:
            error = {"type": "overloaded_error", "message": "Overloaded"}
            return {"type": "errored", "error": {"type": "error", "error": error}}
        case 3:
            return {"type": "expired"}
        case _:
            result["message"]["content"][0]["text"] = '{"audience": "nobody"}'
    return result
