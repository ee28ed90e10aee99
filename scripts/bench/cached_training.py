"""Training on a latent cache, read ahead by four threads, beside the same batches in memory.

    python -m scripts.bench.cached_training [--pairs 7] [--out FILE]

Steps of flow matching on a network so small (width 256, three blocks) that reading weighs more than
it ever does in a recipe; FLUX-sized latents and T5 features, checksums compared. CPU seconds of all
threads, so that what is read beside the training counts as if nothing ran beside anything: with a
core to spare the ratio of images per second is nearer to 1.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path

import torch

from scripts.bench.fixed_batch_step import TrainingStep
from scripts.bench.loader import make_samples, write_cache
from scripts.bench.paired_timing import (
    Ratio,
    measurement_facts,
    paired_ratio,
    print_table,
    write_report,
)
from selfe.batch import LatentBatch
from selfe.config.resolve import resolve
from selfe.data.latent_cache.source import CachedLatents
from selfe.seeding import SampleRng

SEED, SAMPLES, BATCH, STEPS, WORKERS = 0, 256, 8, 2, 4
SMALL = (
    "model.num_layers=1",
    "model.num_single_layers=2",
    "model.num_attention_heads=4",
    "train.precision=fp32",
    "train.compile=false",
)


def stream(number: int) -> SampleRng:
    return SampleRng(SEED, torch.arange(number * BATCH, (number + 1) * BATCH))


def measure(folder: Path, pairs: int) -> Ratio:
    write_cache(folder / "cache", make_samples(SAMPLES, SEED))
    data = (f"data.path={folder}/cache", f"data.workers={WORKERS}", "data.bucket_unit=8")
    config = resolve("0.5b", "fm", seed=SEED, assignments=[*SMALL, *data])
    source = CachedLatents(config, with_fake=False)
    held = [source.batch(stream(number)) for number in range(SAMPLES // BATCH)]
    step = TrainingStep(config, held[0])
    ahead, in_memory = itertools.count(), itertools.count()

    def train_on(batch: LatentBatch) -> None:
        step.batch = batch
        step()

    def cached() -> None:
        for _ in range(STEPS):
            number = next(ahead) % (len(held) - 1)
            source.expect([stream(number), stream(number + 1)])  # as the training loop does
            train_on(source.batch(stream(number)))

    def memory() -> None:
        for _ in range(STEPS):
            train_on(held[next(in_memory) % (len(held) - 1)])

    name = f"step on a cache with {WORKERS} threads / on tensors in memory"
    return paired_ratio(name, cached, memory, pairs=pairs, ideal=1.0, passes=1 / 0.97)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7, help="interleaved pairs of two steps")
    parser.add_argument(
        "--out", type=Path, default=Path("reports/local/speed/cached_training.json")
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    facts = measurement_facts(SEED)
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(Path(folder), arguments.pairs)]
    print_table(rows)
    write_report(arguments.out, rows, facts)


if __name__ == "__main__":
    main()
