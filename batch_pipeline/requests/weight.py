"""What requests weigh: tokens, from which their cost follows at any prices, before they are sent.

A weight is kept in the ledger beside its request file, so that whoever is about to send it can tell what
it may cost by the prices and the budget of that moment.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from decimal import Decimal
from typing import Any, Literal

import orjson

from batch_pipeline.requests.lengths import NO_ANSWERS, Lengths
from batch_pipeline.requests.prices import BatchPrice, Tokens, geo_factor
from batch_pipeline.requests.template import MessageTemplate
from batch_pipeline.requests.token_rate import BY_BYTES, TokenRate

Kind = Literal["expected", "p99", "max"]
SEARCH = "web_search"


@dataclass(frozen=True)
class Weight:
    """Tokens of some requests of one model, all of them together where nothing else is said.

    Attributes:
        model: as it was declared.
        requests: how many.
        input: input tokens, about.
        input_p99: input tokens, hardly ever more.
        input_max: input tokens at most, by the size of the requests.
        cached: input tokens of each request that are written to the cache or read from it, about.
        cached_max: the same at most.
        cache: for how long they are cached: None, ``5m`` or ``1h``.
        hits: the share of these that is read, and not written, about.
        hits_p99: the same, hardly ever less.
        output: output tokens, about; None: no answers are known that tell it.
        output_p99: output tokens, hardly ever more; None as well.
        output_max: output tokens at most: ``max_tokens`` each.
        searches: web searches at most; None: nobody can tell.
        billed: the share of requests that is answered and paid, about.
        listed: whether its prices are known from the listed ones.
        factor: what these are multiplied with, for inference in one region.
        read_most: the share of what is cached that could be read at best: the first request about a text
            of ``cache_by`` writes it.
        others: what requests of other models weigh that stand beside these.
    """

    model: str
    requests: int
    input: int
    input_p99: int
    input_max: int
    cached: int
    cached_max: int
    cache: str | None
    hits: float
    hits_p99: float
    output: int | None
    output_p99: int | None
    output_max: int
    searches: int | None = 0
    listed: bool = True
    billed: float = 1.0
    factor: float = 1.0
    read_most: float = 1.0
    others: tuple["Weight", ...] = ()

    @classmethod
    def stored(cls, value: Mapping[str, Any]) -> "Weight":
        """Read a weight from the ledger."""
        known = {field.name for field in fields(cls)}
        found: dict[str, Any] = {name: one for name, one in value.items() if name in known}
        found["others"] = tuple(cls.stored(one) for one in value.get("others") or ())
        return cls(**found)

    def to_store(self) -> dict[str, Any]:
        """Return what the ledger keeps of it."""
        stored = asdict(self)
        others = [one.to_store() for one in self.others]
        del stored["others"]
        return stored | ({"others": others} if others else {})

    @property
    def all(self) -> tuple["Weight", ...]:
        """This one, and those of the other models."""
        return self, *self.others

    def usd(self, kind: Kind, price_of: Callable[[str], BatchPrice | None]) -> Decimal | None:
        """Return what the requests of all models cost in USD; None when that is not known.

        Args:
            kind: as for ``cost``.
            price_of: returns the prices of a model.
        """
        costs = [one.cost(kind, price_of(one.model)) for one in self.all]
        known = [cost for cost in costs if cost is not None]
        return sum(known, Decimal(0)) if len(known) == len(costs) else None

    def cost(self, kind: Kind, price: BatchPrice | None) -> Decimal | None:
        """Return what these requests cost in USD at some prices; None when that is not known.

        Args:
            kind: ``expected``; ``p99``, hardly ever more; ``max``, never more.
            price: of their model; None: it is not known.
        """
        if self.requests == 0:
            return Decimal(0)
        if price is None or self.searches is None or not self.listed:
            return None
        match kind:
            case "expected":
                tokens, output = self.input, self.output
                cached, hits = self.cached, self.hits
            case "p99":
                tokens, output = self.input_p99, self.output_p99
                cached, hits = self.cached, self.hits_p99
            case "max":
                tokens, output = self.input_max, None
                cached, hits = self.cached_max, 0.0
        mean = math.ceil(tokens / self.requests)
        cached = min(cached, mean) if self.cache else 0
        longest = self.output_max if output is None else min(output, self.output_max)
        read = math.floor(cached * self.requests * hits)
        written = cached * self.requests - read
        # All requests have the price of one of mean size: prices with tiers go by a request's size.
        each = Tokens(
            input=mean - cached,
            output=math.ceil(longest / self.requests),
            cache_read=read // self.requests,
            cache_write_5m=math.ceil(written / self.requests) if self.cache == "5m" else 0,
            cache_write_1h=math.ceil(written / self.requests) if self.cache == "1h" else 0,
            web_searches=math.ceil(self.searches / self.requests),
        )
        cost = price.cost(each, Decimal(str(self.factor)))
        if cost is None:
            return None
        billed = Decimal(str(self.billed)) if kind == "expected" else 1
        return cost * self.requests * billed


@dataclass(frozen=True)
class CacheShares:
    """What groups come to, for a request on average.

    Attributes:
        cached: tokens of a request that are written to the cache or read from it, about.
        cached_max: the same at most.
        read_most: the share of these that is read where each request finds what an earlier one wrote.
        requests: that share a text which is cached.
        texts: how many.
    """

    cached: float = 0.0
    cached_max: float = 0.0
    read_most: float = 1.0
    requests: int = 0
    texts: int = 0


def weigh(
    template: MessageTemplate,
    requests: int,
    size: int,
    more_tokens: int = 0,
    lengths: Lengths = NO_ANSWERS,
    rate: TokenRate = BY_BYTES,
    together: int | None = None,
    shares: CacheShares | None = None,
) -> Weight:
    """Return what requests of a question weigh.

    Args:
        template: the question.
        requests: how many there are.
        size: bytes of all of them.
        more_tokens: that their answers may have beyond ``max_tokens`` each, all together.
        lengths: of earlier answers.
        rate: how many tokens a byte of theirs is.
        together: how many requests they are a part of, whose reserve is to hold as a whole; None: these are all.
        shares: what groups by ``cache_by`` come to for each; None: there are none.
    """
    by_size = math.ceil(size / BY_BYTES.bytes_per_token)
    tokens = rate.tokens(requests, size)
    shared = shared_tokens(template) if rate.shared is None else rate.shared
    output_max = requests * template.max_tokens + more_tokens
    cached = shared if lengths.cached is None else lengths.cached
    if not template.cache or not (template.system or template.messages or template.build):
        cached = shared = 0
    if shares is not None:
        cached, shared = shares.cached, math.ceil(shares.cached_max)
    elif template.cache_by:  # which of them are cached is not known here: at most all of each
        shared = math.ceil(by_size / max(requests, 1))
    read_most = 1.0 if shares is None else shares.read_most
    factor = geo_factor(template.model, template.params.get("inference_geo"))
    # Answers that were cut short are asked for again because they are long: they may be as long as is allowed now.
    longest = lengths.output_p99(1 if more_tokens else together or requests)
    if lengths.is_cut and not lengths.tell_of(template.max_tokens):
        longest = None
    output_p99 = _of(requests, longest, output_max)
    each = searches_at_most(template.params.get("tools") or ())
    return Weight(
        model=template.model,
        requests=requests,
        input=tokens,
        input_p99=min(math.ceil(tokens * (1 + rate.error)), max(by_size, tokens)),
        input_max=max(by_size, math.ceil(tokens * (1 + rate.error))),
        cached=math.ceil(cached),
        cached_max=max(shared, math.ceil(cached)),
        cache=template.cache,
        hits=lengths.hits * read_most,
        hits_p99=lengths.hits_p99(together or requests) * read_most,
        output=_of(requests, lengths.mean, output_max),
        # Twice as many tokens are at most twice what is more.
        output_p99=None if output_p99 is None else min(output_p99 + 2 * more_tokens, output_max),
        output_max=output_max,
        searches=None if each is None else each * requests,
        listed=factor is not None,
        billed=lengths.billed,
        factor=1.0 if factor is None else float(factor),
        read_most=read_most,
    )


def shared_tokens(template: MessageTemplate) -> int:
    """Return about how many tokens the system prompt has, which all requests share."""
    if not template.cache or not template.system:
        return 0
    return math.ceil(len(template.system.encode()) / BY_BYTES.bytes_per_token)


def _of(requests: int, each: float | None, most: int) -> int | None:
    return None if each is None else min(math.ceil(requests * each), most)


def searches_at_most(tools: Iterable[Any]) -> int | None:
    """Return how many web searches a request with such tools may run; None when nothing limits them."""
    found = 0
    for tool in tools:
        if isinstance(tool, Mapping) and str(tool.get("type", "")).startswith(SEARCH):
            if not isinstance(tool.get("max_uses"), int):
                return None
            found += tool["max_uses"]
    return found


def more_tokens_in(path: str, max_tokens: int) -> int:
    """Return what the answers to a file's requests may have beyond ``max_tokens`` each, all together."""
    with open(path, "rb") as lines:
        return sum(
            max(0, orjson.loads(line)["params"]["max_tokens"] - max_tokens) for line in lines
        )


def _marked_bytes(messages: Any) -> int:
    """Return the bytes of messages up to the last block that has ``cache_control``."""
    size = upto = 0
    for message in messages:
        content = message["content"]
        for block in content if isinstance(content, list) else (content,):
            size += len(orjson.dumps(block))
            if isinstance(block, dict) and "cache_control" in block:
                upto = size
    return upto


def weigh_alike(path: str, size: int, lengths: Lengths) -> Weight:
    """Return what the requests of a local file weigh, all of one model, by nothing but the file itself."""
    count = output_max = marked = 0
    is_cached = is_long = False
    first: dict[str, Any] = {}
    with open(path, "rb") as lines:
        for line in lines:
            params = orjson.loads(line)["params"]
            first = first or params
            count += 1
            output_max += params["max_tokens"]
            if b'"cache_control"' in line:
                is_long = is_long or b'"ttl":"1h"' in line
                is_cached = True
                marked += _marked_bytes(params["messages"])
    cache = None if not is_cached else "1h" if is_long else "5m"
    size_shared = len(orjson.dumps(first.get("system", ""))) + marked / max(count, 1)
    shared = math.ceil(size_shared / BY_BYTES.bytes_per_token)
    template = MessageTemplate(
        model=first.get("model", "unknown"),
        max_tokens=max(output_max // max(count, 1), 1),
        build=dict,
        columns=["any"],
        version="any",
        params={name: first[name] for name in ("tools", "inference_geo") if name in first},
    )
    found = weigh(template, count, size, 0, lengths)
    cached = shared if cache else 0
    return replace(
        found,
        output_max=output_max,
        cache=cache,
        cached=cached if lengths.cached is None else math.ceil(lengths.cached),
        cached_max=cached,
    )
