"""Calibration, and leads against headroom, from what the other scripts of the study wrote.

    python -m scripts.studies.headroom_table

Reads search/, verdicts/ and exact/ below --out, and what the studies of 3,000 iterations beside it
have kept, and writes calibration.json, leads.json, tables.md and leads.svg. Everything follows
reports/studies/headroom/protocol.md.

Longer than other files: all tables and the figure of one study, best read in one piece.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from evals.report.training_seeds import difference_over, mean_over
from evals.stats import PromptCounts, overall_interval
from evals.verdicts import Counts, difference_of_counts, together
from scripts.studies.headroom_lengths import ARCHIVES, archived_counts, sentences
from selfe.files import write_atomically

PAPER = {2: 0.345, 4: 0.831, 8: 0.979}
LEAST_AT_50, TIE = 0.3, 0.005
METHODS = {"fm": "Flow Matching", "selfe": "Self-E", "imm": "IMM"}
STEPS = (2, 4, 8, 50)
MARKS = {2: "o", 4: "s", 8: "^"}
PAIRS = ((0.25, 1.0), (0.18, 1.0))
"""Values of b whose leads are compared with each other."""
RESAMPLES, SEED = 4000, 0


def best(search: dict[str, Any], parts: list[str]) -> dict[int, tuple[float, str]]:
    found: dict[int, tuple[float, str]] = {}
    for part in parts:
        for steps, scores in search.get(part, {}).items():
            name = max(scores, key=scores.get, default=None)
            if name is not None and scores[name] > found.get(int(steps), (-1.0, ""))[0]:
                found[int(steps)] = (scores[name], name)
    return found


def calibrate(searches: dict[float, dict[str, Any]], parts: list[str]) -> dict[str, Any]:
    rows = {}
    for b, search in sorted(searches.items(), reverse=True):
        scores = best(search, parts)
        if not all(n in scores for n in STEPS):
            continue
        last = scores[50][0]
        ratios = {n: scores[n][0] / last for n in PAPER}
        rows[b] = {
            "scores": {n: scores[n][0] for n in STEPS},
            "settings": {n: json.loads(scores[n][1]) for n in STEPS},
            "ratios": ratios,
            "distance": sum((ratios[n] - PAPER[n]) ** 2 for n in PAPER),
            "counts": last >= LEAST_AT_50,
        }
    able = {b: row["distance"] for b, row in rows.items() if row["counts"]}
    least = min(able.values(), default=0.0)
    chosen = max((b for b, d in able.items() if d <= least + TIE), default=None)
    return {"chosen": chosen, "rows": rows}


def counts_of(verdicts: dict[str, Any], part: str, steps: int) -> Counts | None:
    cell = verdicts.get(part, {}).get(str(steps))
    if cell is None:
        return None
    found: dict[str, tuple[list[int], list[int]]] = {}
    for tag, row in zip(verdicts["tasks"], cell["correct"], strict=True):
        correct, images = found.setdefault(tag, ([], []))
        correct.append(row.count("1"))
        images.append(len(row))
    return {tag: PromptCounts(np.array(c), np.array(n)) for tag, (c, n) in found.items()}


def score_of(counts: Counts) -> float:
    return float(np.mean([c.share for c in counts.values()]))


def interval_of(trainings: list[Counts]) -> tuple[float, float, float]:
    if len(trainings) == 1:
        interval = overall_interval(trainings[0])
    else:
        interval = mean_over(trainings)
    return interval.mean, interval.low, interval.high


def leads(
    cells: dict[tuple[float, str, int], dict[int, Counts]],
    exact: dict[float, dict[int, float]],
    over: str = "fm",
) -> list[dict[str, Any]]:
    """A row for every cell, with its lead over another method where that has the same seeds."""
    rows = []
    for (b, method, steps), by_seed in sorted(cells.items()):
        mean, low, high = interval_of([by_seed[s] for s in sorted(by_seed)])
        row: dict[str, Any] = {
            "b": b,
            "method": method,
            "steps": steps,
            "seeds": sorted(by_seed),
            "score": mean,
            "low": low,
            "high": high,
            "headroom": 1 - exact[b][steps] if steps in exact.get(b, {}) else None,
        }
        base = cells.get((b, over, steps), {})
        shared = sorted(base.keys() & by_seed.keys())
        if method != over and shared:
            pairs = [(by_seed[s], base[s]) for s in shared]
            row["lead_by_seed"] = [score_of(a) - score_of(z) for a, z in pairs]
            row["lead"] = float(np.mean(row["lead_by_seed"]))
            if len(pairs) > 1:
                whole = difference_over(pairs)
            else:  # for other prompts only
                whole = difference_of_counts(*pairs[0], test=False).interval
            row["lead_low"], row["lead_high"] = whole.low, whole.high
            both = (together(side) for side in zip(*pairs, strict=True))
            prompts = difference_of_counts(*both, test=False).interval
            row["over_prompts"] = [prompts.low, prompts.high]
            row["by_prompt"] = by_prompt(pairs)
        rows.append(row)
    return rows


def by_prompt(pairs: Sequence[tuple[Counts, Counts]]) -> dict[str, list[float]]:
    """Task -> difference of the shares of correct images of every prompt, mean over seeds."""
    return {
        task: np.mean(
            [a[task].correct / a[task].images - z[task].correct / z[task].images for a, z in pairs],
            axis=0,
        ).tolist()
        for task in pairs[0][0]
    }


def slope_of(rows: Sequence[dict[str, Any]], rng: np.random.Generator) -> dict[str, Any]:
    """Least squares of lead on headroom over cells. Intervals: over prompts, resampled within their
    tasks and together in all cells; over seeds likewise, where all cells have three or more."""
    x = np.array([r["headroom"] for r in rows])
    y = np.array([r["lead"] for r in rows])

    def fit(means: np.ndarray) -> float:
        return float(np.polyfit(x, means, 1)[0])

    def ends(slopes: Sequence[float]) -> list[float]:
        return np.quantile(slopes, [0.025, 0.975]).tolist()

    seeds = min(len(r["lead_by_seed"]) for r in rows)
    found: dict[str, Any] = {"slope": fit(y), "cells": len(rows), "seeds": seeds}
    found["rank_correlation"] = float(spearmanr(x, y).statistic)
    tasks = [np.array([r["by_prompt"][task] for r in rows]) for task in rows[0]["by_prompt"]]
    drawn = []
    for _ in range(RESAMPLES):
        means = [d[:, rng.integers(d.shape[1], size=d.shape[1])].mean(1) for d in tasks]
        drawn.append(fit(np.mean(means, axis=0)))
    found["over_prompts"] = ends(drawn)
    if seeds > 2:
        values = np.array([r["lead_by_seed"][:seeds] for r in rows])
        picks = rng.integers(seeds, size=(RESAMPLES, seeds))
        found["over_seeds"] = ends([fit(values[:, pick].mean(1)) for pick in picks])
    return found


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| b | steps | headroom | " + " | ".join(METHODS.values()) + " | lead of Self-E | of IMM |",
        "|---" * (5 + len(METHODS)) + "|",
    ]
    by_key = {(r["b"], r["method"], r["steps"]): r for r in rows}
    for b in sorted({r["b"] for r in rows}, reverse=True):
        for steps in STEPS:
            cells = {m: by_key.get((b, m, steps)) for m in METHODS}
            if not any(cells.values()):
                continue
            any_cell = next(c for c in cells.values() if c)
            room = any_cell["headroom"]
            texts = [f"{b:g}", str(steps), "" if room is None else f"{room:.3f}"]
            for c in cells.values():
                texts.append(
                    f"{c['score']:.3f} [{c['low']:.3f}, {c['high']:.3f}] ({len(c['seeds'])})"
                    if c
                    else ""
                )
            for m in ("selfe", "imm"):
                c = cells[m]
                if not c or "lead" not in c:
                    texts.append("")
                else:
                    held = "" if c["lead_low"] > 0 or c["lead_high"] < 0 else " not resolved"
                    few = "" if len(c["lead_by_seed"]) > 1 else " (one training)"
                    texts.append(
                        f"{c['lead']:+.3f} [{c['lead_low']:+.3f}, {c['lead_high']:+.3f}]{held}{few}"
                    )
            lines.append(f"| {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def over_imm(rows: list[dict[str, Any]]) -> str:
    """Self-E less IMM, a line for every b and number of steps; "" where none has both."""
    own = [r for r in rows if r["method"] == "selfe" and "lead" in r]
    lines = ["| b | steps | training seeds | Self-E less IMM |", "|---|---|---|---|"]
    for r in sorted(own, key=lambda r: (-r["b"], r["steps"])):
        held = "" if r["lead_low"] > 0 or r["lead_high"] < 0 else " not resolved"
        lines.append(
            f"| {r['b']:g} | {r['steps']} | {len(r['lead_by_seed'])} | {r['lead']:+.3f} "
            f"[{r['lead_low']:+.3f}, {r['lead_high']:+.3f}]{held} |"
        )
    return "\n".join([*lines, ""]) if own else ""


def calibration_table(found: dict[str, Any]) -> str:
    lines = [
        "| b | 2 steps | 4 | 8 | 50 | 2/50 | 4/50 | 8/50 | squared distance |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for b, row in found["rows"].items():
        mark = "**" if b == found["chosen"] else ""
        cells = [f"{row['scores'][n]:.3f}" for n in STEPS]
        cells += [f"{row['ratios'][n]:.3f}" for n in PAPER]
        far = f"{row['distance']:.4f}" + ("" if row["counts"] else " (50 steps below 0.3)")
        lines.append(f"| {mark}{b:g}{mark} | {' | '.join(cells)} | {far} |")
    paper = " | ".join(f"{PAPER[n]:.3f}" for n in PAPER)
    lines.append(f"| the paper |  |  |  |  | {paper} | 0 |")
    return "\n".join(lines) + "\n"


Panel = tuple[str, str, list[dict[str, Any]]]
"""Method, words for the title, rows of `leads`."""


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Filled marks are means over training seeds, hollow ones a single training, whose interval is
    for other prompts only."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "headroom"
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(
        1, len(panels), figsize=(4.6 * len(panels), 3.8), squeeze=False,
        sharex=True, sharey=True, layout="constrained",
    )  # fmt: skip
    for axis, (method, words, rows) in zip(axes[0], panels, strict=True):
        axis.axhline(0, color="0.6", lw=0.8)
        for place, (steps, mark) in enumerate(MARKS.items()):
            axis.plot([], [], mark, color=f"C{place}", label=f"{steps} steps")
            for r in rows:
                if (r["method"], r["steps"]) != (method, steps):
                    continue
                ends = np.abs(np.array([[r["lead_low"]], [r["lead_high"]]]) - r["lead"])
                filled = f"C{place}" if len(r["seeds"]) > 1 else "white"
                axis.errorbar(r["headroom"], r["lead"], ends, fmt=mark, mfc=filled,
                              color=f"C{place}", capsize=2, ms=5, lw=1)  # fmt: skip
                axis.annotate(f"{r['b']:g}", (r["headroom"], r["lead"]), (4, 3),
                              textcoords="offset points", fontsize=7)  # fmt: skip
        axis.set_title(f"{METHODS[method]} less Flow Matching\n{words}, by signal b", fontsize=10)
        axis.set_xlabel("headroom: 1 - score of the exact model")
        axis.legend(fontsize=8, loc="lower right")
    axes[0, 0].set_ylabel("difference of held-out scores")
    fig.savefig(path, metadata={"Date": None})
    plt.close(fig)


def panels_of(rows: Sequence[dict[str, Any]], words: str) -> list[Panel]:
    """A panel for every method that leads or trails Flow Matching at two values of b or more."""
    some = [r for r in rows if "lead" in r and r["headroom"] is not None and r["steps"] in MARKS]
    return [
        (m, words, [r for r in some if r["method"] == m])
        for m in METHODS
        if len({r["b"] for r in some if r["method"] == m}) > 1
    ]


def read(folder: Path, use: Callable[[str, dict[str, Any]], None]) -> None:
    for path in sorted(folder.glob("*.json")):
        use(path.stem, json.loads(path.read_text()))


Leads = dict[tuple[float, str, int], dict[int, Counts]]
"""(signal b, method, steps) -> counts by training seed."""


def read_scores(
    out: Path,
) -> tuple[dict[float, dict[str, Any]], dict[float, dict[int, float]], dict[str, Leads]]:
    """What the study kept: searches of Flow Matching by b, scores of the exact model by b and
    steps, and verdicts on the usual and on searched time grids."""
    searches: dict[float, dict[str, Any]] = {}
    exact: dict[float, dict[int, float]] = {}
    cells: dict[str, Leads] = {"usual": {}, "all prompts": {}, "shifted": {}}

    def add_search(name: str, found: dict[str, Any]) -> None:
        b, method, _ = name.split("-")
        if method == "fm":
            searches[float(b[1:])] = found

    def add_exact(name: str, found: dict[str, Any]) -> None:
        if "shift" in found["sampling"]:
            return
        scores = found["overall_by_scenes"][str(found["num_scenes"])]
        steps = [cell["steps"] for cell in found["cells"]]
        exact[found["protocol"]["signal"]] = dict(zip(steps, scores, strict=True))

    def add_verdicts(name: str, found: dict[str, Any], part: str, stored_as: str) -> None:
        b, method, seed = name.split("-")
        for steps in STEPS:
            counts = counts_of(found, stored_as, steps)
            if counts is not None:
                key = (float(b[1:]), method, steps)
                cells[part].setdefault(key, {})[int(seed.removeprefix("seed"))] = counts

    read(out / "search", add_search)
    read(out / "exact", add_exact)
    for folder, part, stored_as in (
        ("verdicts", "usual", "usual"),
        ("verdicts", "shifted", "shifted"),
        ("verdicts_all", "all prompts", "usual"),
    ):
        read(out / folder, partial(add_verdicts, part=part, stored_as=stored_as))
    return searches, exact, cells


def slopes_of(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Slope of lead against headroom: by method over all cells, and at each number of steps."""
    slopes = {}
    for method in ("selfe", "imm"):
        own = [
            r
            for r in rows
            if r["method"] == method
            and r["steps"] in PAPER
            and r["headroom"] is not None
            and "lead" in r
        ]
        parts = {"": own} | {f" at {n} steps": [r for r in own if r["steps"] == n] for n in PAPER}
        for words, some in parts.items():
            if len(some) >= 3:
                slopes[METHODS[method] + words] = slope_of(some, np.random.default_rng(SEED))
    return slopes


def slope_sentence(name: str, slope: dict[str, Any]) -> str:
    """For instance "Self-E at 4 steps: slope ...". An interval that holds 0 is not resolved."""
    parts = [f"{name}: slope of lead against headroom {slope['slope']:.3f}"]
    for key, words in (("over_prompts", "for other prompts"), ("over_seeds", "for other seeds")):
        if key in slope:
            low, high = slope[key]
            held = "" if low > 0 or high < 0 else ", not resolved"
            parts.append(f"[{low:.3f}, {high:.3f}] {words}{held}")
    parts.append(f"{slope['cells']} cells, {slope['seeds']} training seeds in each or more")
    parts.append(f"rank correlation {slope['rank_correlation']:.2f}")
    return "; ".join(parts) + ".\n"


def add_part(
    text: list[str], title: str, rows: list[dict[str, Any]], pairs: Sequence[tuple[float, float]]
) -> dict[str, Any]:
    """Write a part's leads into `text`, with slopes and the differences of leads between pairs of
    values of b; returns what leads.json keeps of it."""
    slopes = slopes_of(rows)
    text += [f"## {title}\n", table(rows)]
    text += [slope_sentence(method, slope) for method, slope in slopes.items()]
    for pair in pairs:
        if lines := sentences(rows, STEPS, pair):
            text.append("\n".join([*lines, ""]))
    for row in rows:
        row.pop("by_prompt", None)
    return {"rows": rows, "slopes": slopes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("reports/studies/headroom"))
    args = parser.parse_args()
    out: Path = args.out

    searches, exact, cells = read_scores(out)
    text = [
        "# Tables of the study of headroom\n",
        "Made by `python -m scripts.studies.headroom_table`.\n",
    ]
    calibration = {
        "usual": calibrate(searches, ["usual"]),
        "shifted": calibrate(searches, ["usual", "shifted"]),
    }
    write_atomically(out / "calibration.json", json.dumps(calibration, indent=1))
    text += ["## Calibration\n", calibration_table(calibration["usual"])]
    if any("shifted" in search for search in searches.values()):
        text += ["The same with shifted time grids in the search, which does not decide:\n"]
        text += [calibration_table(calibration["shifted"])]
    results: dict[str, Any] = {"exact": {f"{b:g}": row for b, row in sorted(exact.items())}}
    for part, title in (
        ("usual", "Leads, on the first 12 prompts of every task"),
        ("all prompts", "Leads, on all prompts (headroom is of the first 12 of every task)"),
        ("shifted", "Leads, time grids searched too"),
    ):
        if not cells[part]:
            continue
        rows = leads(cells[part], exact)
        results[part] = add_part(text, title, rows, PAIRS if part == "all prompts" else ())
        if part == "all prompts":
            text.append(over_imm(leads(cells[part], exact, over="imm")))
    # the more prompts, the narrower the intervals
    drawn = results.get("all prompts") or results.get("usual")
    panels = panels_of(drawn["rows"], "800 iterations") if drawn else []

    archives = [out.parent / name / "results.tar.xz" for name in ARCHIVES]
    long = archived_counts([path for path in archives if path.is_file()])
    if long:
        rows = leads(long, exact)
        title = "Leads after 3,000 iterations, on all prompts"
        results["3,000 iterations"] = add_part(text, title, rows, PAIRS)
        text.append("Headroom is of the first 12 prompts of every task here, too.\n")
        panels += panels_of(rows, "3,000 iterations")
    if panels:
        draw(panels, out / "leads.svg")
        text.append("![leads against headroom](leads.svg)\n")
    write_atomically(out / "leads.json", json.dumps(results, indent=1))
    write_atomically(out / "tables.md", "\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main()
