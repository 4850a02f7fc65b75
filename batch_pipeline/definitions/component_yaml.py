"""A component whose YAML is checked field by field, by ``dg check yaml`` and when it is loaded alike."""

from functools import cache
from typing import Any, ClassVar

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field, create_model

from batch_pipeline.definitions.component_problems import Attributes, doubled, refuse, refused
from batch_pipeline.definitions.component_values import Written
from batch_pipeline.errors import InputError


class YamlComponent(dg.Component, dg.Resolvable, dg.Model):
    """A component that says of each field what may be written, and where a file is wrong."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    listed_tags: ClassVar[list[str]] = ["anthropic", "claude"]
    """What lists of components show it by."""
    listed_produces: ClassVar[list[str]] = []
    """What it defines, as these lists call it."""

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        """Return what lists of components show."""
        return dg.ComponentTypeSpec(
            description=(cls.__doc__ or "").strip().partition("\n")[0],
            owners=["team:batch-pipeline"],
            tags=cls.listed_tags,
            produces=cls.listed_produces,
        )

    def check(self) -> None:
        """Refuse with an ``InputError`` what its fields cannot mean together."""

    @classmethod
    def model(cls) -> type[BaseModel]:
        """Return the model of the attributes: their JSON Schema is what ``dg`` and editors show."""
        return _model(cls, super().model())

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> Any:
        """Make the component.

        Raises:
            YamlError: it names each wrong field, where it stands, and the nearest right name.
        """
        if isinstance(model, Attributes) and model.problems:
            raise refuse(context, [*model.problems, *doubled(context)])
        if twice := doubled(context):
            raise refuse(context, twice)
        return super().resolve_from_model(context, model)

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Any:
        """Make the component of its YAML; without any attributes it says which ones it needs.

        Raises:
            YamlError: it names what is wrong, and where it stands.
        """
        made = super().load(attributes or cls.model().model_validate({}), context)
        try:
            made.check()
        except InputError as error:
            raise refused(context.resolution_context.at_path("attributes"), error) from None
        return made


@cache
def _model(component: type[dg.Model], derived: type[BaseModel]) -> type[BaseModel]:
    """Return the model that Dagster derives, with the types that are written in YAML.

    Dagster lets every field be a text besides, and shows no default that is no plain value. Fields
    that a subclass adds in another way stay as Dagster has them.
    """
    fields: dict[str, Any] = {}
    for name, info in derived.model_fields.items():
        given = component.model_fields[name].metadata if name in component.model_fields else ()
        written = next((one for one in given if isinstance(one, Written)), None)
        if written is None:
            fields[name] = (info.annotation, info)
        else:
            fields[name] = (
                written.kind,
                Field(
                    ... if written.shown is Written.REQUIRED else written.shown,
                    description=written.description,
                    examples=written.examples,
                ),
            )
    made = create_model(derived.__name__, __base__=Attributes, __doc__=component.__doc__, **fields)
    made.model_config["json_schema_extra"] = derived.model_config.get("json_schema_extra")
    return made
