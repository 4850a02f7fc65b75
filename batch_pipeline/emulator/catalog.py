"""What the emulator knows of each model: prices, limits, what it refuses.

Prices are US dollars per million tokens as published on 2026-11-20 (release notes, pricing page);
in a batch each is halved. A model that is not listed is answered, but its price is unknown.
"""

from dataclasses import dataclass
from decimal import Decimal

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
class Model:
    """One model.

    Attributes:
        price: Price list, or None where it is not published.
        long_price: Price of a request whose prompt is above 100,000 tokens, where it differs.
        cache_minimum: Tokens a prefix must have to be cached.
        max_output: Highest `max_tokens`.
        refuses: What it answers with a 400: `forced tools` (by `tool_choice`), `sampling`
            (temperature, top_p, top_k).
    """

    id: str
    name: str
    price: Price | None
    cache_minimum: int
    released: str
    long_price: Price | None = None
    max_output: int = 128_000
    max_input: int = 1_000_000
    refuses: frozenset[str] = frozenset()


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
_SONNET_4 = _price("3", "15", "3.75", "6", "0.30")
_HAIKU_5_5 = _price("0.10", "0.50", "0.125", "0.20", "0.01")
_HAIKU_5_5_LONG = _price("0.50", "2.50", "0.625", "1", "0.05")
_HAIKU_4_5 = _price("1", "5", "1.25", "2", "0.10")

# Where a minimum prefix is not published, that of the model's predecessor stands in.
_NEWEST = frozenset({"forced tools", "sampling"})
_NEWER = frozenset({"sampling"})
MODELS = {
    model.id: model
    for model in (
        Model(
            "claude-fable-5-2", "Claude Fable 5.2", _FABLE_5_2, 512, "2026-11-09", refuses=_NEWEST
        ),
        Model(
            "claude-mythos-5-2", "Claude Mythos 5.2", _FABLE_5_2, 512, "2026-11-09", refuses=_NEWEST
        ),
        Model(
            "claude-haiku-5-5",
            "Claude Haiku 5.5",
            _HAIKU_5_5,
            4096,
            "2026-10-07",
            long_price=_HAIKU_5_5_LONG,
            refuses=_NEWEST,
        ),
        Model(
            "claude-sonnet-5-5", "Claude Sonnet 5.5", _SONNET_5, 1024, "2026-09-15", refuses=_NEWEST
        ),
        Model(
            "claude-fable-5-1", "Claude Fable 5.1", _FABLE_5_1, 512, "2026-09-01", refuses=_NEWEST
        ),
        Model(
            "claude-mythos-5-1", "Claude Mythos 5.1", _FABLE_5_1, 512, "2026-09-01", refuses=_NEWEST
        ),
        Model("claude-opus-5-5", "Claude Opus 5.5", _OPUS_5_5, 512, "2026-09-01", refuses=_NEWEST),
        Model("claude-sonnet-5", "Claude Sonnet 5", _SONNET_5, 1024, "2026-06-30", refuses=_NEWER),
        Model("claude-fable-5", "Claude Fable 5", _FABLE_5, 512, "2026-06-09", refuses=_NEWER),
        Model("claude-mythos-5", "Claude Mythos 5", _FABLE_5, 512, "2026-06-09", refuses=_NEWER),
        Model("claude-opus-5", "Claude Opus 5", _OPUS, 512, "2026-07-24", refuses=_NEWER),
        Model("claude-opus-4-8", "Claude Opus 4.8", _OPUS, 1024, "2026-05-28", refuses=_NEWER),
        Model("claude-opus-4-7", "Claude Opus 4.7", _OPUS, 2048, "2026-04-16", refuses=_NEWER),
        Model("claude-opus-4-6", "Claude Opus 4.6", _OPUS, 4096, "2026-02-05"),
        Model("claude-sonnet-4-6", "Claude Sonnet 4.6", _SONNET_4, 1024, "2026-02-17"),
        Model(
            "claude-opus-4-5-20251101",
            "Claude Opus 4.5",
            _OPUS,
            4096,
            "2025-11-24",
            max_output=64_000,
            max_input=200_000,
        ),
        Model(
            "claude-haiku-4-5-20251001",
            "Claude Haiku 4.5",
            _HAIKU_4_5,
            4096,
            "2025-10-15",
            max_output=64_000,
            max_input=200_000,
        ),
        Model(
            "claude-sonnet-4-5-20250929",
            "Claude Sonnet 4.5",
            _SONNET_4,
            1024,
            "2025-09-29",
            max_output=64_000,
        ),
    )
}
_ALIASES = {
    "claude-opus-4-5": "claude-opus-4-5-20251101",
    "claude-haiku-4-5": "claude-haiku-4-5-20251001",
    "claude-sonnet-4-5": "claude-sonnet-4-5-20250929",
}
_LONG_PROMPT_TOKENS = 100_000


def find_model(name: str) -> Model:
    """The model that a name means; a made-up one without a price if it is not listed."""
    id = _ALIASES.get(name, name)
    return MODELS.get(id) or Model(id, id, price=None, cache_minimum=1024, released="2026-01-01")


def charge(model_name: str, usage: dict, *, batch: bool) -> Decimal | None:
    """US dollars for one answered request, or None where the price is unknown.

    Args:
        model_name: As the request named it.
        usage: The `usage` object of the message.
        batch: Whether it was answered in a batch, at half price.
    """
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
    return dollars * BATCH_DISCOUNT if batch else dollars
