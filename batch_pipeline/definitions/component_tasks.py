"""The request of a pipeline's YAML: a template's own fields, or those of the ``task`` that it names."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, JsonValue, Strict, Tag, WithJsonSchema

from batch_pipeline.definitions.component_fields import (
    AtLeastOne,
    Flag,
    OptionalText,
    OptionalWhole,
    OwnText,
    RequestFields,
    Text,
    Texts,
    Whole,
)
from batch_pipeline.definitions.component_problems import Fields
from batch_pipeline.definitions.component_templates import ByType, OrTemplate
from batch_pipeline.requests.tasks.extract import KINDS, OTHER_NAMES

_TASK = "What is wanted; the other fields are this task's."
_KIND = (
    rf"^\s*({'|'.join([*KINDS, *(name for name in OTHER_NAMES if isinstance(name, str))])})\s*(,|$)"
)

_WHOLE = {"type": ["integer", "string"]}  # a text may be a template

Labels = Annotated[
    Annotated[
        dict[Any, Any],
        WithJsonSchema(
            {
                "type": "object",
                "minProperties": 1,
                "additionalProperties": {"type": ["string", "null"]},
            }
        ),
    ]
    | Annotated[
        list[JsonValue],
        WithJsonSchema(
            {"type": "array", "minItems": 1, "uniqueItems": True, "items": {"type": "string"}}
        ),
    ],
    ByType(),
]
Rubric = Annotated[
    Text
    | Annotated[
        dict[Any, Any],
        WithJsonSchema(
            {"type": "object", "minProperties": 1, "additionalProperties": {"type": "string"}}
        ),
    ],
    ByType(),
]
# What is declared is an answer's whole schema, or a mapping of names to what each is.
Extracted = Annotated[
    Text
    | Annotated[
        dict[str, JsonValue],
        WithJsonSchema(
            {
                "type": "object",
                "minProperties": 1,
                "if": {"not": {"required": ["type", "properties"]}},
                "then": {
                    "additionalProperties": {
                        "type": ["string", "array", "object"],
                        "pattern": _KIND,
                        "items": {"type": "string"},
                    }
                },
            }
        ),
    ],
    ByType(),
]


class _TaskFields(Fields):
    """What every task has."""

    column: Texts = Field(
        [],
        description="The column that is read, or several. Needed unless a prompt is given.",
        examples=["body", ["subject", "body"]],
    )
    model: Text = Field(description="The Claude model.", examples=["claude-haiku-4-5"])
    max_tokens: Annotated[Annotated[int, Strict(), Field(ge=1)] | None, OrTemplate()] = Field(
        None,
        description="The longest answer, in tokens. None: what the output takes at most, and some more.",
    )
    system: Annotated[Text | None, ByType()] = Field(
        None,
        description="Jinja in the place of the system prompt, never rendered by Dagster. What was declared and does "
        "not stand in it is put below.",
    )
    prompt: Annotated[Text | None, ByType()] = Field(
        None,
        description="Jinja in the place of the prompt, never rendered by Dagster.",
        examples=["Subject: {{ subject }}"],
    )
    prompt_file: OptionalText = Field(
        None, description="A file beside the YAML with the prompt.", examples=["prompt.md"]
    )
    cache: Annotated[Literal["5m", "1h"] | None, OrTemplate()] = Field(
        None, description="How long the API caches the system prompt that all requests share."
    )
    cache_seed: Flag = Field(
        False,
        description="The first request is sent by itself, and the others when it has filled the cache.",
    )
    params: Annotated[dict[str, JsonValue], OrTemplate()] = Field(
        {}, description="Further parameters of the API, passed through: thinking, metadata, ..."
    )
    version: OptionalText = Field(
        None,
        description="Stands for the question instead of its computed hash: another one asks every record again.",
    )
    max_tokens_limit: OptionalWhole = Field(
        None,
        description="An answer that was cut short is asked again with twice as many tokens, up to this many. None: up "
        "to 8 times max_tokens, and 32,000 at most.",
    )
    betas: Annotated[list[Text], OrTemplate()] = Field(
        [],
        description="What the header anthropic-beta of the batches names. Another set asks every record again.",
        examples=[["context-management-2025-06-27"]],
    )


class ClassifyFields(_TaskFields):
    """Which label fits a record: the column label; with multi a list, labels."""

    task: Literal["classify"] = Field(description=_TASK)
    labels: Labels = Field(
        description="The labels; as a mapping, each with what it means. Never rendered by Dagster.",
        examples=[{"billing": "invoices and payments", "other": None}, ["spam", "ham"]],
    )
    multi: Flag = Field(False, description="Whether several may fit, or none.")
    explain: Flag = Field(
        False, description="Whether the column explanation says why, written before the label."
    )


class ExtractFields(_TaskFields):
    """The fields that a record's text holds, a column each."""

    task: Literal["extract"] = Field(description=_TASK)
    fields: Extracted = Field(
        description="Names, each with its kind and what it is, the texts that it may be, or a JSON Schema; or the "
        f"dotted path of a pydantic model. Kinds: {', '.join(KINDS)}. Never rendered by Dagster.",
        examples=[{"total": "number, the sum to pay", "currency": ["EUR", "USD"]}],
    )


class SummarizeFields(_TaskFields):
    """A record's text in few words, in its own language: the column summary."""

    task: Literal["summarize"] = Field(description=_TASK)
    words: AtLeastOne = Field(50, description="How many words at most.")


class TranslateFields(_TaskFields):
    """A record's text in another language: the column translation."""

    task: Literal["translate"] = Field(description=_TASK)
    to: OwnText = Field(
        description="The language, as it is to be told to the model.",
        examples=["German", "Brazilian Portuguese"],
    )
    words: AtLeastOne = Field(
        1_000, description="How long the longest text is: max_tokens follows from it."
    )


class ScoreFields(_TaskFields):
    """A whole number on a scale: the column score."""

    task: Literal["score"] = Field(description=_TASK)
    rubric: Rubric = Field(
        description="What is judged, and what the scores mean: a text, or a mapping of scores to texts. Never "
        "rendered by Dagster.",
        examples=["How angry the customer is.", {1: "calm", 5: "furious"}],
    )
    scale: Annotated[
        Annotated[
            list[Whole],
            WithJsonSchema({"type": "array", "minItems": 2, "maxItems": 2, "items": _WHOLE}),
        ],
        OrTemplate(),
    ] = Field([1, 5], description="The lowest and the highest score.")
    explain: Flag = Field(
        False, description="Whether the column explanation says why, written before the score."
    )


class OwnRequestFields(RequestFields):
    __doc__ = RequestFields.__doc__
    beside: ClassVar[tuple[str, ...]] = ("task",)
    elsewhere: ClassVar[dict[str, str]] = {
        name: f"the name task beside it, such as task: {task}"
        for task, name in (
            ("classify", "column"),
            ("classify", "labels"),
            ("classify", "multi"),
            ("classify", "explain"),
            ("extract", "fields"),
            ("summarize", "words"),
            ("translate", "to"),
            ("score", "rubric"),
            ("score", "scale"),
        )
    }


def _by_task(value: Any) -> str:
    # No names of fields, or an error's place would be mistaken for a field.
    return "by its task" if isinstance(value, dict) and "task" in value else "in own words"


RequestValue = Annotated[
    Annotated[
        Annotated[
            Annotated[
                ClassifyFields | ExtractFields | SummarizeFields | TranslateFields | ScoreFields,
                Field(discriminator="task"),
            ],
            Tag("by its task"),
        ]
        | Annotated[OwnRequestFields, Tag("in own words")],
        Discriminator(_by_task),
    ],
    OrTemplate(),
]
