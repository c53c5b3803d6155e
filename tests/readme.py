"README.md is the prose of nbs/index.ipynb, with its links seen from the top folder. `python tests/readme.py` writes it."
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def render() -> str:
    cells = json.loads((ROOT / "nbs/index.ipynb").read_text(encoding="utf-8"))["cells"]
    text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown") + "\n"
    return re.sub(r"\]\((?!https?:|#|\.\./)", "](nbs/", text).replace("](../", "](")


if __name__ == "__main__": (ROOT / "README.md").write_text(render(), encoding="utf-8")
