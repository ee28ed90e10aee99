"""What `geneval` costs beside its networks, and what a second one costs that finds all there.

    python -m scripts.bench.geneval_share [--out reports/local/speed/geneval_share.json]

A shapes run (its network as the recipe has it, random weights) is drawn in 2, 4, 8 and 50 steps and
scored, on one thread. CPU seconds of the command, without imports, less those inside the network,
the decoder and the detector. Then the same command in a process of its own, imports included.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, chdir, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from evals.detectors.shapes import ShapesDetector
from scripts.bench.growth import SELFE, cost_of
from scripts.bench.paired_timing import measurement_facts
from selfe.config.resolve import resolve
from selfe.encoders.shapes import ShapesVAE
from selfe.files import write_atomically
from selfe.network.denoiser import DualTimeDenoiser
from tests.helpers.command_line import selfe_bench
from tests.test_export import make_run

STEPS, PASSES, PASSES_AGAIN = (2, 4, 8, 50), 0.10, 2.0
NETWORKS = ((DualTimeDenoiser, "forward"), (ShapesVAE, "decode"), (ShapesDetector, "detect"))


@contextmanager
def timed(parts: Counter[str]) -> Iterator[None]:
    """Adds the CPU seconds of every network's calls to `parts`, by class."""

    def clock(owner: type, name: str) -> Callable[..., Any]:
        inner = getattr(owner, name)

        @functools.wraps(inner)
        def call(*args: Any, **options: Any) -> Any:
            start = time.process_time()
            try:
                return inner(*args, **options)
            finally:
                parts[owner.__name__] += time.process_time() - start

        return call

    with ExitStack() as stack:
        for owner, name in NETWORKS:
            stack.enter_context(patch.object(owner, name, clock(owner, name)))
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=4, help="prompts of every task")
    parser.add_argument("--out", type=Path, default=Path("reports/local/speed/geneval_share.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    facts = measurement_facts(0)
    words = ["geneval", "--model", "run", "--steps", ",".join(map(str, STEPS))]
    words += ["--suite", "shapes@1", "--limit", str(arguments.limit), "--device", "cpu"]
    parts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        config = resolve("shapes", "fm", assignments=["train.precision=fp32", "train.iterations=4"])
        make_run(Path("runs", "run"), config)
        selfe_bench("geneval", "--help")  # imports are not counted
        start = time.process_time()
        with timed(parts):
            code, out, error = selfe_bench(*words)
        whole = time.process_time() - start
        if code:
            raise SystemExit(out + error)
        again, _ = cost_of([*SELFE, *words], Path(folder).resolve())
    share = 1 - sum(parts.values()) / whole
    print(f"{whole:.1f} s, of which {dict(parts)}: beside the networks {share:.1%}")
    print(f"again: {again:.2f} s")
    rows = [
        {"name": "geneval at 2, 4, 8, 50 steps: share beside the networks", "ratio": share}
        | {"ideal": None, "passes": PASSES},
        {"name": "geneval where all is there: CPU seconds", "ratio": again}
        | {"ideal": None, "passes": PASSES_AGAIN},
    ]
    for row in rows:
        over = row["ratio"] - row["passes"]
        row["verdict"] = "pass" if over <= 0 else f"over by {over:.3f}"
    facts |= {"seconds": whole, "seconds_of_networks": dict(parts), "rows": rows}
    facts["load_average_at_end"] = os.getloadavg()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(arguments.out, json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
