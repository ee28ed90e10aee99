"""The typed, frozen configuration of a run: sections, `--set` overrides, errors, digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


SectionT = TypeVar("SectionT", bound=Section)
Beta = Annotated[float, Field(ge=0, lt=1)]
"""What a moving average keeps at every update."""


class ModelConfig(Section):
    """Arguments of `selfe.network.DualTimeDenoiser`; one network for all methods."""

    in_channels: int = Field(64, ge=1, description="latent channels x patch area")
    num_layers: int = Field(8, ge=0, description="double-stream blocks")
    num_single_layers: int = Field(16, ge=0, description="single-stream blocks")
    attention_head_dim: int = Field(64, ge=1, description="features of a head")
    num_attention_heads: int = Field(
        16, ge=1, description="heads; the width is heads times features"
    )
    joint_attention_dim: int = Field(4096, ge=1, description="features of a text token")
    pooled_projection_dim: int = Field(768, ge=1, description="features of the pooled text vector")
    axes_dims_rope: tuple[int, int, int] = Field(
        (8, 28, 28),
        description="features of a head that the rotary embedding gives to (t, y, "
        "x); they add up to a head",
    )
    time_factor: float = Field(
        1000.0, gt=0, description="the time features are sinusoids of time_factor * t"
    )
    input_sigma: float | None = Field(
        None,
        gt=0,
        description="standard deviation sigma of the data: the network's input is x_t / (sigma "
        "sqrt((1-t)^2 + t^2)); null to leave x_t unscaled; objective.scale_input sets it",
    )


class DataConfig(Section):
    """Where samples come from. Names are those of the registries."""

    source: str = Field("shapes", description="reader: shapes, latents")
    preset: str = Field("grid", description="preset of the shapes world: grid, free, squares")
    path: str = Field("", description="folder written by `selfe-bench prepare`")
    bucket_unit: int = Field(
        64, ge=1, description="consecutive samples of the latent cache that share an image size"
    )
    workers: int = Field(
        2, ge=0, description="threads that read the latent cache ahead; 0 for none"
    )
    resolution: int = Field(256, ge=16, description="side of the images drawn, in pixels")
    size: int = Field(40_960, ge=1, description="training images of the shapes world")
    codec: str = Field(
        "shapes-grid", description="autoencoder: shapes-grid, shapes-free, shapes-squares, flux"
    )
    signal: float = Field(
        1.0, gt=0, description="factor on the latents of the shapes world; below 1 is harder"
    )
    text: str = Field("shapes", description="text encoder: shapes, flux")
    revision: str = Field(
        "", description="revision of the encoders on the hub; the newest if empty"
    )
    text_tokens: int | None = Field(
        None, ge=1, description="most tokens of a caption; null for the encoder's own limit"
    )


class TimesConfig(Section):
    """Fields of `selfe.times.TimeSampler`."""

    base_len: int = Field(
        512, ge=1, description="image tokens for which t is warped by e^0.5 (Eq. s.12)"
    )
    tau_horizon: int = Field(
        300_000, ge=0, description="iterations until s may be anywhere below t (Eq. s.13)"
    )
    pairing: Literal["stratified", "bernoulli"] = Field(
        "stratified", description="every second sample has s = t, or each with probability 0.5"
    )


class OptimConfig(Section):
    """Adam with linear warm-up and linear decay (S.2)."""

    lr: float = Field(3e-4, gt=0, description="learning rate after the warm-up")
    final_share: float = Field(
        1 / 30, ge=0, description="share of lr that is left at the end of the decay"
    )
    warmup: int = Field(1000, ge=0, description="iterations until the rate is reached")
    decay_horizon: int | None = Field(
        None, ge=1, description="iterations of the decay; null for the whole run"
    )
    betas: tuple[Beta, Beta] = Field((0.9, 0.95), description="of Adam")
    eps: float = Field(1e-8, gt=0, description="of Adam")
    weight_decay: float = Field(0.0, ge=0, description="Adam's weight decay, added to the gradient")
    clip_norm: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=True,
        description="largest norm of the gradient; Infinity for no limit",
    )
    ema_decay: float = Field(
        0.9999,
        ge=0,
        lt=1,
        description="decay of the moving average of the weights, which is scored",
    )
    ema_warmup: bool = Field(
        True,
        description="decay min(ema_decay, (1 + n) / (10 + n)) at update n: at most 0.989 in 800 "
        "iterations, whatever ema_decay is",
    )

    @model_validator(mode="before")
    @classmethod
    def _share_of_final_rate(cls, values: Any) -> Any:
        """Earlier configurations give the final rate itself, as `final_lr`; it wins over a recipe's
        share."""
        if not isinstance(values, Mapping) or "final_lr" not in values:
            return values
        rest = {key: value for key, value in values.items() if key != "final_lr"}
        final, lr = values["final_lr"], rest.get("lr", cls.model_fields["lr"].default)
        if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in (final, lr)):
            return {**rest, "final_share": final}  # refused there if it is no number
        return {**rest, "final_share": _share(final, lr) if lr > 0 else 0.0}

    @property
    def final_lr(self) -> float:
        """The learning rate at the end of the decay, rounded to what a person would write: so it is
        the very number of configurations that gave it instead of the share."""
        return _rounded(self.lr * self.final_share)


def _rounded(value: float) -> float:
    return float(f"{value:.14g}")


def _share(final: float, lr: float) -> float:
    """A share of `lr` that gives `final` again; a short number where there is one."""
    short = _rounded(final / lr)
    return short if _rounded(lr * short) == final else final / lr


class StageConfig(Section):
    """What changes from an iteration on; what is not given stays as it was before."""

    start: int = Field(ge=1, description="first iteration of the stage")
    batch_size: int | None = Field(None, ge=1, description="global batch")
    resolutions: dict[int, float] = Field(
        {}, description="resolution family, side of its square in pixels -> share of the samples"
    )


class TrainConfig(Section):
    iterations: int = Field(300_000, ge=1, description="optimiser steps")
    batch_size: int = Field(1024, ge=1, description="global batch")
    micro_batch_size: int | None = Field(
        None, ge=1, description="at most so many samples at once; null for the whole batch"
    )
    stages: tuple[StageConfig, ...] = Field(
        (),
        description="later stages in order of their start, each with the batch_size and "
        "resolutions that change",
    )
    caption_dropout: float = Field(
        0.1, ge=0, le=1, description="probability of the null prompt instead of the caption"
    )
    precision: Literal["auto", "fp32", "tf32", "bf16"] = Field(
        "auto",
        description="of matrix products and activations; auto is bf16 where the device, processors "
        "included, has instructions for it; tf32 is for GPUs, elsewhere it is fp32",
    )
    compile: bool = Field(False, description="compile the network block by block")
    recompute: Literal["none", "blocks", "selective"] = Field(
        "none",
        description="what the backward pass computes again instead of keeping it: nothing, whole "
        "blocks, or all of a block but its matrix products",
    )
    log_every: int = Field(10, ge=1, description="iterations from one line of metrics to the next")
    checkpoint_every: int = Field(1000, ge=1, description="iterations")
    keep_last: int = Field(2, ge=1, description="checkpoints kept beside the milestones")
    milestone_every: int | None = Field(
        50_000, ge=1, description="iterations; milestones are never pruned; null for none"
    )
    sample_every: int | None = Field(
        None, ge=1, description="iterations from one sheet of images to the next; null for none"
    )
    max_nonfinite: int = Field(
        5, ge=0, description="iterations in a row that may pass without an update"
    )


class StepSampling(Section):
    """What may differ between numbers of steps."""

    sampler: Literal["any-step", "pushforward", "restart"] | None = None
    guidance: Literal["none", "linear", "ep-v", "ep-x0"] | None = None
    guidance_scale: float | None = Field(None, ge=0)
    eta: float | None = Field(None, ge=0, le=1)
    update: Literal["ancestral", "minfm"] | None = None
    s_fraction: float | None = Field(None, ge=0, le=1)
    guidance_time: Literal["s", "t"] | None = None
    shift: float | None = None


class SamplingConfig(Section):
    """Default sampler of a run; `geneval` may override it.

    `by_steps` holds what was found best on validation prompts for a number of steps; the entry with
    the largest number not above the one asked for applies.
    """

    sampler: Literal["any-step", "pushforward", "restart"] = Field(
        "any-step", description="the last two are IMM's"
    )
    guidance: Literal["none", "linear", "ep-v", "ep-x0"] = Field(
        "ep-v",
        description="classifier-free; ep- keeps the energy of the conditional velocity or x0_hat",
    )
    guidance_scale: float = Field(5.0, ge=0, description="omega; 1 is no guidance")
    eta: float = Field(1.0, ge=0, le=1, description="noise added in a step; 0 is deterministic")
    update: Literal["ancestral", "minfm"] = Field(
        "ancestral", description="how eta mixes old and fresh noise"
    )
    s_fraction: float = Field(
        0.0, ge=0, le=1, description="s of a step from t to t': 0 is t', 1 is t, 0.5 halfway"
    )
    guidance_time: Literal["s", "t"] = Field(
        "s",
        description="where guidance takes its difference: at the s of the step, or at s = t, which "
        "costs a third network call",
    )
    warp: bool = Field(True, description="warp the time grid as training warps t (Eq. s.12)")
    shift: float | None = Field(
        None,
        description="mu of that warp instead of training's; it warps IMM's even grid, too; a "
        "smaller mu puts more steps near the data",
    )
    base_len: int = Field(512, ge=1, description="as times.base_len, for the grid")
    batch_slots: int = Field(32, ge=1, description="fixed batch of the sampler, padded")
    by_steps: dict[int, StepSampling] = Field(
        {}, description="settings that replace these from a given number of steps on"
    )

    @property
    def calls(self) -> int:
        """Network calls of a guided step, as `selfe.guidance.Guidance.calls`, which needs torch."""
        if self.guidance == "none" or self.guidance_scale == 1:
            return 1
        return 3 if self.guidance_time == "t" else 2

    def at(self, num_steps: int) -> SamplingConfig:
        """The settings that apply to a number of steps, `by_steps` resolved."""
        applicable = [n for n in self.by_steps if n <= num_steps]
        if not applicable:
            return self.model_copy(update={"by_steps": {}})
        chosen = self.by_steps[max(applicable)].model_dump(exclude_none=True)
        return self.model_copy(update={**chosen, "by_steps": {}})


# Settings younger than the digests of published runs: left out of a digest where they have these
# values.
_YOUNGER: dict[str, dict[str, Any]] = {
    "model": {"time_factor": 1000.0, "input_sigma": None},
    "data": {"signal": 1.0},
    "sampling": {"guidance_time": "s", "shift": None},
    "objective": {
        "renoise": "fresh",
        "dropped": "data",
        "fake_average": "rows",
        "conditional_weights": "ema",
        "conditional_decay": None,
        "time_distribution": "uniform",
    },
}


def _without_younger(values: dict[str, Any]) -> dict[str, Any]:
    for section, defaults in _YOUNGER.items():
        for name, value in defaults.items():
            if values[section].get(name, value) == value:
                values[section].pop(name, None)
    for entry in values["sampling"]["by_steps"].values():
        for name in _YOUNGER["sampling"]:
            if entry.get(name) is None:
                entry.pop(name, None)
    return values


KEPT_AND_WATCHED = (
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_last",
    "train.milestone_every",
    "train.sample_every",
)
"""How a run is kept and watched: settings that change no weight."""


class RunConfig(Section):
    """Everything that decides what a training run computes."""

    recipe: str
    method: str
    variant: str = ""
    seed: int = Field(0, ge=0)
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    times: TimesConfig = TimesConfig()
    objective: dict[str, Any] = {}
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    sampling: SamplingConfig = SamplingConfig()

    @property
    def digest(self) -> str:
        """sha256 of the resolved configuration, but for where data lies and how it is read."""
        return self._digest()

    @property
    def seedless_digest(self) -> str:
        """What trainings share whose weights differ by the seed alone.

        `digest` without the seed, and without what is not seen by the weights: how images are
        drawn, and how often a run logs, saves and draws. Each result says itself how it was drawn,
        so a seed that is added after a search of the sampling counts with the others.
        """
        return self._digest("seed", "sampling", *KEPT_AND_WATCHED)

    def _digest(self, *left_out: str) -> str:
        values = self.model_dump(mode="json", exclude={"data": {"path", "workers"}})
        # digests of published runs are of the rate itself
        del values["optim"]["final_share"]
        values["optim"]["final_lr"] = self.optim.final_lr
        values = _without_younger(values)
        for section, _, name in (path.rpartition(".") for path in left_out):
            del (values[section] if section else values)[name]
        text = json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()
