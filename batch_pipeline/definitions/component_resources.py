"""The two resources in YAML, so that a project needs no Python at all."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, get_args

import dagster as dg
from pydantic import BaseModel, Field, ValidationError, create_model

from batch_pipeline.definitions.component_fields import OwnText
from batch_pipeline.definitions.component_problems import (
    Fields,
    Problem,
    SecretFields,
    refuse,
)
from batch_pipeline.definitions.component_scaffold import ResourcesScaffolder
from batch_pipeline.definitions.component_templates import OrTemplate, rendered
from batch_pipeline.definitions.component_values import Written, text_of_environment
from batch_pipeline.definitions.component_yaml import YamlComponent
from batch_pipeline.definitions.resources import BatchStore, ClaudeBatches


def _fields_of(name: str, resource: type[BaseModel]) -> type[Fields]:
    """Return a resource's fields, as they may be written."""
    fields: dict[str, Any] = {}
    for field, info in resource.model_fields.items():
        kind: Any = info.annotation
        for one in info.metadata:
            kind = Annotated[kind, one]
        default = ... if info.is_required() else info.default
        fields[field] = (
            Annotated[kind, OrTemplate()],
            Field(default, description=info.description),
        )
    return create_model(name, __base__=SecretFields, __doc__=resource.__doc__, **fields)


ClaudeFields = _fields_of("ClaudeFields", ClaudeBatches)
StoreFields = _fields_of("StoreFields", BatchStore)


def _resource(kind: type[BaseModel]) -> Any:
    def make(context: dg.ResolutionContext, raw: Any) -> Any:
        if isinstance(raw, str):
            raw = rendered(context, raw)
        if raw is None or not isinstance(raw, Mapping):
            return raw
        values = {
            name: _text(context.at_path(name), value)
            if str
            in (kind.model_fields[name].annotation, *get_args(kind.model_fields[name].annotation))
            else rendered(context.at_path(name), value)
            for name, value in raw.items()
        }
        try:
            return kind(**values)
        except ValidationError as error:
            found = [Problem(one["loc"], f"{one['msg']}.") for one in error.errors()]
            raise refuse(context, found) from None

    return make


def _text(context: dg.ResolutionContext, value: Any) -> Any:
    """Return a text, read at run time where it is a variable of the environment: a key stays out of the code."""
    if isinstance(value, Mapping):
        return {name: _text(context.at_path(name), one) for name, one in value.items()}
    if isinstance(value, list):
        return [_text(context.at_path(place), one) for place, one in enumerate(value)]
    return (
        text_of_environment(context, value) if isinstance(value, str) else rendered(context, value)
    )


@dg.scaffold_with(ResourcesScaffolder)
class ClaudeBatchesComponent(YamlComponent):
    """The two resources that batch pipelines ask for: the API's endpoint, and the store. Once in a project.

    ``{{ env.NAME }}`` in a text is read when a run needs it, and neither kept nor shown.
    """

    listed_tags: ClassVar[list[str]] = ["anthropic", "claude", "llm", "batch"]
    listed_produces: ClassVar[list[str]] = ["resource"]

    claude: Annotated[
        Any,  # a ClaudeBatches: Dagster knows no resource as a field
        Written(
            Annotated[ClaudeFields | None, OrTemplate()],
            "The Message Batches API, and how carefully it is used. None: not defined here.",
            _resource(ClaudeBatches),
            None,
            [{"api_key": "{{ env.ANTHROPIC_API_KEY }}"}],
        ),
    ] = None
    store: Annotated[
        Any,  # a BatchStore
        Written(
            Annotated[StoreFields | None, OrTemplate()],
            "Where the files of all pipelines are, and the ledger. None: not defined here.",
            _resource(BatchStore),
            None,
            [{"root": "data/batches"}],
        ),
    ] = None
    claude_key: Annotated[
        str, Written(OwnText, "The key that pipelines ask for it by.", shown="claude")
    ] = "claude"
    store_key: Annotated[
        str, Written(OwnText, "The key that pipelines ask for it by.", shown="store")
    ] = "store"

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return the resources."""
        both = {self.claude_key: self.claude, self.store_key: self.store}
        return dg.Definitions(
            resources={key: value for key, value in both.items() if value is not None}
        )
