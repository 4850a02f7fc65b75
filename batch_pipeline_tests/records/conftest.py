"""What the tests of records share: DuckDB instances."""

from collections.abc import Iterator

import pytest

from batch_pipeline_tests.support.pooling import pooled


@pytest.fixture(autouse=True)
def _pooled() -> Iterator[None]:
    with pooled():
        yield
