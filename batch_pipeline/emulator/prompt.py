"""A request's prompt: its text, its length in tokens, and the prefixes it asks to cache."""

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from batch_pipeline.emulator.rules.outputs import format_of

CHARACTERS_PER_TOKEN = 2.5
# How a text is cut into tokens is not published. Our estimate, from what other tokenizers do: a bit
# more than one token for a sign of Chinese, Japanese or Korean, two thirds of one for a letter of an
# alphabet other than the Latin, several for a picture.
_WIDE = re.compile(
    "[\u1100-\u11ff\u2e80-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\uff00-\uffef]"
)
_OTHER_SCRIPTS = re.compile("[\u0370-\u10ff\u1200-\u1dff]")
_PICTURES = re.compile("[\u2600-\u27bf\U0001f000-\U0003ffff]")
_TOKENS_PER_IMAGE = 1_500
_TOKENS_PER_MESSAGE = 4


@dataclass(frozen=True)
class CachePrefix:
    """The prompt up to and with a block that carries `cache_control`.

    Attributes:
        digest: Of everything in the prefix and of what else decides whether a cache fits.
        tokens: Length of the prefix.
        ttl: `5m` or `1h`.
    """

    digest: str
    tokens: int
    ttl: str


@dataclass(frozen=True)
class Prompt:
    """What the emulator reads of a request.

    Attributes:
        user: Text of the user messages; the digest mode hashes this.
        system: Text of the system prompt.
        tokens: Length of the whole prompt.
        prefixes: What it asks to cache, shortest first.
    """

    user: str
    system: str
    tokens: int
    prefixes: list[CachePrefix]


def count_tokens(text: str) -> int:
    """About how many tokens a text has: Latin letters share one, a sign of Chinese is one or two."""
    if text.isascii():
        return math.ceil(len(text) / CHARACTERS_PER_TOKEN)
    rare, wide = len(_PICTURES.findall(text)), len(_WIDE.findall(text))
    other = len(_OTHER_SCRIPTS.findall(text))
    latin = (len(text) - rare - wide - other) / CHARACTERS_PER_TOKEN
    return math.ceil(latin + 3 * rare + 1.3 * wide + other / 1.4)


def read_prompt(params: dict[str, Any]) -> Prompt:
    """Take a prompt apart. `params` must have been checked."""
    system = params.get("system") or ""
    if isinstance(system, list):
        system = "\n".join(block["text"] for block in system)
    user = "\n".join(
        _text_of(message["content"]) for message in params["messages"] if message["role"] == "user"
    )
    tokens = 0
    prefixes = []
    # Another output schema or thinking set-up does not find the caches of this one.
    kept_apart = [params.get("output_config"), params.get("thinking")]
    if params.get("output_format") is not None:
        kept_apart.append(params["output_format"])
    hashed = hashlib.sha256(orjson.dumps(kept_apart))
    control = None
    for text, block_tokens, control in _blocks(params):
        tokens += block_tokens
        hashed.update(text.encode("utf-8", "surrogatepass"))
        if control is not None:
            prefixes.append(CachePrefix(hashed.hexdigest(), tokens, control.get("ttl", "5m")))
    automatic = params.get("cache_control")
    if automatic is not None and control is None:
        prefixes.append(CachePrefix(hashed.hexdigest(), tokens, automatic.get("ttl", "5m")))
    return Prompt(user, system, tokens + _schema_tokens(params), prefixes)


def _schema_tokens(params: dict[str, Any]) -> int:
    form = format_of(params)
    return 0 if form is None else len(orjson.dumps(form)) // 10


def _text_of(content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(block["text"] for block in content if block["type"] == "text")


def _blocks(params: dict[str, Any]) -> Iterator[tuple[str, int, dict[str, Any] | None]]:
    """Text, tokens and cache_control of each block, in the order of the prompt."""
    for tool in params.get("tools") or ():
        text = _dumped(tool)
        yield text, count_tokens(text), tool.get("cache_control")
    system: Any = params.get("system") or ()
    if isinstance(system, str):
        system = [{"text": system}]
    for block in system:
        yield block["text"], count_tokens(block["text"]), block.get("cache_control")
    for message in params["messages"]:
        content = message["content"]
        if isinstance(content, str):
            text = f"\n{message['role']}: {content}"
            yield text, count_tokens(content) + _TOKENS_PER_MESSAGE, None
            continue
        for block in content:
            if block["type"] == "text":
                length = count_tokens(block["text"])
            elif block["type"] in ("image", "document"):
                length = _source_tokens(block["source"])
            else:
                length = count_tokens(_dumped(block))
            yield f"\n{message['role']}: {_dumped(block)}", length, block.get("cache_control")


def _source_tokens(source: dict[str, Any]) -> int:
    """What an image, a page or a text that stands in a request counts."""
    if source["type"] == "text":
        return count_tokens(source["data"])
    if source["type"] == "content":
        return count_tokens(_dumped(source))
    return _TOKENS_PER_IMAGE


def _dumped(block: dict[str, Any]) -> str:
    kept = {name: value for name, value in block.items() if name != "cache_control"}
    return orjson.dumps(kept).decode()
