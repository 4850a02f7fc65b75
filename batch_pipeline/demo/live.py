"""Asking the real API: a few records, after saying what they cost at most, if somebody says yes."""

import os
import sys
from decimal import Decimal
from typing import Any

import click
import duckdb

from batch_pipeline.definitions.resources import KEY_VARIABLE, URL_VARIABLE
from batch_pipeline.demo.bill import Quote, quote
from batch_pipeline.demo.incoming import invoices
from batch_pipeline.demo.night import Night, NightFailed
from batch_pipeline.demo.packages import PACKAGES
from batch_pipeline.demo.screen import Screen, dollars
from batch_pipeline.errors import InputError
from batch_pipeline.settings import PUBLIC_API
from batch_pipeline.store.store import Store

INVOICES = 20
PACKAGES_ASKED = 50
MAX_ATTEMPTS = 3  # the default of BatchPipeline, which both pipelines keep


def check_live(*, reset: bool) -> None:
    """Refuse what must not happen to answers that cost money.

    Raises:
        InputError: there is no key, or they would be forgotten.
    """
    if reset:
        raise InputError(
            "--reset would forget what was paid for at the real API, and ask for it again. It is "
            "for emulated nights only."
        )
    if not os.environ.get(KEY_VARIABLE):
        raise InputError(
            f"--live asks the real API and needs a key: set {KEY_VARIABLE}. Nothing was sent."
        )


def asked_url() -> str:
    """Return where the real API is."""
    return os.environ.get(URL_VARIABLE) or PUBLIC_API


def parts() -> dict[str, dict[str, Any]]:
    """Return what each pipeline is asked, as run config: always the same few records."""
    with duckdb.connect() as connection:
        rows = connection.execute(
            "select package from read_parquet(?) limit ?", [str(PACKAGES), PACKAGES_ASKED]
        ).fetchall()
    packages = ", ".join("'" + name.replace("'", "''") + "'" for (name,) in rows)
    last = invoices(INVOICES)[-1].invoice_id
    return {
        "invoices": {"limit": INVOICES, "where": f"invoice_id <= '{last}'"},
        "packages": {"limit": PACKAGES_ASKED, "where": f"package in ({packages})"},
    }


def submit_live(night: Night, store: Store, screen: Screen, *, yes: bool) -> None:
    """Build the requests, say what they may cost, and send them if that is wanted.

    Args:
        night: runs the jobs.
        store: whose ledger has the estimate.
        screen: where to say it.
        yes: send without asking.

    Raises:
        NightFailed: the requests could not be built.
        InputError: nobody said yes.
    """
    for name, part in parts().items():
        if not night.build(name, part):
            raise NightFailed("\n".join(["Nothing was sent.", *night.failures]))
    quotes = [quote(store, name) for name in parts()]
    if not sum(one.requests for one in quotes):
        return
    screen.say("")
    screen.say(_price(quotes), "bold")
    if yes:
        screen.say("Sending them, as --yes says.")
    elif not sys.stdin.isatty():
        raise InputError(
            "Nothing was sent: nobody is there to say yes. Add --yes to spend this unasked."
        )
    elif not click.confirm("Send them?"):
        raise InputError("Nothing was sent. The requests stay ready; `demo --live` asks again.")
    for name in parts():
        night.send(name)


def _price(quotes: list[Quote]) -> str:
    count = sum(one.requests for one in quotes)
    ready = f"{count:,} requests are ready for {asked_url()}."
    known = [one.usd for one in quotes if one.usd is not None]
    if len(known) < len(quotes):
        return f"{ready} What they cost is not known: no price is listed for this model."
    most = sum(known, Decimal(0))
    return (
        f"{ready} They cost {dollars(most)} at most: every answer as long as it may be, nothing "
        "read from the cache. A record whose answer is of no use is asked again, "
        f"{MAX_ATTEMPTS} times in all, so it can never be more than {dollars(most * MAX_ATTEMPTS)}."
    )
