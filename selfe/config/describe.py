"""Settings in words: their names, the values they take, and what is wrong with a given value."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo


@dataclasses.dataclass(frozen=True)
class Setting:
    """What `--set` can change.

    Attributes:
        key: "section.name".
        value: as resolved, as a JSON value.
        takes: its type and range in words.
        about: one sentence.
    """

    key: str
    value: Any
    takes: str
    about: str


def list_settings(config: BaseModel, objective_class: Any) -> list[Setting]:
    """Every setting of a resolved configuration, section by section.

    Args:
        config: a `selfe.config.schema.RunConfig`.
        objective_class: dataclass whose fields are the section "objective", documented under
            "Attributes:" in its docstring.
    """
    values = config.model_dump(mode="json", exclude_none=True)
    found = []
    for section, info in type(config).model_fields.items():
        if section == "objective":
            about = attribute_docs(objective_class)
            found += [
                Setting(f"objective.{name}", values[section].get(name), describe_type(annotation),
                        about.get(name, ""))
                for name, annotation in fields_of(objective_class).items()
            ]  # fmt: skip
        elif isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            found += [
                Setting(f"{section}.{name}", values[section].get(name), _takes(field),
                        field.description or "")
                for name, field in info.annotation.model_fields.items()
            ]  # fmt: skip
    return found


def setting_keys(config_class: type[BaseModel]) -> list[str]:
    """ "section.name" of every setting whose section has named fields, without the values."""
    return [
        f"{section}.{name}"
        for section, info in config_class.model_fields.items()
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)
        for name in info.annotation.model_fields
    ]


def attribute_docs(cls: Any) -> dict[str, str]:
    """Name -> text of the section "Attributes:" of a docstring in Google's style."""
    lines = (inspect.getdoc(cls) or "").partition("Attributes:\n")[2].splitlines()
    docs: dict[str, str] = {}
    names: list[str] = []
    for line in lines:
        entry = re.fullmatch(r" {4}(\w+(?:, \w+)*): (.+)", line)
        if entry:
            names = entry[1].split(", ")
            docs |= dict.fromkeys(names, entry[2])
        elif not line.startswith(" " * 5):
            break  # a blank line, or text that belongs to no attribute
        else:
            docs |= {name: f"{docs[name]} {line.strip()}" for name in names}
    return docs


def _takes(field: FieldInfo) -> str:
    return ", ".join([describe_type(field.annotation), *_bounds(field.metadata)])


def _bounds(metadata: list[Any]) -> Iterator[str]:
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    for constraint in metadata:
        for attribute, word in words.items():
            if hasattr(constraint, attribute):
                yield f"{word} {getattr(constraint, attribute):g}"


def fields_of(cls: Any) -> dict[str, Any]:
    if isinstance(cls, type) and issubclass(cls, BaseModel):
        return {name: info.annotation for name, info in cls.model_fields.items()}
    if dataclasses.is_dataclass(cls):
        hints = typing.get_type_hints(cls)
        return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.name != "times"}
    return {}


def describe_type(annotation: Any) -> str:
    """A type in words: "a number", "one of a, b", "an integer or none"."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return describe_type(args[0])
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe_type(a) for a in args)
    if origin is tuple and args[-1] is Ellipsis:
        return f"a list, each {describe_type(args[0])}"
    if origin is tuple:
        return f"a list of {len(args)} values, each {describe_type(args[0])}"
    words = {
        int: "an integer",
        float: "a number",
        bool: "true or false",
        str: "text",
        type(None): "null",
    }
    if origin is dict:
        return f"a mapping of {describe_type(args[0])} to {describe_type(args[1])}"
    return words.get(annotation, "a section")


def unknown_key(path: list[str], key: str, fields: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(key, fields, n=1, cutoff=0.4)
    hint = f"; did you mean {'.'.join([*path, near[0]])!r}?" if near else ""
    return f"unknown key {'.'.join([*path, key])!r}{hint} (known here: {', '.join(fields)})"


_OUT_OF_RANGE = (
    "greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number",
)  # fmt: skip
"""Kinds of pydantic's problems in which the type is right and the value is not."""


def first_problem(error: ValidationError, cls: Any, prefix: str = "") -> str:
    """The first problem of a pydantic report as one sentence: key, type, nearest spelling."""
    problem = error.errors()[0]
    location = [str(part) for part in problem["loc"]]
    node: Any = cls
    path = [prefix] if prefix else []
    for depth, part in enumerate(location):
        if part.isdigit() and typing.get_origin(node) in (tuple, dict):
            node = typing.get_args(node)[-1 if typing.get_origin(node) is dict else 0]
            path[-1] += f"[{part}]"
            continue
        fields = fields_of(node)
        if part not in fields:
            if depth and not fields:
                break  # inside a union, or a key of a mapping: the key so far names it
            return unknown_key(path, part, fields)
        path.append(part)
        node = fields[part]
    key = ".".join(path)
    given = json.dumps(problem.get("input"), default=str)
    if problem["type"] in _OUT_OF_RANGE:
        wanted = problem["msg"].removeprefix("Input should be ")
        return f"{key} must be {wanted}, got {given}"
    detail = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{key} must be {describe_type(node)}, got {given} ({detail})"
