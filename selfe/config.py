"""The typed, frozen configuration of a run: sections, `--set` overrides, errors, digest."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from selfe.methods import METHOD_LABELS, OBJECTIVES
from selfe.settings import fields_of, first_problem, unknown_key
from selfe.stages import check_stages


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
        (8, 28, 28), description="features of a head rotated by (t, y, x), which add up to a head"
    )
    time_factor: float = Field(
        1000.0, gt=0, description="time features are sinusoids of it times t"
    )


class DataConfig(Section):
    """Where samples come from. Names are those of selfe.registry tables in selfe.builder."""

    source: str = Field("shapes", description="reader: shapes, latents")
    preset: str = Field("grid", description="preset of the shapes world")
    path: str = Field("", description="folder written by `selfe-bench prepare`")
    bucket_unit: int = Field(
        64, ge=1, description="consecutive samples of the latent cache that share an image size"
    )
    workers: int = Field(
        2, ge=0, description="threads that read the latent cache ahead; 0 for none"
    )
    resolution: int = Field(256, ge=16, description="side of the images drawn, in pixels")
    size: int = Field(40_960, ge=1, description="training images of the shapes world")
    codec: str = Field("shapes-grid", description="autoencoder: shapes-grid, shapes-free, flux")
    signal: float = Field(
        1.0, gt=0, description="factor on the latents of the shapes world; below 1 is harder"
    )
    text: str = Field("shapes", description="text encoder: shapes, flux")
    revision: str = Field("", description="of the encoders on the hub; the newest if empty")
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
    final_lr: float = Field(1e-5, ge=0, description="learning rate at the end of the decay")
    warmup: int = Field(1000, ge=0, description="iterations until the rate is reached")
    decay_horizon: int | None = Field(
        None, ge=1, description="iterations of the decay; null for the whole run"
    )
    betas: tuple[Beta, Beta] = Field((0.9, 0.95), description="of Adam")
    eps: float = Field(1e-8, gt=0, description="of Adam")
    weight_decay: float = Field(0.0, ge=0, description="of Adam, added to the gradient")
    clip_norm: float = Field(
        1.0, gt=0, allow_inf_nan=True, description="of the gradient; Infinity for no limit"
    )
    ema_decay: float = Field(
        0.9999, ge=0, lt=1, description="of the moving average of the weights, which is scored"
    )
    ema_warmup: bool = Field(True, description="decay min(d, (1 + n) / (10 + n)) at update n")


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
        (), description="later stages, by rising start: what changes of batch_size and resolutions"
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
    max_nonfinite: int = Field(5, ge=0, description="steps in a row without update allowed")


class StepSampling(Section):
    """What may differ between numbers of steps."""

    sampler: Literal["any-step", "pushforward", "restart"] | None = None
    guidance: Literal["none", "linear", "ep-v", "ep-x0"] | None = None
    guidance_scale: float | None = Field(None, ge=0)
    eta: float | None = Field(None, ge=0, le=1)
    update: Literal["ancestral", "minfm"] | None = None
    s_fraction: float | None = Field(None, ge=0, le=1)


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
    eta: float = Field(1.0, ge=0, le=1, description="noise of a step; 0 is deterministic")
    update: Literal["ancestral", "minfm"] = Field(
        "ancestral", description="how eta splits old and fresh noise"
    )
    s_fraction: float = Field(
        0.0, ge=0, le=1, description="s of a step from t to t': 0 is t', 1 is t, 0.5 halfway"
    )
    warp: bool = Field(True, description="warp the time grid as training warps t (Eq. s.12)")
    base_len: int = Field(512, ge=1, description="as times.base_len, for the grid")
    batch_slots: int = Field(32, ge=1, description="fixed batch of the sampler, padded")
    by_steps: dict[int, StepSampling] = Field(
        {}, description="other settings from a number of steps on"
    )

    def at(self, num_steps: int) -> SamplingConfig:
        """The settings that apply to a number of steps, `by_steps` resolved."""
        applicable = [n for n in self.by_steps if n <= num_steps]
        if not applicable:
            return self.model_copy(update={"by_steps": {}})
        chosen = self.by_steps[max(applicable)].model_dump(exclude_none=True)
        return self.model_copy(update={**chosen, "by_steps": {}})


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
        """`digest` without the seed: what trainings share that differ in nothing else."""
        return self._digest("seed")

    def _digest(self, *left_out: str) -> str:
        values = self.model_dump(mode="json", exclude={"data": {"path", "workers"}})
        if values["model"]["time_factor"] == ModelConfig().time_factor:
            del values["model"]["time_factor"]  # younger than the digests of published runs
        if values["data"]["signal"] == DataConfig().signal:
            del values["data"]["signal"]  # likewise
        text = json.dumps({k: v for k, v in values.items() if k not in left_out}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def label(self) -> str:
        return METHOD_LABELS.get(self.method, self.method)

    def build_objective(self) -> Any:
        """The objective, with the run's time schedule where it takes one."""
        return build_objective(self.method, self.objective, self.times)


def build_objective(method: str, section: Mapping[str, Any], times: TimesConfig) -> Any:
    """Validate an objective section against its dataclass and build it.

    Raises:
        TypeError: if the objective's class is no dataclass or not an `Objective`.
        ValidationError: if the section does not fit it.
    """
    cls = OBJECTIVES.load(method)
    if not dataclasses.is_dataclass(cls):
        raise TypeError(
            f"{cls.__qualname__}, the objective of method {method!r}, must be a dataclass: its "
            "fields are the keys of the section 'objective'"
        )
    names = {field.name for field in dataclasses.fields(cls)} | set(dir(cls))
    if missing := {"group_size", "needs_fake_captions", "loss"} - names:
        raise TypeError(f"the objective of method {method!r} has no {', '.join(sorted(missing))}")
    arguments = dict(section)
    if any(field.name == "times" for field in dataclasses.fields(cls)):
        arguments["times"] = times.model_dump()
    return TypeAdapter(cls).validate_python(arguments)


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """["optim.lr=1e-3", ...] -> nested dictionary; values are JSON, or else plain strings.

    Raises:
        ValueError: for text without "=" or without a section.
    """
    result: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"--set takes section.key=value, got {assignment!r}")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        node = result
        *sections, last = key.strip().split(".")
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise ValueError(f"--set {key}: {section} was already set to a value")
        node[last] = value
    return result


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Recursive update: mappings merge, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def validate(values: Mapping[str, Any]) -> RunConfig:
    """Build the configuration, turning pydantic's report into one sentence.

    Raises:
        ValueError: names the key, what it must be, and for unknown keys the nearest known one.
    """
    method = values.get("method", "")
    objective_class = OBJECTIVES.load(method)
    objective_values = values.get("objective", {})
    if not isinstance(objective_values, Mapping):
        raise ValueError(f"objective is a section, not a value: got {objective_values!r}")
    for key in objective_values:
        # pydantic ignores unknown keys of a plain dataclass
        if key not in fields_of(objective_class):
            raise ValueError(unknown_key(["objective"], key, fields_of(objective_class)))
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        raise ValueError(first_problem(error, RunConfig)) from None
    try:
        objective = config.build_objective()
    except ValidationError as error:
        raise ValueError(first_problem(error, objective_class, "objective")) from None
    resolved = dataclasses.asdict(objective)
    resolved.pop("times", None)
    for key, value in resolved.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"objective.{key} must be a finite number, got {value}")
    config = config.model_copy(update={"objective": resolved})
    check_stages(config, objective.group_size)
    return config


def validate_section(cls: type[SectionT], values: Mapping[str, Any], name: str) -> SectionT:
    """One section by itself, with the same errors as `validate`."""
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise ValueError(first_problem(error, cls, name)) from None
