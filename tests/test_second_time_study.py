"""The study behind Figs S.3 and S.4: which results it asks for."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "studies" / "second_time_study.sh"


def _commands(tmp_path: Path, *words: str) -> tuple[int, list[list[str]], str]:
    """Exit code, the commands it would run, and what it says, with a recorder for selfe-bench."""
    record = tmp_path / "commands"
    bench = tmp_path / "bench"
    bench.write_text(f'#!/bin/sh\nprintf "%s\\t" "$@" >>{record}\necho >>{record}\n')
    bench.chmod(0o755)
    done = subprocess.run(
        ["bash", SCRIPT, *words],
        env={**os.environ, "BENCH": str(bench)},
        capture_output=True,
        text=True,
    )
    lines = record.read_text().splitlines() if record.exists() else []
    return done.returncode, [line.rstrip("\t").split("\t") for line in lines], done.stderr


def test_study_scores_three_policies_and_nine_places_in_one_step(tmp_path: Path) -> None:
    code, commands, _ = _commands(tmp_path, "runs/a b", "--limit", "12")
    assert code == 0
    assert all(words[:3] == ["geneval", "--model", "runs/a b"] for words in commands)
    assert all(words[-2:] == ["--limit", "12"] for words in commands)
    policies = [w for w in commands if w[w.index("--steps") + 1] == "2,4,8,50"]
    one_step = [w for w in commands if w[w.index("--steps") + 1] == "1"]
    fractions = [[x for x in w if "s_fraction" in x] for w in policies]
    assert fractions == [[], ["sampling.s_fraction=0.5"], ["sampling.s_fraction=1"]]
    # guidance and eta of each number of steps stay as they were found
    assert not any("guidance" in x or "eta" in x for w in policies for x in w)
    assert all("sampling.guidance=none" in w for w in one_step)
    places = [float(x.split("=")[1]) for w in one_step for x in w if "s_fraction" in x]
    assert places == [k / 8 for k in range(9)]
    assert len(commands) == len(policies) + len(one_step) == 12


def test_study_without_a_run_says_what_it_needs(tmp_path: Path) -> None:
    code, commands, said = _commands(tmp_path)
    assert code == 2 and not commands and "which run?" in said
