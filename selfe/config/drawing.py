"""How a run's images are drawn: its own section "sampling", a user's overrides, or a named way."""

from __future__ import annotations

from dataclasses import dataclass

from selfe.config.assignments import override_steps
from selfe.config.inference import as_drawn, check_step, inference_settings
from selfe.config.resolve import validate_section
from selfe.config.schema import RunConfig, SamplingConfig
from selfe.objectives.registry import Prediction, load_method


@dataclass(frozen=True)
class StepSettings:
    """How one model is drawn at any number of steps: what is known without its network.

    Attributes:
        sampling: sampler, guidance and slots; what `by_steps` says applies to its steps.
        label: the model's name in messages.
        prediction: what the network's V means; settings that do not suit it are refused.
        inference: name of the settings, where they have one (`selfe.config.inference`).
    """

    sampling: SamplingConfig
    label: str
    prediction: Prediction = "posterior"
    inference: str = ""

    def at(self, num_steps: int) -> SamplingConfig:
        """Raises ValueError where so many steps cannot be drawn with these settings."""
        check_step(self.sampling, self.label, self.prediction, num_steps)
        return as_drawn(self.sampling.at(num_steps), self.prediction)

    def facts_at(self, num_steps: int) -> dict[str, object]:
        """What a result records (`sampling_facts`), the name included; raises as `at`."""
        named = {"inference": self.inference} if self.inference else {}
        return sampling_facts(self.at(num_steps), self.prediction) | named

    def nfe(self, num_steps: int) -> int:
        """Network evaluations per image; raises as `at`."""
        return num_steps * self.at(num_steps).calls

    @property
    def chunk_size(self) -> int:
        """Images asked for at once: several batches, so that captions of one length fill theirs."""
        return 8 * self.sampling.batch_slots


def override_sampling(base: SamplingConfig, over: dict[str, object]) -> SamplingConfig:
    """A run's sampling section with a user's overrides, which apply to every number of steps.

    Raises:
        ValueError: for an unknown key or a value that does not fit.
    """
    values = override_steps(base.model_dump(exclude_none=True), over)
    return validate_section(SamplingConfig, values, "sampling")


def chosen_sampling(
    config: RunConfig, over: dict[str, object], inference: str = ""
) -> SamplingConfig:
    """How a run's images are drawn: by its own section with a user's overrides, or by a named way.

    Raises:
        ValueError: for overrides that do not fit, an unknown name, or overrides beside a name.
    """
    row = load_method(config.method)
    if not inference:
        if row.prediction == "velocity" and over.get("s_fraction", 1) != 1:
            raise ValueError(
                f"{row.label} was trained only at s = t and is sampled there: leave out --set "
                "sampling.s_fraction"
            )
        return override_sampling(config.sampling, over)
    if over:
        raise ValueError(
            f"--inference {inference} sets every sampling setting: leave out either --set "
            "sampling.KEY=VALUE or --inference"
        )
    named = inference_settings(config.recipe, row, inference)
    named["batch_slots"] = config.sampling.batch_slots
    return validate_section(SamplingConfig, named, "sampling")


def sampling_facts(
    settings: SamplingConfig, prediction: Prediction = "posterior"
) -> dict[str, object]:
    """The settings that decide an image at one number of steps, as a result records them.

    For a model that predicts a velocity they record s = t; results that were drawn at another s,
    before that was refused, record the fraction instead.
    """
    settings = as_drawn(settings, prediction)
    facts = settings.model_dump(mode="json", exclude={"batch_slots", "by_steps"})
    if settings.calls == 1:
        facts |= {"guidance": "none", "guidance_scale": 1.0, "guidance_time": "s"}
    if settings.sampler != "any-step":
        for name in ("eta", "update", "s_fraction", "warp", "base_len"):
            facts.pop(name)
    if prediction == "velocity" and settings.sampler == "any-step":
        facts.pop("s_fraction")
        facts["s"] = "t"
    # younger than published results: facts that say nothing new would only give them other names
    for name, value in (("guidance_time", "s"), ("shift", None)):
        if facts.get(name, value) == value:
            facts.pop(name, None)
    return facts
