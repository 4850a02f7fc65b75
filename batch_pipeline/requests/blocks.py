"""Blocks of a prompt that records share: the columns of ``cache_by``, before the prompt's own text."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2 import nodes

from batch_pipeline.errors import InputError
from batch_pipeline.requests.messages import Messages
from batch_pipeline.requests.prompt import Prompt, text_of, unknown_column

MOST_MARKS = 4
"""Blocks of a request that may have ``cache_control`` (prompt caching guide)."""


class ColumnText(Prompt):
    """A column by itself, printed as a prompt prints it, whatever its name is like."""

    def __init__(self, column: str, where: str):
        self.column = column
        self.where = where
        self.source = column
        self.names = frozenset({column})
        self.reads_nothing = False

    def columns(self, available: Mapping[str, str]) -> set[str]:
        """Return the column.

        Raises:
            InputError: it does not exist; the message names a close match.
        """
        if self.column not in available:
            raise InputError(f"{self.where} reads {unknown_column(self.column, available)}")
        return {self.column}

    def tree(self) -> nodes.Template:
        """Return the text as Jinja would read it."""
        return nodes.Template([nodes.Output([nodes.Name(self.column, "load")])])

    def render(self, record: Mapping[str, Any]) -> str:
        """Return the text for one record (values as `template_values` gives them)."""
        return text_of(record[self.column])


class SharedBlocks:
    """The blocks at the beginning of the first turn, one for each column of ``cache_by``.

    Args:
        columns: the columns, in order.
        cache: for how long the last block is cached, ``5m`` or ``1h``.
    """

    def __init__(self, columns: Sequence[str], cache: str | None):
        self.texts = [ColumnText(column, "cache_by") for column in columns]
        self.mark = {"type": "ephemeral", "ttl": cache}

    def before(
        self,
        messages: Sequence[dict[str, Any]],
        text: Callable[[Prompt], str],
        *,
        marked: bool,
    ) -> list[dict[str, Any]]:
        """Return messages whose first has the blocks before its text.

        A column without a text makes no block: the API refuses a blank one.

        Args:
            messages: the prompt's one message.
            text: gives the text of a column.
            marked: whether the last block gets ``cache_control``.
        """
        texts = [text(one) for one in self.texts]
        blocks: list[dict[str, Any]] = [
            {"type": "text", "text": one} for one in texts if one.strip()
        ]
        if not blocks:
            return list(messages)
        if marked:
            blocks[-1]["cache_control"] = self.mark
        first, *rest = messages
        blocks.append({"type": "text", "text": first["content"]})
        return [{**first, "content": blocks}, *rest]


def check_cache_by(
    columns: Any,
    *,
    prompt: str | None,
    cache: str | None,
    has_system: bool,
    seeded: bool,
    params: Mapping[str, Any],
) -> None:
    """Refuse a ``cache_by`` that cannot be asked.

    Raises:
        InputError: it is no list of columns, or does not go with the rest of the template.
    """
    if isinstance(columns, str):
        raise InputError(f"cache_by must be a list of columns, e.g. cache_by=[{columns!r}].")
    if not isinstance(columns, Sequence):
        raise InputError(f'cache_by must be a list of columns, e.g. ["document"], not {columns!r}.')
    if not columns:
        return
    for column in columns:
        if not isinstance(column, str) or not column:
            raise InputError(f"cache_by names columns; {column!r} is none.")
    if len(set(columns)) < len(columns):
        twice = next(column for column in columns if list(columns).count(column) > 1)
        raise InputError(f"cache_by names the column {twice!r} twice: it would be sent twice.")
    if prompt is None:
        raise InputError(
            "cache_by puts its columns before a `prompt`, and there is none. With `messages` or `build`, write the "
            'block yourself: {"type": "text", "text": "{{ document }}", "cache_control": {"type": "ephemeral", '
            '"ttl": "1h"}}, and sort nothing: only cache_by does.'
        )
    if cache is None:
        raise InputError('cache_by fills a cache, and there is none: set cache="5m" or cache="1h".')
    if seeded and not has_system:
        raise InputError(
            "cache_seed fills the cache of the `system`, which all requests share, and there is none. The texts of "
            "cache_by are written by the first request of each: leave cache_seed out."
        )
    marks = 1 + has_system + _marks(params)
    if marks > MOST_MARKS:
        raise InputError(
            f"A request may have {MOST_MARKS} blocks with cache_control, and with cache_by it has {marks}: "
            "remove some of those in params."
        )


def check_prompt(columns: Sequence[str], messages: Messages) -> None:
    """Refuse a prompt that does not go with ``cache_by``.

    Raises:
        InputError: it would send a text a second time, or ask the same of all that share one.
    """
    for text in messages.texts:
        for output in text.tree().find_all(nodes.Output):
            printed = [node.name for node in output.nodes if isinstance(node, nodes.Name)]
            if again := [name for name in printed if name in columns]:
                raise InputError(
                    f"{text.where} prints {again[0]!r}, which cache_by sends already, before the prompt: it would be "
                    "paid twice. Take it out of the prompt."
                )
    if all(text.reads_nothing for text in messages.texts):
        raise InputError(
            "prompt reads no column, so records that share a text of cache_by would ask the same, which is asked "
            "once. Name what differs, e.g. {{ question }}; or leave cache_by out, and print the text in the prompt."
        )


def _marks(value: Any) -> int:
    """Return how many blocks of the API's parameters have ``cache_control``."""
    if isinstance(value, Mapping):
        own = value.get("cache_control") is not None
        return own + sum(_marks(inner) for inner in value.values())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return sum(_marks(inner) for inner in value)
    return 0
