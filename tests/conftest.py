"What all tests share: no windows, a device to run on, and reasons to skip."
import importlib.util
import os
from pathlib import Path

import matplotlib
import pytest
import torch

matplotlib.use("Agg")
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
