"""One night that is measured: where its records are, what is asked, and where the answers go."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

KINDS = ("text", "structured")
DESTINATIONS = ("duckdb", "parquet")
TABLE = "records"  # of the warehouse, where the destination is DuckDB


@dataclass(frozen=True)
class Night:
    """A night of one size, one kind of answer and one destination. It can be handed over as JSON.

    Attributes:
        folder: holds the records, and gets all that is written.
        url: of the server.
        rows: records of the source.
        kind: of the answers, one of `KINDS`.
        destination: one of `DESTINATIONS`; the source is of the same sort.
        requests_per_batch: at most.
        wide: whether the records are documents of 200 KB.
    """

    folder: str
    url: str
    rows: int
    kind: str
    destination: str
    requests_per_batch: int = 10_000
    wide: bool = False

    @property
    def structured(self) -> bool:
        """Whether an answer has a schema."""
        return self.kind == "structured"

    @property
    def warehouse(self) -> str:
        """The DuckDB file with the records, where the destination is DuckDB."""
        return str(Path(self.folder, "warehouse.duckdb"))

    @property
    def records(self) -> str:
        """The Parquet file with the records, where the destination is Parquet."""
        return str(Path(self.folder, "records.parquet"))

    def to_json(self) -> str:
        """Return it as another process is handed it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` returned."""
        return cls(**json.loads(text))
