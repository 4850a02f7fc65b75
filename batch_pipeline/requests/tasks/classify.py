"""Classify: which of some labels a record has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batch_pipeline.errors import InputError
from batch_pipeline.requests.tasks.task import EXPLANATION, Task, object_schema
from batch_pipeline.requests.tasks.wording import check_text


@dataclass(frozen=True)
class Classify(Task):
    """Which label fits a record: the column ``label``; with ``multi`` a list, ``labels``.

    A change of labels, of their order, or of what they mean, is another question: each record is asked
    again. ``max_tokens`` is what the longest label takes (with ``multi`` all of them).

    Attributes:
        labels: the labels; as a mapping, each with what it means.
        multi: whether several may fit, or none.
        explain: whether the column ``explanation`` says why; it is written before the label.
    """

    labels: Mapping[str, str | None] | Sequence[str]
    multi: bool = False
    explain: bool = False

    def output(self) -> dict[str, Any]:
        """Return the schema: one of the labels, or a list of them."""
        names = list(_checked(self.labels, alone=self.multi is True))
        for word in ("multi", "explain"):
            if not isinstance(getattr(self, word), bool):
                raise InputError(
                    f"{word} is {getattr(self, word)!r}; it must be True or False (true or false in YAML)."
                )
        one = {"type": "string", "enum": names}
        field = {"labels": {"type": "array", "items": one}} if self.multi else {"label": one}
        fields = ({"explanation": EXPLANATION} if self.explain else {}) | field
        return object_schema(fields, list(fields))

    def asked(self) -> tuple[str, Mapping[str, Sequence[str]]]:
        """Return what is asked; what labels mean must be told, and their names stand in the schema."""
        labels = _checked(self.labels, alone=True)
        lines = [f"{name}: {meaning}" if meaning else name for name, meaning in labels.items()]
        meanings = [meaning for meaning in labels.values() if meaning]
        block = "\n".join(
            ["The labels, and what they mean:" if meanings else "The labels:"]
            + [f"- {line}" for line in lines]
        )
        what = (
            "Say which of the labels fit a text: every one that fits, each once; an empty list if none does."
            if self.multi
            else "Say which of the labels fits a text best."
        )
        return what, {block: meanings}


def _checked(labels: object, alone: bool) -> dict[str, str]:
    """Return labels with what they mean ("" where that is not said).

    Args:
        labels: as they were declared.
        alone: whether there may be just one.
    """
    if isinstance(labels, str) or not isinstance(labels, Mapping | Sequence):
        raise InputError(
            f"labels is {labels!r}; it must be a list of labels, or a mapping of each to what it means."
        )
    if not labels:
        raise InputError("labels is empty. Name the labels, and best say what each means.")
    found: dict[str, str] = {}
    folded: dict[str, str] = {}
    for label in labels:
        name = check_text(label, f"labels: the label {label!r}")
        if name != name.strip() or len(name.splitlines()) > 1:
            raise InputError(f"labels: {name!r} has a line break, or a space at an end. Remove it.")
        if name in found:
            raise InputError(f"labels: {name!r} stands there twice. Remove one.")
        if (other := folded.setdefault(name.casefold(), name)) != name:
            raise InputError(
                f"labels: {other!r} and {name!r} are the same but for case: the API does not promise the case of"
                " an answer. Remove one, or name it otherwise."
            )
        meaning = labels[label] if isinstance(labels, Mapping) else None
        if meaning is not None and meaning != "":
            meaning = " ".join(check_text(meaning, f"labels: what {name!r} means").split())
        found[name] = meaning or ""
    if len(found) == 1 and not alone:
        raise InputError(
            f"labels has only {next(iter(found))!r}, so every answer would be it. Add another, such as other, or set multi."
        )
    return found
