"""A judge that runs as a server on this machine and speaks the chat API (vLLM, SGLang, ...).

The server gives the most probable next tokens only, so an answer beyond them counts 0. Ask for as
many as the server allows (`--judge-arg top_logprobs=N`; vLLM: `--max-logprobs N`): a geometric mean
is 0 where one answer is.
"""

from __future__ import annotations

import base64
import io
import ipaddress
import json
import math
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from evals.judges.base import Question, flatten, regroup
from selfe.json_files import parse_json

URL = "http://127.0.0.1:8000/v1"
ATTEMPTS = 4
MOST_ANSWER_BYTES = 1 << 24
"""Longer answers are refused; one token with its probabilities has some kilobytes."""
_FIRST_PAUSE_S = 0.5


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
        self.url = _loopback(url)
        self.model, self.top_logprobs = model, top_logprobs
        self.parallel, self.timeout_s = parallel, timeout_s
        self.identity = f"http:{model}" + (f"@{revision}" if revision else "")
        self.settings: Mapping[str, Any] = {
            "probability": "summed over the accepted spellings among the most probable tokens",
            "top_logprobs": top_logprobs,
            "images": "PNG",
        }
        # never through a proxy: the address is this machine's
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

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
        served = [str(entry["id"]) for entry in judge._call("models")["data"]]
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
        encoded = [_data_url(image) for image in images]
        pairs = flatten(encoded, questions)  # type: ignore[arg-type]
        with ThreadPoolExecutor(self.parallel) as threads:
            return regroup(list(threads.map(self._ask_one, pairs)), questions)

    def _ask_one(self, pair: tuple[Any, Question]) -> float:
        image, question = pair
        answer = self._call(
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
        except (KeyError, IndexError, TypeError, ValueError):
            raise ValueError(
                f"{self.url} answered without the probabilities of tokens: start the server with "
                "log probabilities allowed (vLLM: --max-logprobs)"
            ) from None
        return min(1.0, sum(found.get(text, 0.0) for text in dict.fromkeys(question.accepted)))

    def _call(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.url}/{path}", data, {"Content-Type": "application/json"}
        )
        for attempt in range(ATTEMPTS):
            try:
                with self._opener.open(request, timeout=self.timeout_s) as response:
                    return parse_json(response.read(MOST_ANSWER_BYTES + 1), self.url)
            except urllib.error.HTTPError as error:
                if error.code < 500 and error.code != 429:
                    detail = error.read(500).decode(errors="replace").strip()
                    raise ValueError(
                        f"{self.url}/{path} refused the request ({error.code}): {detail}"
                    ) from None
                reason = str(error.code)
            except (OSError, ValueError) as error:
                reason = str(getattr(error, "reason", error) or type(error).__name__)
            if attempt + 1 < ATTEMPTS:
                time.sleep(_FIRST_PAUSE_S * 2**attempt)
        raise ValueError(
            f"no answer from {self.url}/{path} ({reason}): start the server, or give its address "
            "with --judge-arg url=http://127.0.0.1:PORT/v1. Answers so far are kept"
        )


def _loopback(url: str) -> str:
    """The address without a trailing slash. Raises ValueError unless it is this machine's."""
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if parts.scheme != "http" or not local:
        raise ValueError(
            f"the judge's address must be http://127.0.0.1:PORT/v1 or another of this machine's "
            f"own, not {url!r}: images are never sent elsewhere"
        )
    return url.rstrip("/")


def _data_url(image: np.ndarray) -> Any:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
