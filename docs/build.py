"""Gather the site into _proc/ and build it into _docs/: reading order, notebooks, figures, ledger, API. No network is needed.

python docs/build.py"""
import importlib
import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from mvnb import ledger

ROOT = Path(__file__).resolve().parent.parent
WORK, SOURCE = ROOT / "_proc", ROOT / "_proc/src"
PARTS = {"Data": "0", "Corruptions": "1", "Building blocks": "2", "Methods": "3", "Evaluation and attacks": "4", "Plots": "50", "Explore": "5", "Explore pages": "6",
         "Reproductions, sweeps, ledger": "7", "Papers": "89"}


def notebooks() -> dict[str, list[Path]]:
    "The notebooks in reading order: by their numbers, by part."
    found = sorted((p for p in (ROOT / "nbs").rglob("[0-9]*_*.ipynb") if not any(x.startswith(".") for x in p.relative_to(ROOT).parts)), key=lambda p: p.name)
    parts: dict[str, list[Path]] = {name: [] for name in PARTS}
    for path in found:
        part = next(n for n, start in reversed(PARTS.items()) if path.name.startswith(start if len(start) == 2 and start != "89" else tuple(start)))
        parts[part].append(path)
    return {name: paths for name, paths in parts.items() if paths}


def title(path: Path) -> str:
    "The first heading of a notebook."
    text = "\n".join("".join(c["source"]) for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "markdown")
    return re.search(r"^# +(.+)$", text, re.M)[1].strip()


def home():
    "README as the first page, its links seen from the site."
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (SOURCE / "index.md").write_text(text, encoding="utf-8")
    for path in ("CHANGELOG.md", "LICENSE", "CITATION.cff"): shutil.copy(ROOT / path, SOURCE)


def gallery():
    "Every committed figure, by run."
    lines = ["# Figures", "", "What the reproductions drew; the numbers are in the [ledger](results/ledger.html)."]
    for folder in sorted({p.parent for p in (ROOT / "results").rglob("figures/*.png")}):
        lines += ["", f"## {folder.parent.relative_to(ROOT / 'results').as_posix()}", ""]
        lines += [f"![{p.stem.replace('_', ' ')}]({p.relative_to(ROOT).as_posix()}){{ loading=lazy width=360 }}" for p in sorted(folder.glob("*.png"))]
    (SOURCE / "gallery.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def api() -> list[dict]:
    "One page per module: what it exports, with signatures and docstrings."
    pages = []
    (SOURCE / "api").mkdir()
    for path in sorted((ROOT / "mvnb").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name.endswith("_modidx"): continue
        module = importlib.import_module(name)
        lines = [f"# {name}", "", inspect.getdoc(module) or ""]
        for public in getattr(module, "__all__", []):
            thing = getattr(module, public)
            if not (inspect.isclass(thing) or inspect.isfunction(thing)): continue
            try: signature = inspect.getsource(thing).split('"""')[0].split('\n    "')[0].rstrip() if inspect.isfunction(thing) else f"class {public}{inspect.signature(thing)}"
            except (ValueError, TypeError, OSError): signature = public
            lines += ["", f"## {public}", "", "```python", signature, "```", "", inspect.getdoc(thing) or ""]
        (SOURCE / f"api/{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        pages.append({name: f"api/{name}.md"})
    return pages


def main():
    shutil.rmtree(WORK, ignore_errors=True)
    SOURCE.mkdir(parents=True)
    home()
    shutil.copytree(ROOT / "nbs", SOURCE / "nbs", ignore=shutil.ignore_patterns(".*", "_*"))
    shutil.copytree(ROOT / "results", SOURCE / "results")
    ledger.report(SOURCE / "results")
    gallery()
    nav = [{"Home": "index.md"}, *({part: [{title(p): p.relative_to(ROOT).as_posix()} for p in paths]} for part, paths in notebooks().items()),
           {"Results": [{"Figures": "gallery.md"}, {"How they were measured": "results/README.md"}, {"Ledger of claims": "results/ledger.html"}]}, {"API": api()}]
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text()) | {"nav": nav}
    (WORK / "mkdocs.yml").write_text(yaml.safe_dump(config, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return subprocess.run([sys.executable, "-m", "mkdocs", "build", "--quiet", "-f", str(WORK / "mkdocs.yml")], cwd=WORK).returncode  # its cache stays there


if __name__ == "__main__": sys.exit(main())
