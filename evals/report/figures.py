"""Which figures a group of results gives."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from evals.base import Interval
from evals.report import curves, image_grids, training_seeds
from evals.report.commands import STEPS
from evals.report.groups import named_ablations
from evals.report.page import TASK_NAMES
from evals.report.reference import REFERENCE_METHOD
from evals.report.result_folders import ResultFolder
from evals.report.rows import cell_of, choose, one_training_a_row
from evals.report.table2 import TABLE2_ROWS, horizons
from evals.results import protocol_slug
from selfe.foreign_text import file_name

Draw = Callable[[str, Figure | None], list[str]]
"""Saves a figure under a name; the names of what was saved: none where there is no figure."""


@dataclass(frozen=True)
class ResultGroup:
    """Results that share protocol and recipe."""

    folders: list[ResultFolder]
    recipe: str

    @property
    def slug(self) -> str:
        recipe = self.recipe and file_name(self.recipe)
        parts = [protocol_slug(self.folders[0].result.protocol), recipe]
        return "-".join(part for part in parts if part)

    @property
    def title(self) -> str:
        return f"{self.subject}; 95% intervals clustered by prompt"

    @property
    def subject(self) -> str:
        protocol = self.folders[0].result.protocol
        parts = [protocol.suite, protocol.split, f"recipe {self.recipe}" if self.recipe else ""]
        size = f"{protocol.num_prompts} prompts x {protocol.images_per_prompt} images"
        return ", ".join(part for part in [*parts, size] if part)


def draw_group(draw: Draw, group: ResultGroup, suffix: str) -> list[str]:
    chosen = choose(group.folders, [])
    usual = list(chosen.values())
    _, long = horizons(chosen)
    final = [f for f in usual if f.result.model.iterations == long and not f.result.model.variant]
    named = named_ablations(usual)
    own = [f for f in usual if (f.result.model.method, f.result.model.variant) in named]
    progress = [f for f in usual if not f.own_name] + own
    drawn = draw(f"fig5{suffix}", curves.training_progress(progress, group.title))
    final += _at_their_last(own)
    title = f"{group.title}; {long} iterations"
    drawn += draw(f"scores_by_steps{suffix}", curves.scores_against_steps(final, title))
    rows: dict[str, dict[int, ResultFolder]] = {}
    trained = sorted(folder.result.model.method for folder in final)
    papers = [kind.method for kind in TABLE2_ROWS if kind.block == "long"]
    for method in dict.fromkeys([*papers, *trained]):
        for folder in final:
            if folder.result.model.method == method:
                label = curves.series_label(folder)
                rows.setdefault(label, {})[folder.result.sampling.steps] = folder
    shared = sorted(set.intersection(*[set(r) for r in rows.values()])) if rows else []
    if shared and len(rows) > 1:
        figure = image_grids.result_grid(
            list(rows.items()), shared, f"Same prompts and seeds, {long} iterations"
        )
        drawn += draw(f"fig4{suffix}", figure)
    drawn += _draw_trainings(draw, group, suffix)
    return drawn + _draw_policies(draw, group, long, suffix)


def _at_their_last(folders: Sequence[ResultFolder]) -> list[ResultFolder]:
    """Of every configuration the results at its largest number of iterations."""
    last: dict[str, int] = {}
    for folder in folders:
        label = curves.series_label(folder)
        last[label] = max(last.get(label, 0), folder.result.model.iterations or 0)
    return [f for f in folders if f.result.model.iterations == last[curves.series_label(f)]]


def _draw_trainings(draw: Draw, group: ResultGroup, suffix: str) -> list[str]:
    """Means over training seeds: against sampling steps, overall and by task, and against
    iterations as Fig. 5."""
    found = training_seeds.repeated(group.folders)
    named = named_ablations(group.folders)
    every = training_seeds.usual(found)
    shown = [c for c in every if not c.variant or (c.method, c.variant) in named]
    _, long = horizons((c.method, c.variant, c.iterations, c.steps) for c in shown)
    by_steps: dict[curves.LineKey, dict[float, Interval]] = {}
    by_iterations: dict[int, dict[curves.LineKey, dict[float, Interval]]] = {}
    by_task: dict[str, dict[curves.LineKey, dict[float, Interval]]] = {}
    seeds: dict[str, set[int]] = {}
    for configuration in shown:
        by_seed = found[configuration]
        interval = training_seeds.mean_interval(by_seed)
        label = curves.series_label(by_seed[min(by_seed)])
        key = (label, (configuration.method, configuration.variant))
        seeds.setdefault(label, set()).update(by_seed)
        panel = by_iterations.setdefault(configuration.steps, {})
        panel.setdefault(key, {})[configuration.iterations] = interval
        if configuration.iterations == long:
            by_steps.setdefault(key, {})[configuration.steps] = interval
            for task, mean in training_seeds.task_intervals(by_seed).items():
                by_task.setdefault(task, {}).setdefault(key, {})[configuration.steps] = mean
    words = {label: " ".join(map(str, sorted(those))) for label, those in seeds.items()}
    whose = ", ".join(f"{label} {text}" for label, text in words.items())
    if len(set(words.values())) == 1:
        whose = next(iter(words.values()))
    title = f"{group.subject}; training seeds {whose}; 95% intervals of other seeds and prompts"
    drawn = []
    if by_steps:
        heading = "Score against sampling steps, mean over training seeds"
        lines = curves.in_order(by_steps) + curves.exact_series(group.folders)
        mean_scores = curves.over_steps(lines, heading, f"{title}; {long} iterations")
        drawn += draw(f"trainings_by_steps{suffix}", mean_scores)
        tasks = {TASK_NAMES[t]: curves.in_order(by_task[t]) for t in TASK_NAMES if t in by_task}
        heading = "Tasks against sampling steps, mean over training seeds"
        drawn += draw(
            f"trainings_by_task{suffix}",
            curves.over_steps_by_task(tasks, heading, f"{title}; {long} iterations"),
        )
    panels = {n: curves.in_order(by_iterations.get(n, {})) for n in STEPS}
    progress = curves.over_iterations(panels, "Training progress, mean over training seeds", title)
    return drawn + draw(f"trainings_progress{suffix}", progress)


def _draw_policies(draw: Draw, group: ResultGroup, long: int | None, suffix: str) -> list[str]:
    """Figs S.3 and S.4, from results of Self-E that differ in `s_fraction`."""
    selfe = [
        f
        for f in one_training_a_row(group.folders, [], cell_of)
        if f.result.model.method == REFERENCE_METHOD
        and not f.result.model.variant
        and f.result.model.iterations == long
    ]
    title = f"{group.title}; Self-E, {long} iterations"
    several = _policy_study([f for f in selfe if f.result.sampling.steps > 1])
    drawn = draw(f"figS3{suffix}", curves.secondary_time_scores(several, title))
    rows: dict[float, dict[int, ResultFolder]] = {}
    for folder in several:
        fraction = curves.policy_of(folder)
        assert fraction is not None
        rows.setdefault(fraction, {})[folder.result.sampling.steps] = folder
    if len(rows) > 1:
        steps = sorted(set.intersection(*[set(results) for results in rows.values()]))
        named = [(curves.policy_label(next(iter(rows[f].values()))), rows[f]) for f in sorted(rows)]
        figure = image_grids.result_grid(named, steps, "Policies of s, Self-E") if steps else None
        drawn += draw(f"figS3_images{suffix}", figure)
    one_step = _policy_study(curves.one_step_unguided(selfe))
    drawn += draw(f"figS4{suffix}", curves.one_step_scores(one_step, title))
    if len(one_step) > 1:
        one_step.sort(key=lambda f: curves.policy_of(f) or 0.0)
        figure = image_grids.result_grid(
            [("Self-E", dict(enumerate(one_step)))],
            range(len(one_step)),
            "One step without guidance",
            columns=[f"f = {curves.policy_of(f):g}" for f in one_step],
        )
        drawn += draw(f"figS4_images{suffix}", figure)
    return drawn


def _policy_study(folders: Sequence[ResultFolder]) -> list[ResultFolder]:
    """Results that differ in steps and `s_fraction` alone.

    At each number of steps those are kept whose other settings were tried with most policies, one
    per policy.
    """
    studies: dict[int, dict[str, dict[float, ResultFolder]]] = {}
    for folder in folders:
        fraction = curves.policy_of(folder)
        if fraction is None or folder.result.scores.partial:
            continue
        settings = dict(folder.result.sampling.settings)
        settings.pop("s_fraction")
        others = studies.setdefault(folder.result.sampling.steps, {})
        others.setdefault(json.dumps(settings, sort_keys=True), {}).setdefault(fraction, folder)
    kept: list[ResultFolder] = []
    for others in studies.values():
        best = max(sorted(others), key=lambda settings: len(others[settings]))
        kept += others[best].values()
    return kept
