"""Bulk Claude work on Dagster, through Anthropic's Message Batches API: asked once, paid once, never lost."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batch_pipeline.batches.deadline import AnswerBy
    from batch_pipeline.batches.hours import SendBetween
    from batch_pipeline.definitions.batch_costs import batch_costs
    from batch_pipeline.definitions.build import build_definitions
    from batch_pipeline.definitions.component import BatchPipelineComponent
    from batch_pipeline.definitions.component_costs import BatchCostsComponent
    from batch_pipeline.definitions.component_resources import ClaudeBatchesComponent
    from batch_pipeline.definitions.resources import BatchStore, ClaudeBatches
    from batch_pipeline.errors import BatchPipelineError, HeldError, InputError, StoreError
    from batch_pipeline.pipeline import Arrivals, BatchPipeline, Budget, Schedule
    from batch_pipeline.records.sources import DuckDBSource, ParquetSource, RequestFiles
    from batch_pipeline.requests.escalate import Escalate
    from batch_pipeline.requests.tasks.classify import Classify
    from batch_pipeline.requests.tasks.extract import Extract
    from batch_pipeline.requests.tasks.score import Score
    from batch_pipeline.requests.tasks.summarize import Summarize
    from batch_pipeline.requests.tasks.translate import Translate
    from batch_pipeline.requests.template import MessageTemplate
    from batch_pipeline.results.destinations import DuckDBTable, ParquetDataset
    from batch_pipeline.results.thresholds import Threshold

# Loaded when first asked for: the emulator and the command line need no Dagster, which takes
# seconds to import.
_HOMES = {
    "AnswerBy": "batch_pipeline.batches.deadline",
    "Arrivals": "batch_pipeline.pipeline",
    "BatchCostsComponent": "batch_pipeline.definitions.component_costs",
    "BatchPipeline": "batch_pipeline.pipeline",
    "BatchPipelineComponent": "batch_pipeline.definitions.component",
    "BatchPipelineError": "batch_pipeline.errors",
    "BatchStore": "batch_pipeline.definitions.resources",
    "Budget": "batch_pipeline.pipeline",
    "Classify": "batch_pipeline.requests.tasks.classify",
    "ClaudeBatches": "batch_pipeline.definitions.resources",
    "ClaudeBatchesComponent": "batch_pipeline.definitions.component_resources",
    "DuckDBSource": "batch_pipeline.records.sources",
    "DuckDBTable": "batch_pipeline.results.destinations",
    "Escalate": "batch_pipeline.requests.escalate",
    "Extract": "batch_pipeline.requests.tasks.extract",
    "HeldError": "batch_pipeline.errors",
    "InputError": "batch_pipeline.errors",
    "MessageTemplate": "batch_pipeline.requests.template",
    "ParquetDataset": "batch_pipeline.results.destinations",
    "ParquetSource": "batch_pipeline.records.sources",
    "RequestFiles": "batch_pipeline.records.sources",
    "Schedule": "batch_pipeline.pipeline",
    "Score": "batch_pipeline.requests.tasks.score",
    "SendBetween": "batch_pipeline.batches.hours",
    "StoreError": "batch_pipeline.errors",
    "Summarize": "batch_pipeline.requests.tasks.summarize",
    "Threshold": "batch_pipeline.results.thresholds",
    "Translate": "batch_pipeline.requests.tasks.translate",
    "batch_costs": "batch_pipeline.definitions.batch_costs",
    "build_definitions": "batch_pipeline.definitions.build",
}

__all__ = [
    "AnswerBy",
    "Arrivals",
    "BatchCostsComponent",
    "BatchPipeline",
    "BatchPipelineComponent",
    "BatchPipelineError",
    "BatchStore",
    "Budget",
    "Classify",
    "ClaudeBatches",
    "ClaudeBatchesComponent",
    "DuckDBSource",
    "DuckDBTable",
    "Escalate",
    "Extract",
    "HeldError",
    "InputError",
    "MessageTemplate",
    "ParquetDataset",
    "ParquetSource",
    "RequestFiles",
    "Schedule",
    "Score",
    "SendBetween",
    "StoreError",
    "Summarize",
    "Threshold",
    "Translate",
    "batch_costs",
    "build_definitions",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
