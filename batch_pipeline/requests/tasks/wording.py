"""The words of a task's prompts: Jinja text that prints a column, or a text as it stands."""

import re
from collections.abc import Sequence
from keyword import iskeyword

import orjson
from jinja2 import nodes

from batch_pipeline.errors import InputError
from batch_pipeline.requests.prompt import Prompt

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MARKS = re.compile(r"\{[{%#]")
_OTHERWISE = frozenset(
    ("true", "false", "none", "self", "super", "loop", "caller", "range", "dict", "namespace")
)
"""Names that mean something else than a column in Jinja."""


def literal(text: str) -> str:
    """Return Jinja text that prints this text as it stands, whatever marks of Jinja are in it."""
    return _MARKS.sub(lambda mark: f'{{{{ "{mark[0]}" }}}}', text)


def shown_texts(source: str, where: str) -> list[str]:
    """Return the parts of Jinja text that are printed whatever a record holds.

    Args:
        source: the text.
        where: what it is to the user, for errors.

    Raises:
        InputError: it is not valid Jinja.
    """
    parts = [""]
    for output in Prompt(source, where).tree().find_all(nodes.Output):
        for node in output.nodes:
            match node:
                case nodes.TemplateData(data=str() as text) | nodes.Const(value=str() as text):
                    parts[-1] += text
                case _:
                    parts.append("")
        parts.append("")
    return parts


def is_told(text: str, shown: Sequence[str]) -> bool:
    """Return whether a text stands in one of those that are shown, in words of its own."""
    words = re.escape(text.replace("\r\n", "\n").replace("\r", "\n"))  # as Jinja reads a text
    return any(re.search(rf"(?<!\w){words}(?!\w)", one) for one in shown)


def column_names(column: object) -> tuple[str, ...]:
    """Return the names that `column` says: one, or several.

    Raises:
        InputError: it is no name, and no list of names.
    """
    names = [column] if isinstance(column, str) else column
    if isinstance(names, Sequence) and not names:
        raise InputError(
            "column is missing: name the column to be read, or several; or give a prompt."
        )
    if not isinstance(names, Sequence):
        raise InputError(
            f"column is {column!r}; it must be the name of the column to be read, or a list of names."
        )
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"column: {name!r} is no name of a column. Quote it in YAML.")
    return tuple(dict.fromkeys(names))


def column_value(name: str) -> str:
    """Return the Jinja expression that is the value of a column, whatever its name."""
    plain = _PLAIN.fullmatch(name) and not iskeyword(name) and name not in _OTHERWISE
    return name if plain else f"record[{orjson.dumps(name).decode()}]"


def prompt_of(names: Sequence[str]) -> str:
    """Return a prompt that shows these columns; blank where they hold nothing, so nothing is asked."""
    values = [column_value(name) for name in names]
    if len(values) == 1:
        return f"{{{{ {values[0]} }}}}"
    lines = (
        f"{literal(name)}: {{{{ {value} }}}}" for name, value in zip(names, values, strict=True)
    )
    whole = "\n".join(lines)
    return f"{{% if ({' ~ '.join(values)}) | trim %}}{whole}{{% endif %}}"


def check_text(value: object, where: str) -> str:
    """Return a text of one line or more, as it is.

    Raises:
        InputError: it is none, or blank; a hint says how YAML reads what was written.
    """
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, bool):
        raise InputError(
            f"{where} is {value!r}; it must be a text. YAML reads yes, no, on, off and the like (NO for "
            'Norway) as true or false unless they are quoted: write "yes", "no".'
        )
    hint = " In YAML, quote it." if value is not None and not isinstance(value, str) else ""
    raise InputError(f"{where} is {value!r}; it must be a text.{hint}")
