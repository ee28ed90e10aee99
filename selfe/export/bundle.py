"""Gathers the definitions that an exported folder needs into one file of code."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator, Sequence

Module = tuple[str, tuple[str, ...]]
"""A module, and the names taken from it; () for all."""


DENOISER_MODULES: tuple[Module, ...] = (
    ("selfe.batch", ("TextCondition", "join_conditions")),
    ("selfe.path", ("expand_time", "scale_input")),
    ("selfe.network.embeddings", ()),
    ("selfe.network.derivative", ("carries_tangent",)),
    ("selfe.network.operations", ()),
    ("selfe.network.cpu_kernels", ()),
    ("selfe.network.attention", ()),
    ("selfe.network.blocks", ()),
    ("selfe.network.denoiser", ()),
)


SCHEDULER_MODULES: tuple[Module, ...] = (
    ("selfe.path", ()),
    ("selfe.times", ("IMM_TIME_MAX", "length_shift", "warp_time")),
    ("selfe.sampler", ()),
    ("selfe.export.scheduler", ()),
)


PIPELINE_MODULES: tuple[Module, ...] = (
    ("selfe.batch", ("TextCondition", "join_conditions")),
    ("selfe.path", ()),
    ("selfe.guidance", ()),
    ("selfe.seeding", ()),
    ("selfe.encoders.shapes", ("ShapesTextEncoder", "_standardized", "_sinusoids")),
    (
        "selfe.encoders.flux",
        ("CLIP_TOKENS", "T5_TOKENS", "MOST_T5_TOKENS", "dtype_on", "FluxTextEncoder"),
    ),
    ("selfe.generation.captions", ()),
    ("selfe.generation.fixed_batches", ()),
    ("selfe.generation.any_step", ("latents_to_images", "Velocity", "guided_velocity")),
    ("selfe.export.pipeline", ()),
)


PACKAGE = "selfe"


def bundle(modules: Sequence[Module]) -> str:
    """Source of one file that holds the given modules' definitions, in the given order.

    Imports from this package are left out, all others are gathered at the top; comments stay.

    Raises:
        ValueError: if two modules define the same name, a wanted name is not there, or what is kept
            needs a name of this package that is not kept.
    """
    imports: dict[str, None] = {}
    bodies: list[str] = []
    defined: dict[str, str] = {}
    for module, wanted in modules:
        source = inspect.getsource(importlib.import_module(module))
        kept, names, borrowed = _definitions(source, wanted, imports)
        for name in names:
            if name in defined:
                raise ValueError(f"{name} is defined by both {defined[name]} and {module}")
            defined[name] = module
        absent = set(wanted) - set(names)
        if absent:
            raise ValueError(f"{module} has no {', '.join(sorted(absent))}")
        missing = borrowed - defined.keys()
        if missing:
            raise ValueError(f"{module} needs {', '.join(sorted(missing))}, which is not kept")
        bodies.append(f"# From {module}\n\n{kept}")
    header = '"""Part of an exported selfe-bench model, made from the modules named below."""'
    top = [header, "from __future__ import annotations", "\n".join(imports)]
    return "\n\n".join([*top, *bodies]) + "\n"


def _definitions(
    source: str, wanted: Sequence[str], imports: dict[str, None]
) -> tuple[str, list[str], set[str]]:
    """A module's (wanted) definitions: text, names, and what else of this package they need.

    Imports from other packages are added to `imports`.
    """
    tree, lines = ast.parse(source), source.splitlines()
    elsewhere: set[str] = set()
    used: set[str] = set()
    kept, names, end, keep = [], [], 0, False
    for number, node in enumerate(tree.body):
        text, end = "\n".join(lines[end : node.end_lineno]), node.end_lineno or 0
        if isinstance(node, ast.Import | ast.ImportFrom):
            origin = node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name
            if origin != "__future__" and origin.split(".")[0] != PACKAGE:
                imports[ast.unparse(node)] = None
            elif origin != "__future__":
                elsewhere |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.If):
            continue  # only `if TYPE_CHECKING:` stands at the top level of these modules
        elif isinstance(node, ast.Expr):
            if number and keep:  # the docstring of the constant above it
                kept.append(text)
        else:
            found = _names_of(node)
            keep = not wanted or any(name in wanted for name in found)
            if keep:
                names += found
                kept.append(text)
                used |= set(_names_used(node))
            else:
                elsewhere |= set(found)
    return "\n".join(kept).strip("\n") + "\n", names, elsewhere & used


def _names_used(node: ast.AST) -> Iterator[str]:
    """Names in a definition, but for annotations, which are never evaluated."""
    if isinstance(node, ast.Name):
        yield node.id
    for field, value in ast.iter_fields(node):
        if field not in ("annotation", "returns"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _names_used(child)


def _names_of(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    leaves = [leaf for target in targets if target is not None for leaf in ast.walk(target)]
    names = [leaf.id for leaf in leaves if isinstance(leaf, ast.Name)]
    assert names, f"unexpected statement at line {node.lineno}"
    return names
