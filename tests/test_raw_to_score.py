"""From raw images to a scored checkpoint, through the commands, with encoders of both kinds."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import tarfile
from pathlib import Path
from typing import Any

import pytest

from selfe.encoders.flux import load_flux_text
from selfe.sealed_files import seal
from tests.helpers.command_line import selfe_bench
from tests.helpers.image_data import Item, add_member, make_items, write_folder, write_tars
from tests.helpers.pretend_gpu import pretend_gpu
from tests.helpers.tiny import TINY_MODEL
from tests.helpers.tiny_pipelines import WIDTH, build_tiny
from tests.test_pretrained_hub import make_cache


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Commands in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return selfe_bench


def train_options(**data: object) -> list[str]:
    settings = [
        *TINY_MODEL,
        *(f"data.{key}={value}" for key, value in data.items()),
        "data.resolution=32",
        "data.bucket_unit=4",
        "train.iterations=4",
        "train.batch_size=8",
        "train.micro_batch_size=4",
        "train.log_every=1",
        "train.milestone_every=2",
        "train.sample_every=4",
        "train.compile=false",
        "train.precision=fp32",
        "sampling.batch_slots=4",
    ]
    return [word for setting in settings for word in ("--set", setting)]


SHAPES = ["--codec", "shapes-grid", "--text", "shapes", "--sizes", "32", "--batch-size", "8"]
SHAPES_MODEL = [
    word
    for setting in (
        *("model.in_channels=16", "model.joint_attention_dim=64"),
        "model.pooled_projection_dim=64",
    )
    for word in ("--set", setting)
]


def broken_webdataset(folder: Path) -> None:
    """48 images in six tars; one image is cut short, one tar ends early, one member is hostile."""
    items = make_items(48, ((32, 32), (32, 32), (40, 64)))
    items[5] = Item(items[5].key, items[5].png[:40], items[5].caption)
    write_tars(folder, items, 8)
    with tarfile.open(folder / "002.tar", "a") as tar:
        add_member(tar, "../../evil.png", items[0].png)
    path = folder / "003.tar"
    with tarfile.open(path) as tar:
        cut = tar.getmembers()[9].offset_data + 5  # in the caption of the fifth sample
    path.write_bytes(path.read_bytes()[:cut])


@pytest.mark.slow
@pytest.mark.fault(14)
def test_a_webdataset_with_broken_tars_becomes_a_scored_checkpoint(run, tmp_path):
    broken_webdataset(tmp_path / "tars")
    words = ["prepare", "--data", "wds:tars", "--out", "cache", "--fake", *SHAPES]
    code, _, err = run(*words)
    assert code == 2 and "Traceback" not in err
    # lost: an image, a member outside, the fifth sample of a tar and, unknown, what came after it
    assert "4 of 47 samples (8.51%) are damaged" in err
    assert "more than --max-skipped 0.001" in err
    assert not list(tmp_path.glob("evil*")) and not list(tmp_path.parent.glob("evil*"))
    code, out, err = run(*words, "--max-skipped", "0.1")
    assert code == 0, err
    assert "samples: 43 of 47 read, from 6 shards" in out
    assert "skipped as damaged: 4" in out and "refused: its path leads out of the tar: 1" in out
    assert "32-32x32" in out and "32-24x40" in out
    (command,) = re.findall("train on it: selfe-bench (train .*)", out)
    assert command.startswith("train --recipe shapes ")  # which has this codec
    code, out, _ = run("prepare", "--out", "cache", "--verify")
    assert code == 0 and "sound: cache, 43 samples" in out

    options = train_options(path="cache", codec="shapes-grid", text="shapes") + SHAPES_MODEL
    for variant in ("", "aux"):
        code, _, err = run(
            *("train", "--recipe", "0.5b", "--method", "selfe", "--variant", variant), *options
        )
        assert code == 0, err
    sheet = tmp_path / "runs" / "0.5b-selfe" / "samples" / "step-00000004.png"
    assert sheet.is_file()
    config = json.loads((tmp_path / "runs" / "0.5b-selfe" / "config.json").read_text())
    assert set(config["data"]) == {"cache", "codec", "text"}
    code, out, err = run(
        *("geneval", "--model", "runs/0.5b-selfe", "--suite", "shapes@1", "--steps", "2"),
        *("--limit", "2", "--images-per-prompt", "1"),
    )
    assert code == 0, err
    (result,) = (tmp_path / "runs").rglob("result.json")
    trained_on = json.loads(result.read_text())["model"]["training"]["data"]
    assert trained_on == {"cache": config["data"]["cache"], "path": "cache"}
    # what `prepare` proposes fits; the rest makes it small
    small = [o for o in options if o != "--set" and not o.startswith("data.")]
    small = [o for o in small if o.partition("=")[0] not in command]
    words = [word for option in [*small, "data.bucket_unit=4"] for word in ("--set", option)]
    code, _, err = run(*shlex.split(command), "--name", "proposed", *words)
    assert code == 0, err


def test_a_run_knows_its_data_and_encoders(run, tmp_path):
    for name, count in (("a", 8), ("b", 12)):
        write_folder(tmp_path / name, make_items(count))
        code, _, err = run("prepare", "--data", name, "--out", f"cache-{name}", *SHAPES)
        assert code == 0, err
    options = ["--recipe", "0.5b", "--method", "fm", "--name", "run", *SHAPES_MODEL]
    options += train_options(path="cache-a", codec="shapes-grid", text="shapes")
    assert run("train", *options)[0] == 0
    other = [word.replace("cache-a", "cache-b") for word in options]
    code, _, err = run("train", *other, "--resume")
    assert code == 2 and "started on another cache" in err
    path = tmp_path / "runs" / "run" / "config.json"
    record = json.loads(path.read_text())
    record["data"]["text"] = "x" + record["data"]["text"]
    path.write_text(json.dumps(record))
    code, _, err = run("sample", "--model", "run", "--prompt", "a", "--steps", "1")
    assert code == 2 and "changed after it was written" in err
    path.write_text(seal("run", record))
    code, _, err = run("sample", "--model", "run", "--prompt", "a", "--steps", "1")
    assert code == 2 and "it was trained on other data" in err


def test_processes_of_torchrun_share_the_shards(run, tmp_path, monkeypatch):
    write_tars(tmp_path / "tars", make_items(12), 4)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    code, out, _ = run("prepare", "--data", "tars", "--out", "cache", *SHAPES)
    assert code == 0 and "process 1 of 2 is done; others are still encoding" in out
    assert not (tmp_path / "cache" / "index.json").exists()
    monkeypatch.setenv("RANK", "0")
    code, out, _ = run("prepare", "--data", "tars", "--out", "cache", *SHAPES)
    assert code == 0 and "samples: 12 of 12 read, from 3 shards" in out


def test_training_without_a_cache_names_the_command(run):
    code, _, err = run(
        "train", "--recipe", "0.5b", "--method", "fm", "--set", "data.path=no", *train_options()
    )
    assert code == 2 and "no latent cache at no: write one with `selfe-bench prepare" in err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--out", "o"), "--data is missing"),
        (("--out", "o", "--verify"), "no latent cache at o"),
        (("--out", "o", "--data", "nowhere"), "no such folder"),
        (("--out", "o", "--data", "a", "--sizes", "x"), "--sizes takes"),
        (("--out", "o", "--data", "a", "--sizes", "32,32"), "different resolutions"),
        (("--out", "o", "--data", "a", "--sizes", "30"), "multiple of 8 pixels"),
        (("--out", "o", "--data", "a", "--dtype", "fp8"), "--dtype takes fp16 or bf16"),
        (("--out", "o", "--data", "a", "--codec", "vq"), "unknown codec 'vq'"),
        (("--out", "o", "--data", "a", "--text-tokens", "9"), "'shapes' has no option max_tokens"),
        (("--out", "a/0000.png", "--data", "a"), "cannot write to a/0000.png"),
    ],
)
def test_bad_options_of_prepare_are_one_sentence(run, words, sentence, tmp_path):
    write_folder(tmp_path / "a", make_items(1))
    encoders = [w for w in ("--codec", "--text") if w not in words]
    names = {"--codec": "shapes-grid", "--text": "shapes"}
    rest = [x for w in encoders for x in (w, names[w])]
    rest += [] if "--sizes" in words else ["--sizes", "32"]
    code, out, err = run("prepare", *words, *rest)
    assert code == 2, (out, err)
    assert sentence in err and "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_flux_encoders_from_raw_images_to_images(run, device, tmp_path, monkeypatch):
    """The paper's route with a tiny random FLUX: T5 tokens, CLIP's pooled vector, its VAE."""
    with pretend_gpu() if device == "cuda" else contextlib.nullcontext():
        from_raw_images_to_images(run, tmp_path, monkeypatch)


def from_raw_images_to_images(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    folder = build_tiny("flux-dev", tmp_path / "flux")
    make_cache(tmp_path / "hub", "black-forest-labs/FLUX.1-dev", folder)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    items = make_items(16, ((32, 32), (40, 64)))
    write_folder(tmp_path / "images", items, "jsonl")
    code, out, err = run(
        *("prepare", "--data", "images", "--out", "cache", "--sizes", "32", "--dtype", "bf16"),
        *("--text-tokens", "20", "--batch-size", "4"),
    )
    assert code == 0, err
    text = load_flux_text(folder=folder, max_tokens=20)
    cut = text.count_truncated_by_encoder([item.caption for item in items])
    assert cut["t5"] > 0
    assert f"captions that lost their end: {cut['clip']} (clip), {cut['t5']} (t5)" in out
    index = json.loads((tmp_path / "cache" / "index.json").read_text())
    assert index["codec"]["digest"].startswith("black-forest-labs/FLUX.1-dev@")
    assert index["text"]["digest"].endswith("t5:20 clip:77")
    model = [
        *("--set", "model.in_channels=16", "--set", f"model.joint_attention_dim={WIDTH}"),
        *("--set", f"model.pooled_projection_dim={WIDTH}"),
    ]
    options = train_options(path="cache", text_tokens=20)
    code, _, err = run("train", "--recipe", "0.5b", "--method", "selfe", *model, *options)
    assert code == 0, err
    code, _, err = run(
        *("sample", "--model", "runs/0.5b-selfe", "--prompt", "a red star", "--steps", "1,2"),
    )
    assert code == 0, err


@pytest.mark.fault(25)
def test_cold_caches_are_explained_before_anything_is_written(run, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cold"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    write_folder(tmp_path / "a", make_items(1))
    code, _, err = run("prepare", "--data", "a", "--out", "o", "--revision", "abc")
    assert code == 2 and not (tmp_path / "o").exists()
    assert "vae/config.json" in err and "hf download black-forest-labs/FLUX.1-dev" in err
    assert "--revision abc" in err and "accept the licence" in err
