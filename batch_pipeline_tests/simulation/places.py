"""The points of the package's own code at which a simulated process may stand or end."""

import random
import secrets
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from copy import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from sqlalchemy import Engine

from batch_pipeline.batches import send as send_module
from batch_pipeline.batches.api import PAGE, BatchesApi
from batch_pipeline.batches.claim import Room
from batch_pipeline.definitions.resources import ClaudeBatches
from batch_pipeline.results.destinations import DuckDBTable, ParquetDataset
from batch_pipeline.store import ledger as ledger_module
from batch_pipeline.store.files import Files
from batch_pipeline.store.ledger import Ledger
from batch_pipeline.store.store import open_store
from batch_pipeline_tests.simulation.network import Network, without_sockets
from batch_pipeline_tests.simulation.turns import Turns
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.pooling import pooled

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where files are in memory; None: wherever temporary files are."""
LEASE_POLL_SECONDS = 10.0
"""Who waits for a lease looks less often than in a night, where it is four times a second."""
BENEATH = (
    "batch_pipeline.store.ledger",
    "batch_pipeline.store.files",
    "batch_pipeline.batches.api",
)


class _NoThread:
    """A lease is renewed by a thread that sleeps 20 s of real time: no episode lasts so long."""

    def __init__(self, **_how: Any) -> None:
        pass

    def start(self) -> None:
        pass

    def join(self) -> None:
        pass


class Places:
    """What all episodes of this process share.

    Attributes:
        network: where calls go.
        turns: whose turn it is in the episode that is played; None between two.
        in_files: whether others may work while a file is written (no database file is open then).
        page_size: how many batches a page of the list has.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.turns: Turns | None = None
        self.in_files = True
        self.page_size = PAGE
        self.engines: dict[str, Engine] = {}
        self._new: tempfile.TemporaryDirectory[str] | None = None

    def new_store(self) -> Path:
        """Return a folder with a store in which nothing happened yet: to make its tables takes long."""
        if self._new is None:
            self._new = tempfile.TemporaryDirectory(prefix="batch-pipeline-simulation-", dir=MEMORY)
            with named_by(random.Random("a new store")):
                store = open_store(self._new.name, None, HandClock())
            self.close_ledgers()
            with closing(sqlite3.connect(f"{self._new.name}/ledger.sqlite")) as ledger:
                ledger.execute("pragma wal_checkpoint(truncate)")
            assert store.ledger.id
        return Path(self._new.name)

    def close(self) -> None:
        """Leave nothing behind."""
        self.close_ledgers()
        if self._new is not None:
            self._new.cleanup()

    def at(self, point: str, **how: Any) -> None:
        """Let something happen here."""
        if self.turns is not None and self.turns.current is not None:
            self.turns.at(point, **how)

    def close_ledgers(self) -> None:
        """Forget the connections to all ledgers."""
        for engine in self.engines.values():
            engine.dispose()
        self.engines.clear()


def caller() -> str:
    """Return the function of the package that is at work, for a story."""
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        ours = module.startswith(("batch_pipeline.", "batch_pipeline_tests.simulation.rows"))
        if ours and module not in BENEATH:
            return f"{module.rsplit('.', 1)[-1]}.{frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""


@contextmanager
def placed() -> Iterator[Places]:
    """Put the points into the package's code, and all calls into this process, for the block."""
    with ExitStack() as stack:
        stack.enter_context(pooled())
        places = Places(stack.enter_context(without_sockets()))
        write, put, create = Ledger.write, Files.put, BatchesApi.create
        page, claim = BatchesApi.page, send_module.claim
        body, make_engine, make_api = send_module.body, ledger_module._engine, ClaudeBatches.api
        clients: dict[Any, BatchesApi] = {}

        @contextmanager
        def _write(ledger: Ledger) -> Iterator[Any]:
            places.at("before a commit")
            with write(ledger) as tx:
                yield tx
                places.at("in a commit", stands=False)
            places.at("after a commit")

        def _put(files: Files, local_path: str, name: str) -> str:
            note = "/sent/" in name
            how: dict[str, Any] = {"stands": places.in_files, "bounded": note}
            kind = name.rsplit("/", 2)[-2] if name.count("/") > 2 else name.rsplit("/", 1)[-1]
            places.at(f"before a file ({kind})", disk=True, **how)
            put(files, local_path, name)
            places.at(f"after a file ({kind})", **how)
            return name

        def _create(api: BatchesApi, chunks: Iterator[bytes], length: int) -> Any:
            places.at("before the create call", bounded=True, sends=True)
            made = create(api, chunks, length)
            places.at("after the reply to the create call", sends=True)
            return made

        def _page(api: BatchesApi, after: str | None = None) -> Any:
            return page(api, after, places.page_size)

        def _claim(*args: Any) -> Any:
            claimed = claim(*args)
            if not isinstance(claimed, Room):
                places.at("after a claim", sends=True)
            return claimed

        def _body(*args: Any) -> Iterator[bytes]:
            for chunk in body(*args):
                places.at("while uploading", bounded=True)
                yield chunk

        def _engine(url: str) -> Engine:
            if url not in places.engines:
                places.engines[url] = make_engine(url)
            return places.engines[url]

        def _api(claude: ClaudeBatches, *, patient: bool = True) -> BatchesApi:
            # To make a client takes longer than to play an episode's calls; it keeps nothing.
            key = claude.url, str(claude.api_key), claude.timeout_seconds, patient
            if key not in clients:
                made = make_api(claude, patient=patient)
                made._client = made._client.with_options(max_retries=0)
                clients[key] = made
            other = copy(clients[key])
            other._stored = {}
            other.close = lambda: None  # type: ignore[method-assign]
            return other

        def merging(real: Any) -> Any:
            def _merge(destination: Any, *args: Any) -> Any:
                places.at("before the merge", stands=places.in_files)
                merged = real(destination, *args)
                places.at("after the merge", stands=places.in_files)
                return merged

            return _merge

        threading = SimpleNamespace(Thread=_NoThread, Event=ledger_module.threading.Event)
        for owner, name, value in (
            (Ledger, "write", _write),
            (Files, "put", _put),
            (BatchesApi, "create", _create),
            (BatchesApi, "page", _page),
            (send_module, "claim", _claim),
            (send_module, "body", _body),
            (ledger_module, "_engine", _engine),
            (ledger_module, "threading", threading),
            (ledger_module, "LEASE_POLL_SECONDS", LEASE_POLL_SECONDS),
            (ClaudeBatches, "api", _api),
            (DuckDBTable, "merge", merging(DuckDBTable.merge)),
            (ParquetDataset, "merge", merging(ParquetDataset.merge)),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        yield places
        places.close()


@contextmanager
def named_by(names: Any) -> Iterator[None]:
    """Let all random names of the block come from a generator."""

    def token_hex(nbytes: int = 32) -> str:
        return names.randbytes(nbytes).hex()

    with mock.patch.object(secrets, "token_hex", token_hex):
        yield
