"""Shared by all tests: one thread, no hub, the reference data, and how often faults are tried."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.pop("COLUMNS", None)  # of the terminal that tests are started from: output is piped here
if "SELFE_BENCH_CACHE" not in os.environ:  # workers take it over from the process that starts them
    _cache = tempfile.TemporaryDirectory(prefix="selfe-bench-tests-")
    os.environ["SELFE_BENCH_CACHE"] = _cache.name

import pytest
import torch

torch.set_num_threads(1)

DEFAULT_TRIALS = 3

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def shared_data() -> Path:
    """Reference lists kept beside the repository; tests that need them in full are skipped
    elsewhere, and committed digests are compared instead."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the reference data is not present")
    return SHARED_DATA


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fault-count",
        default=str(DEFAULT_TRIALS),
        help="trials of a fault at random instants or places: a number, or 'full' for its own",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A fault test that takes `trial` is run for trial 0, 1, ... of `@fault(number, full=N)`."""
    if "trial" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("fault")
        assert marker is not None, f"{metafunc.definition.nodeid} takes `trial` but is no fault"
        full = marker.kwargs["full"]
        count = metafunc.config.getoption("--fault-count")
        metafunc.parametrize("trial", range(full if count == "full" else min(int(count), full)))
