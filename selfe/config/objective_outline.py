"""The settings of an objective, read from its source without importing torch.

An objective's class states its settings as fields and its mathematics in torch. Commands that only
check settings (`plan`, `ls settings`, every typing error) would wait seconds for torch to start, so
they use an outline: the same class statement, executed with the standard library alone. What cannot
be outlined, a class with bases of its own for example, is imported as usual.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import sys
from pathlib import Path
from typing import Any

from selfe.objectives.registry import load_method, objective_class

_KEPT_MODULES = ("dataclasses", "typing", "collections.abc", "enum", "math", "functools")
_KEPT_DECORATORS = ("property", "staticmethod", "classmethod", "cached_property")


def settings_class(method: str) -> Any:
    """The class of a method's objective, or its outline as long as torch is not loaded.

    Raises:
        ValueError: for an unknown method; says which is nearest.
    """
    if "torch" not in sys.modules:
        found = outline(load_method(method).target)
        if found is not None:
            return found
    return objective_class(method)


@functools.cache
def outline(target: str) -> Any | None:
    """The class "module:name" with its fields, constants and checks but no mathematics.

    Returns:
        None where the class needs more than the standard library to be stated.
    """
    module, _, name = target.partition(":")
    source = source_of(module)
    if source is None:
        return None
    tree = ast.parse(source)
    stated = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name), None)
    if stated is None:
        return None
    imports = [n for n in tree.body if _is_kept_import(n)]
    stated.body = [_without_types(n) for n in stated.body if not _is_the_schedule(n)]
    namespace: dict[str, Any] = {"__name__": __name__, **_constants(tree)}
    try:
        code = compile(ast.Module([*imports, stated], []), module, "exec", dont_inherit=True)
        exec(code, namespace)  # the project's own source, or that of an installed package
    except Exception:  # whatever it needs, importing it says so in its own words
        return None
    return namespace[name]


def _constants(tree: ast.Module) -> dict[str, Any]:
    """Plain numbers and texts that a module states, or imports from a module that states them."""
    found: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and not _is_kept_import(node):
            wanted = {alias.name: alias.asname or alias.name for alias in node.names}
            source = source_of(node.module) if any(name.isupper() for name in wanted) else None
            stated = _stated(ast.parse(source or ""))
            found |= {wanted[name]: value for name, value in stated.items() if name in wanted}
    return found | _stated(tree)


def _stated(tree: ast.Module) -> dict[str, Any]:
    """Names that are assigned a plain number or text at the top of a module."""
    return {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }


def source_of(module: str) -> str | None:
    """The text of a module's file; None where there is none."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin).read_text()


def _is_kept_import(node: ast.stmt) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module in _KEPT_MODULES
    return isinstance(node, ast.Import) and all(a.name in _KEPT_MODULES for a in node.names)


def _is_the_schedule(node: ast.stmt) -> bool:
    """Whether this is the field `times`, which is the section of that name and no setting."""
    return (
        isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and node.target.id == "times"
    )


def _without_types(node: ast.stmt) -> ast.stmt:
    """A method without its annotations and foreign decorators, which may name tensors."""
    if isinstance(node, ast.FunctionDef):
        node.returns = None
        parameters = node.args
        every = [*parameters.posonlyargs, *parameters.args, *parameters.kwonlyargs]
        for argument in every:
            argument.annotation = None
        parameters.defaults = [ast.Constant(None) for _ in parameters.defaults]
        parameters.kw_defaults = [d and ast.Constant(None) for d in parameters.kw_defaults]
        node.decorator_list = [
            d for d in node.decorator_list if isinstance(d, ast.Name) and d.id in _KEPT_DECORATORS
        ]
        ast.fix_missing_locations(node)
    return node
