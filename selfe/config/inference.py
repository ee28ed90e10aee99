"""Which samplers suit which predictions, and the named ways of drawing a trained model's images.

What V(x_t, t, s) means decides how a step may use it (`selfe.objectives.registry.Prediction`):

- velocity: V was trained at s = t alone. A step calls the network there, with any eta.
- posterior: x_t - t V estimates x_0 at every s, as Self-E's sample head does by construction. A
  step takes any s in [t', t] and any eta.
- flow-map: V is the mean velocity from t to s, and x_t - t V estimates x_0 at s = 0 alone. A step
  is x - (t - t') V(t, t'), or x_0 at s = 0 and fresh noise.

Drawn any-step at eta 1, an exact flow map of a Gaussian of deviation 0.5 gives 0.48, 0.44, 0.44 and
0.48 at 2, 4, 8 and 50 steps; pushed forward it gives 0.50 (tests/test_inference.py).
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from selfe.config.recipes import FAMILIES, own_sampling
from selfe.config.schema import SamplingConfig
from selfe.objectives.registry import Method, Prediction, load_method

Inference = Literal["paper", "paper-ancestral", "searched"]
"""Named ways of drawing. "paper": omega 5, energy-preserving, eta 1 and the warp, the same for
every method that can take it, a flow map as its authors draw it. The paper names no update; "paper"
has minFM's, a training code of the same family of authors, which holds exactly these numbers, and
"paper-ancestral" has DDPM's posterior. "searched": as found best for each method on validation
prompts."""

INFERENCES: tuple[str, ...] = get_args(Inference)


def as_drawn(settings: SamplingConfig, prediction: Prediction) -> SamplingConfig:
    """The settings of one number of steps as they are carried out.

    A velocity is asked for at s = t whatever `s_fraction` says: at other s the network was never
    trained. Guidance is then taken there as well.
    """
    if prediction != "velocity" or settings.sampler != "any-step":
        return settings
    return settings.model_copy(update={"s_fraction": 1.0, "guidance_time": "s"})


def sampling_problem(settings: SamplingConfig, prediction: Prediction) -> str:
    """Why the settings of one number of steps do not suit a prediction; "" where they do."""
    sampler = settings.sampler
    if prediction == "velocity" and sampler != "any-step":
        return (
            f"sampling.sampler = {sampler} evaluates V at s < t, where it was never trained: "
            "use any-step"
        )
    if prediction == "velocity" and 0 < settings.s_fraction < 1:
        return (
            f"sampling.s_fraction = {settings.s_fraction:g} evaluates V at s < t, where it was "
            "never trained: leave it out"
        )
    if prediction != "flow-map":
        return ""
    why = "its V is the mean velocity from t to s, so that x_t - t V is an image only at s = 0"
    if sampler == "any-step" and settings.eta > 0:
        return (
            f"sampling.eta = {settings.eta:g} needs an image at every s and {why}: use "
            "sampling.eta=0, or sampling.sampler=pushforward or restart"
        )
    if sampler == "any-step" and settings.s_fraction > 0:
        return (
            f"sampling.s_fraction = {settings.s_fraction:g} would take a step to another time than "
            "the one V leads to: use sampling.s_fraction=0"
        )
    if sampler != "restart" and settings.guidance == "ep-x0":
        return f"sampling.guidance = ep-x0 guides an image and {why}: use linear or ep-v"
    return ""


def check_step(settings: SamplingConfig, method: str, prediction: Prediction, steps: int) -> None:
    """Raise ValueError, in one sentence, if images cannot be drawn in `steps` steps with these
    settings."""
    if problem := sampling_problem(settings.at(steps), prediction):
        raise ValueError(f"{method} cannot be sampled like that at {_steps(steps)}: {problem}")


def check_sampling(settings: SamplingConfig, method: str) -> None:
    """Raise ValueError where the settings of any number of steps do not suit a method."""
    prediction = load_method(method).prediction
    for steps in sorted({1, *settings.by_steps}):
        check_step(settings, method, prediction, steps)


def inference_settings(recipe: str, method: Method, inference: str) -> dict[str, Any]:
    """The section "sampling" of a named way of drawing, complete but for the batch.

    Args:
        recipe: with which the model was trained.
        inference: one of `INFERENCES`.

    Raises:
        ValueError: for an unknown name, or where no search has been made for the method.
    """
    if inference in ("paper", "paper-ancestral"):
        update = "minfm" if inference == "paper" else "ancestral"
        own = {"update": update} | dict(method.sampling.get("paper", {}))
    elif inference == "searched":
        searched = own_sampling(recipe, method)
        if searched is None or FAMILIES.get(recipe) == "paper":
            raise ValueError(
                f"no sampling was searched for {method.label} with the recipe {recipe}: "
                "search it with `selfe-bench search sampling`, or use --inference paper"
            )
        own = dict(searched)
    else:
        raise ValueError(f"--inference takes {' or '.join(INFERENCES)}, got {inference!r}")
    return SamplingConfig.model_validate(own).model_dump(exclude={"batch_slots"})


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"
