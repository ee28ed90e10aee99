"""Recipes: what is trained, on what, for how long. The same for every method.

What belongs to one method alone is in its row (`selfe.objectives.registry.METHODS`): how it is
sampled, because guidance, eta and update are searched per method on validation prompts and never
carried over (reports/studies/shapes/search.md), whether it wants full precision, and when an
objective switches a term of its own on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfe.config.assignments import merge
from selfe.objectives.registry import Method

CALIBRATED_SIGNAL = 0.25
"""Factor on the latents of the shapes world at which trained Flow Matching loses most like the
paper's with fewer steps; chosen on Flow Matching alone (reports/studies/headroom/protocol.md)."""

_SHAPES: dict[str, Any] = {
    "model": {
        "in_channels": 16,
        "num_layers": 2,
        "num_single_layers": 4,
        "attention_head_dim": 32,
        "num_attention_heads": 4,
        "joint_attention_dim": 64,
        "pooled_projection_dim": 64,
        "axes_dims_rope": (8, 12, 12),
    },
    "data": {
        "source": "shapes",
        "preset": "grid",
        "size": 40_960,
        "codec": "shapes-grid",
        "signal": CALIBRATED_SIGNAL,
        "text": "shapes",
    },
    "times": {"tau_horizon": 1800},
    # One rate for all methods. It is the best of three after 800 iterations, and better than 2e-3
    # after 3,000 with full signal: reports/studies/quickstart/learning_rate.md,
    # reports/studies/tuning/README.md, reports/full_signal.md
    "optim": {"lr": 8e-3, "final_share": 0.1, "warmup": 100, "ema_decay": 0.995},
    "train": {
        "iterations": 3000,
        "batch_size": 128,
        "precision": "auto",
        "checkpoint_every": 250,
        "milestone_every": 500,
        "sample_every": 1000,
    },
    "sampling": {"guidance": "linear", "guidance_scale": 2.0},
}

# The quickstart: the same world and network, short enough for a coffee.
_QUICK = merge(
    _SHAPES,
    {
        "data": {"size": 16_384},
        "times": {"tau_horizon": 480},
        "train": {"iterations": 800, "milestone_every": 400, "sample_every": 400},
    },
)

_PAPER_TRAIN = {"batch_size": 1024, "precision": "bf16", "compile": True, "sample_every": 10_000}

RECIPES: dict[str, dict[str, Any]] = {
    "shapes": _SHAPES,
    # the control: a world where a perfect Flow Matching model needs three steps
    "shapes-easy": merge(_SHAPES, {"data": {"signal": 1.0}}),
    "shapes-quick": _QUICK,
    # a world whose objects differ in size: docs/headroom.md says what for
    "scenes": merge(
        _QUICK,
        {
            "model": {"in_channels": 24},
            "data": {"preset": "squares", "codec": "shapes-squares", "signal": 1.0},
        },
    ),
    "shapes-64": merge(
        _SHAPES,
        {
            "model": {
                "num_layers": 4,
                "num_single_layers": 8,
                "attention_head_dim": 64,
                "axes_dims_rope": (8, 28, 28),
            },
            # as it is: no calibration was made for this preset
            "data": {"preset": "free", "codec": "shapes-free", "signal": 1.0, "size": 262_144},
            "times": {"tau_horizon": 6000},
            "optim": {"lr": 5e-4, "final_share": 0.04, "warmup": 500, "ema_decay": 0.999},
            "train": {
                "iterations": 10_000,
                "batch_size": 512,
                "precision": "auto",
                "compile": True,
                "checkpoint_every": 1000,
                "milestone_every": 2500,
                "sample_every": 2500,
            },
        },
    ),
    "0.5b": {
        "data": {"source": "latents", "codec": "flux", "text": "flux"},
        "train": {
            **_PAPER_TRAIN,
            "iterations": 300_000,
            "milestone_every": 50_000,
            "micro_batch_size": 64,  # of one bucket each: data.bucket_unit
        },
        "times": {"tau_horizon": 300_000},
        "optim": {"decay_horizon": 300_000},
        "sampling": {"batch_slots": 16},
    },
    "2b": {
        "model": {"attention_head_dim": 128, "axes_dims_rope": (16, 56, 56)},
        "data": {"source": "latents", "codec": "flux", "text": "flux"},
        "train": {
            **_PAPER_TRAIN,
            "iterations": 710_000,
            "micro_batch_size": 32,
            # from here on as many images of 512^2 as of 256^2
            "stages": [{"start": 500_000, "batch_size": 768, "resolutions": {256: 1, 512: 1}}],
        },
        "sampling": {"batch_slots": 16},
    },
}

FAMILIES = {
    "shapes": "shapes",
    "shapes-quick": "shapes",
    "shapes-easy": "shapes-easy",
    "scenes": "scenes",
    "shapes-64": "shapes-easy",  # its latents have all their signal, too
    "0.5b": "paper",
    "2b": "paper",
}
"""Recipe -> its family: images of a recipe for which nothing was searched are drawn as those of its
family (`Method.sampling`)."""

ABOUT = {
    "shapes": "the shapes world at 32 pixels: minutes on a CPU",
    "shapes-easy": "the same with four times the signal: there Flow Matching needs few steps",
    "shapes-quick": "as shapes, shorter: the quickstart",
    "scenes": "many squares of very different sizes, as short as the quickstart",
    "shapes-64": "the shapes world at 64 pixels: one GPU",
    "0.5b": "the paper's ablations: 8 GPUs",
    "2b": "the paper's main run: 8 GPUs and more",
}
"""What a recipe is for, in a few words."""

# What a recipe trains objectives in that want more than bf16 (`Method.full_precision`): numbers are
# then twice as long, so that half the samples fit at once.
_FULL_PRECISION: dict[str, dict[str, Any]] = {
    "shapes": {"precision": "fp32"},
    "shapes-easy": {"precision": "fp32"},
    "shapes-quick": {"precision": "fp32"},
    "scenes": {"precision": "fp32"},
    "shapes-64": {"precision": "fp32"},
    "0.5b": {"precision": "tf32", "micro_batch_size": 32},
    "2b": {"precision": "tf32", "micro_batch_size": 16},
}


def own_sampling(recipe: str, method: Method) -> Mapping[str, Any] | None:
    """The method's own section "sampling" for a recipe, else for its family, else None."""
    family = method.sampling.get(FAMILIES.get(recipe, ""))
    return method.sampling.get(recipe, family)


def part_of_method(recipe: str, method: Method) -> dict[str, Any]:
    """What a recipe sets for one method alone."""
    part: dict[str, Any] = {"sampling": own_sampling(recipe, method) or {}}
    if method.full_precision:
        part["train"] = _FULL_PRECISION[recipe]
    return merge(part, method.recipes.get(recipe, {}))
