"""Prompt text: sandboxed Jinja over one record, whose values are data and never templates."""

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from difflib import get_close_matches
from typing import Any
from uuid import UUID

import orjson
from jinja2 import StrictUndefined, TemplateSyntaxError, Undefined, meta, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import TemplateRuntimeError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from batch_pipeline.errors import InputError
from batch_pipeline.requests.filters import concatenated, install
from batch_pipeline.requests.template_values import NULL, Null, template_value

CALLED = "call"
"""The context of an attribute that is called."""
RECORD = "record"
"""The variable that holds the whole record: ``{{ record["a column"] }}`` reaches any name."""


def text_of(value: Any) -> str:
    """Return the text a template prints for a value.

    Text as it is; NULL as nothing; true and false; dates and times in ISO 8601; a decimal without
    exponent; a list, struct or map as compact JSON; binary data as DuckDB prints it.

    Raises:
        TemplateRuntimeError: the value has no text (a function).
    """
    match value:
        case str():
            return str(value)
        case None | Null():
            return ""
        case bool():
            return "true" if value else "false"
        case int() | float() | UUID():
            return str(value)
        case Decimal():
            return format(value, "f")
        case datetime() | date() | time():
            return value.isoformat()
        case Mapping() | Sequence() if not isinstance(value, bytes | bytearray | memoryview):
            return _json(value)
        case bytes() | bytearray() | memoryview():
            return _blob_text(bytes(value))
    if callable(value):
        raise TemplateRuntimeError(
            f'a function ({value!r}) was printed; a column of that name is record["name"]'
        )
    return str(value)


def _json(value: Any) -> str:
    option = orjson.OPT_NON_STR_KEYS
    try:
        return orjson.dumps(value, default=_json_default, option=option).decode()
    except TypeError:  # a key of a map that JSON has no text for, such as a decimal
        texts = _with_text_keys(value)
        return orjson.dumps(texts, default=_json_default, option=option).decode()


def _with_text_keys(value: Any) -> Any:
    match value:
        case Mapping():
            return {
                key if isinstance(key, str) else text_of(key): _with_text_keys(inner)
                for key, inner in value.items()
            }
        case list() | tuple():
            return [_with_text_keys(inner) for inner in value]
    return value


def _blob_text(value: bytes) -> str:
    """Return binary data as DuckDB prints it: what is not plain ASCII as \\xNN."""
    quoted = b"\"'\\"
    return "".join(
        chr(byte) if 32 <= byte <= 126 and byte not in quoted else f"\\x{byte:02X}"
        for byte in value
    )


def _json_default(value: Any) -> Any:
    return None if isinstance(value, Null) else text_of(value)


def _printed(value: Any) -> Any:
    return value if isinstance(value, Undefined) else text_of(value)


class _Code(CodeGenerator):
    """What a template compiles to, where a record's values need other words than Jinja's."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        """``a ~ b`` joins what ``{{ }}`` prints."""
        self.write("environment.concatenated((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_Getattr(self, node: nodes.Getattr, frame: Frame) -> None:
        """``basket.items`` is the field, ``basket.items()`` the method."""
        self.write("environment.method(" if _is_called(node) else "environment.getattr(")
        self.visit(node.node, frame)
        self.write(f", {node.attr!r})")


class _Environment(ImmutableSandboxedEnvironment):
    code_generator_class = _Code

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for call in tree.find_all(nodes.Call):
            if isinstance(call.node, nodes.Getattr):
                call.node.ctx = CALLED
        return tree

    def getitem(self, obj: Any, argument: Any) -> Any:
        return NULL if isinstance(obj, Null) else super().getitem(obj, argument)

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return self.method(obj, attribute)

    def method(self, obj: Any, attribute: str) -> Any:
        """Return an attribute that is called: a method before a field."""
        return NULL if isinstance(obj, Null) else super().getattr(obj, attribute)

    @staticmethod
    def concatenated(parts: Sequence[Any]) -> str:
        """Return what ``a ~ b`` prints."""
        return concatenated(parts, text_of)


def _is_called(node: nodes.Getattr) -> bool:
    return node.ctx == CALLED


def _environment() -> _Environment:
    made = _Environment(
        undefined=StrictUndefined,
        autoescape=False,
        finalize=_printed,
        keep_trailing_newline=True,
    )
    made.tests["none"] = lambda value: value is None or isinstance(value, Null)
    install(made, text_of)
    # Chance has no place in a text that decides whether a record is asked again.
    del made.globals["lipsum"], made.filters["random"]
    return made


_ENVIRONMENT = _environment()
_PARTED = re.compile(r"^(STRUCT|MAP|UNION|VARIANT|JSON)|\]$", re.IGNORECASE)
"""The types of columns whose values may have parts with names."""
_OTHER_FILES: dict[type[nodes.Node], str] = {
    nodes.Include: "include",
    nodes.Extends: "extends",
    nodes.Import: "import",
    nodes.FromImport: "import",
}
"""Jinja's words that read another template: there is nothing to read one from."""


class Prompt:
    """One Jinja text and the names it reads.

    Args:
        source: the text.
        where: what it is to the user (``prompt``, ``system``, ``messages[0]``), for errors.

    Attributes:
        names: the variables it reads, without Jinja's own functions.
        reads_nothing: it is the same for every record.

    Raises:
        InputError: the text is not valid Jinja; the message names the line.
    """

    def __init__(self, source: str, where: str):
        self.source = source
        self.where = where
        try:
            tree = _ENVIRONMENT.parse(source)
            self.names = frozenset(meta.find_undeclared_variables(tree))
            self._template = _ENVIRONMENT.from_string(source)
        except TemplateSyntaxError as error:
            raise InputError(f"{where}, line {error.lineno}: {error.message}") from error
        for node in tree.find_all(tuple(_OTHER_FILES)):
            raise InputError(
                f"{where}, line {node.lineno}: an {_OTHER_FILES[type(node)]} reads another file, and"
                " a text stands for itself here. Put its text here, or join the texts in Python."
            )
        self._keys, self._hidden, self._whole = _record_keys(tree)
        self._quoted = _quoted_keys(tree)
        self.reads_nothing = not self.names - set(_ENVIRONMENT.globals)

    def columns(self, available: Mapping[str, str]) -> set[str]:
        """Return the columns this text reads, of those available.

        Args:
            available: the source's columns with their types.

        Raises:
            InputError: it reads one that does not exist; the message names a close match.
        """
        hidden = self._quoted and RECORD in self.names
        if hidden and not _PARTED.search(available.get(RECORD, "STRUCT()")):
            raise InputError(
                f"{self.where} reads {RECORD}[{self._quoted[0]!r}], but the source has a column {RECORD} "
                f"({available[RECORD]}), which is what {RECORD} means here. Give that column another name in the "
                f'source\'s query: select * rename ("{RECORD}" as ...).'
            )
        whole = RECORD in self.names and RECORD not in available
        read = self.names - ({RECORD} if whole else set())
        if whole:
            read |= self._keys | (self._hidden & set(available))
        for name in sorted(read - set(available)):
            if name in _ENVIRONMENT.globals:
                continue
            raise InputError(f"{self.where} reads {unknown_column(name, available)}")
        if whole and (self._whole or self._hidden - set(available)):
            return set(available)
        return set(read & set(available))

    def tree(self) -> nodes.Template:
        """Return the text as Jinja reads it."""
        return _ENVIRONMENT.parse(self.source)

    def render(self, record: Mapping[str, Any]) -> str:
        """Return the text for one record (values as `template_values` gives them)."""
        return self._template.render({RECORD: record, **record})


def unknown_column(name: str, available: Collection[str]) -> str:
    """Return what an error says of a missing column: its name, and the nearest that exists."""
    folded = {column.casefold(): column for column in available}
    near = folded.get(name.casefold()) or next(iter(get_close_matches(name, available, 1)), None)
    hint = f"did you mean {near!r}?" if near else f"it has {', '.join(sorted(available)[:20])}."
    return f"column {name!r}, which the source does not have; {hint}"


def template_values(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record as templates see it: `NULL` for None, at any depth (see `template_values`)."""
    return {name: template_value(value) for name, value in record.items()}


def _quoted_keys(tree: nodes.Template) -> list[str]:
    """Return what is read as ``record["..."]`` and is no method of a text."""
    return [
        node.arg.value
        for node in tree.find_all(nodes.Getitem)
        if isinstance(node.node, nodes.Name) and node.node.name == RECORD
        if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str)
        if not hasattr(str, node.arg.value)
    ]


def _record_keys(tree: nodes.Template) -> tuple[set[str], set[str], bool]:
    """Return how ``record`` is read.

    Returns:
        The constant keys; the names that are keys if there are such columns, and else methods
        (``record.items``); and whether it is read in any other way.
    """
    keys: set[str] = set()
    hidden: set[str] = set()
    accounted: set[int] = set()
    for node in tree.find_all((nodes.Getitem, nodes.Getattr)):
        owner = node.node
        if not isinstance(owner, nodes.Name) or owner.name != RECORD:
            continue
        if isinstance(node, nodes.Getattr) and not hasattr(dict, node.attr):
            keys.add(node.attr)
        elif isinstance(node, nodes.Getattr) and not _is_called(node):
            hidden.add(node.attr)
        elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
            keys.add(str(node.arg.value))
        else:
            continue
        accounted.add(id(owner))
    uses = {id(n) for n in tree.find_all(nodes.Name) if n.name == RECORD and n.ctx == "load"}
    return keys, hidden, bool(uses - accounted)
