"""A night of both stages, and one after two reviews were rewritten."""

from examples.stage import Stage

GISTS = (
    "select review_id, review_labels.label, summary from review_labels "
    "left join complaint_gists using (review_id) order by review_id"
)


def play(stage: Stage) -> None:
    """Sort all, then summarise the complaints; a review that has become one is summarised, too."""
    stage.night("reviews")
    stage.night("complaints")
    stage.show(GISTS)
    stage.sql(
        "update reviews set body = 'Complaint: the left boot leaks since Vienna.' where review_id = 1; "
        "update reviews set body = 'Praise: the right zip was in the box.' where review_id = 2"
    )
    stage.night("reviews")
    stage.night("complaints")
    stage.show(GISTS)
