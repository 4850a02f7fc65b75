"""Variants of a question: what differs from its template, and the templates that come of it."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from batch_pipeline.errors import InputError
from batch_pipeline.requests.compiled import columns_of
from batch_pipeline.requests.template import MessageTemplate

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")
ASKED = ("prompt", "messages", "build")
"""Of these fields a template has one."""
FIELDS = tuple(one.name for one in fields(MessageTemplate))


def variant_templates(
    base: MessageTemplate, variants: Mapping[str, Mapping[str, Any]]
) -> dict[str, MessageTemplate]:
    """Return the template of each variant, by its name, in the order in which they are declared.

    Args:
        base: what all have in common.
        variants: by name, the fields of the template that differ.

    Raises:
        InputError: a name or a field cannot be, or the answers of a variant would have other columns.
    """
    if not isinstance(variants, Mapping):
        raise InputError(
            f"variants is {variants!r}; it must be a dict: the fields of the request that differ, by the variant's "
            'name, such as {"short": {"prompt": "..."}, "base": {}}.'
        )
    found: dict[str, MessageTemplate] = {}
    seen: dict[str, str] = {}
    for name, changes in variants.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise InputError(
                f"variants has the name {name!r}; it must start with a letter and hold only letters, digits and "
                "underscores, 100 at most. It stands in the column `_variant`."
            )
        if name.lower() in seen:
            raise InputError(
                f"variants has the names {seen[name.lower()]} and {name}, which differ in case only. Give one of them "
                "another name."
            )
        seen[name.lower()] = name
        found[name] = changed_template(base, f"variants[{name!r}]", changes)
    return found


def changed_template(base: MessageTemplate, what: str, changes: Any) -> MessageTemplate:
    """Return a template in which some fields differ; ``what`` begins a message.

    Raises:
        InputError: a field cannot be, or the answers would have other columns.
    """
    if not isinstance(changes, Mapping):
        raise InputError(
            f"{what} is {changes!r}; it must be a dict of the request's fields that differ, such as "
            '{"prompt": "..."}; {} asks the request as it is.'
        )
    for field in changes:
        if field not in FIELDS:
            near = difflib.get_close_matches(str(field), FIELDS, n=1)
            raise InputError(
                f"{what} has the field {field!r}, which a request does not have."
                f"{f' Did you mean {near[0]}?' if near else ''} Its fields are: {', '.join(FIELDS)}."
            )
    made: dict[str, Any] = dict(changes)
    given = [field for field in ASKED if made.get(field) is not None]
    if given:
        # One that is asked otherwise is not asked as the others are, too.
        made = {**{field: None for field in ASKED if field not in given}, **made}
        if base.build is not None and "build" not in given:
            made = {"columns": (), **made}
    try:
        template = replace(base, **made)
    except InputError as error:
        raise InputError(f"{what}: {error}") from None
    mine, common = dict(columns_of(template)), dict(columns_of(base))
    if mine != common:
        raise InputError(
            f"{what} gives the answer other columns than the request: {_listed(mine)}, and not "
            f"{_listed(common)}. All variants stand in one table, so their outputs must have fields of the same names "
            "and types; ask another question in a pipeline of its own."
        )
    return template


def _listed(columns: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in columns.items())
