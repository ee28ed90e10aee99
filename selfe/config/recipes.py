"""Recipes: what is trained, on what, for how long. The same for every method.

Two things belong to one method: how it is sampled, because guidance, eta and update are searched
per method on validation prompts and never carried over (see reports/shapes/search.md), and when an
objective switches a term of its own on.
"""

from __future__ import annotations

from typing import Any

from selfe.config.assignments import merge
from selfe.objectives.registry import OBJECTIVES

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
        "text": "shapes",
    },
    "times": {"tau_horizon": 1800},
    # the rate was searched for every method: reports/shapes/learning_rate.md
    "optim": {"lr": 2e-3, "final_lr": 2e-4, "warmup": 100, "ema_decay": 0.995},
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

_PAPER_TRAIN = {"batch_size": 1024, "precision": "bf16", "compile": True, "sample_every": 10_000}

RECIPES: dict[str, dict[str, Any]] = {
    "shapes": _SHAPES,
    # The quickstart: the same world and network, short enough for a coffee.
    "shapes-quick": merge(
        _SHAPES,
        {
            "data": {"size": 16_384},
            "times": {"tau_horizon": 480},
            # one rate for all methods: reports/quickstart/learning_rate.md and protocol.md
            "optim": {"lr": 8e-3, "final_lr": 8e-4},
            "train": {"iterations": 800, "milestone_every": 400, "sample_every": 400},
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
            "data": {"preset": "free", "codec": "shapes-free", "size": 262_144},
            "times": {"tau_horizon": 6000},
            "optim": {"lr": 5e-4, "final_lr": 2e-5, "warmup": 500, "ema_decay": 0.999},
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

_ABLATIONS: dict[str, dict[str, dict[str, Any]]] = {
    "selfe": {
        "no-target-norm": {"objective": {"target_norm": False}},
        "aux": {"objective": {"aux_from": 0}},
    },
    "transition": {"no-loss-norm": {"objective": {"loss_norm": False}}},
}
# Sinusoids of 10 t, not FLUX's 1000 t: asked for by objectives that take the network's derivative
# in t, and there for all, so that none is compared with another network.
_SMOOTH_TIME: dict[str, dict[str, Any]] = {"smooth-time": {"model": {"time_factor": 10.0}}}

# `--variant`, as overrides of what a recipe sets.
VARIANTS = {method: _ABLATIONS.get(method, {}) | _SMOOTH_TIME for method in OBJECTIVES.names()}

# Found on validation prompts by scripts/studies/search_sampling.py: the best of the same guidance
# for every method and number of steps, at iteration 3,000 of the reference runs
# (reports/shapes/search.md);
# for `shortcut`, `transition` and `meanflow` at 800 of quick ones, at 2e-3
# (reports/quickstart-2e-3/search.md).
SHAPES_SAMPLING: dict[str, dict[str, Any]] = {
    "selfe": {
        "guidance": "linear",
        "guidance_scale": 2.0,
        "eta": 1.0,
        "by_steps": {
            4: {"guidance_scale": 3.0, "eta": 0.0},
            8: {"guidance": "ep-v", "guidance_scale": 3.0},
            50: {"guidance": "linear", "guidance_scale": 2.0},
        },
    },
    "fm": {
        "guidance": "linear",
        "guidance_scale": 2.0,
        "eta": 0.0,
        "by_steps": {50: {"guidance": "ep-v", "guidance_scale": 3.0, "eta": 1.0}},
    },
    "imm": {
        "sampler": "restart",
        "guidance": "linear",
        "guidance_scale": 2.0,
        "by_steps": {
            4: {"guidance_scale": 3.0},
            8: {"guidance_scale": 2.0},
            50: {"guidance_scale": 3.0},
        },
    },
    "shortcut": {
        "guidance": "linear",
        "guidance_scale": 3.0,
        "eta": 0.0,
        "by_steps": {8: {"guidance_scale": 5.0}},
    },
    "transition": {"guidance": "linear", "guidance_scale": 3.0, "eta": 0.0},
    "meanflow": {
        "guidance": "linear",
        "guidance_scale": 2.0,
        "eta": 0.0,
        "by_steps": {8: {"guidance_scale": 3.0, "eta": 1.0}},
    },
}


# Objectives that subtract from a prediction a near copy of it, whose rounding is then left: IMM,
# whose authors compute both in fp32, and TiM's, which divides a difference by 0.01
# (reports/README.md, "Precision").
_NEAR_COPIES = ("imm", "transition")


def _in_tf32(micro_batch_size: int) -> dict[str, dict[str, Any]]:
    """Numbers are twice as long as in bf16, so that half the samples fit at once."""
    part = {"precision": "tf32", "micro_batch_size": micro_batch_size}
    return {method: {"train": part} for method in _NEAR_COPIES}


# What a recipe sets for one method alone.
METHOD_PARTS: dict[str, dict[str, dict[str, Any]]] = {
    **{
        recipe: merge(
            {method: {"sampling": part} for method, part in SHAPES_SAMPLING.items()},
            {method: {"train": {"precision": "fp32"}} for method in _NEAR_COPIES},
        )
        for recipe in ("shapes", "shapes-quick", "shapes-64")
    },
    "0.5b": _in_tf32(32),
    # the auxiliary term is a late stage of the main run (S.2)
    "2b": {**_in_tf32(16), "selfe": {"objective": {"aux_from": 550_000}}},
}
