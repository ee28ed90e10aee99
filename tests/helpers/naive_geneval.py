"""GenEval's per-image evaluation, written a second time from its description, loop by loop.

Deliberately naive: numpy arrays per class for every class there is, nothing shared with
`evals.suites.rules`. Tests compare verdicts with it, and the scorer's benchmark runs against it.
"""

from __future__ import annotations

import numpy as np


def per_class_arrays(detections: list[dict], classes: list[str]) -> dict[str, np.ndarray]:
    """{class: (n, 5) x1 y1 x2 y2 score}, in the order of the list."""
    arrays = {}
    for name in classes:
        rows = [[*d["box"], d["score"]] for d in detections if d["label"] == name]
        arrays[name] = np.array(rows, dtype=float).reshape(-1, 5)
    return arrays


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    lengths = np.maximum(np.minimum(a[2:4], b[2:4]) - np.maximum(a[:2], b[:2]) + 1, 0)
    both = np.prod(lengths)
    each = [np.prod(np.maximum(box[2:4] - box[:2] + 1, 0)) for box in (a, b)]
    union = sum(each) - both
    return both / union if union != 0 else 0.0


def true_relations(box: np.ndarray, target: np.ndarray, shrink: float) -> list[str]:
    centre = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
    target_centre = np.array([(target[0] + target[2]) / 2, (target[1] + target[3]) / 2])
    sizes = np.abs(box[2:4] - box[:2]) + np.abs(target[2:4] - target[:2])
    offset = centre - target_centre
    reduced = np.sign(offset) * np.clip(np.abs(offset) - shrink * sizes, 0, None)
    if (np.abs(reduced) < 1e-3).all():
        return []
    x, y = reduced / np.sqrt((offset**2).sum())
    names = []
    names += ["left of"] if x < -0.5 else []
    names += ["right of"] if x > 0.5 else []
    names += ["above"] if y < -0.5 else []
    names += ["below"] if y > 0.5 else []
    return names


def evaluate(
    record: dict,
    arrays: dict[str, np.ndarray],
    colors: dict[str, list[str | None]],
    threshold: float = 0.3,
    counting_threshold: float = 0.9,
    max_objects: int = 16,
    max_overlap: float = 1.0,
    shrink: float = 0.1,
) -> bool:
    """The verdict. `colors` runs parallel to `arrays`."""
    limit = counting_threshold if record["tag"] == "counting" else threshold
    kept: dict[str, list[int]] = {}
    for name, array in arrays.items():
        order = np.argsort(array[:, 4], kind="stable")[::-1]
        order = [int(i) for i in order if array[i, 4] > limit][:max_objects]
        chosen = []
        while order:
            best = order.pop(0)
            chosen.append(best)
            if max_overlap != 1.0:
                order = [i for i in order if overlap(array[best], array[i]) < max_overlap]
        if chosen:
            kept[name] = chosen
    right = True
    groups: list[list[np.ndarray] | None] = []
    for clause in record["include"]:
        name, count = clause["class"], clause["count"]
        ok = True
        top = kept.get(name, [])[:count]
        boxes = [arrays[name][i] for i in top]
        if len(top) < count:
            ok = False
        if ok and "color" in clause:
            ok = [colors[name][i] for i in top].count(clause["color"]) >= count
        if ok and "position" in clause:
            relation, place = clause["position"]
            if groups[place] is None:
                ok = False
            else:
                pairs = [(box, target) for box in boxes for target in groups[place]]
                ok = all(relation in true_relations(x, y, shrink) for x, y in pairs)
        groups.append(boxes if ok else None)
        right = right and ok
    for clause in record.get("exclude", []):
        if len(kept.get(clause["class"], [])) >= clause["count"]:
            right = False
    return right
