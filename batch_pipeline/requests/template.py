"""What is asked of Claude about each record: the declaration."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic import BaseModel

from batch_pipeline.errors import InputError
from batch_pipeline.requests.betas import check_betas
from batch_pipeline.requests.blocks import check_cache_by, check_prompt
from batch_pipeline.requests.file_blocks import check_blocks, short_blocks
from batch_pipeline.requests.messages import declared_messages, declared_system
from batch_pipeline.requests.schema import OutputSchema

CACHE_TTLS = (None, "5m", "1h")
OUTPUT_MODES = ("json_schema", "tool")
DOUBLED_MOST = 8
"""How often max_tokens an answer that was cut short may have at its next attempts."""
DOUBLED_LIMIT = 32_000
"""And how many tokens at most: each model of today takes so many (model overview, 2026)."""
CITED = ("document", "search_result")
"""Blocks that may ask for citations."""
OWN_FIELDS = ("model", "max_tokens", "messages", "system")
"""Parameters that `MessageTemplate` has fields for."""
NO_FORCED_TOOL = (
    "claude-opus-5-5",
    "claude-sonnet-5-5",
    "claude-fable-5-1",
    "claude-mythos-5-1",
    "claude-fable-5-2",
    "claude-mythos-5-2",
)
"""Models that answer a forced ``tool_choice`` with a 400 (release notes 2026-09-01; the 5.2 ones
and Mythos follow Fable 5.1, untested)."""

NOT_IN_A_BATCH = (
    "stream",
    "speed",
    "store",
    "previous_thread_event_id",
    "cache_hint",
    "context_hint",
)
"""Parameters the API refuses inside a batch (batch guide, 2026-09-26 and summer copies)."""


@dataclass(frozen=True)
class MessageTemplate:
    """What to ask about each record. Give one of ``prompt``, ``messages`` and ``build``.

    Attributes:
        model: the Claude model, e.g. ``claude-haiku-4-5``.
        max_tokens: the longest answer, in tokens (thinking included); at least 1.
        max_tokens_limit: a record whose answer was cut short is asked again with twice as many
            tokens, up to this many. None: up to 8 times ``max_tokens``, and 32,000 at most.
        prompt: Jinja text of the one user message. Columns are variables; ``record["a b"]`` reaches
            a column whose name is no identifier. NULL prints as nothing.
        messages: the ``messages`` of the API; every text in it is Jinja. A block of type ``image`` or ``document``
            may have, in the place of ``source``, a ``path`` below ``files_root``, the name of a column of ``bytes``,
            a ``url`` or a ``file_id``.
        build: a function ``record -> params`` returning a dict with ``messages`` and whatever else
            it wants to set (not another model, nor more tokens). Needs ``columns`` and ``version``.
        columns: the columns ``build`` reads.
        system: Jinja text of the system prompt.
        cache: how long the API caches the shared system prompt: None, ``5m`` or ``1h``.
        cache_seed: a submission's first request is sent by itself, and the others when it has filled the
            cache, an hour later at most. Needs ``cache``.
        cache_by: columns whose text many records share, such as a document about which there are many
            questions. They stand before the prompt's text, cached for as long as ``cache`` says where that
            pays, and records that share them are sent together. Needs ``prompt`` and ``cache``.
        output: a pydantic model class or a JSON Schema of the answer; None: plain text.
        output_mode: ``json_schema`` (structured outputs) or ``tool`` (one strict, forced tool).
        version: replaces the computed version; with ``build`` it stands for the function's code.
            Another version asks every record again.
        params: further parameters of the Messages API, passed through untouched. With ``tools`` among
            them the results have a column ``tool_calls``; where documents in ``messages`` ask for citations,
            one ``citations``.
        betas: what the header ``anthropic-beta`` names, such as ``context-management-2025-06-27``. It is a
            batch's header, so it holds for all requests. Other betas ask every record again.
        files_root: the folder, or the object-store URL, below which the files are that ``messages`` name by a
            ``path``. Nothing outside of it is read, whatever a record says.
        keep_thinking: the results have a column ``thinking``, with what the model thought, as far as the API shows it.

    Raises:
        InputError: at construction, for a declaration that cannot be asked.
    """

    model: str
    max_tokens: int
    prompt: str | None = None
    messages: Sequence[Mapping[str, Any]] | None = None
    build: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None
    columns: Sequence[str] = ()
    system: str | None = None
    cache: str | None = None
    output: type[BaseModel] | Mapping[str, Any] | None = None
    output_mode: str = "json_schema"
    version: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    max_tokens_limit: int | None = None
    betas: Sequence[str] = ()
    cache_seed: bool = False
    cache_by: Sequence[str] = ()
    files_root: str | None = None
    keep_thinking: bool = False

    def __post_init__(self) -> None:
        self._check_words()
        self._check_params()
        output = OutputSchema.from_(self.output)
        if output is not None:
            self._check_output(output)
        check_blocks(self.messages, self.files_root)
        asked = declared_messages(self.prompt, self.messages)
        system = declared_system(self.system)
        texts = [*asked.texts, *([system] if system else [])]
        if self.cache_by:
            check_prompt(self.cache_by, asked)
        takes_bytes = any("bytes" in block for block in short_blocks(self.messages))
        if self.build is None and not takes_bytes and all(text.reads_nothing for text in texts):
            raise InputError(
                f"{'messages' if self.prompt is None else 'prompt'} reads no column: every record "
                "would be asked the same. Name one, e.g. {{ description }}."
            )
        if self.cache is None or self.build is not None:
            return
        if system is None and not self.cache_by and not _has_key(self.messages, "cache_control"):
            raise InputError(f"cache={self.cache!r} needs a `system`: the part requests share.")
        if system is not None and not system.reads_nothing:
            raise InputError(
                "`system` reads a column, so no two requests share it and `cache` would only add "
                "cost. Move the column to the prompt, or set cache=None."
            )

    @property
    def calls_tools(self) -> bool:
        """Whether ``params`` declares tools, so that what the model calls has a column."""
        return bool(self.params.get("tools"))

    @property
    def cites(self) -> bool:
        """Whether documents of ``messages`` ask for citations, so that what is cited has a column."""
        return any(_asks_for_citations(message) for message in self.messages or ())

    @property
    def most_tokens(self) -> int:
        """How many tokens an answer that was cut short may have at a later attempt."""
        if self.max_tokens_limit is not None:
            return self.max_tokens_limit
        return max(self.max_tokens, min(self.max_tokens * DOUBLED_MOST, DOUBLED_LIMIT))

    def _check_words(self) -> None:
        given = [n for n in ("prompt", "messages", "build") if getattr(self, n) is not None]
        if len(given) != 1:
            raise InputError(
                f"Give one of prompt, messages and build; got {' and '.join(given) or 'none'}."
            )
        if not isinstance(self.model, str) or not self.model:
            raise InputError(f"model must be a model's name, not {self.model!r}.")
        if (
            not isinstance(self.max_tokens, int)
            or isinstance(self.max_tokens, bool)
            or self.max_tokens < 1
        ):
            raise InputError(
                f"max_tokens must be a whole number of at least 1, not {self.max_tokens!r}."
            )
        limit = self.max_tokens_limit
        if limit is not None and (
            not isinstance(limit, int) or isinstance(limit, bool) or limit < self.max_tokens
        ):
            raise InputError(
                f"max_tokens_limit must be a whole number of at least max_tokens ({self.max_tokens}), not {limit!r}."
            )
        if self.cache not in CACHE_TTLS:
            raise InputError(f'cache must be None, "5m" or "1h", not {self.cache!r}.')
        if not isinstance(self.cache_seed, bool):
            raise InputError(f"cache_seed must be True or False, not {self.cache_seed!r}.")
        if not isinstance(self.keep_thinking, bool):
            raise InputError(f"keep_thinking must be True or False, not {self.keep_thinking!r}.")
        if self.cache_seed and self.cache is None:
            raise InputError(
                'cache_seed fills a cache, and there is none: set cache="5m" or cache="1h".'
            )
        check_cache_by(
            self.cache_by,
            prompt=self.prompt,
            cache=self.cache,
            has_system=bool(self.system),
            seeded=self.cache_seed,
            params=self.params,
        )
        if self.output_mode not in OUTPUT_MODES:
            raise InputError(
                f'output_mode must be "json_schema" or "tool", not {self.output_mode!r}.'
            )
        if self.version is not None and (not isinstance(self.version, str) or not self.version):
            raise InputError(f"version must be a text, not {self.version!r}.")
        if isinstance(self.columns, str):
            raise InputError(f"columns must be a list of names, e.g. columns=[{self.columns!r}].")
        if self.build is not None and not callable(self.build):
            raise InputError(f"build must be a function record -> params, not {self.build!r}.")
        if self.build is not None and not (self.columns and self.version):
            raise InputError(
                "build needs columns=[...] (what it reads, so that a change of another column asks "
                'nothing) and version="..." (change it when the function changes).'
            )
        check_betas(self.betas)
        if self.build is None and self.columns:
            raise InputError("columns belongs to build; a prompt's columns are read from its text.")

    def _check_output(self, output: OutputSchema) -> None:
        """Refuse parameters that leave no answer in the form of the output."""
        choice = self.params.get("tool_choice")
        if isinstance(choice, Mapping) and choice.get("type") in ("any", "tool"):
            raise InputError(
                f"params sets tool_choice {dict(choice)!r}, so every answer calls a tool and none has the "
                'fields of `output`. Remove one of the two, or use output_mode="tool".'
            )
        always = ('{"', '":', "}", *(f'"{name}"' for name in output.sent["required"]))
        stops = self.params.get("stop_sequences") or ()
        for stop in stops if isinstance(stops, Sequence) else ():
            if stop and any(stop in part for part in always):
                raise InputError(
                    f"params sets the stop sequence {stop!r}, which every answer in the form of `output` "
                    "contains: each would be cut there. Remove it."
                )
        names = {name.casefold() for name, _ in output.columns}
        if self.calls_tools and "tool_calls" in names:
            raise InputError(
                "output has a field `tool_calls`, the column of what the tools of params are called with. "
                "Give the field another name."
            )
        if self.cites and self.output_mode == "json_schema":
            raise InputError(
                "messages has documents that ask for citations, which the API refuses beside `output`: JSON has no "
                'place for them. Remove one of the two, or use output_mode="tool".'
            )
        if self.keep_thinking and "thinking" in names:
            raise InputError(
                "output has a field `thinking`, the column of what the model thought. Give the field another name."
            )
        if self.cites and "citations" in names:
            raise InputError(
                "output has a field `citations`, the column of what the documents of messages are cited for. "
                "Give the field another name."
            )

    def _check_params(self) -> None:
        if not isinstance(self.params, Mapping):
            raise InputError(f"params must be a dict of API parameters, not {self.params!r}.")
        for name in OWN_FIELDS:
            if name in self.params:
                raise InputError(f"params sets {name!r}; use the field `{name}` instead.")
        if "betas" in self.params:
            raise InputError(
                "params sets 'betas', which is a header of the whole batch; use the field `betas` instead."
            )
        for name in NOT_IN_A_BATCH:
            if name in self.params:
                raise InputError(
                    f"params sets {name!r}, which the API refuses in a batch. Remove it."
                )
        try:
            orjson.dumps(dict(self.params))
        except TypeError as error:
            raise InputError(f"params is not JSON: {error}") from error
        if self.output is None:
            return
        if self.output_mode == "tool":
            if self.model.startswith(NO_FORCED_TOOL):
                raise InputError(
                    f'{self.model} refuses a forced tool_choice; use output_mode="json_schema".'
                )
            for name in ("tools", "tool_choice"):
                if name in self.params:
                    raise InputError(
                        f'params sets {name!r}, which output_mode="tool" needs itself.'
                    )
        elif "format" in (self.params.get("output_config") or {}):
            raise InputError("params sets output_config.format; use the field `output` instead.")


def _asks_for_citations(message: Any) -> bool:
    content = message.get("content") if isinstance(message, Mapping) else None
    return isinstance(content, Sequence) and any(
        block.get("type") in CITED
        and isinstance(block.get("citations"), Mapping)
        and block["citations"].get("enabled") is True
        for block in content
        if isinstance(block, Mapping)
    )


def _has_key(value: Any, key: str) -> bool:
    if isinstance(value, Mapping):
        return key in value or any(_has_key(inner, key) for inner in value.values())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return any(_has_key(inner, key) for inner in value)
    return False
