"""The house: rooms say what they hold, no circle of imports, each thing stands in one place.

Layers between rooms are contracts of import-linter (pyproject.toml).
"""

from __future__ import annotations

import ast
import contextlib
import importlib.metadata
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parent.parent
PACKAGES = ("selfe", "evals", "baselines")
LONG = 350
REASON = "Longer than other files"


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def modules() -> dict[str, Path]:
    found = {}
    for path in sources(*PACKAGES):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Modules that a file imports, inside functions too, but not those for types alone."""
    for_types = {
        id(inner)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree(path)):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in known else node.module for name in names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_no_files_import_each_other():
    known = modules()
    waiting = {name: set(imports(path, known)) & known.keys() for name, path in known.items()}
    while waiting:
        free = {name for name, others in waiting.items() if not others & waiting.keys()}
        assert free, f"a circle among {sorted(waiting)}"
        waiting = {name: others for name, others in waiting.items() if name not in free}


@pytest.mark.parametrize("folder", ["selfe", "evals", "baselines", "scripts"])
def test_every_room_says_what_it_holds(folder):
    for path in (ROOT / folder).rglob("__init__.py"):
        if path.parent == ROOT / folder and (path.parent / "README.md").is_file():
            continue
        assert ast.get_docstring(tree(path)), path


@pytest.mark.parametrize("page", ["selfe/README.md", "evals/README.md", "reports/README.md"])
def test_readers_are_told_what_to_read_first(page):
    text = (ROOT / page).read_text()
    part = text[re.search("Read these five (files )?first", text).start() :].split("\n\n## ")[0]
    assert len(re.findall(r"\]\([^)]+\)", part)) >= 4


def test_long_files_have_a_reason():
    for path in sources(*PACKAGES, "scripts", "tests"):
        if len(path.read_text().splitlines()) > LONG:
            assert REASON in (ast.get_docstring(tree(path)) or ""), path


def test_evals_know_no_method():
    """The reference method of tables has a name; nothing is compared with a method's own name."""
    methods = {"selfe", "fm", "imm"}
    for path in sources("evals"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Compare):
                said = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
                assert not methods & said, f"{path}:{node.lineno}"
    for path in (ROOT / "evals").rglob("*.js"):
        assert not re.search(r"===? [\"'](selfe|fm|imm)[\"']", path.read_text()), path


def strings_and_numbers() -> Iterator[tuple[str, object]]:
    """(file, constant) of everything that is stated in the packages."""
    for path in sources(*PACKAGES):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Constant):
                yield path.relative_to(ROOT).as_posix(), node.value


def test_one_file_reads_the_launchers_environment():
    names = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR"}
    found = {file for file, value in strings_and_numbers() if value in names}
    assert found == {"selfe/distributed/environment.py"}


def test_the_greatest_time_of_imm_stands_in_one_place():
    found = {file for file, value in strings_and_numbers() if value == 0.994}
    assert found == {"selfe/times.py"}


def test_reports_keep_one_form_of_a_figure():
    reports = ROOT / "reports"
    kept = [p for p in reports.rglob("*") if "local" not in p.relative_to(reports).parts]
    assert not [path for path in kept if path.suffix == ".tex"]
    assert not [p for p in kept if p.suffix == ".svg" and p.with_suffix(".png").is_file()]
    for study in (reports / "studies").iterdir():
        assert (study / "README.md").is_file(), study


def test_every_tested_version_can_be_installed_in_every_python_that_is_promised():
    """pip, given a pin that the Python at hand cannot have, blames packages that are innocent."""
    promised = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    oldest = promised.removeprefix(">=") + ".0"
    place = {"python_version": oldest[:4], "python_full_version": oldest}
    pins = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines()]
    seen = 0
    for pin in pins:
        if pin.marker is not None and not pin.marker.evaluate(place):
            continue
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found = importlib.metadata.distribution(pin.name)
            if found.version in pin.specifier:
                seen += 1
                asked = SpecifierSet(found.metadata["Requires-Python"] or "")
                assert oldest in asked, f"{pin} asks for Python {asked}"
    assert seen > len(pins) / 2
