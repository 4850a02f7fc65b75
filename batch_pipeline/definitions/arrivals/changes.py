"""What arrived: in the source, told by its fingerprint, and in upstream assets, told by the event log."""

import hashlib
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import islice

import dagster as dg

from batch_pipeline.definitions.arrivals.cursor import MOST_GROUPS, Memory, Waiting
from batch_pipeline.definitions.partition import dimensions, keys_in
from batch_pipeline.errors import counted
from batch_pipeline.pipeline import BatchPipeline
from batch_pipeline.records.fingerprint import (
    BusyError,
    Group,
    Grouping,
    Keyed,
    TooLongError,
    Windowed,
    look,
    read,
)
from batch_pipeline.records.sources import (
    VARIANT,
    DuckDBSource,
    ResultsSource,
    Source,
)
from batch_pipeline.requests.compiled import compile_question

MOST_NAMED = 3
# A tick has 60 s in all, and while it reads a DuckDB file no other program can write to it.
READ_SECONDS = 15.0
UPSTREAM_SECONDS = 10.0
PAGE = 1_000
# A DuckDB file that another program writes to all the time is never the same at two ticks; what it
# has committed is whole, so after this long it is read all the same.
PATIENCE = timedelta(minutes=10)


class Arrived:
    """Notes in a memory what arrived since the last tick.

    Args:
        pipeline: whose records.
        source: where they are.
        instance: the Dagster whose event log tells of upstream assets.
        partitions: those that a run can be requested for; "" alone for a pipeline without any.
        memory: what the last tick knew; it is changed.
        now: the time.
        began: the same as Unix time of this machine, to be compared with times in Dagster's history.

    Attributes:
        said: what there is to say, sentence by sentence.
    """

    def __init__(
        self,
        pipeline: BatchPipeline,
        source: Source,
        instance: dg.DagsterInstance,
        partitions: Collection[str],
        memory: Memory,
        now: datetime,
        began: float,
    ) -> None:
        self.pipeline, self.instance, self.partitions = pipeline, instance, partitions
        self.source = source
        self.memory, self.now, self.began = memory, now, began
        self.said: list[str] = []

    def see_source(self) -> bool:
        """Note what is new in the source; return whether a run may read it now."""
        memory = self.memory
        looks = look(self.source)
        if looks is None:
            self.said.append(f"There is no file yet: {self.source.describe()}")
            memory.seen, memory.changing = None, None
            return False
        is_stable = looks == memory.seen
        is_first = memory.seen is None and memory.read is None
        if not is_stable:
            memory.seen, memory.since = looks, self.began
        whole = f"{looks} {short(sorted(self.partitions))}"
        if whole == memory.read:
            memory.changing = None
            if memory.note:
                self.said.append(memory.note)
            return True
        if memory.changing is None:
            memory.changing = self.now.timestamp()
        for_long = self.now.timestamp() - memory.changing >= PATIENCE.total_seconds()
        is_committed = isinstance(self.source, DuckDBSource | ResultsSource)
        if not is_stable and not (is_committed and for_long):
            self.said.append(
                f"{self.source.describe()} {'is seen for the first time' if is_first else 'has changed'}; "
                "it is asked about once it stays the same from one tick to the next, so that nothing "
                "half-written is read"
            )
            return False
        try:
            self._compare(memory.since if is_stable else self.began, looks)
        except BusyError as error:
            self.said.append(f"It is looked at again at the next tick: {error}")
            return False
        memory.read, memory.changing = whole, None
        return True

    def _compare(self, since: float, looks: str) -> None:
        """Read the source as far as need be, and note the partitions whose records are others."""
        memory = self.memory
        is_known = memory.read is not None
        memory.note = ""
        try:
            found, columns = self._read(looks)
            if look(self.source) != looks:
                # It was written to meanwhile, and the read has seen that: only a later run has it all.
                since = max(since, time.time())
        except TooLongError as error:
            memory.note = f"{error}, so "
            if self.pipeline.partitions is None:
                memory.note += "any change of its file counts as an arrival"
                found, columns = {"": Group(0, None, looks)}, []
            else:
                memory.note += "what arrived in which partition is not known, and is left to the schedule or to you"
                found, columns = memory.groups, memory.columns
            if isinstance(self.source, DuckDBSource) and self.source.changes is None:
                memory.note += ". Give it DuckDBSource(changes=...), a column to tell it by"
            self.said.append(memory.note)
        groups = {key: one for key, one in found.items() if key in self.partitions}
        unknown = sorted(found.keys() - groups.keys())
        if unknown and not all(one.is_time for one in dimensions(self.pipeline)):
            self.said.append(
                f"Records wait for {counted(len(unknown), 'partition')} that the pipeline does not "
                f"have{named(unknown)}"
            )
        kept = dict(islice(sorted(groups.items(), reverse=True), MOST_GROUPS))
        rest = short(sorted((key, str(one)) for key, one in groups.items() if key not in kept))
        if len(groups) > MOST_GROUPS and (not is_known or rest != memory.rest):
            self.said.append(
                f"Partitions before {min(kept)} are too many to watch one by one"
                f"{', and records changed in them' if is_known else ''}: launch a backfill of those "
                "that should be asked"
            )
        for key, group in kept.items():
            before = memory.groups.get(key)
            # A question that reads other columns now is no arrival.
            if before is not None and columns != memory.columns:
                before = replace(before, content=group.content)
            if group != before:
                base = (before or Group(0)) if is_known else None
                why = "the source changed" if is_known else "the source was not watched before"
                self._wait(key, since, why, base, is_known)
        if self.pipeline.on_deleted == "drop" and is_known:
            for key in memory.groups.keys() - kept.keys() - groups.keys():
                self._wait(key, since, "the source changed", memory.groups[key], True)
        memory.groups, memory.rest, memory.columns = kept, rest, columns

    def _read(self, looks: str) -> tuple[dict[str, Group], list[str]]:
        pipeline = self.pipeline
        is_table = isinstance(self.source, DuckDBSource | ResultsSource)
        if not is_table and pipeline.partitions is None:
            return {"": Group(0, None, looks)}, []

        def content(columns: Mapping[str, str]) -> Sequence[str]:
            if pipeline.refresh == "new":
                return ()
            columns = {**columns, VARIANT: "VARCHAR"} if "" not in pipeline.by_variant else columns
            read = (
                compile_question(one.request, columns, pipeline.output_prefix).columns
                for one in pipeline.by_variant.values()
            )
            found = dict.fromkeys(name for names in read for name in names)
            return [name for name in found if name != VARIANT or "" in pipeline.by_variant]

        return read(self.source, content, self._grouping(), READ_SECONDS)

    def _grouping(self) -> Grouping:
        found: list[Keyed | Windowed] = []
        keys = [keys_in(self.pipeline, partition) for partition in self.partitions]
        for place, one in enumerate(dimensions(self.pipeline)):
            if not isinstance(one.definition, dg.TimeWindowPartitionsDefinition):
                found.append(Keyed(one.column))
                continue
            windows = []
            for key in dict.fromkeys(of_partition[place] for of_partition in keys):
                window = one.window(key)
                windows.append((key, window.start, window.end))
            found.append(Windowed(one.column, one.definition.timezone, windows))
        return found

    def see_upstream(self) -> None:
        """Page through the materializations of the upstream assets, each of which counts."""
        until = time.monotonic() + UPSTREAM_SECONDS
        for given in self.pipeline.upstream:
            key = dg.AssetKey.from_coercible(given)
            name = key.to_user_string()
            if name not in self.memory.upstream:
                # What came before is in the source, which nobody has looked at yet, either.
                newest = self.instance.fetch_materializations(key, limit=1).records
                self.memory.upstream[name] = newest[0].storage_id if newest else 0
                continue
            strange: set[str] = set()
            while time.monotonic() < until:
                page = self.instance.fetch_materializations(
                    dg.AssetRecordsFilter(
                        asset_key=key, after_storage_id=self.memory.upstream[name]
                    ),
                    limit=PAGE,
                    ascending=True,
                )
                for record in page.records:
                    self.memory.upstream[name] = record.storage_id
                    partition = record.partition_key if self.pipeline.partitions else ""
                    if partition is None or partition not in self.partitions:
                        strange.add(partition or "no partition")
                        continue
                    why = f"{name} was materialized"
                    base = self.memory.groups.get(partition)
                    self._wait(partition, record.timestamp, why, base, True)
                if not page.has_more:
                    break
            if strange:
                self.said.append(
                    f"{name} was materialized for {counted(len(strange), 'key')} that is no partition "
                    f"of the pipeline now{named(sorted(strange))}: the source tells what is new"
                )

    def _wait(self, key: str, since: float, why: str, base: Group | None, sure: bool) -> None:
        """Note that something arrived in a partition; what it is compared with stays the first."""
        earlier = self.memory.waiting.get(key)
        if earlier is not None:
            base, sure = earlier.base, sure or earlier.sure
            since = max(since, earlier.since)
            why = why if why in earlier.why else f"{earlier.why} and {why}"
        self.memory.waiting[key] = Waiting(since, why, base, sure)


def named(partitions: Sequence[str]) -> str:
    """Return the first few partitions in brackets; nothing for a pipeline without partitions."""
    named = [key for key in partitions if key]
    if not named:
        return ""
    more = f" and {len(named) - MOST_NAMED:,} more" if len(named) > MOST_NAMED else ""
    return f" ({', '.join(named[:MOST_NAMED])}{more})"


def short(value: object) -> str:
    """Return a short text that stands for a value."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]
