"""Prompt caches, and the usage that a message reports."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from batch_pipeline.emulator.catalog import find_model
from batch_pipeline.emulator.prompt import Prompt

_TTL_SECONDS = {"5m": 300, "1h": 3600}


@dataclass
class PromptCaches:
    """Which prefixes are cached, and until when.

    A cache belongs to a workspace, a model and to batches or direct messages: as with the real
    API, a direct message does not warm the cache of a batch.

    Attributes:
        expiries: Cache key -> moment at which it is forgotten.
        changed: Keys that are new or were used since they were last saved.
        unseen: What is written and nobody finds yet; None: it is found at once.
    """

    expiries: dict[str, float] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    unseen: dict[str, float] | None = None

    def has(self, key: str, now: float) -> bool:
        return self.expiries.get(key, 0.0) > now

    def touch(self, key: str, ttl: str, now: float) -> None:
        expiry = now + _TTL_SECONDS[ttl]
        if self.unseen is not None and not self.has(key, now):
            self.unseen[key] = expiry
            return
        self.expiries[key] = expiry
        self.changed.add(key)

    @contextmanager
    def found_later(self, later: bool) -> Iterator[None]:
        """Let what is written in the block be found after it, if ``later``."""
        self.unseen = {} if later else None
        try:
            yield
        finally:
            written, self.unseen = self.unseen or {}, None
            self.expiries |= written
            self.changed |= written.keys()


def meter(
    prompt: Prompt,
    model_name: str,
    output_tokens: int,
    caches: PromptCaches,
    *,
    scope: str,
    now: float,
    batch: bool,
    miss: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """The `usage` object of a message; writes and refreshes the prompt caches it uses.

    Args:
        prompt: The prompt, as `read_prompt` gave it.
        model_name: Model of the request.
        output_tokens: Length of the answer.
        caches: All prompt caches.
        scope: Workspace of the request.
        now: Moment of the answer.
        batch: Whether it was answered in a batch.
        miss: Says whether this request misses a cache that it could have read.
    """
    minimum = find_model(model_name).cache_minimum
    usable = [prefix for prefix in prompt.prefixes if prefix.tokens >= minimum]
    tier = "batch" if batch else "standard"
    keys = [f"{scope}/{model_name}/{tier}/{prefix.digest}" for prefix in usable]
    hits = [index for index, key in enumerate(keys) if caches.has(key, now)]
    first_unread = hits[-1] + 1 if hits and not miss() else 0
    read = usable[first_unread - 1].tokens if first_unread else 0
    written = {"5m": 0, "1h": 0}
    reached = read
    for index, prefix in enumerate(usable):
        caches.touch(keys[index], prefix.ttl, now)
        if index >= first_unread:
            written[prefix.ttl] += prefix.tokens - reached
            reached = prefix.tokens
    return {
        "input_tokens": prompt.tokens - reached,
        "cache_creation_input_tokens": written["5m"] + written["1h"],
        "cache_read_input_tokens": read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": written["5m"],
            "ephemeral_1h_input_tokens": written["1h"],
        },
        "output_tokens": output_tokens,
        "service_tier": tier,
        "inference_geo": "not_available",
    }
