"""result.json and images.jsonl: the facts of a result, written and read back."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evals.base import (
    SCHEMA_VERSION,
    ColorClassifier,
    Detector,
    DiversityFacts,
    ModelFacts,
    ProtocolFacts,
    Result,
    SettingFacts,
    TrainingFacts,
)
from evals.suites.base import Suite
from evals.suites.rules import RuleSettings
from selfe.files import file_sha256, write_atomically
from selfe.foreign_text import file_name
from selfe.generator import GeneratorFacts
from selfe.json_files import JsonFault, fit, parse_json, read_bytes
from selfe.sealed_files import seal, unseal

DETECTIONS = "detections.jsonl"
VERDICTS = "images.jsonl"


RESULT = "result.json"
MOST_BYTES = 1 << 26
"""Of a result.json; those of this program have a few kilobytes."""
_WITHOUT_RESULTS = frozenset({"checkpoints", "samples", ".git", ".venv", "__pycache__"})
_IMAGES_OF_A_PROMPT = re.compile(r"[0-9]{5}")


def walk_results(root: Path | str) -> Iterator[tuple[Path, list[str]]]:
    """Every folder at and below `root` that may hold results, runs or measurements, in the order of
    their names, with the names of its files.

    Folders of checkpoints, and of images beside a result.json, are not entered: a study has tens of
    thousands of images. Links are not followed.
    """
    for place, folders, files in os.walk(root):
        yield Path(place), files
        left_out = _WITHOUT_RESULTS.intersection(folders)
        if RESULT in files:
            left_out |= {name for name in folders if _IMAGES_OF_A_PROMPT.fullmatch(name)}
        folders[:] = sorted(set(folders) - left_out)


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
    write_atomically(path, seal("result", json.loads(result.model_dump_json())))
    return path


def read_result(folder: str | Path) -> Result:
    """Read result.json of a folder, or the file itself.

    Raises:
        ValueError: if it is missing, of another schema version or malformed; names the file.
    """
    path = Path(folder)
    if path.is_dir():
        path = path / RESULT
    if not path.exists():
        raise ValueError(f"{path} does not exist; a result folder has it once scoring is done")
    try:
        data = read_bytes(path, MOST_BYTES)
        value = parse_json(data, path)
        version = value.get("schema_version") if isinstance(value, dict) else SCHEMA_VERSION
        if type(version) is int and version != SCHEMA_VERSION:
            raise ValueError(
                f"{path} has schema version {version}, this version reads {SCHEMA_VERSION}; score "
                "its images again"
            )
        result = fit(Result, unseal(value, "result", path), path, data.decode("utf-8-sig"))
        fit(TrainingFacts, result.model.training, f"{path}, model.training")
        fit(DiversityFacts, result.diversity, f"{path}, diversity")
        fit(SettingFacts, result.sampling.settings, f"{path}, sampling.settings")
        return result
    except JsonFault as fault:
        place = "" if fault.where == str(path) else fault.where.rpartition(", ")[2] + ", "
        raise ValueError(
            f"{path} is not a result: {place}{fault.detail}; score its images again"
        ) from None


def check_files(folder: Path, result: Result) -> None:
    """Raise ValueError where files beside a result are not those that it was made with.

    A file that is not there is no fault: what a result is packed with is its owner's choice.
    """
    for name, recorded in result.files.items():
        path = folder / Path(name).name
        if path.is_file() and file_sha256(path) != recorded:
            raise ValueError(
                f"{path} is not the file that {RESULT} beside it was made with; score the folder "
                "again"
            )


def protocol_key(protocol: ProtocolFacts) -> str:
    """Identity of a protocol: results with different keys never share a table."""
    return _key_of(protocol.model_dump_json())


@functools.lru_cache(maxsize=1024)
def _key_of(protocol: str) -> str:
    values = json.loads(protocol)
    for name in ("inference", "crop_black_borders"):
        if not values[name]:
            del values[name]  # younger than the names of published tables
    if values["signal"] == 1:
        del values["signal"]  # likewise
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def protocol_slug(protocol: ProtocolFacts) -> str:
    """A short name of a protocol for file names."""
    suite = file_name(protocol.suite.replace("@", "-"))
    size = f"{protocol.num_prompts}x{protocol.images_per_prompt}"
    split = protocol.split and file_name(protocol.split)
    inference = protocol.inference and file_name(protocol.inference)
    parts = [suite, split, inference, size, protocol_key(protocol)[:6]]
    return "-".join(part for part in parts if part)
