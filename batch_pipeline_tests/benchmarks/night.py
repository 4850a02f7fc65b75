"""Peak memory and CPU time of submit and of collect, each in a process of its own.

Run as: python -m batch_pipeline_tests.benchmarks.night [ROWS [BYTES_PER_ROW]]
"""

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import duckdb

from batch_pipeline.emulator import EmulatorProcess

STAGE = """
import logging, sys
logging.disable(logging.CRITICAL)
from batch_pipeline import *
from batch_pipeline_tests.night import Nights
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
"""


def measure(folder: str, url: str, job: str) -> None:
    """Run one job in a process of its own and print what it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    child = subprocess.Popen([sys.executable, "-c", STAGE, folder, url, job])
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0 and before is not None
    print(f"{job:8} peak {used.ru_maxrss / 1024:6.0f} MB, {used.ru_utime + used.ru_stime:6.1f} CPU s")


def main() -> None:
    """Measure a night of many records."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000
    with tempfile.TemporaryDirectory() as folder:
        duckdb.execute(
            "copy (select range as id, left(repeat(md5(range::varchar) || ' ', 1 + $size // 33), $size) as text "
            "from range($rows)) to '" + folder + "/records.parquet'",
            {"size": size, "rows": rows},
        )
        with EmulatorProcess(Path(folder) / "emulator") as emulator:
            print(f"{rows:,} records of {size:,} bytes")
            for job in ("import", "submit", "collect", "submit"):
                measure(folder, emulator.base_url, job)
            print(f"billed: {emulator.bill()['requests']:,} requests")


if __name__ == "__main__":
    main()
