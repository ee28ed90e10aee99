"""What an iteration of Self-E, Self-E with the auxiliary term, and IMM costs, in those of FM.

    python -m scripts.bench.objectives [--pairs 9] [--out reports/local/speed/objectives.json]

The ratios with a target compare forward and backward: noising, every evaluation pass, loss and
gradients. A whole step adds clipping, Adam and the moving average, the same seconds on both sides,
which brings a ratio nearer to 1; those rows are for information, as are those at the size of the
shapes world, where a batch's matrices are small. fp32, one CPU thread.

In forwards of one batch (a backward costs two): FM 3; Self-E 3 + 1/2 + 1/2, as only the half with
s < t is evaluated, once by each of two networks; the auxiliary term 3/2 more, forward and backward
on that half; IMM 3 + 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from scripts.bench.fixed_batch_step import TrainingStep, counted_flops, random_batch
from scripts.bench.paired_timing import (
    Ratio,
    measurement_facts,
    paired_ratio,
    print_table,
    write_report,
)
from selfe.config.resolve import resolve
from selfe.config.schema import RunConfig
from selfe.training.host_memory import keep_freed_memory

SEED = 0
# Width 512, 512 tokens, batch 8: nearly all the work is matrix products, as in the paper. At
# half the batch adding up the gradients of two passes (Self-E + aux) is no longer negligible. Of
# the blocks the last skips most of what text costs, so that there must be several for text to cost
# what it does in the paper's network.
WIDE = (
    "model.num_layers=2",
    "model.num_single_layers=4",
    "model.num_attention_heads=8",
    "model.joint_attention_dim=256",
    "train.precision=fp32",
    "train.compile=false",
)
WIDE_BATCH, WIDE_SIDE, WIDE_TEXT = 8, 32, 256
SHAPES_BATCH, SHAPES_SIDE, SHAPES_TEXT = 128, 8, 12


def wide(method: str, variant: str = "") -> RunConfig:
    return resolve("0.5b", method, variant=variant, seed=SEED, assignments=WIDE)


def shapes(method: str, variant: str = "") -> RunConfig:
    fp32 = ["train.precision=fp32"]
    return resolve("shapes", method, variant=variant, seed=SEED, assignments=fp32)


def wide_step(config: RunConfig, null_tokens: int = WIDE_TEXT) -> TrainingStep:
    return TrainingStep(config, random_batch(config, WIDE_BATCH, WIDE_SIDE, WIDE_TEXT, null_tokens))


def shapes_step(config: RunConfig) -> TrainingStep:
    return TrainingStep(config, random_batch(config, SHAPES_BATCH, SHAPES_SIDE, SHAPES_TEXT))


def trimmed_ideal() -> float:
    """(3 + 1/2 + 1/2 null forward / caption forward) / 3."""
    model = wide("fm").model.model_dump()
    null, caption = (counted_flops(model, WIDE_SIDE, n) for n in (1, WIDE_TEXT))
    return (3 + 0.5 + 0.5 * null / caption) / 3


def compare(
    name: str,
    ours: TrainingStep,
    fm: TrainingStep,
    pairs: int,
    ideal: float | None = None,
    passes: float | None = None,
    whole: bool = False,
) -> Ratio:
    work, reference = (ours, fm) if whole else (ours.gradients, fm.gradients)
    row = paired_ratio(name, work, reference, pairs=pairs, ideal=ideal, passes=passes)
    print_table([row])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=9, help="interleaved pairs per row")
    parser.add_argument("--out", type=Path, default=Path("reports/local/speed/objectives.json"))
    arguments = parser.parse_args()
    if arguments.pairs < 7:
        parser.error("--pairs must be at least 7")
    torch.set_num_threads(1)
    keep_freed_memory()  # as training does
    facts, pairs = measurement_facts(SEED), arguments.pairs
    fm, selfe = wide_step(wide("fm")), wide_step(wide("selfe"))
    small_fm = shapes_step(shapes("fm"))
    trimmed = wide_step(wide("selfe"), null_tokens=1)
    rows = [
        compare("width 512: Self-E / FM", selfe, fm, pairs, 4 / 3, 1.36),
        compare(
            "width 512: Self-E, null prompt trimmed / FM", trimmed, fm, pairs, trimmed_ideal(), 1.28
        ),
        compare(
            "width 512: Self-E + aux / FM",
            wide_step(wide("selfe", "aux")),
            fm,
            pairs,
            5.5 / 3,
            1.88,
        ),
        compare("width 512: IMM / FM", wide_step(wide("imm")), fm, pairs, 4 / 3, 1.36),
    ]
    for label, config in (
        ("Self-E", shapes("selfe")),
        ("Self-E + aux", shapes("selfe", "aux")),
        ("IMM", shapes("imm")),
    ):
        rows.append(
            compare(
                f"shapes: {label} / FM, whole step",
                shapes_step(config),
                small_fm,
                pairs,
                whole=True,
            )
        )
    print_table(rows)
    write_report(arguments.out, rows, facts)
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
