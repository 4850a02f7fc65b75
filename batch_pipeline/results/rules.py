"""The rules that a pipeline declares: what settles its records, checked against its output."""

from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import BaseModel

from batch_pipeline.errors import InputError
from batch_pipeline.records.rules import RULE, SKIPPED, Rule, check_condition
from batch_pipeline.requests.schema import OutputSchema
from batch_pipeline.results.json_text import number_as_written, parsed


def rules_of(
    skip_when: Any, answer_when: Any, output: type[BaseModel] | Mapping[str, Any] | None
) -> tuple[Rule, ...]:
    """Return rules in the order in which they count.

    Args:
        skip_when: the condition of what is skipped; None: nothing is.
        answer_when: answers by condition; None: there are none.
        output: what an answer must look like; None: it is a text.

    Raises:
        InputError: a condition is no SQL over one record, or an answer does not fit the output.
    """
    rules: list[Rule] = []
    if skip_when is not None:
        check_condition(skip_when, "skip_when")
        rules.append(Rule(skip_when, SKIPPED))
    if answer_when is None:
        return tuple(rules)
    if not isinstance(answer_when, Mapping):
        raise InputError(
            f"answer_when is {answer_when!r}; it must be a dict of answers by condition, such as "
            '{"amount = 0": {"category": "empty"}}.'
        )
    schema = OutputSchema.from_(output)
    for condition, answer in answer_when.items():
        check_condition(condition, "answer_when")
        rules.append(Rule(condition, RULE, _kept(condition, answer, schema)))
    return tuple(rules)


def _kept(condition: str, answer: Any, schema: OutputSchema | None) -> str:
    """Return an answer as a judged one is kept."""
    what = f"answer_when ({condition})"
    if schema is None:
        if not isinstance(answer, str) or not answer:
            raise InputError(
                f"{what} is {answer!r}; it must be a text, because there is no output."
            )
        return answer
    given = answer.model_dump(mode="json") if isinstance(answer, BaseModel) else answer
    try:
        written = orjson.dumps(given, default=number_as_written)
        fitted, error = schema.judged(parsed(written, schema.exact))
        text = orjson.dumps(fitted, default=number_as_written).decode() if error is None else ""
    except TypeError as problem:
        raise InputError(f"{what} is {answer!r}, which is no JSON: {problem}.") from None
    if error is not None:
        raise InputError(f"{what} is {answer!r}, which does not fit the output: {error}")
    return text
