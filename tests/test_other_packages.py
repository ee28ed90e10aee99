"""Parts that other installed packages bring: found by name, and clear where they cannot be used.

The package of tests/assets/example_package is put where an installation would put it: its folder on
the path, and beside it the record of an installed distribution, made from its pyproject.toml.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

import baselines.registry
import evals.registry
from evals.scoring.benchmark import score_model
from evals.scoring.settings import BenchmarkSettings
from selfe.cli.ls import _methods
from selfe.config.describe import list_settings
from selfe.config.resolve import build_objective, resolve
from selfe.data.readers.base import open_reader
from selfe.encoders.registry import load_codec
from selfe.objectives.registry import METHODS, load_method, method_label, objective_class
from selfe.registry import Registry
from tests.helpers.tiny import tiny_config, tiny_train

EXAMPLE = Path(__file__).parent / "assets" / "example_package"
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path, monkeypatch) -> Install:
    """Installs a distribution: (name, group -> name -> target)."""

    def install(name: str, entry_points: Mapping[str, Mapping[str, str]]) -> None:
        site = tmp_path / f"site-{name}"
        record = site / f"{name.replace('-', '_')}-1.0.dist-info"
        record.mkdir(parents=True)
        (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        sections = [
            f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in targets.items())
            for group, targets in entry_points.items()
        ]
        (record / "entry_points.txt").write_text("\n".join(sections))
        monkeypatch.syspath_prepend(site)

    return install


@pytest.fixture
def example(install, monkeypatch) -> None:
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    install(project["name"], project["entry-points"])
    monkeypatch.syspath_prepend(EXAMPLE)


def test_without_the_package_its_names_are_unknown():
    with pytest.raises(ValueError, match="unknown method 'endpoint'"):
        resolve("shapes", "endpoint")


@pytest.mark.usefixtures("example")
def test_an_objective_is_one_file_elsewhere(tmp_path):
    assert METHODS.names()[0] == "selfe" and METHODS.names()[-1] == "endpoint"
    assert (method_label("endpoint"), method_label("gone")) == ("Endpoint", "gone")
    assert resolve("shapes-quick", "endpoint").sampling.guidance_scale == 3.0
    assert resolve("0.5b", "endpoint").sampling == resolve("0.5b", "fm").sampling
    assert build_objective(resolve("shapes", "endpoint", variant="plain")).power == 0.0
    config = tiny_config("endpoint")
    settings = {s.key: s.about for s in list_settings(config, objective_class("endpoint"))}
    assert settings["objective.power"] == "1 makes it flow matching, 0 is the plain error."
    row = next(row for row in _methods() if row["method"] == "endpoint")
    assert row["variants"] == ["plain", "smooth-time"]
    ours, flow_matching = (tiny_train(tiny_config(m), tmp_path / m) for m in ("endpoint", "fm"))
    for name, tensor in flow_matching.model.state_dict().items():
        assert torch.allclose(ours.model.state_dict()[name], tensor, atol=1e-4), name


@pytest.mark.usefixtures("example")
def test_a_codec_is_one_file_elsewhere():
    codec = load_codec("blocks", "cpu")
    image = torch.rand(2, 3, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert torch.allclose(codec.decode(codec.encode(image)), image, atol=1e-6)


@pytest.mark.usefixtures("example")
def test_a_reader_is_one_file_elsewhere(tmp_path):
    (tmp_path / "a.png").write_bytes(b"pixels")
    (tmp_path / "rows.csv").write_text('a.png,"a lamp, lit"\n')
    reader = open_reader(f"csv:{tmp_path / 'rows.csv'}")
    (sample,) = reader.read(reader.shards()[0])
    assert (sample.key, sample.image, sample.caption) == ("a.png", b"pixels", "a lamp, lit")


@pytest.mark.usefixtures("example")
def test_a_model_a_suite_and_a_detector_meet_in_a_result(tmp_path):
    painter = baselines.registry.load("painter")
    scored = score_model(
        painter, 1, "brightness@1", tmp_path, BenchmarkSettings(), lambda *progress: None
    )
    assert scored is not None
    result = scored[1]
    assert result.scores.tasks["single_object"].mean == 1.0
    assert result.protocol.detector == "brightness of the whole image"
    assert (result.model.label, result.scores.num_images) == ("Painter", 4)
    assert "painter" in [row["name"] for row in baselines.registry.list_models()]


GROUPS = {
    "selfe_bench.methods": (METHODS, "fm"),
    "selfe_bench.models": (baselines.registry.MODELS, "sdxl"),
    "selfe_bench.suites": (evals.registry.SUITES, "shapes@1"),
    "selfe_bench.detectors": (evals.registry.DETECTORS, "shapes"),
}


@pytest.mark.parametrize("group", GROUPS)
def test_a_name_claimed_twice_is_told_when_it_is_asked_for(install, group):
    table, own = GROUPS[group]
    install("first", {group: {own: "json:loads", "both": "json:loads"}})
    install("second", {group: {"both": "json:dumps", "alone": "json:dumps"}})
    assert len(table.names()) == len(set(table.names()))
    with pytest.raises(ValueError) as caught:
        table.load("both")
    for word in ("'both'", table.kind, "package first 1.0", "package second 1.0", "uninstall"):
        assert word in str(caught.value)
    with pytest.raises(ValueError, match="package first 1.0 and by selfe-bench itself"):
        table.load(own)
    assert table.load("alone").__name__ == "dumps"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("no_such_module:X", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("json:no_such_name", "AttributeError"),
    ],
)
def test_a_broken_package_breaks_nothing_until_it_is_asked_for(install, target, words):
    install("broken", {"selfe_bench.methods": {"cracked": target}})
    assert resolve("shapes", "fm").method == "fm"
    with pytest.raises(ValueError) as caught:
        resolve("shapes", "cracked")
    for word in ("the method 'cracked'", "the package broken 1.0", target, words, "uninstall"):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    listed = {row["method"]: row for row in _methods()}
    assert "cannot be loaded" in listed["cracked"]["problem"] and "label" in listed["fm"]


def test_an_entry_point_that_leads_elsewhere_is_told(install):
    install("wrong", {"selfe_bench.methods": {"odd": "json:loads"}})
    with pytest.raises(TypeError, match="'odd' of the group selfe_bench.methods must lead to a"):
        load_method("odd")


def test_a_table_without_a_group_takes_nothing_from_others(install):
    install("first", {"": {"x": "json:loads"}})
    assert Registry("recipe", {"a": "json:loads"}).names() == ["a"]
