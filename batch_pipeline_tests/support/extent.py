"""How much is tested: a fixed sample in ``make test``, all of it in ``make soak``.

A sample leaves no promise out: it shows each in one form, the whole in all.
"""

import os
from typing import TypeVar

import pytest

WHOLE = os.environ.get("BATCH_PIPELINE_TESTS") == "whole"
"""Whether the whole was asked for, by ``BATCH_PIPELINE_TESTS=whole``."""

Extent = TypeVar("Extent")

only_whole = pytest.mark.only_whole
"""Marks a test, or a form of one, that the sample leaves out unless it is called by its name."""


def extent(sample: Extent, whole: Extent) -> Extent:
    """Return the sample, or the whole when that was asked for."""
    return whole if WHOLE else sample


def in_extent(items: list[pytest.Item], named: bool) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Return the tests to run, and those that the sample leaves out.

    Args:
        items: the collected tests.
        named: whether single tests were called by their names.
    """
    if WHOLE or named:
        return items, []
    left_out = [item for item in items if item.get_closest_marker(only_whole.name)]
    return [item for item in items if item not in left_out], left_out
