"""Where the requests, the results and the bill of each batch are kept."""

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from batch_pipeline.emulator.database import Database
from batch_pipeline.emulator.spool import Spool, Text, mapped

Name = Literal["requests", "results", "bill"]


class Texts:
    """Keeps small texts in the database and large ones as files `ID/NAME.jsonl`.

    Args:
        directory: Where the files are; made when the first is kept.
        database: Where the others are.
    """

    def __init__(self, directory: Path, database: Database) -> None:
        self.directory = directory
        self._db = database

    def keep(self, id: str, name: Name, spool: Spool) -> None:
        """Keep what was written; inside a transaction, so that it is there when its batch is."""
        text = spool.in_memory
        if text is None:
            spool.move_to(self._file(id, name))
        else:
            self._db.add_text(id, name, text)

    @contextmanager
    def reading(self, id: str, name: Name) -> Iterator[Text]:
        """All of a text."""
        text = self._db.text(id, name)
        if text is not None:
            yield text
            return
        with mapped(self._file(id, name)) as mapping:
            yield mapping

    def lines(self, id: str, name: Name) -> Iterator[bytes]:
        """A text line by line."""
        text = self._db.text(id, name)
        if text is not None:
            yield from io.BytesIO(text)
            return
        with self._file(id, name).open("rb") as lines:
            yield from lines

    def clear(self) -> None:
        """Remove all files; the database is emptied by whoever opened it."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _file(self, id: str, name: Name) -> Path:
        return self.directory / id / f"{name}.jsonl"
