"""The report: every table and figure of a folder of results. Reads results only.

The same results give the same bytes: nothing printed depends on the clock, on the order of
directories, or on the machine that renders.

Longer than other files by the list of what a report consists of, which is best read in one piece.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from evals.report import across_suites, page, seen_unseen, training_seeds
from evals.report.across_figure import across_figures
from evals.report.all_steps import WORDS as ALL_STEPS
from evals.report.all_steps import all_steps_frame, all_steps_markdown
from evals.report.canvas import save
from evals.report.commands import CommandContext, protocol_options
from evals.report.compact import CompactTable, compact_table
from evals.report.diversity_table import DIVERSITY, diversity_frame, diversity_markdown
from evals.report.figures import ResultGroup, draw_group
from evals.report.groups import by_protocol, tell_apart, usual_data
from evals.report.index import TITLE, index_page
from evals.report.lines import build_lines
from evals.report.markup import to_csv
from evals.report.result_folders import ResultFolder, collect
from evals.report.rows import ERRATUM, PAPER_SUITE, Table, choose
from evals.report.seen_unseen import seen_unseen_frame
from evals.report.table1 import TABLE1_COLUMNS, build_table1, is_published
from evals.report.table1_page import table1_latex, table1_markdown
from evals.report.table2 import TABLE2_COLUMNS, build_table2
from evals.report.table2_page import table2_latex, table2_markdown
from evals.report.training_seeds_page import WORDS, trainings_markdown, trainings_statements
from evals.results import protocol_key, protocol_slug
from evals.site.render import render_page
from selfe.config.resolve import milestone_interval
from selfe.files import write_atomically
from selfe.foreign_text import file_name, markdown_page
from selfe.temporaries import remove_leftovers

_OWN_NAMES = re.compile(
    r"(?:index\.md|(?:table[12]|seen_unseen|diversity|trainings|all_steps|across_suites)(?:\..+)?"
    r"\.(?:csv|md|tex)"
    r"|(?:fig4|fig5|figS[34](?:_images)?|scores_by_steps|trainings_(?:by_steps|by_task|progress))"
    r"(?:\..+)?\.(?:svg|png))"
)
"""Names that a report gives its files, so that those of an earlier one are recognised."""


PAGE = "README.md"
"""The page that leads to all others: a browser of a repository opens it by itself."""


@dataclass
class ReportSummary:
    """What was rendered.

    Attributes:
        out_dir: the report's folder.
        files: everything written, in order.
        results: number of result folders read.
        statements: the ordering of the first Table 2 in words, for one training and, where there
            are more, for the means over training seeds.
        notes: partial sets, under-trained models and the like, of all tables.
        not_run: commands that make the missing rows of the first Table 2.
        left_over: files of an earlier report in the same folder, which this one has no part in.
        compact: the compact table of every protocol, that with most results first.
    """

    out_dir: Path
    files: list[Path] = field(default_factory=list)
    results: int = 0
    statements: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)
    left_over: list[Path] = field(default_factory=list)
    compact: list[CompactTable] = field(default_factory=list)

    def write(self, name: str, text: str) -> str:
        path = self.out_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, markdown_page(text) if path.suffix == ".md" else text)
        self.files.append(path)
        return name

    def draw(self, name: str, figure: Figure | None) -> list[str]:
        """The name of the file, if there is a figure."""
        if figure is None:
            return []
        self.files.append(save(figure, self.out_dir / "figures" / name))
        return [self.files[-1].name]


def render(
    results_roots: Sequence[Path | str],
    out_dir: Path | str,
    *,
    runs_dir: str | None = None,
    latex: bool = False,
    paper: bool = False,
    html: bool = True,
) -> ReportSummary:
    """Render Tables 1 and 2, seen against unseen, diversity, the spread over training seeds and
    all figures into `out_dir`.

    The first table of a kind is written to `tableN.csv`; tables of further protocols or recipes,
    which are never mixed with it, to `tableN.PROTOCOL.csv`. Markdown and LaTeX files hold
    all. README.md leads to everything.

    Args:
        results_roots: folders searched for results; one that is missing is an error.
        out_dir: made if absent.
        runs_dir: as the commands for missing rows name it; the first root if not given.
        latex: whether to write the tables as LaTeX, too.
        paper: whether tables list the paper's errata and the commands of its rows that were not
            run; an empty report always does.
        html: whether to write index.html.

    Raises:
        ValueError: for a damaged or self-contradicting result, naming the file; if there is a
            README.md in `out_dir` that no report has written.
    """
    require_own_page(Path(out_dir) / PAGE)
    roots = [Path(root) for root in results_roots]
    summary = ReportSummary(Path(out_dir))
    remove_leftovers(out_dir, deep=True)
    results = collect(roots)
    summary.results = len(results)
    folders = tell_apart(results)
    paper = paper or not results
    runs = runs_dir or (roots[0].as_posix() if roots else "runs")
    table1 = [_for_readers(table, paper) for table in _all_table1(folders, runs)]
    groups = _groups(folders)
    table2 = [(g, build_table2(g.folders, _context(g.folders, g.recipe, runs))) for g in groups]
    first2 = [table for _, table in table2] or [build_table2([], CommandContext(runs_dir=runs))]
    first2 = [_for_readers(table, paper) for table in first2]
    frames = {key: training_seeds.trainings_frame(own) for key, own in by_protocol(folders).items()}
    as_latex = (table1_latex, table2_latex) if latex else (None, None)
    _write_tables(summary, 1, table1, TABLE1_COLUMNS, table1_markdown, as_latex[0])
    _write_tables(summary, 2, first2, TABLE2_COLUMNS, table2_markdown, as_latex[1])
    page_across, across = _write_across(summary, roots, folders)
    cuts = [
        _write_cut(summary, folders, _SEEN_UNSEEN),
        _write_cut(summary, folders, _DIVERSITY),
        _write_cut(summary, folders, _TRAININGS, frames),
        _write_cut(summary, folders, _ALL_STEPS),
        page_across,
    ]
    drawn = across
    for place, (group, _) in enumerate(table2):
        drawn += draw_group(summary.draw, group, "" if place == 0 else f".{group.slug}")
    if groups:
        repeated = frames[protocol_key(groups[0].folders[0].result.protocol)]
        over_seeds = trainings_statements(repeated[repeated["recipe"] == groups[0].recipe])
    else:
        over_seeds = []
    summary.statements = [*over_seeds, *first2[0].statements]
    summary.not_run = list(dict.fromkeys(c for c in first2[0].frame["command"] if c))
    summary.notes = list(dict.fromkeys(n for t in (*first2, *table1) for n in t.notes))
    summary.compact = _compact_tables(folders, frames)
    found = [c for c in cuts if c]
    summary.write(PAGE, index_page(results, first2, summary.compact, found, drawn, html))
    if html:
        summary.files += render_page(
            folders,
            summary.out_dir,
            title=f"Report: {_named(runs)}",
            tables=[(1, table) for table in table1] + [(2, table) for table in first2],
            trainings={key[:10]: frame for key, frame in frames.items()},
            tables_beside=True,
        )
    summary.left_over = _left_over(summary)
    return summary


def _named(folder: str) -> str:
    """A folder for a title: a page that is sent to others does not tell where it lay."""
    path = Path(folder)
    return path.name if path.is_absolute() else folder


def require_own_page(path: Path) -> None:
    """Raise ValueError where the page would take the place of something written by hand."""
    if path.is_file() and not path.read_text(errors="replace").startswith(TITLE):
        raise ValueError(
            f"{path} is not of an earlier report and would be overwritten: choose another folder "
            "with --out"
        )


def _for_readers(table: Table, paper: bool) -> Table:
    """Without the paper's errata and the list of what was not run, unless they are asked for."""
    notes = table.notes if paper else [n for n in table.notes if not n.startswith(ERRATUM)]
    return replace(table, notes=notes, lists_not_run=paper)


def _compact_tables(
    folders: Sequence[ResultFolder], frames: Mapping[str, pd.DataFrame]
) -> list[CompactTable]:
    lines = build_lines(folders)
    apart = page.telling_apart(folder.result.protocol for folder in folders)
    found = []
    for key, members in by_protocol(folders).items():
        own = [line for line in lines if line.protocol == key[:10]]
        table = compact_table(own, frames[key] if len(frames[key]) else None)
        if table is not None:
            title = ", ".join(part for part in (table.title, apart.get(key, "")) if part)
            found.append((len(members), replace(table, title=title)))
    return [table for _, table in sorted(found, key=lambda pair: -pair[0])]


def _left_over(summary: ReportSummary) -> list[Path]:
    """They are named and not removed: a user may have put them there."""
    folders = (summary.out_dir, summary.out_dir / "figures")
    there = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
    return [p for p in there if _OWN_NAMES.fullmatch(p.name) and p not in summary.files]


def _context(folders: Sequence[ResultFolder], recipe: str, runs: str) -> CommandContext:
    options = protocol_options(folders[0].result.command) if folders else ()
    recipe, path = recipe or "shapes", usual_data(folders).path
    changes = (*([f"data.path={path}"] if path else []), *_common_changes(folders))
    return CommandContext(recipe, runs, options, changes, milestone_interval(recipe))


def _common_changes(folders: Sequence[ResultFolder]) -> tuple[str, ...]:
    """Settings that all trainings changed alike, so that a missing one is trained like them; what
    belongs to one method's objective apart."""
    every = [f.changed for f in folders if f.changed is not None and not f.told_apart]
    first = every[0] if every else ()
    return tuple(
        c for c in first if not c.startswith("objective.") and all(c in other for other in every)
    )


def _groups(folders: Sequence[ResultFolder]) -> list[ResultGroup]:
    """Trained models by protocol and recipe; the one that fills most of Table 2 first, results on
    validation prompts last."""
    groups = []
    for members in by_protocol(folders).values():
        trained = [f for f in members if not is_published(f)]
        for recipe in sorted({f.recipe for f in trained}):
            groups.append(ResultGroup([f for f in trained if f.recipe == recipe], recipe))
    return sorted(groups, key=_rank)


def _rank(group: ResultGroup) -> tuple[bool, int, int, str]:
    protocol = group.folders[0].result.protocol
    cells = len(choose(group.folders, []))
    images = protocol.num_prompts * protocol.images_per_prompt
    return (protocol.split == "validation", -cells, -images, group.slug)


def _all_table1(folders: Sequence[ResultFolder], runs: str) -> list[Table]:
    """One Table 1 per protocol: that of the paper first, then those with published models; where
    there is none, the paper's rows, not run. Models drawn with other weights stand in tables of
    their own, last."""
    with_models: list[tuple[tuple[bool, int], Table]] = []
    others: list[tuple[tuple[bool, int], Table]] = []
    foreign: list[Table] = []
    for every in by_protocol(folders).values():
        context = _context(every, "shapes", runs)
        with_others = [f for f in every if f.result.model.other_weights]
        if with_others:
            foreign.append(build_table1(with_others, context))
        members = [f for f in every if not f.result.model.other_weights]
        if not members:
            continue
        table = build_table1(members, context)
        geneval = members[0].result.protocol.suite.startswith("geneval")
        counts = (geneval, sum(is_published(f) for f in members))
        (with_models if any(counts) else others).append((counts, table))
    with_models.sort(
        key=lambda pair: (
            pair[1].protocol is None or pair[1].protocol.suite != PAPER_SUITE,
            -pair[0][1],
            not pair[0][0],
        )
    )
    if not with_models:
        with_models = [((True, 0), build_table1([], CommandContext(runs_dir=runs)))]
    return [table for _, table in with_models + others] + foreign


def _table_slug(table: Table) -> str:
    assert table.protocol is not None
    weights = "other-weights" if table.other_weights else ""
    recipe = table.recipe and file_name(table.recipe)
    return "-".join(part for part in (protocol_slug(table.protocol), recipe, weights) if part)


def _write_tables(
    summary: ReportSummary,
    kind: int,
    tables: Sequence[Table],
    columns: Sequence[str],
    markdown: Callable[[Table], str],
    latex: Callable[[Table], str] | None,
) -> None:
    for place, table in enumerate(tables):
        name = f"table{kind}.csv" if place == 0 else f"table{kind}.{_table_slug(table)}.csv"
        summary.write(name, to_csv(table.frame, columns))
    text = page.markdown_page(kind, [markdown(table) for table in tables])
    summary.write(f"table{kind}.md", text)
    if latex is not None:
        summary.write(f"table{kind}.tex", page.latex_page([latex(table) for table in tables]))


@dataclass(frozen=True)
class _Cut:
    """A further table: its name, title, introduction, frame and Markdown."""

    name: str
    title: str
    words: str
    frame: Callable[[Sequence[ResultFolder]], pd.DataFrame]
    markdown: Callable[[pd.DataFrame], str]


_SEEN_UNSEEN = _Cut(
    "seen_unseen",
    "Seen and unseen combinations",
    seen_unseen.SEEN_UNSEEN,
    seen_unseen_frame,
    seen_unseen.seen_unseen_markdown,
)
_DIVERSITY = _Cut(
    "diversity",
    "Diversity",
    DIVERSITY,
    diversity_frame,
    diversity_markdown,
)
_TRAININGS = _Cut(
    "trainings",
    "Several trainings",
    WORDS,
    training_seeds.trainings_frame,
    trainings_markdown,
)


_ALL_STEPS = _Cut(
    "all_steps",
    "All numbers of steps together",
    ALL_STEPS,
    all_steps_frame,
    all_steps_markdown,
)


def _write_cut(
    summary: ReportSummary,
    folders: Sequence[ResultFolder],
    cut: _Cut,
    frames: Mapping[str, pd.DataFrame] | None = None,
) -> str:
    """Write a further table, a section per protocol. Returns its Markdown file, "" if empty."""
    sections: list[str] = []
    for key, members in by_protocol(folders).items():
        frame = cut.frame(members) if frames is None else frames[key]
        if frame.empty:
            continue
        protocol = members[0].result.protocol
        suffix = f".{protocol_slug(protocol)}" if sections else ""
        summary.write(f"{cut.name}{suffix}.csv", to_csv(frame, list(frame.columns)))
        text = f"## {protocol.suite}, {protocol.split or 'whole suite'}\n\n"
        sections.append(f"{text}{page.protocol_text(protocol)}\n\n{cut.markdown(frame)}")
    if not sections:
        return ""
    text = f"# {cut.title}\n\n{cut.words}\n\n" + "\n".join(sections)
    return summary.write(f"{cut.name}.md", text)


def _write_across(
    summary: ReportSummary, roots: Sequence[Path], folders: Sequence[ResultFolder]
) -> tuple[str, list[str]]:
    """All suites and measures side by side, where anything but GenEval's verdicts was measured: the
    page's name, "" for none, and its figures'."""
    rows, columns = across_suites.gather(roots, folders)
    if not rows:
        return "", []
    frame = across_suites.across_frame(rows, columns)
    summary.write("across_suites.csv", to_csv(frame, list(frame.columns)))
    figures = across_figures(rows, columns)
    drawn = [name for stem, figure in figures.items() for name in summary.draw(stem, figure)]
    page = summary.write("across_suites.md", across_suites.across_markdown(rows, columns, drawn))
    return page, drawn
