"""Asking again for an answer that did not fit: with that answer, and with what is wrong with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from batch_pipeline.requests.compiled import ANSWER_TOOL

READS = (" The answer reads: ", " It reads: ")
"""What stands in a reason before the answer that it is about."""
CALL = "toolu_earlier_answer"
"""Id of the earlier call of the answer's tool: the same in all requests, so that like ones are alike."""
WRONG = "That answer cannot be used: {error}.\n\nAnswer once more, in full and in the same form, with this put right."


@dataclass(frozen=True)
class Correction:
    """An earlier answer that did not fit.

    Attributes:
        answer: a JSON list of its blocks: texts, and calls of tools without their ids.
        error: why it did not fit, as the results say it.
    """

    answer: str
    error: str


def corrected(params: Mapping[str, Any], correction: Correction) -> dict[str, Any] | None:
    """Return a request with the earlier answer and what is wrong with it as further turns.

    The last turn is the user's, so that it is no prefill. What the model thought is left out: it belongs
    to the turn that it was thought in. None: there is nothing in the answer to go on from.

    Args:
        params: the request as it was.
        correction: the earlier answer.
    """
    blocks = orjson.loads(correction.answer)
    why = correction.error
    for words in READS:
        why = why.partition(words)[0]
    said = WRONG.format(error=why.strip().rstrip("."))
    call = _call(blocks) if _forces_answer(params) else None
    if call is not None:
        turns = [
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": CALL, "name": ANSWER_TOOL, "input": call}],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": CALL, "content": said, "is_error": True}
                ],
            },
        ]
    else:
        texts = [block["text"] for block in blocks if isinstance(block.get("text"), str)]
        text = "".join(texts).strip()
        if not text:
            return None
        turns = [{"role": "assistant", "content": text}, {"role": "user", "content": said}]
    return {**params, "messages": [*params["messages"], *turns]}


def _forces_answer(params: Mapping[str, Any]) -> bool:
    """Whether a request lets the model answer through the tool for it."""
    choice = params.get("tool_choice")
    return isinstance(choice, Mapping) and choice.get("name") == ANSWER_TOOL


def _call(blocks: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return what the tool for the answer was called with."""
    for block in blocks:
        if block.get("type") == "tool_use" and block.get("name") == ANSWER_TOOL:
            return block["input"] if isinstance(block.get("input"), dict) else None
    return None
