"""Who the API says we are, by the name that the ledger has for it."""

from collections.abc import Iterable

from batch_pipeline.batches.api import BatchesApi
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


def expect(api: BatchesApi, stored: Iterable[Endpoint]) -> None:
    """Let ``api`` name the accounts at its address as the ledger does, before it is asked anything."""
    for endpoint in stored:
        api.is_known_as(endpoint, endpoint)
