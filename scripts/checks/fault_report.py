"""Every fault of the plan, tried its full number of times: what happened, and whether it may.

    python -m scripts.checks.fault_report [--out reports/checks]

The faults are the tests marked `fault`, numbered as below; those that strike at a random instant or
place take `trial` and run N times here, 3 times in the checks of every change (`--fault-count`).
Writes faults.json and faults.md; exits 1 where a test failed or a fault has no test.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from scripts import command_line
from selfe.files import write_atomically
from selfe.provenance import provenance

ROOT = Path(__file__).resolve().parents[2]
FAULTS: dict[int, tuple[str, str]] = {
    1: ("kill -9 during a save", "resumes from the newest valid checkpoint, one valid always"),
    2: ("newest checkpoint truncated", "named error, falls back to the one before"),
    3: ("4 bytes flipped in model, EMA or optimiser", "rejected by checksum, falls back"),
    4: ("disk full during a save", "old checkpoint kept, temporary removed, exit non-zero"),
    5: ("run folder not writable", "error before step 1"),
    6: ("stop at k, resume to n", "0 bits differ from an uninterrupted run"),
    7: ("the same with other loader workers or processes", "same samples, loss within 1e-5"),
    8: ("SIGTERM in a step", "step finished and saved, exit code of its own"),
    9: ("SIGTERM in a save", "one complete checkpoint"),
    10: ("NaN in loss, gradient or target", "no update; abort after n, sample ids logged"),
    11: ("kill -9 one of two processes", "group restarts and resumes, equals an uninterrupted run"),
    12: ("pickle offered as checkpoint or weights", "refused, no code run"),
    13: ("wrong architecture or partial state", "error listing the keys"),
    14: ("data shard truncated or flipped", "sample skipped and counted; abort above 0.1%"),
    15: ("tar member outside, link or oversized", "refused, nothing written outside"),
    16: ("missing shard, empty data set", "error naming the file, within 10 s"),
    17: ("kill -9 in generation, resume", "images byte-equal to an uninterrupted run"),
    18: ("truncated PNG of an earlier crash", "detected, made again"),
    19: ("NaN or Inf latents", "image marked failed, never scored as a black picture"),
    20: ("kill -9 in scoring, resume", "at most one batch again, result bit-equal"),
    21: ("torn last line, malformed metadata", "torn tail dropped, else error with line number"),
    22: ("duplicate, missing or extra images", "no overall score, or marked partial everywhere"),
    23: ("two processes on one folder", "the second exits with a message, or they share"),
    24: ("wrong detector or CLIP weights", "hash mismatch, refused"),
    25: ("hub offline, cache warm or cold", "warm: no network; cold: names file and command"),
    26: ("random damage to every kind of file, 12,000 cases", "values, skips or one sentence"),
    27: ("a digit, key, type, file or folder of state changed or swapped", "noticed and named"),
    28: ("10,000 edits of every file of state", "taken as it was, or one sentence; no traceback"),
}
OTHER = 0
"""Number of fault tests that name none of the above."""


@dataclass
class Trials:
    """Outcomes of one test function over its trials and parameters."""

    numbers: tuple[int, ...]
    passed: int = 0
    seconds: float = 0.0
    problems: list[dict[str, str]] = field(default_factory=list)
    """Failed or skipped trials: which, and the last line of why."""

    @property
    def failed(self) -> int:
        return sum(problem["outcome"] == "failed" for problem in self.problems)


class Collector:
    """pytest plugin that files every outcome under its test function."""

    def __init__(self) -> None:
        self.trials: dict[str, Trials] = {}
        self.function: dict[str, str] = {}

    def pytest_collection_modifyitems(self, items: Sequence[pytest.Item]) -> None:
        for item in items:
            marker = item.get_closest_marker("fault")
            if marker is not None:
                name = item.nodeid.partition("[")[0]
                self.function[item.nodeid] = name
                self.trials.setdefault(name, Trials(marker.args or (OTHER,)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = self.function.get(report.nodeid)
        if name is None:
            return
        trials = self.trials[name]
        trials.seconds += report.duration
        if report.outcome == "passed":
            trials.passed += report.when == "call"
            return
        why = report.longrepr
        text = why[-1] if isinstance(why, tuple) else report.longreprtext
        last = text.strip().splitlines()[-1] if text.strip() else ""
        trials.problems.append({"trial": report.nodeid, "outcome": report.outcome, "why": last})


def verdict_of(tests: Sequence[Trials]) -> str:
    """ "pass 50/50", "FAIL 49/50", or what is missing."""
    outcomes = Counter(problem["outcome"] for trials in tests for problem in trials.problems)
    passed = sum(trials.passed for trials in tests)
    if outcomes["failed"]:
        return f"FAIL {passed}/{passed + outcomes['failed']}"
    if not passed:
        return "not tried: " + ("skipped here" if tests else "no test")
    skipped = f", {outcomes['skipped']} skipped" if outcomes["skipped"] else ""
    return f"pass {passed}/{passed}{skipped}"


def summarise(trials: dict[str, Trials]) -> list[dict[str, Any]]:
    """One row per fault, with the tests that try it; tests without a number come last."""
    rows = []
    for number, (fault, wanted) in {**FAULTS, OTHER: ("others", "")}.items():
        tests = {name: t for name, t in trials.items() if number in t.numbers}
        rows.append(
            {
                "number": number,
                "fault": fault,
                "must_happen": wanted,
                "verdict": verdict_of(list(tests.values())),
                "tests": [
                    {
                        "test": name,
                        "passed": t.passed,
                        "failed": t.failed,
                        "seconds": round(t.seconds, 2),
                        "problems": t.problems,
                    }
                    for name, t in tests.items()
                ],
            }
        )
    return rows


def render(report: dict[str, Any]) -> str:
    facts = report["provenance"]
    lines = [
        "# Faults",
        "",
        f"`{report['command']}`, commit {facts['commit']}, {facts['machine']}, "
        f"{report['seconds']:.0f} s. A count is trials passed / trials made; the trials of a fault "
        "are those of all its tests.",
        "",
        "| # | fault | must happen | outcome | tests |",
        "|---|---|---|---|---|",
    ]
    for row in report["faults"]:
        names = "<br>".join(f"`{t['test'].removeprefix('tests/')}`" for t in row["tests"])
        number = row["number"] or ""
        cells = (number, row["fault"], row["must_happen"], row["verdict"], names)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    found = [p for row in report["faults"] for t in row["tests"] for p in t["problems"]]
    problems = {p["trial"]: p for p in found}  # a test may try several faults
    if problems:
        lines += ["", "Failed or skipped:", ""]
        lines += [f"- {p['outcome']}: `{p['trial']}`: {p['why']}" for p in problems.values()]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "checks")
    parser.add_argument("--fault-count", default="full", help="trials of each, for a quick look")
    parser.add_argument("tests", nargs="*", help="test files; all of them if absent")
    arguments = parser.parse_args()
    facts, started = provenance(), time.perf_counter()
    collector = Collector()
    os.chdir(ROOT)
    words = ["-m", "fault", "--fault-count", arguments.fault_count, "-p", "no:cacheprovider"]
    code = pytest.main([*words, *arguments.tests], plugins=[collector])
    if not collector.trials:
        raise SystemExit(f"no fault test was collected (pytest ended with {int(code)})")
    report = {
        "command": command_line(),
        "provenance": facts,
        "seconds": round(time.perf_counter() - started, 1),
        "faults": summarise(collector.trials),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_atomically(arguments.out / "faults.json", json.dumps(report, indent=1) + "\n")
    write_atomically(arguments.out / "faults.md", render(report))
    for row in report["faults"]:
        print(f"{row['number']:>2}  {row['verdict']:<24} {row['fault']}")
    print(f"written to {arguments.out}/faults.md")
    numbered = [row for row in report["faults"] if row["number"] != OTHER]
    if code != 0 or not all(row["verdict"].startswith("pass") for row in numbered):
        sys.exit(1)


if __name__ == "__main__":
    main()
