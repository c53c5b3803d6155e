"mvnb.sweeps: specs, grouping, and that nothing finished is lost or run twice, whatever is killed."
import ast
import errno
import importlib.util
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import nbformat
import psutil
import pytest

from mvnb import cli, repro, sweeps
from mvnb.sweeps import finished, groups, job, load_spec, plan, points, run, work

SETTINGS = "n = 1          # a number\nrate = [0.0, 0.5]  # per-run\nkind = ['a']   # per-run\ntodo = ''      # what goes wrong\nout = None"
BODY = """import os, time
if todo == "worker": os.kill(os.getppid(), 9); time.sleep(60)
if todo == "kernel": os.kill(os.getpid(), 9)
if todo == "error": raise KeyError("lost")
if todo == "shown":
    import inspect
    from IPython.display import HTML
    display(HTML(inspect.getsource(inspect.unwrap)))
    import matplotlib.pyplot
    display(matplotlib.pyplot.figure())
if todo == "disk": open(os.path.join(out, "big"), "wb").write(b"0" * 10**7)
from mvnb.repro import Recorder
rec = Recorder(out, "tiny", dict(n=n, rate=rate, kind=kind))
for r in rate: rec.metric("sum", [n + r, n - r], rate=r, threads=os.environ["OMP_NUM_THREADS"])
rec.save()"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    cells = [nbformat.v4.new_markdown_cell("# Tiny"), nbformat.v4.new_code_cell(SETTINGS, metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(BODY)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "95_tiny.ipynb")
    monkeypatch.setenv("MVNB_NOTEBOOKS", str(tmp_path))
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['rfc3987_syntax'] = None")  # a grammar that jsonschema would compile for a second in every process
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def spec(home, text, name="s.yaml", **kw):
    (home / name).write_text(text)
    return load_spec(home / name, **kw)


def one(body, **kw): return "runs:\n- notebook: tiny\n" + "".join(f"  {line}\n" for line in body.split("\n"))
def program(*codes, more=""): return "runs:\n" + "".join(f"- command: [-c, {json.dumps(c)}]\n  {more}\n" for c in codes)
LATE = "import os, time\nif not os.path.exists('{out}/../killed'): open('{out}/../killed', 'w').write(str(os.getppid())); time.sleep(60)"  # its worker is to be killed


def kill_late(out):
    "Kill the worker of LATE as soon as it is at it."
    return subprocess.Popen([sys.executable, "-c", f"""import os, time, pathlib
trace = pathlib.Path({str(out / 'killed')!r})
while not (trace.exists() and trace.read_text()): time.sleep(.05)
os.kill(int(trace.read_text()), 9)"""])


def folders(out): return sorted(p.name for p in Path(out).iterdir() if p.is_dir() and not p.name.startswith("."))


def wait(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(.05)


# specs

GOOD = one("params: {todo: ''}\ngrid: {n: [1, 2], rate: [0, 1e-1]}")


@pytest.mark.parametrize("text, message", [
    ("", "must be a mapping"), ("- a", "must be a mapping"), ("runs: []", "runs must be a list"), ("run: []", "key 'run' is unknown .did you mean 'runs'"),
    ("runs: [{notebook: tiny, gird: {}}]", r"runs\[0\]: key 'gird' is unknown .did you mean 'grid'.*choose from: notebook, command"),
    ("runs: [{params: {}}]", r"runs\[0\]: needs either notebook or command"), ("runs: [{notebook: tinny}]", "did you mean 'tiny'"), ("runs: [{notebook: no.ipynb}]", "no.ipynb"),
    (one("grid: {m: [1]}"), "parameter 'm' is unknown.*choose from: n, rate"), (one("grid: {n: [1, x]}"), "parameter n must be int.*'x'"),
    (one("grid: {rate: [0, a]}"), "parameter rate must be list of float"), (one("grid: {n: 1}"), "grid: n must be a list"), (one("grid: {n: []}"), "grid: n must be a list"),
    (one("grid: {rate: [0, 0.0]}"), "grid: rate lists 0.0 twice"), (one("params: {n: 1}\ngrid: {n: [1]}"), "in params and in grid"), (one("params: {out: x}"), "'out' is unknown"),
    (one("grid: {n: [1]}\nsplit: [n]"), "split='n' is unknown"), (one("params: [1]"), "params must be a mapping"), ("params: [1]\n" + one("params: {n: 1}"), "params must be a mapping"), (one("resources: {GPU: many}"), "resources: GPU must be a number"),
    (one("params: {n: 1, n: 2}"), "key 'n' is given twice"), ("runs: [{command: x}]", "command must be a list"), ("runs: [{command: [x], grid: {n: [1]}}]", "takes no grid"),
    ("runs: [{command: ['{n}'], params: {m: 1}}]", "no word of the command is {m}"), ("runs: [{command: ['{out}'], params: {out: x}}]", "no word of the command is {out}"),
    ("runs: [", "not a spec")])
def test_bad_specs_name_the_culprit(text, message, home):
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message) as e: spec(home, text)
    assert "s.yaml" in str(e.value) and "\n" not in str(e.value)


def test_overrides_replace_fixed_values_and_grids(home):
    made = spec(home, GOOD, params={"n": 7}, out="o")
    assert {p.params["n"] for p in points(made)} == {7} and len(points(made)) == 2 and made.out == home / "o"
    with pytest.raises(ValueError, match="'m' is of no notebook"): spec(home, GOOD, params={"m": 7})
    with pytest.raises(FileNotFoundError, match="no.yaml"): load_spec("no.yaml")


def test_a_command_is_given_its_parameters(home):
    text = """runs:
- command: [-c, "import sys; open(sys.argv[1] + '/said', 'w').write(' '.join(sys.argv[2:]) + str({}))", "{out}", "{n}", "-{rate}-{n}", "{kind}"]
  params: {n: 3, rate: 1e-1}
"""
    made = spec(home, text, params={"rate": 1})
    (group,) = groups(points(made))
    assert work(job(group, made.out))["state"] == "done" and "rate=1.0" in str(group)
    assert (made.out / group.key / "said").read_text() == "3 -1.0-3 {kind}{}"
    assert group.key != groups(points(spec(home, text)))[0].key
    with pytest.raises(TypeError, match="parameter n must be int"): spec(home, text, params={"n": "x"})
    with pytest.raises(ValueError, match="'command' is of no notebook"): spec(home, text, params={"command": "x"})


def test_the_committed_specs_are_whole(root, monkeypatch):
    monkeypatch.chdir(root)
    monkeypatch.setenv("MVNB_NOTEBOOKS", str(root / "nbs/repro"))
    made = {path.stem: load_spec(path, out="o") for path in sorted((root / "sweeps").glob("*.yaml"))}
    assert {e.name for e in made["gpu"].entries} == {"command", *repro.notebooks()}            # all reproductions, and what else `make gpu` runs
    assert len(points(made["robustness"])) == 40 and len(groups(points(made["robustness"]))) == 2


# points and groups

def test_keys(home, monkeypatch):
    keys = [p.key for p in points(spec(home, GOOD))]
    assert len(set(keys)) == 4 and keys == [p.key for p in points(spec(home, GOOD.replace("todo: ''", "kind: [a]")))]  # a default, named or not
    assert keys[0] == groups(points(spec(home, GOOD))[:1])[0].key
    raw = (home / "95_tiny.ipynb").read_text()
    (home / "95_tiny.ipynb").write_text(raw.replace("# Tiny", "# Prose"))
    assert keys == [p.key for p in points(spec(home, GOOD))]
    (home / "95_tiny.ipynb").write_text(raw.replace("rec.save()", "rec.save() "))
    assert not set(keys) & {p.key for p in points(spec(home, GOOD))}
    (home / "95_tiny.ipynb").write_text(raw)
    monkeypatch.setattr(sweeps, "__version__", "9")
    assert not set(keys) & {p.key for p in points(spec(home, GOOD))}


def test_what_is_grouped(home):
    assert [g.params["rate"] for g in groups(points(spec(home, GOOD)))] == [[0.0, .1]] * 2
    assert [g.params["rate"] for g in groups(points(spec(home, GOOD + "  split: [rate]\n")))] == [[0.0], [.1]] * 2
    assert [g.params["rate"] for g in groups(points(spec(home, one("grid: {rate: [[0], [0, 1]]}"))))] == [[0.0], [0.0, 1.0]]


def test_every_missing_point_is_in_exactly_one_full_product(home):
    every = points(spec(home, one("grid: {n: [1, 2], rate: [0, 1, 2], kind: [a, b, c]}")))
    rng = random.Random(0)
    for _ in range(50):
        todo = rng.sample(every, rng.randint(1, len(every)))
        made = groups(todo)
        assert sorted(p.key for g in made for p in g.points) == sorted(p.key for p in todo)
        for g in made:
            assert {tuple(p.values.values()) for p in g.points} == set(itertools.product(*g.axes.values()))
    assert len(groups(every)) == 2


# locks

def test_locks_are_exclusive_die_with_their_process_and_leave_nothing(tmp_path):
    code = f"import sys, time; from pathlib import Path; from mvnb.sweeps import _claim\nwith _claim(Path({str(tmp_path)!r}), ['a', 'b']) as mine: print(mine, flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "True\n"
        with sweeps._claim(tmp_path, ["b", "c"]) as mine: assert not mine
        with sweeps._claim(tmp_path, ["c"]) as mine: assert mine
    finally: other.kill(); other.wait()
    with sweeps._claim(tmp_path, ["a", "b"]) as mine: assert mine
    assert not list((tmp_path / ".locks").iterdir())


# the store: one worker in this process

def test_a_group_is_renamed_when_whole_and_never_run_twice(home):
    made = spec(home, GOOD)
    group = groups(points(made))[0]
    assert work(job(group, made.out, threads=1))["state"] == "done"
    assert folders(made.out) == [group.key] and not list(made.out.glob(".*.tmp")) and not list((made.out / ".locks").iterdir())
    kept = repro.load_metrics(made.out / group.key)
    assert [m["values"] for m in kept["metrics"]] == [[1.0, 1.0], [1.1, .9]] and kept["metrics"][0]["keys"]["threads"] == "1"
    assert work(job(group, made.out)) == {"state": "done", "seconds": 0.0}
    assert {k for k in finished(made.out)} == {p.key for p in group.points} and repro.load_metrics(made.out / group.key) == kept
    wider = spec(home, GOOD.replace("1e-1]", "1e-1, 3]"))
    assert [(g.params["n"], g.params["rate"]) for g in plan(wider).groups] == [(1, [3.0]), (2, [0.0, .1, 3.0])]
    whole = (made.out / group.key / "metrics.json").read_text()
    (made.out / group.key / "metrics.json").write_text(whole[:-20])                        # truncated: not finished
    assert not finished(made.out) and len(plan(made).groups) == 2
    (made.out / group.key / "metrics.json").write_text(whole)
    (made.out / group.key / "sweep.json").unlink()
    sweeps._known.clear()
    assert not finished(made.out)


def test_a_changed_notebook_or_version_is_refused(home):
    made = spec(home, GOOD)
    task = job(groups(points(made))[0], made.out)
    assert "planned with mvnb 9" in work(task | {"version": "9"})["error"]
    assert "not what it was" in work(task | {"source": "x"})["error"] and not finished(made.out)


def test_what_a_notebook_raises(home, monkeypatch):
    made = spec(home, one("params: {todo: error}"))
    got = work(job(groups(points(made))[0], made.out))
    assert got["state"] == "failed" and got["cell"] == 3 and "KeyError: 'lost'" in got["error"] and 'todo == "error"' in got["tail"]
    assert Path(got["path"]).is_file() and folders(made.out) == [f"{groups(points(made))[0].key}.failed"] and not finished(made.out)
    for raised, state in ((repro.NotebookFailed("x", 1, "OutOfMemoryError: CUDA out of memory.", "", Path("x")), "memory"), (MemoryError(), "memory"),
                          (repro.NotebookFailed("x", 1, "DeadKernelError: Kernel died", "", Path("x")), "lost"),
                          (repro.NotebookFailed("x", None, "RuntimeError: Kernel died before replying to kernel_info", "", Path("x")), "lost"), (OSError(errno.ENOSPC, "No space left on device"), "full")):
        def fail(*args, **kw): raise raised
        monkeypatch.setattr(repro, "run", fail)
        assert work(job(groups(points(made))[0], made.out))["state"] == state and not finished(made.out)


def test_a_full_disk_leaves_nothing_half_written(home):
    disk = home / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], capture_output=True).returncode: pytest.skip("cannot mount a small disk")
    try:
        made = spec(home, one("grid: {todo: [disk]}") , out=disk)
        report = run(made, jobs=1, progress=False)
        assert report.exit_code == 1 and "is full" in report.cut and "[Errno 28]" in report.failed[0]["error"] and not finished(disk) and folders(disk) == []
    finally: subprocess.run(["umount", disk], check=True)


def test_without_papermill_the_same_points_run_as_plain_programs(home, monkeypatch):
    monkeypatch.setattr(repro, "papermill", None)
    (home / "sitecustomize.py").write_text("import sys\nfor name in ('papermill', 'nbformat', 'ipykernel', 'IPython'): sys.modules[name] = None")  # as if they were not installed
    made = spec(home, one("grid: {todo: [shown, error, kernel], rate: [.25]}"))
    got = [work(job(g, made.out)) for g in groups(points(made))]
    assert [g["state"] for g in got] == ["done", "failed", "lost"] and "KeyError: 'lost'" in got[1]["error"] and got[1]["cell"] == 3 and "signal 9" in got[2]["error"], got
    (done,) = [f for f in folders(made.out) if not f.endswith(".failed")]
    assert repro.load_metrics(made.out / done)["metrics"][0]["values"] == [1.25, .75]


@pytest.mark.parametrize("path", sorted((Path(__file__).resolve().parent.parent / "nbs/repro").glob("*.ipynb")), ids=lambda p: p.stem)
def test_every_reproduction_can_run_as_a_plain_program(path):
    for cell in repro._read_json(path).cells:
        if cell.cell_type != "code": continue
        nodes = list(ast.walk(ast.parse(cell.source)))                                     # a %magic or !command is a SyntaxError
        used = {name.name for n in nodes if isinstance(n, ast.Import) for name in n.names} | {n.module for n in nodes if isinstance(n, ast.ImportFrom)}
        assert not {m for m in used if m.split(".")[0] in ("papermill", "nbformat", "nbclient", "ipykernel", "ipywidgets", "jupyter_client") or m == "mvnb.explore"}
        assert not [n for n in nodes if isinstance(n, ast.Name) and n.id == "get_ipython"]


# retries, with an engine that answers what the test wants

class Fake:
    lost = None
    def __init__(self, answers): self.answers, self.asked = answers, []
    def capacity(self, need): return 2
    def submit(self, job, need):
        self.asked.append(job["params"]["n"])
        future = Future()
        future.set_result({"state": self.answers[job["params"]["n"]].pop(0), "seconds": 1.0, "error": "because"})
        return future
    def close(self): self.closed = True


class Inline:
    "Does its jobs in this process: enough to take up what others left, and cheap."
    lost = None
    def __init__(self, jobs, needs): pass
    def capacity(self, need): return 1
    def close(self): pass
    def submit(self, job, need):
        future = Future()
        future.set_result(work(job))
        return future


def test_retries_are_for_lost_workers_and_memory_only(home, monkeypatch, capsys):
    fake = Fake({1: ["lost", "memory", "done"], 2: ["failed"], 3: ["lost"] * 3, 4: ["done"]})
    monkeypatch.setattr(sweeps, "_Local", lambda *args: fake)
    sleep = time.monotonic
    monkeypatch.setattr(sweeps.time, "monotonic", lambda: sleep() * 20)
    report = run(spec(home, one("grid: {n: [1, 2, 3, 4]}")), progress=False)
    assert sorted(fake.asked) == [1, 1, 1, 2, 3, 3, 3, 4] and fake.closed
    assert (report.done, report.exit_code, [f["attempts"] for f in report.failed]) == (2, 1, [1, 3])
    err = capsys.readouterr().err
    assert "FAILED tiny n=2\nbecause" in err and "again (2 of 2): tiny n=3" in err and "2 of 4 points are done" in str(report)


def test_workers_that_left_for_good_end_the_sweep(home, monkeypatch):
    fake = Fake({})
    fake.capacity = lambda need: 0
    monkeypatch.setattr(sweeps, "_Local", lambda *args: fake)
    monkeypatch.setattr(sweeps, "_PATIENCE", .5)
    report = run(spec(home, GOOD), progress=False)
    assert report.cut.startswith("for 0.5 s no worker was there") and (report.exit_code, report.done, fake.asked, fake.closed) == (1, 0, [], True)


@pytest.mark.parametrize("gpus, seen, jobs, need, expected", [
    (0, None, 2, {}, [None, None]), (1, None, 2, {}, ["0", "0"]), (2, None, 3, {}, ["0", "1", "0"]), (2, None, 3, {"GPU": 1}, ["0", "1"]), (4, None, 1, {"GPU": 1}, ["0"]),
    (2, "5,3,1", 3, {}, ["5", "3", "5"]), (1, "GPU-8a", 1, {"GPU": 1}, ["GPU-8a"]), (0, "", 1, {"GPU": 0}, [None])])
def test_each_worker_sees_one_gpu(gpus, seen, jobs, need, expected, monkeypatch):
    monkeypatch.setattr(sweeps.torch.cuda, "device_count", lambda: gpus)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen is not None: monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    assert [p.get("CUDA_VISIBLE_DEVICES") for p in sweeps._places(jobs, [need])] == expected
    with pytest.raises(ValueError, match="no worker of this machine has GPU=2; a worker there offers " + ("GPU=1" if gpus else "nothing")): sweeps._places(jobs, [need, {"GPU": 2}])


def test_a_cluster_is_handed_no_more_than_it_can_run_at_once():
    dask = object.__new__(sweeps._Dask)
    dask.there = [{"nthreads": 1, "resources": {"GPU": 1}}, {"nthreads": 4, "resources": {}}, {"nthreads": 4, "resources": {"GPU": 2, "RAM": 9}}]
    dask.asked = time.monotonic() + 60
    assert [dask.capacity(need) for need in ({}, {"GPU": 1}, {"GPU": 2}, {"GPU": .5}, {"GPU": 1, "RAM": 5}, {"RAM": 10})] == [9, 3, 1, 5, 1, 0]


def test_bad_requests_are_refused_at_once(home):
    made = spec(home, one("resources: {GPU: 99}"))
    for engine in ("local", *["dask"][:importlib.util.find_spec("distributed") is not None]):
        with pytest.raises(ValueError, match="no worker of this machine has GPU=99"): run(made, engine=engine, progress=False)
    for kw in ({"engine": "ray"}, {"jobs": 0}, {"threads": 0}, {"retries": -1}, {"minutes": 0}, {"scheduler": "tcp://x"}):
        with pytest.raises(ValueError, match=next(iter(kw))): run(spec(home, GOOD), progress=False, **kw)
    assert not made.out.exists()


# engine local, real processes

@pytest.mark.slow
def test_a_killed_worker_is_replaced(home):
    made = spec(home, program(LATE))
    killer = kill_late(made.out)
    report = run(made, jobs=1, progress=False)
    killer.wait()
    assert (report.done, report.exit_code) == (1, 0) and not list(made.out.glob(".*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("engine, said", [("local", "the worker process died (SIGKILL)"), ("dask", "the worker died (tcp://")])
def test_a_notebook_that_kills_its_worker_fails_after_its_retries_and_the_rest_goes_on(engine, said, home, capfd):
    if engine == "dask": pytest.importorskip("distributed")
    made = spec(home, one("params: {todo: worker}") + program("print(1)", "print(2)").removeprefix("runs:\n"))
    report = run(made, engine=engine, jobs=1, retries=1, progress=False)
    (failed,) = report.failed
    assert (report.done, report.exit_code, failed["attempts"]) == (2, 1, 2) and failed["error"].startswith(said) and len(finished(made.out)) == 2
    err = capfd.readouterr().err
    assert err.count(f"again (1 of 1): tiny todo=worker: {said}") == 1 and err.count(f"FAILED tiny todo=worker\n{said}") == 1


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "dask"])
def test_jobs_that_need_a_gpu_run_at_once_and_each_has_its_own(engine, home, monkeypatch):
    if engine == "dask": pytest.importorskip("distributed")
    monkeypatch.setattr(sweeps.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3,1")
    meet = "import os, time; open('seen{i}', 'w').write(os.environ['CUDA_VISIBLE_DEVICES'])\nfor _ in range(900):\n    if not os.path.exists('seen{j}'): time.sleep(.1)"
    made = spec(home, program(meet.format(i=0, j=1), meet.format(i=1, j=0), more="resources: {GPU: 1}"))
    report = run(made, engine=engine, jobs=3, progress=False)
    assert report.done == 2 and {(home / f"seen{i}").read_text() for i in range(2)} == {"5", "3"} and report.seconds < 80


def hear_ctrl_c(): signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background of a shell ignores it, and so would its children


def cli_sweep(*args, **kw):
    return subprocess.Popen([sys.executable, "-m", "mvnb.cli", "sweep", "s.yaml", "--quiet", "--jobs", "1", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c, **kw)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_sweep_leaves_no_process_and_is_taken_up_again(how, home, monkeypatch):
    made = spec(home, program("print(1)", f"import os, time; open({str(home / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60 if not os.path.exists('go') else 0)"))
    sweep = cli_sweep()
    wait(lambda: (home / "pid").exists() and (home / "pid").read_text())
    command = psutil.Process(int((home / "pid").read_text()))
    worker = command.parent()
    sweep.send_signal(how)
    _, err = sweep.communicate(timeout=180)
    assert sweep.returncode == (-9 if how == signal.SIGKILL else 130) and "Traceback" not in err
    assert how == signal.SIGKILL or "1 of 2 points are done; the same command goes on" in err
    wait(lambda: not (command.is_running() or worker.is_running()))
    first = folders(made.out)
    assert len(first) == 1 and len(list(made.out.glob(".*.tmp"))) == 1
    before = (made.out / first[0] / "metrics.json").stat().st_mtime_ns
    (home / "go").touch()
    (made.out / ".0123.tmp").mkdir()                                                       # nobody's
    monkeypatch.setattr(sweeps, "_Local", Inline)
    report = run(made, jobs=1, progress=False)
    assert (report.before, report.done, report.exit_code) == (1, 1, 0) and not list(made.out.glob(".*.tmp"))
    assert (made.out / first[0] / "metrics.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_two_sweeps_at_once_run_each_point_once(home, monkeypatch):
    made = spec(home, program(*[f"import time; open('trace', 'a').write('{i} '); time.sleep(.5)" for i in range(6)]))
    other = cli_sweep()
    wait(lambda: (home / "trace").exists())
    monkeypatch.setattr(sweeps, "_Local", Inline)
    report = run(made, progress=False)
    out, err = other.communicate(timeout=240)
    assert (report.exit_code, other.returncode) == (0, 0) and "6 of 6 points are done" in out, err
    assert sorted((home / "trace").read_text().split()) == list("012345") and len(finished(made.out)) == 6


def test_what_was_cut_goes_late_and_what_failed_last(home):
    made = spec(home, program("1", "2", "3"))
    failed, cut, new = [g.key for g in plan(made).groups]
    (made.out / f"{failed}.failed").mkdir(parents=True)
    (made.out / f".{cut}.tmp").mkdir()
    assert [g.key for _, g in sweeps._Sweep(made, 1, 0, None, False).waiting] == [new, cut, failed]


def test_minutes_cut_and_the_cut_one_goes_last(home, capsys):
    made = spec(home, program("import time, os; time.sleep(0 if os.path.exists('go') else 60)", "print(1)"))
    report = run(made, jobs=1, minutes=.1, progress=False)
    assert report.cut == "minutes" and report.exit_code == 3 and report.done < 2
    (home / "go").touch()
    (made.out / f".{plan(made).groups[0].key}.tmp").mkdir(parents=True, exist_ok=True)      # on a slow machine it had not begun
    assert [g.key for _, g in sweeps._Sweep(made, 1, 0, None, False).waiting][-1] == plan(made).groups[0].key
    assert cli.main(["sweep", "s.yaml", "--dry-run"]) == 0
    assert "2 points, 0 done; 2 groups to run, about unknown" in capsys.readouterr().out


# engine dask

@pytest.mark.slow
def test_dask_gives_the_same_numbers_and_survives_a_killed_worker(home):
    pytest.importorskip("distributed")
    text = one("grid: {n: [1], rate: [0, 1e-1]}")
    made, there = spec(home, text, out=home / "local"), spec(home, text + program(LATE).removeprefix("runs:\n"), out=home / "dask")
    killer = kill_late(there.out)
    a, b = run(made, jobs=1, progress=False), run(there, engine="dask", jobs=1, progress=False)
    killer.wait()
    assert (a.exit_code, b.exit_code, b.done) == (0, 0, 3) and set(folders(made.out)) < set(folders(there.out))
    for key in folders(made.out):
        assert repro.load_metrics(made.out / key)["metrics"] == repro.load_metrics(there.out / key)["metrics"]


@pytest.fixture
def cluster(home):
    "A scheduler and a worker that no sweep owns: the address and both processes."
    pytest.importorskip("distributed")
    scheduler = subprocess.Popen([sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", ":0", "--scheduler-file", str(home / "file")], stderr=subprocess.DEVNULL)
    worker = subprocess.Popen([sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(home / "file"), "--nthreads", "1", "--no-dashboard", "--death-timeout", "60", "--resources", "GPU=1"],
                              stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait(lambda: (home / "file").exists() and (home / "file").read_text())
        yield json.loads((home / "file").read_text())["address"], scheduler, worker
    finally:
        scheduler.kill(); scheduler.wait()
        if worker.poll() is None: os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


@pytest.mark.slow
def test_dask_refuses_and_a_lost_scheduler_is_said(home, cluster, monkeypatch):
    address, scheduler, worker = cluster
    with pytest.raises(OSError, match="none answers at tcp://127.0.0.1:9"): run(spec(home, GOOD), engine="dask", scheduler="tcp://127.0.0.1:9", progress=False)
    with pytest.raises(ValueError, match="no worker of .* has GPU=2; a worker there offers GPU=1"):
        run(spec(home, one("resources: {GPU: 2}")), engine="dask", scheduler=address, progress=False)
    made = spec(home, program("print(1)", f"import os, time; open({str(home / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60 if not os.path.exists('go') else 0)"))
    sweep = cli_sweep("--engine", "dask", "--scheduler", address)
    wait(lambda: (home / "pid").exists() and len(finished(made.out)) == 1)
    scheduler.kill()
    out, err = sweep.communicate(timeout=180)
    assert sweep.returncode == 1 and "the scheduler is lost" in out and "1 of 2 points are done" in out, (out, err)
    assert len(finished(made.out)) == 1
    os.killpg(worker.pid, signal.SIGKILL); worker.wait()
    (home / "go").touch()
    monkeypatch.setattr(sweeps, "_Local", Inline)
    report = run(made, jobs=1, progress=False)
    assert (report.before, report.done, report.exit_code) == (1, 1, 0)


@pytest.mark.slow
def test_dask_a_job_that_outlives_its_client_is_not_run_twice_nor_read_half_written(home, cluster, monkeypatch):
    half = "import os, time; open('trace', 'a').write('b'); open('{out}/metrics.json', 'w').write('{')\nwhile not os.path.exists('go'): time.sleep(.05)"
    made = spec(home, program("open('trace', 'a').write('a')", half, "open('trace', 'a').write('c')"))
    trace, there = home / "trace", ("--engine", "dask", "--scheduler", cluster[0])
    client = cli_sweep(*there)
    wait(lambda: trace.exists() and trace.read_text() == "ab")
    client.kill(); client.communicate()
    assert len(finished(made.out)) == 1
    again = cli_sweep(*there)                                                              # on the cluster and, beside it, on this machine, while b is still at it
    monkeypatch.setattr(sweeps, "_Local", Inline)
    with ThreadPoolExecutor(1) as pool:
        here = pool.submit(run, made, progress=False)
        wait(lambda: len(finished(made.out)) == 2)
        assert trace.read_text() == "abc" and not here.done() and again.poll() is None
        (home / "go").touch()
        out, err = again.communicate(timeout=240)
    assert (here.result().exit_code, again.returncode) == (0, 0) and "3 of 3 points are done" in out, err
    assert trace.read_text() == "abc" and len(finished(made.out)) == 3


def test_without_distributed_the_extra_is_named(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=r"mvnb\[cluster\]"): run(spec(home, GOOD), engine="dask", progress=False)
