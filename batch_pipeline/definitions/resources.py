"""The two resources a project defines once: the API's endpoint, and the store."""

import os
from typing import Literal

import dagster as dg
from pydantic import ConfigDict, Field
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from batch_pipeline.batches.api import PUBLIC_API, BatchesApi
from batch_pipeline.batches.policy import SendPolicy
from batch_pipeline.errors import InputError, StoreError
from batch_pipeline.requests.build import Limits
from batch_pipeline.settings import project_path, resolve
from batch_pipeline.store.store import Store, open_store

KEY_VARIABLE = "ANTHROPIC_API_KEY"
URL_VARIABLE = "ANTHROPIC_BASE_URL"
SENSOR_TIMEOUT_SECONDS = 15.0  # a sensor tick has 60 s for everything (Dagster's gRPC time-out)


class ClaudeBatches(dg.ConfigurableResource):
    """The Message Batches API, and how carefully it is used."""

    model_config = ConfigDict(extra="forbid")  # a limit with a wrong name would limit nothing

    api_key: str | None = Field(
        default=None,
        repr=False,
        description="The API key; use dg.EnvVar. None: the environment variable ANTHROPIC_API_KEY.",
    )
    base_url: str | None = Field(
        default=None,
        description="Where the API is. None: ANTHROPIC_BASE_URL, then the public API.",
    )
    max_batch_requests: int = Field(
        default=10_000,
        ge=1,
        le=100_000,
        description="Requests per batch at most (the API takes 100,000).",
    )
    max_batch_bytes: int = Field(
        default=240_000_000,
        ge=1_000,
        le=256_000_000,
        description="Bytes per batch at most (the API takes 256 MB).",
    )
    max_queued_requests: int = Field(
        default=100_000,
        ge=1,
        description="Requests that wait at the endpoint at once, over all its batches.",
    )
    poll_interval_seconds: int = Field(
        default=60, ge=1, description="How often the status sensors look."
    )
    reconcile_after_seconds: float = Field(
        default=120.0,
        ge=0,
        description="How long the API's batch list may lag behind before it is believed.",
    )
    timeout_seconds: float = Field(
        default=600.0, gt=0, description="How long one call may take; half of it to upload a batch."
    )
    on_unknown: Literal["resend", "hold"] = Field(
        default="resend",
        description="What to do when an attempt without reply left no batch in the list.",
    )

    def api(self, *, patient: bool = True) -> BatchesApi:
        """Return a connection to the endpoint.

        Args:
            patient: False for a sensor, which has little time.

        Raises:
            InputError: there is no key, or it cannot be one.
        """
        # A key that was read from a file often ends in a line break.
        key = resolve(self.api_key or os.environ.get(KEY_VARIABLE) or "").strip()
        if not key:
            raise InputError(
                f"There is no API key: set the environment variable {KEY_VARIABLE} where Dagster runs (the code "
                'server too: its sensor polls), or ClaudeBatches(api_key=dg.EnvVar("...")). Nothing was sent.'
            )
        if not key.isascii() or not key.isprintable() or " " in key:
            # Whoever put it into a header would show it in the error.
            raise InputError(
                "The API key holds a character that no key has (a space, a line break, a typographic "
                f"dash or quote). Copy it again into {KEY_VARIABLE}, or where ClaudeBatches(api_key=...) "
                "reads it from. Nothing was sent."
            )
        timeout = (
            self.timeout_seconds if patient else min(self.timeout_seconds, SENSOR_TIMEOUT_SECONDS)
        )
        return BatchesApi(key, self.url, timeout, patient=patient)

    @property
    def url(self) -> str:
        """The base URL in force."""
        return resolve(self.base_url or os.environ.get(URL_VARIABLE) or PUBLIC_API).rstrip("/")

    @property
    def policy(self) -> SendPolicy:
        """What sending goes by."""
        return SendPolicy(
            max_queued_requests=self.max_queued_requests,
            timeout_seconds=self.timeout_seconds,
            reconcile_after_seconds=self.reconcile_after_seconds,
            on_unknown=self.on_unknown,
        )

    @property
    def limits(self) -> Limits:
        """How request files are cut. No file is larger than the queue it must fit into."""
        return Limits(min(self.max_batch_requests, self.max_queued_requests), self.max_batch_bytes)


class BatchStore(dg.ConfigurableResource):
    """Where files and ledger live. Every process that runs a stage must reach the same place."""

    model_config = ConfigDict(extra="forbid")

    root: str = Field(
        description="A folder (relative: to the project root) or an object-store URL."
    )
    ledger: str | None = Field(
        default=None,
        repr=False,
        description="A SQLAlchemy URL. None: SQLite inside a local root; required when the root is remote.",
    )

    def open(self) -> Store:
        """Open the store.

        Raises:
            StoreError: it cannot be written, or its ledger cannot be used.
        """
        return open_store(project_path(self.root), self._ledger_url())

    def _ledger_url(self) -> str | None:
        if self.ledger is None:
            return None
        try:
            url = make_url(resolve(self.ledger))
        except ArgumentError:
            # The text of the error would show a password.
            raise StoreError(
                "BatchStore(ledger=...) is no SQLAlchemy URL. Write it as postgresql://user:password@host/database "
                "or sqlite:////an/absolute/path.sqlite."
            ) from None
        if url.get_backend_name() == "sqlite":
            url = self._on_disk(url)
        return url.render_as_string(hide_password=False)

    def _on_disk(self, url: URL) -> URL:
        if not url.database or url.database == ":memory:":
            raise StoreError(
                "BatchStore(ledger=...) names a SQLite database in memory, which forgets what was paid for. "
                "Give it a file: sqlite:////an/absolute/path.sqlite."
            )
        return url.set(database=project_path(url.database))
