"""A shared prompt that is too short to be cached is said before anything is sent."""

from typing import Any

import pytest

from batch_pipeline import MessageTemplate
from batch_pipeline.emulator.catalog import MODELS
from batch_pipeline.requests.cache_minimum import cache_minimum, too_short_to_cache
from batch_pipeline.requests.compiled import compile_question

SHORT = "Sort the notes. " * 10


def said(**fields: Any) -> str | None:
    template = MessageTemplate(
        **{
            "model": "claude-haiku-4-5",
            "max_tokens": 9,
            "prompt": "{{ a }}",
            "cache": "1h",
            **fields,
        }
    )
    return too_short_to_cache(compile_question(template, {"a": "VARCHAR"}, ""))


def test_the_minimums_are_those_that_the_emulator_judges_by() -> None:
    for name, model in MODELS.items():
        assert cache_minimum(name) in (model.cache_minimum, None), name


def test_what_is_surely_too_short_is_said() -> None:
    line = said(system=SHORT)
    assert line is not None and "caches from 4,096 tokens on" in line and 'cache="1h"' in line


@pytest.mark.parametrize(
    "fields",
    [
        {"system": SHORT, "cache": None},
        {"system": SHORT * 100},
        {"system": SHORT, "model": "claude-of-a-relay"},
        {"system": SHORT, "output": {"type": "object", "properties": {"x": {"type": "string", "description": SHORT * 100}},
                                     "required": ["x"], "additionalProperties": False}},
        {"system": SHORT, "prompt": None, "messages": [{"role": "user", "content": [
            {"type": "text", "text": SHORT * 100, "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "{{ a }}"}]}]},
    ],
    ids=["no cache", "long", "unknown model", "a long schema", "more is cached"],
)  # fmt: skip
def test_what_may_be_cached_is_not(fields: dict[str, Any]) -> None:
    assert said(**fields) is None
