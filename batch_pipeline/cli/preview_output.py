"""What `batch-pipeline preview` shows, for a person or as JSON."""

import json
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from batch_pipeline.cli.output import Row, in_usd, listing, say
from batch_pipeline.errors import counted
from batch_pipeline.requests.cache_minimum import too_short_to_cache

if TYPE_CHECKING:
    from batch_pipeline.cli.preview_requests import Answered, Preview, Shown
    from batch_pipeline.requests.cache_groups import CacheSaving
    from batch_pipeline.results.judge import Judged

MOST_TEXT = 2_000
"""Characters of a message that are shown."""
MOST_SYSTEM = 240
MOST_PARAM = 240
MOST_ANSWER = 1_000
REASONS = {
    "new": "new",
    "changed": "changed",
    "version": "asked anew because the question changed",
    "retry": "to ask again",
    "forced": "forced",
}
KNOWN = {
    "settled": "settled, with nothing new about them",
    "in_flight": "on their way",
    "exhausted": "out of attempts",
    "ruled": "settled by a rule, at no cost",
    "reused": "answered earlier and published again at no cost",
}


def show_preview(found: "Preview", *, sends: bool) -> None:
    """Print the requests, what they weigh, and what all of them may cost; ``sends``: and more is to come."""
    records, shown = found.records, found.shown
    variant = f", variant {found.variant}" if found.variant else ""
    where = f"{found.pipeline} {found.partition}".strip() + variant
    say(f"{where}: {_counts(found)}\n")
    if not shown:
        if records.selection.source_rows:
            say("--force shows the requests of answered records, too.")
        return
    common = _common([one.rendered.params for one in shown if one.rendered.params is not None])
    if common:
        listing("In every request", [""], [Row((line,)) for line in _lines(common)])
    listing(
        f"The first {'request' if len(shown) == 1 else f'{len(shown)} requests'}"
        f"{'' if records.question.cache_by else ' by key'}, at the price of a batch",
        ["key", "why", "input tokens", "costs at most", "likely"],
        [
            Row(
                (
                    ", ".join(one.first.key),
                    REASONS[one.first.reason] if one.first.reason != "version" else "question changed",
                    one.tokens if one.cost else "",
                    in_usd(one.cost.usd_max) if one.cost else "",
                    in_usd(one.cost.usd_likely) if one.cost and one.cost.usd_likely is not None else "",
                ),
                tuple(_lines(_own(one.rendered.params, common))),
                f"this record cannot be asked. {one.rendered.rejected}"
                if one.rendered.rejected is not None
                else None,
            )
            for one in shown
        ],
    )  # fmt: skip
    say(f"Input tokens are {found.counted_by}.")
    say(_price(found))
    if (uncached := too_short_to_cache(records.question)) is not None:
        say(uncached)
    if found.cost.cache_by is not None:
        say(found.cost.cache_by.line)
    if found.late_said:
        say(found.late_said)
    if not sends:
        say("Nothing was sent.")


def _counts(found: "Preview") -> str:
    rows, asked = found.records.selection.source_rows, found.records.asked
    parts = [f"{count:,} {REASONS[name]}" for name, count in found.records.reasons.items()]
    rest = [
        f"{getattr(found.records.selection, name):,} {text}"
        for name, text in KNOWN.items()
        if getattr(found.records.selection, name)
    ]
    left_out = rows - asked - sum(getattr(found.records.selection, name) for name in KNOWN)
    if left_out:
        rest.append(f"{left_out:,} left out by --where")
    if not rows:
        return "the source has no rows. Nothing would be asked."
    others = f" The others: {', '.join(rest)}." if rest and asked else ""
    if not asked:
        return f"nothing of {counted(rows, 'record')} would be asked now ({', '.join(rest) or 'none is wanted'})."
    once = f"; the same is asked once: {counted(found.records.requests, 'request')}"
    return (
        f"{asked:,} of {counted(rows, 'record')} would be asked now ({', '.join(parts)}"
        f"{once if found.records.duplicates else ''}).{others}"
    )


def _price(found: "Preview") -> str:
    cost, asked, question = found.cost, found.records.requests, found.records.question
    most = "" if question.by_line else f": {question.template.max_tokens:,}"
    about = f"All {asked:,}" if asked > 1 else "It"
    if cost.usd_max is None:
        return f"{about}: the batch price of {found.records.question.template.model} is not known, so the cost is not."
    likely = (
        f"; about {in_usd(cost.usd_likely)} if answers are as long as the earlier ones"
        if cost.usd_likely is not None
        else f" (if each answer were max_tokens long{most})"
    )
    part = f", going by the first {found.weighed:,}" if found.weighed < asked else ""
    return (
        f"{about} in batches: at most about {in_usd(cost.usd_max)}{likely}, reserved {in_usd(cost.usd_reserved)}, "
        f"synchronously {in_usd(cost.usd_synchronous)}; {cost.input_tokens:,} input tokens. That is what the run will "
        f"say, too: {cost.said}{part}."
    )


def _common(params: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the parameters that all requests share."""
    if not params:
        return {}
    return {
        name: value
        for name, value in params[0].items()
        if name != "messages" and all(other.get(name) == value for other in params)
    }


def _own(params: Mapping[str, Any] | None, common: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in (params or {}).items() if name not in common}


def _lines(params: Mapping[str, Any]) -> Iterator[str]:
    """Yield parameters as text that can be read: the system prompt shortened, messages in full."""
    for name, value in params.items():
        if name == "messages":
            for message in value:
                yield from _turn(str(message.get("role")), message.get("content"))
        elif name == "system":
            text = _text(value)
            kept = next((b["cache_control"] for b in value if "cache_control" in b), None) if isinstance(value, list) else None  # fmt: skip
            cached = f", cached for {kept.get('ttl', '5m')}" if kept else ""
            yield f"system ({len(text):,} characters{cached}): {_cut(' '.join(text.split()), MOST_SYSTEM, say_all=False)}"
        else:
            shown = value if isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)  # fmt: skip
            yield f"{name}: {_cut(str(shown), MOST_PARAM)}"


def _turn(role: str, content: Any) -> Iterator[str]:
    """Yield a turn; a block that is cached by itself, shortened."""
    blocks = content if isinstance(content, list) else [content]
    marked = [n for n, one in enumerate(blocks) if isinstance(one, dict) and "cache_control" in one]
    rest = blocks[marked[-1] + 1 :] if marked else blocks
    if marked:
        text, ttl = _text(blocks[: marked[-1] + 1]), blocks[marked[-1]]["cache_control"].get("ttl", "5m")  # fmt: skip
        yield f"{role} ({len(text):,} characters cached for {ttl}): {_cut(' '.join(text.split()), MOST_SYSTEM, say_all=False)}"
    yield f"{role}: {_cut(_text(rest if isinstance(content, list) else content), MOST_TEXT)}"


def _text(content: Any) -> str:
    """Return the text of a message or a system prompt; what is no text as JSON."""
    if isinstance(content, str):
        return content
    return "\n".join(
        block["text"]
        if isinstance(block, dict) and isinstance(block.get("text"), str)
        else json.dumps(block, ensure_ascii=False)
        for block in content or ()
    )


def _cut(text: str, most: int, *, say_all: bool = True) -> str:
    if len(text) <= most:
        return text
    return f"{text[:most]} ...{f' ({len(text):,} characters in all)' if say_all else ''}"


def preview_json(found: "Preview") -> dict[str, Any]:
    """Return all of it for a program, requests in full."""
    selection = found.records.selection
    return {
        "pipeline": found.pipeline,
        "partition": found.partition or None,
        "variant": found.variant or None,
        "source_rows": selection.source_rows,
        "asked": found.records.asked,
        "reasons": found.records.reasons,
        "duplicates": found.records.duplicates,
        **{name: getattr(selection, name) for name in KNOWN},
        "requests": [_request_json(one) for one in found.shown],
        "input_tokens_are": found.counted_by,
        "estimate": {
            "input_tokens": found.cost.input_tokens,
            "output_tokens_max": found.cost.output_tokens_max,
            "usd_max": _number(found.cost.usd_max),
            "usd_likely": _number(found.cost.usd_likely),
            "usd_expected": _number(found.cost.usd_expected),
            "usd_reserved": _number(found.cost.usd_reserved),
            "usd_synchronous": _number(found.cost.usd_synchronous),
            "input_tokens_by": found.cost.said,
            **_cache_by_json(found.cost.cache_by),
        },
    }


def _cache_by_json(saving: "CacheSaving | None") -> dict[str, Any]:
    if saving is None:
        return {}
    return {
        "cache_by_saves_usd": _number(saving.usd),
        "cache_by_saves_at_best_usd": _number(saving.usd_best),
        "cache_by": saving.line,
    }


def _request_json(one: "Shown") -> dict[str, Any]:
    return {
        "key": one.first.key,
        "reason": one.first.reason,
        "attempt": one.first.attempt,
        "params": one.rendered.params,
        "rejected": one.rendered.rejected,
        "input_tokens": one.tokens if one.cost else None,
        "usd_max": _number(one.cost.usd_max) if one.cost else None,
        "usd_likely": _number(one.cost.usd_likely) if one.cost else None,
    }


def show_answers(answers: "Sequence[Answered]") -> None:
    """Print what was answered now, judged as results are."""
    listing(
        "Answers",
        ["key", "status", "tokens in", "tokens out", "cost"],
        [
            Row(
                (
                    ", ".join(one.shown.first.key),
                    one.judged.status,
                    _all_input(one.judged),
                    one.judged.output_tokens,
                    in_usd(one.cost),
                ),
                (
                    _cut(one.judged.answer or one.judged.tool_calls or "", MOST_ANSWER),
                    one.judged.error,
                ),
            )
            for one in answers
        ],
    )
    if answers:
        known = [one.cost for one in answers if one.cost is not None]
        unknown = f", and {len(answers) - len(known)} of unknown cost" if len(known) < len(answers) else ""  # fmt: skip
        say(f"Paid now, at full price: {in_usd(sum(known, Decimal(0)))}{unknown}.")


def _all_input(judged: "Judged") -> int | None:
    """Return a request's input tokens, with those that were written to the cache or read from it."""
    if judged.input_tokens is None:
        return None
    return judged.input_tokens + (judged.cache_read_tokens or 0) + (judged.cache_write_tokens or 0)


def answers_json(answers: "Sequence[Answered]") -> list[dict[str, Any]]:
    """Return the same for a program."""
    return [
        {
            "key": one.shown.first.key,
            "status": one.judged.status,
            "error": one.judged.error,
            "answer": one.judged.answer,
            "tool_calls": one.judged.tool_calls,
            "model": one.judged.model,
            "stop_reason": one.judged.stop_reason,
            "input_tokens": one.judged.input_tokens,
            "cache_read_tokens": one.judged.cache_read_tokens,
            "cache_write_tokens": one.judged.cache_write_tokens,
            "output_tokens": one.judged.output_tokens,
            "cost_usd": _number(one.cost),
        }
        for one in answers
    ]


def _number(usd: Decimal | None) -> float | None:
    return None if usd is None else float(usd)
