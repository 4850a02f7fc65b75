"""From how many tokens on the API caches a prefix, by model; below that it silently does not."""

from batch_pipeline.requests.compiled import CompiledTemplate
from batch_pipeline.requests.prices import without_release

FEWEST_BYTES = 2.5
"""Of a token: a text of so many bytes has no more tokens than that (a word of English has 4 to 5 a token)."""

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


def too_short_to_cache(question: CompiledTemplate) -> str | None:
    """Return what to say of a question whose requests share less than its model caches; None: nothing.

    It is said where that is sure, whatever the tokenizer; what is shared is not known of a ``build``, or
    where the system prompt reads columns.
    """
    template = question.template
    least, shared = cache_minimum(template.model), question.shared_bytes
    if template.cache is None or least is None or shared is None or template.cache_by:
        return None  # of cache_by, the estimate says what it saves
    if "cache_control" in repr((template.messages, template.params)):
        return None  # what is cached by these begins with it, and is longer
    most = int(shared / FEWEST_BYTES)
    if most >= least:
        return None
    return (
        f'cache="{template.cache}" will do nothing: {template.model} caches from {least:,} tokens on, and what all '
        f"requests share has {most:,} at most. Leave it out, or let them share more (examples in `system`)."
    )
