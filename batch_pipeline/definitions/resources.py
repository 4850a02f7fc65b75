"""The two resources a project defines once: the API's endpoint, and the store."""

import ipaddress
import math
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import dagster as dg
from pydantic import ConfigDict, Field, field_validator

from batch_pipeline.batches.headers import WORKSPACE_HEADER, check_headers, check_values
from batch_pipeline.batches.policy import SendPolicy
from batch_pipeline.definitions.secret_fields import (
    hide_key,
    hide_password,
    revealed,
    stands_for_secret,
)
from batch_pipeline.errors import InputError, StoreError, plain
from batch_pipeline.settings import PUBLIC_API, project_path, resolve

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

    from batch_pipeline.batches.api import BatchesApi
    from batch_pipeline.requests.build import Limits
    from batch_pipeline.store.store import Store

KEY_VARIABLE = "ANTHROPIC_API_KEY"
ADMIN_KEY_VARIABLE = "ANTHROPIC_ADMIN_KEY"
URL_VARIABLE = "ANTHROPIC_BASE_URL"
SENSOR_TIMEOUT_SECONDS = 15.0  # a sensor tick has 60 s for everything (Dagster's gRPC time-out)
TICK_SECONDS = 40.0  # for all calls of a tick together


ID = re.compile(r"[A-Za-z0-9_-]{1,200}")
API_PATH = re.compile(r"/v1(/messages(/batches)?|/complete)?$", re.IGNORECASE)
OWN_DOMAINS = (".localhost", ".local", ".internal", ".lan", ".home.arpa", ".svc", ".test")


class ClaudeBatches(dg.ConfigurableResource):
    """The Message Batches API, and how carefully it is used."""

    # A limit with a wrong name would limit nothing. What a wrong name is given may be the key, so
    # an error does not show it.
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    api_key: str | None = Field(
        default=None,
        repr=False,
        description="The API key; use dg.EnvVar. None: the environment variable ANTHROPIC_API_KEY.",
    )
    base_url: str | None = Field(
        default=None,
        description="Where the API is. None: ANTHROPIC_BASE_URL, then the public API.",
    )
    aliases: list[str] = Field(
        default=[],
        description="Other addresses of the same API, such as a gateway's: work and answers count for all.",
    )
    allow_http: bool = Field(
        default=False,
        description="Send the key unencrypted to an http:// address outside the own network.",
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

    per_month_usd: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="What all pipelines at the endpoint together may spend in a calendar month, UTC.",
    )

    dry_run: bool = Field(
        default=True,
        description="Try each question once, for nothing, before anything of it is sent: its model, its parameters.",
    )
    headers: dict[str, str] = Field(
        default={},
        repr=False,
        description="Further headers of every call, such as a gateway wants; use dg.EnvVar for what is secret.",
    )
    workspace: str | None = Field(
        default=None,
        description="The workspace (wrkspc_...) that a key of several is used for: anthropic-workspace-id.",
    )
    user_profile: str | None = Field(
        default=None,
        description="The user profile that batches are attributed to: anthropic-user-profile-id.",
    )

    label: str | None = Field(
        default=None,
        max_length=200,
        description="What `batch-pipeline costs --by label` calls this key: a relay's name, a team's.",
    )

    @field_validator("api_key", mode="before")
    @classmethod
    def _hide_key(cls, value: object) -> object:
        return hide_key(value)

    @field_validator("headers", mode="before")
    @classmethod
    def _hide_headers(cls, value: object) -> object:
        check_headers(value)
        assert isinstance(value, Mapping)
        return {name: hide_key(one) for name, one in value.items()}

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Refuse a key, or headers, that came through run config, where Dagster keeps it and shows it.

        Raises:
            InputError: it did.
        """
        resources: Any = (context.run.run_config if context.run else {}).get("resources") or {}
        for name, given in resources.items():
            config = (given or {}).get("config") or {}
            key, headers = config.get("api_key"), config.get("headers") or {}
            if isinstance(key, str) and not stands_for_secret(key):
                raise InputError(
                    f"The run's config gives the resource {name} an API key, and Dagster keeps run "
                    "config for all to see. Nothing was sent with it. Revoke this key, delete the run, "
                    "and launch it without api_key in its config, or with {env: ANTHROPIC_API_KEY}."
                )
            for header, value in headers.items():
                if isinstance(value, str) and not stands_for_secret(value):
                    raise InputError(
                        f"The run's config gives the resource {name} the header {plain(str(header))}, and Dagster "
                        "keeps run config for all to see. Nothing was sent with it. If it is secret, change it "
                        "and delete the run; launch it without headers in its config, or with {env: NAME}."
                    )

    def api(self, *, patient: bool = True) -> "BatchesApi":
        """Return a connection to the endpoint.

        Args:
            patient: False for a sensor, which has little time.

        Raises:
            InputError: there is no key, or it cannot be one; or the address would give it away.
        """
        from batch_pipeline.batches.api import BatchesApi

        self._check_address()
        # A key that was read from a file often ends in a line break.
        key = revealed(resolve(self.api_key or os.environ.get(KEY_VARIABLE) or "")).strip()
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
        budget = math.inf if patient else TICK_SECONDS
        return BatchesApi(
            key,
            self.url,
            timeout,
            patient=patient,
            budget_seconds=budget,
            aliases=self.addresses[1:],
            headers=self._headers_to_send(),
            user_profile=self._text_of("user_profile", self.user_profile),
        )

    def _headers_to_send(self) -> dict[str, str]:
        """Return what goes with every call besides the key."""
        headers = {name: revealed(resolve(value)).strip() for name, value in self.headers.items()}
        check_values(headers)
        workspace = self._text_of("workspace", self.workspace)
        return headers | ({WORKSPACE_HEADER: workspace} if workspace else {})

    @staticmethod
    def _text_of(field: str, value: str | None) -> str | None:
        """Return an id that goes into a header, as it is at run time."""
        text = resolve(value).strip() if value else ""
        if text and not ID.fullmatch(text):
            raise InputError(
                f"ClaudeBatches({field}=...) is no id: letters, digits, underscores and hyphens. Nothing was sent."
            )
        return text or None

    def reports(self) -> "BatchesApi":
        """Return a connection to the endpoint's Admin API, with the admin key of the environment.

        Raises:
            InputError: there is no key, or it cannot be one; or the address would give it away.
        """
        key = os.environ.get(ADMIN_KEY_VARIABLE, "").strip()
        if not key:
            raise InputError(
                f"There is no admin key: set the environment variable {ADMIN_KEY_VARIABLE} for this command. An "
                "organization's admin makes one in the Console (Settings, Admin keys); it begins with sk-ant-admin."
            )
        own = self.model_copy(update={"api_key": hide_key(key)})
        return own.api()

    def _check_address(self) -> None:
        parts = urlsplit(self.url)
        if found := API_PATH.search(parts.path.rstrip("/")):
            right = self.url[: len(self.url) - len(found.group())]
            raise InputError(
                f"ClaudeBatches(base_url=...) ends in {found.group()}, which the client adds itself: it would ask "
                f"{parts.path.rstrip('/')}/v1/messages/batches. Write {right or PUBLIC_API}. Nothing was sent."
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(
                "ClaudeBatches(base_url=...) is no address. Write it as https://host or https://host/path."
            )
        if parts.username is not None or parts.password is not None:
            raise InputError(
                f"ClaudeBatches(base_url=...) holds a user name or a password for {parts.hostname}, and the "
                "address stands in logs and in the ledger. Write it without them; what a gateway wants besides "
                "the key can go into ClaudeBatches(headers=...) or the environment variable ANTHROPIC_CUSTOM_HEADERS."
            )
        if parts.scheme == "http" and not (self.allow_http or _is_own_network(parts.hostname)):
            raise InputError(
                f"ClaudeBatches(base_url=...) would send the API key unencrypted to {parts.hostname}. Write "
                "https://; or set allow_http=True if all the network on the way there is your own. "
                "Nothing was sent."
            )

    @property
    def url(self) -> str:
        """The base URL in force."""
        return (
            resolve(self.base_url or os.environ.get(URL_VARIABLE) or PUBLIC_API).strip().rstrip("/")
        )

    @property
    def addresses(self) -> list[str]:
        """The base URL in force, and the other addresses of the same API."""
        return [self.url, *(resolve(alias) for alias in self.aliases)]

    @property
    def policy(self) -> SendPolicy:
        """What sending goes by."""
        return SendPolicy(
            max_queued_requests=self.max_queued_requests,
            timeout_seconds=self.timeout_seconds,
            reconcile_after_seconds=self.reconcile_after_seconds,
            on_unknown=self.on_unknown,
            label=resolve(self.label) if self.label else None,
        )

    @property
    def limits(self) -> "Limits":
        """How request files are cut. No file is larger than the queue it must fit into."""
        from batch_pipeline.requests.build import Limits

        return Limits(min(self.max_batch_requests, self.max_queued_requests), self.max_batch_bytes)


class BatchStore(dg.ConfigurableResource):
    """Where files and ledger live. Every process that runs a stage must reach the same place."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    root: str = Field(
        description="A folder (relative: to the project root) or an object-store URL."
    )
    ledger: str | None = Field(
        default=None,
        repr=False,
        description="A SQLAlchemy URL. None: SQLite inside a local root; required when the root is remote.",
    )

    memory_limit_mb: int = Field(
        default=256,
        ge=100,
        description="What DuckDB may hold in memory for one of a stage's connections before it writes to the "
        "system's temporary folder, in megabytes. Where rows are too wide for it, it gets more.",
    )
    keep_days: int | None = Field(
        default=None,
        ge=1,
        description="For how many days requests and answers are kept, from the moment they were selected; then the collect "
        "job deletes them. Records, rows, index and ledger stay. None: for ever.",
        examples=[365],
    )

    @field_validator("ledger", mode="before")
    @classmethod
    def _hide_password(cls, value: object) -> object:
        return hide_password(value)

    def open(self, *, lost: bool = False) -> "Store":
        """Open the store.

        Args:
            lost: take a ledger that is not the one the files were written with, to rebuild it.

        Raises:
            StoreError: it cannot be written, or its ledger cannot be used.
        """
        from batch_pipeline.records.connections import limit_memory
        from batch_pipeline.store.store import open_store

        limit_memory(self.memory_limit_mb)
        return open_store(
            project_path(self.root), self._ledger_url(), lost=lost, keep_days=self.keep_days
        )

    def _ledger_url(self) -> str | None:
        if self.ledger is None:
            return None
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError

        try:
            url = make_url(revealed(resolve(self.ledger)))
        except (ArgumentError, ValueError):
            # The text of the error would show a password.
            raise StoreError(
                "BatchStore(ledger=...) is no SQLAlchemy URL. Write it as postgresql://user:password@host/database "
                "or sqlite:////an/absolute/path.sqlite."
            ) from None
        if "@" in (url.host or ""):
            # The database's error would name the host, which is half of the password.
            raise StoreError(
                "BatchStore(ledger=...) has more than one @: in a user name or a password write it as %40."
            )
        if url.get_backend_name() == "sqlite":
            url = self._on_disk(url)
        return url.render_as_string(hide_password=False)

    def sqlite_file(self) -> str | None:
        """Return where the ledger is, when it is a SQLite file."""
        from sqlalchemy.engine import make_url

        from batch_pipeline.store.store import LEDGER_FILE

        url = self._ledger_url()
        if url is None:
            return None if "://" in (root := project_path(self.root)) else f"{root}/{LEDGER_FILE}"
        return make_url(url).database if url.startswith("sqlite") else None

    def _on_disk(self, url: "URL") -> "URL":
        if not url.database or url.database == ":memory:":
            raise StoreError(
                "BatchStore(ledger=...) names a SQLite database in memory, which forgets what was paid for. "
                "Give it a file: sqlite:////an/absolute/path.sqlite."
            )
        return url.set(database=project_path(url.database))


def _is_own_network(host: str) -> bool:
    """Return whether a host is this machine, or can only be one of a network that is not public."""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host or host.lower().rstrip(".").endswith(OWN_DOMAINS)
