"""The variants of a question in the ledger: each is a scope of its own beside the partition.

The ledger's column `partition` holds both: the partition's key, and behind a mark that no key of Dagster can hold
the name of the variant. Without a variant it is the key alone, as it ever was.
"""

MARK = "\tvariant "
"""Dagster refuses a tab in the keys of partitions."""


ESCALATED = "+escalated"
"""What stands in the place of a variant's name where the better model of an escalation is asked.

No variant can be called so. Its rows have the keys of those of the first model, whose place they take in the table.
"""


def scope_name(partition: str, variant: str) -> str:
    """Return what the ledger calls a variant of a partition; the partition's key where there is no variant."""
    return f"{partition}{MARK}{variant}" if variant else partition


def asked_by(variant: str) -> str:
    """Return what begins a line about a variant, or about the better model; "" where there is nothing to tell apart."""
    if variant == ESCALATED:
        return "Escalated: "
    return f"Variant {variant}: " if variant else ""


def partition_of(name: str) -> str:
    """Return the partition's key of a name in the ledger; "" when there are no partitions."""
    return name.partition(MARK)[0]


def variant_of(name: str) -> str:
    """Return the variant of a name in the ledger; "" when there are none."""
    return name.partition(MARK)[2]


def shown(name: str) -> str:
    """Return a name in the ledger as people read it, such as `2026-03-01, variant short`."""
    partition, mark, variant = name.partition(MARK)
    what = "escalated" if variant == ESCALATED else f"variant {variant}"
    return ", ".join(part for part in (partition, what if mark else "") if part)
