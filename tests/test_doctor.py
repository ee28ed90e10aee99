"""The doctor: on a machine with nothing, with wrong weights, with a GELU CLIP, and a well one."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import time
from dataclasses import asdict

import pytest

from evals import doctor, published
from evals.detectors import clip_colors, weights
from evals.detectors.mask2former import processing, selftest


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def by_name(checks: list[doctor.Check]) -> dict[str, doctor.Check]:
    return {c.name: c for c in checks}


def checks_of(tmp_path, suite="geneval@1"):
    return by_name(doctor.run_checks(suite, "cpu", tmp_path / "cache", tmp_path / "runs"))


def test_a_machine_with_nothing(tmp_path):
    checks = checks_of(tmp_path, None)
    for name in ("detector weights", "CLIP weights"):
        assert not checks[name].ok
        assert "selfe-bench fetch geneval" in checks[name].fix
    for name in ("versions", "device", "shapes detector", "detector self-test", "CLIP activation"):
        assert checks[name].ok, checks[name]
    for check in checks.values():
        assert check.ok == (check.fix == ""), check
    json.dumps([asdict(c) for c in checks.values()])
    assert not (tmp_path / "cache").exists() and not (tmp_path / "runs").exists()


@pytest.mark.fault(24)
def test_wrong_weights(tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    for file in (weights.MASK2FORMER_MMDET_2, weights.CLIP_VIT_L_14):
        (cache / file.name).write_bytes(b"something else")
    checks = checks_of(tmp_path)
    begins = hashlib.sha256(b"something else").hexdigest()[:8]
    for name in ("detector weights", "CLIP weights"):
        assert not checks[name].ok
        assert begins in checks[name].detail and "delete" in checks[name].fix


def test_right_weights(tmp_path, monkeypatch):
    content = b"stands for the published file"
    digest = hashlib.sha256(content).hexdigest()
    right = weights.PublishedFile(f"detector-{digest[:8]}.pth", "", digest[:8], "")
    monkeypatch.setattr(weights, "DETECTOR_FILES", (right,))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / right.name).write_bytes(content)
    assert checks_of(tmp_path)["detector weights"].ok


@pytest.mark.fault
def test_a_gelu_clip(tmp_path, monkeypatch):
    monkeypatch.setattr(clip_colors, "CLIP_MODEL", "ViT-L-14")
    check = checks_of(tmp_path)["CLIP activation"]
    assert not check.ok and "not QuickGELU" in check.detail and "quickgelu" in check.fix


@pytest.mark.fault
def test_post_processing_that_went_wrong_is_seen(tmp_path, monkeypatch):
    real = processing.read_out

    def shifted(*args, **kwargs):
        objects = real(*args, **kwargs)
        return objects._replace(boxes=objects.boxes + 20)

    monkeypatch.setattr(processing, "read_out", shifted)
    assert "box" in selftest.check_read_out()
    assert not checks_of(tmp_path)["detector self-test"].ok


@pytest.mark.fault
def test_no_check_ever_raises(tmp_path, monkeypatch):
    def broken():
        raise RuntimeError("no kernel image is available for execution on the device\ndetails")

    monkeypatch.setattr(doctor, "_clip_activation", broken)
    check = checks_of(tmp_path)["CLIP activation"]
    assert not check.ok and "no kernel image" in check.detail and check.fix


@pytest.mark.fault
def test_an_absent_gpu_is_an_error_where_asked_for(tmp_path):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    checks = by_name(doctor.run_checks("shapes@1", "cuda", tmp_path, tmp_path))
    assert not checks["device"].ok and "--device cpu" in checks["device"].fix
    checks = by_name(doctor.run_checks("geneval@1", "cuda", tmp_path, tmp_path))
    for name in ("detector self-test", "mmdet"):
        assert not checks[name].ok and "fix the device" in checks[name].fix


def test_the_shapes_suite_asks_for_no_downloads(tmp_path):
    checks = checks_of(tmp_path, "shapes@1")
    assert "detector weights" not in checks and "CLIP weights" not in checks
    assert all(c.ok for c in checks.values()), checks


def test_every_suite_is_known_and_no_other(tmp_path):
    free = checks_of(tmp_path, "shapes-free@1")
    assert free["shapes detector"].detail.startswith("shapes-free@1:")
    assert "shapes-free@1:" in checks_of(tmp_path, None)["shapes detector"].detail
    with pytest.raises(ValueError, match=r"unknown suite 'geneval@9'; did you mean 'geneval@1'"):
        doctor.run_checks("geneval@9")


@pytest.mark.fault
def test_folders_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "runs").write_text("a file")
    checks = checks_of(tmp_path, "shapes@1")
    assert not checks["runs folder"].ok and "is a file" in checks["runs folder"].detail
    if os.geteuid() != 0:
        (tmp_path / "cache").mkdir(mode=0o500)
        assert not checks_of(tmp_path, "shapes@1")["cache folder"].ok


def test_the_shapes_world_needs_no_hub(tmp_path):
    names = [check.name for check in doctor.run_checks("shapes@1", cache_dir=tmp_path)]
    assert "hub" not in names and "shapes detector" in names


@pytest.mark.fault(25)
@pytest.mark.parametrize("silent", [True, False])
def test_an_unreachable_hub_is_found_out_quickly(tmp_path, monkeypatch, silent):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(doctor, "HUB_TIMEOUT_S", 0.3)

    def no_answer(address, timeout):
        if silent:
            time.sleep(2)
        raise OSError("Name or service not known")

    monkeypatch.setattr(socket, "create_connection", no_answer)
    started = time.monotonic()
    check = doctor._hub()
    assert time.monotonic() - started < 1.5
    assert not check.ok and weights.CLIP_VIT_L_14.name in check.fix


def test_what_measures_need_is_told_and_only_a_named_suite_fails_without(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    checks = checks_of(tmp_path, None)
    weights_of, packages = checks["weights of measures"], checks["packages of measures"]
    assert weights_of.ok and packages.ok
    for words in ("Qwen/Qwen3-VL-8B-Instruct, 17.5 GB, licence Apache-2.0", "PickScore", "HPSv2.1"):
        assert words in weights_of.detail
    assert "selfe-bench[dpg]" in packages.detail
    assert "1.26 GB, licence MIT; no hash is published" in weights_of.detail
    (tmp_path / "cache" / "dreamsim" / "ensemble_lora").mkdir(parents=True)
    assert published.missing("dreamsim", tmp_path / "cache") == []
    with pytest.raises(ValueError, match=r"selfe-bench\[dreamsim\]"):
        monkeypatch.setitem(sys.modules, "dreamsim", None)
        published.fetch("dreamsim", tmp_path / "cache")
    judge = checks_of(tmp_path, "geneval2@1")["judge weights"]
    assert not judge.ok and "selfe-bench fetch geneval2" in judge.fix
    assert "weights of measures" not in checks_of(tmp_path, "shapes@1")
    monkeypatch.setitem(sys.modules, "modelscope", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    package = checks_of(tmp_path, "dpg@1")["judge package"]
    assert not package.ok and "transformers 4 at most" in package.detail
    monkeypatch.setattr("evals.judges.mplug.version", lambda name: "4.57.0")
    package = checks_of(tmp_path, "dpg@1")["judge package"]
    assert not package.ok and "selfe-bench[dpg]" in package.fix


def test_every_weight_has_a_licence_a_size_and_a_name_to_fetch_it_by():
    from evals import published

    for each in published.HUB_WEIGHTS.values():
        assert each.licence and each.gigabytes > 0 and each.role
    for group, names in published.GROUPS.items():
        for name in names:
            assert name in published.HUB_WEIGHTS or name in weights.FILES, (group, name)
    with pytest.raises(ValueError, match="unknown download 'nothing'"):
        published.fetch("nothing")
    with pytest.raises(ValueError, match="hf download Qwen/Qwen3-VL-8B-Instruct"):
        published.fetch("geneval2")
