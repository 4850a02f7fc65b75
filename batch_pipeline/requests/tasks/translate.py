"""Translate: a record's text in another language."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from batch_pipeline.requests.tasks.length import words_tokens
from batch_pipeline.requests.tasks.summarize import check_words
from batch_pipeline.requests.tasks.task import Task, object_schema
from batch_pipeline.requests.tasks.wording import check_text


@dataclass(frozen=True)
class Translate(Task):
    """A text in another language: the column ``translation``.

    Attributes:
        to: the language, as it is to be told to the model: ``German``, ``Brazilian Portuguese``.
        words: how long the longest text is, in words: ``max_tokens`` follows from it. A translation that
            is cut short is asked again with twice the room.
    """

    to: str
    words: int = 1_000

    def output(self) -> dict[str, Any]:
        """Return the schema: a text."""
        check_text(self.to, "to")
        check_words(self.words)
        return object_schema({"translation": {"type": "string"}}, ["translation"])

    def asked(self) -> tuple[str, Mapping[str, Sequence[str]]]:
        """Return what is asked; the language must be told."""
        language = " ".join(self.to.split())
        return (
            "Translate a text. Translate all of it and add nothing; leave names, numbers, code and line breaks "
            "as they are. A text that is in the language already is given as it is.",
            {f"The language to translate into: {language}": [language]},
        )

    def answer_tokens(self, output: type[BaseModel] | dict[str, Any]) -> int:
        """Return how many tokens a text of so many words has at most."""
        return words_tokens(self.words)
