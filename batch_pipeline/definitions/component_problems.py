"""What is wrong in a component's YAML: which file, line and column, which field, and the nearest right name."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, ClassVar, cast

import dagster as dg
import yaml
from dagster.components.resolved.errors import ResolutionException
from pydantic import GetJsonSchemaHandler, PrivateAttr, ValidationError, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError

from batch_pipeline.errors import InputError, plain, sentence

Path = Sequence[str | int]
UNQUOTED = "YAML reads yes, no, on, off and the like as true or false: quote it."
_OWN_TEXT = "batch_pipeline"
"""The type of an error whose text is complete."""


class YamlError(InputError, ResolutionException):
    """A component's YAML cannot be used. Dagster shows an error of this kind as it is."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where in the attributes, and what."""

    path: Path
    text: str


class Fields(dg.Model):
    """The fields of a mapping in YAML; a name that is none of them is refused, with the nearest that is."""

    hides_values: ClassVar[bool] = False
    beside: ClassVar[tuple[str, ...]] = ()
    """Names that may be meant besides the fields'."""
    elsewhere: ClassVar[dict[str, str]] = {}
    """What names need that belong to another form of the mapping."""

    @model_validator(mode="wrap")
    @classmethod
    def _name_the_right_one(cls, value: Any, handler: Any) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            details = [_detail(one, cls) for one in error.errors()]
            raise ValidationError.from_exception_data(cls.__name__, details) from None

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Name the right one to validators of JSON Schema, too: ``dg check yaml`` is one."""
        schema = handler.resolve_ref_schema(handler(core))
        names = [*schema.get("properties", {}), *cls.beside]
        others = [*names, *cls.elsewhere]
        near = {misspelt: right for name in names for misspelt, right in _misspelt(name, others)}
        near |= {f"^{name}$": said for name, said in cls.elsewhere.items()}
        if near:
            schema["allOf"] = [
                *schema.get("allOf", []),
                # Names that are no texts would break the validator that dg has.
                {
                    "if": {"propertyNames": {"type": "string"}},
                    "then": {
                        "patternProperties": {form: {"const": text} for form, text in near.items()}
                    },
                },
            ]
        return schema


class SecretFields(Fields):
    """Fields of which a value may be a secret: an error shows none."""

    hides_values: ClassVar[bool] = True


class Attributes(Fields):
    """A component's attributes. What is wrong in them is kept until it is known where they stand."""

    _problems: list[Problem] = PrivateAttr(default_factory=list)

    @model_validator(mode="wrap")
    @classmethod
    def _keep_problems(cls, value: Any, handler: Any) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            made = cls.model_construct()
            made.problems.extend(_problems(error, value))
            return made

    @property
    def problems(self) -> list[Problem]:
        """What is wrong in them."""
        return self._problems


def refuse(context: dg.ResolutionContext, problems: Sequence[Problem]) -> YamlError:
    """Return the error that names problems by their places.

    Args:
        context: at the place that the problems' paths start from.
        problems: what is wrong.
    """
    lines = [_located(context, one) for one in problems]
    if len(lines) == 1:
        return YamlError(lines[0])
    return YamlError("\n".join([f"{len(lines)} things are wrong:", *lines]))


def refused(context: dg.ResolutionContext, error: InputError) -> YamlError:
    """Return the error that says where what an ``InputError`` is about stands, as near as its words tell."""
    tree = context.source_position_tree
    for part in context.path:
        tree = tree and tree.children.get(part)
    words = re.findall(r"\w+", re.sub(r"\((type|task) \w+\)", "", str(error)))[:8]
    path: list[str | int] = []
    for word in words:
        named = {str(name): name for name in tree.children} if tree is not None else {}
        if tree is not None and word in named:
            path.append(named[word])
            tree = tree.children[named[word]]
        elif path:
            break  # what is further in is named next: `fields: total ...`
    return refuse(context, [Problem(path, str(error))])


def doubled(context: dg.ResolutionContext) -> list[Problem]:
    """Return the names that stand twice in one mapping: YAML would take the last, without a word."""
    tree = context.source_position_tree
    if tree is None or not FilePath(tree.position.filename).is_file():
        return []
    text = FilePath(tree.position.filename).read_text(encoding="utf-8")
    found: list[Problem] = []
    for node in yaml.compose_all(text, Loader=yaml.SafeLoader):
        if node is not None and node.start_mark.line + 1 == tree.position.start.line:
            _find_doubled(node, (), found)
    depth = len(context.path)
    return [
        Problem(one.path[depth:], one.text)
        for one in found
        if list(one.path[:depth]) == list(context.path)
    ]


def _find_doubled(node: yaml.Node, path: tuple[str | int, ...], found: list[Problem]) -> None:
    if isinstance(node, yaml.SequenceNode):
        for place, inner in enumerate(node.value):
            _find_doubled(inner, (*path, place), found)
    if isinstance(node, yaml.MappingNode):
        names: set[str] = set()
        for name, inner in node.value:
            where = (*path, name.value)
            if name.value in names and name.value != "<<":  # of these there may be several
                found.append(Problem(where, f"{name.value} stands there twice. Remove one."))
            names.add(name.value)
            _find_doubled(inner, where, found)


def nearest(name: str, names: Sequence[str]) -> str:
    """Return what to say of a name that is none: the nearest right one, or all of them."""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"it has {', '.join(names)}."


def _located(context: dg.ResolutionContext, problem: Problem) -> str:
    path = [*context.path, *problem.path]
    field = ".".join(str(part) for part in path)
    text = problem.text if problem.text.endswith(("?", ".")) else sentence(problem.text)
    text = text.removeprefix(f"{path[-1]}: ") if path else text
    text = f"{field} {text}" if text.startswith("is ") else f"{field}: {text}"
    if context.source_position_tree is None:
        return text
    at, _ = context.source_position_tree.lookup_closest_and_path(path, None)
    return f"{at.filename}, line {at.start.line}, column {at.start.col}: {text}"


def _detail(error: Any, fields: type[Fields]) -> InitErrorDetails:
    """Return an error of pydantic with the words that it needs here."""
    kind, path, text = error["type"], error["loc"], error["msg"]
    names = [*fields.model_fields, *fields.beside]
    shown = type(error["input"]).__name__ if fields.hides_values else _shown(error["input"])
    by = str((error.get("ctx") or {}).get("discriminator", "type")).strip("'")
    if kind == "extra_forbidden" and len(path) == 1:
        name = plain(str(path[0]))
        said = fields.elsewhere.get(name)
        text = f"there is no field {name}; {f'it needs {said}.' if said else nearest(name, names)}"
    elif kind == "invalid_key":
        text = f"the name {shown} is no text. {UNQUOTED}"
    elif kind == "missing":
        described = fields.model_fields.get(str(path[0])) if len(path) == 1 else None
        text = f"{path[-1]} is missing. {described.description if described else ''}".strip()
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        named = re.findall(r"'(\w+)'", (error.get("ctx") or {}).get("expected_tags", "")) or names
        given = (error.get("ctx") or {}).get("tag")
        near = difflib.get_close_matches(str(given), named, n=1) if given else []
        text = f"{by} is {given!r}; it must be one of {', '.join(named)}."
        text += f" Did you mean {near[0]}?" if near else ""
    elif kind == "dict_type":
        text = f"is {shown}; it must be a mapping."
    elif kind in ("model_type", "model_attributes_type"):
        text = f"expected a mapping of fields, found {type(error['input']).__name__}."
    elif kind != _OWN_TEXT:
        wanted = text.removeprefix("Input should be ")
        text = f"is {shown}; it must be {wanted}" if wanted != text else f"is {shown}: {text}"
        near = difflib.get_close_matches(str(error["input"]), re.findall(r"'(\w+)'", wanted), n=1)
        text += f". Did you mean {near[0]}?" if near else "."
        if kind == "string_type" and isinstance(error["input"], bool):
            text += f" {UNQUOTED}"
    return InitErrorDetails(
        type=PydanticCustomError(_OWN_TEXT, "{text}", {"text": text, "kind": kind, "by": by})
        if kind != _OWN_TEXT
        else PydanticCustomError(_OWN_TEXT, "{text}", error["ctx"]),
        loc=path,
        input=error["input"],
    )


def _shown(value: Any) -> str:
    return plain(repr(value)) if isinstance(value, str | int | float) else type(value).__name__


def _problems(error: ValidationError, value: Any) -> list[Problem]:
    """Return what pydantic found by where it stands in the value, one problem a place."""
    found: dict[tuple[str | int, ...], list[str]] = {}
    for one in error.errors():
        ctx = one.get("ctx") or {}
        path = _path(one["loc"], value)
        kind = ctx.get("kind")
        if kind == "extra_forbidden":
            path = (*path[:-1], *one["loc"][-1:])
        if kind in ("union_tag_invalid", "union_tag_not_found"):
            path = (*path, ctx.get("by", "type"))
        found.setdefault(path, []).append(ctx.get("text", one["msg"]))
    problems = []
    for path, texts in found.items():
        if all("; it must be " in text for text in texts) and any(
            other[: len(path)] == path != other for other in found
        ):
            continue  # of several types that it may have, the one that was meant says more
        unique = list(dict.fromkeys(texts))
        if all("; it must be " in text for text in unique):
            unique = [_joined(unique)]
        problems += [Problem(path, text) for text in unique]
    return problems


def _joined(texts: Sequence[str]) -> str:
    """Return what several alternatives say of one value."""
    if len(texts) == 1:
        return texts[0]
    wanted = [text.partition("; it must be ")[2].rstrip(".") for text in texts]
    return f"{texts[0].partition('; it must be ')[0]}; it must be {' or '.join(wanted)}."


def _path(places: Sequence[str | int], value: Any) -> tuple[str | int, ...]:
    """Return where an error stands; pydantic also names the alternatives of a union on the way."""
    node: Any = value
    path: list[str | int] = []
    for place in places:
        inside = (
            place in node
            if isinstance(node, Mapping)
            else isinstance(node, list | tuple) and isinstance(place, int) and place < len(node)
        )
        if inside:
            node = cast(Any, node)[place]
            path.append(place)
    return tuple(path)


def _misspelt(name: str, names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the form of what is nearly a name, and what to say of it.

    One letter more, less or other, or two that changed places.
    """
    if len(name) < 3:
        return []
    wide = 2 if len(name) > 4 else 1
    some = ".{1,3}" if wide == 2 else ".{0,2}"
    forms = [f"{name[:place]}{some}{name[place + wide :]}" for place in range(len(name) - wide + 1)]
    form = f"(?:{'|'.join(forms)})$"
    right = [other for other in names if re.match(form, other)]
    return [(f"^(?!(?:{'|'.join(right)})$){form}", f"the name {name}")]
