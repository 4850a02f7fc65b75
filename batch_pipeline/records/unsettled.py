"""What a first model does not settle, as it is declared: words and SQL conditions, and a sample."""

from dataclasses import dataclass

STATUSES = ("invalid", "refused", "truncated")
"""The words for a status: after all attempts, this is what came of a record."""
AUDIT = "audit"
"""Why the better model is asked about a record of the sample."""


@dataclass(frozen=True)
class Unsettled:
    """What the first model does not settle.

    Attributes:
        when: words of ``STATUSES``, and SQL conditions over the columns of a results row; the first that
            holds says why.
        audit: the share of the answered records that is asked of both, by a hash of their key.
    """

    when: tuple[str, ...]
    audit: float

    @property
    def conditions(self) -> tuple[str, ...]:
        """Those of ``when`` that are SQL."""
        return tuple(one for one in self.when if one not in STATUSES)
