"""Results for the page: a small study with images, reasons and detections, and hostile texts."""

from __future__ import annotations

import json
from pathlib import Path

from tests.helpers.synthetic_results import write_result

HOSTILE = (
    "<script>window.pwned = 1</script>",
    '"><img src=x onerror="window.pwned = 2">',
    "javascript:window.pwned=3",
    "</script><svg onload=window.pwned=4>",
    "{{ 7 * 7 }} ' \" & \u2028 ]]> -->",
)


def write_page_study(root: Path, *, hostile: bool = False) -> Path:
    """Self-E and Flow Matching at 2 and 8 steps, 12 prompts x 2 images each."""
    for method, rates in (("selfe", (0.7, 0.9)), ("fm", (0.2, 0.6))):
        for steps, rate in zip((2, 8), rates, strict=True):
            folder = root / f"shapes-{method}" / "results" / "step-3000" / f"steps-{steps}"
            label = None
            if hostile:
                label = HOSTILE[0] if method == "selfe" else HOSTILE[1]
            write_result(
                folder,
                method,
                steps=steps,
                rate=rate,
                label=label,
                prompts_per_task=2,
                images_per_prompt=2,
                images=True,
                command=HOSTILE[2] if hostile else "selfe-bench geneval --steps 2,8",
                training={"changed": [f"data.path={HOSTILE[3]}"] if hostile else []},
            )
            _add_reasons(folder, hostile)
    return root


def _add_reasons(folder: Path, hostile: bool) -> None:
    verdicts = [json.loads(line) for line in (folder / "images.jsonl").read_text().splitlines()]
    detections = []
    for number, verdict in enumerate(verdicts):
        if not verdict["correct"]:
            verdict["reason"] = f"wanted 1 green square, found 0 (image {number})"
            if hostile:
                verdict["reason"] = HOSTILE[number % len(HOSTILE)]
        label = HOSTILE[3] if hostile else "square"
        found = [{"label": label, "box": [4.0, 4.0, 20.0, 20.0], "score": 0.95, "color": "blue"}]
        detections.append(
            {key: verdict[key] for key in ("prompt_id", "sample_id")}
            | {"size": [32, 32], "detections": found}
        )
    _write_lines(folder / "images.jsonl", verdicts)
    _write_lines(folder / "detections.jsonl", detections)
    if hostile:
        for place, path in enumerate(sorted(folder.glob("*/metadata.jsonl"))):
            record = json.loads(path.read_text()) | {"prompt": HOSTILE[place % len(HOSTILE)]}
            path.write_text(json.dumps(record) + "\n")


def _write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
