"""How CPU time and memory of the main commands grow with their work.

    python -m scripts.bench.growth [--only report,rescore] [--out reports/local/speed/growth.json]

Every command runs in a process of its own at three sizes, each ten times the one before. With
c = a + b n^p the sizes give p = log10((c3 - c1) / (c2 - c1) - 1): what starting costs is not in it.
Memory is the process's peak. Made-up data; only the commands are timed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evals.registry import open_suite
from scripts.bench.paired_timing import ROOT, measurement_facts
from scripts.bench.report import make_results
from selfe.files import write_atomically
from selfe.run_folder.records import write_config
from selfe.training.metrics_log import RunLog
from tests.helpers.tiny import tiny_config
from tests.test_export import make_run

FACTOR = 10
SELFE = ("-m", "selfe")
WATCH = """
import json, os, subprocess, sys
process = subprocess.Popen([sys.executable, *sys.argv[1:]], stdout=2)
_, status, used = os.wait4(process.pid, 0)
seconds = used.ru_utime + used.ru_stime
print(json.dumps([os.waitstatus_to_exitcode(status), seconds, used.ru_maxrss]))
"""
"""Stands between, because a process starts with the peak of the one that started it."""
READ_LOG = (
    "import sys, pathlib; from selfe.training.metrics_log import read_lines; "
    "read_lines(pathlib.Path(sys.argv[1]))"
)
TRAIN_TINY = (
    "import sys, pathlib; from tests.helpers.tiny import tiny_config, tiny_train; "
    "every = [f'train.{name}_every=1' for name in ('checkpoint', 'milestone')]; "
    "config = tiny_config('fm', f'train.iterations={sys.argv[1]}', *every); "
    "tiny_train(config, pathlib.Path('runs/run'))"
)


@dataclass(frozen=True)
class Job:
    """A command whose work can be made larger.

    Attributes:
        unit: what is counted.
        sizes: of the work, each `FACTOR` times the one before.
        command: makes the data of a size in a folder, and returns what Python is to run there.
    """

    unit: str
    sizes: tuple[int, int, int]
    command: Callable[[Path, int], Sequence[str]]


def geneval(folder: Path, images: int) -> Sequence[str]:
    """Two of every prompt at the smallest size; the network is tiny and draws in one step."""
    make_run(folder / "runs" / "run", tiny_config("fm", "train.iterations=4"))
    each = images // GENEVAL_PROMPTS
    words = ["--steps", "1", "--suite", "shapes@1", "--images-per-prompt", str(each)]
    return [*SELFE, "geneval", "--model", "run", *words, "--limit", "1", "--device", "cpu"]


def report(folder: Path, results: int) -> Sequence[str]:
    make_results(folder / "runs", results, 12)
    return [*SELFE, "report", "--runs-dir", "runs", "--out", "report"]


def rescore(folder: Path, images: int) -> Sequence[str]:
    """Three detections an image, as in the shapes world."""
    rng = np.random.default_rng(0)
    records = open_suite("shapes@1").records
    with (folder / "detections.jsonl").open("w") as file:
        for number in range(images):
            found = [
                {"label": label, "box": [4.0, 4.5, 20.25, 20.0], "score": score, "color": "red"}
                for label, score in zip(("square", "circle", "star"), rng.random(3), strict=True)
            ]
            row = {"prompt_id": number % len(records), "sample_id": number // len(records)}
            file.write(json.dumps({**row, "size": [32, 32], "detections": found}) + "\n")
    files = ["--detections", "detections.jsonl", "--out", "verdicts.jsonl"]
    return [*SELFE, "rescore", "--suite", "shapes@1", *files]


def log(folder: Path, lines: int) -> Sequence[str]:
    path = folder / "metrics.jsonl"
    written = RunLog(path, 0)
    for step in range(1, lines + 1):
        record = {"loss": 1 / step, "gradient_norm": 0.5, "learning_rate": 1e-3, "loss_self": 0.25}
        written.write({"step": step, **record})
    written.close()
    return ["-c", READ_LOG, str(path)]


def milestones(folder: Path, number: int) -> Sequence[str]:
    """A training of a tiny network that keeps a checkpoint of every iteration."""
    return ["-c", TRAIN_TINY, str(number)]


def kept(folder: Path, number: int) -> Sequence[str]:
    """What stands in a list of runs about one with so many milestones."""
    cost_of(milestones(folder, number), folder)
    write_config(folder / "runs" / "run", tiny_config("fm", f"train.iterations={number}"))
    return [*SELFE, "ls", "runs"]


def prepare(folder: Path, images: int) -> Sequence[str]:
    """Photographs of 96 x 128 pixels, in folders of 250, which are the shards."""
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((128, 96))
    for number in range(images):
        place = folder / "images" / f"{number // 250:05d}"
        place.mkdir(parents=True, exist_ok=True)
        smooth.save(place / f"{number:06d}.jpg", quality=90)
        (place / f"{number:06d}.txt").write_text("a photo of a star")
    words = ["--codec", "shapes-grid", "--text", "shapes", "--sizes", "32", "--device", "cpu"]
    return [*SELFE, "prepare", "--data", "folder:images", "--out", "cache", *words]


GENEVAL_PROMPTS = 6
JOBS = {
    "geneval": Job("images", (12, 120, 1200), geneval),
    "report": Job("results", (5, 50, 500), report),
    "rescore": Job("images", (2320, 23_200, 232_000), rescore),
    "log": Job("lines", (1000, 10_000, 100_000), log),
    "train": Job("milestones", (10, 100, 1000), milestones),
    "ls runs": Job("milestones", (10, 100, 1000), kept),
    "prepare": Job("images", (1000, 10_000, 100_000), prepare),
}


def cost_of(command: Sequence[str], folder: Path) -> tuple[float, int]:
    """CPU seconds and peak bytes of a process.

    Raises:
        RuntimeError: if it fails.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = str(ROOT)
    watched = subprocess.run(
        [sys.executable, "-S", "-c", WATCH, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    code, seconds, kilobytes = json.loads(watched.stdout)
    if code:
        raise RuntimeError(f"{command}: {watched.stderr[-2000:]}")
    return seconds, 1024 * kilobytes


def exponent(costs: Sequence[float]) -> float:
    """p of c = a + b n^p through three sizes, each `FACTOR` times the one before."""
    first, second, third = costs
    return math.log((third - first) / (second - first) - 1, FACTOR)


def measure(name: str) -> dict[str, Any]:
    job = JOBS[name]
    seconds, peaks, command = [], [], ()
    for size in job.sizes:
        with tempfile.TemporaryDirectory() as scratch:
            command = job.command(Path(scratch), size)
            spent, peak = cost_of(command, Path(scratch))
        seconds.append(spent)
        peaks.append(peak)
        print(f"{name}, {size} {job.unit}: {spent:.2f} s, {peak / 2**20:.0f} MiB", flush=True)
    shown = " ".join(word for word in command if not word.startswith(("/", "import")))
    per_unit = (peaks[2] - peaks[0]) / (job.sizes[2] - job.sizes[0])
    facts = {"name": name, "unit": job.unit, "sizes": job.sizes, "command": f"python {shown}"}
    facts |= {"seconds": seconds, "peak_bytes": peaks, "bytes_per_unit": per_unit}
    return {**facts, "exponent": exponent(seconds)}


def render(report: dict[str, Any]) -> str:
    """The table as Markdown."""
    lines = ["| work | CPU seconds | exponent | peak MiB | bytes a unit |", "|---|---|---|---|---|"]
    for row in report["rows"]:
        sizes = " / ".join(f"{size:,}" for size in row["sizes"])
        seconds = " / ".join(f"{value:.1f}" for value in row["seconds"])
        peaks = " / ".join(f"{value / 2**20:,.0f}" for value in row["peak_bytes"])
        lines.append(
            f"| {row['name']}: {sizes} {row['unit']} | {seconds} | {row['exponent']:.2f} | {peaks} "
            f"| {row['bytes_per_unit']:,.0f} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help=f"of {','.join(JOBS)}")
    parser.add_argument("--out", type=Path, default=Path("reports/local/speed/growth.json"))
    arguments = parser.parse_args()
    chosen = arguments.only.split(",") if arguments.only else list(JOBS)
    if unknown := sorted(set(chosen) - JOBS.keys()):
        parser.error(f"unknown job {unknown[0]!r} (known: {', '.join(JOBS)})")
    facts = measurement_facts(0) | {"clock": "user and system time of the process"}
    made = {**facts, "rows": [measure(name) for name in chosen]}
    print(render(made))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(arguments.out, json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
