"""What passing trouble of a disk or an object store means, in words for the person who must act."""

import errno
import re

from batch_pipeline.errors import BatchPipelineError, StoreError, plain

FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_WORDS = re.compile(
    r"no space left on device|disk is full|disk quota exceeded|max_temp_directory_size", re.I
)
BUSY_WORDS = re.compile(
    r"slow ?down|reduce your request rate|throttl|too many requests|service ?unavailable|"
    r"internal ?error|http get error|http 5\d\d|http error|\b50[0234]\b|connection.{0,20}(reset|refused|closed)",
    re.I,
)
OBJECT_STORES = ("botocore", "aiobotocore", "s3fs", "gcsfs", "adlfs", "google", "azure", "aiohttp")
FILE = re.compile(r"""["']((?:/|[A-Za-z]:\\|\w+://)[^"'\\]+)["']""")


def meaning_of(error: BaseException) -> BatchPipelineError | None:
    """Return what an error of a disk or an object store means; None when it is another one.

    Args:
        error: as the operating system, DuckDB or the client of an object store raised it.
    """
    text = plain(str(error))
    if (isinstance(error, OSError) and error.errno in FULL) or FULL_WORDS.search(text):
        return StoreError(
            f"There is no room left on a disk{_where(error, text)} ({text}). What was written so far and is not "
            "complete does not count, and what the ledger knows stays as it is. Free some where the store, its "
            "ledger, the destination, and temporary files are (TMPDIR, else the system's; DuckDB writes there what "
            "does not fit into memory), then run this again."
        )
    if _is_of_object_store(error, text) and BUSY_WORDS.search(f"{type(error).__name__} {text}"):
        return StoreError(
            f"The object store does not do its work at the moment{_where(error, text)} ({text}). What is not "
            "complete does not count, and nothing is sent twice for it. It is tried again at the next run; if it "
            "goes on, look at the bucket's request limits and at the provider's status page."
        )
    return None


def _is_of_object_store(error: BaseException, text: str) -> bool:
    modules = {kind.__module__.split(".")[0] for kind in type(error).__mro__}
    causes = [error.__cause__, error.__context__]
    modules |= {type(cause).__module__.split(".")[0] for cause in causes if cause is not None}
    return (
        bool(modules & {*OBJECT_STORES})
        or type(error).__name__ == "HTTPException"
        or bool(re.search(r"\b(s3|s3a|gs|gcs|az|abfss?|r2)://", text))
    )


def _where(error: BaseException, text: str) -> str:
    name = getattr(error, "filename", None)
    found = FILE.search(text)
    shown = name if isinstance(name, str) else found.group(1) if found else ""
    return f", at {plain(shown)}" if shown else ""
