"""Re-scoring stored detections: ours beside a GenEval-style loop over images and all 80 classes.

    python -m scripts.bench.scorer

Both sides judge the same random detections for GenEval's 553 prompts, 4 images each. The loop is
the second implementation that the tests use (`tests/helpers/naive_geneval.py`); it gets its arrays
per class for nothing in the first row, as a detector would hand them over, and has to read the same
file as we do in the second.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from evals.scoring.detections import Row, judge_row, rescore
from evals.suites.geneval import COCO_CLASSES, geneval_records
from evals.suites.rules import COLORS
from scripts.bench.paired_timing import measurement_facts, paired_ratio, print_table, write_report
from selfe.files import as_json_lines
from tests.helpers import naive_geneval

IMAGES_PER_PROMPT = 4


def random_rows(records: list[dict[str, Any]], seed: int) -> list[Row]:
    """Detections as a detector stores them: those the prompt names, mostly, and false alarms."""
    rng = np.random.default_rng(seed)
    rows = []
    for prompt_id, record in enumerate(records):
        for sample_id in range(IMAGES_PER_PROMPT):
            labels = [c["class"] for c in record["include"] for _ in range(c["count"])]
            confident = [bool(rng.random() < 0.85) for _ in labels]
            wanted = [c.get("color") for c in record["include"] for _ in range(c["count"])]
            for _ in range(int(rng.poisson(12))):
                labels.append(COCO_CLASSES[rng.integers(80)])
                confident.append(False)
                wanted.append(None)
            items = []
            for label, sure, color in zip(labels, confident, wanted, strict=True):
                x, y = rng.uniform(0, 380, size=2)
                w, h = rng.uniform(20, 130, size=2)
                score = rng.uniform(0.8, 1.0) if sure else rng.uniform(0.05, 0.6)
                seen = color if color and rng.random() < 0.7 else COLORS[rng.integers(10)]
                box = [float(v) for v in (x, y, x + w, y + h)]
                items.append({"label": label, "box": box, "score": float(score), "color": seen})
            items.sort(key=lambda d: -d["score"])
            row = {"prompt_id": prompt_id, "sample_id": sample_id, "size": [512, 512]}
            rows.append({**row, "detections": items})
    return rows


def prepared(row: Row) -> tuple[dict[str, np.ndarray], dict[str, list[str | None]]]:
    """Arrays per class, and colours beside them."""
    colors: dict[str, list[str | None]] = {name: [] for name in COCO_CLASSES}
    for item in row["detections"]:
        colors[item["label"]].append(item["color"])
    return naive_geneval.per_class_arrays(row["detections"], list(COCO_CLASSES)), colors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("reports/local/speed/scorer.json"))
    arguments = parser.parse_args()
    facts = measurement_facts(seed=0)
    records = geneval_records()
    rows = random_rows(records, seed=0)
    arrays = [prepared(row) for row in rows]
    judged = [(records[row["prompt_id"]], row) for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        stored, out = Path(folder) / "detections.jsonl", Path(folder) / "verdicts.jsonl"
        stored.write_text(as_json_lines(rows))

        def ours() -> list[bool]:
            return [judge_row(record, row).correct for record, row in judged]

        def loop() -> list[bool]:
            return [
                naive_geneval.evaluate(record, *by_class)
                for (record, _), by_class in zip(judged, arrays, strict=True)
            ]

        def loop_from_file() -> list[bool]:
            verdicts = []
            for line in stored.read_text().splitlines():
                row = json.loads(line)
                record = records[row["prompt_id"]]
                verdicts.append(bool(naive_geneval.evaluate(record, *prepared(row))))
            return verdicts

        expected = [bool(v) for v in loop()]
        equal = ours() == expected
        equal &= [v.correct for v in rescore(records, stored, out)] == expected
        table = [
            paired_ratio(
                "verdicts, detections in memory", ours, loop, pairs=arguments.pairs, passes=0.2
            ),
            paired_ratio(
                "rescore, file to file / loop, file to memory",
                lambda: rescore(records, stored, out),
                loop_from_file,
                pairs=arguments.pairs,
                passes=0.2,
            ),
        ]
    print_table(table)
    for line in table:
        print(f"{line.name}: {1 / line.ratio:.1f} times as fast")
    print(f"{len(rows)} images, {sum(expected)} correct; all verdicts equal: {equal}")
    detail = {"images": len(rows), "correct": sum(expected), "verdicts_equal": equal}
    write_report(arguments.out, table, {**facts, **detail})
    if not equal:
        sys.exit("verdicts differ")


if __name__ == "__main__":
    main()
