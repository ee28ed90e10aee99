"""result.json and images.jsonl: the facts of a result, written and read back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evals.base import (
    SCHEMA_VERSION,
    ColorClassifier,
    Detector,
    ModelFacts,
    ProtocolFacts,
    Result,
)
from evals.suites.base import Suite
from evals.suites.rules import RuleSettings
from selfe.files import write_atomically
from selfe.generator import GeneratorFacts

DETECTIONS = "detections.jsonl"
VERDICTS = "images.jsonl"


RESULT = "result.json"


def protocol_facts(
    suite: Suite,
    images_per_prompt: int,
    detector: Detector,
    color_classifier: ColorClassifier,
    settings: RuleSettings,
    sampling: Mapping[str, Any] | None = None,
    signal: float = 1.0,
) -> ProtocolFacts:
    """What another result must share before the two may stand in one table.

    Args:
        sampling: settings of `SamplingFacts`, some of which are part of a protocol.
    """
    return ProtocolFacts(
        suite=suite.name,
        split=suite.split,
        prompts_sha256=suite.prompts_sha256,
        num_prompts=len(suite.records),
        images_per_prompt=images_per_prompt,
        detector=detector.identity,
        color_classifier=color_classifier.identity,
        rules=settings.model_dump(),
        inference=str((sampling or {}).get("inference", "")),
        crop_black_borders=bool((sampling or {}).get("crop_black_borders", False)),
        signal=signal,
    )


def model_facts(facts: GeneratorFacts) -> ModelFacts:
    return ModelFacts(
        name=facts.name,
        label=facts.label,
        method=facts.method,
        digest=facts.digest,
        resolution=facts.resolution,
        variant=facts.variant,
        iterations=facts.iterations,
        parameters=facts.parameters,
        other_weights=facts.other_weights,
        training=dict(facts.training),
    )


def write_result(folder: str | Path, result: Result) -> Path:
    """Write result.json atomically; returns its path."""
    path = Path(folder) / RESULT
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, result.model_dump_json(indent=2) + "\n")
    return path


def read_result(folder: str | Path) -> Result:
    """Read result.json of a folder, or the file itself.

    Raises:
        ValueError: if it is missing, of another schema version or malformed; names the file.
    """
    path = Path(folder)
    if path.is_dir():
        path = path / RESULT
    if not path.is_file():
        raise ValueError(f"{path} does not exist; a result folder has it once scoring is done")
    try:
        result = Result.model_validate_json(path.read_text())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(p) for p in first["loc"])
        raise ValueError(f"{path} is not a result: {place}: {first['msg']}") from None
    if result.schema_version != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema version {result.schema_version}, this version reads "
            f"{SCHEMA_VERSION}; score its images again"
        )
    return result


def protocol_key(protocol: ProtocolFacts) -> str:
    """Identity of a protocol: results with different keys never share a table."""
    values = protocol.model_dump(mode="json")
    for name in ("inference", "crop_black_borders"):
        if not values[name]:
            del values[name]  # younger than the names of published tables
    if values["signal"] == 1:
        del values["signal"]  # likewise
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def protocol_slug(protocol: ProtocolFacts) -> str:
    """A short name of a protocol for file names."""
    suite = protocol.suite.replace("@", "-")
    size = f"{protocol.num_prompts}x{protocol.images_per_prompt}"
    parts = [suite, protocol.split, protocol.inference, size, protocol_key(protocol)[:6]]
    return "-".join(part for part in parts if part)
