"""A judge that runs as a server on this machine and speaks the chat API (vLLM, SGLang, ...).

The server gives the most probable next tokens only, so an answer beyond them counts 0. Ask for as
many as the server allows (`--judge-arg top_logprobs=N`; vLLM: `--max-logprobs N`): a geometric mean
is 0 where one answer is. Tokens are told apart by their text, so a spelling counts only where it is
one token: " 4", of which GenEval 2's script counts the first token, a space, counts nothing here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from evals.judges.base import Question, flatten, regroup
from evals.judges.loopback import LoopbackServer, as_base64

URL = "http://127.0.0.1:8000/v1"


class HttpJudge:
    """`VisualJudge` over the chat API of a server on the loopback address.

    Args:
        url: of the API, ending in /v1.
        model: as the server names it.
        revision: what the user knows of the weights it serves; recorded.
        top_logprobs: next tokens asked for.
        parallel: questions on their way at once; the server batches them.
        timeout_s: for one answer.
    """

    def __init__(
        self,
        url: str,
        model: str,
        revision: str = "",
        top_logprobs: int = 20,
        parallel: int = 8,
        timeout_s: float = 300.0,
    ) -> None:
        self._server = LoopbackServer(url, timeout_s)
        self.url = self._server.url
        self.model, self.top_logprobs = model, top_logprobs
        self.parallel, self.timeout_s = parallel, timeout_s
        self.identity = f"http:{model}" + (f"@{revision}" if revision else "")
        self.notes: tuple[str, ...] = ()
        if not revision:
            self.notes = (
                f"the server does not say which version of {model} it serves: record it with "
                "--judge-arg revision=COMMIT",
            )
        self.settings: Mapping[str, Any] = {
            "probability": "summed over the accepted spellings among the most probable tokens",
            "top_logprobs": top_logprobs,
            "images": "PNG",
        }

    @classmethod
    def from_url(
        cls,
        url: str = URL,
        model: str = "",
        revision: str = "",
        device: str = "",
        batch_size: int | None = None,
        top_logprobs: int = 20,
        parallel: int = 8,
        timeout_s: float = 300.0,
    ) -> HttpJudge:
        """The judge behind `url`; without a model's name, the one model that it serves.

        Raises:
            ValueError: if nothing answers there, or it serves several models or not this one.
        """
        judge = cls(url, model, revision, int(top_logprobs), int(parallel or 1), float(timeout_s))
        served = [str(entry["id"]) for entry in judge._server.call("models")["data"]]
        if not model and len(served) == 1:
            return cls(
                url, served[0], revision, judge.top_logprobs, judge.parallel, judge.timeout_s
            )
        if model not in served:
            raise ValueError(
                f"{judge.url} serves {', '.join(served) or 'no model'}: choose one with "
                "--judge-arg model=NAME"
            )
        return judge

    def ask(
        self, images: Sequence[np.ndarray], questions: Sequence[Sequence[Question]]
    ) -> list[list[float]]:
        encoded = [f"data:image/png;base64,{as_base64(image)}" for image in images]
        pairs = flatten(encoded, questions)  # type: ignore[arg-type]
        with ThreadPoolExecutor(self.parallel) as threads:
            return regroup(list(threads.map(self._ask_one, pairs)), questions)

    def _ask_one(self, pair: tuple[Any, Question]) -> float:
        image, question = pair
        answer = self._server.call(
            "chat/completions",
            {
                "model": self.model,
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "image_url", "image_url": {"url": image}},
                            {"type": "text", "text": question.message},
                        ],
                    }
                ],
                "max_tokens": 1,
                "temperature": 0,
                "logprobs": True,
                "top_logprobs": self.top_logprobs,
            },
        )
        try:
            tokens = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            found = {str(t["token"]): math.exp(float(t["logprob"])) for t in tokens}
            if not found:
                raise ValueError("no token")
        except (KeyError, IndexError, TypeError, ValueError):
            raise ValueError(
                f"{self.url} answered without the probabilities of tokens: start the server with "
                "log probabilities allowed (vLLM: --max-logprobs)"
            ) from None
        return min(1.0, sum(found.get(text, 0.0) for text in dict.fromkeys(question.accepted)))
