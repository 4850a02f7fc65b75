"""Where results go: the two kinds of destination, used alike.

Both have ``merge``, ``check``, ``exists``, ``columns``, ``row_count``, ``sample``, ``relation`` and
``describe``.
"""

from batch_pipeline.results.duckdb_table import DuckDBTable
from batch_pipeline.results.merging import Merged
from batch_pipeline.results.parquet_dataset import ParquetDataset

Destination = DuckDBTable | ParquetDataset

__all__ = ["Destination", "DuckDBTable", "Merged", "ParquetDataset"]
