"""Who the API says we are, by the name that the ledger has for it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.batches.outcome import KeyRefused
from batch_pipeline.store.refusals import note_refusal
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import Endpoint, know_endpoint


def whose(store: Store, api: BatchesApi) -> Endpoint:
    """Ask the API who we are, and return that endpoint as the ledger knows it.

    From then on ``api`` names it like that too, so that what was sent under another spelling of the
    address, or under an alias, is recognised.

    Raises:
        HeldError: the key is refused.
        ApiUnavailable: no answer.
    """
    seen = api.identify()
    stored = know_endpoint(store.ledger, seen, api.aliases)
    api.is_known_as(seen, stored)
    return stored


@contextmanager
def refusals_noted(store: Store, api: BatchesApi, pipeline: str) -> Iterator[None]:
    """Write down when the API refuses a pipeline's key or account, so that all commands say what the run says.

    Raises:
        KeyRefused: it does; as it came.
    """
    try:
        yield
    except KeyRefused as error:
        note_refusal(store.ledger, pipeline, api.base_url, str(error))
        raise


def expect(api: BatchesApi, stored: Iterable[Endpoint]) -> None:
    """Let ``api`` name the accounts at its address as the ledger does, before it is asked anything."""
    for endpoint in stored:
        api.is_known_as(endpoint, endpoint)
