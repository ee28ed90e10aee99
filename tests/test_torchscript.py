"""Weights out of a TorchScript archive: equal to torch.jit's, and nothing in the file is run."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path

import open_clip
import pytest
import torch

from evals.detectors import clip_colors, weights
from evals.detectors.torchscript import read_torchscript_tensors
from selfe.files import file_sha256
from tests.test_clip_colors import tiny_clip


class Traced(torch.nn.Module):
    """What OpenAI published: the towers traced in half precision, and constants as buffers."""

    def __init__(self, clip: torch.nn.Module) -> None:
        super().__init__()
        for name, child in clip.named_children():
            self.add_module(name, child)
        for name, value in clip.named_parameters(recurse=False):
            self.register_parameter(name, value)
        for name in ("input_resolution", "context_length", "vocab_size"):
            self.register_buffer(name, torch.tensor(77))
        self.strides = [1, 2]
        self.mask = torch.ones(2, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.visual(image) + self.context_length


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("torchscript") / "ViT-L-14.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module, image = Traced(tiny_clip(True)).half().eval(), torch.ones(1, 3, 32, 32).half()
        traced = torch.jit.trace(module, image, check_trace=False)
        torch.jit.save(traced, path)
    return path


def test_tensors_equal_those_of_torch_jit(archive):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = torch.jit.load(archive).state_dict()
    found = read_torchscript_tensors(archive)
    assert wanted.keys() <= found.keys() and len(wanted) > 20
    assert found["visual.conv1.weight"].dtype == torch.float16
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name


def test_the_published_clip_loads_by_its_hash(archive, monkeypatch):
    published = weights.PublishedFile(archive.name, "", file_sha256(archive), "")
    monkeypatch.setattr(clip_colors, "CLIP_VIT_L_14", published)
    blank = tiny_clip(True)
    with torch.no_grad():
        for value in blank.parameters():
            value.zero_()
    monkeypatch.setattr(open_clip, "create_model", lambda *_, **__: blank)
    classifier = clip_colors.ClipColorClassifier.from_published(archive)
    assert classifier.identity == f"clip-ViT-L-14-quickgelu:{published.sha256[:8]}"
    for name, value in tiny_clip(True).state_dict().items():
        assert torch.equal(classifier.model.state_dict()[name], value.half().float()), name
    wider = open_clip.CLIP(
        embed_dim=16,
        vision_cfg=dict(layers=2, width=32, head_width=16, patch_size=8, image_size=32),
        text_cfg=dict(context_length=77, vocab_size=49408, width=16, heads=2, layers=1),
        quick_gelu=True,
    )
    monkeypatch.setattr(open_clip, "create_model", lambda *_, **__: wider)
    with pytest.raises(ValueError, match=r"does not fit.*resblocks\.1"):
        clip_colors.ClipColorClassifier.from_published(archive)


class Explosive:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.fault(12)
def test_a_pickle_payload_is_refused_and_not_run(archive, tmp_path):
    trace, bad = tmp_path / "ran", tmp_path / "bad.pt"
    for protocol in (0, 2, 4):
        with zipfile.ZipFile(archive) as good, zipfile.ZipFile(bad, "w") as target:
            for name in good.namelist():
                payload = pickle.dumps(Explosive(trace), protocol)
                target.writestr(name, payload if name.endswith("/data.pkl") else good.read(name))
        with pytest.raises(ValueError, match=r"refused.*asks for .*open"):
            read_torchscript_tensors(bad)
    bad.write_bytes(pickle.dumps(Explosive(trace)))
    with pytest.raises(ValueError, match="refused"):
        read_torchscript_tensors(bad)
    assert not trace.exists()


@pytest.mark.fault
def test_a_damaged_archive_is_refused(archive, tmp_path):
    data, bad = archive.read_bytes(), tmp_path / "bad.pt"
    for wrong in (b"", data[:1000], data[: len(data) // 2]):
        bad.write_bytes(wrong)
        with pytest.raises(ValueError, match=r"bad\.pt is refused"):
            read_torchscript_tensors(bad)
    with zipfile.ZipFile(archive) as good:
        place = good.getinfo(f"{archive.stem}/data/0").header_offset
    flipped = bytearray(data)
    flipped[place + 200] ^= 1
    bad.write_bytes(flipped)
    with pytest.raises(ValueError, match="refused"):
        read_torchscript_tensors(bad)
