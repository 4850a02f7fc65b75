"""How much is tested: a fixed sample in ``make test``, all of it in ``make soak``.

A sample leaves no promise out: each test is run, in fewer of its forms.
"""

import os
from collections import defaultdict
from typing import TypeVar

import pytest

WHOLE = os.environ.get("BATCH_PIPELINE_TESTS") == "whole"
"""Whether the whole was asked for, by ``BATCH_PIPELINE_TESTS=whole``."""

SAMPLED = ("cli", "definitions", "faults", "guarantees", "results")
"""The folders where a form of a test is a night or several: of each test's forms one in `ONE_IN` is run."""

ONE_IN = 6

Extent = TypeVar("Extent")

only_whole = pytest.mark.only_whole
"""Marks a test, or a form of one, that the sample leaves out; another test shows the same promise."""

every_form = pytest.mark.every_form
"""Marks a test whose forms the sample runs all, because they are the promise."""


def extent(sample: Extent, whole: Extent) -> Extent:
    """Return the sample, or the whole when that was asked for."""
    return whole if WHOLE else sample


def in_extent(items: list[pytest.Item], named: bool) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Return the tests to run, and those that the sample leaves out.

    Args:
        items: the collected tests.
        named: whether single tests were called by their names: these are run.
    """
    if WHOLE or named:
        return items, []
    left_out = {item.nodeid for item in items if item.get_closest_marker(only_whole.name)}
    forms: dict[str, list[str]] = defaultdict(list)
    for item in items:
        sampled = set(item.nodeid.split("/")) & set(SAMPLED)
        if sampled and not item.get_closest_marker(every_form.name) and item.nodeid not in left_out:
            forms[item.nodeid.partition("[")[0]].append(item.nodeid)
    for name, of_one in forms.items():
        # Not always the first, which is often the plainest.
        first = len(name) % min(len(of_one), ONE_IN)
        left_out |= set(of_one) - set(of_one[first::ONE_IN])
    return (
        [item for item in items if item.nodeid not in left_out],
        [item for item in items if item.nodeid in left_out],
    )
