"""What the emulator knows of each model: prices, limits, what it takes and refuses.

Prices are US dollars per million tokens as published on 2026-11-20 (release notes, pricing page);
in a batch each is halved. A model that is not listed is answered, but its price is unknown.
"""

import dataclasses
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

BATCH_DISCOUNT = Decimal("0.5")
_MILLION = Decimal(1_000_000)


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens; None where no price is published."""

    input: Decimal
    output: Decimal
    write_5m: Decimal
    write_1h: Decimal
    read: Decimal | None


@dataclass(frozen=True)
class Ways:
    """What a family of models takes of what not all models take.

    Attributes:
        thinking: Kinds of `thinking` that are taken.
        thinks_unasked: Whether it thinks where `thinking` is absent.
        shows_thinking: Whether thinking comes back as text where `display` is absent.
        effort: Levels of effort that are taken.
        effort_unthinking: Those that are taken where thinking is disabled.
        forced_tools: Whether `tool_choice` may force a tool.
        prefill: Whether the last turn may be the assistant's.
        sampling: Whether temperature, top_p, top_k may be other than their defaults, under versions
            of the API that have them.
        no_tools: Types of tools that are refused.
        fast: Whether it has a fast mode, or one that a beta brings.
    """

    thinking: tuple[str, ...]
    thinks_unasked: bool = True
    shows_thinking: bool = False
    effort: tuple[str, ...] = ("low", "medium", "high", "xhigh", "max")
    effort_unthinking: tuple[str, ...] = ("low", "medium", "high", "xhigh", "max")
    forced_tools: bool = True
    prefill: bool = False
    sampling: bool = False
    no_tools: tuple[str, ...] = ()
    fast: Literal["no", "beta", "yes"] = "no"


_OLD_COMPUTERS = ("computer_20241022", "computer_20250124", "computer_20251124")
_TO_HIGH = ("low", "medium", "high")

# Fast mode, docs "Fast mode" of November 2026: Fable 5.2, Mythos 5.2, Opus 5.5; with its beta Opus 5 and
# 4.8 (until 2026-11-30).
# docs "What's new in Claude Fable 5.2": thinking is always on, computer_20251124 is an error. That
# forced tools stay refused, as on Fable 5.1, is our reading: it is not among what changed.
_FABLE_5_2_WAYS = Ways(("adaptive",), forced_tools=False, no_tools=_OLD_COMPUTERS, fast="yes")
# docs "What's new in Claude Fable 5.1": always on, forced tool use is an error.
_FABLE_5_1_WAYS = Ways(("adaptive",), forced_tools=False)
# docs "What's new in Claude Opus 5.5": always on, no forced tools, no computer_20251124.
_OPUS_5_5_WAYS = Ways(("adaptive",), forced_tools=False, no_tools=_OLD_COMPUTERS, fast="yes")
# docs "What's new in Claude Sonnet 5.5": between_tools in place of disabled, no forced tools.
_SONNET_5_5_WAYS = Ways(("adaptive", "between_tools"), forced_tools=False, no_tools=_OLD_COMPUTERS)
# docs "Claude Haiku 5.5 migration guide": no budget, no prefill, computer use by the toolset; it
# does not name forced tools, so they work. Off at effort high or below: openrouter.ai's model page.
_HAIKU_5_5_WAYS = Ways(
    ("adaptive", "disabled"), effort_unthinking=_TO_HIGH, no_tools=_OLD_COMPUTERS
)
# docs "What's new in Claude Fable 5.1": forced tools became an error with 5.1. Always on: reference 9.
_FABLE_5_WAYS = Ways(("adaptive",))
# docs "What's new in Claude Opus 5": on by default, off at effort high or below.
_OPUS_5_WAYS = Ways(("adaptive", "disabled"), effort_unthinking=_TO_HIGH, fast="beta")
# apidog.com "Claude Sonnet 5.5 vs Sonnet 5": adaptive and disabled, forced tools supported.
_SONNET_5_WAYS = Ways(("adaptive", "disabled"))
# docs "What's new in Claude Opus 5": without `thinking` 4.8 does not think. No budgets from 4.7 on:
# docs "Errors" (developersdigest.tech). Effort xhigh from 4.7 on: docs "Effort".
_OPUS_4_7_WAYS = Ways(("adaptive", "disabled"), thinks_unasked=False)
_OPUS_4_8_WAYS = dataclasses.replace(_OPUS_4_7_WAYS, fast="beta")
# docs "Adaptive thinking": budgets are deprecated on 4.6, and work. No prefill from 4.6 on, sampling
# until 4.6: docs "Errors" (developersdigest.tech), BerriAI/litellm#37868.
_4_6_WAYS = Ways(
    ("adaptive", "enabled", "disabled"),
    thinks_unasked=False,
    shows_thinking=True,
    effort=("low", "medium", "high", "max"),
    sampling=True,
)
# docs "Adaptive thinking": 4.5 and earlier need a budget. Effort on Opus 4.5 alone: docs "Effort",
# Oaklight/llm-rosetta#289.
_OPUS_4_5_WAYS = Ways(
    ("enabled", "disabled"),
    thinks_unasked=False,
    shows_thinking=True,
    effort=_TO_HIGH,
    prefill=True,
    sampling=True,
)
_4_5_WAYS = dataclasses.replace(_OPUS_4_5_WAYS, effort=())
# A model that no list has: whatever is asked of it, it does. Our reading.
_ANY_WAYS = Ways(
    ("adaptive", "enabled", "disabled", "between_tools"),
    thinks_unasked=False,
    shows_thinking=True,
    prefill=True,
    sampling=True,
    fast="yes",
)


@dataclass(frozen=True)
class Model:
    """One model.

    Attributes:
        price: Price list, or None where it is not published.
        long_price: Price of a request whose prompt is above 100,000 tokens, where it differs.
        cache_minimum: Tokens a prefix must have to be cached.
        ways: What it takes of what not all models take.
        max_output: Highest `max_tokens`.
        long_output: Whether a beta lets a batch ask for up to 300,000.
        geo: Whether `inference_geo` is known, and "us" costs more.
    """

    id: str
    name: str
    price: Price | None
    cache_minimum: int
    released: str
    ways: Ways
    long_price: Price | None = None
    max_output: int = 128_000
    max_input: int = 1_000_000
    long_output: bool = False
    geo: bool = True


def _price(input: str, output: str, write_5m: str, write_1h: str, read: str | None) -> Price:
    return Price(
        input=Decimal(input),
        output=Decimal(output),
        write_5m=Decimal(write_5m),
        write_1h=Decimal(write_1h),
        read=None if read is None else Decimal(read),
    )


_FABLE_5_2 = _price("8", "40", "10", "16", None)
_FABLE_5_1 = _price("10", "50", "12.50", "20", "0.25")
_FABLE_5 = _price("10", "50", "12.50", "20", "1")
_OPUS_5_5 = _price("4", "20", "5", "8", "0.20")
_OPUS = _price("5", "25", "6.25", "10", "0.50")
_SONNET_5 = _price("2", "10", "2.50", "4", "0.20")
# Reads cost half as much from 2026-10-07 on: genai-prices 0.2.3, kurofune/claudit v1.9.2 (the pricing page of 10-24).
_SONNET_5_5 = _price("2", "10", "2.50", "4", "0.10")
_SONNET_4 = _price("3", "15", "3.75", "6", "0.30")
_HAIKU_5_5 = _price("0.10", "0.50", "0.125", "0.20", "0.01")
_HAIKU_5_5_LONG = _price("0.50", "2.50", "0.625", "1", "0.05")
_HAIKU_4_5 = _price("1", "5", "1.25", "2", "0.10")

# Minimum prefixes: docs "Prompt caching" (reference 6); 512 for the 5.5 family: openrouter.ai "Claude
# 5.5 migration guide" and apidog.com. That of Fable 5.1 and 5.2 is that of Fable 5: our reading.
# Context, output: docs, the model pages. 300,000 tokens in a batch: reference 9.
_LONG: dict[str, Any] = {"long_output": True}
_SMALL: dict[str, Any] = {"max_output": 64_000, "max_input": 200_000, "geo": False}
MODELS = {
    id: Model(id, name, price, minimum, released, ways, **further)
    for id, name, price, minimum, released, ways, further in (
        ("claude-fable-5-2", "Claude Fable 5.2", _FABLE_5_2, 512, "2026-11-09", _FABLE_5_2_WAYS, {}),
        ("claude-mythos-5-2", "Claude Mythos 5.2", _FABLE_5_2, 512, "2026-11-09", _FABLE_5_2_WAYS, {}),
        ("claude-haiku-5-5", "Claude Haiku 5.5", _HAIKU_5_5, 512, "2026-10-07", _HAIKU_5_5_WAYS,
         {**_LONG, "long_price": _HAIKU_5_5_LONG}),
        ("claude-sonnet-5-5", "Claude Sonnet 5.5", _SONNET_5_5, 512, "2026-09-28", _SONNET_5_5_WAYS, _LONG),
        ("claude-opus-5-5", "Claude Opus 5.5", _OPUS_5_5, 512, "2026-09-22", _OPUS_5_5_WAYS, _LONG),
        ("claude-fable-5-1", "Claude Fable 5.1", _FABLE_5_1, 512, "2026-09-01", _FABLE_5_1_WAYS, {}),
        ("claude-mythos-5-1", "Claude Mythos 5.1", _FABLE_5_1, 512, "2026-09-01", _FABLE_5_1_WAYS, {}),
        ("claude-opus-5", "Claude Opus 5", _OPUS, 512, "2026-07-24", _OPUS_5_WAYS, _LONG),
        ("claude-sonnet-5", "Claude Sonnet 5", _SONNET_5, 1024, "2026-06-30", _SONNET_5_WAYS, _LONG),
        ("claude-fable-5", "Claude Fable 5", _FABLE_5, 512, "2026-06-09", _FABLE_5_WAYS, {}),
        ("claude-mythos-5", "Claude Mythos 5", _FABLE_5, 512, "2026-06-09", _FABLE_5_WAYS, {}),
        ("claude-opus-4-8", "Claude Opus 4.8", _OPUS, 1024, "2026-05-28", _OPUS_4_8_WAYS, _LONG),
        ("claude-opus-4-7", "Claude Opus 4.7", _OPUS, 2048, "2026-04-16", _OPUS_4_7_WAYS, _LONG),
        ("claude-sonnet-4-6", "Claude Sonnet 4.6", _SONNET_4, 1024, "2026-02-17", _4_6_WAYS, _LONG),
        ("claude-opus-4-6", "Claude Opus 4.6", _OPUS, 4096, "2026-02-05", _4_6_WAYS, _LONG),
        ("claude-opus-4-5-20251101", "Claude Opus 4.5", _OPUS, 4096, "2025-11-24", _OPUS_4_5_WAYS, _SMALL),
        ("claude-haiku-4-5-20251001", "Claude Haiku 4.5", _HAIKU_4_5, 4096, "2025-10-15", _4_5_WAYS, _SMALL),
        ("claude-sonnet-4-5-20250929", "Claude Sonnet 4.5", _SONNET_4, 1024, "2025-09-29", _4_5_WAYS,
         {**_SMALL, "max_input": 1_000_000}),
    )
}  # fmt: skip
_ALIASES = {
    "claude-opus-4-5": "claude-opus-4-5-20251101",
    "claude-haiku-4-5": "claude-haiku-4-5-20251001",
    "claude-sonnet-4-5": "claude-sonnet-4-5-20250929",
}
_LONG_PROMPT_TOKENS = 100_000
_US_FACTOR = Decimal("1.1")  # docs "Pricing": on all token prices, from 4.6 on (reference 7)


def find_model(name: str) -> Model:
    """The model that a name means; a made-up one without a price if it is not listed."""
    id = _ALIASES.get(name, name)
    return MODELS.get(id) or Model(id, id, None, 1024, "2026-01-01", _ANY_WAYS, long_output=True)


def charge(model_name: str, usage: dict, *, batch: bool) -> Decimal | None:
    """US dollars for one answered request, or None where the price is unknown.

    Args:
        model_name: As the request named it.
        usage: The `usage` object of the message.
        batch: Whether it was answered in a batch, at half price.
    """
    if usage.get("speed") == "fast":
        return None  # docs "Fast mode": at premium prices, which no list here has
    if usage.get("iterations"):
        # docs "Compaction": the sum of the iterations is what is billed.
        charged = [
            charge(model_name, {"inference_geo": usage.get("inference_geo"), **one}, batch=batch)
            for one in usage["iterations"]
        ]
        known = [one for one in charged if one is not None]
        return sum(known, Decimal(0)) if len(known) == len(charged) else None
    model = find_model(model_name)
    read = usage["cache_read_input_tokens"]
    prompt = usage["input_tokens"] + usage["cache_creation_input_tokens"] + read
    price = model.price
    if model.long_price is not None and prompt > _LONG_PROMPT_TOKENS:
        price = model.long_price
    if price is None or (read and price.read is None):
        return None
    written = usage["cache_creation"]
    dollars = (
        usage["input_tokens"] * price.input
        + usage["output_tokens"] * price.output
        + written["ephemeral_5m_input_tokens"] * price.write_5m
        + written["ephemeral_1h_input_tokens"] * price.write_1h
        + read * (price.read or 0)
    ) / _MILLION
    if model.geo and usage.get("inference_geo") == "us":
        dollars *= _US_FACTOR
    return dollars * BATCH_DISCOUNT if batch else dollars
