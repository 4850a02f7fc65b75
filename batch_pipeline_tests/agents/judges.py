"""What each task asks for, as a judge looks at it: by nights on the emulator, its bill and the tables."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import dagster as dg

from batch_pipeline_tests.agents.scene import FailedTask, Scene, check

ROOT = Path(__file__).parents[2]
Judge = Callable[[Scene], None]
JUDGES: dict[str, Judge] = {}
PLAYED: dict[str, str] = {"rename": "tickets"}
"""Tasks that begin after a night of this pipeline."""


def judge(task: Judge) -> Judge:
    """Keep a judge under its task's name."""
    JUDGES[task.__name__] = task
    return task


@judge
def label(scene: Scene) -> None:
    """Eight tickets in one of three classes each, every night at 23:00, and nothing twice."""
    one = scene.declared("ticket_labels").pipeline
    cron = one.schedule if isinstance(one.schedule, str) else getattr(one.schedule, "cron", None)
    check(cron == "0 23 * * *", f"the schedule is {cron}")
    check("haiku-4-5" in str(one.request.model), f"the model is {one.request.model}")
    check(scene.night("ticket_labels") == 8, "not each ticket was asked once")
    found = scene.sql("select distinct label, _status from ticket_labels")
    check({status for _, status in found} == {"answered"}, f"not all are answered: {found}")
    check({one for one, _ in found} <= {"shipping", "billing", "other"}, f"the labels are {found}")
    check(scene.sql("select count(body) from ticket_labels") == [(8,)], "the ticket's columns lack")
    check(scene.night("ticket_labels") == 0, "a second night asks again")


@judge
def extract(scene: Scene) -> None:
    """Two columns of the right types, in the place of the one."""
    check(scene.night("tickets") == 8, "not each ticket was asked once")
    kinds = dict(
        scene.sql(
            "select column_name, data_type from duckdb_columns() where table_name = 'ticket_topics'"
        )
    )
    check(kinds.get("product") == "VARCHAR", f"product is {kinds.get('product')}")
    amount = kinds.get("amount", "missing")
    is_number = amount in ("DOUBLE", "BIGINT", "INTEGER", "FLOAT") or amount.startswith("DECIMAL")
    check(is_number, f"amount is {amount}")
    check("topic" not in kinds, "there is a topic")
    scene.sql("select sum(amount) from ticket_topics")


@judge
def every_night(scene: Scene) -> None:
    """What was loaded anew is not asked again, what says something else is."""
    check(scene.night("tickets") == 8, "not each ticket was asked once")
    scene.sql("update tickets set loaded_at = loaded_at + to_days(1)")
    check(scene.night("tickets") == 0, "a night after the loader asks again")
    scene.sql("update tickets set body = 'It came.', loaded_at = loaded_at + to_days(1) where ticket_id = 3")  # fmt: skip
    check(scene.night("tickets") == 1, "a ticket with another body is not asked again")
    asked = scene.emulator.requests(scene.emulator.batches()[-1]["id"])
    check("It came." in str(asked) and "Order 3" in str(asked), "subject and body are not asked")


@judge
def rename(scene: Scene) -> None:
    """Nothing is paid again, and the table stays."""
    before = scene.sql("select * from ticket_topics order by ticket_id")
    check(scene.night("support_tickets") == 0, "the renamed pipeline asks again")
    check(scene.sql("select * from ticket_topics order by ticket_id") == before, "the table changed")  # fmt: skip
    scene.sql("insert into tickets values (9, 'Order 9', 'Is it waterproof?', '2026-03-02')")
    check(scene.night("support_tickets") == 1, "a new ticket is not asked")
    check(scene.sql("select count(*) from ticket_topics") == [(9,)], "its answer is not in the table")  # fmt: skip


@judge
def two_stages(scene: Scene) -> None:
    """The second pipeline asks only what the first one's answers say."""
    check(scene.night("tickets") == 8, "not each ticket was asked once")
    wanted = scene.sql("select ticket_id from ticket_topics where topic like '%p%' order by 1")
    check(0 < len(wanted) < 8, "the emulator's answers do not tell")  # by chance of its making
    check(scene.night("wishes") == len(wanted), "it does not ask about these tickets alone")
    check(scene.sql("select ticket_id from ticket_wishes order by 1") == wanted, "other tickets are in the table")  # fmt: skip
    scene.sql("insert into tickets values (9, 'Order 9', 'Pumps and pipes', '2026-03-02')")
    scene.emulator.configure(rates={"errored": 1.0})
    scene.night("tickets")
    scene.emulator.configure(rates={})
    check(scene.night("wishes") == 0, "a ticket without a topic is asked")


@judge
def cap(scene: Scene) -> None:
    """A small night goes through, a larger one waits, all of it."""
    check(scene.night("tickets") == 8, "a night of eight tickets, which costs less, does not go through")  # fmt: skip
    scene.sql("insert into tickets select 100 + i, 'Order', 'Nr ' || i, '2026-03-02' from range(400) as t(i)")  # fmt: skip
    check(scene.night("tickets") == 0, "a night that may cost more was sent, all of it or a part")


@judge
def versions(scene: Scene) -> None:
    """One row per ticket, about its newest version."""
    check(scene.night("tickets") == 4, "not each ticket was asked once")
    check(scene.sql("select count(*), count(distinct ticket_id) from ticket_topics") == [(4, 4)], "not one row per ticket")  # fmt: skip
    check(scene.sql("select distinct body[:9] from ticket_topics") == [("version 3",)], "not the newest version")  # fmt: skip
    scene.sql("insert into tickets values (1, 'Order 1', 'version 4 of ticket 1', '2026-03-09')")
    check(scene.night("tickets") == 1, "a newer version of one ticket asks about others, too")
    check(scene.sql("select count(*) from ticket_topics") == [(4,)], "it does not take the place of the earlier one")  # fmt: skip


@judge
def downstream(scene: Scene) -> None:
    """What is answered is counted, by an asset that depends on the results."""
    scene.night("tickets")
    scene.sql("insert into tickets values (9, 'Order 9', 'Is it waterproof?', '2026-03-02')")
    scene.emulator.configure(rates={"errored": 1.0})
    scene.night("tickets")
    definitions = _definitions(scene)
    graph = definitions.resolve_asset_graph()
    key = dg.AssetKey("topic_counts")
    check(graph.has(key), "there is no asset topic_counts")
    check(dg.AssetKey(["tickets", "results"]) in graph.get(key).parent_keys, "it is not downstream of tickets/results")  # fmt: skip
    job = definitions.resolve_implicit_global_asset_job_def()
    for _ in range(2):
        done = job.execute_in_process(asset_selection=[key], raise_on_error=False)
        check(done.success, "the asset fails")
    expected = scene.sql(
        "select topic, count(*) from ticket_topics where _status = 'answered' group by 1 order by 1"
    )
    found = scene.sql("select topic, tickets from topic_counts order by 1")
    check(found == expected, f"it has {found}, not {expected}")


@judge
def empty(scene: Scene) -> None:
    """What is empty is not paid, and has its row."""
    check(scene.night("tickets") == 6, "not the six tickets with a body were asked")
    check(scene.sql("select count(*) from ticket_topics") == [(8,)], "not every ticket has its row")
    found = scene.sql("select count(*) from ticket_topics where body = '' and topic is null")
    check(found == [(2,)], "the empty ones have an answer")
    check(scene.night("tickets") == 0, "a second night asks again")


@judge
def own_test(scene: Scene) -> None:
    """The agent's test passes; and it fails when the pipeline leaves tickets out."""
    check(_pytest(scene) == 0, "its test does not pass")
    code = scene.folder / "definitions.py"
    table = 'DuckDBSource(database="shop.duckdb", table="tickets", key="ticket_id")'
    query = 'DuckDBSource(database="shop.duckdb", query="from tickets where ticket_id > 2", key="ticket_id")'  # fmt: skip
    before = code.read_text(encoding="utf-8")
    check(table in before, "the pipeline was changed, which nobody asked for")
    code.write_text(before.replace(table, query), encoding="utf-8")
    try:
        check(_pytest(scene) == 1, "its test does not fail when tickets are left out")
    finally:
        code.write_text(before, encoding="utf-8")


def _definitions(scene: Scene) -> dg.Definitions:
    scene.project()
    module = sys.modules.get("definitions")
    found = [one for one in vars(module).values() if isinstance(one, dg.Definitions)] if module else []  # fmt: skip
    if not found:
        raise FailedTask("definitions.py has no Definitions")
    return found[-1]


def _pytest(scene: Scene) -> int:
    """Run the project's tests as a user would; return the exit code."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(scene.folder), str(ROOT)])}
    for cache in scene.folder.rglob("__pycache__"):
        for one in cache.iterdir():
            one.unlink()
    done = subprocess.run(
        command, cwd=scene.folder, env=environment, capture_output=True, timeout=300
    )
    return done.returncode
