"""One table across suites, from measurements and results; differences and disagreements."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection

from evals.base import ModelFacts, SamplingFacts
from evals.clustered import clustered_mean
from evals.measurements import (
    ACCURACY,
    DISTRIBUTION,
    DIVERSITY,
    PREFERENCE,
    ImageSet,
    Instrument,
    Measurement,
    write_measurement,
)
from evals.report.across_figure import across_figures
from evals.report.across_suites import AGREE, Row, across_markdown, disagreements, gather
from evals.report.compare_measurements import compare_measurements
from evals.report.render import render
from tests.helpers.command_line import selfe_bench

PROMPTS, PER_PROMPT = 30, 4
DIGESTS = {"Fast": "sha-fast", "Slow": "sha-slow"}


def measured(
    root: Path,
    model: str,
    steps: int,
    name: str,
    aspect: str,
    mean: float,
    *,
    suite: str = "geneval@1",
    higher: bool = True,
    paired: bool = True,
    identity: str = "tiny@1",
    partial: bool = False,
) -> Path:
    """A measurement of made-up values around `mean`; the same prompts are hard for all models."""
    rng = np.random.default_rng(7)
    hard = rng.normal(size=PROMPTS)[:, None] + 0.1 * rng.normal(size=(PROMPTS, PER_PROMPT))
    values = (
        mean + 0.1 * hard + 0.001 * np.random.default_rng(steps).normal(size=hard.shape)
    ).ravel()
    prompts = np.repeat(np.arange(PROMPTS), PER_PROMPT)
    found = Measurement(
        images=ImageSet(
            suite=suite, prompts_sha256="abc", num_prompts=PROMPTS, images_per_prompt=PER_PROMPT
        ),
        instrument=Instrument(name=name, identity=identity, settings={"resize": "none"}),
        aspect=aspect,
        headline="mean",
        higher_is_better=higher,
        values={"mean": clustered_mean(values, prompts)},
        num_images=PROMPTS * PER_PROMPT,
        partial=partial,
        notes=["a note"],
        model=ModelFacts(
            name=model, label=model, method="m", digest=DIGESTS[model], resolution=(8, 8)
        ),
        sampling=SamplingFacts(steps=steps, nfe=steps, seed=0, settings={"guidance": "none"}),
    )
    folder = root / model / suite / f"steps-{steps:03d}"
    samples = list(range(PER_PROMPT)) * PROMPTS
    rows = list(zip(prompts.tolist(), samples, values.tolist(), strict=True))
    return write_measurement(folder, found, rows if paired else ())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Few steps: liked as much, less accurate, less diverse, farther from the reference."""
    for steps, accuracy, liked, diverse, distance in (
        (2, 0.5, 20.0, 0.2, 9),
        (50, 0.7, 20, 0.4, 5),
    ):
        for model, gap in (("Fast", 0.0), ("Slow", 0.1)):
            measured(tmp_path, model, steps, "geneval2@1", ACCURACY, accuracy + gap,
                     suite="geneval2@1")  # fmt: skip
            measured(tmp_path, model, steps, "pickscore", PREFERENCE, liked)
            measured(tmp_path, model, steps, "diversity", DIVERSITY, diverse - gap)
            measured(tmp_path, model, steps, "cmmd", DISTRIBUTION, distance, higher=False,
                     paired=False)  # fmt: skip
    return tmp_path


def test_one_row_a_model_and_steps_one_column_a_measure(root: Path) -> None:
    rows, columns = gather([root], [])
    assert [(r.model.label, r.sampling.steps) for r in rows] == [
        ("Fast", 2), ("Fast", 50), ("Slow", 2), ("Slow", 50)
    ]  # fmt: skip
    assert [c.heading for c in columns] == [
        "geneval2@1 ↑",
        "pickscore on geneval@1 ↑",
        "diversity on geneval@1 ↑",
        "cmmd on geneval@1 ↓",
    ]
    assert all(len(row.found) == 4 for row in rows)


def test_disagreements_are_between_resolved_differences_only(root: Path) -> None:
    found = disagreements(*gather([root], []))
    # more steps are better everywhere; at equal steps Slow is more accurate and less diverse
    assert len(found) == 2
    for text, steps in zip(found, (2, 50), strict=True):
        assert f"Fast at {steps} steps against Slow at {steps} steps" in text
        assert "better by diversity on geneval@1 (+0.100); worse by geneval2@1 (-0.100)" in text
        assert "pickscore" not in text  # within chance


def test_agreement_is_said(tmp_path: Path) -> None:
    for steps, value in ((2, 0.5), (8, 0.7)):
        measured(tmp_path, "Fast", steps, "geneval2@1", ACCURACY, value)
        measured(tmp_path, "Fast", steps, "cmmd", DISTRIBUTION, 10 - value, higher=False)
    rows, columns = gather([tmp_path], [])
    assert disagreements(rows, columns) == [] and AGREE in across_markdown(rows, columns)


def test_another_instrument_is_another_column(tmp_path: Path) -> None:
    measured(tmp_path, "Fast", 2, "geneval2@1", ACCURACY, 0.5, suite="geneval2@1")
    measured(tmp_path, "Slow", 2, "geneval2@1", ACCURACY, 0.6, suite="geneval2@1", identity="other")
    rows, columns = gather([tmp_path], [])
    assert len({c.heading for c in columns}) == 2
    assert all(c.name.startswith("geneval2@1 (") for c in columns)
    assert all(len(row.found) == 1 for row in rows)


def test_the_report_has_the_page(root: Path, tmp_path: Path) -> None:
    measured(root, "Fast", 8, "pickscore", PREFERENCE, 19.0, partial=True)
    out = tmp_path / "out"
    summary = render([root], out)
    names = {path.name for path in summary.files}
    assert {"across_suites.md", "across_suites.csv"} <= names
    text = (out / "across_suites.md").read_text()
    assert "| Fast |  |  | 2 | 2 | none | 0." in text and "(partial)" in text
    assert text.count("  - a note") == 4 and "resize none" in text
    frame = pd.read_csv(out / "across_suites.csv")
    assert len(frame) == 5 and frame["pickscore on geneval@1 low"].notna().all()
    assert "(across_suites.md)" in (out / "README.md").read_text()
    assert (
        "(figures/across_by_steps.svg)" in text
        and (out / "figures" / "across_by_steps.svg").is_file()
    )
    assert "across_by_nfe" not in text  # they are the steps
    before = {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}
    render([root], out)
    assert before == {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}


def test_the_figure_has_a_panel_a_measure_and_rings_where_they_disagree(root: Path) -> None:
    rows, columns = gather([root], [])
    (figure,) = across_figures(rows, columns).values()
    assert [axes.get_title(loc="left") for axes in figure.axes] == [c.heading for c in columns]
    for axes, column in zip(figure.axes, columns, strict=True):
        lines = {line.get_label(): line.get_xydata() for line in axes.get_lines()}
        assert set(lines) == {"Fast", "Slow"}
        for row in rows:
            (there,) = [y for x, y in lines[row.name] if x == row.sampling.steps]
            assert there == pytest.approx(row.found[column.key].shown.mean)
        rings = [c for c in axes.collections if isinstance(c, PathCollection)]
        if column.name.startswith(("pickscore", "cmmd")):  # they tell the two models not apart
            assert not rings
        else:
            assert len(rings[0].get_offsets()) == 4
    twice = [Row(r.model, r.sampling.model_copy(update={"nfe": 2 * r.sampling.steps}), r.found)
             for r in rows]  # fmt: skip
    assert list(across_figures(twice, columns)) == ["across_by_steps", "across_by_nfe"]
    assert across_figures(rows[:1], columns) == {}


def test_without_measurements_the_report_is_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    summary = render([tmp_path / "runs"], tmp_path / "out")
    assert not [p for p in summary.files if "across" in p.name]


def test_two_measurements_are_compared_by_prompt(root: Path, tmp_path: Path) -> None:
    fast, slow = (
        root / model / "geneval2@1" / "steps-002" / "measures" / "geneval2-1.json"
        for model in ("Fast", "Slow")
    )
    found = compare_measurements(fast, slow)
    assert found.resolved and found.better == "b" and found.difference.mean == pytest.approx(-0.1)
    code, out, err = selfe_bench("compare", str(fast), str(slow))
    assert code == 0 and "Slow is better" in out, err
    liked = fast.parents[2] / ".." / "geneval@1" / "steps-002" / "measures" / "pickscore.json"
    with pytest.raises(ValueError, match="images differ in suite"):
        compare_measurements(fast, liked)
    other = measured(tmp_path / "x", "Slow", 2, "geneval2@1", ACCURACY, 0.5, suite="geneval2@1",
                     identity="another judge")  # fmt: skip
    with pytest.raises(ValueError, match="instrument differ in identity"):
        compare_measurements(fast, other)
    distances = [
        root / model / "geneval@1" / "steps-002" / "measures" / "cmmd.json"
        for model in ("Fast", "Slow")
    ]
    with pytest.raises(ValueError, match="no mean over images"):
        compare_measurements(*distances)
