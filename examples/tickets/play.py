"""One night of the tickets."""

from examples.stage import Stage


def play(stage: Stage) -> None:
    """Ask, and show each ticket's label."""
    stage.night("tickets")
    stage.show("select ticket_id, subject, label, _status from ticket_labels order by ticket_id")
