"""The detector with its pixel decoder compiled: it finds the same, or says why it cannot run."""

from __future__ import annotations

from functools import partialmethod

import numpy as np
import pytest
import torch

from evals.detectors.mask2former import selftest
from tests.test_mask2former import GAINS, GOLDEN, mmdet_state, small_detector


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as stored:
        return dict(stored)


@pytest.fixture
def compiled_by(monkeypatch):
    """Compiles by the given backend instead of torch's own."""
    torch._dynamo.reset()
    compile_ = torch.nn.Module.compile

    def use(backend) -> None:
        monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(compile_, backend=backend))

    yield use
    torch._dynamo.reset()


def test_compiled_detector_finds_the_same_and_compiles_a_size_once(golden, compiled_by):
    graphs = []

    def counted(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled_by(counted)
    state = mmdet_state(golden, GAINS["sharpened"])
    found_by = small_detector(state, compiled=True, batch_size=2)
    assert found_by.identity == small_detector(state).identity + " compiled"
    assert small_detector(state, compiled=True).batch_size == 1 < small_detector(state).batch_size
    # A batch of two, and one image whose batch is filled up.
    images = [selftest.image_by_name(str(i), 96, 96) for i in range(3)]
    wide = selftest.image_by_name("wide", 96, 128)
    plain = small_detector(state)
    for found, wanted in zip(found_by.detect(images), plain.detect(images), strict=True):
        assert [d.label for d in found[:10]] == [d.label for d in wanted[:10]]
        assert np.allclose([d.score for d in found], [d.score for d in wanted], atol=1e-5)
    assert len(graphs) == 1

    with torch._dynamo.config.patch(recompile_limit=1):
        with pytest.raises(ValueError, match="of more sizes than 1; take --detector mask2former"):
            found_by.detect([wide])
        found_by.detect(images[:1])  # a size that is there is no longer compiled
        assert len(graphs) == 1
        small_detector(state, compiled=True, batch_size=1).detect([wide])  # a limit of its own
    assert len(graphs) == 2


def test_a_detector_that_cannot_be_compiled_names_cause_and_way_out(golden, compiled_by):
    def without_compiler(graph, inputs):
        raise RuntimeError("no working compiler found")

    compiled_by(without_compiler)
    found_by = small_detector(mmdet_state(golden), compiled=True)
    with pytest.raises(ValueError, match="no working compiler found.*take --detector mask2former$"):
        found_by.detect([selftest.image_by_name("0", 96, 96)])


def test_a_compiled_detector_is_never_uncompiled_in_silence(golden, compiled_by, monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("broken")

    compiled_by(broken)
    found_by = small_detector(mmdet_state(golden), compiled=True)
    with (
        torch._dynamo.config.patch(suppress_errors=True),
        pytest.raises(ValueError, match="broken"),
    ):
        found_by.detect([selftest.image_by_name("0", 96, 96)])
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    with pytest.raises(ValueError, match="switches off what a compiled detector needs"):
        small_detector(mmdet_state(golden), compiled=True)
    monkeypatch.delenv("TORCHDYNAMO_DISABLE")
    with torch._dynamo.config.patch(disable=True), pytest.raises(ValueError, match="switches off"):
        small_detector(mmdet_state(golden), compiled=True)
