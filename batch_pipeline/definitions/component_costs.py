"""The asset ``batch_costs`` in YAML."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import dagster as dg
from pydantic import Discriminator, Field, SkipValidation, Tag

from batch_pipeline.definitions import component_fields as fields
from batch_pipeline.definitions import component_values as values
from batch_pipeline.definitions.batch_costs import batch_costs
from batch_pipeline.definitions.component_problems import Fields
from batch_pipeline.definitions.component_templates import OrTemplate, rendered
from batch_pipeline.definitions.component_values import Written
from batch_pipeline.definitions.component_yaml import YamlComponent
from batch_pipeline.pipeline import Schedule
from batch_pipeline.results.destinations import DuckDBTable


class ParquetFileFields(Fields):
    """One Parquet file."""

    path: fields.Text = Field(
        description="The file, which ends in .parquet; a path or an object-store URL."
    )


def _kind(value: Any) -> str:
    return "parquet" if isinstance(value, dict) and "path" in value else "duckdb"


PlaceValue = Annotated[
    Annotated[
        Annotated[ParquetFileFields, Tag("parquet")]
        | Annotated[fields.DuckDBTableFields, Tag("duckdb")],
        Discriminator(_kind),
    ],
    OrTemplate(),
]


def _place(context: dg.ResolutionContext, raw: Any) -> DuckDBTable | str:
    value = rendered(context, raw)
    if isinstance(value, Mapping):
        return value["path"] if "path" in value else values.made(DuckDBTable, value, "to")
    return value


def _schedule(context: dg.ResolutionContext, raw: Any) -> str | Schedule | None:
    value = rendered(context, raw)
    if isinstance(value, str):
        return Schedule(value, status=dg.DefaultScheduleStatus.RUNNING)  # it costs nothing
    return values.schedule(context, value)


class BatchCostsComponent(YamlComponent):
    """Keeps what all pipelines of a store have sent, and what it cost, in a table for dashboards. Once for a store."""

    listed_tags: ClassVar[list[str]] = ["anthropic", "claude", "cost", "duckdb", "parquet"]
    listed_produces: ClassVar[list[str]] = ["asset", "job", "schedule"]

    to: Annotated[
        SkipValidation[DuckDBTable | str],
        Written(
            PlaceValue,
            "Where the table is: in a DuckDB database, or with a path one Parquet file.",
            _place,
            examples=[{"database": "warehouse.duckdb", "table": "batch_costs"}],
        ),
    ]
    schedule: Annotated[
        SkipValidation[str | Schedule | None],
        Written(
            fields.ScheduleValue,
            "When it is written: a cron string in UTC, or cron, timezone and status. None: it has no schedule.",
            _schedule,
            "5 * * * *",
            ["5 * * * *"],
        ),
    ] = "5 * * * *"
    upstream: Annotated[
        Sequence[str | list[str]],
        Written(fields.UpstreamValue, "Asset keys that it follows, for lineage.", shown=[]),
    ] = ()
    key_prefix: Annotated[
        str | list[str] | None,
        Written(fields.OptionalTexts, "Put before the asset's key.", shown=None),
    ] = None
    group_name: Annotated[
        str | None,
        Written(fields.OptionalText, "Dagster's group. None: batch_costs.", shown=None),
    ] = None
    tags: Annotated[
        dict[str, str],
        Written(fields.Words, "Tags of the asset.", values.tags, {}),
    ] = {}  # noqa: RUF012 - pydantic copies defaults
    store_key: Annotated[
        str, Written(fields.OwnText, "The key of the resource BatchStore.", shown="store")
    ] = "store"

    def check(self) -> None:
        """Refuse a table that cannot be."""
        self.definitions()

    def definitions(self) -> dg.Definitions:
        """Return the asset, its job and its schedule."""
        return batch_costs(
            self.to,
            schedule=self.schedule,
            upstream=self.upstream,
            key_prefix=self.key_prefix or (),
            group_name=self.group_name,
            tags=self.tags,
            store_key=self.store_key,
        )

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return the asset, its job and its schedule, without resources."""
        return self.definitions()
