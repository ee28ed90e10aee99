"""Every CPU ratio this project sets itself a mark for: one command, one table.

    python -m scripts.bench.all [--only ema,scorer] [--out reports/local/speed]

Runs the other benchmarks here one after the other, each in a process of its own that writes
OUT/NAME.json, and prints and writes (OUT/README.md) the table of all of them, those measured
earlier included. A ratio is our CPU seconds over the other side's: smaller is better, 1/3 is three
times as fast."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from selfe.files import write_atomically

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = {
    "denoiser": "the network against diffusers' FluxTransformer2DModel; text and masks",
    "objectives": "steps of Self-E and IMM against Flow Matching's",
    "ema": "moving average of the weights",
    "loader": "latent cache against webdataset",
    "colors": "colours of objects against GenEval's loaders",
    "detection": "detecting and naming colours against mmdet and a loader, one image at a time; "
    "needs scripts/install_mmdet.sh",
    "detection_compiled": "the same, our detector compiled",
    "scorer": "verdicts from stored detections against a GenEval-style loop",
    "drawing": "the exported pipeline against diffusers' FluxPipeline",
    "trainer": "a training step against one made as diffusers' Flux script makes it",
    "cached_training": "training on a latent cache against tensors in memory",
    "geneval_share": "`geneval` beside its networks (a share), and run again (CPU seconds)",
    "training": "the shapes recipe against the first version that landed: seconds of all cores",
}

VARIANTS = {"detection_compiled": ["detection", "--compiled"]}
"""Benchmarks that are another's module with options."""


def rows_of(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows as `paired_timing.Ratio`; the colours' report counts how many times as fast we are."""
    if "rows" in report:
        return report["rows"]
    ratio, target = 1 / report["ratio_cpu"], report.get("target_cpu", report.get("target"))
    passes = 1 / target if target else None
    over = f"over by {ratio - passes:.3f}" if passes else ""
    verdict = "pass" if passes and ratio <= passes else over
    name = "colours: ours / a loader per image and class"
    return [{"name": name, "ratio": ratio, "ideal": None, "passes": passes, "verdict": verdict}]


def render(out: Path) -> str:
    lines = [
        "# CPU ratios",
        "",
        "`python -m scripts.bench.all`: CPU seconds of our side over the other's, one thread, the "
        "sides in turn, median over pairs. Smaller is better. Seconds, quartiles, command, seed, "
        "commit and machine of each are in the JSON file.",
        "",
        "| benchmark | ratio | measured | ideal | passes at | verdict | commit |",
        "|---|---|---|---|---|---|---|",
    ]
    machines: dict[str, str] = {}
    for name in BENCHMARKS:
        path = out / f"{name}.json"
        if not path.exists():
            continue
        report = json.loads(path.read_text())
        machines[name] = report.get("machine", "a machine that was not recorded")
        for row in rows_of(report):
            ideal, passes = (
                "" if value is None else f"{value:.3f}" for value in (row["ideal"], row["passes"])
            )
            commit = report.get("commit", "not recorded")
            cells = (f"[{name}]({path.name})", row["name"], f"{row['ratio']:.3f}", ideal, passes)
            lines.append("| " + " | ".join([*cells, row["verdict"], commit]) + " |")
    lines += ["", *(f"- {name}: {BENCHMARKS[name]}; {where}" for name, where in machines.items())]
    if missing := [name for name in BENCHMARKS if name not in machines]:
        lines.append(f"- Not measured here: {', '.join(missing)}.")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help=f"of {','.join(BENCHMARKS)}")
    parser.add_argument("--out", type=Path, default=Path("reports/local/speed"))
    arguments = parser.parse_args()
    chosen = arguments.only.split(",") if arguments.only else list(BENCHMARKS)
    unknown = sorted(set(chosen) - BENCHMARKS.keys())
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]!r} (known: {', '.join(BENCHMARKS)})")
    failed = []
    for name in chosen:
        print(f"== {name}: {BENCHMARKS[name]}", flush=True)
        module, *options = VARIANTS.get(name, [name])
        command = [
            sys.executable,
            "-m",
            f"scripts.bench.{module}",
            *options,
            "--out",
            str(arguments.out / f"{name}.json"),
        ]
        if subprocess.run(command, cwd=ROOT).returncode:
            failed.append(name)
    table = render(arguments.out)
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_atomically(arguments.out / "README.md", table)
    print(table)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
