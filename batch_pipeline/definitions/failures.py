"""Errors of ours, as a run shows them."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from batch_pipeline.errors import BatchPipelineError
from batch_pipeline.store.trouble import meaning_of


@contextmanager
def as_failures() -> Iterator[None]:
    """Show an error of ours as what it says, without a retry that would not help."""
    try:
        yield
    except BatchPipelineError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error
    except Exception as error:
        meant = meaning_of(error)
        if meant is None:
            raise
        # Trouble that passes: a retry policy of the user's may help.
        raise dg.Failure(description=str(meant)) from error
