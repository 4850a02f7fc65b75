"""What the API refuses in the parameters of a message: a rule for each kind of mistake.

A rule is a function under `@rule(source)`, where the source says from what we know it. Rules are asked
in the order of `_ORDER`, and within a module in the order in which they stand there.
"""

from batch_pipeline.emulator.rules import (
    blocks,
    caching,
    fields,
    messages,
    models,
    outputs,
    tools,
)
from batch_pipeline.emulator.rules.rule import OUR_READING, RULES, Asked, Occasion, check_params

__all__ = ["OUR_READING", "RULES", "Asked", "Occasion", "check_params"]

# Later ones rely on what earlier ones have checked.
_ORDER = [one.__name__ for one in (fields, models, messages, blocks, tools, outputs, caching)]
RULES.sort(key=lambda rule: _ORDER.index(rule.check.__module__))
