"""How much is tested of what has no end: a fixed sample in ``make test``, all of it in ``make soak``."""

import os
from typing import TypeVar

WHOLE = os.environ.get("BATCH_PIPELINE_TESTS") == "whole"

Extent = TypeVar("Extent")


def extent(sample: Extent, whole: Extent) -> Extent:
    """Return the sample, or the whole when ``BATCH_PIPELINE_TESTS=whole`` asks for it."""
    return whole if WHOLE else sample
