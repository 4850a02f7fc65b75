"""From how many tokens on the API caches a prefix, by model; below that it silently does not."""

from batch_pipeline.requests.prices import without_release

LEAST = {
    512: (
        "claude-fable-5-2", "claude-mythos-5-2", "claude-fable-5-1", "claude-mythos-5-1", "claude-fable-5",
        "claude-mythos-5", "claude-opus-5-5", "claude-opus-5", "claude-sonnet-5-5", "claude-haiku-5-5",
    ),
    1024: ("claude-opus-4-8", "claude-sonnet-5", "claude-sonnet-4-6", "claude-sonnet-4-5"),
    2048: ("claude-opus-4-7", "claude-mythos-preview"),
    4096: ("claude-opus-4-6", "claude-opus-4-5", "claude-haiku-4-5"),
}  # fmt: skip
"""Prompt caching guide, 2026-08-22; the 5.5 family and Fable 5.1 and 5.2 by later guides."""


def cache_minimum(model: str) -> int | None:
    """Return the fewest tokens of a prefix that a model caches; None when that is not known."""
    name = without_release(model)
    return next((tokens for tokens, models in LEAST.items() if name in models), None)
