"""A suite of two prompts."""

from __future__ import annotations

from pathlib import Path

from evals.suites.base import Suite


def brightness_suite(split: str, prompts: str | Path | None) -> Suite:
    records = [
        {
            "tag": "single_object",
            "include": [{"class": name, "count": 1}],
            "prompt": f"a photo of a {name}",
        }
        for name in ("lamp", "cave")
    ]
    return Suite("brightness@1", records, "brightness", "shapes", images_per_prompt=2)
