"""The errors a user can act on, and the words that messages are made of.

Each message says what is wrong, where, and what to do next.
"""

MOST_SHOWN = 500


def plain(text: str) -> str:
    """Return words from outside as one line that can do nothing to a log or a terminal.

    At most 500 characters of them.
    """
    shown = "".join(c if c.isprintable() else " " for c in text[: 4 * MOST_SHOWN])
    return " ".join(shown.split())[:MOST_SHOWN]


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun: "1 batch", "2,000 files"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def sentence(text: str) -> str:
    """Return a text that ends in one full stop, whoever wrote it."""
    return text.rstrip(" .") + "."


class BatchPipelineError(Exception):
    """Anything this package raises on purpose; its text is written for the person who must act."""


class InputError(BatchPipelineError):
    """What the user declared or the source holds cannot be used. Raised before any money is spent."""


class HeldError(BatchPipelineError):
    """Paid work waits for a person: the text says what happened and what to do."""


class StoreError(BatchPipelineError):
    """The store's root or its ledger cannot be used as it is."""


class LostFileError(StoreError):
    """A file of the store is gone or damaged; it may be possible to make it again."""
