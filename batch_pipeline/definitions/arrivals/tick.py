"""One tick of the arrivals sensor: sees that records arrived, and requests the job that asks them.

Whether what arrived was asked is read from Dagster's history of runs: a submit run that succeeded,
asked all, and began after the arrival was seen has taken it along, whoever started it. So a failed
run forgets nothing, a nightly run leaves nothing to do, and runs carry no run key that could be burnt.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg
import duckdb

from batch_pipeline.definitions.arrivals.changes import Arrived, named, short
from batch_pipeline.definitions.arrivals.cursor import Waiting, remembered
from batch_pipeline.definitions.arrivals.runs import Submits, submits
from batch_pipeline.definitions.jobs import PIPELINE_TAG
from batch_pipeline.definitions.partition import filter_of
from batch_pipeline.definitions.resources import BatchStore, ClaudeBatches
from batch_pipeline.definitions.rows import source_of
from batch_pipeline.errors import BatchPipelineError, InputError, plain, sentence
from batch_pipeline.pipeline import Arrivals, BatchPipeline
from batch_pipeline.records.count import count_needed
from batch_pipeline.records.fingerprint import BusyError, TooLongError, count_changes
from batch_pipeline.records.sources import DuckDBSource
from batch_pipeline.requests.compiled import compile_question
from batch_pipeline.store.addresses import same_address
from batch_pipeline.store.queue import hold_of
from batch_pipeline.store.renaming import take_over
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import Endpoint, Scope, asked_at
from batch_pipeline.store.variants import scope_name

MOST_RUNS = 25  # a tick's run requests are submitted one by one within its 60 s
# A tick has 60 s in all, and while it reads a DuckDB file no other program can write to it.
COUNT_SECONDS = 15.0


def tick(
    context: dg.SensorEvaluationContext, pipeline: BatchPipeline, arrivals: Arrivals
) -> dg.SensorResult:
    """Look at what arrived; request the job that asks it, and say what was seen."""
    try:
        claude: ClaudeBatches = getattr(context.resources, pipeline.claude_key)
        resource: BatchStore = getattr(context.resources, pipeline.store_key)
        store = resource.open()
        take_over(
            store, pipeline.name, pipeline.renamed_from, republish=pipeline.destination is None
        )
        one = _Tick(pipeline, arrivals, context.instance, store, claude, context.cursor)
        requests = one.run()
    except BatchPipelineError as error:
        return dg.SensorResult(skip_reason=dg.SkipReason(str(error)), cursor=context.cursor)
    except Exception as error:
        # A tick that raises loses its cursor, and shows no more than that it failed.
        context.log.exception("The tick failed")
        return dg.SensorResult(
            skip_reason=dg.SkipReason(
                f"The source could not be looked at ({type(error).__name__}: "
                f"{plain(str(error))}). Nothing is forgotten; it is tried again at the next tick. "
                "The tick's log has the details."
            ),
            cursor=context.cursor,
        )
    message = " ".join(map(sentence, one.said))
    context.log.info(message)
    return dg.SensorResult(
        run_requests=requests or None,
        skip_reason=None if requests else dg.SkipReason(message),
        cursor=one.memory.text(),
    )


class _Tick:
    """One look at what arrived.

    Attributes:
        said: what the tick has to say, sentence by sentence.
        memory: what the next tick will know.
    """

    def __init__(
        self,
        pipeline: BatchPipeline,
        arrivals: Arrivals,
        instance: dg.DagsterInstance,
        store: Store,
        claude: ClaudeBatches,
        cursor: str | None,
    ) -> None:
        self.pipeline, self.arrivals, self.instance = pipeline, arrivals, instance
        self.store, self.claude = store, claude
        self.source = source_of(pipeline, store)
        self.now = store.clock.now()
        self.cooldown = timedelta(minutes=arrivals.cooldown_minutes)
        self.memory = remembered(cursor, _basis(pipeline), time.time())
        self.said: list[str] = []

    def run(self) -> list[dg.RunRequest]:
        """Return the runs to request."""
        waiting = self.memory.waiting
        partitions = _partition_keys(self.pipeline, self.instance, self.now)
        arrived = Arrived(
            self.pipeline,
            self.source,
            self.instance,
            partitions,
            self.memory,
            self.now,
            time.time(),
        )
        arrived.see_upstream()
        is_ready = arrived.see_source()
        self.said = arrived.said
        for key in waiting.keys() - partitions.keys():
            del waiting[key]
        if waiting:
            since = min(one.since for one in waiting.values())
            history = submits(self.instance, self.pipeline, self.now, self.cooldown, since)
            for key, one in list(waiting.items()):
                if history.asked_since(key, one.since):
                    del waiting[key]
            if waiting:
                return self._choose(history) if is_ready else []
            if is_ready:
                self.said.append(f"What arrived was asked by {history.job}; nothing is left to ask")
        if not self.said:
            self.said.append(f"Nothing new in {self.source.describe()}")
        return []

    def _choose(self, history: Submits) -> list[dg.RunRequest]:
        """Return the runs to request now, and say why others are not."""
        if hold := self._hold():
            self.said.append(f"What arrived waits, because nothing is sent: {hold}")
            return []
        until = time.monotonic() + COUNT_SECONDS
        requests: list[dg.RunRequest] = []
        waiting: dict[str, list[str]] = {}
        asked: dict[str, list[str]] = {}
        in_order = sorted(self.memory.waiting.items(), key=lambda item: (item[1].since, item[0]))
        for key, one in in_order:
            reason = history.not_now(key, self.now, self.cooldown)
            if reason is None and len(requests) >= MOST_RUNS:
                reason = "more runs are requested at the next tick"
            elif reason is None and (not one.sure or self.arrivals.min_records > 1):
                reason = self._too_few(key, one, until)
            if reason is not None:
                waiting.setdefault(reason, []).append(key)
                continue
            asked.setdefault(one.why, []).append(key)
            requests.append(
                dg.RunRequest(
                    job_name=history.job,
                    partition_key=key or None,
                    tags={PIPELINE_TAG: self.pipeline.name, "batch_pipeline/why": one.why},
                )
            )
        for why, keys in asked.items():
            self.said.append(f"{history.job} is requested{named(keys)}: {why}")
        self.said += [
            f"{self._arrived(keys)}: {reason}{named(keys)}" for reason, keys in waiting.items()
        ]
        return requests

    def _arrived(self, keys: Sequence[str]) -> str:
        known = [self.memory.waiting[key] for key in keys if key in self.memory.waiting]
        if not known:
            return "No run is needed"
        first = datetime.fromtimestamp(min(one.since for one in known), UTC)
        return f"Since {first:%H:%M} UTC records wait"

    def _too_few(self, key: str, one: Waiting, until: float) -> str | None:
        """Return why what arrived in a partition is not enough for a run; None when it is."""
        least = self.arrivals.min_records
        if one.count is None:
            left = until - time.monotonic()
            if left <= 0:
                return "they are counted at the next tick"
            try:
                one.count = self._count(key, one, left)
            except TooLongError:
                if (
                    left < COUNT_SECONDS - 1
                ):  # others had the time: it is the first of the next tick
                    return "they are counted at the next tick"
                one.why += " (it takes too long to count what needs an answer)"
                return None
            except BusyError as error:
                return f"they are counted at the next tick: {error}"
            except (InputError, FileNotFoundError):
                return None  # a run that fails says it where it is seen
        if one.count == 0:
            del self.memory.waiting[key]
            return "nothing of what is there needs an answer"
        return f"{one.count:,} of {least:,} records" if one.count < least else None

    def _count(self, key: str, one: Waiting, seconds: float) -> int:
        """Return how many records a run would ask; by the ``changes`` column if that is known."""
        pipeline, source = self.pipeline, self.source
        if isinstance(source, DuckDBSource) and source.changes and one.base and not one.base.keys:
            return count_changes(source, one.base, filter_of(pipeline, key), seconds)
        # Records are counted, and not answers: what one variant needs most.
        return max(self._needed(key, name, seconds) for name in pipeline.by_variant)

    def _needed(self, key: str, variant: str, seconds: float) -> int:
        """Return how many records a run would ask of a variant."""
        endpoint, asked = self._endpoint(), self.pipeline.as_asked(variant)
        return count_needed(
            self.store,
            Scope(asked.name, scope_name(key, variant), endpoint) if endpoint else None,
            source_of(asked, self.store),
            lambda columns: compile_question(asked.request, columns, asked.output_prefix),
            partition_filter=filter_of(asked, key),
            refresh=asked.refresh,
            max_attempts=asked.max_attempts,
            seconds=seconds,
            rules=asked.rules,
        )

    def _endpoint(self) -> Endpoint | None:
        """Return the account at the address in force that this pipeline was last asked at."""
        asked = asked_at(self.store.ledger, self.pipeline.name)
        here = self.claude.addresses
        return next((one for one in asked if same_address(one.base_url, here)), None)

    def _hold(self) -> str | None:
        endpoint = self._endpoint()
        return hold_of(self.store.ledger, self.pipeline.name, endpoint) if endpoint else None


def _partition_keys(
    pipeline: BatchPipeline, instance: dg.DagsterInstance, now: datetime
) -> Mapping[str, None]:
    """Return the partitions that a run can be requested for now, in order; "" for none at all."""
    match pipeline.partitions:
        case None:
            return {"": None}
        case dg.StaticPartitionsDefinition() as definition:
            keys = definition.get_partition_keys()
        case definition:
            keys = definition.get_partition_keys(
                current_time=now, dynamic_partitions_store=instance
            )
    return dict.fromkeys(keys)


def _basis(pipeline: BatchPipeline) -> str:
    """Return what the remembered groups depend on besides the source's rows."""
    # DuckDB's hashes are those of its version.
    return short([repr(pipeline.source), pipeline.partition_column, duckdb.__version__])
