"""A report of 500 results, their page among it: CPU seconds and bytes.

    python -m scripts.bench.report [--results 500] [--images 40] [--keep FOLDER]

The results are made up: three methods, some training seeds, five checkpoints and four numbers of
steps, each with its images of 32 pixels, verdicts with reasons, and detections. The marks of the
project: below 10 s of CPU for 500 results with 20,000 images on one core, and below 60 MB.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from itertools import product
from pathlib import Path

from evals.report.render import render
from evals.results import DETECTIONS, VERDICTS
from selfe.files import as_json_lines
from tests.helpers.synthetic_results import RATES, TASKS, write_result

STEPS = (2, 4, 8, 50)
CHECKPOINTS = (600, 1200, 1800, 2400, 3000)


def make_results(root: Path, results: int, images: int) -> None:
    """Write result folders of at least `images` images each: two of every prompt."""
    prompts = -(-images // (2 * len(TASKS)))
    of_one_seed = len(CHECKPOINTS) * len(RATES) * len(STEPS)
    seeds = range(-(-results // of_one_seed))
    cells = product(seeds, CHECKPOINTS, RATES, range(len(STEPS)))
    for _, (seed, iterations, method, place) in zip(range(results), cells, strict=False):
        folder = root / f"shapes-{method}-seed{seed}" / f"step-{iterations}" / f"{STEPS[place]}"
        write_result(
            folder,
            method,
            steps=STEPS[place],
            rate=RATES[method][place] * (0.7 + iterations / 10_000),
            iterations=iterations,
            prompts_per_task=prompts,
            images_per_prompt=2,
            images=True,
            training={"seed": seed, "seedless_digest": method, "config_digest": f"{method}{seed}"},
            seed=seed,
        )
        _add_reasons(folder)


def _add_reasons(folder: Path) -> None:
    verdicts = [json.loads(line) for line in (folder / VERDICTS).read_text().splitlines()]
    seen = []
    for number, verdict in enumerate(verdicts):
        if not verdict["correct"]:
            verdict["reason"] = f"wanted {1 + number % 3} green squares, found {number % 2}"
        boxes = [[4.0 + number % 5, 4.5, 20.25, 20.0], [14.0, 4.0, 30.0, 20.0]]
        found = [
            {"label": label, "box": box, "score": 0.951234, "color": color}
            for label, color, box in zip(("square", "circle"), ("blue", "red"), boxes, strict=True)
        ]
        image = {key: verdict[key] for key in ("prompt_id", "sample_id")}
        seen.append({**image, "size": [32, 32], "detections": found})
    (folder / VERDICTS).write_text(as_json_lines(verdicts))
    (folder / DETECTIONS).write_text(as_json_lines(seen))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=int, default=500)
    parser.add_argument("--images", type=int, default=40, help="of every result, at least")
    parser.add_argument("--keep", type=Path, help="folder for results and report; else removed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = arguments.keep or Path(scratch)
        make_results(root / "runs", arguments.results, arguments.images)
        began = time.process_time()
        summary = render([root / "runs"], root / "report")
        seconds = time.process_time() - began
        images = sum(1 for _ in (root / "runs").rglob("*.png"))
        size = sum(path.stat().st_size for path in summary.files) / 1e6
        print(
            f"{summary.results} results with {images:,} images: {seconds:.1f} s of CPU, "
            f"{len(summary.files)} files, {size:.1f} MB"
        )


if __name__ == "__main__":
    main()
