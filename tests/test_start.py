"""What commands load before they answer: half a second of CPU is what a list, a plan or a typing
error may take, and torch, pandas or scipy alone take as much."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from selfe.run_folder.records import write_config
from tests.helpers.command_line import selfe_bench
from tests.helpers.synthetic_results import write_study
from tests.helpers.tiny import tiny_config, tiny_train

PLAN = "plan --method selfe --recipe shapes-quick"
HEAVY = ("torch", "diffusers", "transformers", "scipy", "pandas", "matplotlib")
TYPOS = (
    "train --method fmm",
    "train --method fm --set lrr=1",
    "plan --method fmm",
    "prepare --out cache --data nosuch",
    "prepare --out cache --data . --codec nosuch",
    "sample --model nosuch --prompt x",
    "export nosuch --out out",
    "geneval --model nosuch",
    "geneval --suite nosuch",
    "geneval --detector nosuch",
    "measure --model nosuch",
    "measure --with nosuch",
    "measure --features nosuch",
    "demo --run nosuch",
    "doctor --suite nosuch",
    "fetch nosuch",
    "headroom --suite nosuch",
    "report --runs nosuch",
    "rescore --suite nosuch --detections x --out y",
    "compare nosuch shapes-fm",
    "search rate --methods nosuch",
    "search sampling --model nosuch",
    "study nosuch",
    "study quickstart --methods nosuch",
    "sweep --over optim.lrr=1,2",
    "verify nosuch",
    "view nosuch",
    "prompts --suite nosuch",
)


def started_by(command: str, folder: Path) -> tuple[int, list[str]]:
    """Exit code of a command, and the heavy packages that it loaded."""
    code = (
        f"import sys; sys.argv[1:] = {command.split()}\n"
        "from selfe.cli import main\n"
        "try: code = main()\n"
        "except SystemExit as ended: code = ended.code\n"
        f"print(); print(code or 0, *[name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    words = done.stdout.splitlines()[-1].split()
    return int(words[0]), words[1:]


DRY_RUNS = (
    "study quickstart --dry-run",
    "study table2 --set data.path=nosuch --gpu h200 --dry-run",
    "study quickstart --methods fm --runs-dir runs --commands",
    "sweep --over optim.lr=1e-3,2e-3 --dry-run",
)


@pytest.mark.parametrize(
    "command", ["--help", "ls methods", "ls runs", "ls suites", PLAN, *DRY_RUNS]
)
def test_commands_that_compute_nothing_start_nothing_heavy(tmp_path, command):
    write_study(tmp_path / "runs")
    assert started_by(command, tmp_path) == (0, [])


def test_a_report_starts_without_torch(tmp_path):
    write_study(tmp_path / "runs")
    code, heavy = started_by("report", tmp_path)
    assert code == 0 and "torch" not in heavy and "pandas" in heavy


def test_a_benchmark_whose_images_are_all_judged_opens_no_network(tmp_path, monkeypatch):
    """The second call of one command: of the run, its images and the detector it reads what names
    and vouches for them."""
    monkeypatch.chdir(tmp_path)
    config, run = tiny_config("fm"), tmp_path / "runs" / "run"
    tiny_train(config, run)
    write_config(run, config)
    command = "geneval --model run --steps 1,2 --limit 1 --device cpu"
    code, first, error = selfe_bench(*command.split())
    assert code == 0, error
    written = {path: path.read_bytes() for path in tmp_path.glob("runs/**/*") if path.is_file()}
    code, heavy = started_by(command, tmp_path)
    assert code == 0 and heavy == []
    assert {path: path.read_bytes() for path in written} == written
    next(tmp_path.glob("runs/run/results/**/*.png")).unlink()
    code, heavy = started_by(command, tmp_path)
    assert code == 0 and "torch" in heavy
    assert {path: path.read_bytes() for path in written} == written
    assert selfe_bench(*command.split())[:2] == (0, first)


@pytest.mark.parametrize("command", TYPOS)
def test_a_typing_error_is_answered_before_anything_heavy_starts(tmp_path, command):
    write_study(tmp_path / "runs")
    assert started_by(command, tmp_path) == (2, [])
