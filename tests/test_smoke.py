"Every repro notebook runs from end to end at its smallest scale."
import math
from pathlib import Path

import pytest

from mvnb import repro

FOLDER = Path(__file__).resolve().parent.parent / "nbs/repro"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_smoke(path, tmp_path):
    assert "scale" in repro.parameters(path)
    done = repro.run(path, {"scale": "smoke"}, out=tmp_path / "out", progress=False)
    assert done.notebook.is_file() and done.html.is_file() and done.metrics["metrics"]
    assert all(math.isfinite(v) for m in done.metrics["metrics"] for v in m["values"])
    assert [f for f in done.files if f.suffix == ".png"] and all(f.stat().st_size > 1000 for f in done.files if f.suffix == ".png")


@pytest.mark.skipif(not NOTEBOOKS, reason="there are no repro notebooks")
def test_all_are_found_by_name():
    assert sorted(repro.notebooks(FOLDER).values()) == NOTEBOOKS
    for path in NOTEBOOKS:
        title, claim = repro.describe(path)
        assert title and claim and repro.parameters(path)["out"].default is None
