"""Two training steps of the whole 0.5B network on a processor: memory beside what `plan` says.

    python -m scripts.bench.full_size_step [--method selfe] [--out FILE]

fp32, two images of 256 pixels with 256 text tokens, the trainer's own parts. The peak is that of
the process in both steps, less what it held before the network was made. Needs 16 GiB.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from evals.scoring.drawing_cost import resident_peak
from scripts.bench.fixed_batch_step import TrainingStep, random_batch
from scripts.bench.paired_timing import measurement_facts
from scripts.checks.sharded_step import TEXT_TOKENS, with_batch
from selfe.config.resolve import resolve
from selfe.files import write_atomically
from selfe.planning.plan import make_plan
from selfe.training.host_memory import keep_freed_memory

SEED, IMAGES, SIDE = 0, 2, 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", default="selfe")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("reports/local/speed/full_size_step.json"))
    arguments = parser.parse_args()
    facts = measurement_facts(SEED) | {"threads": arguments.threads, "clock": "wall"}
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as training does
    whole = resolve("0.5b", arguments.method, assignments=["train.precision=fp32"])
    config = with_batch(whole, IMAGES, IMAGES)
    plan = make_plan(config, gpus=1, shard=1, text_tokens=TEXT_TOKENS)
    before = resident_peak()
    step = TrainingStep(config, random_batch(config, IMAGES, SIDE // 8, TEXT_TOKENS))
    seconds, losses = [], []
    for _ in range(2):
        start = time.perf_counter()
        losses.append(step().item())
        seconds.append(time.perf_counter() - start)
        print(f"loss {losses[-1]:.4f} in {seconds[-1]:.0f} s", flush=True)
    peak = resident_peak() - before
    planned = plan.memory_per_gpu.total
    print(f"peak {peak / 1e9:.2f} GB, planned {planned / 1e9:.2f} GB: {planned / peak:.3f}")
    facts |= {"method": arguments.method, "parameters": plan.parameters, "images": IMAGES}
    facts |= {"losses": losses, "seconds": seconds, "peak_bytes": peak}
    facts |= {"planned": plan.as_json()["memory_per_gpu"], "planned_over_peak": planned / peak}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(arguments.out, json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
