"""The page of two models compared, which opens at the images that only one of them got right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evals.report.compare_runs import Side, paired_results
from evals.report.result_folders import ResultFolder
from evals.site.render import render_page
from evals.site.summary import ResultIds


def render_comparison(
    a: Side, b: Side, out_dir: Path | str, *, steps: Sequence[int] | None = None
) -> list[Path]:
    """Write the page of everything that `evals.report.compare_runs.compare_runs` compares.

    Args:
        a, b: name and results of each side.
        out_dir: made if absent; gets index.html and page/.
        steps: only these numbers of steps.

    Returns:
        The files, index.html first.

    Raises:
        ValueError: if the two share nothing, or `out_dir` has an index.html that is another page.
    """
    by_steps = paired_results(a, b, steps=steps)
    pairs = [pair for by_seed in by_steps.values() for pair in by_seed.values()]
    seeds = {seed for by_seed in by_steps.values() for seed in by_seed}
    names = [a[0], b[0]] if a[0] != b[0] else [f"{a[0]} (A)", f"{b[0]} (B)"]
    sides = [[_called(pair[side], name) for pair in pairs] for side, name in enumerate(names)]
    named = {folder.name: name for name, own in zip(names, sides, strict=True) for folder in own}
    first = ResultIds.of([own[0] for own in sides]).ids
    return render_page(
        [folder for own in sides for folder in own],
        out_dir,
        title=f"{names[0]} against {names[1]}",
        names=named,
        baseline=names[1] if len(seeds) == 1 else "",
        start={"gv": "differ", "ga": first[0], "gb": first[1]},
    )


def _called(folder: ResultFolder, name: str) -> ResultFolder:
    """The result under the name of its side, which no iteration belongs to."""
    update = {"name": name.replace("@", " at "), "label": name, "variant": ""}
    model = folder.result.model.model_copy(update=update)
    return replace(folder, result=folder.result.model_copy(update={"model": model}))
