"""The command `batch-pipeline status`: how the pipelines stand, once or live.

It reads the ledger and nothing else. The ledger learns of the API through the status sensors.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from batch_pipeline.cli.deployments import Deployments, on_deployments
from batch_pipeline.cli.output import (
    MOST_WIDTH,
    WAITS_FOR_A_PERSON,
    Row,
    errors_shown,
    in_usd,
    listed,
    listing,
    plain,
    print_json,
    print_json_line,
    say,
)
from batch_pipeline.errors import counted
from batch_pipeline.store.variants import partition_of, shown, variant_of

if TYPE_CHECKING:
    from rich.console import Group

    from batch_pipeline.batches.deadline import AnswerBy
    from batch_pipeline.store.clock import Clock
    from batch_pipeline.store.overdue import Lengths, Overdue
    from batch_pipeline.store.standing import Standing
    from batch_pipeline.store.store import Store
    from batch_pipeline.store.whole import Whole

STALE = timedelta(minutes=10)
"""A look at the API longer ago than this, while batches are open, says that no sensor looks."""
Found = list[tuple["Store", list["Standing"]]]
MOST_NAMED = 3  # partitions


@click.command(
    epilog="Exit code: 0 fine, --watch ended with Ctrl-C included; 1 an error; 2 wrong usage; 3 something is held and "
    "waits for a person."
)
@click.argument("pipeline", metavar="[NAME]", required=False)
@click.option("--watch", is_flag=True, help="Go on showing it, until Ctrl-C.")
@click.option(
    "--until-done", is_flag=True, help="With --watch: end when nothing is on its way any more."
)
@click.option(
    "--interval", metavar="SECONDS", type=click.FloatRange(0.2), default=2.0, show_default=True,
    help="With --watch: how often the ledger is read.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON; with --watch, one line per change.")  # fmt: skip
@errors_shown
@on_deployments(api=False, unused=True)
def status(
    deployments: Deployments,
    pipeline: str | None,
    watch: bool,
    until_done: bool,
    interval: float,
    as_json: bool,
) -> None:
    """Show how all pipelines stand, or NAME partition by partition: what is on its way, what came back, what it cost.

    It reads the ledger, which the status sensors keep up to date. It does not ask the API.
    """
    if until_done and not watch:
        raise click.UsageError("--until-done goes with --watch.")
    stores = deployments.stores(pipeline)

    def look() -> Found:
        return [(store, _of_store(deployments, store, pipeline)) for store in stores]

    if watch and stores:
        found = _watch(look, stores[0].clock, interval, until_done, as_json, deployments)
    else:
        found = look()
        if as_json:
            print_json(_as_json(found, deployments))
        else:
            _show(found, deployments)
    if any(one.waits_for_a_person for _, standings in found for one in standings):
        raise SystemExit(WAITS_FOR_A_PERSON)


def _of_store(deployments: Deployments, store: "Store", pipeline: str | None) -> "list[Standing]":
    from batch_pipeline.store.standing import standings

    if pipeline is not None:
        return standings(store, pipeline, by_partition=True)
    names = dict.fromkeys(
        name for deployment, _ in deployments.work(store, None) for name in deployment.pipelines
    )
    return [one for name in names for one in standings(store, name)]


def _show(found: Found, deployments: Deployments) -> None:
    if not found:
        say("Nothing was asked yet.")
    for store, standings in found:
        listing(*_table(store, standings, deployments))


def _table(
    store: "Store", standings: "Sequence[Standing]", deployments: Deployments
) -> tuple[str, Sequence[str], Sequence[Row]]:
    now = store.clock.now()
    columns = ("pipeline", "partition", "batches ended", "answered", "oldest open", "cost", "this month")  # fmt: skip
    wholes = _wholes(store, standings)
    rows = [
        Row(
            (
                one.pipeline,
                shown(one.partition or ""),
                f"{one.batches_ended} of {one.batches}" if one.batches else "",
                f"{one.answered:,} of {one.asked:,}" if one.submission else "",
                _age(now - one.oldest) if one.oldest else "",
                in_usd(one.cost) if one.submission else "",
                in_usd(one.cost_this_month),
            ),
            _below(store, one, now, deployments) + _of_all(one, wholes[place], now, deployments),
            _todo(one),
        )
        for place, one in enumerate(standings)
    ]
    return f"Pipelines of the store {store.files.root}", columns, rows


def _below(store: "Store", one: "Standing", now: datetime, deployments: Deployments) -> list[str]:
    """Return what there is to know besides the numbers: the last submission, what comes next."""
    if deployments.is_codeless(one.pipeline):
        return _below_codeless(one)
    gone, all_of_it = _gone_partitions(store, one, deployments)
    if all_of_it:
        return _below_codeless(one, f"{one.pipeline} does not have {gone} (any more)")
    if not one.submission:
        return [f"Nothing was asked yet: launch {one.pipeline}_submit, or switch on its schedule."]
    when = f" ({one.submitted_at:%Y-%m-%d %H:%M} UTC)" if one.submitted_at else ""
    said = [f"Submission {one.submission}{when}: {'; '.join(_next(one)) or 'done'}."]
    if one.other:
        parts = ", ".join(f"{count:,} {status}" for status, count in one.other.items())
        said.append(f"Without an answer: {parts}.")
    said += _late(store, one, deployments)
    if (took := _lengths(store, one)) is not None:
        said.append(
            f"From sent to ended, half of its batches took {_age(timedelta(seconds=took.p50))} at most, 95 of 100 "
            f"{_age(timedelta(seconds=took.p95))} (of {counted(took.batches, 'batch', 'batches')})."
        )
    if one.cost_unknown:
        said.append(
            f"Not in the cost: {counted(one.cost_unknown, 'request')} of unknown cost "
            f"(`batch-pipeline reconcile {one.pipeline}` says which)."
        )
    said += _unsent(store, one, deployments)
    seen = max(filter(None, (one.looked_at, one.oldest or one.submitted_at)), default=now)
    # Of an API that refuses the key it is said below.
    if (one.open or one.unknown) and now - seen > STALE and not one.refused:
        looked = f"last {_age(now - one.looked_at)} ago" if one.looked_at else "never"
        said.append(
            f"The API was {looked} asked about these batches: is Dagster's daemon running, and {one.pipeline}_status "
            "on? `batch-pipeline doctor` tells."
        )
    if gone:
        said.append(
            f"No job is launched for {gone}, which {one.pipeline} does not have (any more): `batch-pipeline collect "
            f"{one.pipeline}` fetches and publishes what is answered; give them back to it, and all of it is done."
        )
    return said


def _unsent(store: "Store", one: "Standing", deployments: Deployments) -> list[str]:
    """Return what waits of variants that are not declared (any more), in a sentence."""
    pipeline = deployments.declared.get(one.pipeline)
    if pipeline is None or not one.ready:
        return []
    from batch_pipeline.definitions.variants import left_unsent

    left = left_unsent(store, pipeline)
    return [f"{left[0].upper()}{left[1:]}."] if left else []


def _late(store: "Store", one: "Standing", deployments: Deployments) -> list[str]:
    """Return what is not answered by when it was wanted, in words."""
    from batch_pipeline.store.overdue import overdue_said

    by, found = _overdue(store, one, deployments)
    said = overdue_said(found, by)
    return [f"{said}."] if said else []


def _overdue(
    store: "Store", one: "Standing", deployments: Deployments
) -> "tuple[AnswerBy | None, list[Overdue]]":
    from batch_pipeline.store.overdue import overdue

    pipeline = deployments.declared.get(one.pipeline)
    by = pipeline.deadline if pipeline is not None else None
    if by is None:
        return None, []
    return by, overdue(store, one.pipeline, by.due, one.partition and [one.partition])


def _lengths(store: "Store", one: "Standing") -> "Lengths | None":
    from batch_pipeline.store.overdue import batch_lengths

    return batch_lengths(store, one.pipeline)


def _gone_partitions(store: "Store", one: "Standing", deployments: Deployments) -> tuple[str, bool]:
    """Return the partitions with work that the code does not have, in words, and whether all with work are such.

    Of dynamic partitions only Dagster's instance knows; the sensor's tick tells.
    """
    pipeline = deployments.declared.get(one.pipeline)
    if pipeline is None:
        return "", False
    from batch_pipeline.definitions.partition import known_partitions
    from batch_pipeline.store.unattended import partitions_at_work

    at_work = [
        key for key in partitions_at_work(store, one.pipeline) if one.partition in (None, key)
    ]
    is_known = known_partitions(pipeline, None)
    gone = [key for key in at_work if not is_known(partition_of(key))]
    if not gone:
        return "", False
    named = ", ".join(shown(key) or "work without a partition" for key in gone[:MOST_NAMED])
    more = f" and {len(gone) - MOST_NAMED:,} more" if len(gone) > MOST_NAMED else ""
    what = "" if gone == [""] else "partition " if len(gone) == 1 else "partitions "
    return f"{what}{named}{more}", gone == at_work


def _wholes(store: "Store", standings: "Sequence[Standing]") -> "list[Whole | None]":
    """Return how all records of each pipeline or partition stand; None where that is not known."""
    from batch_pipeline.store.whole import whole, wholes

    parts = {name: wholes(store, name) for name in {one.pipeline for one in standings}}
    return [
        whole([*parts[one.pipeline].values()])
        if one.partition is None
        else parts[one.pipeline].get(one.partition)
        for one in standings
    ]


def _of_all(
    one: "Standing", whole: "Whole | None", now: datetime, deployments: Deployments
) -> list[str]:
    """Return how all records of the source stand, as of when it was looked at."""
    if whole is None:
        return []
    first, last = (f"{moment:%Y-%m-%d %H:%M}" for moment in (whole.since, whole.until))
    parts = [
        f"{count:,} {what}"
        for count, what in (
            (whole.answered, "answered"),
            (whole.failed, "failed"),
            (whole.on_their_way, "on their way"),
            (whole.by_rule, "settled by a rule"),
            (whole.never_asked, "never asked as they are"),
        )
        if count
    ]
    variants = {variant_of(name) for name in whole.partitions} - {""}
    rows = counted(whole.rows, "source row")
    if one.partition is None and variants:
        rows = f"{counted(whole.rows, 'row')} of {counted(len(variants), 'variant')}"
    said = [
        f"Of all {rows} (as of {first}{f' to {last}' if last != first else ''} UTC, when "
        f"they were last selected from): {', '.join(parts) or 'none is there'}."
    ]
    if one.partition is None and (left := _never_selected(one.pipeline, whole, now, deployments)):
        keys, number = left
        named = ", ".join(keys[:MOST_NAMED]) + (" ..." if len(keys) > MOST_NAMED else "")
        was, its = ("was", "its") if len(keys) == 1 else ("were", "their")
        said.append(
            f"{len(keys):,} of {number:,} partitions {was} never selected from ({named}): {its} rows are not in that."
        )
    return said


def _never_selected(
    name: str, whole: "Whole", now: datetime, deployments: Deployments
) -> tuple[list[str], int] | None:
    """Return the partitions of the code that were never selected from, and of how many; None if unknown."""
    pipeline = deployments.declared.get(name)
    if pipeline is None or pipeline.partitions is None:
        return None
    from batch_pipeline.definitions.partition import is_dynamic

    if is_dynamic(pipeline):
        return None
    try:
        keys = pipeline.partitions.get_partition_keys(current_time=now)
    except Exception:  # it may be of a user's own class, and is only shown
        return None
    selected = {partition_of(name) for name in whole.partitions}
    left = [key for key in keys if key not in selected]
    return (left, len(keys)) if left else None


def _below_codeless(
    one: "Standing", why: str = "No code of this project has this pipeline (any more)"
) -> list[str]:
    """Return the same for a pipeline or partition whose code is gone: no job and no sensor works for it."""
    said = [why]
    if one.open:
        said.append(f"the API works on {counted(one.open, 'batch', 'batches')}")
    if one.ended:
        said.append(f"{counted(one.ended, 'file')} can be collected")
    if one.unknown:
        said.append(f"{counted(one.unknown, 'file')} without a reply")
    if one.ready:
        said.append(f"{counted(one.ready, 'file')} never sent")
    lines = [f"{'; '.join(said)}."]
    if one.open or one.ended or one.unknown:
        lines.append(f"`batch-pipeline collect {one.pipeline}` fetches and publishes its answers.")
    if one.ready:
        lines.append(f"`batch-pipeline cancel {one.pipeline}` gives up what was not sent.")
    return lines


def _next(one: "Standing") -> Iterator[str]:
    """Yield what is not done yet, and who does it."""
    from batch_pipeline.store.standing import WAITS_FOR

    if one.open:
        yield f"the API works on {counted(one.open, 'batch', 'batches')}"
    if one.ended:
        yield f"{counted(one.ended, 'file')} ready for {one.pipeline}_collect, which the status sensor launches"
    if one.unknown:
        yield f"{counted(one.unknown, 'file')} being sent or without a reply, which the status sensor looks for"
    if one.ready and one.holds:
        yield f"{counted(one.ready, 'file')} not sent, because the pipeline is held"
    elif one.ready:
        yield f"{counted(one.ready, 'file')} to be sent ({WAITS_FOR})"
    if one.over_budget:
        yield f"{counted(one.over_budget, 'file')} not sent, because of a budget ({'; '.join(one.budget)})"
    if one.unbuilt:
        yield (
            "selected records wait for their request files, which the status sensor has written; if that fails, the "
            f"last run of {one.pipeline}_submit says why"
        )
    if one.retryable and not (one.open or one.ended or one.ready or one.unknown):
        yield f"{counted(one.retryable, 'record')} to be asked again, which the status sensor launches"


def _todo(one: "Standing") -> str | None:
    name = one.pipeline
    if one.holds:
        # The words of the API may be long; the command below has all of them.
        return f"{name} is held ({plain(one.holds[0])[:160]}). `batch-pipeline held {name}` says what to do."
    if one.budget_waits_for_a_person:
        return (
            f"a budget holds {counted(one.over_budget, 'file')} for approval ({plain(one.budget[0])}). `batch-pipeline "
            f"held {name} --release` lets that through once."
        )
    if one.held:
        return f"{counted(one.held, 'file is', 'files are')} held: `batch-pipeline held {name}` says why, and what to do."
    return None


def _watch(
    look: Callable[[], Found],
    clock: "Clock",
    interval: float,
    until_done: bool,
    as_json: bool,
    deployments: Deployments,
) -> Found:
    """Show how things stand again and again; return how they stood last."""
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False, markup=False, emoji=False)
    found: Found = []
    try:
        if console.is_terminal and not as_json:
            with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
                for found in _looks(look, clock, interval, until_done):
                    room = min(console.width, MOST_WIDTH)
                    live.update(_screen(found, clock.now(), room, deployments), refresh=True)
            return found
        before: Any = None
        for found in _looks(look, clock, interval, until_done):
            # Ages grow with every look; that is no change.
            lines = [line for store, some in found for line in _lines(store, some, deployments)]
            if lines != before:
                if as_json:
                    print_json_line(_as_json(found, deployments))
                else:
                    for line in [line for line in lines if line not in (before or ())]:
                        click.echo(f"{clock.now():%Y-%m-%d %H:%M:%S} UTC  {plain(line)}")
                before = lines
    except KeyboardInterrupt:
        # It is how a person ends it, whatever they saw.
        raise SystemExit(0) from None
    return found


def _looks(
    look: Callable[[], Found], clock: "Clock", interval: float, until_done: bool
) -> Iterator[Found]:
    while True:
        found = look()
        yield found
        if until_done and all(one.is_at_rest for _, some in found for one in some):
            return
        clock.sleep(interval)


def _screen(found: Found, now: datetime, room: int, deployments: Deployments) -> "Group":
    from rich.console import Group
    from rich.text import Text

    tables = [
        line for store, some in found for line in listed(*_table(store, some, deployments), room)
    ]
    return Group(*tables, Text(f"{now:%H:%M:%S} UTC. Ctrl-C ends this; the work goes on.", "dim"))


def _lines(
    store: "Store", standings: "Sequence[Standing]", deployments: Deployments
) -> Iterator[str]:
    """Yield a line for each pipeline or partition, for a log."""
    for one in standings:
        name = f"{one.pipeline} {shown(one.partition or '')}".strip()
        if not one.submission:
            yield f"{name}: nothing was asked yet"
            continue
        parts = [
            f"{one.batches_ended} of {counted(one.batches, 'batch', 'batches')} ended",
            f"{one.answered:,} of {one.asked:,} answered",
            in_usd(one.cost),
            *_work(store, one, deployments),
            *filter(None, [_todo(one)]),
        ]
        yield f"{name}: {'; '.join(parts)}"


def _work(store: "Store", one: "Standing", deployments: Deployments) -> list[str]:
    """Return what is not done yet, and who does it."""
    if deployments.is_codeless(one.pipeline):
        return _below_codeless(one)
    gone, all_of_it = _gone_partitions(store, one, deployments)
    if all_of_it:
        return _below_codeless(one, f"{one.pipeline} does not have {gone} (any more)")
    return [*_next(one)]


def _as_json(found: Found, deployments: Deployments) -> dict[str, Any]:
    return {
        "pipelines": [
            {
                "store": store.files.root,
                **{
                    name: value
                    for name, value in asdict(one).items()
                    if not name.startswith("cost")
                },
                "partition": partition_of(one.partition or "") or None,
                "variant": variant_of(one.partition or "") or None,
                "open": one.open,
                "has_code": not deployments.is_codeless(one.pipeline),
                "cost_usd": float(one.cost),
                "cost_this_month_usd": float(one.cost_this_month),
                "requests_of_unknown_cost": one.cost_unknown,
                "source_rows": whole and whole.rows,
                "source_answered": whole and whole.answered,
                "source_failed": whole and whole.failed,
                "source_on_their_way": whole and whole.on_their_way,
                "never_asked": whole and whole.never_asked,
                "source_settled_by_rule": whole and whole.by_rule,
                "source_as_of": whole and whole.since,
                "records_late": sum(late.records for late in _overdue(store, one, deployments)[1]),
                "sent_to_ended_batches": took.batches if took else 0,
                "sent_to_ended_p50_seconds": took and took.p50,
                "sent_to_ended_p95_seconds": took and took.p95,
                "waits_for_a_person": one.waits_for_a_person,
                "done": one.is_at_rest,
            }
            for store, some in found
            for one, whole in zip(some, _wholes(store, some), strict=True)
            for took in [_lengths(store, one)]
        ]
    }


def _age(age: timedelta) -> str:
    seconds = max(0, int(age.total_seconds()))
    if seconds < 120:
        return f"{seconds} s"
    minutes = seconds // 60
    if minutes < 120:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} days"
