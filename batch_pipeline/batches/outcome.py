"""What a call to the API may end with, besides an answer: each says what is known about the money."""

from batch_pipeline.errors import BatchPipelineError, HeldError


class NotAccepted(BatchPipelineError):
    """The API did not take the batch, for a reason that passes: it was busy, or not reached at all."""

    def __init__(
        self, message: str, retry_after: float | None = None, *, on_its_word: bool = False
    ):
        """Make one; ``on_its_word``: the API itself said so, and nothing else proves it."""
        super().__init__(message)
        self.retry_after = retry_after
        self.on_its_word = on_its_word


class OutcomeUnknown(BatchPipelineError):
    """No reply, or one that proves nothing: the batch may exist and be paid for."""


class PipelineRefused(HeldError):
    """The API refuses this account or key (401, 402, 403, a spend limit): no file of it can be sent."""


class KeyRefused(PipelineRefused):
    """The API refuses a look for the sake of the key or its account: 401, 402, 403."""


class FileRefused(HeldError):
    """The API will not take this request file as it is (any other 4xx)."""


class FileDamaged(HeldError):
    """The store's request file is not what was written; nothing of it was sent."""


class FileTooLarge(BatchPipelineError):
    """413: the API wants smaller batches."""


class ApiUnavailable(BatchPipelineError):
    """A look at the API failed for a reason that passes. Nothing was changed."""


class RequestRefused(ApiUnavailable):
    """The API does not count a request's tokens because of what is in it: ``said`` are its words.

    ``kind`` is the type of its error: ``invalid_request_error``, ``not_found_error``.
    """

    def __init__(self, message: str, kind: str, said: str):
        super().__init__(message)
        self.kind = kind
        self.said = said


class NoSuchBatch(BatchPipelineError):
    """The API knows no batch of this id, or no longer has its results."""
