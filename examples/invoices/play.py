"""Two nights of the invoices, and a correction between them."""

from examples.stage import Stage


def play(stage: Stage) -> None:
    """Ask all; correct one; ask that one."""
    stage.night("invoices")
    stage.sql(
        "update invoices set description = 'Paper, toner and a printer, EUR 596.40' "
        "where invoice_id = 'R-2045'"
    )
    stage.night("invoices")
    stage.materialize("approvals")
    stage.show("select * from approvals order by invoice_id")
