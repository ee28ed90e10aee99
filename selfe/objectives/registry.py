"""All training methods, one row each: what `--method` accepts, and everything that belongs to it.

A method of another package is an entry point of the group "selfe_bench.methods" that leads to a
`Method`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from selfe.registry import Registry, import_target

Overrides = Mapping[str, Mapping[str, Any]]
"""Section of a run's configuration -> what is set in it."""


Prediction = Literal["velocity", "posterior", "flow-map"]
"""What V(x_t, t, s) of a trained network means.

"velocity": the velocity at t, learnt at s = t alone. "posterior": x_t - t V estimates x_0 at every
s, as Self-E's sample head does by construction. "flow-map": the mean velocity from t to s, so that
x_t - (t - s) V is where the path is at s, and x_t - t V estimates x_0 at s = 0 only. What follows
for samplers is in `selfe.config.inference`.
"""


@dataclass(frozen=True)
class Method:
    """Everything the benchmark knows of one objective.

    Attributes:
        target: "module:Class" of the objective (`selfe.objectives.base.Objective`).
        label: its name in tables.
        prediction: what its V means, which decides the samplers that are valid. It has no default:
            a wrong one draws worse images without a word.
        variants: name of an ablation, as `--variant` takes it -> what it sets.
        sampling: recipe, or family of recipes ("shapes", "shapes-easy", "scenes", "paper") -> the
            section "sampling" with which the method's images are drawn: the recipe's where there is
            one, else its family's, else the one that the recipe has for all methods.
        full_precision: the objective subtracts near copies of a prediction, whose rounding is then
            what is left, so that recipes train it in more than bf16.
        recipes: recipe -> what it sets for this method alone, beside its sampling.
        data_deviation: setting of the objective that is the standard deviation of the latents:
            where nobody sets it, it is multiplied by `data.signal`, as they are.
    """

    target: str
    label: str
    prediction: Prediction
    variants: Mapping[str, Overrides] = field(default_factory=dict)
    sampling: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    full_precision: bool = False
    recipes: Mapping[str, Overrides] = field(default_factory=dict)
    data_deviation: str = ""


# Sampling was found on validation prompts, the best of the same guidance for every method and
# number of steps. In the calibrated world with training seed 0, for "shapes" at iteration 3,000
# (reports/studies/reference-3000/search/shapes-METHOD-seed0.json) and for "shapes-quick" at 800
# (reports/studies/headroom/search/b0.25-METHOD-seed0.json; of `imm` with the gap exponent 5
# reports/studies/tuning/search/imm-gap5-sigma0.25.json). Family "shapes-easy": `fm` and `selfe`
# likewise (b1-METHOD-seed0.json), `imm` at 3,000 (reports/studies/shapes/search.md). The other
# three were searched in the easy world alone, at 800 and 2e-3
# (reports/studies/quickstart-2e-3/search.md), and are drawn alike in all. Family "scenes": one
# training of 800 iterations each, 2, 4 and 8 steps (reports/studies/scenes/search.md).
_SHORTCUT = {
    "guidance": "linear",
    "guidance_scale": 3.0,
    "eta": 0.0,
    "by_steps": {8: {"guidance_scale": 5.0}},
}
_TRANSITION = {"guidance": "linear", "guidance_scale": 3.0, "eta": 0.0}
_MEANFLOW = {
    "guidance": "linear",
    "guidance_scale": 2.0,
    "eta": 0.0,
    # the best at eta 0; the best of all has eta 1, which no flow map allows
    "by_steps": {8: {"guidance_scale": 3.0}},
}

METHODS = Registry(
    "method",
    {
        "selfe": Method(
            "selfe.objectives.self_evaluation:SelfEvaluation",
            "Self-E",
            "posterior",
            variants={
                "no-target-norm": {"objective": {"target_norm": False}},
                # Eq. 16's weight 1 + lambda has a mean of 2.86 at tau 1, and a tenth of the samples
                # has a third of it; with the weight 1 of Eq. 20 only the target differs
                "no-target-norm-one": {
                    "objective": {"target_norm": False, "unnormalized_weight": "one"}
                },
                "aux": {"objective": {"aux_from": 0}},
            },
            sampling={
                "shapes": {
                    "guidance": "linear",
                    "guidance_scale": 1.5,
                    "eta": 0.0,
                    "by_steps": {
                        4: {"guidance": "ep-v"},
                        8: {"guidance": "ep-v", "eta": 1.0},
                        50: {"guidance": "linear", "eta": 1.0},
                    },
                },
                "shapes-quick": {
                    "guidance": "ep-x0",
                    "guidance_scale": 1.25,
                    "eta": 0.0,
                    "by_steps": {
                        4: {"guidance": "linear", "guidance_scale": 1.5},
                        8: {"guidance": "ep-v", "guidance_scale": 2.0, "eta": 1.0},
                        50: {"guidance": "linear", "guidance_scale": 1.75},
                    },
                },
                "shapes-easy": {
                    "guidance": "ep-v",
                    "guidance_scale": 1.5,
                    "eta": 0.0,
                    "by_steps": {
                        4: {"guidance": "linear", "guidance_scale": 1.75},
                        8: {"guidance": "ep-x0", "guidance_scale": 1.75, "eta": 1.0},
                        50: {"guidance": "ep-x0", "guidance_scale": 2.0, "eta": 1.0},
                    },
                },
                "scenes": {
                    "guidance": "none",
                    "guidance_scale": 1.0,
                    "eta": 0.0,
                    "by_steps": {
                        2: {
                            "guidance": "ep-v",
                            "guidance_scale": 3.0,
                            "guidance_time": "t",
                            "shift": 0.91,
                        },
                        4: {"guidance": "none"},
                        8: {"eta": 1.0},
                    },
                },
            },
            # The auxiliary term is a late stage of the main run (S.2). Its loss has the weight of
            # Eq. s.8 as printed: 1/s^2 costs score in the shapes world, with weight 1 no loss is
            # resolved (docs/findings/open_choices.md).
            recipes={"2b": {"objective": {"aux_from": 550_000, "fake_loss_weight": "uniform"}}},
        ),
        "fm": Method(
            "baselines.flow_matching:FlowMatching",
            "Flow Matching",
            "velocity",
            sampling={
                "shapes": {
                    "guidance": "ep-v",
                    "guidance_scale": 2.0,
                    "eta": 0.0,
                    "by_steps": {
                        4: {"guidance": "linear", "guidance_scale": 1.5},
                        8: {"guidance": "linear", "eta": 1.0},
                    },
                },
                "shapes-quick": {
                    "guidance": "ep-v",
                    "guidance_scale": 1.75,
                    "eta": 0.0,
                    "by_steps": {
                        4: {"guidance": "linear", "guidance_scale": 1.75},
                        8: {"guidance": "linear", "guidance_scale": 2.0},
                    },
                },
                "shapes-easy": {
                    "guidance": "linear",
                    "guidance_scale": 1.75,
                    "eta": 0.0,
                    "by_steps": {
                        4: {"guidance_scale": 2.0},
                        8: {"guidance": "ep-x0", "guidance_scale": 2.0},
                    },
                },
                "scenes": {
                    "guidance": "linear",
                    "guidance_scale": 3.0,
                    "eta": 0.0,
                    "by_steps": {
                        4: {"guidance_scale": 1.5},
                        8: {"guidance_scale": 1.5, "eta": 1.0},
                    },
                },
            },
        ),
        "imm": Method(
            "baselines.imm:InductiveMomentMatching",
            "IMM",
            "flow-map",
            sampling={
                # as published: an even grid from 0.994, and the guidance of its class-conditional
                # ImageNet models; for captions nothing is published
                "paper": {"sampler": "pushforward", "guidance": "linear", "guidance_scale": 1.5},
                "shapes": {
                    "sampler": "restart",
                    "guidance": "linear",
                    "guidance_scale": 1.25,
                    "by_steps": {
                        4: {"guidance": "ep-v", "guidance_scale": 1.5},
                        8: {"guidance_scale": 1.5},
                        50: {"guidance_scale": 1.75},
                    },
                },
                "shapes-quick": {
                    "sampler": "pushforward",
                    "guidance": "ep-v",
                    "guidance_scale": 2.0,
                    "by_steps": {
                        4: {"guidance": "linear", "guidance_scale": 1.75},
                        8: {"guidance": "linear", "guidance_scale": 3.0},
                        50: {"guidance": "ep-v", "guidance_scale": 3.0},
                    },
                },
                "shapes-easy": {
                    "sampler": "restart",
                    "guidance": "linear",
                    "guidance_scale": 2.0,
                    "by_steps": {
                        4: {"guidance_scale": 3.0},
                        8: {"guidance_scale": 2.0},
                        50: {"guidance_scale": 3.0},
                    },
                },
                "scenes": {
                    "sampler": "restart",
                    "guidance": "linear",
                    "guidance_scale": 3.0,
                    "by_steps": {
                        4: {"sampler": "pushforward", "guidance_scale": 2.0},
                        8: {"sampler": "pushforward", "guidance": "ep-v", "guidance_scale": 7.0},
                    },
                },
            },
            full_precision=True,  # as its authors have it
            # The exponent was found on validation prompts; its authors have 12 or more, for
            # trainings a thousand times as long (reports/studies/tuning/README.md). With 5 the two
            # inputs are no near copies, and bf16 costs nothing that is resolved
            # (reports/checks/README.md).
            recipes={
                name: {"objective": {"gap_exponent": 5}, "train": {"precision": "auto"}}
                for name in ("shapes", "shapes-quick", "scenes")
            },
            data_deviation="sigma_d",
        ),
        "shortcut": Method(
            "baselines.shortcut:ShortcutModel",
            "Shortcut",
            "flow-map",
            sampling={
                # guidance of its authors' ImageNet models
                "paper": {"guidance": "linear", "guidance_scale": 1.5, "eta": 0.0},
                "shapes": _SHORTCUT,
                # of the three: reports/studies/further-objectives/search
                "shapes-quick": {
                    **_SHORTCUT,
                    "guidance_scale": 5.0,
                    "by_steps": {4: {"guidance_scale": 3.0}},
                },
                "shapes-easy": _SHORTCUT,
                "scenes": _SHORTCUT,
            },
        ),
        "transition": Method(
            "baselines.transition:TransitionModel",
            "Transition (TiM)",
            "flow-map",
            variants={"no-loss-norm": {"objective": {"loss_norm": False}}},
            sampling={
                # guidance of its authors' text-to-image model on GenEval
                "paper": {"guidance": "linear", "guidance_scale": 2.5, "eta": 0.0},
                "shapes": _TRANSITION,
                "shapes-quick": {  # at 2e-3: at the recipe's 8e-3 it learns next to nothing
                    "guidance": "ep-v",
                    "guidance_scale": 3.0,
                    "eta": 0.0,
                    "by_steps": {
                        4: {"guidance_scale": 2.0},
                        8: {"guidance": "linear"},
                        50: {"guidance": "linear"},
                    },
                },
                "shapes-easy": _TRANSITION,
                "scenes": _TRANSITION,
            },
            full_precision=True,  # it divides a difference by 0.01 (reports/checks/README.md)
        ),
        "meanflow": Method(
            "baselines.meanflow:MeanFlow",
            "MeanFlow",
            "flow-map",
            sampling={
                # its authors train with guidance; without it in training, as TiM's
                "paper": {"guidance": "linear", "guidance_scale": 2.5, "eta": 0.0},
                "shapes": _MEANFLOW,
                "shapes-quick": {  # of its variant smooth-time at 4e-3
                    **_MEANFLOW,
                    "by_steps": {n: {"guidance_scale": 1.5} for n in (4, 8, 50)},
                },
                "shapes-easy": _MEANFLOW,
                "scenes": _MEANFLOW,
            },
        ),
    },
    group="selfe_bench.methods",
)

# Variants of every method. Sinusoids of 10 t, not FLUX's 1000 t: asked for by objectives that take
# the network's derivative in t, and there for all, so that none is compared with another network.
SHARED_VARIANTS: Mapping[str, Overrides] = {"smooth-time": {"model": {"time_factor": 10.0}}}


def load_method(name: str) -> Method:
    """The row of a method.

    Raises:
        ValueError: if the name is unknown, claimed twice, or of a package that cannot be imported.
        TypeError: if another package's entry point leads to something else than a `Method`.
    """
    row = METHODS.load(name)
    if not isinstance(row, Method):
        raise TypeError(
            f"the entry point {name!r} of the group {METHODS.group} must lead to a "
            f"selfe.objectives.registry.Method; got {row!r}"
        )
    return row


def objective_class(name: str) -> Any:
    """The class of a method's objective; raises what `load_method` raises."""
    return import_target(load_method(name).target)


def variants_of(name: str) -> dict[str, Overrides]:
    """Variant -> what it sets, those that all methods have included."""
    return {**load_method(name).variants, **SHARED_VARIANTS}


def method_label(name: str) -> str:
    """The name of a method in tables and headlines; the name itself where no such method is
    known here, as in a result that another installation made."""
    return load_method(name).label if name in METHODS else name
