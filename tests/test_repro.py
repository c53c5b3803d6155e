"mvnb.repro: what is checked before a run, what a run leaves, what a failure leaves."
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pickle

import pandas as pd
import pytest
from PIL import Image

from mvnb import repro
from mvnb.repro import NotebookFailed, Parameter, Recorder, check_parameters, load_metrics, metrics_table, parameters, parse_parameters, run

SETTINGS = """n = 3             # how many; n = 5 in the paper
rates = [0.0, 0.5]  # shares
name = "a # b"    # text
eps: float = 1e-3 # a tolerance
long = [
    1,
    2,
]                 # a list over lines
todo = "nothing"  # what goes wrong: nothing, raise, late, die, forget, sleep
out = None        # folder"""
IMPORTS = "import os, time, sys\nfrom mvnb.repro import Recorder"
WORK = """rec = Recorder(out, "tiny", dict(n=n, rates=rates, name=name))
rec.metric("sum", [n + r for r in rates], floor=0)
rec.metric("interpreter", float(len(sys.executable)), path=sys.executable, cwd=os.getcwd())
if todo == "raise": raise KeyError("lost")
if todo == "die": os.kill(os.getpid(), 9)
if todo == "sleep": time.sleep(60)
if todo != "forget": rec.save()"""
LATE = """if todo == "late": 1 / 0"""


def write(path, *cells, settings=SETTINGS):
    path.parent.mkdir(parents=True, exist_ok=True)
    tagged = nbformat.v4.new_code_cell(settings, metadata={"tags": ["parameters"]})
    code = [nbformat.v4.new_code_cell(c) for c in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Tiny\n\n> It adds."), tagged, *code]), path)
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write(tmp_path_factory.mktemp("nb") / "nbs/95_tiny.ipynb", IMPORTS, WORK, LATE)


@pytest.fixture(scope="module")
def done(tiny, tmp_path_factory):
    return run(tiny, {"n": 4, "rates": [1, 0.25]}, out=tmp_path_factory.mktemp("run") / "deep/er", progress=False)


def files(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


# finding

def test_lookup_order(tiny, tmp_path, monkeypatch):
    monkeypatch.delenv("MVNB_NOTEBOOKS", raising=False)
    assert list(repro.notebooks(tiny.parent)) == ["tiny"]
    monkeypatch.setattr(repro, "_package_parent", lambda: tmp_path / "none")
    monkeypatch.setattr(repro.sysconfig, "get_path", lambda _: str(tmp_path / "none"))
    write(tmp_path / "here/nbs/repro/81_other.ipynb")
    monkeypatch.chdir(tmp_path / "here")
    assert list(repro.notebooks()) == ["other"]
    write(tmp_path / "none/share/mvnb/repro/82_installed.ipynb")
    assert list(repro.notebooks()) == ["installed"]
    write(tmp_path / "none/nbs/repro/83_checkout.ipynb")
    assert list(repro.notebooks()) == ["checkout"]
    monkeypatch.setenv("MVNB_NOTEBOOKS", str(tiny.parent))
    assert list(repro.notebooks()) == ["tiny"]
    with pytest.raises(FileNotFoundError, match="empty"): repro.notebooks(tmp_path / "empty")


def test_names(tiny, tmp_path):
    with pytest.raises(ValueError, match="did you mean 'tiny'.*choose one of: tiny"): repro.find_notebook("tinny", tiny.parent)
    with pytest.raises(FileNotFoundError, match="lost.ipynb"): repro.find_notebook(tmp_path / "lost.ipynb")
    for n in (1, 2): write(tmp_path / f"twice/0{n}_same.ipynb")
    with pytest.raises(ValueError, match="same name"): repro.notebooks(tmp_path / "twice")
    assert repro.describe(tiny) == ("Tiny", "It adds.")


# parameters

def test_parameters(tiny):
    known = parameters(tiny)
    assert [p.default for p in known.values()] == [3, [0.0, 0.5], "a # b", 1e-3, [1, 2], "nothing", None]
    assert known["n"].help == "how many; n = 5 in the paper" and known["name"].help == "text" and known["long"].help == "a list over lines"
    assert known["rates"].type == "list of float" and known["eps"].type == "float" and known["out"].type == "any"


@pytest.mark.parametrize("settings", ["n = 2 * 3", "a, b = 1, 2", "import os", "n = os.cpu_count()", "n += 1"])
def test_parameters_must_be_literals(settings, tmp_path):
    with pytest.raises(ValueError, match="literal"): parameters(write(tmp_path / "1_x.ipynb", settings=settings))


def test_not_a_notebook(tmp_path):
    (tmp_path / "1_x.ipynb").write_text("{\"cells\": [")
    with pytest.raises(ValueError, match="1_x.ipynb: not a notebook"): parameters(tmp_path / "1_x.ipynb")
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "2_y.ipynb")
    with pytest.raises(ValueError, match="tag 'parameters', found 0"): parameters(tmp_path / "2_y.ipynb")


KNOWN = {p.name: p for p in (Parameter("i", 1), Parameter("f", .5), Parameter("b", True), Parameter("s", "x"), Parameter("fs", [0., 1.]),
                             Parameter("ss", ["a"]), Parameter("mixed", [1, "a"]), Parameter("empty", []), Parameter("any", None), Parameter("d", {}))}


@pytest.mark.parametrize("given, want", [
    ({"i": 2}, 2), ({"f": 2}, 2.0), ({"f": np.float32(.5)}, .5), ({"i": np.int64(3)}, 3), ({"b": False}, False), ({"s": Path("a/b")}, "a/b"),
    ({"fs": (1, .5)}, [1.0, .5]), ({"fs": np.array([1, 2])}, [1.0, 2.0]), ({"fs": []}, []), ({"mixed": ["b", 2]}, ["b", 2]),
    ({"empty": [1, "a"]}, [1, "a"]), ({"any": {"a": 1}}, {"a": 1}), ({"d": {"a": 1}}, {"a": 1})])
def test_good_values(given, want):
    (value,) = check_parameters(given, KNOWN).values()
    assert value == want and type(value) is type(want)
    if isinstance(want, list): assert [type(v) for v in value] == [type(v) for v in want]


@pytest.mark.parametrize("given", [{"i": 1.0}, {"i": True}, {"i": "1"}, {"f": "x"}, {"f": True}, {"b": 1}, {"s": 1}, {"s": None}, {"fs": .5},
                                   {"fs": ["a"]}, {"fs": "ab"}, {"ss": [1]}, {"mixed": [1.5]}, {"d": [1]}])
def test_ill_typed_values(given):
    with pytest.raises(TypeError, match=f"parameter {next(iter(given))} must be .*got"): check_parameters(given, KNOWN)


def test_unknown_names():
    with pytest.raises(ValueError, match="'mixd' is unknown .did you mean 'mixed'.*i, f, b"): check_parameters({"mixd": 1}, KNOWN)


def test_typed_values():
    values = parse_parameters([("i", "7"), ("f", "1e-3"), ("s", "12"), ("ss", "['x', 'y']"), ("fs", "0,.5"), ("b", "False"), ("any", "cpu:0")], KNOWN)
    assert values == {"i": 7, "f": 1e-3, "s": "12", "ss": ["x", "y"], "fs": (0, .5), "b": False, "any": "cpu:0"}
    with pytest.raises(ValueError, match="twice"): parse_parameters([("i", "1"), ("i", "2")], KNOWN)


# recorder

def test_recorder(tmp_path):
    rec = Recorder(tmp_path / "a/b", "r", {"vmr": [0, .5]})
    values = np.array([.5, .25, 1.])
    rec.metric("acc", values, paper=.4, floor=.3, verdict="ok", variant="paper", vmr=np.float64(.5))
    rec.metric("seconds", 3)
    fig, ax = plt.subplots()
    ax.plot([1, 2])
    assert rec.figure(fig, "lines") == tmp_path / "a/b/figures/lines.png"
    rec.table(pd.DataFrame({"x": [1, 2]}), "plain")
    rec.table(pd.DataFrame({"x": [1, 2]}, index=pd.Index([5, 6], name="row")), "indexed")
    assert rec.save() and sorted(files(tmp_path / "a/b")) == ["figures/lines.png", "metrics.json", "tables/indexed.csv", "tables/plain.csv"]
    read = load_metrics(tmp_path / "a/b")
    acc, seconds = read["metrics"]
    assert acc["mean"] == pytest.approx(values.mean()) and acc["std"] == pytest.approx(values.std(ddof=1)) and acc["n"] == 3
    assert acc["keys"] == {"variant": "paper", "vmr": .5} and (acc["paper"], acc["floor"], acc["verdict"]) == (.4, .3, "ok")
    assert seconds["std"] is None and seconds["values"] == [3.0] and read["parameters"] == {"vmr": [0, .5]}
    assert set(read) == {"name", "parameters", "headlines", "metrics", "files", "versions", "commit", "device", "started", "seconds"}
    assert set(read["versions"]) == {"python", "torch", "numpy", "scikit-learn", "mvnb"}
    assert round(Image.open(tmp_path / "a/b/figures/lines.png").info["dpi"][0]) == 100
    assert pd.read_csv(tmp_path / "a/b/tables/indexed.csv")["row"].tolist() == [5, 6]
    assert Image.open(rec.figure(fig, "lines")).size and read["files"].count("figures/lines.png") == 1
    plt.close(fig)


def test_recorder_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rec = Recorder(None, "r")
    rec.metric("acc", 1, a=1)
    rec.metric("acc", 2, a=1)
    assert rec.figure(plt.figure(), "f") is None and rec.table(pd.DataFrame(), "t") is None
    assert [m["mean"] for m in rec.save()["metrics"]] == [2.0] and not files(tmp_path)
    plt.close("all")


def test_recorder_refuses(tmp_path):
    rec = Recorder(tmp_path, "r")
    rec.metric("acc", 1, a=1)
    with pytest.raises(ValueError, match="acc was recorded before"): rec.metric("acc", 2, a=1)
    with pytest.raises(ValueError, match="at least one"): rec.metric("nmi", [])
    with pytest.raises(TypeError, match="nmi: values must be numbers"): rec.metric("nmi", "high")
    for name in ("../up", "a/b", "", ".hidden"):
        with pytest.raises(ValueError, match="name may hold"): rec.table(pd.DataFrame(), name)
    assert not files(tmp_path)


def test_non_finite_metrics_are_null(tmp_path):
    rec = Recorder(tmp_path, "r")
    rec.metric("acc", [float("nan"), 1.0])
    rec.save()
    acc = load_metrics(tmp_path)["metrics"][0]
    assert acc["values"] == [None, 1.0] and acc["mean"] is None and metrics_table(load_metrics(tmp_path))["acc"][0] == "n/a"


def test_parallel_readers_never_see_half_a_file(tmp_path):
    for k in (1, 300):
        rec = Recorder(tmp_path, "r")
        for i in range(k): rec.metric("acc", i, i=i)
        rec.save()
        assert len(load_metrics(tmp_path)["metrics"]) == k and sorted(files(tmp_path)) == ["metrics.json"]


def test_headlines_come_first_and_are_replaced_by_title(tmp_path, capsys):
    rec = Recorder(tmp_path, "r")
    rec.metric("acc", [.5, .7], model="a")
    for acc in (1, 60): rec.headline("accuracy", pd.DataFrame({"acc": [acc]}, index=pd.Index(["a"], name="model")))
    assert rec.save()["headlines"] == [{"title": "accuracy", "columns": ["model", "acc"], "rows": [["a", 60]]}]
    from mvnb.cli import main
    assert main(["show", str(tmp_path)]) in (0, None)
    out = capsys.readouterr().out
    assert "accuracy" in out and "60" in out and "0.600" not in out
    main(["show", str(tmp_path), "--all"])
    assert "0.600 ± 0.141" in capsys.readouterr().out


def test_a_folder_of_the_result_stays_for_a_stopped_run_and_goes_with_overwrite(tmp_path):
    from mvnb.repro import _prepare
    rec = Recorder(tmp_path, "r")
    (rec.folder("fit")).mkdir()
    (tmp_path / "fit/checkpoint").write_text("x")
    (tmp_path / "mine").mkdir()
    _prepare(tmp_path, "r", False)
    assert (tmp_path / "fit/checkpoint").exists(), "nothing finished: the next run continues"
    _prepare(tmp_path, "r", True)
    assert not (tmp_path / "fit").exists(), "overwrite clears an unfinished run too"
    rec.folder("fit").mkdir()
    rec.save()
    assert not (tmp_path / ".files.json").exists()
    _prepare(tmp_path, "r", True)
    assert not (tmp_path / "fit").exists() and (tmp_path / "mine").exists() and Recorder(None, "r").folder("fit") is None
    with pytest.raises(ValueError, match="letters, digits"): rec.folder("../elsewhere")


@pytest.mark.parametrize("text, message", [("[]", "not a notebook"), ('{"cells": 3}', "not a notebook"), ("{", "not a notebook")])
def test_files_that_are_no_notebooks_are_named(tmp_path, text, message):
    (tmp_path / "1_bad.ipynb").write_text(text)
    with pytest.raises(ValueError, match=f"1_bad.ipynb: {message}"): parameters(tmp_path / "1_bad.ipynb")


def test_magic_in_the_parameters_cell_is_named(tmp_path):
    with pytest.raises(ValueError, match="not plain Python"): parameters(write(tmp_path / "1_x.ipynb", settings="%matplotlib inline\nn = 1\nout = None"))


def test_failures_travel_between_processes():
    e = pickle.loads(pickle.dumps(NotebookFailed("n", 3, "KeyError: 'x'", "tail", "p")))
    assert (e.name, e.cell, e.error) == ("n", 3, "KeyError: 'x'") and "tail" in str(e)


def test_metrics_table():
    rec = Recorder(None, "r")
    rec.metric("acc", [.5, .7], vmr=.5, floor=.4)
    rec.metric("nmi", .25, vmr=.5)
    rec.metric("acc", .9, vmr=0, variant="mvnb", verdict="higher")
    table = metrics_table(rec.save(), digits=2)
    assert list(table.columns) == ["vmr", "variant", "acc", "acc floor", "nmi", "verdict"] and len(table) == 2
    assert table["acc"].tolist() == ["0.60 ± 0.14", "0.90"] and table["variant"].tolist() == ["", "mvnb"]


@pytest.mark.parametrize("content, message", [("", "truncated"), ("[1, 2]", "lacks name"), ("{\"name\": 1}", "lacks parameters, metrics"),
                                              ('{"name": "a", "parameters": {}, "versions": {}, "metrics": [{"name": "b"}]}', "incomplete metric")])
def test_bad_metrics_files(content, message, tmp_path):
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(ValueError, match=f"metrics.json: .*{message}"): load_metrics(tmp_path)


def test_truncated_or_missing_metrics(done, tmp_path):
    text = (done.folder / "metrics.json").read_text()
    for cut in (1, len(text) // 2, len(text) - 3):
        (tmp_path / "metrics.json").write_text(text[:cut])
        with pytest.raises(ValueError, match=f"{tmp_path}.*truncated"): load_metrics(tmp_path)
    with pytest.raises(FileNotFoundError, match="none.json"): load_metrics(tmp_path / "none.json")


# provenance

def git(folder, *args):
    env = {**os.environ, **{f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}}
    return subprocess.run(["git", "-C", str(folder), *args], env=env, check=True, capture_output=True, text=True).stdout.strip()


def test_commit(tmp_path, monkeypatch):
    monkeypatch.delenv("MVNB_COMMIT", raising=False)
    monkeypatch.setattr(repro, "_package_parent", lambda: tmp_path)
    assert repro.provenance()["commit"] is None
    monkeypatch.setenv("MVNB_COMMIT", "abc1234")
    assert repro.provenance()["commit"] == {"hash": "abc1234", "dirty": None}
    git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-qm", "one")
    assert repro.provenance()["commit"] == {"hash": git(tmp_path, "rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "a").write_text("2")
    assert repro.provenance()["commit"]["dirty"] is True
    (tmp_path / "venv/site-packages").mkdir(parents=True)
    monkeypatch.setattr(repro, "_package_parent", lambda: tmp_path / "venv/site-packages")
    assert repro.provenance()["commit"]["hash"] == "abc1234", "the repository around a virtual environment is not the package's"


# running

def test_a_run_leaves_everything(done, tiny):
    assert sorted(files(done.folder)) == ["metrics.json", "tiny.html", "tiny.ipynb"]
    total, where = done.metrics["metrics"]
    assert total["values"] == [5.0, 4.25] and done.metrics["parameters"]["n"] == 4
    assert where["keys"] == {"path": sys.executable, "cwd": os.getcwd()}
    cells = nbformat.read(done.notebook, 4).cells
    assert "injected-parameters" in [t for c in cells for t in c.metadata.get("tags", [])]
    assert "<html" in done.html.read_text() and nbformat.read(tiny, 4).cells[1].source == SETTINGS


@pytest.mark.parametrize("params, error", [({"m": 1}, ValueError), ({"n": "many"}, TypeError), ({"out": "x"}, ValueError)])
def test_bad_parameters_are_refused_before_anything_happens(params, error, tiny, done, tmp_path):
    with pytest.raises(error, match=next(iter(params))): run(tiny, params, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()
    before = files(done.folder)
    with pytest.raises(error): run(tiny, params, out=done.folder, overwrite=True)
    assert files(done.folder) == before


def test_a_finished_result_is_not_overwritten_by_accident(tiny, done, tmp_path):
    before = files(done.folder)
    with pytest.raises(FileExistsError, match="overwrite=True"): run(tiny, out=done.folder)
    assert files(done.folder) == before
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="not a folder"): run(tiny, out=tmp_path / "file")


def test_a_notebook_without_out_is_refused(tmp_path):
    with pytest.raises(ValueError, match="parameter `out`"): run(write(tmp_path / "1_x.ipynb", settings="n = 1"), out=tmp_path / "o")


@pytest.mark.parametrize("todo, cell, error", [("raise", 4, "KeyError: 'lost'"), ("late", 5, "ZeroDivisionError"), ("die", 4, "DeadKernelError"),
                                               ("forget", None, "without metrics.json")])
def test_failures_name_the_cell_and_leave_no_result(todo, cell, error, tiny, tmp_path):
    rec = Recorder(tmp_path, "tiny")
    rec.table(pd.DataFrame({"x": [1]}), "old")
    rec.save()
    for kept in ("tables/mine.csv", "notes.txt"): (tmp_path / kept).write_text("mine")
    with pytest.raises(NotebookFailed, match="notebook tiny failed") as caught: run(tiny, {"todo": todo}, out=tmp_path, overwrite=True, progress=False)
    assert caught.value.cell == cell and error in caught.value.error
    left = sorted(files(tmp_path))
    assert left == sorted(["notes.txt", "tables/mine.csv", "tiny.failed.ipynb"] + (["tiny.failed.json"] if todo == "late" else []))
    assert caught.value.path == tmp_path / "tiny.failed.ipynb"
    if todo == "late": assert "1 / 0" in str(caught.value) and load_metrics(tmp_path / "tiny.failed.json")["metrics"]


def test_overwriting_removes_only_files_inside_the_folder(tiny, tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    rec = Recorder(tmp_path / "o", "tiny")
    rec.files = ["../precious.txt"]
    rec.save()
    repro._prepare(tmp_path / "o", "tiny", overwrite=True)
    assert (tmp_path / "precious.txt").exists() and not (tmp_path / "o/metrics.json").exists()


@pytest.mark.slow
def test_interrupting_leaves_a_failed_notebook(tiny, tmp_path):
    command = [sys.executable, "-m", "mvnb.repro", str(tiny), "-p", "todo", "sleep", "--out", str(tmp_path / "o"), "--quiet"]
    hear = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background of a shell ignores it, and so would its children
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=hear)
    partial, deadline = tmp_path / "o/tiny.partial.ipynb", time.monotonic() + 60
    while time.monotonic() < deadline and not (partial.exists() and partial.read_text().count('"status": "completed"') >= 3): time.sleep(.2)
    time.sleep(.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "mvnb: interrupted\n" in errors and sorted(files(tmp_path / "o")) == ["tiny.failed.ipynb"]


@pytest.mark.slow
def test_plain_papermill_does_the_same(tiny, done, tmp_path):
    command = [sys.executable, "-m", "papermill", str(tiny), str(tmp_path / "plain.ipynb"), "-k", "python3", "--language", "python", "-p", "n", "4",
               "-y", "rates: [1.0, 0.25]", "-p", "out", str(tmp_path / "made"), "--no-progress-bar"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert load_metrics(tmp_path / "made")["metrics"][0] == done.metrics["metrics"][0]


@pytest.mark.slow
def test_images_are_inside_the_page_and_braces_in_paths_are_harmless(tmp_path):
    body = ("import matplotlib.pyplot as plt\nfrom mvnb.repro import Recorder\nrec = Recorder(out, 'pic')\nfig, ax = plt.subplots()\nax.plot([n])\n"
            "rec.metric('n', n); rec.figure(fig, 'line'); rec.save()\nplt.show()")
    done = run(write(tmp_path / "1_pic.ipynb", body, settings="n = 1\nout = None"), out=tmp_path / "a {b}", progress=False)
    assert "data:image/png;base64" in done.html.read_text() and done.files == [tmp_path / "a {b}/figures/line.png"]
    assert json.loads((done.folder / "metrics.json").read_text())["name"] == "pic"


# --- trainings side by side

def note(path, what, seconds=0.):
    "Leave a file that says when it was written, by whom and with how many threads; what = die: leave nothing."
    time.sleep(seconds)
    if what == "die": os.kill(os.getpid(), signal.SIGKILL)
    Path(path).write_text(f"{time.time()} {os.getpid()} {os.environ.get('OMP_NUM_THREADS')}")


def test_side_by_side_starts_the_longest_first_and_reads_in_order(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    read = []
    seconds = repro.side_by_side([1, 3, 2, 4], note, lambda c: ((tmp_path / str(c), ""), {"seconds": .02}), read.append, processes=2, cost=lambda c: c, title=lambda c: f"cell {c}")
    when, who, threads = zip(*[(tmp_path / str(c)).read_text().split() for c in (1, 2, 3, 4)])
    lines = capsys.readouterr().out.splitlines()
    assert read == [1, 3, 2, 4] and set(threads) == {"1"} and len({*who, str(os.getpid())}) == 5 and os.environ["OMP_NUM_THREADS"] == "7"
    assert sorted(when).index(when[0]) >= 2 and not any(line.endswith("cell 1") for line in lines[:2]) and len(lines) == 4 and seconds > 0  # the shortest began after two had ended


def test_a_stopped_process_is_trained_here(tmp_path, capsys):
    def read(cell):
        if not (tmp_path / cell).exists(): raise RuntimeError(f"nothing of {cell}")
    job = {"good": ((tmp_path / "good", ""), {}), "bad": ((tmp_path / "bad", "die"), {})}.__getitem__
    with pytest.raises(RuntimeError, match="nothing of bad"): repro.side_by_side(["good", "bad"], note, job, read, processes=2)
    lines = {line.split(" s: ")[1] for line in capsys.readouterr().out.splitlines()}
    assert lines == {"good", "bad stopped"}


def test_a_failure_here_stops_the_processes(tmp_path):
    def job(cell):
        if cell == "wrong": raise KeyError(cell)
        return (tmp_path / cell, ""), {"seconds": 30.}
    begin = time.monotonic()
    with pytest.raises(KeyError, match="wrong"): repro.side_by_side(["slow", "wrong"], note, job, print, processes=2)
    for child in multiprocessing.active_children(): child.join(20)
    assert not multiprocessing.active_children() and time.monotonic() - begin < 25 and not (tmp_path / "slow").exists()


def test_one_process_starts_no_other(capsys):
    read = []
    assert repro.side_by_side(["a", "b"], pytest.fail, pytest.fail, read.append) >= 0
    assert read == ["a", "b"] and [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == ["a", "b"]
    with pytest.raises(ValueError, match="processes"): repro.side_by_side([], print, print, print, processes=0)
