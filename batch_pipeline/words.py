"""Words that messages are made of."""


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun: "1 batch", "2,000 files"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def sentence(text: str) -> str:
    """Return a text that ends in one full stop, whoever wrote it."""
    return text.rstrip(" .") + "."
