"""A process that ends at its n-th step: before it writes a file, or commits a transaction."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from batch_pipeline.store.files import Files
from batch_pipeline.store.ledger import Ledger


class Ended(Exception):
    """The process is gone."""


@contextmanager
def ended_at(moment: int) -> Iterator[None]:
    """Let what runs in the block end at its n-th step, and do nothing more from then on."""
    left = moment

    def ends() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Ended

    put, write = Files.put, Ledger.write

    def put_or_end(self: Files, *arguments: Any) -> str:
        ends()
        return put(self, *arguments)

    @contextmanager
    def write_or_end(self: Ledger, *arguments: Any) -> Iterator[Any]:
        with write(self, *arguments) as tx:
            yield tx
            ends()

    with pytest.MonkeyPatch.context() as patch, suppress(Ended):
        patch.setattr(Files, "put", put_or_end)
        patch.setattr(Ledger, "write", write_or_end)
        yield
