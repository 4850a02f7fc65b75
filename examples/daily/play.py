"""A backfill of three days, and the night of the fourth."""

from examples.stage import Stage


def play(stage: Stage) -> None:
    """Ask three days at once, and one by itself."""
    stage.backfill("calls", "2026-11-02", "2026-11-04")
    stage.night("calls", "2026-11-05")
    stage.show(
        "select called_on, count(*) as calls, round(avg(score), 1) as anger "
        "from call_scores group by 1 order by 1"
    )
