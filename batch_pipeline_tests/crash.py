"""One stage of a night in a process of its own that is killed at a given step.

Run as: python -m batch_pipeline_tests.crash ROOT WAREHOUSE URL JOB STEP
"""

import os
import signal
import sys
from typing import Any

import dagster as dg

from batch_pipeline import (
    BatchPipeline,
    BatchStore,
    ClaudeBatches,
    DuckDBSource,
    DuckDBTable,
    MessageTemplate,
)
from batch_pipeline_tests.night import Nights


def nights(root: str, warehouse: str, url: str) -> Nights:
    """The pipeline that the crash tests run, the same in every process."""
    pipeline = BatchPipeline(
        name="packages",
        source=DuckDBSource(database=warehouse, table="packages", key="package"),
        request=MessageTemplate(
            model="claude-haiku-4-5", max_tokens=200, prompt="{{ summary }}\n{{ description }}"
        ),
        destination=DuckDBTable(database=warehouse, table="answers"),
    )
    claude = ClaudeBatches(
        api_key="test-key", base_url=url, max_batch_requests=40, timeout_seconds=10.0
    )
    return Nights(pipeline, claude, BatchStore(root=root), dg.DagsterInstance.ephemeral())


def die(*_args: Any, **_kwargs: Any) -> None:
    """The power is gone."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_after(owner: Any, name: str, times: int = 1) -> None:
    """Let a function do its work and the process die right after it, the given time it is called."""
    real, calls = getattr(owner, name), [0]

    def dying(*args: Any, **kwargs: Any) -> Any:
        result = real(*args, **kwargs)
        calls[0] += 1
        if calls[0] == times:
            die()
        return result

    setattr(owner, name, dying)


def die_instead(owner: Any, name: str, times: int = 1) -> None:
    """Let the process die right before a function does its work, the given time it is called."""
    real, calls = getattr(owner, name), [0]

    def dying(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == times:
            die()
        return real(*args, **kwargs)

    setattr(owner, name, dying)


def prepare_crash(step: str) -> None:
    """Arrange for the process to die at a step of submit or collect."""
    from batch_pipeline.batches import send
    from batch_pipeline.batches.api import BatchesApi
    from batch_pipeline.records import choose
    from batch_pipeline.requests import prepare
    from batch_pipeline.results import collect, download, publish
    from batch_pipeline.store.ledger import Ledger

    def mid_download(self: BatchesApi, batch_id: str):
        yield b'{"custom_id": "half a line'
        die()

    match step:
        case "never":
            pass
        case "records written":
            die_instead(choose, "commit_selection")
        case "records committed":
            die_after(choose, "commit_selection")
        case "requests written":
            die_instead(prepare, "commit_build")
        case "requests committed":
            die_after(prepare, "commit_build")
        case "sending":
            die_after(send, "claim", times=3)
        case "reply":
            die_instead(send, "_accepted", times=3)
        case "id stored":
            die_after(send, "_accepted", times=3)
        case "mid-download":
            BatchesApi.results = mid_download  # type: ignore[method-assign]
        case "downloaded":
            die_instead(download, "_keep", times=2)
        case "answers kept":
            die_after(download, "_keep", times=2)
        case "rows written":
            die_instead(Ledger, "move", times=2)
        case "collected":
            die_after(Ledger, "move", times=2)
        case "published":
            die_after(publish, "_merge")
        case "before publishing":
            die_instead(publish, "_merge")
        case _:
            raise ValueError(step)
    _ = collect


if __name__ == "__main__":
    root, warehouse, url, job, step = sys.argv[1:]
    run = nights(root, warehouse, url)
    if job == "collect":
        # The look that finds the batches ended moves rows too: it is not what is tested here.
        run.tick()
    prepare_crash(step)
    run.run(job)
