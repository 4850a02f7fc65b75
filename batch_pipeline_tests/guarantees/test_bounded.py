"""Whatever the API sends, a download takes no more memory and disk than results can."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

from batch_pipeline import BatchPipeline, BatchStore, ClaudeBatches, DuckDBSource, MessageTemplate
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.support.dagster_nights import Nights

MOST_BYTES = 300_000_000  # over the idle process

# In a process of its own: what it needs at most counts from the moment that it is about to collect.
COLLECT = """
import json, sys
from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.batches.policy import SendPolicy
from batch_pipeline.batches.poll import poll
from batch_pipeline.results.collect import collect
from batch_pipeline.store.store import open_store
from batch_pipeline.store.submissions import Scope

def memory(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))

root, url = sys.argv[1:]
store, api = open_store(root), BatchesApi("test-key", url, 60.0)
endpoint = api.identify()
poll(store, api, endpoint, SendPolicy())
with open("/proc/self/clear_refs", "w") as refs:
    refs.write("5")
idle = memory("VmRSS")
report = collect(store, api, Scope("notes", "", endpoint), 3)
print(json.dumps({"bytes": memory("VmHWM") - idle, "trouble": report.trouble, "broken": report.broken}))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="Linux tells the peak")
@pytest.mark.parametrize(
    "settings",
    [
        {"megabytes": 1000},
        {"megabytes": 1000, "lines": True},
        {
            "megabytes": 100,
            "text": '{"custom_id": "x", "result": [' + "{}," * 300 + "{}]}",
            "lines": True,
        },
        {"megabytes": 31, "text": "[],"},
    ],
    ids=["one endless line", "lines without end", "nested lines", "one long nested line"],
)
def test_results_that_unpack_to_a_gigabyte_stay_below_300_mb_of_memory(
    claude_emulator: EmulatorProcess, tmp_path: Path, settings: dict[str, Any]
) -> None:
    database = str(tmp_path / "notes.duckdb")
    with duckdb.connect(database) as connection:
        connection.execute(
            "create table notes as select n as id, 'note ' || n as text from range(40) _(n)"
        )
    root = str(tmp_path / "store")
    pipeline = BatchPipeline(
        name="notes",
        source=DuckDBSource(database=database, table="notes", key="id"),
        request=MessageTemplate(model="claude-haiku-4-5", max_tokens=100, prompt="{{ text }}"),
    )
    claude = ClaudeBatches(api_key="test-key", base_url=claude_emulator.base_url)
    night = Nights(pipeline, claude, BatchStore(root=root))
    night.submit()
    claude_emulator.fault("results", "swollen_body", times=None, **settings)
    done = subprocess.run(
        [sys.executable, "-c", COLLECT, root, claude_emulator.base_url],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["broken"] == [] and "not one result of this batch is in it" in told["trouble"][0]
    assert told["bytes"] < MOST_BYTES, f"{told['bytes'] / 1e6:.0f} MB"
    print(f"{told['bytes'] / 1e6:.0f} MB over the idle process")
