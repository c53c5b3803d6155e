"""How long after a key press a page in JupyterLab shows new pixels, median and 90th percentile for every page of nbs/explore, and how long its first use takes.

    python benchmarks/explore_latency.py [--presses 40] [--pages 60 61] [--out FILE] [--screenshots docs/screenshots]

Measured in the browser: from the keydown event to the first frame after the new picture was loaded. First use: from an empty cache, seconds from running
the notebook's cells (imports and training included) to the first picture, and until all pictures are there and nothing is computed any more.
OMP_NUM_THREADS=1 measures one thread. Needs playwright and chromium.
"""
import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from mvnb.base import write_json
from mvnb.repro import provenance

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from browsing import PAGES, Tab, browser, server

WATCH = """() => {
    window.latencies = [];
    document.addEventListener('keydown', () => { window.pressed = performance.now(); }, true);
    for (const image of document.querySelectorAll('img.widget-image')) image.addEventListener('load', () => requestAnimationFrame(() => {
        if (window.pressed) { window.latencies.push(performance.now() - window.pressed); window.pressed = null; } })); }"""


def latencies(tab: Tab, presses: int) -> list[float]:
    "Milliseconds from key press to pixels, going to and fro on the page's first slider."
    slider = tab.controls("sliders")[0]
    tab.page.evaluate(WATCH)
    slider.focus()
    for i in range(presses):
        ahead = float(slider.get_attribute("aria-valuenow")) < float(slider.get_attribute("aria-valuemax")) and i % 4 < 2
        tab.page.keyboard.press("ArrowRight" if ahead else "ArrowLeft")
        tab.page.wait_for_function(f"() => window.latencies.length > {i} || performance.now() - window.pressed > 5000", polling=10)
        tab.page.wait_for_timeout(50)
    return tab.page.evaluate("() => window.latencies")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presses", type=int, default=40, help="key presses per page")
    parser.add_argument("--pages", nargs="*", default=[p.stem[:2] for p in PAGES], help="numbers of the pages")
    parser.add_argument("--out", type=Path, help="also write the numbers here")
    parser.add_argument("--screenshots", type=Path, help="folder for a picture of every page, as Voila shows it")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder, server(folder) as (address, token), browser(address) as context:
        print(f"{'page':<16}{'first use, s':>13}{'all, s':>8}{'median ms':>11}{'90 % ms':>9}{'presses':>9}")
        for path in (p for p in PAGES if p.stem[:2] in args.pages):
            tab = Tab(context, address, token, path.name)
            values = latencies(tab, args.presses)
            print(f"{path.stem:<16}{tab.first_seconds:>13.1f}{tab.whole_seconds:>8.1f}{np.median(values):>11.0f}{np.quantile(values, .9):>9.0f}{len(values):>9}", flush=True)
            rows.append(dict(page=path.stem, first_use_s=tab.first_seconds, all_s=tab.whole_seconds, median_ms=float(np.median(values)), p90_ms=float(np.quantile(values, .9)), presses=len(values)))
            tab.close()
            if args.screenshots:
                tab = Tab(context, address, token, path.name, voila=True)
                args.screenshots.mkdir(parents=True, exist_ok=True)
                tab.page.set_viewport_size({"width": 1120, "height": 900})
                tab.boxes()   # waits until the layout is at rest
                bottom = tab.page.evaluate("() => Math.max(...Array.from(document.querySelectorAll('.jp-Cell')).map(c => c.getBoundingClientRect().bottom))")
                tab.page.set_viewport_size({"width": 1120, "height": round(bottom) + 20})
                tab.boxes()
                file = args.screenshots / f"{path.stem}.png"
                tab.page.screenshot(path=file)
                Image.open(file).quantize(256).save(file, optimize=True)   # half the size
                tab.close()
    if args.out: print("wrote", write_json(args.out, dict(pages=rows, **provenance())))


if __name__ == "__main__": main()
