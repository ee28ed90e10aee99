"""The shell scripts parse, and the quickstart passes on what it is given."""

from __future__ import annotations

import importlib
import os
import pkgutil
import shutil
import subprocess
from pathlib import Path

import pytest

import scripts

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("**/*.sh")), ids=lambda path: path.name)
def test_scripts_parse(script):
    checked = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert "<<<<<<<" not in script.read_text()


@pytest.mark.parametrize(
    ("seeds", "told", "passed"),
    [
        ([], {}, ["--seeds", "0", "--methods", "fm selfe imm", "--device", "cpu"]),
        (
            ["0", "1"],
            {"METHODS": "fm selfe:aux", "SETTINGS": "optim.lr=1.6e-2 optim.warmup=9"},
            ["--seeds", "0 1", "--methods", "fm selfe:aux", "--device", "cpu"]
            + ["--set", "optim.lr=1.6e-2", "--set", "optim.warmup=9"],
        ),
    ],
)
def test_the_quickstart_is_a_study(tmp_path, seeds, told, passed):
    """With a recorder in the place of the environment's selfe-bench."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPTS / "quickstart.sh", tmp_path / "scripts")
    (tmp_path / "scripts" / "environment.sh").write_text("selfe_environment() { :; }\n")
    recorder = tmp_path / ".venv" / "bin" / "selfe-bench"
    recorder.parent.mkdir(parents=True)
    recorder.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    recorder.chmod(0o755)
    plain = {k: v for k, v in os.environ.items() if k not in ("METHODS", "SETTINGS")}
    ran = subprocess.run(
        ["bash", tmp_path / "scripts" / "quickstart.sh", *seeds],
        env={**plain, **told},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == ["study", "quickstart", *passed]


@pytest.mark.parametrize(
    "name", [m.name for m in pkgutil.walk_packages(scripts.__path__, "scripts.") if not m.ispkg]
)
def test_what_a_script_imports_is_there(name: str) -> None:
    importlib.import_module(name)
