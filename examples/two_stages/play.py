"""One night of both stages."""

from examples.stage import Stage


def play(stage: Stage) -> None:
    """Sort all, then summarise the complaints."""
    stage.night("reviews")
    stage.night("complaints")
    stage.show(
        "select review_id, label, summary from review_labels "
        "left join complaint_gists using (review_id) order by review_id"
    )
