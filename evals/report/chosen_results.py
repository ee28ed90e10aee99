"""Results of the runs that a user names; a name that no result has is answered before figures and
tables load."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evals.report.result_folders import ResultFolder, collect, find_results, run_of
from evals.results import RESULT, read_result


@dataclass(frozen=True)
class Chosen:
    """Results of the runs asked for.

    Attributes:
        names: what the user calls each, by `ResultFolder.name`.
        baseline: the user's name of the run that differences are to.
    """

    folders: list[ResultFolder]
    names: dict[str, str]
    baseline: str

    @property
    def given(self) -> list[str]:
        """The user's names, in their order."""
        return list(dict.fromkeys(self.names.values()))


def choose_runs(roots: Sequence[Path], wanted: Sequence[str], baseline: str = "") -> Chosen:
    """The results of the runs named.

    Args:
        roots: folders searched for results.
        wanted: RUN or NAME=RUN: a run or published model by its name, or a folder in which its
            results lie; a name stands for it in tables and figures.
        baseline: one of the names; the first run's where none is given.

    Raises:
        ValueError: for a run without results, with those that have some; for a name given twice;
            for a baseline that is none of the runs; for a damaged result.
    """
    if not wanted:
        raise ValueError("--runs names no run: give names separated by commas")
    named = [_name_and_run(text) for text in wanted]
    runs = {path: run_of(read_result(path / RESULT)) for path in find_results(roots)}
    for _, run in named:
        if not any(_belongs(path, its_run, run) for path, its_run in runs.items()):
            raise ValueError(_no_result(run, sorted(set(runs.values()))))
    folders = collect(roots)
    found: list[ResultFolder] = []
    names: dict[str, str] = {}
    for name, run in named:
        for folder in (f for f in folders if _belongs(f.path, f.run, run)):
            if folder.name in names:
                raise ValueError(f"--runs names {folder.run} twice")
            names[folder.name] = name or Path(run).name
            model = folder.result.model.model_copy(
                update={"label": names[folder.name], "variant": ""}
            )
            result = folder.result.model_copy(update={"model": model})
            found.append(replace(folder, result=result))
    chosen = Chosen(found, names, baseline.partition("=")[0] or next(iter(names.values())))
    if chosen.baseline not in chosen.given:
        raise ValueError(
            f"--baseline {chosen.baseline} is none of --runs: {', '.join(chosen.given)}"
        )
    return chosen


def _name_and_run(text: str) -> tuple[str, str]:
    name, equals, run = text.partition("=")
    return (name, run) if equals else ("", text)


def _no_result(run: str, runs: Sequence[str]) -> str:
    near = difflib.get_close_matches(run, runs, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"no result of a run {run!r}{hint} (runs with results: {', '.join(runs) or 'none'})"


def _belongs(folder: Path, its_run: str, wanted: str) -> bool:
    if wanted == its_run or wanted in folder.parts:
        return True
    path = Path(wanted)
    return path.is_dir() and folder.resolve().is_relative_to(path.resolve())
