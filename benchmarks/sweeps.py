"""What a sweep costs beside its notebooks, 200 small points on 2 workers, and how fast 10,000 runs are collected.

Run on an idle machine: python benchmarks/sweeps.py [--points 200] [--minutes 8] [--runs 10000] [--out FILE.json]
The 200 points take about 7 minutes on two cores; after --minutes, those that are done are what is reported. Ctrl-C leaves nothing behind."""
import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import nbformat

from mvnb import ledger, repro
from mvnb.base import write_json
from mvnb.sweeps import finished, load_spec, run

SETTINGS = "n = 0  # a number\nrate = [0.0]  # a list\nout = None  # folder"
BODY = "from mvnb.repro import Recorder\nrec = Recorder(out, 'tiny', dict(n=n, rate=rate))\nfor r in rate: rec.metric('sum', n + r, rate=r)\nrec.save();"


def notebook(folder: Path) -> Path:
    "The smallest notebook that records something."
    cells = [nbformat.v4.new_code_cell(SETTINGS, metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(BODY)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "90_tiny.ipynb")
    return folder / "90_tiny.ipynb"


def sweep(folder: Path, name: str, axes: str, jobs: int, minutes: float | None = None) -> dict:
    "Seconds of a sweep, in all and inside the workers, for the points that were done in time."
    (folder / f"{name}.yaml").write_text(f"out: {folder / name}\nruns:\n- notebook: {folder / '90_tiny.ipynb'}\n  grid: {{{axes}}}\n")
    report = run(load_spec(folder / f"{name}.yaml"), jobs=jobs, minutes=minutes)
    assert not report.failed and report.done, report
    inside = sum(r["seconds"] for r in {r["folder"]: r for r in finished(folder / name).values()}.values())
    return {"points": report.done, "asked": report.points, "jobs": jobs, "seconds": round(report.seconds, 2), "seconds_in_workers": round(inside, 2)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=8, help="for the points on 2 workers (%(default)s)")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--out", metavar="FILE", help="also write the numbers here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder: numbers = measure(Path(folder), args)
    print(json.dumps(numbers | {"device": repro.provenance()["device"]}, indent=1))
    if args.out: write_json(args.out, numbers | repro.provenance())


def measure(folder: Path, args: argparse.Namespace) -> dict:
    "All numbers, by name."
    path, alone = notebook(folder), []
    for i in range(3):
        start = time.perf_counter()
        repro.run(path, out=folder / f"alone{i}", progress=False, html=False)
        alone.append(time.perf_counter() - start)
    numbers = {"one notebook by itself, s": round(statistics.median(alone), 2),
               "a notebook each, 2 workers": sweep(folder, "each", f"n: {list(range(args.points))}", 2, args.minutes),
               "one batch": sweep(folder, "batch", f"rate: {[float(i) for i in range(args.points)]}", 1)}
    each = numbers["a notebook each, 2 workers"]
    numbers["overhead per point outside the workers, s"] = round((each["seconds"] - each["seconds_in_workers"] / each["jobs"]) / each["points"], 3)
    finished_run = repro.load_metrics(folder / "alone0")
    for i in range(args.runs): write_json(folder / f"many/{i:05}/metrics.json", finished_run)
    start = time.perf_counter()
    assert len(ledger.collect(folder / "many")) == args.runs
    return numbers | {f"collect {args.runs} runs, s": round(time.perf_counter() - start, 2)}


if __name__ == "__main__": main()
