"""Gather the site into _proc/ and build it into _docs/: reading order, notebooks, figures, ledger, API. No network is needed.

python docs/build.py"""
import importlib
import importlib.util
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
PARTS = {"Data": 0, "Corruptions": 10, "Building blocks": 20, "Methods": 30, "Evaluation and attacks": 40, "Plots": 50, "Explore": 55, "Explore pages": 60,
         "Reproductions, sweeps, ledger": 70, "Papers": 80}  # the first number of each
FORMULAS = """window.MathJax = {
  config: ["TeX-AMS-MML_HTMLorMML-full.js", "Safe.js"],
  tex2jax: {inlineMath: [["$", "$"], ["\\\\(", "\\\\)"]], displayMath: [["$$", "$$"], ["\\\\[", "\\\\]"]], processEscapes: true},
  "HTML-CSS": {availableFonts: [], preferredFont: null, imageFont: null, webFont: "STIX-Web", linebreaks: {automatic: true}},
  messageStyle: "none", showMathMenu: false
};
"""


def notebooks() -> dict[str, list[Path]]:
    "The notebooks in reading order: by their numbers, by part."
    found = sorted((p for p in (ROOT / "nbs").rglob("[0-9]*_*.ipynb") if not any(x.startswith(".") for x in p.relative_to(ROOT).parts)), key=lambda p: p.name)
    parts: dict[str, list[Path]] = {name: [] for name in PARTS}
    for path in found: parts[[name for name, first in PARTS.items() if first <= int(path.name[:2])][-1]].append(path)
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
    "Every committed figure, by run, and the pages with sliders as they look."
    lines = ["# Figures", "", "What the reproductions drew; the numbers are in the [ledger](results/ledger.html)."]
    for folder in sorted({p.parent for p in (ROOT / "results").rglob("figures/*.png")}):
        lines += ["", f"## {folder.parent.relative_to(ROOT / 'results').as_posix()}", "", *pictures(folder)]
    lines += ["", "## Pages with sliders", "", "`make lab` opens them: `nbs/explore`.", "", *pictures(ROOT / "docs/screenshots")]
    shutil.copytree(ROOT / "docs/screenshots", SOURCE / "docs/screenshots")
    (SOURCE / "gallery.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def pictures(folder: Path) -> list[str]:
    "The pictures of a folder as lines of Markdown."
    return [f"![{p.stem.replace('_', ' ')}]({p.relative_to(ROOT).as_posix()}){{ loading=lazy width=360 }}" for p in sorted(folder.glob("*.png"))]


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


def formulas():
    "MathJax as an installed package brings it, with its licence, and what it is to do."
    shutil.copytree(Path(importlib.util.find_spec("jupyter_server_mathjax").origin).parent / "static", SOURCE / "mathjax", ignore=shutil.ignore_patterns("localization"))
    (SOURCE / "formulas.js").write_text(FORMULAS, encoding="utf-8")


def make_local():
    "Take out what the notebooks' template would load from elsewhere, and make sure that nothing is left."
    remote = re.compile(r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//[^>]*>|<link\b(?=[^>]*rel=["']?(?:stylesheet|preload|preconnect|icon))[^>]*href=["']?(?:https?:)?//[^>]*>|@import[^;]*//|import\(?\s*["'](?:https?:)?//""", re.I)
    left = []
    for page in (ROOT / "_docs").rglob("*.html"):
        text = re.sub(r"<!-- Load mathjax -->.*?<!-- End of mathjax configuration -->", "", page.read_text(encoding="utf-8"), flags=re.S)
        text = re.sub(r'<script type="module">(?:(?!</script>).)*mermaid(?:(?!</script>).)*</script>', "", text, flags=re.S)
        page.write_text(text, encoding="utf-8")
        left += [f"{page.relative_to(ROOT)}: {found[0][:120]}" for found in remote.finditer(text)]
    if left: sys.exit("these pages load something from elsewhere:\n" + "\n".join(left))


def main():
    shutil.rmtree(WORK, ignore_errors=True)
    SOURCE.mkdir(parents=True)
    home()
    shutil.copytree(ROOT / "nbs", SOURCE / "nbs", ignore=shutil.ignore_patterns(".*", "_*"))
    shutil.copytree(ROOT / "results", SOURCE / "results")
    ledger.report(SOURCE / "results")
    gallery()
    formulas()
    nav = [{"Home": "index.md"}, *({part: [{title(p): p.relative_to(ROOT).as_posix()} for p in paths]} for part, paths in notebooks().items()),
           {"Results": [{"Figures": "gallery.md"}, {"How they were measured": "results/README.md"}, {"Ledger of claims": "results/ledger.html"}]}, {"API": api()}]
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text()) | {"nav": nav}
    (WORK / "mkdocs.yml").write_text(yaml.safe_dump(config, allow_unicode=True, sort_keys=False), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "mkdocs", "build", "--quiet", "-f", str(WORK / "mkdocs.yml")], cwd=WORK, check=True)  # its cache stays there
    make_local()


if __name__ == "__main__": main()
