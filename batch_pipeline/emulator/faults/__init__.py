"""Everything that can be made to go wrong, and the table of what lies in wait."""

# Importing a module of kinds registers them, in the order in which they are listed.
from batch_pipeline.emulator.faults import connections, errors, replies, results, state
from batch_pipeline.emulator.faults.kind import ANY, CALLS, KINDS, Kind, Scene
from batch_pipeline.emulator.faults.table import (
    Fault,
    FaultTable,
    apply_after,
    apply_before,
    fault_of,
)

__all__ = [
    "ANY",
    "CALLS",
    "KINDS",
    "Fault",
    "FaultTable",
    "Kind",
    "Scene",
    "apply_after",
    "apply_before",
    "connections",
    "errors",
    "fault_of",
    "replies",
    "results",
    "state",
]
