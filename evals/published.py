"""Every weight that judges and measures use: where it is, its licence and its size.

Sizes are of the files that are fetched, rounded; they say how long it takes and what room it needs.
A licence that a repository does not state is said to be not stated. Files of the hub are known by
the commit of their repository, which results record; the hub checks what it sends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from evals.detectors.weights import FILES, Progress, default_cache
from evals.detectors.weights import fetch as fetch_files
from evals.pretrained import (
    BERT_BASE,
    BERT_FILES,
    CLIP_B_32,
    CLIP_H_14,
    CLIP_L_336,
    DINOV2_BASE,
    HPS,
    HPS_FILE,
    IMAGE_REWARD,
    IMAGE_REWARD_FILE,
    PICKSCORE,
    QWEN3_VL_8B,
    find_network,
    pinned,
)
from selfe.hub import MissingFilesError, Source, locate_files

NOT_STATED = "not stated in its repository"


@dataclass(frozen=True)
class HubWeights:
    """A repository of the hub.

    Attributes:
        name: as `selfe-bench fetch` and `--weights` call it.
        repository: hub id.
        role: what it is for, in words.
        licence: as published.
        gigabytes: of what is fetched, rounded.
        files: () for a network in transformers' layout, else the files wanted.
        weights: False where only a tokenizer or a preprocessor is wanted.
        pickled: whether its weights are in PyTorch's own format alone.
    """

    name: str
    repository: str
    role: str
    licence: str
    gigabytes: float
    files: tuple[str, ...] = ()
    weights: bool = True
    pickled: bool = False

    def find(self, cache_dir: str | None = None) -> Source:
        """Raises ValueError where files are missing and cannot be fetched."""
        if self.files:
            return locate_files(
                self.repository,
                self.files,
                revision=pinned(self.repository),
                cache_dir=cache_dir,
                licence=self.licence,
            )
        return find_network(
            self.repository,
            weights=self.weights,
            pickled=self.pickled,
            licence=self.licence,
            cache_dir=cache_dir,
        )


HUB_WEIGHTS: dict[str, HubWeights] = {
    each.name: each
    for each in (
        HubWeights("qwen3-vl-8b", QWEN3_VL_8B, "judge of GenEval 2", "Apache-2.0", 17.5),
        HubWeights(
            "clip-l-336",
            CLIP_L_336,
            "features of CMMD and diversity",
            NOT_STATED,
            1.7,
            pickled=True,
        ),
        HubWeights("dinov2-base", DINOV2_BASE, "features of diversity", "Apache-2.0", 0.35),
        HubWeights("pickscore", PICKSCORE, "PickScore", NOT_STATED, 3.9),
        HubWeights(
            "pickscore-processor",
            CLIP_H_14,
            "PickScore's tokenizer and preparation",
            "MIT",
            0.005,
            weights=False,
        ),
        HubWeights("clipscore", CLIP_B_32, "CLIPScore", NOT_STATED, 0.6),
        HubWeights("hpsv2.1", HPS, "HPSv2.1", "Apache-2.0", 1.97, files=(HPS_FILE,)),
        HubWeights(
            "imagereward",
            IMAGE_REWARD,
            "ImageReward",
            "Apache-2.0",
            1.79,
            files=(IMAGE_REWARD_FILE,),
        ),
        HubWeights(
            "imagereward-tokenizer",
            BERT_BASE,
            "ImageReward's tokenizer",
            "Apache-2.0",
            0.001,
            files=BERT_FILES,
        ),
    )
}


@dataclass(frozen=True)
class PackageWeights:
    """Weights that a package fetches for itself, into `default_cache()` / `name`.

    Attributes:
        address: where the package takes them from.
        parts: files and folders that are there when it has.
    """

    name: str
    role: str
    address: str
    licence: str
    gigabytes: float
    parts: tuple[str, ...]

    def is_here(self, cache: Path) -> bool:
        return all((cache / self.name / part).exists() for part in self.parts)

    def in_words(self) -> str:
        return (
            f"{self.role} ({self.address}, {self.gigabytes:g} GB, licence {self.licence}; no hash "
            "is published, so none is checked)"
        )


DREAMSIM = PackageWeights(
    "dreamsim",
    "features of diversity by DreamSim",
    "github.com/ssundaram21/dreamsim, release v0.2.0-checkpoints, "
    "dreamsim_ensemble_checkpoint.zip, and the code of DINO",
    "MIT",
    1.26,
    ("ensemble_lora",),
)
"""Address, size and parts are what others' public code says; nothing of it was fetched here."""
GROUPS: Mapping[str, tuple[str, ...]] = {
    "geneval2": ("qwen3-vl-8b",),
    "preference": (
        *("pickscore", "pickscore-processor", "hpsv2.1", "clipscore"),
        *("imagereward", "imagereward-tokenizer"),
    ),
    "distribution": ("clip-l-336", "fidelity"),
    "diversity": ("clip-l-336",),
}
"""name -> what `selfe-bench fetch NAME` gets."""


OTHER_WEIGHTS = ("inception", DREAMSIM.name)
"""Names that `--weights` takes beside those of `HUB_WEIGHTS`."""


def known() -> list[str]:
    """Everything that can be fetched by name."""
    return list(dict.fromkeys([*FILES, *GROUPS, *HUB_WEIGHTS, DREAMSIM.name]))


def fetch(what: str, cache_dir: Path | None = None, progress: Progress | None = None) -> list[Path]:
    """Bring files of a name of `known`; what is there is not brought again.

    Returns:
        Files, or folders of the hub's cache.

    Raises:
        ValueError: for an unknown name, or a file that cannot be downloaded (says how to get it).
    """
    found: list[Path] = []
    for name in GROUPS.get(what, (what,)):
        if name in HUB_WEIGHTS:
            found.append(HUB_WEIGHTS[name].find().folder)
        elif name in FILES:
            found += fetch_files(name, cache_dir, progress)
        elif name == DREAMSIM.name:
            found.append(_fetch_dreamsim(cache_dir))
        else:
            raise ValueError(f"unknown download {what!r} (known: {', '.join(known())})")
    return found


def _fetch_dreamsim(cache_dir: Path | None) -> Path:
    """By opening it once: the package fetches what it lacks."""
    from evals.distribution.features import DreamSimFeatures
    from evals.measure import MeasureOptions

    place = Path(cache_dir or default_cache()) / DREAMSIM.name
    DreamSimFeatures(MeasureOptions(weights={DREAMSIM.name: str(place)}))
    return place


def missing(what: str, cache_dir: Path | None = None) -> list[str]:
    """What of a group is not on this machine, in words; never asks the network."""
    gaps = []
    for name in GROUPS.get(what, (what,)):
        if name in HUB_WEIGHTS:
            each = HUB_WEIGHTS[name]
            if not in_cache(each):
                size = f"{each.gigabytes:g} GB"
                gaps.append(f"{each.role} ({each.repository}, {size}, licence {each.licence})")
        elif name == DREAMSIM.name:
            if not DREAMSIM.is_here(Path(cache_dir or default_cache())):
                gaps.append(DREAMSIM.in_words())
        else:
            folder = Path(cache_dir or default_cache())
            gaps += [
                f"{file.role} ({file.name})"
                for file in FILES[name]
                if not (folder / file.name).is_file()
            ]
    return gaps


def in_cache(each: HubWeights) -> bool:
    """Whether the hub's cache has all of it."""
    from huggingface_hub import constants

    offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        each.find()
    except MissingFilesError:
        return False
    finally:
        constants.HF_HUB_OFFLINE = offline
    return True
