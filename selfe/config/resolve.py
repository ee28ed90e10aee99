"""From recipe, method, variant and assignments to the complete, checked configuration of a run."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from selfe.config.assignments import merge, override_steps, parse_assignments
from selfe.config.describe import fields_of, first_problem, setting_keys, unknown_key
from selfe.config.inference import check_sampling
from selfe.config.objective_outline import settings_class
from selfe.config.recipes import RECIPES, part_of_method
from selfe.config.schema import (
    KEPT_AND_WATCHED,
    ModelConfig,
    RunConfig,
    SectionT,
    TimesConfig,
    TrainConfig,
)
from selfe.config.stages import check_stages
from selfe.objectives.registry import load_method, objective_class, variants_of
from selfe.registry import Registry

# How a run is kept and watched, where its data lies and how images are drawn from it: the weights
# are the same.
_NOT_OF_WEIGHTS = (
    "data.path",
    "data.workers",
    *KEPT_AND_WATCHED,
    "sampling.",
)


def build_objective(config: RunConfig) -> Any:
    """The run's objective, with its time schedule where it takes one."""
    cls = objective_class(config.method)
    return objective_of_section(config.method, config.objective, config.times, cls)


def objective_of_section(
    method: str, section: Mapping[str, Any], times: TimesConfig, cls: Any = None
) -> Any:
    """Validate an objective section against its dataclass and build it.

    Args:
        cls: the class; None for `settings_class`, which is enough to look at settings.

    Raises:
        TypeError: if the objective's class is no dataclass or not an `Objective`.
        ValidationError: if the section does not fit it.
    """
    cls = cls or settings_class(method)
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


def validate(values: Mapping[str, Any]) -> RunConfig:
    """Build the configuration, turning pydantic's report into one sentence.

    Raises:
        ValueError: names the key, what it must be, and for unknown keys the nearest known one.
    """
    method = values.get("method", "")
    cls = settings_class(method)
    objective_values = values.get("objective", {})
    if not isinstance(objective_values, Mapping):
        raise ValueError(f"objective is a section, not a value: got {objective_values!r}")
    for key in objective_values:
        # pydantic ignores unknown keys of a plain dataclass
        if key not in fields_of(cls):
            raise ValueError(unknown_key(["objective"], key, fields_of(cls)))
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        raise ValueError(first_problem(error, RunConfig)) from None
    try:
        objective = objective_of_section(config.method, config.objective, config.times)
    except ValidationError as error:
        raise ValueError(first_problem(error, cls, "objective")) from None
    resolved = dataclasses.asdict(objective)
    resolved.pop("times", None)
    for key, value in resolved.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"objective.{key} must be a finite number, got {value}")
    config = config.model_copy(update={"objective": resolved})
    wanted = getattr(objective, "network_settings", {})
    model = validate_section(ModelConfig, {**config.model.model_dump(), **wanted}, "model")
    config = config.model_copy(update={"model": model})
    check_stages(config, objective.group_size)
    return config


def validate_section(cls: type[SectionT], values: Mapping[str, Any], name: str) -> SectionT:
    """One section by itself, with the same errors as `validate`."""
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise ValueError(first_problem(error, cls, name)) from None


def changed_settings(config: RunConfig) -> list[str] | None:
    """Settings in which a run differs from its recipe, method, variant and seed apart.

    A shorter run under the recipe's own learning rate changes nothing: its weights are those of a
    milestone.

    Returns:
        "section.key=value" as `--set` takes them; None if this version has no such recipe, variant
        or key.
    """
    try:
        own = resolve(config.recipe, config.method, variant=config.variant, seed=config.seed)
    except ValueError:
        return None
    ours, recipes = (dict(_leaves(c.model_dump(mode="json"))) for c in (config, own))
    if ours.keys() != recipes.keys():
        return None
    changed = {k: v for k, v in ours.items() if v != recipes[k]}
    horizons = [c.optim.decay_horizon or c.train.iterations for c in (config, own)]
    if config.train.iterations <= own.train.iterations and horizons[0] == horizons[1]:
        for name in ("train.iterations", "optim.decay_horizon"):
            changed.pop(name, None)
    return [f"{k}={_assigned(v)}" for k, v in changed.items() if not k.startswith(_NOT_OF_WEIGHTS)]


def differing_settings(a: RunConfig, b: RunConfig) -> list[tuple[str, str, str]]:
    """(name, value of `a`, value of `b`) of every setting of which a digest is made and that
    differs; where only one of them has settings at all, they are "unset" in the other."""
    left, right = (
        dict(_leaves(c.model_dump(mode="json", exclude={"data": {"path", "workers"}})))
        for c in (a, b)
    )

    def shown(side: Mapping[str, Any], name: str) -> str:
        return _assigned(side[name]) if name in side else "unset"

    both = [name for name in left if name in right and left[name] != right[name]]
    one = [name for name in dict.fromkeys([*left, *right]) if (name in left) != (name in right)]
    return [(name, shown(left, name), shown(right, name)) for name in both or one]


def same_weights(a: RunConfig, b: RunConfig) -> bool:
    """Whether two configurations train the same weights: they differ at most in how the run is kept
    and watched, where its data lies and how images are drawn from it."""
    return all(name.startswith(_NOT_OF_WEIGHTS) for name, *_ in differing_settings(a, b))


def settings_of_weights(assignments: Sequence[str]) -> list[str]:
    """Those "section.key=value" texts that a run's weights depend on."""
    return [text for text in assignments if not text.strip().startswith(_NOT_OF_WEIGHTS)]


def milestone_interval(recipe: str) -> int | None:
    """Iterations from one milestone of a recipe to the next; None if none is kept, or this version
    has no such recipe."""
    if recipe not in RECIPES:
        return None
    return TrainConfig.model_validate(RECIPES[recipe].get("train", {})).milestone_every


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _assigned(value: Any) -> str:
    """A value as `parse_assignments` reads it back."""
    plain = isinstance(value, str) and parse_assignments([f"a={value}"])["a"] == value
    return value if plain else json.dumps(value)


def resolve(
    recipe: str,
    method: str,
    *,
    variant: str = "",
    seed: int = 0,
    assignments: Sequence[str] = (),
) -> RunConfig:
    """The complete configuration of a run.

    Args:
        recipe: name in `RECIPES`.
        method: name in `selfe.objectives.registry.METHODS`.
        variant: "" or an ablation of the method.
        assignments: `section.key=value` texts; they win over all but the names and the seed.

    Raises:
        ValueError: for unknown names and keys or values that do not fit, in one sentence.
    """
    if recipe not in RECIPES:
        raise ValueError(Registry("recipe", dict.fromkeys(RECIPES, ":")).unknown(recipe))
    row = load_method(method)
    values: dict[str, Any] = {"recipe": recipe, "method": method, "variant": variant, "seed": seed}
    values = merge(values, RECIPES[recipe])
    values = merge(values, part_of_method(recipe, row))
    if variant:
        known = variants_of(method)
        if variant not in known:
            table = Registry(f"variant of {method}", dict.fromkeys(known, ":"))
            raise ValueError(table.unknown(variant))
        values = merge(values, known[variant])
    given = parse_assignments(assignments)
    for name in ("recipe", "method", "variant", "seed"):
        if name in given:  # what depends on it was chosen above
            raise ValueError(f"--set takes section.key=value; for {name} there is --{name}")
    rates = given.get("optim")
    if isinstance(rates, Mapping) and {"final_lr", "final_share"} <= rates.keys():
        raise ValueError(
            "optim.final_lr and optim.final_share both set the last learning rate: give one of them"
        )
    for name in given:
        if name not in RunConfig.model_fields:
            raise ValueError(_without_section(name, fields_of(settings_class(method))))
    data = given.get("data")
    world = {name: values.get("data", {}).get(name) for name in ("codec", "preset")}
    if (
        isinstance(data, Mapping)
        and any(name in data and data[name] != own for name, own in world.items())
        and "signal" not in data
    ):
        values = merge(values, {"data": {"signal": 1.0}})  # a recipe's is of its own world
    drawn = given.get("sampling")
    if isinstance(drawn, Mapping):
        own = values.get("sampling", {})
        values["sampling"] = override_steps(own, drawn)
        given = {name: section for name, section in given.items() if name != "sampling"}
    config = validate(_with_deviation(merge(values, given), given, row.data_deviation))
    check_sampling(config.sampling, method)
    return config


def _with_deviation(values: dict[str, Any], given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """`values` with the objective's deviation of the data, unless the user gave it, times the
    factor on the latents."""
    objective, data = given.get("objective", {}), values.get("data", {})
    if not name or not isinstance(data, Mapping) or not isinstance(objective, Mapping):
        return values  # refused, where it is no section
    signal = data.get("signal", 1.0)
    if name in objective or not isinstance(signal, int | float) or signal == 1:
        return values
    own = getattr(settings_class(values["method"]), name)
    return merge(values, {"objective": {name: own * signal}})


def _without_section(name: str, objective: Mapping[str, Any]) -> str:
    """The sentence that answers a setting whose section is missing or unknown."""
    keys = [*setting_keys(RunConfig), *(f"objective.{key}" for key in objective)]
    exact = [key for key in keys if key.partition(".")[2] == name]
    near = difflib.get_close_matches(name, [key.partition(".")[2] for key in keys], n=1)
    close = exact or [key for key in keys if near and key.partition(".")[2] == near[0]]
    if close:
        return f"unknown key {name!r}; did you mean {' or '.join(map(repr, close))}?"
    sections = [section for section in RunConfig.model_fields if section in
                {key.partition(".")[0] for key in keys}]  # fmt: skip
    return unknown_key([], name, dict.fromkeys(sections))


def run_name(config: RunConfig) -> str:
    """Default folder of a run below `runs/`: recipe, method, variant, and a seed other than 0."""
    parts = [config.recipe, config.method, config.variant, f"seed{config.seed}"]
    return "-".join(part for part in parts if part and part != "seed0")
