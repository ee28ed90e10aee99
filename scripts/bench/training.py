"""Training throughput of the shapes recipe on the cores of this machine, against another commit.

    python -m scripts.bench.training [--before COMMIT_OR_CHECKOUT] [--pairs 7]

By default against the first version that landed. That one computed in fp32 in one process; ours
does so in fp32 and in "auto" (bf16 where the processor has instructions for it), in as many
processes as `train` takes by itself; the row with the precision of the method's recipe is marked.
Both sides train the same recipe with the same seed, in turn, a few iterations at a time, so that a
busy machine disturbs both alike. Unlike the other ratios this one is of wall-clock seconds, on all
cores: how well they are used is what is measured. Prints images/s and the median ratio of every
method, and writes reports/local/speed/training.json.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from scripts.bench.paired_timing import measurement_facts
from selfe.config.resolve import resolve
from selfe.device import uses_bf16
from selfe.files import write_atomically

HERE = Path(__file__).resolve().parents[2]
FIRST_LANDED = "5ad5bdf"
TARGET = 1.5

# Runs in either checkout, so it uses what both have: a training run whose callbacks hand the turn
# over between iterations. Sample sheets, checkpoints and logging are kept out of the timed part.
# Earlier checkouts had these modules in other places.
WORKER = """
import sys, time
from functools import partial
from pathlib import Path
import selfe
import torch
try:
    from selfe.config.resolve import resolve
    from selfe.distributed.workers import open_workers
    from selfe.training.callbacks import Callbacks
    from selfe.training.run import train_run
    from selfe.training.worker_count import usable_workers
except ModuleNotFoundError:
    from selfe.recipes import resolve
    from selfe.session import train_run
    from selfe.trainer import Callbacks
    open_workers = usable_workers = None
    if Path(selfe.__file__).with_name("workers.py").exists():
        from selfe.workers import open_workers, usable_workers
method, folder, size, precision = sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4]
config = resolve("shapes", method, assignments=[
    "train.iterations=1000000", "train.log_every=1", "train.checkpoint_every=1000000",
    "train.milestone_every=null", "train.sample_every=null", f"data.size={size}",
    f"train.precision={precision}"])
turn = {"left": 3, "started": 0.0}
def progress(_):
    if turn["started"] == 0.0:  # the first iteration of a turn: others may have begun it before
        turn["started"] = time.perf_counter()
        return
    turn["left"] -= 1
    if turn["left"] <= 0:
        print(time.perf_counter() - turn["started"], flush=True)
        turn["left"], turn["started"] = int(sys.stdin.readline()), 0.0
run = partial(train_run, config, folder / f"{method}", runs_dir=folder)
callbacks = Callbacks(progress=progress, should_stop=lambda: False)
count = 1
if usable_workers is not None:
    count = int(sys.argv[5]) if len(sys.argv) > 5 else usable_workers(config, "cpu")
if count == 1:
    run(device="cpu", callbacks=callbacks)
else:
    with open_workers(count, run) as processes:
        run(processes=processes, callbacks=callbacks)
"""


class Trainer:
    """A training process of one checkout that works when told to."""

    def __init__(
        self, checkout: Path, method: str, folder: Path, size: int, precision: str = "fp32"
    ) -> None:
        environment = {**os.environ, "PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, method, str(folder), str(size), precision],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read()  # the warm-up

    def _read(self) -> float:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the training process ended with {self.process.wait()}")
        return float(line)

    def seconds(self, iterations: int) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{iterations}\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def compare(
    method: str, precision: str, before: Path, args: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    for name in ("now", "before"):
        (folder / name).mkdir(exist_ok=True)
    now = Trainer(HERE, method, folder / "now", args.size, precision)
    old = Trainer(before, method, folder / "before", args.size)
    seconds: dict[str, list[float]] = {"now": [], "before": []}
    try:
        for pair in range(args.pairs):
            sides = [("now", now), ("before", old)]
            for name, trainer in sides if pair % 2 == 0 else reversed(sides):
                seconds[name].append(trainer.seconds(args.iterations))
    finally:
        now.close()
        old.close()
    images = 128 * args.iterations
    as_recipe = ", as its recipe" * (resolve("shapes", method).train.precision == precision)
    ratios = [b / a for a, b in zip(seconds["now"], seconds["before"], strict=True)]
    ratio = 1 / statistics.median(ratios)
    return {
        "name": f"shapes: {method} in {precision}{as_recipe} / first landed",
        "ratio": ratio,
        "ideal": None,
        "passes": 1 / TARGET,
        "verdict": "pass" if ratio <= 1 / TARGET else f"over by {ratio - 1 / TARGET:.3f}",
        "images_per_second": images / statistics.median(seconds["now"]),
        "images_per_second_before": images / statistics.median(seconds["before"]),
        "speedup": statistics.median(ratios),
        "speedup_range": [min(ratios), max(ratios)],
        "pairs": args.pairs,
    }


@contextlib.contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """A folder with the files of a commit, or the folder of that name."""
    if Path(commit).is_dir():
        yield Path(commit).resolve()
        return
    git = ["git", "-C", str(HERE), "worktree"]
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "before"
        subprocess.run([*git, "add", "--quiet", "--detach", str(folder), commit], check=True)
        try:
            yield folder
        finally:
            subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", default=FIRST_LANDED, help="commit, or folder of a checkout")
    parser.add_argument("--methods", nargs="+", default=["fm", "selfe", "imm"])
    parser.add_argument("--precisions", nargs="+", default=["auto", "fp32"], help="of our side")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--iterations", type=int, default=4, help="of a turn")
    parser.add_argument("--size", type=int, default=1024, help="training images")
    parser.add_argument("--out", type=Path, default=HERE / "reports/local/speed/training.json")
    args = parser.parse_args()
    with checkout(args.before) as before:
        measure(before, args)


def measure(before: Path, args: argparse.Namespace) -> None:
    facts = measurement_facts(0) | {"clock": "wall", "threads": os.cpu_count(), "target": TARGET}
    device = torch.device("cpu")
    facts["auto"] = "bf16" if uses_bf16(device, "auto") else "fp32"
    commit = subprocess.run(
        ["git", "-C", str(before), "rev-parse", "--short=12", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
    )
    facts["commit_before"] = commit.stdout.strip()
    rows = []
    for method, precision in itertools.product(args.methods, args.precisions):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(compare(method, precision, before, args, Path(folder)))
        row = rows[-1]
        print(
            f"{method} in {precision}: {row['images_per_second']:.0f} images/s, before "
            f"{row['images_per_second_before']:.0f}: {row['speedup']:.2f} times",
            flush=True,
        )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.out, json.dumps({**facts, "rows": rows}, indent=1).encode())


if __name__ == "__main__":
    main()
