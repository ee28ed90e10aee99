"""Shared by all tests: one thread, no hub, and the reference data where it is present."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

torch.set_num_threads(1)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def shared_data() -> Path:
    """Reference lists kept beside the repository; tests that need them in full are skipped
    elsewhere, and committed digests are compared instead."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the reference data is not present")
    return SHARED_DATA
