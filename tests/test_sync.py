"The package is what the notebooks export, and the notebooks are clean. Works on copies; the checkout is only read."
import filecmp
import importlib
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if not any(part.startswith((".", "_")) for part in p.relative_to(ROOT).parts))
LIBRARY = [p for p in NOTEBOOKS if p.stem != "index" and not {"repro", "explore"} & set(p.relative_to(ROOT / "nbs").parts)]
MODULES = sorted(p.relative_to(ROOT) for p in (ROOT / "mvnb").rglob("*.py"))


def name(path): return path.relative_to(ROOT).as_posix()


def copy(to):
    "settings.ini and the notebooks, nothing else."
    shutil.copy(ROOT / "settings.ini", to)
    for path in NOTEBOOKS:
        (to / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to / path.relative_to(ROOT))


def nbdev(function, folder):
    code = f"from nbdev.doclinks import nbdev_export\nfrom nbdev.clean import nbdev_clean\n{function}()"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def default_exps(path):
    cells = json.loads(path.read_text())["cells"]
    return [m for c in cells if c["cell_type"] == "code" for m in re.findall(r"^#\| *default_exp +(\S+)", "".join(c["source"]), re.M)]


def differences(made, here, suffix):
    "What is on one side only, and what differs."
    a, b = ({p.relative_to(folder).as_posix() for p in folder.rglob(f"*{suffix}")} for folder in (made, here))
    return {"missing": sorted(a - b), "stale": sorted(b - a),
            "different": sorted(f for f in a & b if not filecmp.cmp(made / f, here / f, shallow=False))}


SAME = {"missing": [], "stale": [], "different": []}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    copy(folder)
    nbdev("nbdev_export", folder)
    return folder / "mvnb"


def test_package_is_what_the_notebooks_export(exported):
    assert differences(exported, ROOT / "mvnb", ".py") == SAME, "run: make export (and remove modules that no notebook exports)"


def test_the_comparison_finds_stale_missing_and_edited_modules(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "mvnb")
    (tmp_path / "mvnb/base.py").unlink()
    (tmp_path / "mvnb/old.py").write_text("")
    (tmp_path / "mvnb/views.py").open("a").write("\n# edited by hand\n")
    assert differences(exported, tmp_path / "mvnb", ".py") == {"missing": ["base.py"], "stale": ["old.py"], "different": ["views.py"]}


def test_one_module_per_notebook():
    counts = {name(p): len(default_exps(p)) for p in LIBRARY}
    assert set(counts.values()) == {1}, {k: v for k, v in counts.items() if v != 1}
    repeated = [m for m, k in Counter(default_exps(p)[0] for p in LIBRARY).items() if k > 1]
    assert not repeated, f"two notebooks export to {repeated}: the second overwrites the first"


def test_repro_notebooks_export_nothing():
    assert not [name(p) for p in NOTEBOOKS if p not in LIBRARY and p.stem != "index" and default_exps(p)]


def test_notebooks_are_clean(tmp_path):
    copy(tmp_path)
    nbdev("nbdev_clean", tmp_path)
    assert differences(tmp_path / "nbs", ROOT / "nbs", ".ipynb")["different"] == [], "run: make export"


def test_cleaning_keeps_the_parameters_tag(tmp_path):
    copy(tmp_path)
    cell = {"cell_type": "code", "id": "a", "execution_count": 3, "metadata": {"tags": ["parameters"], "scrolled": True}, "outputs": [], "source": ["n = 1"]}
    nb = {"cells": [cell], "metadata": {"kernelspec": {"name": "python3", "display_name": "x", "language": "python"}}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "nbs/99_tag.ipynb").write_text(json.dumps(nb))
    nbdev("nbdev_clean", tmp_path)
    cleaned = json.loads((tmp_path / "nbs/99_tag.ipynb").read_text())["cells"][0]
    assert cleaned["metadata"] == {"tags": ["parameters"]} and cleaned["execution_count"] is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebook_is_small_and_without_errors(path):
    assert path.stat().st_size <= 400_000
    nb = json.loads(path.read_text())
    outputs = [o for c in nb["cells"] for o in c.get("outputs", [])]
    assert not [o for o in outputs if o["output_type"] == "error"]
    assert "widgets" not in nb["metadata"]
    assert not [o for o in outputs if "application/vnd.jupyter.widget-view+json" in o.get("data", {})]


@pytest.mark.parametrize("path", MODULES, ids=Path.as_posix)
def test_module_imports(path):
    module = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    imported = importlib.import_module(module)
    assert Path(imported.__file__).resolve() == ROOT / path
    for exported in getattr(imported, "__all__", []): assert hasattr(imported, exported), f"{module}.__all__ names {exported}"
