"""A refusal that many requests share: told once, with the field of the pipeline to change."""

from collections.abc import Mapping

from batch_pipeline.errors import counted

FEWEST = 2  # requests that share it
# What the API's message begins with, and who says that in a pipeline.
FIELDS = {
    "model": "`model` of the MessageTemplate",
    "max_tokens": "`max_tokens` of the MessageTemplate",
    "system": "`system` of the MessageTemplate",
    "messages": "`prompt` of the MessageTemplate (or what `build` returns)",
    "output_config": "`output` of the MessageTemplate",
    "output_format": "`output` of the MessageTemplate",
    "cache_control": "`cache` of the MessageTemplate",
}


def field_of(message: str) -> str | None:
    """Return the field that an API's message is about: ``messages.0.content: ...`` is about the prompt.

    Args:
        message: of an ``invalid_request_error`` or its like; what stands before its first colon is a
            path in the request.

    Returns:
        What a person knows it by; None when the message names no field.
    """
    path, colon, _ = message.partition(":")
    name = path.split(".")[0].split("[")[0].strip()
    if not colon or not name.isidentifier():
        return None
    return FIELDS.get(name, f"`params[{name!r}]` of the MessageTemplate (or what `build` returns)")


def shared_refusal(refusals: Mapping[str, int], asked: int) -> str | None:
    """Return what is said of the refusal that all requests of a run have in common.

    Args:
        refusals: how many requests the API refused, by its message.
        asked: all requests that came back.

    Returns:
        A message for the one refusal that all of them got; None when they differ.
    """
    if len(refusals) != 1:
        return None
    ((message, times),) = refusals.items()
    if times < max(asked, FEWEST):
        return None
    field = field_of(message)
    change = f"Change {field}" if field else "Change what the message names"
    return (
        f"The API refused all {counted(times, 'request')} for one reason: {message.rstrip('.')}. {change}: "
        "the next submit run asks them again. Nothing was billed, and no attempt is counted."
    )
