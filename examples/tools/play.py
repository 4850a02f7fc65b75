"""One night of the orders."""

from examples.stage import Stage


def play(stage: Stage) -> None:
    """Ask, and show the orders."""
    stage.night("orders")
    stage.show("select mail_id, sku, quantity, due, email, _status from orders order by mail_id")
