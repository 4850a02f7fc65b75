"""One night of the products."""

from batch_pipeline import ParquetDataset
from examples.stage import Stage


def play(stage: Stage) -> None:
    """Ask, and show the descriptions."""
    stage.night("products")
    files = ParquetDataset(path="data/descriptions").files()
    stage.show(
        f"select product_id, name, summary, _status from read_parquet({files}) order by product_id"
    )
