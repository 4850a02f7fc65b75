"""How many input tokens requests have: counted by the API on a sample, else by their bytes."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import stdev
from typing import Any

import orjson

from batch_pipeline.errors import BatchPipelineError, plain

BYTES_PER_TOKEN = 2.5
"""Anthropic's rule for its current tokenizer: 1M tokens are about 2.5M characters (Opus 5.5
overview page, 2026). Applied to bytes of the request, which are never fewer than characters."""
MOST_COUNTED = 60
"""Requests of a question that the API is asked to count: each is a call, which costs nothing."""
FEWEST_COUNTED = 3
MOST_BYTES = 1 << 26
"""Of the requests that are counted, unless the fewest are more."""
MOST_TOKENS = 10**8
"""Of a request: ten times and more what any model reads."""
SURE = 1.96
"""Standard errors within which the truth lies nineteen times of twenty."""


@dataclass(frozen=True)
class TokenRate:
    """How tokens follow from requests and their bytes.

    Attributes:
        each: tokens of every request, whatever its size.
        per_byte: tokens of every byte.
        error: by which part the sum may be wrong, nineteen times of twenty; 0 when it was not counted.
        sample: how many requests were counted; 0: none, it goes by bytes.
        shared: tokens of the system prompt, if that was counted.
        why_not: why nothing was counted.
    """

    each: float = 0.0
    per_byte: float = 1 / BYTES_PER_TOKEN
    error: float = 0.0
    sample: int = 0
    shared: int | None = None
    why_not: str = ""

    @property
    def bytes_per_token(self) -> float:
        """Bytes of a token."""
        return 1 / self.per_byte

    def tokens(self, requests: int, size: int) -> int:
        """Return the input tokens of some requests that have so many bytes together."""
        if not self.sample:
            return math.ceil(size / BYTES_PER_TOKEN)
        return math.ceil(requests * self.each + size * self.per_byte)

    @property
    def said(self) -> str:
        """How the tokens were counted, in words."""
        if not self.sample:
            why = f": {self.why_not.rstrip('.')}" if self.why_not else ""
            return (
                f"input tokens by the size of the requests, because the API did not count any{why}"
            )
        return f"input tokens by a sample of {self.sample:,} requests that the API counted, ±{self.error:.1%}"


BY_BYTES = TokenRate()


def lines_at(
    paths: Sequence[str], sizes: Sequence[int], whole: int, number: int = MOST_COUNTED
) -> list[bytes]:
    """Return requests at equal distances through the bytes of all files, so that each part is there.

    A request of twice the size is chosen twice as often: what the sum is made of is what is looked at.

    Args:
        paths: local files of a request a line.
        sizes: their bytes.
        whole: how many requests there are.
        number: how many to return at most; all, if there are no more.
    """
    # Requests may hold whole files, and these are kept in memory.
    number = min(number, max(FEWEST_COUNTED, MOST_BYTES * max(whole, 1) // max(sum(sizes), 1)))
    if number >= whole:
        everything: list[bytes] = []
        for path in paths:
            with open(path, "rb") as file:
                everything += file.readlines()
        return everything
    total, found, place = sum(sizes), dict[tuple[int, int], bytes](), 0
    step = total / max(number, 1)
    begin = 0
    for index, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        with open(path, "rb") as file:
            while place < number and (offset := int((place + 0.5) * step) - begin) < size:
                start = _start_of_line(file, offset)
                file.seek(start)
                if line := file.readline():
                    found[index, start] = line
                place += 1
        begin += size
    return list(found.values())


def _start_of_line(file: Any, offset: int) -> int:
    """Return where the line begins that an offset is in."""
    reach = 4_096
    while True:
        begin = max(0, offset - reach)
        file.seek(begin)
        before = file.read(offset - begin)
        found = before.rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        if begin == 0:
            return 0
        reach *= 8


def count(
    lines: Sequence[bytes], whole: int, counting: Callable[[Mapping[str, Any]], int]
) -> TokenRate:
    """Return the rate that the API's counts of some requests tell.

    Args:
        lines: requests, as `lines_at` chose them.
        whole: how many requests there are.
        counting: asks the API; an error of it ends the counting, and nothing else.
    """
    counted: list[tuple[int, int]] = []
    why_not, first = "", None
    for line in lines:
        params = orjson.loads(line)["params"]
        try:
            counted.append((len(line), _tokens(params, counting)))
        except (BatchPipelineError, OSError, ValueError, OverflowError) as error:
            why_not = plain(str(error))
            break
        first = first or params
    if len(counted) < min(FEWEST_COUNTED, len(lines)) or not counted:
        return TokenRate(why_not=why_not or "there was nothing to count")
    shared = _shared(first, counting) if first else None
    # Requests that were chosen by their size count by the inverse of it.
    each, per_byte = _fit(counted, by_size=len(lines) < whole)
    # Of what each counted request has more or less than the fit says: the error of their mean.
    rest = [(tokens - each - per_byte * size) / tokens for size, tokens in counted if tokens]
    error = SURE * stdev(rest) / math.sqrt(len(rest)) if len(rest) > 1 else 0.0
    return TokenRate(each, per_byte, error, len(counted), shared)


def _tokens(params: Mapping[str, Any], counting: Callable[[Mapping[str, Any]], int]) -> int:
    """Return what the API counts.

    Raises:
        ValueError: it counts none, or more than any model reads: no request has so many, and by a count of
            none any would fit a cap.
    """
    tokens = counting(params)
    if not 0 < tokens <= MOST_TOKENS:
        raise ValueError(f"the API counted {tokens:,} tokens in a request")
    return tokens


def _fit(counted: Sequence[tuple[int, int]], *, by_size: bool) -> tuple[float, float]:
    """Return tokens of each request and of each byte, by least squares."""
    weights = [1 / size if by_size else 1.0 for size, _ in counted]
    total = sum(weights)

    def mean(values: Sequence[float]) -> float:
        return sum(w * value for w, value in zip(weights, values, strict=True)) / total

    sizes, tokens = [float(size) for size, _ in counted], [float(count) for _, count in counted]
    size, token = mean(sizes), mean(tokens)
    spread = mean([(one - size) ** 2 for one in sizes])
    together = mean(
        [(one - size) * (count - token) for one, count in zip(sizes, tokens, strict=True)]
    )
    slope = together / spread if spread > 1e-6 * size**2 else -1.0
    each = token - slope * size
    if slope <= 0 or each < 0 or slope > 1:
        return 0.0, token / size
    return each, slope


def _shared(params: Mapping[str, Any], counting: Callable[[Mapping[str, Any]], int]) -> int | None:
    """Return the tokens of a request's system prompt, and of what stands before it."""
    if not params.get("system"):
        return None
    short = [{"role": "user", "content": "."}]
    try:
        return _tokens({**params, "messages": short}, counting)
    except (BatchPipelineError, OSError, ValueError, OverflowError):
        return None
