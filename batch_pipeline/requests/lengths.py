"""How long a pipeline's answers were, and how much of its prompts the cache held: from its own results."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
from sqlalchemy import RowMapping, select

from batch_pipeline.records.connections import memory_connection, quote_files
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import FileKind, FileState, request_files, submissions

RECENT_FILES = 20
"""Whose answers tell how long answers are."""
FEWEST = 30
"""Answers below which nothing is concluded."""
UNSEEN = 0.1
"""By which part more the answers of a submission may have than those of any before: records change with time."""
SURE = 3.0
"""Standard deviations of chance beyond which a batch is taken to be another one, and not another draw."""

ANSWERS = """
select _bp_file, _attempt, _output_tokens as output, coalesce(_cache_read_tokens, 0) as read,
  coalesce(_cache_write_tokens, 0) as written, _status = 'truncated' as is_cut,
  _status = 'invalid' as is_unfit
from read_parquet({files}, union_by_name = true, filename = '_bp_file')
where _output_tokens is not null and _batch_id is not null
"""
LENGTHS = """
-- What does not fit says nothing of how long an answer is that does.
select count(*), avg(output) filter (not is_unfit), stddev_samp(output) filter (not is_unfit),
  quantile_cont(output, 0.99) filter (not is_unfit), count(*) filter (not is_unfit), avg(read + written),
  sum(read) / nullif(sum(read) + sum(written), 0), coalesce(bool_or(is_cut), false)
from answers
"""
MEANS = """
select count(*), avg(output) from answers where not is_unfit group by _bp_file
having count(*) filter (_attempt = 1) >= {fewest}
"""
HITS = """
select count(*), sum(read) / sum(read + written) from answers
where read + written > 0 group by _bp_file having count(*) >= {fewest}
"""


@dataclass(frozen=True)
class Lengths:
    """What earlier answers tell.

    Attributes:
        answers: how many there were.
        mean: output tokens of one, on average; None without answers.
        p99: output tokens that 99 of 100 do not pass; None with fewer than 30 answers.
        same_question: whether they are answers to the question that is asked now.
        cached: input tokens of one that were written to the cache or read from it, on average; None
            with fewer than 30 answers.
        hits: the share of these that was read, of what could be: the first request about a text can only
            write it.
        hits_least: the same in the batch with the smallest, of 30 answers or more, if that is more than chance
            makes of so many; it is what lies behind it, before the chance of the requests that are to come.
        billed: the share of requests that were answered; the others cost nothing.
        spread: the standard deviation of the output tokens.
        mean_most: the mean of these in the batch with the longest, of 30 first attempts or more, if that is more
            than chance makes of so many; it is what lies behind it, before the chance of the requests that are to
            come. None: it is not known, so it is the mean.
        hits_seen: `hits`; None: none of these had anything cached, so they do not tell it.
        allowed: output tokens that each was allowed, on average; None: it is not known.
        is_cut: whether some were cut short: how long these are, nobody knows.
    """

    answers: int = 0
    mean: float | None = None
    p99: float | None = None
    same_question: bool = False
    cached: float | None = None
    hits: float = 0.0
    hits_least: float = 0.0
    billed: float = 1.0
    spread: float = 0.0
    mean_most: float | None = None
    hits_seen: float | None = None
    allowed: float | None = None
    is_cut: bool = False

    def tell_of(self, tokens: float) -> bool:
        """Return whether they tell how long answers are that may have so many tokens."""
        return self.allowed is not None and tokens <= self.allowed

    def output_p99(self, requests: int) -> float | None:
        """Return the output tokens of one of so many requests, on average, hardly ever more.

        Long answers and short ones make up for each other, the better the more there are; of one request, the
        longest hundredth counts. None: it is not known.
        """
        if self.p99 is None or self.mean is None or not self.same_question:
            return None
        if requests <= 1:
            return self.p99
        chance = self.spread * math.hypot(
            1 / math.sqrt(max(requests, 1)), 1 / math.sqrt(self.answers)
        )
        most = self.mean if self.mean_most is None else self.mean_most
        return min(self.p99, (most + SURE * chance) * (1 + UNSEEN))

    def hits_p99(self, requests: int) -> float:
        """Return the share that so many requests read, hardly ever less.

        Whether a request finds the prompt in the cache is a draw: of few requests, more may be unlucky together, and
        few answers tell the share only about.
        """
        chance = math.hypot(
            _chance(self.hits_least, requests), _chance(self.hits_least, self.answers)
        )
        return max(0.0, self.hits_least - SURE * chance)


def _chance(share: float, requests: int) -> float:
    """Return the standard deviation of a share among so many requests; also where none has missed yet."""
    return math.sqrt((share * (1 - share) + 1 / max(requests, 1)) / max(requests, 1))


def most_mean(mean: float, spread: float, batches: Sequence[tuple[int, float]]) -> float:
    """Return the mean of the batch with the longest answers, if chance does not explain it.

    Args:
        mean: of all of them.
        spread: their standard deviation.
        batches: answers of each, and their mean.
    """
    behind = [longest - SURE * spread / math.sqrt(count) for count, longest in batches]
    return max([mean, *behind])


def least_hits(share: float, batches: Sequence[tuple[int, float]]) -> float:
    """Return the share that was read in the worst batch, if chance does not explain it.

    A batch that is no worse than chance makes of its size says nothing of the next ones: of many small ones,
    as those that ask again what failed, the worst is always bad.

    Args:
        share: of all of them.
        batches: answers of each, and the share that was read.
    """
    behind = [hits + SURE * _chance(share, count) for count, hits in batches]
    return min([share, *behind]) if batches else 0.0


NO_ANSWERS = Lengths()


def lengths_of(store: Store, pipeline: str, version: str, max_tokens: int = 1) -> Lengths:
    """Return how long the last answers of a pipeline were; those to the same question, if they are enough.

    And of these, if they are enough, those that were allowed as many tokens as now: others may have been cut short.

    Files that are lost or damaged tell nothing: this is for an estimate, and fails no run.
    """
    about = request_files.c.requests, request_files.c.weight, submissions.c.version
    rows = store.ledger.rows(
        select(request_files.c.results_path, *about)
        .join(submissions, submissions.c.id == request_files.c.submission_id)
        .where(
            request_files.c.pipeline == pipeline,
            request_files.c.kind == FileKind.BATCH,
            request_files.c.state == FileState.COLLECTED,
            request_files.c.results_path.is_not(None),
            request_files.c.batch_id.is_not(None),
        )
        .order_by(request_files.c.number.desc(), request_files.c.seq)
        .limit(RECENT_FILES)
    )
    same = [row for row in rows if row["version"] == version]
    as_long = [row for row in same if (_allowed(row) or 0) >= max_tokens]
    if 0 < len(as_long) < len(same):
        found = _read(store, as_long, same_question=True)
        if found.answers >= FEWEST:
            return found
    found = _read(store, same, same_question=True) if same else NO_ANSWERS
    if found.answers >= FEWEST or len(same) == len(rows):
        return found
    return _read(store, rows, same_question=False)


def _read(store: Store, rows: Sequence[RowMapping], *, same_question: bool) -> Lengths:
    try:
        with memory_connection() as connection:
            store.files.register(connection)
            files = quote_files([store.files.url(row["results_path"]) for row in rows])
            connection.execute(f"create temp table answers as {ANSWERS.format(files=files)}")
            [(answers, mean, spread, p99, fit, cached, hits, is_cut)] = connection.execute(
                LENGTHS
            ).fetchall()
            means = connection.execute(MEANS.format(fewest=FEWEST)).fetchall()
            batches = connection.execute(HITS.format(fewest=FEWEST)).fetchall()
    except (duckdb.Error, OSError):
        return NO_ANSWERS
    if answers < FEWEST:
        return Lengths(answers, same_question=same_question)
    if fit < FEWEST:
        mean = p99 = None
    spread = spread or 0.0
    asked, most = sum(row["requests"] for row in rows), read_most(rows)
    share = min(float(hits or 0) / most, 1.0)
    return Lengths(
        answers,
        mean,
        p99,
        same_question,
        cached,
        share,
        least_hits(share, [(count, min(float(one) / most, 1.0)) for count, one in batches]),
        min(answers / max(asked, 1), 1.0),
        spread,
        None if mean is None else most_mean(mean, spread, means),
        None if hits is None else share,
        min((each for each in map(_allowed, rows) if each is not None), default=None),
        is_cut,
    )


def _allowed(row: RowMapping) -> float | None:
    """Return the output tokens that a request of a file may have, on average; None: it is not known."""
    weight = row["weight"] or {}
    parts = [weight, *(weight.get("others") or ())]
    requests = sum(one.get("requests", 0) for one in parts)
    return sum(one.get("output_max", 0) for one in parts) / requests if requests else None


def read_most(rows: Sequence[RowMapping]) -> float:
    """Return the share of what was cached that could be read at best, in some request files."""
    cached = most = 0.0
    for row in rows:
        weight = row["weight"] or {}
        tokens = row["requests"] * weight.get("cached", 0)
        cached += tokens
        most += tokens * weight.get("read_most", 1.0)
    return most / cached if most else 1.0
