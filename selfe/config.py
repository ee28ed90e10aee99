"""The typed, frozen configuration of a run: sections, `--set` overrides, errors, digest."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from selfe.methods import METHOD_LABELS, OBJECTIVES
from selfe.stages import check_stages


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


SectionT = TypeVar("SectionT", bound=Section)
Beta = Annotated[float, Field(ge=0, lt=1)]
"""What a moving average keeps at every update."""


class ModelConfig(Section):
    """Arguments of `selfe.network.DualTimeDenoiser`; one network for all methods."""

    in_channels: int = Field(64, ge=1, description="latent channels x patch area")
    num_layers: int = Field(8, ge=0)
    num_single_layers: int = Field(16, ge=0)
    attention_head_dim: int = Field(64, ge=1)
    num_attention_heads: int = Field(16, ge=1)
    joint_attention_dim: int = Field(4096, ge=1)
    pooled_projection_dim: int = Field(768, ge=1)
    axes_dims_rope: tuple[int, int, int] = (8, 28, 28)
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
    codec: str = "shapes-grid"
    text: str = "shapes"
    revision: str = Field("", description="of the encoders on the hub; the newest if empty")
    text_tokens: int | None = Field(
        None, ge=1, description="most tokens of a caption; null for the encoder's own limit"
    )


class TimesConfig(Section):
    """Fields of `selfe.times.TimeSampler`."""

    base_len: int = Field(512, ge=1)
    tau_horizon: int = Field(300_000, ge=0)
    pairing: Literal["stratified", "bernoulli"] = "stratified"


class OptimConfig(Section):
    """Adam with linear warm-up and linear decay (S.2)."""

    lr: float = Field(3e-4, gt=0)
    final_lr: float = Field(1e-5, ge=0)
    warmup: int = Field(1000, ge=0)
    decay_horizon: int | None = Field(None, ge=1, description="iterations; None for the whole run")
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float = Field(
        1.0, gt=0, allow_inf_nan=True, description="of the gradient; Infinity for no limit"
    )
    ema_decay: float = Field(0.9999, ge=0, lt=1)
    ema_warmup: bool = Field(True, description="decay min(d, (1 + n) / (10 + n)) at update n")


class StageConfig(Section):
    """What changes from an iteration on; what is not given stays as it was before."""

    start: int = Field(ge=1, description="first iteration of the stage")
    batch_size: int | None = Field(None, ge=1, description="global batch")
    resolutions: dict[int, float] = Field(
        {}, description="resolution family, side of its square in pixels -> share of the samples"
    )


class TrainConfig(Section):
    iterations: int = Field(300_000, ge=1)
    batch_size: int = Field(1024, ge=1, description="global batch")
    micro_batch_size: int | None = Field(
        None, ge=1, description="at most so many samples at once; None for the whole batch"
    )
    stages: tuple[StageConfig, ...] = Field((), description="later stages, by rising start")
    caption_dropout: float = Field(0.1, ge=0, le=1)
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
    log_every: int = Field(10, ge=1)
    checkpoint_every: int = Field(1000, ge=1)
    keep_last: int = Field(2, ge=1)
    milestone_every: int | None = Field(50_000, ge=1)
    sample_every: int | None = Field(None, ge=1)
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

    sampler: Literal["any-step", "pushforward", "restart"] = "any-step"
    guidance: Literal["none", "linear", "ep-v", "ep-x0"] = "ep-v"
    guidance_scale: float = Field(5.0, ge=0)
    eta: float = Field(1.0, ge=0, le=1)
    update: Literal["ancestral", "minfm"] = "ancestral"
    s_fraction: float = Field(0.0, ge=0, le=1)
    warp: bool = True
    base_len: int = Field(512, ge=1)
    batch_slots: int = Field(32, ge=1, description="fixed batch of the sampler, padded")
    by_steps: dict[int, StepSampling] = {}

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
        if key not in _fields(objective_class):
            raise ValueError(_unknown_key(["objective"], key, _fields(objective_class)))
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        raise ValueError(_sentence(error, RunConfig)) from None
    try:
        objective = config.build_objective()
    except ValidationError as error:
        raise ValueError(_sentence(error, objective_class, "objective")) from None
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
        raise ValueError(_sentence(error, cls, name)) from None


def _fields(cls: Any) -> dict[str, Any]:
    if isinstance(cls, type) and issubclass(cls, BaseModel):
        return {name: info.annotation for name, info in cls.model_fields.items()}
    if dataclasses.is_dataclass(cls):
        hints = typing.get_type_hints(cls)
        return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.name != "times"}
    return {}


def _describe(annotation: Any) -> str:
    """A type in words: "a number", "one of a, b", "an integer or none"."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _describe(args[0])
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(a) for a in args)
    if origin is tuple and args[-1] is Ellipsis:
        return f"a list, each {_describe(args[0])}"
    if origin is tuple:
        return f"a list of {len(args)} values, each {_describe(args[0])}"
    words = {
        int: "an integer",
        float: "a number",
        bool: "true or false",
        str: "text",
        type(None): "null",
    }
    if origin is dict:
        return f"a mapping of {_describe(args[0])} to {_describe(args[1])}"
    return words.get(annotation, "a section")


def _unknown_key(path: list[str], key: str, fields: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(key, fields, n=1, cutoff=0.4)
    hint = f"; did you mean {'.'.join([*path, near[0]])!r}?" if near else ""
    return f"unknown key {'.'.join([*path, key])!r}{hint} (known here: {', '.join(fields)})"


_OUT_OF_RANGE = (
    "greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number",
)  # fmt: skip
"""Kinds of pydantic's problems in which the type is right and the value is not."""


def _sentence(error: ValidationError, cls: Any, prefix: str = "") -> str:
    """The first problem of a pydantic report as one sentence: key, type, nearest spelling."""
    problem = error.errors()[0]
    location = [str(part) for part in problem["loc"]]
    node: Any = cls
    path = [prefix] if prefix else []
    for depth, part in enumerate(location):
        if part.isdigit() and typing.get_origin(node) in (tuple, dict):
            node = typing.get_args(node)[-1 if typing.get_origin(node) is dict else 0]
            path[-1] += f"[{part}]"
            continue
        fields = _fields(node)
        if part not in fields:
            if depth and not fields:
                break  # inside a union, or a key of a mapping: the key so far names it
            return _unknown_key(path, part, fields)
        path.append(part)
        node = fields[part]
    key = ".".join(path)
    given = json.dumps(problem.get("input"), default=str)
    if problem["type"] in _OUT_OF_RANGE:
        wanted = problem["msg"].removeprefix("Input should be ")
        return f"{key} must be {wanted}, got {given}"
    detail = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{key} must be {_describe(node)}, got {given} ({detail})"
