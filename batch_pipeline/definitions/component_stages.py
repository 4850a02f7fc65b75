"""The pipeline that a component defines: as it is declared, with what its class says of each stage."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import dagster as dg

from batch_pipeline.definitions.assets.define import stage_specs
from batch_pipeline.errors import InputError
from batch_pipeline.pipeline import BatchPipeline


@dataclass(frozen=True, kw_only=True)
class StagedPipeline(BatchPipeline):
    """A pipeline whose stages have keys, ops and work of their own.

    Attributes:
        keys: the asset key of each stage.
        op: what Dagster's ops take besides; with a ``name``, each op is named after it and the stage.
        execute: does a stage's work; None: this package does.
    """

    keys: Mapping[str, dg.AssetKey] = field(default_factory=dict)
    op: Mapping[str, Any] = field(default_factory=dict)
    execute: Callable[[dg.AssetExecutionContext, str], Any] | None = None

    def asset_key(self, stage: str) -> dg.AssetKey:
        """Return the asset key of a stage."""
        return self.keys.get(stage) or super().asset_key(stage)

    def op_options(self, stage: str) -> dict[str, Any]:
        """Return how the op of a stage is defined."""
        name = self.op.get("name")
        more = {what: value for what, value in self.op.items() if value is not None}
        return more | {"name": f"{name}__{stage}" if name else super().op_options(stage)["name"]}

    @property
    def execute_stage(self) -> Callable[[dg.AssetExecutionContext, str], Any] | None:
        """What does a stage's work in the place of this package."""
        return self.execute


def staged(
    pipeline: BatchPipeline,
    spec_of: Callable[[str], dg.AssetSpec],
    op: Mapping[str, Any],
    execute: Callable[[dg.AssetExecutionContext, str], Any],
) -> StagedPipeline:
    """Return a pipeline with the specs, ops and work that its component gives it.

    What a stage depends on inside the pipeline stays, whatever a spec says: a run goes by it.

    Args:
        pipeline: as declared.
        spec_of: returns the spec of a stage.
        op: what the ops take besides.
        execute: does a stage's work.

    Raises:
        InputError: a spec has partitions of its own, or two have one key.
    """
    declared = stage_specs(pipeline)
    given = {stage: spec_of(stage) for stage in declared}
    keys = {stage: spec.key for stage, spec in given.items()}
    if len(set(keys.values())) < len(keys):
        raise InputError(
            f"Pipeline {pipeline.name}: two stages have the asset key "
            f"{', '.join(sorted({key.to_user_string() for key in keys.values()}))}. Let the key name the stage: "
            '"{{ stage }}" in a translation.'
        )
    for stage, own_spec in given.items():
        if own_spec.partitions_def != declared[stage].partitions_def:
            raise InputError(
                f"Pipeline {pipeline.name}: the spec of {stage} has partitions of its own. Each partition is asked by "
                "itself: declare them with partitions and partition_column, for all stages."
            )
    stages = {key: stage for stage, key in keys.items()}
    own = {spec.key for spec in declared.values()}

    def spec(base: dg.AssetSpec) -> dg.AssetSpec:
        stage = stages[base.key]
        more = [dep for dep in given[stage].deps if dep.asset_key not in own]
        inside = [] if stage == "records" else list(base.deps)
        return given[stage].replace_attributes(deps=[*inside, *more])

    values = {one.name: getattr(pipeline, one.name) for one in fields(BatchPipeline)}
    if isinstance(pipeline, StagedPipeline):
        op = {**pipeline.op, **op}
    return StagedPipeline(**{**values, "asset_spec": spec}, keys=keys, op=dict(op), execute=execute)
