"""Scores of the exact Flow Matching model beside what was measured in a shapes world.

They come from files that `selfe-bench headroom --out` wrote: those in `evals/assets/exact`, of the
worlds that the recipes train in, and those called headroom*.json in a folder that holds results.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from evals.base import ImageVerdict, ProtocolFacts, Scores
from evals.registry import open_suite
from evals.report.result_folders import ResultFolder
from evals.scoring.headroom import WHAT, Headroom
from evals.scoring.score import summarize
from evals.suites.limit import limited, places_kept
from selfe.sealed_files import read_sealed

NAME = "Flow Matching, exact"
_FOLDERS_ABOVE = 4
"""How far above a result a file is looked for: RUNS/STUDY/RUN/eval/PROTOCOL."""


def exact_scores(folders: Sequence[ResultFolder]) -> dict[int, Scores]:
    """Number of steps -> scores of the exact model on the prompts that the results were scored on.

    Args:
        folders: of one protocol.

    Returns:
        Scores over all images that were drawn of a prompt, usually 16; {} for a protocol that is
        not of a world whose scenes can be drawn, or of whose world and prompts there is no file.

    Raises:
        ValueError: if a file called headroom*.json is damaged.
    """
    if not folders:
        return {}
    protocol = folders[0].result.protocol
    if not protocol.detector.startswith("shapes-"):
        return {}
    above = {parent for f in folders for parent in f.path.absolute().parents[:_FOLDERS_ABOVE]}
    own = [path for parent in sorted(above) for path in sorted(parent.glob("headroom*.json"))]
    # A file of just these prompts before one that has them among others.
    shipped = sorted(
        _shipped(),
        key=lambda path: _contents(path).protocol.prompts_sha256 != protocol.prompts_sha256,
    )
    for path in [*own, *shipped]:
        scores = _scores_of(path, protocol)
        if scores:
            return scores
    return {}


def _shipped() -> list[Path]:
    folder = Path(str(resources.files("evals") / "assets" / "exact"))
    return sorted(folder.glob("*.json"))


@functools.lru_cache(maxsize=64)
def _read(path: Path, changed_at: int) -> Headroom:
    return read_sealed(path, Headroom, WHAT)


def _contents(path: Path) -> Headroom:
    return _read(path, path.stat().st_mtime_ns)


def _scores_of(path: Path, protocol: ProtocolFacts) -> dict[int, Scores]:
    """{} unless the file is of this world, detector and rules, and holds these prompts."""
    found = _contents(path)
    if not found.converged:
        return {}  # more scenes would change it, as the command that made it said
    same = ("suite", "split", "signal", "detector", "color_classifier", "rules")
    if any(getattr(found.protocol, name) != getattr(protocol, name) for name in same):
        return {}
    if "shift" in found.sampling or not found.sampling["warp"] or found.sampling["eta"]:
        return {}  # another time grid or sampler than the recipes'
    places = _places(found.protocol, protocol)
    if places is None:
        return {}
    tags, kept = places
    return {
        cell.steps: summarize(
            [
                ImageVerdict(prompt_id=prompt, sample_id=i, tag=tag, correct=mark == "1", reason="")
                for prompt, (tag, place) in enumerate(zip(tags, kept, strict=True))
                for i, mark in enumerate(cell.correct[place])
            ]
        )
        for cell in found.cells
        if cell.correct
    }


def _places(whole: ProtocolFacts, part: ProtocolFacts) -> tuple[list[str], list[int]] | None:
    """Tasks of the prompts of `part`, and their places among those of `whole`; None if it does not
    have them."""
    suite = open_suite(part.suite, part.split)
    every = range(len(suite.records))
    if whole.prompts_sha256 == part.prompts_sha256:
        for count in (None, *every[1:]):
            if limited(suite, count).prompts_sha256 == part.prompts_sha256:
                records = limited(suite, count).records
                return [str(r["tag"]) for r in records], list(range(len(records)))
        return None
    if suite.prompts_sha256 != whole.prompts_sha256:
        return None
    for count in every[1:]:
        few = limited(suite, count)
        if len(few.records) > part.num_prompts:
            return None
        if few.prompts_sha256 == part.prompts_sha256:
            return [str(r["tag"]) for r in few.records], places_kept(suite, count)
    return None
