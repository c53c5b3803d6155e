"The mvnb command: what it prints, its exit codes, and that bad usage is one line."
import subprocess
import sys

import nbformat
import pytest

from mvnb import cli, repro
from mvnb.cli import Command, main

BODY = """from mvnb.repro import Recorder
rec = Recorder(out, "squares")
rec.metric("square", [n**2, n**2 + 2], n=n)
if n < 0: raise ValueError("n is negative")
rec.save()"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    tagged = nbformat.v4.new_code_cell("n = 2  # base\nscale = 'cpu'  # smoke, cpu or paper\nout = None", metadata={"tags": ["parameters"]})
    cells = [nbformat.v4.new_markdown_cell("# Squares\n\n> They grow."), tagged, nbformat.v4.new_code_cell(BODY)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "96_squares.ipynb")
    (tmp_path / "grid.yaml").write_text("out: o\nruns:\n- notebook: squares\n  grid: {n: [2, -1]}\n")
    monkeypatch.setenv("MVNB_NOTEBOOKS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_list_and_info(folder, capsys):
    assert main(["list"]) == 0
    assert capsys.readouterr().out == "squares: Squares\n    They grow.\n    n=2 scale='cpu'\n"
    assert main(["info", "squares"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["Squares", "They grow."] and [line.split() for line in lines[3:]] == [["n", "2", "int", "base"],
                                                                                          ["scale", "'cpu'", "str", "smoke,", "cpu", "or", "paper"]]


def test_run_show_and_refusals(folder, capsys):
    assert main(["run", "squares", "-p", "n", "3", "--out", "o", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("squares.ipynb", "squares.html", "metrics.json"))
    assert repro.load_metrics("o")["metrics"][0]["values"] == [9.0, 11.0]
    assert main(["show", "o", "--digits", "1"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()[1:]] == [["n", "square"], ["3", "10.0", "±", "1.4"]]
    assert main(["run", "squares", "--out", "o"]) == 2 and "--overwrite" in capsys.readouterr().err
    assert main(["run", "squares", "-p", "n", "-3", "--out", "o", "--overwrite", "--quiet", "--no-html"]) == 1
    err = capsys.readouterr().err
    assert "squares failed in cell [3]: ValueError: n is negative" in err
    assert sorted(p.name for p in (folder / "o").iterdir()) == ["squares.failed.ipynb"]


def test_sweep_and_report(folder, capsys):
    assert main(["sweep", "grid.yaml", "--dry-run"]) == 0 and "squares n=-1" in capsys.readouterr().out and not (folder / "o").exists()
    assert main(["sweep", "grid.yaml", "--quiet", "--jobs", "1"]) == 1
    said = capsys.readouterr()
    assert "1 of 2 points are done" in said.out and "FAILED squares n=-1\ncell [3]: ValueError: n is negative" in said.err
    assert main(["sweep", "grid.yaml", "--quiet", "-p", "n", "2"]) == 0 and "1 of 1 points are done (0 now" in capsys.readouterr().out
    assert main(["sweep", "grid.yaml", "--dry-run"]) == 0 and "2 points, 1 done; 1 groups" in capsys.readouterr().out


@pytest.mark.parametrize("line, message", [
    ("run squares -p m 3 --out o", "unknown"), ("run squares -p n x --out o", "must be int"), ("run squares -p n 1 -p n 2 --out o", "twice"),
    ("run square --out o", "did you mean 'squares'"), ("run lost.ipynb --out o", "lost.ipynb"), ("info nothing", "unknown"),
    ("show nowhere", "nowhere"), ("report nowhere", "nowhere"), ("sweep nowhere.yaml", "nowhere.yaml"), ("sweep", "SPEC.yaml"),
    ("sweep grid.yaml -p m 3", "of no notebook"), ("sweep grid.yaml --engine ray", "invalid choice"), ("sweep grid.yaml --scheduler tcp://x", "engine dask"),
    ("sweep grid.yaml --jobs 0", "jobs must be >= 1"), ("sweep grid.yaml -p n x", "must be int"), ("data info nothing", "unknown"), ("data info", "needs a name"), ("data fetch", "needs a name"), ("data list digits", "data info digits"),
    ("run squares", "--out"), ("run squares --out o --overwrit", "unrecognized"), ("", "COMMAND"), ("fly", "invalid choice")])
def test_bad_usage_is_one_line_and_exit_code_2(line, message, folder, capsys):
    assert main(line.split()) == 2
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err and not (folder / "o").exists()


def test_list_without_notebooks(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("MVNB_NOTEBOOKS", str(tmp_path))
    assert main(["list"]) == 2 and str(tmp_path) in capsys.readouterr().err


def test_data_and_models(capsys):
    from mvnb import data, models
    assert main(["data", "list"]) == 0
    out = capsys.readouterr().out
    for name in data.names(): assert f"{name}: {data.info(name).title}" in out and data.info(name).licence in out and data.info(name).used_by in out
    assert main(["data", "info", "digits", "deap"]) == 0
    out = capsys.readouterr().out
    for part in (data.info("digits").title, data.info("digits").licence, data.info("deap").access, data.info("deap").layout): assert part in out
    assert main(["models"]) == 0 and capsys.readouterr().out.split() == list(models.names())


def test_data_check_and_fetch(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MVNB_DATA", str(tmp_path)); monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(["data", "check"]) == 0                               # nothing is there, nothing is wrong
    out = capsys.readouterr().out
    assert "digits        built in" in out and "mnist         missing" in out
    (tmp_path / "fashion").mkdir(); (tmp_path / "fashion/train-images-idx3-ubyte.gz").write_bytes(b"no")
    assert main(["data", "check", "fashion", "digits"]) == 1
    assert "fashion       corrupt" in capsys.readouterr().out
    assert main(["data", "fetch", "digits"]) == 0 and "comes with the package" in capsys.readouterr().out
    assert main(["data", "fetch", "mnist"]) == 2 and "MVNB_OFFLINE is set" in capsys.readouterr().err
    assert main(["data", "fetch", "deap"]) == 2 and "licence agreement" in capsys.readouterr().err
    assert main(["data", "check", "mnits"]) == 2 and "mnist" in capsys.readouterr().err


def test_register(monkeypatch, capsys):
    monkeypatch.setattr(cli, "commands", dict(cli.commands))
    cli.register(Command("greet", "say hello", lambda args: print("hello", args.who), lambda parser: parser.add_argument("who")))
    assert main(["greet", "you"]) == 0 and capsys.readouterr().out == "hello you\n"
    with pytest.raises(ValueError, match="'run' is taken"): cli.register(Command("run", "again", print))
    with pytest.raises(TypeError, match="Command"): cli.register("greet")


@pytest.mark.parametrize("module", ["mvnb.cli", "mvnb.repro"])
def test_as_a_module(module, tmp_path):
    command = ["run"] if module == "mvnb.cli" else []
    ran = subprocess.run([sys.executable, "-m", module, *command, "lost.ipynb", "--out", "o"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 2 and ran.stdout == "" and ran.stderr == "mvnb: name: there is no notebook lost.ipynb\n"
