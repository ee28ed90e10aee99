"""Where models come from: the list, the cache, and what is said when files are missing.

Longer than other files: every way in which a model can be missing has its test.
"""

from __future__ import annotations

import csv
import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from baselines import registry
from baselines.pretrained.base import choose_dtype
from baselines.pretrained.card import ModelCard
from baselines.pretrained.pipelines import choose_variant
from selfe import hub
from tests.helpers.tiny_pipelines import TINY_ARGS, build_tiny

ROOT = Path(__file__).resolve().parents[1]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
GATES = {
    "flux-dev": "https://huggingface.co/black-forest-labs/FLUX.1-dev",
    "flux-schnell": "https://huggingface.co/black-forest-labs/FLUX.1-schnell",
    "sd3.5-turbo": "https://huggingface.co/stabilityai/stable-diffusion-3.5-large-turbo",
    "sd3.5-medium": "https://huggingface.co/stabilityai/stable-diffusion-3.5-medium",
}
REPOSITORIES = {
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
    "sdxl-turbo": "stabilityai/sdxl-turbo",
    "lcm": "SimianLuo/LCM_Dreamshaper_v7",
    "flux-dev": "black-forest-labs/FLUX.1-dev",
    "sd3.5-turbo": "stabilityai/stable-diffusion-3.5-large-turbo",
    "sana-1.5": "Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers",
    "sana-1.5-4.8b": "Efficient-Large-Model/SANA1.5_4.8B_1024px_diffusers",
    "tim": "GoodEnough/TiM-T2I",
    "sana-sprint": "Efficient-Large-Model/Sana_Sprint_1.6B_1024px_diffusers",
    "flux-schnell": "black-forest-labs/FLUX.1-schnell",
    "sd3.5-medium": "stabilityai/stable-diffusion-3.5-medium",
    "qwen-image": "Qwen/Qwen-Image",
    "qwen-image-lightning": "Qwen/Qwen-Image",
    "sdxl-lightning": "stabilityai/stable-diffusion-xl-base-1.0",
    "z-image": "Tongyi-MAI/Z-Image",
    "z-image-turbo": "Tongyi-MAI/Z-Image-Turbo",
}


def make_cache(cache: Path, repository: str, folder: str | Path) -> Path:
    """Lays `folder` out as the hub's cache would, on branch main."""
    home = cache / ("models--" + repository.replace("/", "--"))
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(COMMIT)
    shutil.copytree(folder, home / "snapshots" / COMMIT)
    return home / "snapshots" / COMMIT


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_every_row_of_the_paper_s_table_has_a_model() -> None:
    with (ROOT / "evals" / "assets" / "paper_table1.csv").open() as file:
        printed = {row["method"] for row in csv.DictReader(file)} - {"Self-E (2B)"}
    assert printed <= {model["label"] for model in registry.list_models()}


def test_the_list_holds_the_facts() -> None:
    listed = {model["name"]: model for model in registry.list_models()}
    assert {name: model["repository"] for name, model in listed.items()} == REPOSITORIES
    for name, model in listed.items():
        json.dumps(model, allow_nan=False)
        assert bool(model["gate"]) == (name in GATES)
    assert listed["sdxl-turbo"]["resolution"] == [512, 512]
    assert listed["lcm"]["max_steps"] == 50
    assert listed["flux-dev"]["prompt_limits"] == {"clip": 77, "t5": 512}
    assert listed["sd3.5-turbo"]["prompt_limits"]["t5"] == 256
    assert listed["tim"]["nfe"] == "2N-1"
    assert listed["sana-1.5"]["arguments"]["prompt_prefix"] == "published"


def test_listing_models_imports_no_model_library() -> None:
    code = (
        "import sys; from baselines import registry; registry.list_models(); "
        "print([m for m in ('diffusers', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.fault(25)
@pytest.mark.parametrize("name", REPOSITORIES)
def test_a_cold_cache_is_explained(name: str, tmp_path: Path, no_network: None) -> None:
    # Processor time: a busy machine must not fail this, and waiting for a network cannot happen.
    start = time.process_time()
    with pytest.raises(hub.MissingFilesError) as caught:
        registry.load(name, cache_dir=str(tmp_path))
    assert time.process_time() - start < 10
    message = str(caught.value)
    assert f"hf download {REPOSITORIES[name]}" in message
    assert f"--cache-dir {tmp_path}" in message
    assert ("model_index.json" if name != "tim" else "t2i_model.bin") in message
    assert registry.card(name).licence in message
    assert GATES.get(name, "No gate") in message
    assert "\n" not in message


@pytest.mark.fault(25)
def test_a_cold_cache_is_explained_within_ten_seconds_of_the_command(tmp_path: Path) -> None:
    code = (
        "from baselines import registry\n"
        "try: registry.load('flux-dev', device='cpu')\n"
        "except ValueError as error: print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    after = os.times()
    assert "hf download black-forest-labs/FLUX.1-dev" in done.stdout
    # Processor time, so that a busy machine does not fail the test.
    spent = (
        after.children_user - before.children_user + after.children_system - before.children_system
    )
    assert spent < 10


@pytest.mark.fault(25)
def test_tim_names_the_part_that_is_missing(tmp_path: Path) -> None:
    folder = Path(build_tiny("tim", tmp_path / "tim"))
    shutil.rmtree(folder / "text_encoder")
    with pytest.raises(hub.MissingFilesError) as caught:
        registry.load("tim", local_path=str(folder), cache_dir=str(tmp_path / "cache"))
    assert "hf download google/gemma-3-1b-it" in str(caught.value)
    assert "accept the Gemma terms at https://huggingface.co/google/gemma-3-1b-it" in str(
        caught.value
    )


@pytest.mark.fault(25)
def test_a_warm_cache_needs_no_network(
    tmp_path: Path, no_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    folder = build_tiny("lcm", tmp_path / "lcm")
    make_cache(tmp_path / "cache", "SimianLuo/LCM_Dreamshaper_v7", folder)
    for offline in (True, False):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        model = registry.load("lcm", cache_dir=str(tmp_path / "cache"), model_args=TINY_ARGS)
        assert model.facts.digest == f"SimianLuo/LCM_Dreamshaper_v7@{COMMIT}"
        assert (model.facts.label, model.facts.other_weights) == ("LCM", "")
        assert model.facts.sampling["revision"] == COMMIT
        assert model.facts.sampling["repository"] == "SimianLuo/LCM_Dreamshaper_v7"
    assert model.generate(["a cat"], 2, [0])[0] is not None
    by_commit = registry.load(
        "lcm", cache_dir=str(tmp_path / "cache"), model_args={**TINY_ARGS, "revision": COMMIT}
    )
    assert by_commit.facts.digest == model.facts.digest


@pytest.mark.fault(25)
@pytest.mark.parametrize(
    "lost", ["unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"]
)
def test_a_half_filled_cache_names_the_file(lost: str, tmp_path: Path) -> None:
    folder = build_tiny("lcm", tmp_path / "lcm")
    snapshot = make_cache(tmp_path / "cache", "SimianLuo/LCM_Dreamshaper_v7", folder)
    (snapshot / lost).unlink()
    with pytest.raises(hub.MissingFilesError) as caught:
        registry.load("lcm", cache_dir=str(tmp_path / "cache"))
    named = "unet/*.safetensors" if lost.startswith("unet") else lost
    assert named in str(caught.value)


def test_weight_shards_are_all_wanted(tmp_path: Path) -> None:
    part = tmp_path / "transformer"
    part.mkdir()
    shard = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (part / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shard}))
    (part / shard["a"]).touch()
    assert hub.weight_gaps(part, "transformer") == [f"transformer/{shard['b']}"]
    (part / shard["b"]).touch()
    assert hub.weight_gaps(part, "transformer") == []
    assert hub.weight_gaps(part, "transformer", "fp16") == ["transformer/*.fp16.safetensors"]


def test_half_precision_files_are_not_taken_for_the_plain_ones(tmp_path: Path) -> None:
    (tmp_path / "model.fp16.safetensors").touch()
    assert hub.weight_gaps(tmp_path, "unet", "fp16") == []
    assert hub.weight_gaps(tmp_path, "unet") == ["unet/*.safetensors"]
    # A sharded variant carries its name in the index and in the shard.
    (tmp_path / "model.safetensors.index.fp16.json").write_text(
        json.dumps({"weight_map": {"a": "model.fp16-00001-of-00001.safetensors"}})
    )
    assert hub.weight_gaps(tmp_path, "unet", "fp16") == [
        "unet/model.fp16-00001-of-00001.safetensors"
    ]


class Unreachable:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, *_args: Any) -> None:
        raise self.error


def http_library() -> Any:
    """The one that this huggingface_hub is built on: httpx or a successor."""
    from huggingface_hub.errors import HfHubHTTPError

    return importlib.import_module(HfHubHTTPError.__bases__[0].__module__.split(".")[0])


@pytest.mark.fault(25)
def test_hub_failures_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    http = http_library()

    def response(status: int) -> Any:
        return http.Response(status, request=http.Request("GET", "https://huggingface.co/x"))

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    cases: list[tuple[Exception, str]] = [
        (http.ConnectError("refused"), r"the hub cannot be reached \(ConnectError\).*hf download"),
        (http.ReadTimeout("slow"), r"the hub cannot be reached \(ReadTimeout\).*hf download"),
        (ConnectionError("down"), r"cannot be reached \(ConnectionError\).*hf download"),
        (
            GatedRepoError("403", response=response(403)),
            "does not grant access.*accept the licence at",
        ),
        (RepositoryNotFoundError("404", response=response(404)), "does not exist on the hub"),
        (RevisionNotFoundError("404", response=response(404)), "has no revision 'main'"),
    ]
    for error, pattern in cases:
        monkeypatch.setattr(hub, "contact_hub", Unreachable(error))
        with pytest.raises(ValueError, match=pattern):
            registry.load("flux-dev", cache_dir=str(tmp_path))
    monkeypatch.setattr(hub, "contact_hub", Unreachable(KeyError("a bug of ours")))
    with pytest.raises(KeyError):
        registry.load("flux-dev", cache_dir=str(tmp_path))


@pytest.mark.fault(25)
def test_a_broken_download_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "contact_hub", lambda *_args: None)

    def fetch(error: Exception | None) -> None:
        hub.locate(
            "a/b",
            "main",
            find_missing=lambda folder: ["unet/x.safetensors"],
            download=lambda revision: None if error is None else Unreachable(error)(),
            cache_dir=str(tmp_path),
        )

    for error in (http_library().ReadError("reset"), LocalEntryNotFoundError("gone")):
        with pytest.raises(hub.MissingFilesError, match=r"download broke off.*hf download a/b"):
            fetch(error)
    with pytest.raises(OSError, match="No space left"):  # not the hub's fault: said as it is
        fetch(OSError(28, "No space left on device"))
    with pytest.raises(hub.MissingFilesError, match="does not offer it as safetensors"):
        fetch(None)


def test_a_local_folder_must_be_complete(tmp_path: Path) -> None:
    folder = Path(build_tiny("sdxl", tmp_path / "sdxl"))
    digest = hub.folder_sha256(folder)
    assert hub.folder_sha256(folder) == digest
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert hub.folder_sha256(folder) != digest
    with pytest.raises(ValueError, match=r"vae/\*\.safetensors is missing"):
        registry.load("sdxl", local_path=str(folder))
    with pytest.raises(ValueError, match=r"model_index\.json is missing"):
        registry.load("sdxl", local_path=str(tmp_path / "nothing"))


def test_a_snapshot_given_as_a_folder_keeps_its_identity(tmp_path: Path) -> None:
    folder = build_tiny("lcm", tmp_path / "lcm")
    snapshot = make_cache(tmp_path / "cache", "someone/lcm", folder)
    source = hub.open_folder(snapshot, hub.pipeline_gaps())
    assert source.digest == f"someone/lcm@{COMMIT}"


def test_a_folder_can_be_an_argument(tmp_path: Path) -> None:
    folder = build_tiny("lcm", tmp_path / "lcm")
    model = registry.load("lcm", model_args={**TINY_ARGS, "local_path": folder, "batch_size": "7"})
    assert model.facts.digest == "sha256:" + hub.folder_sha256(Path(folder))
    assert model.chunk_size == 7 and model.sampling_at(3)["batch_size"] == 7


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ValueError, match="did you mean 'sdxl'.*flux-dev.*diffusers:ID"):
        registry.load("sdlx")
    with pytest.raises(ValueError, match="needs a hub id or a folder"):
        registry.load("diffusers:")
    assert registry.known("tim") and registry.known("diffusers:a/b")
    assert not registry.known("runs/x")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"guidance": "3"}, "has no argument 'guidance' .*guidance_scale"),
        ({"guidance_scale": "much"}, "guidance_scale must be a number, not 'much'"),
        ({"height": "64.5"}, "height must be a whole number"),
        ({"height": 64.5}, "height must be a whole number, not 64.5"),
        ({"height": True}, "height must be a whole number, not True"),
        ({"height": None}, "height must be a whole number, not None"),
        ({"height": "-1"}, "height must be positive"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"dtype": "float8"}, "dtype must be one of"),
        ({"offload": "disk"}, "offload must be none or model"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        registry.load("sdxl", model_args=arguments)


def test_turbo_models_take_no_guidance() -> None:
    for name in ("sdxl-turbo", "sd3.5-turbo"):
        with pytest.raises(ValueError, match="has no argument 'guidance_scale'"):
            registry.load(name, model_args={"guidance_scale": "5"})


def test_dtype_and_weight_files_follow_the_device() -> None:
    sdxl: ModelCard = registry.card("sdxl")
    assert choose_dtype("auto", sdxl.dtype, "cuda") == "float16"
    assert choose_dtype("auto", sdxl.dtype, "cpu") == "float32"
    assert choose_dtype("bfloat16", sdxl.dtype, "cpu") == "bfloat16"
    for dtype, local, wanted, variant in [
        ("float16", None, "auto", "fp16"),
        ("float32", None, "auto", ""),
        ("float16", "folder", "auto", ""),
        ("float16", None, "none", ""),
        ("float32", None, "bf16", "bf16"),
    ]:
        settings = {"dtype": dtype, "variant": wanted}
        assert choose_variant(settings, sdxl, local) == variant
