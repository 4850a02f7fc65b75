"""Where a submission's files lie under the store's root: a folder that tells its own story.

<pipeline>/<submission>/records.parquet         the selected records as they were
<pipeline>/<submission>/requests/00000-*.jsonl  a request a line, one file per batch
<pipeline>/<submission>/requests/*.parquet      the records that could not be asked
<pipeline>/<submission>/sent/00000-0001         that a file is about to be sent: a note per attempt
<pipeline>/<submission>/live/00000              that the requests of a file are about to be asked live
<pipeline>/<submission>/report/00-done         that its report was sent, to the first address: or a try
<pipeline>/<submission>/answers/00000-*.jsonl   what the API returned, byte for byte
<pipeline>/<submission>/results/00000-*.parquet joined, typed, judged rows
<pipeline>/<submission>/index/*.parquet         all that selection reads
<pipeline>/<submission>/manifest-00025.json     what the ledger says of it, when it had that many files
<pipeline>/labels/20260301T230000-1a2b3c.parquet  labels that people gave: key and label
<pipeline>/scores/20260301T230000-1a2b3c.parquet  how good the answers were then: a figure a row
<pipeline>/compacted/20260301T230000-1a2b3c.parquet  the rows of many index files, which stay
<pipeline>/contents/20260301T230000-1a2b3c.parquet   what records said the last time, as hashes
<pipeline>/renamed-to-<pipeline>-1a2b3c.json      which submissions went over to a new name
ledger.json                                     which ledger all this belongs to
"""

import hashlib
import re
import secrets
from datetime import datetime

OWNER = "ledger.json"
SAFE_PART = re.compile(r"[A-Za-z0-9_-]{1,100}")


def new_submission_id(now: datetime) -> str:
    """Return a folder name that sorts by time and is nobody else's."""
    return f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"


def safe_part(text: str) -> str:
    """Return a part for a file name that stands for ``text``, which may come from anywhere.

    Up to 100 letters, digits, underscores and hyphens stay as they are. Any other text (an id with
    slashes, or of 10,000 characters) becomes ``sha256.`` and 32 hex digits of its hash: the same
    text always gives the same part, and the dot keeps the two kinds apart.
    """
    if SAFE_PART.fullmatch(text):
        return text
    return f"sha256.{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:32]}"


def submission_folder(pipeline: str, submission: str) -> str:
    """Return the folder of a submission."""
    return f"{pipeline}/{submission}"


def records_name(pipeline: str, submission: str) -> str:
    """Return the name of the selected records."""
    return f"{pipeline}/{submission}/records.parquet"


def request_name(pipeline: str, submission: str, part: str) -> str:
    """Return the name of a request file."""
    return f"{pipeline}/{submission}/requests/{part}.jsonl"


def sent_name(pipeline: str, submission: str, seq: int, attempt: int) -> str:
    """Return the name of the note that a request file is about to be sent."""
    return f"{pipeline}/{submission}/sent/{seq:05d}-{attempt:04d}"


def live_name(pipeline: str, submission: str, seq: int) -> str:
    """Return the name of the note that the requests of a file are about to be asked live."""
    return f"{pipeline}/{submission}/live/{seq:05d}"


def report_name(pipeline: str, submission: str, note: str | None = None) -> str:
    """Return the name of a note on the submission's report, or of their folder."""
    return f"{pipeline}/{submission}/report" + (f"/{note}" if note else "")


def rejected_name(pipeline: str, submission: str, part: str) -> str:
    """Return the name of the list of records that could not be asked."""
    return f"{pipeline}/{submission}/requests/{part}.parquet"


def answers_name(pipeline: str, submission: str, part: str) -> str:
    """Return the name of a batch's kept answers."""
    return f"{pipeline}/{submission}/answers/{part}.jsonl"


def results_name(pipeline: str, submission: str, part: str) -> str:
    """Return the name of a batch's joined rows."""
    return f"{pipeline}/{submission}/results/{part}.parquet"


def index_name(pipeline: str, submission: str, part: str) -> str:
    """Return the name of an index file."""
    return f"{pipeline}/{submission}/index/{part}.parquet"


def manifest_name(pipeline: str, submission: str, files: int) -> str:
    """Return the name of a submission's manifest."""
    return f"{pipeline}/{submission}/manifest-{files:05d}.json"


def renamed_name(pipeline: str, to: str, part: str) -> str:
    """Return the name of the note that says that a pipeline was renamed."""
    return f"{pipeline}/renamed-to-{to}-{part}.json"


def table_name(pipeline: str) -> str:
    """Return the folder of the results table of a pipeline that has no destination of its own."""
    return f"{pipeline}/table"


def compacted_name(pipeline: str, part: str | None = None) -> str:
    """Return the name of a file with the rows of many index files, or of their folder."""
    return f"{pipeline}/compacted" + (f"/{part}.parquet" if part else "")


def contents_name(pipeline: str, part: str | None = None) -> str:
    """Return the name of a file of what the records of a source said, or of their folder."""
    return f"{pipeline}/contents" + (f"/{part}.parquet" if part else "")


def labels_name(pipeline: str, part: str | None = None) -> str:
    """Return the name of a file of labels that people gave, or of their folder."""
    return f"{pipeline}/labels" + (f"/{part}.parquet" if part else "")


def scores_name(pipeline: str, part: str) -> str:
    """Return the name of a file of scores."""
    return f"{pipeline}/scores/{part}.parquet"
