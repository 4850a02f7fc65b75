"""Where night reports go: addresses of Apprise, which may hold passwords, and the query for rows to flag."""

import re
from collections.abc import Sequence
from typing import Any

from batch_pipeline.errors import InputError

EXTRA = "It needs Apprise: pip install 'batch-pipeline[notify]'."
SCHEMA = re.compile(r"[a-z][a-z0-9+.-]{0,20}(?=://)", re.IGNORECASE)


def shown(url: str, place: int) -> str:
    """Return what may be said of an address: its place and its kind, nothing that could be a password."""
    variable = getattr(url, "env_var_name", None)
    if variable:
        return f"notify[{place}] (${variable})"
    kind = SCHEMA.match(url)
    return f"notify[{place}] ({kind[0]}://...)" if kind else f"notify[{place}]"


def check_notify(urls: Any, when: Any, rows: Any) -> None:
    """Refuse what no report could be sent by.

    Raises:
        InputError: it never shows an address.
    """
    if isinstance(urls, str) or not isinstance(urls, Sequence):
        raise InputError(
            'notify must be a list of Apprise URLs, such as notify=["mailto://..."]. What was given is not shown: it '
            "may hold a password."
        )
    for place, url in enumerate(urls):
        if not isinstance(url, str):
            raise InputError(f"notify[{place}] is no text; it must be an Apprise URL.")
        if not hasattr(url, "env_var_name") and opened(url, place) is None:
            raise InputError(
                f"{shown(url, place)} is no URL that Apprise can go by (it is not shown: it may hold a password). See "
                "https://appriseit.com/services/ for how yours is written, such as mailtos://user:password@example.com."
            )
    if when not in ("always", "trouble"):
        raise InputError(f"notify_when is {when!r}; it must be always or trouble.")
    if rows is not None:
        _check_query(rows)


def opened(url: str, place: int) -> Any:
    """Return Apprise's service of an address, None when it is none.

    Raises:
        InputError: Apprise is not installed.
    """
    try:
        import apprise
    except ImportError:
        raise InputError(f"{shown(url, place)} cannot be used. {EXTRA}") from None
    from logging import CRITICAL, getLogger

    getLogger("apprise").setLevel(CRITICAL)  # what it logs may name the address
    try:
        return apprise.Apprise.instantiate(str(url))
    except Exception:  # a plugin's own, about an address that it takes for its own
        return None


def _check_query(rows: Any) -> None:
    if not isinstance(rows, str) or not rows.strip():
        raise InputError(f"notify_rows is {rows!r}; it must be one SELECT.")
    import duckdb

    try:
        with duckdb.connect() as connection:
            statements = connection.extract_statements(rows)
    except duckdb.Error as error:
        said = str(error).strip().splitlines()[0]
        raise InputError(f"notify_rows is no SQL: {said}. It is {rows!r:.300}.") from None
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise InputError(
            f"notify_rows must be one SELECT from results, the rows of the submission; it is {rows!r:.300}."
        )
