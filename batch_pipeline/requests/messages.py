"""The API's ``messages``, with Jinja in any of their texts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from batch_pipeline.errors import InputError
from batch_pipeline.requests.prompt import Prompt

JINJA_MARKS = ("{{", "{%", "{#")


class Messages:
    """The API's messages, with a `Prompt` wherever a text holds Jinja.

    Args:
        messages: as the user declared them.
        where: what each is to the user, for errors; ``{}`` stands for its number.

    Attributes:
        texts: the texts that hold Jinja.

    Raises:
        InputError: a text is not valid Jinja.
    """

    def __init__(self, messages: Sequence[Mapping[str, Any]], where: str):
        self.texts: list[Prompt] = []
        self._parts = [
            self._part(message, where.format(number)) for number, message in enumerate(messages)
        ]

    def _part(self, part: Any, where: str) -> Any:
        if isinstance(part, str) and any(mark in part for mark in JINJA_MARKS):
            self.texts.append(Prompt(part, where))
            return self.texts[-1]
        if isinstance(part, Mapping):
            return {key: self._part(inner, where) for key, inner in part.items()}
        if isinstance(part, Sequence) and not isinstance(part, str):
            return [self._part(inner, where) for inner in part]
        return part

    def render(self, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the messages for one record (values as `prompt.template_values` gives them)."""
        return self.filled(lambda prompt: prompt.render(values))

    def filled(self, text: Callable[[Prompt], str]) -> list[dict[str, Any]]:
        """Return the messages with a text for each prompt."""
        return [_filled(part, text) for part in self._parts]


def _filled(part: Any, text: Callable[[Prompt], str]) -> Any:
    if isinstance(part, Prompt):
        return text(part)
    if isinstance(part, dict):
        return {key: _filled(inner, text) for key, inner in part.items()}
    if isinstance(part, list):
        return [_filled(inner, text) for inner in part]
    return part


def is_empty(content: Any) -> bool:
    """Whether a message's content is, or holds, a text of nothing but spaces: a 400 at the API."""
    if isinstance(content, str):
        return not content.strip()
    texts = (b.get("text") for b in content if isinstance(b, dict) and b.get("type") == "text")
    return any(isinstance(text, str) and not text.strip() for text in texts)


def declared_messages(prompt: str | None, messages: Sequence[Mapping[str, Any]] | None) -> Messages:
    """Return the messages of a template: its prompt's, its own, or none (``build`` makes them).

    Raises:
        InputError: they are not what the API takes, or not valid Jinja.
    """
    if prompt is not None:
        if not isinstance(prompt, str) or not prompt.strip():
            raise InputError("prompt is empty.")
        return Messages([{"role": "user", "content": prompt}], "prompt")
    if messages is None:
        return Messages([], "")
    if isinstance(messages, str | Mapping) or not messages:
        raise InputError('messages must be a list like [{"role": "user", "content": "..."}].')
    for number, message in enumerate(messages):
        whole = isinstance(message, Mapping) and message.get("role") and message.get("content")
        if not whole or not isinstance(message["content"], str | list | tuple):
            raise InputError(f"messages[{number}] needs a role and a content, got {message!r:.200}")
    return Messages(messages, "messages[{}]")


def declared_system(system: str | None) -> Prompt | None:
    """Return the system prompt of a template, None when it has none.

    Raises:
        InputError: it is not a text, or not valid Jinja.
    """
    if system is not None and not isinstance(system, str):
        raise InputError(f"system must be a text, not {system!r:.200}")
    return Prompt(system, "system") if system and system.strip() else None
