"""mPLUG, the judge of DPG-Bench, through ModelScope, which alone publishes it.

The model answers in words; an answer is right if it is the first accepted spelling to the letter,
as in the published script.

ModelScope's code of mPLUG is written for transformers 4: with 5, which this project needs, it fails
at methods that are gone (tried with ModelScope 1.40.2 and transformers 5.23). It loads its weights
without a word on keys that are missing, too. So mPLUG runs in an environment of its own, as a
server on this machine (`scripts/judges/serve_mplug.py`), and is asked there:

    selfe-bench measure ... --suite dpg-official --judge-arg url=http://127.0.0.1:8001
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from PIL import Image

from evals.judges.base import Question
from evals.judges.loopback import LoopbackServer, as_base64

MODEL = "damo/mplug_visual-question-answering_coco_large_en"
NEWEST_TRANSFORMERS = 4
INSTALL = "pip install 'selfe-bench[dpg]'"

TOO_NEW = f"ModelScope's mPLUG runs with transformers {NEWEST_TRANSFORMERS} at most"
ANOTHER = (
    "serve it from an environment of its own (scripts/judges/serve_mplug.py) and add "
    "--judge-arg url=http://127.0.0.1:8001, or choose another judge with --judge (such as vlm or "
    "vllm), which is another protocol and compares with no published figure"
)

Answer = Callable[[dict[str, Any]], Mapping[str, Any]]
"""ModelScope's pipeline: {"image", "question"} -> {"text"}."""


def is_too_new() -> bool:
    """Whether the transformers of this environment is one that mPLUG does not run with."""
    return int(version("transformers").partition(".")[0]) > NEWEST_TRANSFORMERS


class MplugJudge:
    """`VisualJudge` over an answering pipeline: 1 for the accepted word, else 0."""

    def __init__(self, answer: Answer, identity: str) -> None:
        self.answer = answer
        self.identity = identity
        self.settings: Mapping[str, Any] = {"probability": "1 for the accepted word, else 0"}

    @classmethod
    def from_modelscope(
        cls,
        device: str = "cpu",
        batch_size: int | None = None,
        model: str = MODEL,
        revision: str = "",
        url: str = "",
    ) -> MplugJudge | ServedMplugJudge:
        """mPLUG in this process, or behind `url`.

        Raises:
            ValueError: if ModelScope is not installed (says which extra to install), or cannot run
                mPLUG beside this transformers; if nothing answers at `url`.
        """
        if url:
            return ServedMplugJudge(url)
        if is_too_new():
            raise ValueError(f"{TOO_NEW}, and {version('transformers')} is installed: {ANOTHER}")
        try:
            from modelscope.pipelines import pipeline
            from modelscope.utils.constant import Tasks
        except ImportError as error:
            raise ValueError(
                f"DPG-Bench's judge mPLUG needs ModelScope ({error}): {INSTALL}, or choose another "
                "judge with --judge, which is another protocol"
            ) from None
        options = {"model_revision": revision} if revision else {}
        place = "gpu" if device.startswith("cuda") else device
        answer = pipeline(Tasks.visual_question_answering, model=model, device=place, **options)
        return cls(answer, f"modelscope:{model}" + (f"@{revision}" if revision else ""))

    def ask(
        self, images: Sequence[np.ndarray], questions: Sequence[Sequence[Question]]
    ) -> list[list[float]]:
        return [
            [self._ask_one(Image.fromarray(image), question) for question in asked]
            for image, asked in zip(images, questions, strict=True)
        ]

    def _ask_one(self, image: Image.Image, question: Question) -> float:
        text = self.answer({"image": image, "question": question.text})["text"]
        return float(text == question.accepted[0])


class ServedMplugJudge:
    """`VisualJudge` over `scripts/judges/serve_mplug.py`, which says what it serves.

    Args:
        url: of the server, http://127.0.0.1:PORT.

    Raises:
        ValueError: if the address is not this machine's, or nothing that says so answers there.
    """

    def __init__(self, url: str) -> None:
        self._server = LoopbackServer(url)
        served = self._server.call("identity")
        try:
            self.identity = f"modelscope:{served['model']}"
            versions = {str(name): str(value) for name, value in served["versions"].items()}
        except (KeyError, TypeError, AttributeError):
            raise ValueError(
                f"{self._server.url} is no server of mPLUG: start scripts/judges/serve_mplug.py"
            ) from None
        self.settings: Mapping[str, Any] = {
            "probability": "1 for the accepted word, else 0",
            "versions": versions,
        }

    def ask(
        self, images: Sequence[np.ndarray], questions: Sequence[Sequence[Question]]
    ) -> list[list[float]]:
        return [
            self._ask_about(image, asked) for image, asked in zip(images, questions, strict=True)
        ]

    def _ask_about(self, image: np.ndarray, asked: Sequence[Question]) -> list[float]:
        if not asked:
            return []
        body = {"image": as_base64(image), "questions": [question.text for question in asked]}
        found = self._server.call("answers", body)
        words = found.get("answers") if isinstance(found, dict) else None
        if not isinstance(words, list) or len(words) != len(asked):
            raise ValueError(
                f"{self._server.url} answered {len(asked)} questions with something else: start "
                "scripts/judges/serve_mplug.py of this version"
            )
        return [float(w == q.accepted[0]) for w, q in zip(words, asked, strict=True)]
