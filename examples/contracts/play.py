"""One night of the contracts."""

from examples.stage import Stage


def play(stage: Stage) -> None:
    """Ask, and show the terms."""
    stage.night("contracts")
    stage.show(
        "select contract_id, begins, ends, monthly_eur as eur, notice_months as months, _status "
        "from contract_terms order by contract_id"
    )
