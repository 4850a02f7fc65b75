"""Secrets in the fields of resources, kept out of what Dagster stores and shows.

Dagster writes a resource's fields into the snapshot of every job in its database, and shows them on
the resource's page and in the launchpad. Of an ``EnvVar`` that is the variable's name; a secret that
stands in the code would be there as it is. So the field gets a text that stands for the secret, which
itself stays in the memory of the processes that have loaded the code: each that runs a stage has.
"""

import hashlib
from typing import Any

_secrets: dict[str, str] = {}
"""The text that a field shows, and the secret."""


def hide_key(value: Any) -> Any:
    """Return what a field shows of an API key that stands in the code; anything else as it is."""
    if not _is_plain(value) or not value.strip():
        return value
    digest = hashlib.sha256(value.encode()).hexdigest()[:12]
    return _hidden(value, f"in the code (sha256 {digest})")


def hide_password(value: Any) -> Any:
    """Return what a field shows of a database's URL that stands in the code; anything else as it is."""
    if not _is_plain(value):
        return value
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    from batch_pipeline.store.ledger import shown_url

    try:
        shown = shown_url(make_url(value))
    except (ArgumentError, ValueError):
        shown = "in the code, and no URL"  # what it is meant to be cannot be told from a password
    return _hidden(value, shown)


def revealed(shown: str) -> str:
    """Return the secret that a text stands for; a text that stands for itself as it is."""
    return _secrets.get(shown, shown)


def stands_for_secret(value: str) -> bool:
    """Return whether a text stands for a secret of this process."""
    return value in _secrets


def _is_plain(value: Any) -> bool:
    return isinstance(value, str) and not hasattr(value, "env_var_name") and value not in _secrets


def _hidden(secret: str, shown: str) -> str:
    if secret != shown:
        _secrets[shown] = secret
    return shown
