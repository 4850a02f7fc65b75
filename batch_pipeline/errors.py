"""The errors a user can act on. Each message says what is wrong, where, and what to do next."""


class BatchPipelineError(Exception):
    """Anything this package raises on purpose; its text is written for the person who must act."""


class InputError(BatchPipelineError):
    """What the user declared or the source holds cannot be used. Raised before any money is spent."""


class HeldError(BatchPipelineError):
    """Paid work waits for a person: the text says what happened and what to do."""


class StoreError(BatchPipelineError):
    """The store's root or its ledger cannot be used as it is."""
