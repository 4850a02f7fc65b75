"""The records of a cluster's nights: Parquet in the object store."""

import io
from collections.abc import Iterator

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline_tests.cluster.project import COLUMN, names, partition_keys

BUCKET = "cluster"
GROUP = 100_000


def texts(pipeline: str, first: int, count: int) -> Iterator[tuple[str, str]]:
    """Yield key and text of so many records."""
    for number in range(first, first + count):
        yield f"{pipeline}-{number:07}", f"What is number {number} of {pipeline}?"


class Sources:
    """What stands in the sources of all pipelines; new records are further files.

    Args:
        pipelines: how many there are.
        partitions: how many partitions the one has that has some.
    """

    def __init__(self, pipelines: int, partitions: int) -> None:
        self.counts = dict.fromkeys(names(pipelines), 0)
        self.keys = partition_keys(partitions)
        self.filesystem = fsspec.filesystem("s3")

    def add(self, pipeline: str, count: int) -> None:
        """Bring so many new records into a pipeline's source."""
        first = self.counts[pipeline]
        found = list(texts(pipeline, first, count))
        table = pa.table(
            {
                "k": [key for key, _ in found],
                "t": [text for _, text in found],
                COLUMN: [self.keys[number % len(self.keys)] for number in range(first, first + count)],
            }
        )  # fmt: skip
        out = io.BytesIO()
        pq.write_table(table, out)
        self.filesystem.pipe_file(
            f"{BUCKET}/sources/{pipeline}/from{first:07}.parquet", out.getvalue()
        )
        self.counts[pipeline] = first + count

    def prompts(self) -> dict[tuple[str, str], str]:
        """Return what is asked about each record: its prompt, by pipeline and key."""
        return {
            (pipeline, key): f"{key}: {text}"
            for pipeline, count in self.counts.items()
            for key, text in texts(pipeline, 0, count)
        }

    @property
    def total(self) -> int:
        """How many records there are."""
        return sum(self.counts.values())
