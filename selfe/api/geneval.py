"""GenEval as a library: verdicts with reasons for images that lie in memory."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evals.registry import open_color_classifier, open_detector, open_suite
from evals.scoring.judge_images import CHANNELS, Verdict, as_array, judge_images
from evals.suites.prompts import check_records, record_of
from evals.suites.rules import DEFAULT_RULES, RuleSettings, check_record
from selfe.distributed.environment import best_device
from selfe.json_files import fit

__all__ = ["GenEval", "Verdict"]

Record = Mapping[str, Any]


class GenEval:
    """Judges images by GenEval's rules, without a folder.

        judge = selfe.GenEval(device="cuda")
        verdicts = judge(images, prompts)          # one Verdict per image
        rewards = judge.reward(images, prompts)    # 0.0 or 1.0 per image

    The detector is opened at the first call, once per process; an instance can be pickled and sent
    to worker processes, each of which opens its own. Calls from several threads of one process take
    turns.

    Args:
        device: of the detector: "auto" for a GPU where there is one (under torchrun the one of this
            process), or "cpu", "cuda", "cuda:1", "mps".
        suite: whose detector, colour classifier and prompts apply: "geneval@1" needs published
            weights (`selfe-bench fetch geneval`), "shapes@1" nothing.
        detector: another detector than the suite's, by name.
        batch_size: images given to the detector at once.
        rules: thresholds, as keywords of `evals.suites.rules.RuleSettings`; GenEval's by default.

    Raises:
        ValueError: for an unknown suite or detector, or unknown rules or ones out of range.
    """

    def __init__(
        self,
        device: str = "auto",
        *,
        suite: str = "geneval@1",
        detector: str | None = None,
        batch_size: int = 16,
        rules: Mapping[str, Any] | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.device, self.batch_size = device, batch_size
        self._suite = open_suite(suite)
        self._detector_name = detector or self._suite.detector
        same = self._detector_name == self._suite.detector
        self._options = dict(self._suite.detector_options) if same else {}
        self.rules = fit(RuleSettings, dict(rules), "rules") if rules else DEFAULT_RULES
        self._records = {record["prompt"]: record for record in self._suite.records}
        self._opened: tuple[Any, Any] | None = None
        self._turn = threading.Lock()

    def __call__(
        self, images: Sequence[Any], prompts: Sequence[str | Record] | str | Record
    ) -> list[Verdict]:
        """One verdict per image, in order.

        Args:
            images: PIL images, or numpy arrays or tensors of shape (H, W, 3) or (3, H, W), uint8 or
                floating point in [0, 1]; a batch with a leading dimension is accepted, too. One
                that holds a number that is not finite is wrong for that reason.
            prompts: of each image, or one for all: a prompt of the suite, any prompt in GenEval's
                wording, or a record (tag, prompt, include, exclude) for prompts of your own.

        Raises:
            ValueError: if lengths differ, an image or record cannot be read, no record is known for
                a prompt, or the detector's weights are missing.
        """
        images = _several(images)
        if isinstance(prompts, str | Mapping):
            prompts = [prompts] * len(images)
        if not isinstance(prompts, Sequence):
            raise ValueError(
                f"prompts are a text, a record, or a list with one of them for each image; got "
                f"{type(prompts).__name__}"
            )
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} images but {len(prompts)} prompts")
        arrays = [as_array(image) for image in images]
        with self._turn:
            detector, classifier = self._parts()
            records = [self._record(prompt, detector.classes) for prompt in prompts]
            return judge_images(
                arrays,
                records,
                detector,
                classifier,
                rules=self.rules,
                batch_size=self.batch_size,
            )

    def reward(
        self,
        images: Sequence[Any],
        prompts: Sequence[str | Record] | str | Record,
        *,
        partial: bool = False,
    ) -> np.ndarray:
        """(B,) float32: 1 for a correct image, else 0; or with `partial` the share of the clauses
        that are met."""
        verdicts = self(images, prompts)
        values = [v.met if partial else float(v.correct) for v in verdicts]
        return np.asarray(values, dtype=np.float32)

    def open(self) -> GenEval:
        """Open the detector now, so that missing weights are reported before the first image."""
        with self._turn:
            self._parts()
        return self

    def _parts(self) -> tuple[Any, Any]:
        if self._opened is None:
            place = best_device(self.device)
            self._opened = (
                open_detector(self._detector_name, device=place, **self._options),
                open_color_classifier(self._suite.color_classifier, device=place),
            )
        return self._opened

    def _record(self, prompt: str | Record, classes: Sequence[str]) -> Record:
        if not isinstance(prompt, str | Mapping):
            raise ValueError(f"a prompt is a text or a record, got {type(prompt).__name__}")
        if isinstance(prompt, str):
            known = self._records.get(prompt)
            return known if known is not None else record_of(prompt, classes)
        check_record(prompt)
        check_records([prompt], classes)
        return prompt

    def __getstate__(self) -> dict[str, Any]:
        """Without the networks: every process opens its own, on a device of its own."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_opened", "_turn")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _opened=None, _turn=threading.Lock())

    def __repr__(self) -> str:
        return f"GenEval({self.device!r}, suite={self._suite.name!r})"


def _several(images: Any) -> Sequence[Any]:
    """Images as a sequence. Raises ValueError for one that stands alone, or for none at all."""
    shape = tuple(getattr(images, "shape", ()))
    # (3, H, W) would be read as three grey images, (H, W, 3) as H of them
    alone = len(shape) == 2 or (len(shape) == 3 and (shape[0] in CHANNELS or shape[-1] in CHANNELS))
    if hasattr(images, "convert") or alone:
        raise ValueError("images come as a list or a batch: give [image] for one alone")
    if isinstance(images, str) or not hasattr(images, "__len__"):
        raise ValueError(
            "images are a list of PIL images, arrays or tensors, or a batch of them; got "
            f"{type(images).__name__}"
        )
    return images  # type: ignore[no-any-return]
