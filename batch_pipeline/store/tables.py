"""The ledger's tables and the states of a request file."""

from datetime import UTC, datetime
from enum import StrEnum

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

metadata = MetaData()


class FileState(StrEnum):
    """Where a request file stands. Each step is one committed transaction."""

    READY = "ready"  # written, not sent
    SENDING = "sending"  # one owner holds a lease and may be sending it right now
    UNKNOWN = "unknown"  # it was sent, or perhaps not: no reply. Reconciliation finds out
    IN_PROGRESS = "in_progress"  # the API gave it a batch id
    ENDED = "ended"  # the API is done with it
    COLLECTED = "collected"  # answers kept, rows and index written
    HELD = "held"  # a person must decide; the error says what
    SPLIT = "split"  # its parts stand in for it: too large for the API, or asked live and not to the end
    ASKING = "asking"  # late: its requests are asked one by one, through the Messages API


IN_QUEUE = (FileState.SENDING, FileState.UNKNOWN, FileState.IN_PROGRESS)
OPEN = (FileState.READY, *IN_QUEUE, FileState.ENDED, FileState.HELD, FileState.ASKING)

STEPS = {
    (FileState.READY, FileState.SENDING): "a sender takes it, if the queue has room",
    (FileState.READY, FileState.IN_PROGRESS): "about to be sent again, its batch turned up",
    (FileState.READY, FileState.ENDED): "withdrawn by a person",
    (FileState.READY, FileState.HELD): "the table has answers to it that the store lost",
    (FileState.SENDING, FileState.READY): "the API turned it away for now (429, not reached)",
    (FileState.SENDING, FileState.UNKNOWN): "no reply, a 5xx, or the sender is gone",
    (FileState.SENDING, FileState.IN_PROGRESS): "accepted, the batch id is stored",
    (FileState.SENDING, FileState.HELD): "the API refuses this file (4xx)",
    (FileState.SENDING, FileState.SPLIT): "too large (413), its halves stand in for it",
    (FileState.UNKNOWN, FileState.IN_PROGRESS): "its batch was found, or its sender woke up",
    (FileState.UNKNOWN, FileState.READY): "the list has no such batch, so send again",
    (FileState.UNKNOWN, FileState.ENDED): "never accepted, and withdrawn meanwhile",
    (FileState.UNKNOWN, FileState.HELD): "on_unknown is hold, or a candidate is unreadable",
    (FileState.HELD, FileState.READY): "a person says to send it again",
    (FileState.HELD, FileState.IN_PROGRESS): "its batch was found after all",
    (FileState.HELD, FileState.UNKNOWN): "the candidate was not ours, so reconcile again",
    (FileState.HELD, FileState.ENDED): "a person gives it up, it ends without answers",
    (FileState.IN_PROGRESS, FileState.ENDED): "the API is done with the batch, or it is gone",
    (FileState.IN_PROGRESS, FileState.HELD): "only the reply named its batch, which no list shows",
    (FileState.READY, FileState.ASKING): "late, so its requests are asked live",
    (FileState.ASKING, FileState.ENDED): "each of its requests has its reply",
    (FileState.ASKING, FileState.SPLIT): "some have no reply: its parts stand in for it",
    (FileState.ENDED, FileState.COLLECTED): "answers kept, rows and index written",
}
"""The only steps there are, and why each is taken; anything else is a programming error and raises."""


NOT_RESULTS = "not one result of this batch is in it"
"""Words in the error of an ended file of which the API gives something else than results."""
WAITS = "That needs you"
"""Words in it, too, once that has lasted for an hour: nothing is concluded from it without a person."""


class FileKind(StrEnum):
    """What a row of ``request_files`` stands for."""

    BATCH = "batch"  # requests for the API
    REJECTED = "rejected"  # records that cannot be asked, with the reason of each
    REUSED = (
        "reused"  # records whose answer is known, from earlier or by a rule, and keys that are gone
    )
    LATE = "late"  # a second batch of a file that was sent again: adopted for what it answered


class Instant(TypeDecorator):
    """An aware UTC datetime, stored without zone so that every database keeps it alike."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect) -> datetime | None:
        """Store UTC."""
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect) -> datetime | None:
        """Read UTC."""
        return None if value is None else value.replace(tzinfo=UTC)


LIVE = "live_"
"""How the batch id of a file begins whose requests were asked live: no batch of the API is called so."""


def is_live(batch_id: str | None) -> bool:
    """Whether a batch id stands for requests that were asked live, at full price."""
    return batch_id is not None and batch_id.startswith(LIVE)


meta = Table(
    "meta",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

endpoints = Table(
    "endpoints",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("base_url", Text, nullable=False),
    Column("organization", Text, nullable=False),
    Column("workspace", Text, nullable=False),
    Column("polled_at", Instant),
    Column("polled_by", String(200)),  # the pipeline whose sensor did, if one did
)

# The last look each pipeline took at an endpoint: fifty sensors share one listing an interval.
looks = Table(
    "looks",
    metadata,
    Column("endpoint_id", String(32), primary_key=True),
    Column("pipeline", String(200), primary_key=True),
    Column("at", Instant, nullable=False),
)

generations = Table(
    "generations",
    metadata,
    Column("pipeline", String(200), primary_key=True),
    Column("partition", String(500), primary_key=True),
    Column("generation", BigInteger, nullable=False),
)

numbers = Table(
    "numbers",
    metadata,
    Column("pipeline", String(200), primary_key=True),
    Column("last", BigInteger, nullable=False),
)

submissions = Table(
    "submissions",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("pipeline", String(200), nullable=False),
    Column("partition", String(500), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("state", String(20), nullable=False),  # selected | built | abandoned
    Column("endpoint_id", String(32), nullable=False),
    Column("version", String(64), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("records_path", Text),
    Column("index_path", Text),
    Column("counts", JSON, nullable=False),  # what the selection found
    Column("question", JSON),  # what an answer must look like, as it was asked
    Column("requests", BigInteger, nullable=False, default=0),
    Column("bytes", BigInteger, nullable=False, default=0),
    Column("rejected_path", Text),
    Column("rejected", BigInteger, nullable=False, default=0),
    Column("estimate_nanousd", BigInteger),
    Column("retryable", BigInteger, nullable=False, default=0),
    Column("retried_at", Instant),  # a later selection has looked at its retryable rows
    Column("verified_at", Instant),  # every record accounted for
    UniqueConstraint("pipeline", "number"),
    Index("submissions_by_pipeline", "pipeline", "partition", "state"),
)

# What the last selection of each partition found in the source, also if nothing needed an answer.
sources = Table(
    "sources",
    metadata,
    Column("pipeline", String(200), primary_key=True),
    Column("partition", String(500), primary_key=True),
    Column("number", BigInteger, nullable=False),  # of its submission; 0: there is none
    Column("at", Instant, nullable=False),
    Column("counts", JSON, nullable=False),
)

request_files = Table(
    "request_files",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("submission_id", String(64), nullable=False),
    Column("pipeline", String(200), nullable=False),
    Column("partition", String(500), nullable=False),
    Column("endpoint_id", String(32), nullable=False),
    Column("number", BigInteger, nullable=False),  # the submission's
    Column("seq", Integer, nullable=False),
    Column("kind", String(20), nullable=False),
    Column("path", Text),
    Column("requests", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("first_row", BigInteger, nullable=False),
    Column("last_row", BigInteger, nullable=False),
    Column("state", String(20), nullable=False),
    Column("owner", String(64)),  # who sends or collects it now
    Column("lease_until", Instant),
    Column("attempts", Integer, nullable=False, default=0),
    Column("first_sent_at", Instant),
    Column("sent_at", Instant),
    Column("attempt_ended_at", Instant),
    Column("resent_at", Instant),
    Column("watch_until", Instant),  # a batch of an earlier attempt may still turn up
    Column("not_before", Instant),
    Column("error", Text),
    Column("batch_id", String(200), unique=True),
    Column("batch_created_at", Instant),
    Column("expires_at", Instant),
    Column("ended_at", Instant),
    Column("answered", BigInteger),  # lines the API says the results have
    Column("absent_since", Instant),  # the API says that it knows no such batch
    Column("cancel_requested_at", Instant),  # by a person: what is not answered yet is not wanted
    Column("cancel_sent_at", Instant),  # the API took note of it
    Column("downloads", Integer, nullable=False, default=0),
    Column("first_download_at", Instant),
    Column("answers_path", Text),
    Column("damaged", Boolean, nullable=False, default=False),
    Column("results_path", Text),
    Column("index_path", Text),
    Column("statuses", JSON),
    Column("tokens", JSON),
    Column("cost_nanousd", BigInteger),
    Column("cost_unknown", BigInteger),  # answers whose price is not known
    Column("retryable", BigInteger),
    Column("collected_at", Instant),
    Column("published_at", Instant),
    Column(
        "weight", JSON(none_as_null=True)
    ),  # tokens of its requests, from which any price follows; see requests/weight.py
    Column("label", String(200)),  # of the key that sent it last
    Index("request_files_by_endpoint", "endpoint_id", "state"),
    Index("request_files_by_pipeline", "pipeline", "partition", "state"),
    Index("request_files_by_submission", "submission_id"),
    # What is open, not in the table, watched, or of this month is looked up at every tick, and is little
    # of a long history.
    Index(
        "request_files_by_state", "pipeline", "state", "published_at", "partition", "submission_id"
    ),
    Index("request_files_by_watch", "pipeline", "watch_until"),
    Index("request_files_by_end", "pipeline", "ended_at", "collected_at"),
)

# Requests of a file that is asked live: written before each call, the reply after it. One without a reply
# whose asker is gone may have been paid, and nobody knows.
live_requests = Table(
    "live_requests",
    metadata,
    Column("file_id", String(64), primary_key=True),
    Column("custom_id", String(200), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("asked_at", Instant, nullable=False),
    Column("replied_at", Instant),
    Column("line", LargeBinary),  # as a batch's results would have it; until they are in the store
    Column("error", Text),  # why there is no reply
)

# How the requests of a question become tokens, as the API counted a sample of them.
token_rates = Table(
    "token_rates",
    metadata,
    Column("pipeline", String(200), primary_key=True),
    Column("question", String(64), primary_key=True),  # a hash of what its requests have in common
    Column("at", Instant, nullable=False),
    Column("each", Float, nullable=False),
    Column("per_byte", Float, nullable=False),
    Column("error", Float, nullable=False),
    Column("sample", Integer, nullable=False),
    Column("shared", Integer),
)

# What may have to be paid for one attempt to send a file, from before it is sent until it is known.
reservations = Table(
    "reservations",
    metadata,
    Column("file_id", String(64), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("submission_id", String(64), nullable=False),
    Column("pipeline", String(200), nullable=False),
    Column("endpoint_id", String(32), nullable=False),
    Column("nanousd", BigInteger),  # None: no price is known
    Column("caps", JSON(none_as_null=True)),  # the caps that it was found to fit into
    Column("sent_at", Instant),  # decides the month; None: set aside for what is to be sent
    Column("until", Instant),  # of an attempt in doubt: after this no batch of it turns up
    Column("settled_nanousd", BigInteger),  # what it cost; None: not known yet
    Column("settled_at", Instant),
    Index("reservations_by_endpoint", "endpoint_id", "sent_at"),
    Index("reservations_by_pipeline", "pipeline", "sent_at"),
    Index("reservations_by_submission", "submission_id"),
)

# Submissions that a cap holds back, with the figures; and who let them through, and when.
approvals = Table(
    "approvals",
    metadata,
    Column("submission_id", String(64), primary_key=True),
    Column("pipeline", String(200), nullable=False),
    Column("partition", String(500), nullable=False),
    Column("endpoint_id", String(32), nullable=False),
    Column("number", BigInteger, nullable=False),  # the submission's
    Column("since", Instant, nullable=False),
    Column("over", String(20), nullable=False),  # hold: a person decides | trim: it waits for room
    Column("cap", String(40), nullable=False),  # which one, as it is declared
    Column("cap_nanousd", BigInteger, nullable=False),
    Column("spent_nanousd", BigInteger, nullable=False),
    Column("reserved_nanousd", BigInteger, nullable=False),
    Column("asked_nanousd", BigInteger),  # None: no price is known
    Column("reason", Text, nullable=False),
    Column("approved_at", Instant),
    Column("approved_by", Text),
    Column("used_at", Instant),  # when that let it through
    Index("approvals_by_pipeline", "pipeline"),
)

# Batches of the list that might be a file of ours, until their results prove whose they are.
candidates = Table(
    "candidates",
    metadata,
    Column("endpoint_id", String(32), primary_key=True),
    Column("batch_id", String(200), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("verdict", String(20), nullable=False),  # open | ours | foreign | unreadable
    Column("file_id", String(64)),
    Column("seen_at", Instant, nullable=False),
    Column("unreadable_since", Instant),  # its results could not be read, from then until read_at
    Column("read_at", Instant),
)

transitions = Table(
    "transitions",
    metadata,
    Column(
        "id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    ),
    Column("file_id", String(64), nullable=False),
    Column("pipeline", String(200), nullable=False),
    Column("partition", String(500), nullable=False),
    Column("at", Instant, nullable=False),
    Column("from_state", String(20)),
    Column("to_state", String(20), nullable=False),
    Column("note", Text, nullable=False),
    Index("transitions_by_pipeline", "pipeline", "id"),
)

holds = Table(
    "holds",
    metadata,
    Column("pipeline", String(200), primary_key=True),
    Column("endpoint_id", String(32), primary_key=True),
    Column("reason", Text, nullable=False),
    Column("since", Instant, nullable=False),
)

# The last look at the API found that it refuses the key or the account of a pipeline.
refusals = Table(
    "refusals",
    metadata,
    Column("pipeline", String(200), primary_key=True),
    Column("base_url", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("since", Instant, nullable=False),
    Column("seen_at", Instant, nullable=False),  # last
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(300), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("until", Instant, nullable=False),
)
