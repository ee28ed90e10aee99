"""JSON over HTTP with a server on this machine: judges that run outside this process."""

from __future__ import annotations

import base64
import io
import ipaddress
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from selfe.json_files import parse_json

ATTEMPTS = 4
MOST_ANSWER_BYTES = 1 << 24
"""Longer answers are refused; one token with its probabilities has some kilobytes."""
_FIRST_PAUSE_S = 0.5


class LoopbackServer:
    """A server on the loopback address; a busy one is asked again.

    Args:
        url: without the path of a request: http://127.0.0.1:8000/v1.
        timeout_s: for one answer.

    Raises:
        ValueError: unless the address is this machine's.
    """

    def __init__(self, url: str, timeout_s: float = 300.0) -> None:
        self.url, self.timeout_s = require_loopback(url), timeout_s
        # never through a proxy: the address is this machine's
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def call(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The answer to a GET, or to a POST of `body`.

        Raises:
            ValueError: if nothing answers, or the server refuses the request (says why).
        """
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
            "with --judge-arg url=ADDRESS. Answers so far are kept"
        )


def require_loopback(url: str) -> str:
    """The address without a trailing slash. Raises ValueError unless it is this machine's."""
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if parts.scheme != "http" or not local:
        raise ValueError(
            f"the judge's address must be http://127.0.0.1:PORT or another of this machine's "
            f"own, not {url!r}: images are never sent elsewhere"
        )
    return url.rstrip("/")


def as_base64(image: np.ndarray) -> str:
    """(H, W, 3) uint8 as a PNG in base64."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
