"""The question of ready requests: there is none of its own, each line has all that is asked."""

from collections.abc import Mapping, Sequence
from typing import Any

from batch_pipeline.requests.template import MessageTemplate

EACH_LINE = "each line's model"
"""What stands for the model where one is named."""
QUESTION = "request files"
"""What the version of the question is made of: it never changes, the lines do."""


class ReadyLines(MessageTemplate):
    """What stands for the template of a pipeline whose records are ready requests."""

    @property
    def calls_tools(self) -> bool:
        """Whether what the model calls has a column: any line may declare tools."""
        return True

    @property
    def cites(self) -> bool:
        """Whether what is cited has a column: any line may ask for it."""
        return True


def ready_lines(betas: Sequence[str]) -> ReadyLines:
    """Return what stands for the template of ready requests.

    Args:
        betas: that their batches name.

    Raises:
        InputError: a beta is none.
    """
    return ReadyLines(
        model=EACH_LINE,
        max_tokens=1,
        build=_as_it_is,
        columns=(QUESTION,),
        version=QUESTION,
        betas=betas,
    )


def _as_it_is(record: dict[str, Any]) -> Mapping[str, Any]:
    raise AssertionError("the parameters of a ready request are taken as they are")
