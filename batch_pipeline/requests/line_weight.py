"""What requests weigh that differ in model, in max_tokens and in what they cache: each by its own line."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from batch_pipeline.requests.build import Built
from batch_pipeline.requests.lengths import Lengths
from batch_pipeline.requests.prices import geo_factor
from batch_pipeline.requests.ready import EACH_LINE
from batch_pipeline.requests.template import MessageTemplate
from batch_pipeline.requests.token_rate import BY_BYTES, TokenRate
from batch_pipeline.requests.weight import Weight, searches_at_most, weigh, weigh_alike

MORE = 2
"""How many times more tokens lines may be allowed than earlier ones, for those to tell how long answers are."""
LONG, SHORT = b'"ttl":"1h"', b'"cache_control"'


@dataclass
class _Sum:
    """What the requests of one model come to."""

    requests: int = 0
    size: int = 0
    output_max: int = 0
    cache: str | None = None
    searches: int | None = 0
    factor: float | None = 1.0


class Lines:
    """Requests that were looked at, by model."""

    def __init__(self) -> None:
        self._by_model: dict[str, _Sum] = {}

    def read(self, path: str) -> None:
        """Look at each line of a request file."""
        with open(path, "rb") as lines:
            for line in lines:
                self.add(orjson.loads(line)["params"], line)

    def add(self, params: Mapping[str, Any], line: bytes) -> None:
        """Look at one request."""
        one = self._by_model.setdefault(params["model"], _Sum())
        one.requests += 1
        one.size += len(line)
        one.output_max += params["max_tokens"]
        if SHORT in line:
            one.cache = "1h" if LONG in line or one.cache == "1h" else "5m"
        searches = searches_at_most(params.get("tools") or ())
        if one.searches is not None:
            one.searches = None if searches is None else one.searches + searches
        factor = geo_factor(params["model"], params.get("inference_geo"))
        # By the dearest of them, so that a cap holds; what is not known is not known of all.
        one.factor = None if factor is None or one.factor is None else max(one.factor, float(factor))  # fmt: skip

    def weight(
        self, lengths: Lengths, rate: TokenRate, together: int | None = None, times: float = 1.0
    ) -> Weight:
        """Return what they weigh.

        Args:
            lengths: of earlier answers.
            rate: how many tokens a byte is.
            together: how many requests they are a part of, whose reserve is to hold as a whole.
            times: how many more of the like there are, for these are a sample.
        """
        found = [
            _weight(model, one, lengths, rate, together, times)
            for model, one in sorted(
                self._by_model.items(), key=lambda item: (-item[1].requests, item[0])
            )
        ]
        if not found:
            return weigh(_template(EACH_LINE), 0, 0, 0, lengths, rate)
        return replace(found[0], others=tuple(found[1:]))


def weigh_built(built: Built, lengths: Lengths, rate: TokenRate) -> Weight:
    """Return what requests weigh that were built; where they stand for more, as much as all of these."""
    lines = Lines()
    for file in built.files:
        lines.read(file.path)
    seen = sum(file.requests for file in built.files)
    if not seen:
        for params in built.samples:
            lines.add(params, orjson.dumps(params))
        seen = len(built.samples)
    return lines.weight(lengths, rate, times=built.requests / seen if seen else 1.0)


def weigh_file(path: str, size: int, lengths: Lengths) -> Weight:
    """Return what the requests of a local file weigh, by nothing but the file itself.

    For files of an earlier version, of a ledger that was made again, and of halves of several models.
    """
    lines = Lines()
    lines.read(path)
    weight = lines.weight(lengths, BY_BYTES)
    return weight if weight.others else weigh_alike(path, size, lengths)


def _weight(
    model: str, one: _Sum, lengths: Lengths, rate: TokenRate, together: int | None, times: float
) -> Weight:
    requests = max(round(one.requests * times), 1)
    size, output_max = math.ceil(one.size * times), math.ceil(one.output_max * times)
    searches = None if one.searches is None else math.ceil(one.searches * times)
    found = weigh(_template(model), requests, size, output_max - requests, lengths, rate, together)
    # Lines differ, so long answers are not made up for by short ones, and short ones say nothing of long ones.
    is_like_before = lengths.tell_of(one.output_max / one.requests / MORE)
    longest = lengths.output_p99(1) if is_like_before else None
    # All that a request has may be written to the cache.
    most = math.ceil(found.input_max / requests) if one.cache else 0
    likely = math.ceil(found.input / requests) if lengths.cached is None else math.ceil(lengths.cached)  # fmt: skip
    return replace(
        found,
        cache=one.cache,
        cached=likely if one.cache else 0,
        cached_max=most,
        searches=searches,
        listed=one.factor is not None,
        factor=1.0 if one.factor is None else one.factor,
        output_p99=None if longest is None else min(math.ceil(requests * longest), output_max),
    )


def _template(model: str) -> MessageTemplate:
    return MessageTemplate(model=model, max_tokens=1, build=dict, columns=["any"], version="any")
