"""Peak memory and CPU time of submit and of collect, each in a process of its own.

Run as: python -m batch_pipeline_tests.benchmarks.night [ROWS [BYTES_PER_ROW]]
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import duckdb

from batch_pipeline.emulator import EmulatorProcess

# Run with "import" it does nothing but load what the stages need: the floor of what they take.
STAGE = """
import logging, sys, time
logging.disable(logging.CRITICAL)
from batch_pipeline import *
from batch_pipeline_tests.support.dagster_nights import Nights
folder, url, job = sys.argv[1:]
pipeline = BatchPipeline(
    name="bulk",
    source=ParquetSource(path=f"{folder}/records.parquet", key="id"),
    request=MessageTemplate(model="claude-haiku-4-5", max_tokens=2000, prompt="{{ text }}"),
    destination=DuckDBTable(database=f"{folder}/answers.duckdb", table="answers"),
)
run = Nights(pipeline, ClaudeBatches(api_key="k", base_url=url), BatchStore(root=f"{folder}/store"))
if job != "import":
    run.run(job)
# Not ru_maxrss: that of a child starts at what its parent had when it was forked.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(f"{job:8} peak {int(peak.split()[1]) / 1024:6.0f} MB, {time.process_time():6.1f} CPU s", flush=True)
"""


def main() -> None:
    """Measure a night of many records, and the night after it."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000
    with tempfile.TemporaryDirectory() as folder:
        text = "left(repeat(md5(range::varchar) || ' ', 1 + $size // 33), $size)"
        duckdb.execute(
            f"copy (select range as id, {text} as text from range($rows)) "
            f"to '{folder}/records.parquet'",
            {"size": size, "rows": rows},
        )
        with EmulatorProcess(Path(folder) / "emulator") as emulator:
            print(f"{rows:,} records of {size:,} bytes")
            for job in ("import", "submit", "collect", "submit"):
                command = [sys.executable, "-c", STAGE, folder, emulator.base_url, job]
                subprocess.run(command, check=True)
            print(f"billed: {emulator.bill()['requests']:,} requests")


if __name__ == "__main__":
    main()
