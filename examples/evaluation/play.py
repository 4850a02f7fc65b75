"""One night of all variants, and what came of them."""

from examples.stage import Stage


def play(stage: Stage) -> None:
    """Ask; show the scores, and the answers side by side."""
    stage.night("teams")
    stage.show(
        "pivot (from read_parquet('data/batches/teams/scores/*.parquet', filename = true)"
        " where metric in ('accuracy', 'macro_f1', 'cost_per_1000') qualify filename = max(filename) over ())"
        " on metric using round(max(value), 4) group by variant order by variant"
    )
    stage.show(
        "pivot (select ticket_id, team_by_hand, _variant, team from teams_compared)"
        " on _variant using first(team) order by ticket_id"
    )
