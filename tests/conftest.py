"What all tests share: no windows, no downloads, a device to run on, and reasons to skip."
import importlib.util
import os
from pathlib import Path

import matplotlib
import pytest
import torch

matplotlib.use("Agg")
if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores: one thread each, here and in what the tests start
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
os.environ["MVNB_OFFLINE"] = "1"  # no test downloads by accident
ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items):
    data = os.environ.get("MVNB_DATA")
    reasons = {"cuda": None if torch.cuda.is_available() else "needs a GPU",
               "data": None if data and Path(data).is_dir() else "needs data sets: set MVNB_DATA to their folder",
               "browser": None if importlib.util.find_spec("playwright") else "needs playwright"}
    for item in items:
        for marker, reason in reasons.items():
            if reason and marker in item.keywords: item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    "Every device there is; a test that asks for it runs once on each."
    return request.param


@pytest.fixture
def root():
    "The checkout."
    return ROOT


@pytest.fixture
def home(tmp_path, monkeypatch):
    "A computer with nothing on it: no data, no cache, no network."
    for name, value in dict(MVNB_DATA=tmp_path / "data", XDG_CACHE_HOME=tmp_path / "cache", MVNB_OFFLINE=1).items(): monkeypatch.setenv(name, str(value))
    return tmp_path
