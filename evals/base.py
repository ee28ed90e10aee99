"""Contracts of the benchmark: detections, detectors, suites, and the schema of a result.

A result folder holds, for one model at one number of steps under one protocol:

    result.json         `Result`: protocol, model, sampling, scores, versions, command
    images.jsonl        `ImageVerdict` per image; every table can be recomputed from it
    detections.jsonl    stored detections, to be scored again under other thresholds
    00000/metadata.jsonl, 00000/samples/00000.png ...   GenEval's own layout
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

SCHEMA_VERSION = 1
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


_MOST = 10**9
"""Of what is counted."""


class Frozen(BaseModel):
    # built when first used: lists of suites read nothing
    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, defer_build=True
    )


class Detection(Frozen):
    """One detected object.

    Attributes:
        label: class name, as in prompts.
        box: (x1, y1, x2, y2) in pixels of the original image.
        score: confidence in [0, 1].
        color: the classified colour, or None where it was not asked for.
        mask: (H, W) bool at the original size; kept in memory only, never stored.
    """

    label: str
    box: tuple[float, float, float, float]
    score: float
    color: str | None = None
    mask: np.ndarray | None = Field(default=None, exclude=True, repr=False)


class ImageVerdict(Frozen):
    """A line of images.jsonl, the output of `selfe-bench rescore`."""

    prompt_id: int
    sample_id: int
    tag: str
    correct: bool
    reason: str


class Detector(Protocol):
    """Finds objects. `identity` names implementation and weights: results of two identities never
    share a table."""

    identity: str
    classes: Sequence[str]

    def detect(self, images: Sequence[np.ndarray]) -> list[list[Detection]]:
        """(H, W, 3) uint8 images -> detections sorted by falling score, masks included."""
        ...


class ColorClassifier(Protocol):
    identity: str

    def classify(
        self, images: Sequence[np.ndarray], detections: Sequence[Sequence[Detection]]
    ) -> list[list[str]]:
        """A colour name for each given detection of each image."""
        ...


class Interval(Frozen):
    """An estimate with its 95% interval; the share of correct images where not said otherwise."""

    mean: float
    low: float
    high: float


class ProtocolFacts(Frozen):
    """What two results must share before their figures may be compared."""

    suite: str
    """name@version, for example "geneval@1" or "shapes@1"."""
    split: str = ""
    """"" for the whole suite, else "validation" or "heldout"."""
    prompts_sha256: str
    num_prompts: int = Field(ge=0, le=_MOST)
    images_per_prompt: int = Field(ge=0, le=_MOST)
    detector: str
    color_classifier: str
    rules: dict[str, Any]
    """Thresholds and switches of the rules."""
    inference: str = ""
    """Name of the way trained models are drawn ("paper", "searched"), "" for each run's own."""
    signal: float = 1.0
    """Factor on the latents the model was trained on (`data.signal`): another is another world."""
    crop_black_borders: bool = False
    """Whether black borders were cut off before images were saved."""


class ModelFacts(Frozen):
    """`selfe.generator.GeneratorFacts`, as stored."""

    name: str
    label: str
    method: str
    digest: str
    resolution: tuple[int, int]
    variant: str = ""
    iterations: int | None = Field(None, ge=0, le=10**12)
    parameters: int | None = Field(None, ge=0, le=10**15)
    other_weights: str = ""
    training: dict[str, Any] = {}
    """See `TrainingFacts`."""


class TrainingFacts(BaseModel):
    """What reports read of `ModelFacts.training`; there may be more."""

    model_config = ConfigDict(extra="allow")

    recipe: str | None = None
    seed: int | None = Field(None, ge=0, le=2**63)
    changed: list[Annotated[str, StringConstraints(pattern="=")]] | None = None
    data: dict[str, str] | None = None
    precision: str | None = None
    config_digest: str | None = None
    seedless_digest: str | None = None
    init_from: str | None = None
    under_trained: str | None = None


class SettingFacts(BaseModel):
    """What reports read of `SamplingFacts.settings`; there may be more."""

    model_config = ConfigDict(extra="allow")

    guidance: str | None = None
    guidance_scale: float | None = None
    eta: float | None = None
    s_fraction: float | None = None
    sampler: str | None = None
    update: str | None = None


class DiversityFacts(BaseModel):
    """What reports read of `Result.diversity`; there may be more."""

    model_config = ConfigDict(extra="allow")

    tv: float | None = None
    tv_data: float | None = None
    tasks: dict[str, dict[str, dict[str, float]]] = {}


class SamplingFacts(Frozen):
    steps: int = Field(ge=0, le=_MOST)
    nfe: int = Field(ge=0, le=_MOST)
    seed: int = Field(ge=0, le=2**63)
    settings: dict[str, Any] = {}
    """guidance ("linear", "ep-v", "ep-x0", "none", "embedded"), guidance_scale, eta, update,
    s_fraction, scheduler, dtype ... as the generator states them."""


class Scores(Frozen):
    overall: Interval | None
    """Mean of the task means; None for an incomplete set unless partial scores were allowed."""
    tasks: dict[str, Interval]
    groups: dict[str, Interval] = {}
    """Further cuts of the same images: "seen", "unseen"."""
    num_images: int
    num_failed: int = 0
    """Images that were not finite: counted as wrong and named in images.jsonl."""
    partial: bool = False


class Result(Frozen):
    schema_version: int = SCHEMA_VERSION
    protocol: ProtocolFacts
    model: ModelFacts
    sampling: SamplingFacts
    scores: Scores
    diversity: dict[str, Any] = {}
    truncated_prompts: dict[str, int] = {}
    cost: dict[str, float] = {}
    """wall_s_per_image, peak_memory_bytes (`evals.scoring.drawing_cost`), where images were drawn.
    Never printed in tables: they belong to a machine."""
    environment: dict[str, Any] = {}
    """versions, commit, machine."""
    command: str = ""
    files: dict[str, str] = {}
    """sha256 of detections.jsonl and images.jsonl; empty in results of earlier versions."""
