"""A question in YAML that names a task: ``{task: classify, column: body, labels: {...}, model: ...}``."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from batch_pipeline.errors import InputError
from batch_pipeline.requests.tasks.classify import Classify
from batch_pipeline.requests.tasks.extract import Extract
from batch_pipeline.requests.tasks.score import Score
from batch_pipeline.requests.tasks.summarize import Summarize
from batch_pipeline.requests.tasks.task import Task
from batch_pipeline.requests.tasks.translate import Translate
from batch_pipeline.requests.template import MessageTemplate

TASKS: dict[str, type[Task]] = {
    kind.__name__.lower(): kind for kind in (Classify, Extract, Summarize, Translate, Score)
}


def question_of(
    fields: Mapping[str, Any],
    made: Callable[[Any, Mapping[str, Any], str], Any],
    imported: Callable[[str, str], Any],
) -> MessageTemplate:
    """Return the template that the fields of ``request`` declare: its own, or those of a ``task``.

    Args:
        fields: as they stand in the file.
        made: makes a class of fields, or says which is unknown or missing.
        imported: returns what a field's dotted name names.
    """
    if "task" not in fields:
        return made(MessageTemplate, fields, "request")
    given = dict(fields)
    task = given.pop("task")
    if not isinstance(task, str) or task not in TASKS:
        near = get_close_matches(str(task), TASKS, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(f"request: task is {task!r}; it must be one of {', '.join(TASKS)}.{hint}")
    if isinstance(given.get("fields"), str):
        given["fields"] = imported("fields", given["fields"])
    return made(TASKS[task], given, f"request (task {task})").template
