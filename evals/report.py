"""The report: every table and figure of a folder of results. Reads results only.

The same results give the same bytes: nothing printed depends on the clock, on the order of
directories, or on the machine that renders.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from evals import figures, layout, pictures
from evals.collection import (
    ResultFolder,
    by_protocol,
    collect,
    guidance_text,
    protocol_slug,
    setting_text,
)
from evals.commands import CommandContext, protocol_options
from evals.cuts import diversity_frame, seen_unseen_frame
from evals.files import write_atomically
from evals.markup import is_missing, number, plain, to_csv, to_markdown, with_interval
from evals.model_table import build_table1, is_published
from evals.tables import (
    TABLE1_COLUMNS,
    TABLE2_COLUMNS,
    Table,
    build_table2,
    choose,
    horizons,
)

_TRAINED = ("selfe", "fm", "imm")


@dataclass
class ReportSummary:
    """What was rendered.

    Attributes:
        out_dir: the report's folder.
        files: everything written, in order.
        results: number of result folders read.
        statements: the ordering of the first Table 2 in words.
        notes: partial sets, under-trained models and the like, of all tables.
        not_run: commands that make the missing rows of the first Table 2.
    """

    out_dir: Path
    files: list[Path] = field(default_factory=list)
    results: int = 0
    statements: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)

    def write(self, name: str, text: str) -> str:
        path = self.out_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
        self.files.append(path)
        return name

    def draw(self, name: str, figure: Figure | None) -> list[str]:
        if figure is None:
            return []
        self.files += figures.save(figure, self.out_dir / "figures" / name)
        return [name]


@dataclass(frozen=True)
class _Group:
    """Results that share protocol and recipe."""

    folders: list[ResultFolder]
    recipe: str

    @property
    def slug(self) -> str:
        parts = [protocol_slug(self.folders[0].result.protocol), self.recipe]
        return "-".join(part for part in parts if part)

    @property
    def title(self) -> str:
        protocol = self.folders[0].result.protocol
        parts = [protocol.suite, protocol.split, f"recipe {self.recipe}" if self.recipe else ""]
        size = f"{protocol.num_prompts} prompts x {protocol.images_per_prompt} images"
        text = ", ".join(part for part in [*parts, size] if part)
        return f"{text}; bands and bars: 95% intervals clustered by prompt"


def render(
    results_roots: Sequence[Path | str],
    out_dir: Path | str,
    *,
    runs_dir: str | None = None,
) -> ReportSummary:
    """Render Tables 1 and 2, seen against unseen, diversity and all figures into `out_dir`.

    The first table of a kind is written to `tableN.csv`; tables of further protocols or recipes,
    which are never mixed with it, to `tableN.PROTOCOL.csv`. Markdown and LaTeX files hold all.

    Args:
        results_roots: folders searched for results; one that is missing is an error.
        out_dir: made if absent.
        runs_dir: as the commands for missing rows name it; the first root if not given.

    Raises:
        ValueError: for a damaged or self-contradicting result, naming the file.
    """
    roots = [Path(root) for root in results_roots]
    summary = ReportSummary(Path(out_dir))
    folders = collect(roots)
    summary.results = len(folders)
    runs = runs_dir or (roots[0].as_posix() if roots else "runs")
    table1 = _all_table1(folders, runs)
    groups = _groups(folders)
    table2 = [(g, build_table2(g.folders, _context(g.folders, g.recipe, runs))) for g in groups]
    first2 = [table for _, table in table2] or [build_table2([], CommandContext(runs_dir=runs))]
    _write_tables(summary, 1, table1, TABLE1_COLUMNS, layout.table1_markdown, layout.table1_latex)
    _write_tables(summary, 2, first2, TABLE2_COLUMNS, layout.table2_markdown, layout.table2_latex)
    cuts = [
        _write_cut(summary, "seen_unseen", "Seen and unseen combinations", folders, _seen_unseen),
        _write_cut(summary, "diversity", "Diversity", folders, _diversity),
    ]
    drawn = []
    for place, (group, table) in enumerate(table2):
        drawn += _draw_group(summary, group, table, "" if place == 0 else f".{group.slug}")
    summary.statements = first2[0].statements
    summary.not_run = list(dict.fromkeys(c for c in first2[0].frame["command"] if c))
    summary.notes = list(dict.fromkeys(n for t in (*first2, *table1) for n in t.notes))
    summary.write("index.md", _index(folders, first2, [c for c in cuts if c], drawn))
    return summary


def _context(folders: Sequence[ResultFolder], recipe: str, runs: str) -> CommandContext:
    options = protocol_options(folders[0].result.command) if folders else ()
    return CommandContext(recipe or "shapes", runs, options)


def _groups(folders: Sequence[ResultFolder]) -> list[_Group]:
    """Trained models by protocol and recipe; the one that fills most of Table 2 first, results on
    validation prompts last."""
    groups = []
    for members in by_protocol(folders).values():
        trained = [f for f in members if f.result.model.method in _TRAINED and not is_published(f)]
        for recipe in sorted({f.recipe for f in trained}):
            groups.append(_Group([f for f in trained if f.recipe == recipe], recipe))
    return sorted(groups, key=_rank)


def _rank(group: _Group) -> tuple[bool, int, int, str]:
    protocol = group.folders[0].result.protocol
    cells = len(choose(group.folders, []))
    images = protocol.num_prompts * protocol.images_per_prompt
    return (protocol.split == "validation", -cells, -images, group.slug)


def _all_table1(folders: Sequence[ResultFolder], runs: str) -> list[Table]:
    """One Table 1 per protocol: those with published models first; where there is none, the
    paper's rows, not run."""
    with_models: list[tuple[tuple[bool, int], Table]] = []
    others: list[tuple[tuple[bool, int], Table]] = []
    for members in by_protocol(folders).values():
        table = build_table1(members, _context(members, "shapes", runs))
        geneval = members[0].result.protocol.suite.startswith("geneval")
        counts = (geneval, sum(is_published(f) for f in members))
        (with_models if any(counts) else others).append((counts, table))
    with_models.sort(key=lambda pair: (-pair[0][1], not pair[0][0]))
    if not with_models:
        with_models = [((True, 0), build_table1([], CommandContext(runs_dir=runs)))]
    return [table for _, table in with_models + others]


def _table_slug(table: Table) -> str:
    assert table.protocol is not None
    return "-".join(part for part in (protocol_slug(table.protocol), table.recipe) if part)


def _write_tables(
    summary: ReportSummary,
    kind: int,
    tables: Sequence[Table],
    columns: Sequence[str],
    markdown: Callable[[Table], str],
    latex: Callable[[Table], str],
) -> None:
    for place, table in enumerate(tables):
        name = f"table{kind}.csv" if place == 0 else f"table{kind}.{_table_slug(table)}.csv"
        summary.write(name, to_csv(table.frame, columns))
    page = layout.markdown_page(kind, [markdown(table) for table in tables])
    summary.write(f"table{kind}.md", page)
    summary.write(f"table{kind}.tex", layout.latex_page([latex(table) for table in tables]))


def _seen_unseen(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    fixed = ["method", "variant", "iterations", "steps", "nfe", "guidance"]
    names = [n for n in frame.columns if n not in fixed and not n.endswith(("_low", "_high"))]
    rows = [
        [
            *[plain(row[name]) for name in fixed],
            *[with_interval(row[n], row[f"{n}_low"], row[f"{n}_high"]) for n in names],
        ]
        for _, row in frame.iterrows()
    ]
    return [*fixed, *names], rows


def _diversity(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    fixed = ["method", "variant", "iterations", "steps", "nfe", "guidance"]
    names = [name for name in frame.columns if name not in fixed]
    rows = [
        [*[plain(row[n]) for n in fixed], *[number(row[n]) for n in names]]
        for _, row in frame.iterrows()
    ]
    return [*fixed, *names], rows


_CUT_WORDS = {
    "seen_unseen": "Share of correct images [95% interval] where the combination of shape and "
    "colour was seen in training, and where it was held out.",
    "diversity": "Total variation between the factors that captions leave open in generated images "
    "and in data, from 0 (same distribution) to 1; lower is more diverse.",
}


def _write_cut(
    summary: ReportSummary,
    name: str,
    title: str,
    folders: Sequence[ResultFolder],
    lay_out: Callable[[pd.DataFrame], tuple[list[str], list[list[str]]]],
) -> str:
    """Write a further table, a section per protocol. Returns its Markdown file, "" if empty."""
    build = seen_unseen_frame if name == "seen_unseen" else diversity_frame
    sections: list[str] = []
    for members in by_protocol(folders).values():
        frame = build(members)
        if frame.empty:
            continue
        protocol = members[0].result.protocol
        suffix = f".{protocol_slug(protocol)}" if sections else ""
        summary.write(f"{name}{suffix}.csv", to_csv(frame, list(frame.columns)))
        header, rows = lay_out(frame)
        text = f"## {protocol.suite}, {protocol.split or 'whole suite'}\n\n"
        sections.append(f"{text}{layout.protocol_text(protocol)}\n\n{to_markdown(header, rows)}")
    if not sections:
        return ""
    page = f"# {title}\n\n{_CUT_WORDS[name]}\n\n" + "\n".join(sections)
    return summary.write(f"{name}.md", page)


def _draw_group(summary: ReportSummary, group: _Group, table: Table, suffix: str) -> list[str]:
    chosen = choose(group.folders, [])
    usual = list(chosen.values())
    _, long = horizons(chosen)
    final = [f for f in usual if f.result.model.iterations == long and not f.result.model.variant]
    drawn = summary.draw(f"fig5{suffix}", figures.training_progress(usual, group.title))
    title = f"{group.title}; {long} iterations"
    drawn += summary.draw(f"scores_by_steps{suffix}", figures.scores_against_steps(final, title))
    rows: dict[str, dict[int, ResultFolder]] = {}
    for method in ("fm", "imm", "selfe"):
        for folder in final:
            if folder.result.model.method == method:
                label = folder.result.model.label
                rows.setdefault(label, {})[folder.result.sampling.steps] = folder
    shared = sorted(set.intersection(*[set(r) for r in rows.values()])) if rows else []
    if shared and len(rows) > 1:
        figure = pictures.result_grid(
            list(rows.items()), shared, f"Same prompts and seeds, {long} iterations"
        )
        drawn += summary.draw(f"fig4{suffix}", figure)
    return drawn + _draw_policies(summary, group, long, suffix)


def _draw_policies(
    summary: ReportSummary, group: _Group, long: int | None, suffix: str
) -> list[str]:
    """Figs S.3 and S.4, from results of Self-E that differ in `s_fraction`."""
    selfe = [
        f
        for f in group.folders
        if f.result.model.method == "selfe"
        and not f.result.model.variant
        and f.result.model.iterations == long
    ]
    title = f"{group.title}; Self-E, {long} iterations"
    several = _policy_study([f for f in selfe if f.result.sampling.steps > 1])
    drawn = summary.draw(f"figS3{suffix}", figures.secondary_time_scores(several, title))
    rows: dict[float, dict[int, ResultFolder]] = {}
    for folder in several:
        fraction = figures.policy_of(folder)
        assert fraction is not None
        rows.setdefault(fraction, {})[folder.result.sampling.steps] = folder
    if len(rows) > 1:
        steps = sorted(set.intersection(*[set(results) for results in rows.values()]))
        named = [
            (figures.policy_label(next(iter(rows[f].values()))), rows[f]) for f in sorted(rows)
        ]
        figure = pictures.result_grid(named, steps, "Policies of s, Self-E") if steps else None
        drawn += summary.draw(f"figS3_images{suffix}", figure)
    one_step = _policy_study(figures.one_step_unguided(selfe))
    drawn += summary.draw(f"figS4{suffix}", figures.one_step_scores(one_step, title))
    if len(one_step) > 1:
        one_step.sort(key=lambda f: figures.policy_of(f) or 0.0)
        figure = pictures.result_grid(
            [("Self-E", dict(enumerate(one_step)))],
            range(len(one_step)),
            "One step without guidance",
            columns=[f"f = {figures.policy_of(f):g}" for f in one_step],
        )
        drawn += summary.draw(f"figS4_images{suffix}", figure)
    return drawn


def _policy_study(folders: Sequence[ResultFolder]) -> list[ResultFolder]:
    """Results that differ in steps and `s_fraction` alone.

    At each number of steps those are kept whose other settings were tried with most policies, one
    per policy.
    """
    studies: dict[int, dict[str, dict[float, ResultFolder]]] = {}
    for folder in folders:
        fraction = figures.policy_of(folder)
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


_FIGURE_WORDS = {
    "fig5": "Overall score against training iterations (Fig. 5)",
    "scores_by_steps": "Overall score against sampling steps",
    "fig4": "Same prompts and seeds: rows methods, columns steps (Fig. 4)",
    "figS3": "Policies of the secondary time s: scores (Fig. S.3)",
    "figS3_images": "Policies of the secondary time s: images (Fig. S.3)",
    "figS4": "One step without guidance over f: scores (Fig. S.4)",
    "figS4_images": "One step without guidance over f: images (Fig. S.4)",
}


def _index(
    folders: Sequence[ResultFolder],
    table2: Sequence[Table],
    cuts: Sequence[str],
    drawn: Sequence[str],
) -> str:
    parts = ["# Report\n", f"Rendered from {len(folders)} results; every figure below is theirs.\n"]
    if table2[0].statements:
        parts.append(f"## What was found: {layout.heading(table2[0])}\n")
        parts.append("\n".join(f"- {text}" for text in table2[0].statements) + "\n")
        parts.append(
            '"Resolved": the 95% interval of the difference, paired over prompts, leaves out 0.\n'
        )
    warnings = [n for t in table2 for n in t.notes if n.startswith(("PARTIAL", "UNDER-TRAINED"))]
    if warnings:
        parts.append("\n".join(f"- {note}" for note in dict.fromkeys(warnings)) + "\n")
    parts.append("## Tables\n")
    for kind, words in ((1, "every model, one protocol a table"), (2, "the ablation study")):
        links = ", ".join(f"[{s}](table{kind}.{s})" for s in ("md", "csv", "tex"))
        parts.append(f"- Table {kind}, {words}: {links}")
    parts += [f"- [{name}]({name})" for name in cuts]
    if drawn:
        parts.append("\n## Figures\n")
    for name in drawn:
        words = _FIGURE_WORDS[name.split(".")[0]]
        where = f" ({name.split('.', 1)[1]})" if "." in name else ""
        parts.append(f"{words}{where}: [SVG](figures/{name}.svg)\n")
        parts.append(f"![{words}](figures/{name}.png)\n")
    parts.append("\n## Results\n")
    if not folders:
        parts.append(
            "None yet. `selfe-bench geneval --steps 2,4,8,50` scores every finished run.\n"
        )
    for members in by_protocol(folders).values():
        protocol = members[0].result.protocol
        parts.append(f"### {protocol.suite}, {protocol.split or 'whole suite'}\n")
        parts.append(layout.protocol_text(protocol) + "\n")
        parts.append(to_markdown(_RESULT_HEADER, [_result_row(f) for f in members]))
    return "\n".join(parts)


_RESULT_HEADER = [
    "Model",
    "Variant",
    "Iterations",
    "Steps",
    "NFE",
    "Guidance",
    "Sampler",
    "Overall",
    "Images",
    "Seed",
    "Training seed",
    "Commit",
    "Command",
    "Folder",
]


def _result_row(folder: ResultFolder) -> list[str]:
    result = folder.result
    scores = result.scores
    overall = scores.overall
    score = with_interval(overall.mean, overall.low, overall.high) if overall else "no score"
    iterations = result.model.iterations
    return [
        result.model.label,
        result.model.variant,
        "" if is_missing(iterations) else str(iterations),
        str(result.sampling.steps),
        str(result.sampling.nfe),
        guidance_text(result),
        setting_text(result),
        score + (" (partial)" if scores.partial else ""),
        str(scores.num_images),
        str(result.sampling.seed),
        plain(result.model.training.get("seed", "")),
        str(result.environment.get("commit", "")),
        f"`{result.command}`" if result.command else "",
        f"`{folder.name}`",
    ]
