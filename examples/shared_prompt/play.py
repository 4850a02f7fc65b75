"""One night of the questions."""

from examples.stage import Stage


def play(stage: Stage) -> None:
    """Ask, and show what was read from the cache."""
    stage.night("questions")
    stage.show(
        "select question_id, question, _cache_write_tokens as written, _cache_read_tokens as read, _cost_usd "
        "from replies order by question_id"
    )
