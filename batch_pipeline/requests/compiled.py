"""A template bound to a source: it knows its columns and turns records into API parameters."""

import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from batch_pipeline.errors import InputError, plain
from batch_pipeline.records.files import FileUnusable
from batch_pipeline.records.sources import PARAMS, PARAMS_HASH
from batch_pipeline.requests.blocks import SharedBlocks
from batch_pipeline.requests.file_blocks import (
    MOST_REQUEST_BYTES,
    FileBlocks,
    bytes_columns,
    files_read,
    short_blocks,
)
from batch_pipeline.requests.messages import declared_messages, declared_system, is_empty
from batch_pipeline.requests.prompt import Prompt, template_values, unknown_column
from batch_pipeline.requests.ready import QUESTION, ReadyLines
from batch_pipeline.requests.schema import OutputSchema
from batch_pipeline.requests.template import NOT_IN_A_BATCH, MessageTemplate

ANSWER_TOOL = "answer"
"""Name of the one tool an answer comes through when ``output_mode="tool"``."""
TOOL_CALLS = "tool_calls"
"""Name of the column of what the model calls, where the user declares tools; after the prefix."""
CITATIONS = "citations"
"""Name of the column of what the model cites, where documents ask for it; after the prefix."""
THINKING = "thinking"
"""Name of the column of what the model thought, where that is kept; after the prefix."""
BESIDES = (TOOL_CALLS, CITATIONS, THINKING)
"""What stands beside an answer, and is not what was asked for."""
EMPTY, LINE, FILE = "empty", "line", "file"
"""Kinds of rejection: of a record that leaves nothing to ask, of a ready request that no batch takes, of a record
whose file cannot be sent."""


class RecordRejected(Exception):
    """This record cannot be asked. ``reason`` is for the user, ``kind`` groups like reasons."""

    def __init__(self, reason: str, kind: str):
        super().__init__(reason)
        self.reason = reason
        self.kind = kind


@dataclass(frozen=True)
class Form:
    """The line of any request of a template: bytes that are the same in all, and what goes between.

    Attributes:
        constants: the bytes before the custom_id, after it and before the first text, and so on.
        prompts: what the texts between them are rendered from, in order.
        unmarked: which of the constants is another one in a request whose shared text is not to be cached, and
            what it is there; None: all requests are alike in that.
    """

    constants: tuple[bytes, ...]
    prompts: tuple[Prompt, ...]
    unmarked: tuple[int, bytes] | None = None


class CompiledTemplate:
    """A template that knows its columns and renders requests.

    Attributes:
        template: the declaration.
        columns: the columns it reads, sorted: a change in one of these is a changed record.
        files: the files it reads of each record, a change of which is one, too; None: it reads none.
        output: the schema of answers, None for plain text.
        tool_calls: the user declared tools: there is a column for what the model calls.
        citations: documents ask for citations: there is a column for them.
        thinking: what the model thought is kept: there is a column for it.
        output_columns: ``(name, DuckDB type)`` of what an answer adds to a row.
        reads: the columns that its requests are made of.
        by_line: each record is a request of its own, with its own model and ``max_tokens``.
    """

    by_line = False

    def __init__(self, template: MessageTemplate, available: Mapping[str, str], output_prefix: str):
        self.template = template
        self.output = OutputSchema.from_(template.output)
        self._messages = declared_messages(template.prompt, template.messages)
        self._system = declared_system(template.system)
        self._blocks = SharedBlocks(template.cache_by, template.cache)
        self.files = files_read(template.messages, template.files_root)
        has_files = any(True for _ in short_blocks(template.messages))
        self._file_blocks = FileBlocks(template.files_root) if has_files else None
        self.columns = tuple(sorted(self._columns_read(available)))
        self.reads = self.columns
        self.tool_calls = template.calls_tools
        self.citations = template.cites
        self.thinking = template.keep_thinking
        found = answer_columns(self.output, self.tool_calls, self.citations, self.thinking)
        self.output_columns = [(f"{output_prefix}{name}", kind) for name, kind in found]
        self._fixed = self._fixed_params()

    def _columns_read(self, available: Mapping[str, str]) -> set[str]:
        for name in self.template.columns:
            if name not in available:
                raise InputError(f"build reads {unknown_column(name, available)}")
        texts = [
            *self._blocks.texts,
            *self._messages.texts,
            *([self._system] if self._system else []),
        ]
        taken = bytes_columns(self.template.messages, available)
        return {*self.template.columns, *taken}.union(*(text.columns(available) for text in texts))

    @property
    def version(self) -> str:
        """16 hex characters that change when the question does (not with cache or max_tokens)."""
        declared = self.template
        if declared.version is not None and declared.build is None:
            return hashlib.sha256(declared.version.encode()).hexdigest()[:16]
        question = {
            "model": declared.model,
            "prompt": declared.prompt,
            "messages": _without_cache(declared.messages),
            "build": declared.version,
            "system": declared.system or None,
            "output": self.output and self.output.fingerprint,
            "output_mode": declared.output_mode if self.output else None,
            "params": _without_cache(declared.params),
            "betas": sorted(declared.betas),
            "cache_by": list(declared.cache_by),
        }
        # What is not used is left out, so that a field added later changes no version of today.
        used = {name: value for name, value in question.items() if value}
        return hashlib.sha256(orjson.dumps(used, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]

    @property
    def request_hash(self) -> str:
        """16 hex characters that change when a request of the same record would now differ in any way."""
        declared = self.template
        constant = {
            "fixed": self._fixed,
            "cache": declared.cache,
            "system": declared.system,
            "prompt": declared.prompt,
            "messages": declared.messages and list(declared.messages),
            "version": self.version,
        }
        if declared.files_root is not None:
            constant["files_root"] = declared.files_root
        if declared.betas:
            constant["betas"] = sorted(declared.betas)
        text = orjson.dumps(constant, option=orjson.OPT_SORT_KEYS)
        return hashlib.sha256(text).hexdigest()[:16]

    @property
    def shared_bytes(self) -> int | None:
        """How long what all requests begin with is, tools and schema included; None where that is not known."""
        if "system" not in self._fixed or self.template.build is not None:
            return None
        output = (self._fixed.get("output_config") or {}).get("format")
        parts = (self._fixed["system"], self._fixed.get("tools"), output)
        return sum(len(orjson.dumps(part)) for part in parts if part)

    @property
    def cache_by(self) -> tuple[str, ...]:
        """The columns by which records stand together; none where nothing is cached of them."""
        return tuple(self.template.cache_by)

    @property
    def most_doublings(self) -> int:
        """How often twice as many tokens may be allowed for an answer that was cut short."""
        tokens, doublings = self.template.max_tokens, 0
        while tokens < self.template.most_tokens:
            tokens, doublings = tokens * 2, doublings + 1
        return doublings

    def _fixed_params(self) -> dict[str, Any]:
        declared = self.template
        fixed: dict[str, Any] = {"model": declared.model, "max_tokens": declared.max_tokens}
        fixed |= declared.params
        if self._system and self._system.reads_nothing:
            try:
                text = self._system.render({})
            except Exception as error:  # a template can fail in any way that Python can
                raise InputError(f"system: {type(error).__name__}: {error}") from error
            fixed |= self._system_blocks(text)
        if self.output and declared.output_mode == "json_schema":
            given = fixed.get("output_config") or {}
            form = {"type": "json_schema", "schema": self.output.sent}
            fixed["output_config"] = {**given, "format": form}
        elif self.output:
            fixed["tools"] = [
                {
                    "name": ANSWER_TOOL,
                    "description": "Give the answer.",
                    "input_schema": self.output.sent,
                    "strict": True,
                }
            ]
            fixed["tool_choice"] = {"type": "tool", "name": ANSWER_TOOL}
        return fixed

    def _system_blocks(self, text: str) -> dict[str, Any]:
        """Return the ``system`` parameter, or nothing for a blank text, which the API refuses."""
        if not text.strip():
            return {}
        block: dict[str, Any] = {"type": "text", "text": text}
        if self.template.cache:
            block["cache_control"] = {"type": "ephemeral", "ttl": self.template.cache}
        return {"system": [block]}

    def form(self) -> Form | None:
        """Return what the lines of all requests share; None where each must be made by itself.

        It holds for records without doublings, none of whose texts is blank.
        """
        if self.template.build is not None or self._file_blocks is not None:
            return None
        marked: dict[str, Prompt] = {}

        def mark(prompt: Prompt) -> str:
            name = secrets.token_hex(16)
            marked[name] = prompt
            return name

        params = dict(self._fixed)
        if self._system and not self._system.reads_nothing:
            params |= self._system_blocks(mark(self._system))
        params["messages"] = self._blocks.before(self._messages.filled(mark), mark, marked=True)
        if any(is_empty(message["content"]) for message in params["messages"]):
            return None
        custom_id = secrets.token_hex(16)
        try:
            line = request_line(custom_id, params)
        except RecordRejected:
            return None
        parts = re.split("|".join(f'"{name}"' for name in (custom_id, *marked)).encode(), line)
        order = sorted(marked, key=lambda name: line.index(name.encode()))
        # A type or a role that is a template decides what is made of the rest.
        is_text = all(part.endswith((b'"content":', b'"text":')) for part in parts[1:-1])
        if not is_text or len(parts) != len(marked) + 2:
            return None
        prompts = tuple(marked[name] for name in order)
        unmarked = None
        if self._blocks.texts:
            number = 1 + prompts.index(self._blocks.texts[-1]) + 1
            control = b',"cache_control":' + orjson.dumps(self._blocks.mark)
            unmarked = number, parts[number].removeprefix(control)
            if unmarked[1] == parts[number]:
                return None
        return Form(tuple(parts), prompts, unmarked)

    def params(
        self, record: dict[str, Any], doublings: int = 0, marked: bool = False
    ) -> dict[str, Any]:
        """Return the API parameters that ask about one record.

        Args:
            record: column to value, with at least `columns`.
            doublings: how often its answer was cut short: each time, it may be twice as long.
            marked: what it shares by ``cache_by`` is to be cached.

        Raises:
            RecordRejected: the record cannot be asked.
        """
        params = self._params(record, marked)
        if doublings:
            params["max_tokens"] = min(
                params["max_tokens"] * 2**doublings, self.template.most_tokens
            )
        return params

    def _params(self, record: dict[str, Any], is_marked: bool) -> dict[str, Any]:
        params = dict(self._fixed)
        if self.template.build is not None:
            return self._built(params, record)
        values = template_values(record)
        try:
            if self._system and not self._system.reads_nothing:
                params |= self._system_blocks(self._system.render(values))
            messages = self._messages.render(values)
            if self._blocks.texts:
                messages = self._blocks.before(
                    messages, lambda text: text.render(values), marked=is_marked
                )
            params["messages"] = messages
        except Exception as error:  # a template can fail in any way that Python can
            kind = type(error).__name__
            raise RecordRejected(
                f"The template failed on this record: {kind}: {plain(str(error))}", kind
            ) from error
        if any(is_empty(message["content"]) for message in params["messages"]):
            raise RecordRejected("The prompt is empty for this record.", EMPTY)
        if self._file_blocks is not None:
            try:
                params["messages"] = self._file_blocks.filled(params["messages"], record)
            except FileUnusable as error:
                raise RecordRejected(str(error), FILE) from error
        return params

    @property
    def most_bytes(self) -> int | None:
        """The most bytes of a request that holds files; None where only a batch has a limit."""
        return None if self._file_blocks is None else MOST_REQUEST_BYTES

    def _built(self, params: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
        assert self.template.build is not None
        name = getattr(self.template.build, "__name__", "build")
        try:
            built = self.template.build(
                {column: record[column] for column in self.template.columns}
            )
        except Exception as error:
            kind = type(error).__name__
            raise RecordRejected(
                f"{name}() failed on this record: {kind}: {plain(str(error))}", kind
            ) from error
        if not isinstance(built, Mapping) or not built.get("messages"):
            raise RecordRejected(
                f"{name}() must return a dict with `messages`, got {built!r:.200}", "build"
            )
        if built.get("model", self.template.model) != self.template.model:
            raise RecordRejected(f"{name}() set another model than the template's.", "build")
        tokens = built.get("max_tokens", 1)
        if not isinstance(tokens, int) or not 1 <= tokens <= self.template.max_tokens:
            raise RecordRejected(
                f"{name}() set max_tokens {tokens!r}; 1 to {self.template.max_tokens} is allowed: "
                "the budget counts with that.",
                "build",
            )
        if "betas" in built:
            raise RecordRejected(
                f"{name}() set 'betas', which is a header of the whole batch: MessageTemplate(betas=[...]).",
                "build",
            )
        if refused := [word for word in NOT_IN_A_BATCH if word in built]:
            raise RecordRejected(f"{name}() set {refused[0]!r}, which a batch refuses.", "build")
        if clash := [
            word for word in ("tools", "tool_choice") if word in params.keys() & built.keys()
        ]:
            raise RecordRejected(f"{name}() set {clash[0]!r}, which the template sets.", "build")
        merged = {**params, **built}
        if "output_config" in params and "output_config" in built:
            merged["output_config"] = {**(built["output_config"] or {}), **params["output_config"]}
        own = [tool for tool in built.get("tools") or () if _is_callers(tool)]
        if own and not self.tool_calls:
            raise RecordRejected(
                f"{name}() returned the tool {own[0].get('name')!r}, whose calls would have no column. "
                "Declare the tools in the template's params.",
                "build",
            )
        try:
            orjson.dumps(merged)
        except TypeError as error:
            raise RecordRejected(f"{name}() returned what is not JSON: {error}", "build") from error
        return merged


class CompiledLines(CompiledTemplate):
    """The question of ready requests: its content is a hash of a line's parameters."""

    by_line = True

    def __init__(self, template: ReadyLines, output_prefix: str):
        super().__init__(template, {QUESTION: "VARCHAR"}, output_prefix)
        self.columns = (PARAMS_HASH,)
        self.reads = (PARAMS,)

    @property
    def version(self) -> str:
        """16 hex characters: the same as long as the betas are."""
        text = "\n".join((QUESTION, *sorted(self.template.betas)))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def request_hash(self) -> str:
        """The same: a request differs where its line does, and then it is another content."""
        return self.version

    @property
    def most_doublings(self) -> int:
        """None: ``max_tokens`` is what the line says; to raise it there is to ask anew."""
        return 0

    def params(
        self, record: dict[str, Any], doublings: int = 0, marked: bool = False
    ) -> dict[str, Any]:
        """Return a line's parameters.

        Raises:
            RecordRejected: no batch takes them.
        """
        params: dict[str, Any] = orjson.loads(record[PARAMS])
        if not isinstance(params.get("model"), str) or not params["model"]:
            raise RecordRejected(
                f"The line's params have no model: {params.get('model')!r:.100}.", LINE
            )
        tokens = params.get("max_tokens")
        if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1:
            raise RecordRejected(
                f"The line's params have max_tokens {tokens!r:.100}; it must be a whole number of at least 1.",
                LINE,
            )
        if not isinstance(params.get("messages"), list) or not params["messages"]:
            raise RecordRejected("The line's params have no messages.", LINE)
        for name in NOT_IN_A_BATCH:
            if name in params:
                raise RecordRejected(
                    f"The line's params set {name!r}, which a batch refuses.", LINE
                )
        if "betas" in params:
            raise RecordRejected(
                "The line's params set 'betas', which is a header of the whole batch: RequestFiles(betas=[...]).",
                LINE,
            )
        return params


def answer_columns(
    output: OutputSchema | None, tool_calls: bool, citations: bool = False, thinking: bool = False
) -> list[tuple[str, str]]:
    """Return ``(name, DuckDB type)`` of what an answer adds to a row, without a prefix."""
    columns = list(output.columns) if output else [("answer", "VARCHAR")]
    columns += [(TOOL_CALLS, "JSON")] if tool_calls else []
    columns += [(CITATIONS, "JSON")] if citations else []
    return columns + ([(THINKING, "VARCHAR")] if thinking else [])


def columns_of(template: MessageTemplate) -> list[tuple[str, str]]:
    """Return the same of a template that is not bound to columns."""
    output = OutputSchema.from_(template.output)
    return answer_columns(output, template.calls_tools, template.cites, template.keep_thinking)


def compile_question(
    template: MessageTemplate, columns: Mapping[str, str], output_prefix: str = ""
) -> CompiledTemplate:
    """Return a template bound to a source's columns.

    Args:
        template: the declaration.
        columns: the source's columns, name to DuckDB type.
        output_prefix: put before the name of every output column.

    Raises:
        InputError: the template reads a column that the source does not have.
    """
    if isinstance(template, ReadyLines):
        return CompiledLines(template, output_prefix)
    return CompiledTemplate(template, columns, output_prefix)


def request_line(custom_id: str, params: Mapping[str, Any]) -> bytes:
    """Return a request as a line of a request file.

    Raises:
        RecordRejected: it is not JSON: a lone surrogate, a number of more than 64 bits.
    """
    try:
        return orjson.dumps(
            {"custom_id": custom_id, "params": params}, option=orjson.OPT_APPEND_NEWLINE
        )
    except TypeError as error:
        raise RecordRejected(f"The request is not JSON: {error}", "json") from error


def _is_callers(tool: Any) -> bool:
    """Whether a tool is the caller's own to run; others are run by the API."""
    return isinstance(tool, Mapping) and "input_schema" in tool


def _without_cache(value: Any) -> Any:
    """Return messages or parameters without ``cache_control``, which changes no answer."""
    if isinstance(value, Mapping):
        return {k: _without_cache(v) for k, v in value.items() if k != "cache_control"}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_without_cache(inner) for inner in value]
    return value
