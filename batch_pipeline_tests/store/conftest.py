"""A ledger, on each of the databases."""

import pytest

from batch_pipeline.store.clock import SystemClock
from batch_pipeline.store.ledger import Ledger


@pytest.fixture
def ledger(ledger_url: str) -> Ledger:
    return Ledger(ledger_url, SystemClock())
