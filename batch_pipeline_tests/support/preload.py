"""What a process does once, done before a child is forked: imports that come late, and SQL that is compiled.

It leaves no thread and no connection behind.
"""

import importlib
import tempfile
from contextlib import closing, suppress

from batch_pipeline import ClaudeBatches
from batch_pipeline.batches.claim import claim
from batch_pipeline.batches.reconcile import due
from batch_pipeline.results.publish import unpublished
from batch_pipeline.store.clock import SystemClock
from batch_pipeline.store.needs import needs
from batch_pipeline.store.standing import standing
from batch_pipeline.store.store import open_store
from batch_pipeline.store.submissions import Endpoint, Scope, know_endpoint, situation
from batch_pipeline_tests.support.pooling import pooled

LATE = (
    "_strptime", "dateutil.parser", "fsspec.implementations.local", "genai_prices.data", "h11",
    "httpcore2", "numpy.random", "opentelemetry.baggage", "pandas", "psycopg",
    "pyarrow.pandas_compat", "sqlalchemy.dialects.postgresql", "sqlalchemy.dialects.sqlite",
    "truststore",
)  # fmt: skip


def warm() -> None:
    """Do it."""
    for name in LATE:
        with suppress(ImportError):
            importlib.import_module(name)
    claude = ClaudeBatches(api_key="test-key", base_url="http://127.0.0.1:9")
    claude.api().close()
    with tempfile.TemporaryDirectory() as folder, pooled():
        store = open_store(folder, clock=SystemClock())
        with closing(store.ledger.engine.raw_connection()):
            scope = Scope("p", "", Endpoint(claude.url, "o", "w"))
            know_endpoint(store.ledger, scope.endpoint)
            situation(store.ledger, scope)
            with store.ledger.lease("warm"):
                claim(store.ledger, scope, "nobody", claude.policy)
                due(store, scope, claude.policy)
                needs(
                    store,
                    scope.pipeline,
                    scope.endpoint,
                    max_queued_requests=1,
                    reconcile_after_seconds=1,
                )
                standing(store, scope.pipeline)
                unpublished(store, scope.pipeline)
        store.ledger.engine.dispose()


warm()
