"""Two nights in two languages, and a new text between them."""

from examples.stage import Stage


def play(stage: Stage) -> None:
    """Translate all; add a text; translate that one."""
    for language in ("german", "portuguese"):
        stage.night(language)
    stage.sql("insert or ignore into texts values ('bye', 'See you soon!')")
    for language in ("german", "portuguese"):
        stage.night(language)
    stage.sql(
        "create or replace view translations as select text_id, texts.english, "
        "german.translation as german, portuguese.translation as portuguese from texts "
        "left join texts_german as german using (text_id) "
        "left join texts_portuguese as portuguese using (text_id)"
    )
    stage.show("select * from translations order by text_id")
