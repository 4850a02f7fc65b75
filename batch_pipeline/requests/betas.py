"""The betas of a question: what the header ``anthropic-beta`` of its batches names."""

import re
from collections.abc import Sequence

from batch_pipeline.errors import InputError

HOW = 'betas=["context-management-2025-06-27"]: the names that the API\'s documentation gives'
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_betas(betas: object) -> None:
    """Refuse what are no names of betas.

    Raises:
        InputError: it says what is wrong, and how they are written.
    """
    if isinstance(betas, str) or not isinstance(betas, Sequence):
        raise InputError(f"betas is {betas!r}; it must be a list of names: {HOW}.")
    for beta in betas:
        if not isinstance(beta, str) or not _NAME.fullmatch(beta):
            raise InputError(f"betas has {beta!r}, which is no name of a beta: {HOW}.")
    if twice := {beta for beta in betas if list(betas).count(beta) > 1}:
        raise InputError(f"betas names {', '.join(sorted(twice))} more than once.")
