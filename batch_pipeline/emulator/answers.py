"""Composing the answer to one message."""

import hashlib
from collections.abc import Callable
from typing import Any

import orjson

from batch_pipeline.emulator.catalog import Model, find_model
from batch_pipeline.emulator.citations import citation_of
from batch_pipeline.emulator.compaction import with_compaction
from batch_pipeline.emulator.filling import Filler
from batch_pipeline.emulator.options import Answers
from batch_pipeline.emulator.outcomes import Draw
from batch_pipeline.emulator.prompt import CHARACTERS_PER_TOKEN, Prompt, count_tokens
from batch_pipeline.emulator.reading import Reading
from batch_pipeline.emulator.rules.outputs import format_of
from batch_pipeline.emulator.usage import PromptCaches, meter

Answered = dict[str, Any]

_EXTRACT_CHARACTERS = 400
_SHARE_OF_CALLS = 1 / 3
_THINKING = "Let me look at what the prompt says before answering."


def answer(
    params: dict[str, Any],
    prompt: Prompt,
    *,
    message_id: str,
    style: Answers,
    seed: int,
    outcome: str | None,
    mistaken: bool = False,
    caches: PromptCaches,
    scope: str,
    now: float,
    batch: bool,
    miss: Callable[[], bool] = lambda: False,
) -> Answered:
    """The message that answers a request whose parameters have been checked.

    Args:
        params: Parameters of the request.
        prompt: Its prompt, as `read_prompt` gave it.
        message_id: Id of the message.
        style: `fitting` or `digest`.
        seed: Changes which prompts make the model call a tool that it may call.
        outcome: `refused`, `truncated`, `unfit`, or None.
        mistaken: Of values that a schema lists, it gives another one.
        caches: All prompt caches.
        scope: Workspace of the request.
        now: Moment of the answer.
        batch: Whether it is answered in a batch.
        miss: Says whether the request misses a cache that it could have read.
    """
    model = find_model(params["model"])
    thinks = _thinks(params, model)
    thinking_tokens = count_tokens(_THINKING) if thinks else 0
    stop_reason = "end_turn"
    stop_sequence = None
    tool = None if outcome == "refused" else _tool_to_use(params, prompt, seed)
    if outcome == "refused":
        text, stop_reason = "", "refusal"
    elif tool is not None:
        input = {} if outcome == "unfit" else _filled(tool["input_schema"], prompt, style, mistaken)
        text = orjson.dumps(input if isinstance(input, dict) else {}).decode()
        stop_reason = ""
    else:
        text = "{}" if outcome == "unfit" else _text(params, prompt, style, mistaken)
        text, stop_sequence = _stopped(text, params.get("stop_sequences") or ())
    tokens = count_tokens(text)
    room = max(params["max_tokens"] - thinking_tokens, 0)
    if outcome == "truncated":
        room = min(room, max(1, tokens // 2))
    if tokens > room:
        tokens, stop_reason, stop_sequence = room, "max_tokens", None
        text = text[: int(room * CHARACTERS_PER_TOKEN)]
    elif stop_sequence is not None:
        stop_reason = "stop_sequence"
    content: list[dict[str, Any]] = []
    if thinks and params["max_tokens"]:
        signature = hashlib.sha256(message_id.encode()).hexdigest()
        shown = _THINKING if _shows_thinking(params, model) else ""
        content.append({"type": "thinking", "thinking": shown, "signature": signature})
    if tool is not None:
        # An input cut short is no JSON: the API then reports what it had, here nothing.
        input = {} if stop_reason == "max_tokens" else orjson.loads(text)
        stop_reason = stop_reason or "tool_use"
        id = "toolu_" + message_id.removeprefix("msg_")
        content.append({"type": "tool_use", "id": id, "name": tool["name"], "input": input})
    elif text:
        cited = citation_of(params)
        content.append({"type": "text", "text": text, **({"citations": [cited]} if cited else {})})
    usage = meter(
        prompt,
        params["model"],
        tokens + min(thinking_tokens, params["max_tokens"]),
        caches,
        scope=scope,
        now=now,
        batch=batch,
        miss=miss,
    )
    if params.get("inference_geo") is not None:
        usage["inference_geo"] = params["inference_geo"]
    if params.get("speed") is not None:
        usage["speed"] = params["speed"]
    if thinks:
        thought = min(thinking_tokens, params["max_tokens"])
        usage["output_tokens_details"] = {"thinking_tokens": thought}
    message = {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": params["model"],
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": stop_sequence,
        "stop_details": _REFUSAL if stop_reason == "refusal" else None,
        "usage": usage,
    }
    return with_compaction(params, prompt, message)


_REFUSAL = {
    "type": "refusal",
    "category": None,
    "explanation": "The emulator was told to refuse this request.",
}


def digest_of(text: str) -> str:
    """What `answers="digest"` answers to a prompt with this text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _thinks(params: dict[str, Any], model: Model) -> bool:
    """Whether the model thinks before it answers; newer ones do so unasked."""
    kind = (params.get("thinking") or {}).get("type")
    return model.ways.thinks_unasked if kind is None else kind in ("enabled", "adaptive")


def _shows_thinking(params: dict[str, Any], model: Model) -> bool:
    """Whether what was thought comes back as text; newer models leave it out where not asked."""
    display = (params.get("thinking") or {}).get("display")
    return model.ways.shows_thinking if display is None else display != "omitted"


def _tool_to_use(params: dict[str, Any], prompt: Prompt, seed: int) -> dict[str, Any] | None:
    """The tool that the answer calls: a forced one, a strict one, else now and then the first."""
    tools = [tool for tool in params.get("tools") or () if "input_schema" in tool]
    choice = params.get("tool_choice") or {"type": "auto"}
    if choice["type"] == "none" or not tools:
        return None
    if choice["type"] == "tool":
        return next((tool for tool in tools if tool["name"] == choice["name"]), None)
    if choice["type"] == "any":
        return tools[0]
    if format_of(params) is not None:
        return None
    strict = next((tool for tool in tools if tool.get("strict")), None)
    calls = Draw(seed)("tool", prompt.user) < _SHARE_OF_CALLS
    return strict or (tools[0] if calls else None)


def _text(params: dict[str, Any], prompt: Prompt, style: Answers, mistaken: bool) -> str:
    form = format_of(params)
    if form is not None:
        return orjson.dumps(_filled(form["schema"], prompt, style, mistaken)).decode()
    if style == "digest":
        return digest_of(prompt.user)
    return Reading(prompt.user).extract(_EXTRACT_CHARACTERS)


def _filled(schema: dict[str, Any], prompt: Prompt, style: Answers, mistaken: bool) -> Any:
    digest = digest_of(prompt.user) if style == "digest" else None
    return Filler(schema, prompt.user, prompt.system, digest, mistaken).fill()


def _stopped(text: str, stop_sequences: Any) -> tuple[str, str | None]:
    found = [(text.find(sequence), sequence) for sequence in stop_sequences if sequence in text]
    if not found:
        return text, None
    position, sequence = min(found)
    return text[:position], sequence
