"The README says what nbs/index.ipynb says, its files exist, and its code runs."
import json
import re

import pytest
from readme import ROOT, render

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_is_written_from_the_index():
    assert TEXT == render(), "run `make export`"


def test_every_link_leads_somewhere():
    links = re.findall(r"\]\((?!https?:|#)([^)]+)\)", TEXT)
    assert len(links) > 10 and not [link for link in links if not (ROOT / link).exists()]


def test_every_notebook_is_on_the_map():
    have = {p.relative_to(ROOT).as_posix() for p in (ROOT / "nbs").rglob("[0-9]*.ipynb") if ".ipynb_checkpoints" not in p.parts}
    assert have == {link for link in re.findall(r"\]\(([^)]+\.ipynb)\)", TEXT)}


@pytest.mark.slow
@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", TEXT, re.S), ids=lambda code: "import" if "fit(" in code else "explore")
def test_the_code_runs(code):
    space = {}
    exec(compile(code, "README.md", "exec"), space)
    if "clusters" in space: assert space["c"].shape == (359, 10) and bool(space["filled"].present.all()) and len(space["clusters"]) == 359
    else: assert space["bad"].present.float().mean().item() == pytest.approx(.75, abs=1e-3)


def test_the_commands_are_make_targets():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"(?m)^(?:    |`|)?make (\w+)", TEXT)) | set(re.findall(r"`make (\w+)`", TEXT))
    assert {"demo", "test", "lab", "bench", "clean"} <= targets and not [t for t in targets if not re.search(rf"(?m)^{t}:", makefile)]


@pytest.mark.parametrize("data", ["digits", "e-mnist"])
def test_the_table_holds_the_measured_numbers(data):
    result = json.loads((ROOT / f"results/dualvae_robustness/{data}/metrics.json").read_text(encoding="utf-8"))
    assert result["commit"] and not result["commit"]["dirty"]
    rows = {line.split("|")[1].strip(): line for line in TEXT.splitlines() if line.startswith("| ")}
    names = {"paper": "DualVAE, `paper`", "mvnb": "**our recipe, `mvnb`**", "raw pixels": "raw pixels (floor)"}
    for m in result["metrics"]:
        at = (m["keys"].get("vmr"), m["keys"].get("snr"))
        if m["name"] != "kmeans_acc" or at not in ((0, 0), (.5, 0), (.5, .1)): continue
        assert f"{100 * m['mean']:.1f} ± {100 * m['std']:.1f}" in rows[names.get(m["keys"]["model"], m["keys"]["model"])]


def test_the_curves_table_holds_the_measured_numbers():
    rows = {line.split("|")[1].strip(): line.split("|")[2:] for line in TEXT[TEXT.index("The three variants over the whole grid"):TEXT.index("### SMVAE")].splitlines() if line.startswith("| ")}
    names, points = {"mvnb": "**`mvnb`**", "paper": "`paper`", "authors": "`authors`", "raw pixels": "pixels (floor)"}, [(0, 0), (.8, 0), (0, .4), (.5, .1)]
    sets = {"e-mnist": "E-MNIST", "polymnist": "PolyMNIST", "coil-20": "COIL-20", "coil-100": "COIL-100"}
    for data, title in sets.items():
        result = json.loads((ROOT / f"results/dualvae_curves/{data}/metrics.json").read_text(encoding="utf-8"))
        assert result["commit"] and not result["commit"]["dirty"]
        shown = {(m["keys"]["model"], m["keys"]["vmr"], m["keys"]["snr"]): m for m in result["metrics"] if m["name"] == "kmeans_acc"}
        for model, name in names.items():
            for column, at in enumerate(points): assert rows[f"{title}, {name}"][column].strip() == f"{100 * shown[model, *at]['mean']:.1f} ± {100 * shown[model, *at]['std']:.1f}", (data, name, at)
        assert float(rows[f"{title}, printed (Table 2)"][3]) == round(100 * shown["mvnb", .5, .1]["paper"], 2)


@pytest.mark.parametrize("folder", ["e-mnist-long", "e-mnist-held-out", "coil-100-long", "coil-20-held-out"])
def test_the_numbers_of_other_trainings_are_measured(folder):
    result = json.loads((ROOT / f"results/dualvae_curves/{folder}/metrics.json").read_text(encoding="utf-8"))
    assert result["commit"] and not result["commit"]["dirty"]
    at = {(m["keys"]["model"], m["keys"]["vmr"], m["keys"]["snr"]): m for m in result["metrics"] if m["name"] == "kmeans_acc"}
    for point in ((0, 0), (.5, .1))[folder == "coil-20-held-out":]: assert f"{100 * at['mvnb', *point]['mean']:.1f} ± {100 * at['mvnb', *point]['std']:.1f}" in TEXT
    points = {(v, n) for _, v, n in at}
    gaps = [at["mvnb", *p]["mean"] - at["raw pixels", *p]["mean"] for p in points]
    assert len(gaps) == 28 and min(gaps) > 0, "above raw pixels at every point"
    if folder == "e-mnist-long": assert .043 <= min(gaps) < .044
    if folder == "e-mnist-held-out": assert .044 <= sorted(gaps)[1] < .045, "all but clean samples"
    if folder.endswith("held-out"): assert all(at["mvnb", *p]["mean"] > at[other, *p]["mean"] for p in points for other in ("paper", "authors")), "the best of the three"


def test_the_numbers_of_the_ablations_are_measured():
    text = TEXT[TEXT.index("What makes the difference (Table 2"):TEXT.index("The masks (Figs. 5 and 6;")]
    for data in ("e-mnist", "coil-20"):
        result = json.loads((ROOT / f"results/dualvae_ablation/{data}/metrics.json").read_text(encoding="utf-8"))
        assert result["commit"] and not result["commit"]["dirty"]
        at = {(m["keys"]["variant"], m["keys"]["change"]): m for m in result["metrics"] if m["name"] == "kmeans_acc" and (m["keys"]["vmr"], m["keys"]["snr"]) == (.5, .1)}
        for key in [("paper", "full"), ("paper", "second_pass")] + [("paper", "nll_d"), ("mvnb", "full")] * (data == "coil-20"):
            assert f"{100 * at[key]['mean']:.1f} ± {100 * at[key]['std']:.1f}" in text, (data, key)
        lost = {k: 100 * (at["mvnb", "full"]["mean"] - at["mvnb", k]["mean"]) for k in ("w/o DMP", "w/o MoE", "w/o L_d")}
        for k in ("w/o DMP", "w/o MoE", "w/o L_d") if data == "coil-20" else ("w/o DMP",): assert f"{lost[k]:.1f} " in text, (data, k)


def test_the_held_out_numbers_of_the_text_are_measured():
    for data in ("digits", "e-mnist"):
        result = json.loads((ROOT / f"results/dualvae_robustness/{data}-held-out/metrics.json").read_text(encoding="utf-8"))
        for m in result["metrics"]:
            if m["name"] == "kmeans_acc" and m["keys"]["model"] in ("mvnb", "raw pixels") and (m["keys"]["vmr"], m["keys"]["snr"]) in ((.5, 0), (.5, .1)):
                assert f"{100 * m['mean']:.1f} ± {100 * m['std']:.1f}" in TEXT, m["keys"]


def test_the_numbers_of_table_1_are_measured():
    result = json.loads((ROOT / "results/factvae_table1/metrics.json").read_text(encoding="utf-8"))
    assert result["commit"] and not result["commit"]["dirty"]
    rows = {line.split("|")[1].strip(): line.split("|")[2:6] for line in TEXT.splitlines() if line.startswith("| ")}
    names = {"lambda=1": "factVAE, lambda 1", "lambda=0": "factVAE, lambda 0"}
    checked = 0
    for m in result["metrics"]:
        k = m["keys"]
        if m["name"] != "recon_ll" or k["unit"] != "train": continue
        assert f"{m['mean']:.0f} ± {m['std']:.0f}" in rows[names.get(k["method"], k["method"])][[1, 2, 5, 10].index(k["n"])], k
        checked += 1
    assert checked == 20


def test_the_numbers_of_bars_are_measured():
    result = json.loads((ROOT / "results/factvae_bars/metrics.json").read_text(encoding="utf-8"))
    assert result["commit"] and not result["commit"]["dirty"]
    blocks = {m["keys"]["lam"]: m for m in result["metrics"] if m["name"] == "links_block_diagonal" and m["keys"]["part"] == "joint"}
    for lam, m in blocks.items(): assert f"{round(sum(m['values']))} of {len(m['values'])} seeds at lambda = {lam:g}" in TEXT


def test_the_numbers_of_smvae_are_measured():
    result = json.loads((ROOT / "results/simvae_table2/metrics.json").read_text(encoding="utf-8"))
    assert result["commit"] and not result["commit"]["dirty"]
    section = TEXT[TEXT.index("### SMVAE and SiMVAE"):TEXT.index("### factVAE")]
    values = [m for m in result["metrics"] if m["name"] == "accuracy"]
    assert len(values) == 63
    for m in values: assert f"{100 * m['mean']:.1f} ± {100 * m['std']:.1f}" in section, m["keys"]
    steps = [m for m in result["metrics"] if m["name"] == "ladder" and m["keys"]["kind"] == "added"]
    assert len(steps) == 6 and all(f"{100 * m['mean']:.1f}" in section for m in steps)
    for data in ("simvae_table2_emotion-sim", "simvae_incomplete"):
        result = json.loads((ROOT / f"results/{data}/metrics.json").read_text(encoding="utf-8"))
        assert result["commit"] and not result["commit"]["dirty"]
        for m in result["metrics"]:
            if m["name"] == "accuracy" and (data.endswith("sim") or m["keys"]["labels"] == .03): assert f"{100 * m['mean']:.1f} ± {100 * m['std']:.1f}" in section, m["keys"]
            if m["name"] == "nmse" and m["keys"]["labels"] == .03: assert f"{m['mean']:.3f} ± {m['std']:.3f}" in section, m["keys"]


def test_the_numbers_of_ar_dmvc_are_measured():
    result = json.loads((ROOT / "results/ardmvc_crossing/metrics.json").read_text(encoding="utf-8"))
    assert result["commit"] and not result["commit"]["dirty"]
    section = TEXT[TEXT.index("### AR-DMVC"):TEXT.index("## How to use it")]
    shown = [m for m in result["metrics"] if m["name"] == "acc_clean" or m["keys"].get("eps") == .15 and (m["name"] == "worst" or m["name"] == "fixed" and m["keys"]["attack"] in ("sign", "gan"))
             or m["name"] == "own_acc" and (m["keys"]["vmr"], m["keys"]["snr"]) in ((.5, 0), (0, .3))]
    assert len(shown) == 9 * 6
    for m in shown: assert f"{100 * m['mean']:.1f} ± {100 * m['std']:.1f}" in section, m["keys"]


def test_the_numbers_of_ar_dmvc_table_1_are_measured():
    result = json.loads((ROOT / "results/ardmvc_table1/noisymnist/metrics.json").read_text(encoding="utf-8"))
    assert result["commit"] and not result["commit"]["dirty"]
    section = TEXT[TEXT.index("| NoisyMNIST, ACC in %"):TEXT.index("## How to use it")]
    rows = {line.split("|")[1].strip(): [v.split("[")[0].strip() for v in line.split("|")[2:7]] for line in section.splitlines() if line.startswith("| ")}
    names = {"CoMVC": "CL-MVC", "AR-DMVC-AM, mvnb": "**AR-DMVC-AM, our recipe**"}
    columns = [("acc_pre", None, None), ("acc_post", "gan", .3), ("acc_post", "sign", .3), ("acc_post", "gan", .15), ("worst", None, .15)]
    shown = [(m, columns.index(at)) for m in result["metrics"] if (at := (m["name"], m["keys"].get("attack"), m["keys"].get("eps"))) in columns]
    assert len(shown) == 10 * 5
    for m, column in shown: assert rows[names.get(m["keys"]["method"], m["keys"]["method"])][column] == f"{100 * m['mean']:.1f} ± {100 * m['std']:.1f}", m["keys"]


def test_the_numbers_of_noisyfashion_are_measured():
    result = json.loads((ROOT / "results/ardmvc_table1/noisyfashion/metrics.json").read_text(encoding="utf-8"))
    assert result["commit"] and not result["commit"]["dirty"]
    text = TEXT[TEXT.index("On NoisyFashion"):TEXT.index("### Speed")]
    methods = {"acc_pre": ("AR-DMVC-AM, mvnb", "AR-DMVC-AM", "AECoDDC", "CoMVC"), "worst": ("AR-DMVC-AM, mvnb", "AR-DMVC-AM", "InfoDDC"), "acc_post": ("AR-DMVC-AM, mvnb", "AR-DMVC-AM")}
    shown = [m for m in result["metrics"] if m["keys"].get("method") in methods.get(m["name"], ()) and m["keys"].get("eps") in (None, .15) and m["keys"].get("attack") in (None, "gan")]
    assert len(shown) == 9
    for m in shown: assert f"{100 * m['mean']:.1f} ± {100 * m['std']:.1f}" in text, m["keys"]


def test_the_speeds_are_measured():
    def read(name): return json.loads((ROOT / f"results/benchmarks/{name}.json").read_text(encoding="utf-8"))
    rows = {line.split("|")[1].strip(): float(line.split("|")[4]) for line in TEXT[TEXT.index("### Speed"):TEXT.index("## How to use it")].splitlines() if line.startswith("| ") and line.split("|")[2].strip() != "ours"}
    runs = {r["case"]: r["fit_ratio"] for r in read("cpu")["runs"]}
    dual = {(r["case"], r["threads"]): r["ratio"] for r in read("dualvae")["dualvae"]}
    def step(name): return (lambda t: t["literal step"] / t["step"])(read(name)["seconds"])
    sweep = read("sweeps")
    measured = [runs["factVAE-sized 12-32-8"], runs["64-wide 64-64-10"], runs["240-100-30"], runs["784-256-20"], dual["DualVAE, E-MNIST size, 16 wide", 1],
                dual["DualVAE, 10 runs, 8 x 8, 64 wide", 1], dual["DualVAE, 10 runs, 8 x 8, 256 wide", 2],
                step("attack"), step("attack_runs"), sweep["a notebook each, 2 workers"]["seconds"] / sweep["one batch"]["seconds"]]
    for (what, shown), value in zip(rows.items(), measured, strict=True): assert shown == pytest.approx(value, rel=.02), what
    assert f"images of 32 x 32 pixels: {dual['DualVAE, 5 runs, 32 x 32, 256 wide', 1]:.2f}; ten on digits, 256 wide, with one thread {dual['DualVAE, 10 runs, 8 x 8, 256 wide', 1]:.2f})" in TEXT
    assert runs["conv 1x28x28, 8 wide"] == pytest.approx(1.3, abs=.05) and runs["conv 3x32x32, 32 wide"] == pytest.approx(.97, abs=.005)
    medians = [page["median_ms"] for page in read("explore_latency")["pages"]]
    assert (round(min(medians)), round(max(medians))) == (48, 70)
