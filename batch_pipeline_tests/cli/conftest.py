"""Commands run in this process, over a user's project."""

from collections.abc import Iterator

import pytest

from batch_pipeline_tests.support.pooling import pooled


@pytest.fixture(autouse=True)
def _pooled() -> Iterator[None]:
    """What each process does once is done once: these tests are about nights, not about connections."""
    with pooled():
        yield
