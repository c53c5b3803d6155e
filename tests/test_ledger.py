"mvnb.ledger: every number once, beside its provenance; nothing without it; one page that holds all of it."
import json
import math
import re

import pandas as pd
import pytest

from mvnb import cli, ledger, repro
from mvnb.base import write_json

HERE = dict(versions={"mvnb": "0.1.0", "torch": "2"}, commit={"hash": "0123456789abcdef", "dirty": False}, device={"cpu": "CPU", "gpu": None, "threads": 2}, started="2026-01-01T00:00:00+00:00")


def metric(name, values, paper=None, floor=None, verdict=None, **keys):
    known = [v for v in values if v is not None]
    return dict(name=name, keys=keys, values=values, mean=sum(known) / len(known), std=None if len(values) == 1 else .25, n=len(values), paper=paper, floor=floor, verdict=verdict)


def write(folder, *metrics, **more):
    content = dict(name="toy", parameters={"scale": "cpu", "vmr": [0.0, .5], "device": "auto"}, headlines=[], metrics=list(metrics), files=[], seconds=2.0) | HERE | more
    return write_json(folder / "metrics.json", content)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "one", metric("acc", [.5, .75, 1.], paper=.8, floor=.1, verdict="below <it>", vmr=.5, model="paper"), metric("seconds", [3.0]))
    write(tmp_path / "deep/two", metric("acc", [.25, None], vmr=0.0, protocol="authors"), metric("nll", [-1234.5], paper=-1000.0, device="elsewhere"),
          headlines=[dict(title="A & B", columns=["x", "y"], rows=[[1, .123456], ["<b>", None]])], files=["figures/a_b.png", "figures/lost.png"])
    (tmp_path / "deep/two/figures").mkdir()
    (tmp_path / "deep/two/figures/a_b.png").write_bytes(b"png")
    write(tmp_path / ".hidden.tmp", metric("acc", [9.0])); write(tmp_path / "x.failed", metric("acc", [9.0]))
    return tmp_path


def test_collect_has_one_row_per_value(folder):
    df = ledger.collect(folder)
    assert df.run.tolist() == ["deep/two"] * 3 + ["one"] * 4 and 9.0 not in df.value.tolist()
    acc = df[(df.run == "one") & (df.metric == "acc")]
    assert acc.value.tolist() == [.5, .75, 1.] and acc.seed.tolist() == [0, 1, 2] and set(acc.vmr) == {.5} and set(acc.paper) == {.8} and set(acc.model) == {"paper"}
    assert set(df[(df.run == "one") & (df.metric == "seconds")].vmr) == {"[0.0, 0.5]"}                 # the parameter, where no key says more
    assert df[df.metric == "seconds"].seed.isna().all() and math.isnan(df[(df.run == "deep/two") & (df.metric == "acc")].value.iloc[1])
    assert set(df.commit) == {HERE["commit"]["hash"]} and set(df.device) == {"CPU, 2 threads"} and df[df.metric == "nll"].device_.tolist() == ["elsewhere"]
    assert len(ledger.results(folder / "one")) == 1


@pytest.mark.parametrize("key", ["versions", "commit", "device", "started"])
def test_results_without_provenance_are_refused(key, folder):
    path = write(folder / "bad", metric("acc", [1.0]), **{key: None if key != "versions" else {}})
    for function in (ledger.collect, ledger.report):
        with pytest.raises(ValueError, match=f"{path}: no provenance, it lacks {key}"): function(folder)
    assert not (folder / "ledger.html").exists()


def test_truncated_and_missing_results_are_refused(folder):
    text = (folder / "one/metrics.json").read_text()
    (folder / "one/metrics.json").write_text(text[:-30])
    with pytest.raises(ValueError, match="one/metrics.json: truncated"): ledger.collect(folder)
    with pytest.raises(FileNotFoundError, match="nowhere"): ledger.collect(folder / "nowhere")


def test_device(folder):
    gpu = {"parameters": {"device": "cuda"}, "device": {"cpu": "CPU", "gpu": "GPU 9", "threads": 1}}
    assert ledger.device(gpu) == "GPU 9" and ledger.device(gpu | {"parameters": {"device": "cpu"}}) == "CPU, 1 thread" and ledger.device(gpu | {"parameters": {}}) == "GPU 9"


def test_entries(folder):
    df = ledger.entries(ledger.results(folder)).set_index(["run", "metric"])
    assert df.kind.tolist() == ["measured", "printed", "claim", "measured"]
    claim = df.loc["one", "acc"]
    assert (claim.printed, claim.ours, claim["std"], claim.n, claim.verdict, claim.variant, claim.scale, claim["keys"]) == (.8, .75, .25, 3, "below <it>", "paper", "cpu", "vmr=0.5, model=paper")
    assert df.loc["deep/two", "acc"].protocol == "authors"


def test_the_page_goes_by_paper_and_names_what_has_no_result(tmp_path):
    write(tmp_path / "a", metric("claim", [2.5], verdict="holds", claim="ours > theirs", where="all", model="m"), name="simvae_table2")
    write(tmp_path / "b/x", metric("acc", [.5, .75], paper=.25), metric("nll", [3.0], paper=5, seed=1), name="dualvae_curves")
    write(tmp_path / "c", metric("acc", [.5]), name="mine")
    text = ledger.page(ledger.results(tmp_path), known={"simvae_table2": "Table <2>", "dualvae_curves": "Curves", "ardmvc_table1": "Attacks"})
    order = [text.index(part) for part in ("<h2>Contents", "<h2>DualVAE", 'id="run-b-x"', "<h2>SMVAE and SiMVAE", 'id="run-a"', "<h4>Claims", "<h2>Other", 'id="run-c"')]
    assert order == sorted(order) and "<h2>AR-DMVC" not in text and text.count("<h4>Claims") == 1
    rows = [re.findall("<td.*?>(.*?)</td>", row) for row in text.split("<tr")]
    assert ["SMVAE and SiMVAE (ACM MM 2018)", "simvae_table2", "Table &lt;2&gt;", '<a href="#run-a">a</a>', "1", "0"] in rows
    assert ["AR-DMVC (ICML 2024)", "ardmvc_table1", "Attacks", "no result yet", "0", "0"] in rows and ["Other", "mine", "", '<a href="#run-c">c</a>', "0", "0"] in rows
    assert [r[:2] for r in rows if r[:1] == ["ours &gt; theirs"]] == [["ours &gt; theirs", "where=all"]]
    assert "+0.375 (+1.5 std)" in text and ">-2</td>" in text


def test_report_holds_everything_and_loads_nothing_from_elsewhere(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert cli.main(["report", ".", "--out", "site/page.html"]) == 0 and capsys.readouterr().out.split() == ["site/page.html", "site/page.csv"]
    text = (folder / "site/page.html").read_text()
    for part in ("below &lt;it&gt;", "0.75 ± 0.25", "A &amp; B", "0.1235", "&lt;b&gt;", "-1234", 'src="../deep/two/figures/a_b.png"', 'alt="a b"', HERE["commit"]["hash"], "CPU, 2 threads", "authors"): assert part in text, part
    assert "lost.png" not in text and "http" not in text and "<script" not in text and "nan" not in text.lower().replace("provenance", "")
    assert len(pd.read_csv(folder / "site/page.csv")) == 4
    first = (folder / "site/page.html").read_bytes()
    ledger.report(folder, folder / "site/page.html")
    assert (folder / "site/page.html").read_bytes() == first
    assert cli.main(["report", ".", "--out", "folder"]) == 0 and sorted(p.name for p in (folder / "folder").iterdir()) == ["ledger.csv", "ledger.html"]
    capsys.readouterr()
    assert cli.main(["report", "nowhere"]) == 2 and "nowhere" in capsys.readouterr().err


def test_the_committed_results_have_provenance(root, tmp_path):
    page, table = ledger.report(root / "results", tmp_path / "ledger.html")
    found = ledger.results(root / "results")
    assert len(pd.read_csv(table)) == sum(len(r["metrics"]) for r in found.values())
    text = page.read_text()
    for r in found.values():
        assert r["commit"]["hash"] in text
        for h in r.get("headlines", []): assert h["title"].split("±")[0].split("<")[0].split("&")[0].split("'")[0] in text


def test_recorded_results_are_collected(tmp_path):
    rec = repro.Recorder(tmp_path / "r", "real", {"seeds": 2})
    rec.metric("acc", [.5, 1.0], paper=.7, model="a")
    rec.save()
    content = json.loads((tmp_path / "r/metrics.json").read_text())
    if content["commit"] is None: write_json(tmp_path / "r/metrics.json", content | {"commit": HERE["commit"]})
    assert ledger.collect(tmp_path).value.tolist() == [.5, 1.0]
