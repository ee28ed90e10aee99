"""Table 1 from beginning to end: seven tiny random models through the commands a reader would type.

None of them is a published model, and the report has to say so wherever their names stand.
"""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evals.report.result_folders import collect
from evals.report.table1 import TABLE1_ROWS, build_table1
from evals.report.table1_page import table1_markdown
from tests.helpers.command_line import selfe_bench
from tests.helpers.synthetic_results import write_result
from tests.helpers.tiny_pipelines import SIDE, build_tiny
from tests.test_cli import tiny_options

NAMES = ["sdxl", "flux-dev", "lcm", "sana-1.5", "tim", "sdxl-turbo", "sd3.5-turbo"]
LABELS = dict((name, label) for label, name in TABLE1_ROWS)
PROTOCOL = ["--suite", "shapes@1", "--limit", "1", "--images-per-prompt", "2"]
NFE = {
    "sdxl": lambda n: 2 * n,
    "flux-dev": lambda n: n,
    "lcm": lambda n: n,
    "sana-1.5": lambda n: 2 * n,
    "tim": lambda n: 2 * n - 1,
    "sdxl-turbo": lambda n: n,
    "sd3.5-turbo": lambda n: n,
}
STEPS = {name: [2, 4, 8] for name in NAMES} | {"lcm": [2, 4, 8, 50]}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/ and reports/ of seven tiny models and one tiny run of ours."""
    root = tmp_path_factory.mktemp("table1")
    before = Path.cwd()
    os.chdir(root)
    try:
        for name in NAMES:
            folder = build_tiny(name, root / "models" / name)
            arguments = [f"local_path={folder}", f"height={SIDE}", f"width={SIDE}", "batch_size=12"]
            words = [word for pair in arguments for word in ("--model-arg", pair)]
            steps = ",".join(map(str, STEPS[name]))
            code, out, err = selfe_bench(
                "geneval", "--model", name, *words, *PROTOCOL, "--steps", steps
            )
            assert code == 0, err
            assert out.count(f"{LABELS[name]} (other weights)") == 1
            assert out.count("(NFE ") == len(STEPS[name])
        code, _, err = selfe_bench("train", "--method", "selfe", *tiny_options(2))
        assert code == 0, err
        code, _, err = selfe_bench("geneval", "--model", "shapes-selfe", *PROTOCOL, "--steps", "2")
        assert code == 0, err
        code, _, err = selfe_bench("report", "--out", "reports", "--latex")
        assert code == 0, err
    finally:
        os.chdir(before)
    return root


def results_of(study: Path, name: str) -> dict[int, dict[str, Any]]:
    folders = (study / "runs" / "pretrained" / name / "results").rglob("result.json")
    found = [json.loads(path.read_text()) for path in folders]
    return {result["sampling"]["steps"]: result for result in found}


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("name", NAMES)
def test_a_result_records_its_model_s_facts(study: Path, name: str) -> None:
    results = results_of(study, name)
    assert sorted(results) == STEPS[name]
    for steps, result in results.items():
        model, sampling, cost = result["model"], result["sampling"], result["cost"]
        assert (sampling["steps"], sampling["nfe"]) == (steps, NFE[name](steps))
        assert model["resolution"] == [SIDE, SIDE]
        assert "a local folder in place of" in model["other_weights"]
        assert model["digest"].startswith("sha256:")
        settings = sampling["settings"]
        for fact in ("guidance", "guidance_scale", "scheduler", "scheduler_settings", "dtype"):
            assert fact in settings
        assert set(settings) >= {"dtypes", "prompt_limits", "published_as", "revision", "licence"}
        assert set(result["truncated_prompts"]) == set(settings["prompt_limits"])
        assert cost["wall_s_per_image"] > 0 and cost["peak_memory_bytes"] > 2**20
        assert result["protocol"]["detector"].startswith("shapes-grid@1")
        assert result["scores"]["num_images"] == 12


def test_the_table_has_the_paper_s_layout(study: Path) -> None:
    (path,) = (study / "reports").glob("table1.*-other-weights.csv")
    rows = read_csv(path)
    for steps in (2, 4, 8, 50):
        block = [row for row in rows if row["steps"] == str(steps)]
        assert [row["method"].removesuffix(" (other weights)") for row in block] == [
            label for label, _ in TABLE1_ROWS
        ]
        for row, (label, name) in zip(block, TABLE1_ROWS, strict=True):
            if steps in STEPS.get(name, []):
                assert row["method"] == f"{label} (other weights)"
                assert row["nfe"] == str(NFE[name](steps))
                low, mean, high = (float(row[key]) for key in ("ci_low", "overall", "ci_high"))
                assert 0 <= low <= mean <= high <= 1
                assert row["status"] == "measured"
            else:
                assert row["method"] == label and row["overall"] == ""
                assert row["status"].startswith("not run: selfe-bench ")
                assert row["status"].endswith(" ".join(PROTOCOL))
                # the published model, not the tiny one
                assert name == "selfe" or f"geneval --model {name} --steps" in row["status"]
                assert "local_path" not in row["status"]


def test_no_figure_of_the_paper_stands_beside_tiny_models(study: Path) -> None:
    (path,) = (study / "reports").glob("table1.*-other-weights.csv")
    for row in read_csv(path):
        assert all(not value for key, value in row.items() if "paper" in key)
    page = (study / "reports" / "table1.md").read_text()
    sections = page.split("\n## ")
    (tiny,) = [section for section in sections if "other weights (" in section.splitlines()[0]]
    assert "**OTHER WEIGHTS:" in tiny and "| *Overall" not in tiny and "under-trained" not in tiny
    for name in NAMES:
        assert f"OTHER WEIGHTS: {LABELS[name]} (other weights): a local folder in place of" in tiny
    for section in sections:
        if section is not tiny:
            assert "other weights" not in section
    # what the paper printed stands beside rows that were not run
    first = read_csv(study / "reports" / "table1.csv")
    assert len(first) == 32 and all(row["paper_overall"] and not row["overall"] for row in first)
    latex = (study / "reports" / "table1.tex").read_text()
    assert "OTHER WEIGHTS: rows so marked" in latex


def test_our_run_has_a_table_of_its_own(study: Path) -> None:
    tables = [p for p in (study / "reports").glob("table1.*.csv") if "other-weights" not in p.name]
    (path,) = tables
    assert [row["method"] for row in read_csv(path)] == ["Self-E (shapes, 2 it.)"]


def test_the_index_marks_every_row(study: Path) -> None:
    page = (study / "reports" / "README.md").read_text()
    found: list[str] = []
    for section in page.split("\n### ")[1:]:  # a table per protocol, then where its results lie
        lines = section.splitlines()
        places = [line.split(":")[0].strip(" -") for line in lines if "/pretrained/" in line]
        found += [line for line in lines if line.split(" | ")[0].removeprefix("| ") in places]
    rows = [line for line in found if line.startswith("|")]
    assert len(rows) == sum(map(len, STEPS.values()))
    assert all(" (other weights) |" in row for row in rows)


def test_suites_detectors_and_weights_are_not_mixed(study: Path, tmp_path: Path) -> None:
    tiny = collect([study / "runs" / "pretrained" / "lcm"])
    facts: dict[str, Any] = {"iterations": None, "label": "SDXL"}
    write_result(tmp_path / "a", "sdxl", suite="geneval@1", split="", **facts)
    write_result(tmp_path / "b", "sdxl", detector="another", **facts)
    write_result(tmp_path / "c", "sdxl", **facts)
    for name, field in (("a", "suite"), ("b", "detector")):
        with pytest.raises(ValueError, match=f"one table cannot hold {field}"):
            build_table1([*collect([tmp_path / name]), *collect([tmp_path / "c"])])
    (published,) = collect([tmp_path / "c"])
    alike = published.result.model_copy(update={"protocol": tiny[0].result.protocol})
    with pytest.raises(ValueError, match=r"cannot hold LCM \(other weights\) .*own weights"):
        build_table1([*tiny, replace(published, name="c", result=alike)])
    (a, *_), b = (study / "runs" / "pretrained" / "lcm").rglob("result.json"), tmp_path / "c"
    code, _, err = selfe_bench("compare", str(a.parent), str(b))
    assert code == 2 and len(err.strip().splitlines()) == 1


def test_prompts_that_were_cut_are_told(study: Path) -> None:
    folders = collect([study / "runs" / "pretrained" / "flux-dev"])
    cut = folders[0].result.model_copy(update={"truncated_prompts": {"clip": 4, "t5": 0}})
    table = build_table1([replace(folders[0], path=Path("x"), name="x", result=cut)])
    assert (
        "FLUX.1-Dev (other weights): 4 of 6 prompts are longer than its text encoder clip reads, "
        "and were cut." in table.notes
    )
    assert "text encoder t5" not in table1_markdown(table)


# ---- what a user reads before any weight is there


@pytest.mark.parametrize(
    ("words", "sentences"),
    [
        (
            ("geneval", "--model", "flux-dev", "--suite", "geneval@1"),
            [
                "black-forest-labs/FLUX.1-dev: model_index.json is not in the local cache",
                "accept the licence at https://huggingface.co/black-forest-labs/FLUX.1-dev",
                "hf download black-forest-labs/FLUX.1-dev",
            ],
        ),
        (
            ("geneval", "--model", "sana-1.5-4.8b", "--suite", "geneval@1"),
            ["hf download Efficient-Large-Model/SANA1.5_4.8B_1024px_diffusers"],
        ),
        (
            (
                *("geneval", "--model", "diffusers:some/model", "--suite", "geneval@1"),
                *("--model-arg", "guidance_scale=4.5"),
            ),
            ["some/model: model_index.json is not in", "hf download some/model"],
        ),
        (("geneval", "--model", "sdlx"), ["no run or model 'sdlx'", "sd3.5-turbo", "diffusers:ID"]),
        (
            ("geneval", "--model", "sdxl", "--suite", "geneval@1", "--model-arg", "guidance=3"),
            ["model 'sdxl' has no argument 'guidance' (known: ", "guidance_scale"],
        ),
        (("geneval", "--model", "sdxl", "--model-arg", "x"), ["--model-arg takes KEY=VALUE"]),
        (
            ("geneval", "--model", "sdxl"),  # before anything else, the prompts of Table 1
            ["fetch geneval-long", "--prompts FILE", "--suite geneval@1"],
        ),
        (
            ("geneval", "--model", "sdxl", "--set", "sampling.eta=0"),
            ["published models take --model-arg KEY=VALUE"],
        ),
        (
            ("geneval", "--model-arg", "guidance_scale=3"),
            ["runs take --set sampling.KEY=VALUE"],
        ),
    ],
)
def test_what_is_missing_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], sentences: list[str]
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("SELFE_BENCH_CACHE", str(tmp_path / "weights"))
    monkeypatch.chdir(tmp_path)
    code, _, err = selfe_bench(*words)
    assert code == 2 and len(err.strip().splitlines()) == 1
    for sentence in sentences:
        assert sentence in err


def test_a_folder_named_like_a_model_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tim").mkdir()
    (tmp_path / "tim" / "config.json").write_text("{}")
    words = ("geneval", "--model", "tim", "--suite", "geneval@1")
    assert "hf download GoodEnough/TiM-T2I" in selfe_bench(*words)[2]


def test_ls_models_lists_the_facts() -> None:
    code, out, _ = selfe_bench("ls", "models", "--json")
    listed = {row["name"]: row for row in json.loads(out)}
    assert code == 0 and set(NAMES) | {"sana-1.5-4.8b"} <= set(listed)
    for row in listed.values():
        facts = ("repository", "licence", "guidance", "nfe", "dtype", "scheduler", "revision")
        assert all(row[fact] for fact in facts), row["name"]
    code, text, _ = selfe_bench("ls", "models")
    assert code == 0
    header, *lines = text.splitlines()
    assert header.split()[0] == "model"
    assert [line.split()[0] for line in lines] == list(listed)
