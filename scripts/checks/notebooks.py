"""Executes the notebooks of the documentation, each in an empty folder, and keeps their outputs.

    python -m scripts.checks.notebooks            # all of them, written back with their outputs
    python -m scripts.checks.notebooks --check    # only that they run

An error in a cell ends with its traceback and exit code 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

NOTEBOOKS = Path(__file__).resolve().parent.parent.parent / "docs" / "notebooks"
SECONDS_PER_CELL = 1800


def execute(path: Path) -> tuple[str, float]:
    """The notebook with its outputs as text, and the seconds it took."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook, timeout=SECONDS_PER_CELL, resources={"metadata": {"path": folder}}
        )
        client.execute()
    for cell in notebook.cells:  # neither times nor a library's warnings say anything to a reader
        cell.get("metadata", {}).pop("execution", None)
        if "outputs" in cell:
            cell["outputs"] = [
                o for o in cell["outputs"] if "site-packages" not in o.get("text", "")
            ]
    return nbformat.writes(notebook), time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    paths = sorted(NOTEBOOKS.glob("*.ipynb"))
    if not paths:
        sys.exit(f"no notebook in {NOTEBOOKS}")
    for path in paths:
        text, seconds = execute(path)
        if not check:
            path.write_text(text + "\n")
        print(f"{path.name}: {seconds:.0f} s")


if __name__ == "__main__":
    main()
