"""What the answer is to look like."""

from typing import Any

from batch_pipeline.emulator.betas import NEEDED_BY_SETTING
from batch_pipeline.emulator.citations import cited_documents
from batch_pipeline.emulator.errors import invalid
from batch_pipeline.emulator.rules.rule import Asked, needs_beta, rule
from batch_pipeline.emulator.rules.shape import fields_of
from batch_pipeline.emulator.schemas import check_schema


def format_of(params: dict[str, Any]) -> dict[str, Any] | None:
    """The format that an answer must have, by the field of today or by the one of the beta."""
    return (params.get("output_config") or {}).get("format") or params.get("output_format")


@rule("SDK types/output_config_param.py, json_output_format_param.py; types/beta for task_budget")
def wrong_output_config(asked: Asked) -> None:
    """`output_config` with a field that it has not, or a format of another kind than json_schema."""
    config = asked.params.get("output_config")
    if config is None:
        return
    optional = {"effort": "text?", "format": "object?", "task_budget": "object?"}
    fields_of(config, "output_config", {}, optional)
    if config.get("task_budget") is not None:
        needs_beta(
            asked, "output_config.task_budget", NEEDED_BY_SETTING["output_config.task_budget"]
        )


@rule("docs Structured outputs 2026-08-22 (reference 8): what a schema may have, and how much")
def wrong_schema(asked: Asked) -> None:
    """A schema that the API cannot keep an answer to."""
    named = {
        "output_config.format": (asked.params.get("output_config") or {}).get("format"),
        "output_format": asked.params.get("output_format"),
    }
    for where, form in named.items():
        if form is None:
            continue
        if form.get("type") != "json_schema":
            raise invalid(f"{where}.type: Input should be 'json_schema'")
        if "schema" not in form:
            raise invalid(f"{where}.schema: Field required")
        fields_of(form, where, {"type": "any", "schema": "any"})
        check_schema(form["schema"], f"{where}.schema")


@rule("docs Structured outputs: incompatible features; the words are our reading")
def cites_in_json(asked: Asked) -> None:
    """Documents that ask for citations, beside a format of the answer."""
    config = asked.params.get("output_config") or {}
    given = config.get("format") is not None or asked.params.get("output_format") is not None
    if given and any(True for _ in cited_documents(asked.params)):
        raise invalid("output_config.format: citations cannot be enabled together with it")


@rule("docs Structured outputs: output_format moved to output_config.format; both is our reading")
def two_formats(asked: Asked) -> None:
    """`output_format` beside `output_config.format`."""
    config = asked.params.get("output_config") or {}
    if config.get("format") is not None and asked.params.get("output_format") is not None:
        raise invalid("output_format: cannot be given together with output_config.format")
