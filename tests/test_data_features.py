"mfeat's two layouts, the tiny mfeat, and the simulator against brute force."
import math

import numpy as np
import pytest
import torch
from scipy import stats

from mvnb.data import DataCorrupt, DataNotAvailable, features
from mvnb.data.features import (MFEAT_VIEWS, check_mfeat, emotion_conditional, emotion_floor, emotion_impute, emotion_posterior, emotion_sample,
                                emotion_truth, load_emotion_sim, load_mfeat)


@pytest.fixture
def home(home):
    "The folder of mfeat."
    return home / "data/uci_mfeat"


def numbers(view, seed=0):
    return np.random.default_rng([seed, MFEAT_VIEWS[view]]).integers(0, 7, (2000, MFEAT_VIEWS[view])) / (1 if view == "pix" else 8)


def write_csv(folder, view, x, y=None, ending="\r\n"):
    y = np.repeat(np.arange(10), 200) if y is None else y
    lines = [",".join(map(str, [*range(x.shape[1]), 0]))] + [",".join([*map(repr, row), str(c)]) for row, c in zip(x.tolist(), y.tolist())]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"mfeat-{view}.csv").write_text(ending.join(lines) + ending, newline="")
    return folder / f"mfeat-{view}.csv"


def write_uci(folder, view, x):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"mfeat-{view}").write_text("".join("  " + "   ".join(map(repr, row)) + " \n" for row in x.tolist()))
    return folder / f"mfeat-{view}"


# --- mfeat: files

@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_both_layouts_give_the_same_numbers(home, ending):
    pix, zer = numbers("pix"), numbers("zer")
    write_csv(home, "pix", pix, ending=ending), write_csv(home, "zer", zer, ending=ending)
    a = load_mfeat()
    for path in home.iterdir(): path.unlink()
    write_uci(home, "pix", pix), write_uci(home, "zer", zer)
    b = load_mfeat()
    for mv in (a, b):
        assert mv.names == ("pix", "zer") and np.array_equal(mv.xs[0], pix) and np.array_equal(mv.xs[1], zer)
        assert mv.y.tolist() == [c for c in range(10) for _ in range(200)] and mv.n_classes == 10
        assert all(x.dtype == torch.float32 for x in mv.xs)
    assert load_mfeat(views="zer").names == ("zer",) and load_mfeat(views=["zer", "pix"]).names == ("zer", "pix")


def test_labels_of_a_csv_decide_and_must_agree(home):
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 200))
    write_csv(home, "mor", numbers("mor"), y), write_csv(home, "zer", numbers("zer"), y)
    assert load_mfeat(views=["mor", "zer"]).y.tolist() == y.tolist()
    other = y.copy(); other[[5, np.flatnonzero(y != y[5])[0]]] = other[[np.flatnonzero(y != y[5])[0], 5]]
    write_csv(home, "zer", numbers("zer"), other)
    with pytest.raises(DataCorrupt, match=r"mfeat-zer.csv: expected the labels of .*mfeat-mor.csv, found \d instead of \d in row \d"): load_mfeat(views=["mor", "zer"])


def edit(path, line, change):
    lines = path.read_text().splitlines()
    if change is None: del lines[line - 1]
    else: lines[line - 1] = change(lines[line - 1])
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("line, change, message", [
    (7, lambda s: s[:s.rindex(",")] + "x1" + s[s.rindex(","):], r"line 7, column 6: expected a finite number, found '[\d.]+x1'"),
    (2000, lambda s: "nan" + s[s.index(","):], "line 2000, column 1: expected a finite number, found 'nan'"),
    (2, lambda s: "1e999" + s[s.index(","):], "line 2, column 1: expected a finite number, found '1e999'"),
    (2, lambda s: s[s.index(","):], "line 2, column 1: expected a finite number, found ''"),
    (9, lambda s: s + ",1", "line 9: expected 7 numbers, found 8"),
    (9, lambda s: s[s.index(",") + 1:], "line 9: expected 7 numbers, found 6"),
    (1, None, "line 1: expected a header of 7 column numbers"),
    (1, lambda s: s + ",7", "line 1: expected a header of 7 column numbers .* found 8 cells"),
    (1500, None, "expected 2,000 rows of numbers, found 1,999"),
    (1500, lambda s: s + "\n" + s, "expected 2,000 rows of numbers, found 2,001"),
    (3, lambda s: s[:-1] + "3", r"expected the labels 0 to 9 in the last column, 200 rows of each, found 0 \(199\), .*3 \(201\)"),
    (3, lambda s: s[:-1] + "10", "expected the labels 0 to 9"),
    (3, lambda s: s[:-1] + "-1", "expected the labels 0 to 9"),
    (3, lambda s: s[:-1] + "0.5", "expected the labels 0 to 9"),
    (3, lambda s: s.replace(",", ";"), "line 3: expected 7 numbers, found 1"),
    (3, lambda s: "\xe9" + s, "expected plain text, found the byte"),
])
def test_a_fault_is_named_by_path_and_line(home, line, change, message):
    path = write_csv(home, "mor", numbers("mor"))
    load_mfeat(views=["mor"])
    edit(path, line, change)
    for read in (lambda: load_mfeat(views=["mor"]), check_mfeat):
        with pytest.raises(DataCorrupt, match=f"mfeat-mor.csv.*{message}"): read()


def test_faults_in_ucis_layout(home):
    path = write_uci(home, "mor", numbers("mor"))
    edit(path, 4, lambda s: s + " 1")
    with pytest.raises(DataCorrupt, match="mfeat-mor, line 4: expected 6 numbers, found 7"): load_mfeat(views=["mor"])
    path.write_text("")
    with pytest.raises(DataCorrupt, match="mfeat-mor: expected 2,000 rows of numbers, found 0"): load_mfeat(views=["mor"])
    (home / "mfeat-mor.csv").write_text("")
    path.unlink()
    with pytest.raises(DataCorrupt, match="line 1: expected a header"): load_mfeat(views=["mor"])


def test_nothing_there(home):
    with pytest.raises(DataNotAvailable, match="mfeat"): load_mfeat()
    home.mkdir(parents=True)
    (home / "readme.txt").touch()
    with pytest.raises(DataNotAvailable, match="mfeat-pix"): check_mfeat()
    write_uci(home, "pix", numbers("pix"))
    assert check_mfeat().startswith("1 of 6 tables, 2,000 rows each") and "not there: fac, fou, kar, mor, zer" in check_mfeat()
    with pytest.raises(DataNotAvailable, match=r"'mfeat-zer' \(or 'mfeat-zer.csv'\) is not in .*uci_mfeat"): load_mfeat()


@pytest.mark.parametrize("write, first", [(write_csv, 2), (write_uci, 1)])
@pytest.mark.parametrize("value", [97., -1., 2.5])
def test_pixels_out_of_range_are_refused_by_line(home, write, first, value):
    x = numbers("pix")
    x[12, 34] = x[1900, 3] = value
    path = write(home, "pix", x)
    text = rf"{path.name}, line {12 + first}, column 35: expected a whole number 0 to 6, found {value:g}$"
    for read in (check_mfeat, lambda: load_mfeat(views="pix")):
        with pytest.raises(DataCorrupt, match=text): read()
    path.write_text(path.read_text().replace("\n", "\n\n", 3))                    # empty lines are counted, too
    with pytest.raises(DataCorrupt, match=f"line {12 + first + 3}, column 35"): load_mfeat(views="pix")


def test_a_number_beyond_float32_is_refused(home):
    x = numbers("mor")
    x[3, 1] = -1e39
    write_uci(home, "mor", x)
    with pytest.raises(DataCorrupt, match="mfeat-mor, line 4, column 2: expected a finite number, found '-1e[+]39'"): load_mfeat(views="mor")


# --- mfeat: splits, scaling, tiny

def test_splits_are_disjoint_stratified_and_seeded(home):
    x = np.arange(2000.)[:, None] + np.zeros(MFEAT_VIEWS["mor"])
    write_uci(home, "mor", x)
    parts = [load_mfeat(s, views=["mor"], seed=3) for s in ("train", "valid", "test")]
    assert [p.y.bincount().tolist() for p in parts] == [[120] * 10, [40] * 10, [40] * 10]
    assert sorted(torch.cat([p.xs[0][:, 0] for p in parts]).tolist()) == list(range(2000))
    assert torch.equal(parts[0].xs[0], load_mfeat("train", views=["mor"], seed=3).xs[0])
    assert not torch.equal(parts[0].xs[0], load_mfeat("train", views=["mor"], seed=4).xs[0])
    few = load_mfeat("test", views=["mor"], seed=3, n=30)
    assert few.y.bincount().tolist() == [3] * 10 and set(few.xs[0][:, 0].tolist()) < set(parts[2].xs[0][:, 0].tolist())


def twins(home, write=write_uci, pairs=((5, 9), (5, 11), (605, 774), (1892, 1999)), close=(20, 21)):
    "All six files; rows equal in all of them, and `close` rows that differ in the last number of one file."
    for view in MFEAT_VIEWS:
        x = numbers(view)
        for a, b in (*pairs, close): x[b] = x[a]
        if view == "zer": x[close[1], -1] += .25
        write(home, view, x)
    return pairs


@pytest.mark.parametrize("write", [write_uci, write_csv])
def test_equal_rows_stay_together(home, write):
    pairs = twins(home, write)
    expected = torch.arange(2000)
    for a, b in pairs: expected[b] = a
    for views in (["mor"], ["zer", "fac"]):                                       # all six decide, whichever are loaded
        whole = load_mfeat(views=views)
        assert torch.equal(whole.groups, expected)
        for seed in range(3):
            parts = [load_mfeat(s, views=views, seed=seed) for s in ("train", "valid", "test")]
            assert sorted(torch.cat([p.groups for p in parts]).tolist()) == expected.sort().values.tolist()
            assert not any(set(a.groups.tolist()) & set(b.groups.tolist()) for a in parts for b in parts if a is not b)
            for p, share in zip(parts, (120, 40, 40)): assert (p.y.bincount() - share).abs().max() <= 2 and torch.equal(whole.y[p.groups], p.y)


def test_tables_that_are_not_there_do_not_decide(home):
    twins(home)
    for view in MFEAT_VIEWS:
        if view != "mor": (home / f"mfeat-{view}").unlink()
    assert load_mfeat(views="mor").groups[[5, 9, 11, 20, 21]].tolist() == [5, 5, 5, 20, 20]


def test_standardizing_uses_the_training_rows_only(home):
    x = numbers("mor") * 1000 + 5e4
    x[:, 2] = .1
    write_uci(home, "mor", x)
    raw = {s: load_mfeat(s, views=["mor"], seed=1).xs[0].double().numpy() for s in ("train", "valid", "test", "all")}
    mean, sd = raw["train"].mean(0), raw["train"].std(0)
    sd[2] = 1
    for s, r in raw.items():
        z = load_mfeat(s, views=["mor"], seed=1, standardize=True).xs[0]
        assert np.allclose(z, (r - mean) / sd, atol=1e-5) and (z[:, 2].abs() < 1e-6).all()
    few = load_mfeat("test", views=["mor"], seed=1, standardize=True, n=20).xs[0]
    whole = load_mfeat("test", views=["mor"], seed=1, standardize=True).xs[0]
    assert all((row == whole).all(1).any() for row in few)


def zernike_loop(image, n, m):
    "A moment's magnitude, pixel by pixel."
    size, total = len(image), 0
    for i in range(size):
        for j in range(size):
            u, v = (2 * j + 1) / size - 1, (2 * i + 1) / size - 1
            r, angle = math.hypot(u, v), math.atan2(v, u)
            if r > 1: continue
            radial = sum((-1)**s * math.comb(n - s, s) * math.comb(n - 2 * s, (n - m) // 2 - s) * r**(n - 2 * s) for s in range((n - m) // 2 + 1))
            total += image[i, j] * radial * complex(math.cos(m * angle), -math.sin(m * angle))
    return abs(total) * (n + 1) / math.pi * (2 / size)**2


def test_zernike_moments_against_a_loop_and_turned():
    image = np.random.default_rng(0).random((12, 12))
    basis = features._zernike_basis(12)
    pairs = [(n, m) for n in range(2, 13) for m in range(n % 2, n + 1, 2)]
    assert len(basis) == len(pairs) == 47
    assert np.allclose(np.abs(basis @ image.ravel()), [zernike_loop(image, n, m) for n, m in pairs], rtol=1e-9)
    assert np.allclose(np.abs(basis @ image.ravel()), np.abs(basis @ np.rot90(image).ravel()), rtol=1e-9)
    fine = features._zernike_basis(200)   # orthogonal on the disc: (n + 1) / pi * integral = 1 on the diagonal
    gram = (fine.conj() @ fine.T) * (100**2) * math.pi / (np.array([n for n, _ in pairs])[:, None] + 1)
    assert np.abs(gram - np.eye(47)).max() < .05


def test_tiny_needs_no_files(home):
    mv = load_mfeat(tiny=True)
    assert len(mv) == 1797 and mv.shapes == ((240,), (47,)) and mv.names == ("pix", "zer")
    assert set(mv.xs[0].unique().tolist()) == set(range(7)) and (mv.xs[1] >= 0).all()
    again = load_mfeat(tiny=True)
    assert all(torch.equal(a, b) for a, b in zip(mv.xs, again.xs))
    assert sum(len(load_mfeat(s, tiny=True)) for s in ("train", "valid", "test")) == 1797


@pytest.mark.parametrize("options, message", [
    (dict(split="validation"), "split='validation' is unknown"), (dict(views=["pix", "pxi"]), "views='pxi' is unknown; choose one of: fac"),
    (dict(views=[]), "views must name different views"), (dict(views=["pix", "pix"]), "views must name different views"),
    (dict(views=["kar"], tiny=True), r"views \(with tiny=True\)='kar'"), (dict(n=1798, tiny=True), "n must be at most"), (dict(n=0, tiny=True), "n must be >= 1"),
    (dict(seed=-1, tiny=True), "seed must be >= 0"), (dict(seed=.5, tiny=True), "seed must be a whole number"), (dict(tiny="no"), "tiny must be True or False, got 'no'"),
    (dict(standardize=1, tiny=True), "standardize must be True or False, got 1")])
def test_bad_options_of_mfeat(home, options, message):
    with pytest.raises((TypeError, ValueError), match=message): load_mfeat(**options)


@pytest.mark.data
def test_the_real_mfeat():
    try: features.find_folder("mfeat")
    except DataNotAvailable: pytest.skip("no mfeat there")
    assert check_mfeat().startswith("6 of 6 tables, 2,000 rows each")
    mv = load_mfeat(views=list(MFEAT_VIEWS))
    assert mv.shapes == tuple((d,) for d in MFEAT_VIEWS.values()) and mv.y.bincount().tolist() == [200] * 10
    assert mv.xs[4].view(2000, 16, 15).mean((1, 2)).min() > .5      # ink in every image
    same, first, count = np.unique(torch.cat(mv.xs, 1).numpy(), axis=0, return_index=True, return_counts=True)[:3]
    assert sorted(first[count > 1].tolist()) == sorted(mv.groups[mv.groups != torch.arange(2000)].tolist()) and sorted(count)[-7:] == [1] + [2] * 6      # six pairs


@pytest.mark.data
@pytest.mark.parametrize("views", ["pix", list(MFEAT_VIEWS)])
def test_no_real_row_is_in_two_parts(views):
    try: features.find_folder("mfeat")
    except DataNotAvailable: pytest.skip("no mfeat there")
    for seed in range(5):
        parts = [load_mfeat(s, views=list(MFEAT_VIEWS), seed=seed) for s in ("train", "valid", "test")]
        rows = [{r.tobytes() for r in torch.cat(p.xs, 1).numpy()} for p in parts]
        assert not (rows[0] & rows[1] or rows[0] & rows[2] or rows[1] & rows[2])
        assert all(abs(len(p) - n) <= 6 and (p.y.bincount() - n / 10).abs().max() <= 3 for p, n in zip(parts, (1200, 400, 400)))
        few = load_mfeat("test", views=views, seed=seed)
        assert torch.equal(few.groups, parts[2].groups) and torch.equal(few.y, parts[2].y)      # the split is the same for every choice of views


# --- emotion-sim: the model

@pytest.mark.parametrize("like, dims, K", [("seed", (310, 33), 3), ("deap", (128, 32), 4)])
def test_dimensions_and_moments(like, dims, K):
    truth = emotion_truth(like, seed=5)
    assert truth.means.shape == (K, 6) and tuple(len(s) for s in truth.noise) == dims and len(truth.classes) == K
    assert torch.allclose(truth.means.norm(dim=1), torch.full((K,), 2.).double())
    mv = emotion_sample(truth, 12_000, seed=1)
    assert mv.shapes == tuple((d,) for d in dims) and mv.y.bincount().tolist() == [12_000 // K] * K
    for v, x in enumerate(mv.xs):
        x = x.double()
        assert x.mean(0).abs().max() < .05 and (x.var(0) - 1).abs().max() < .08
        for k in range(K):
            part = x[mv.y == k]
            assert (part.mean(0) - truth.class_means(v)[k]).abs().max() < 5 / math.sqrt(len(part))
            assert (part.T.cov() - truth.covariance(v, v)).abs().max() < .15
    cross = ((mv.xs[0].double() - truth.class_means(0)[mv.y]).T @ (mv.xs[1].double() - truth.class_means(1)[mv.y])) / len(mv)
    assert (cross - truth.covariance(0, 1)).abs().max() < .08


def small(nonlinear=False, noise=1.):
    "Few enough dimensions for brute force: 3 and 2 features, 3 classes."
    full = emotion_truth("seed", latent=2, private=1, noise=noise, separation=1.5, nonlinear=nonlinear, seed=2)
    cut = lambda pair: tuple(t[:d] for t, d in zip(pair, (3, 2)))
    return features.EmotionTruth(full.means, cut(full.shared), cut(full.private), cut(full.noise), full.bend, full.names, full.classes)


def joint(truth):
    "Class means and covariance of both views' l, side by side."
    means = torch.cat([truth.class_means(0), truth.class_means(1)], 1).numpy()
    return means, np.block([[truth.covariance(v, w).numpy() for w in (0, 1)] for v in (0, 1)])


@pytest.mark.parametrize("seen", [(0,), (1,), (0, 1)])
def test_posterior_is_bayes_rule(seen):
    truth = small()
    mv = emotion_sample(truth, 30, seed=0)
    means, cov = joint(truth)
    columns = [c for v in seen for c in ((0, 1, 2), (3, 4))[v]]
    x = torch.cat([mv.xs[v] for v in seen], 1).numpy()
    density = np.stack([stats.multivariate_normal(m[columns], cov[np.ix_(columns, columns)]).pdf(x) for m in means], 1)
    found = emotion_posterior(truth, [mv.xs[v] if v in seen else None for v in (0, 1)])
    assert np.allclose(found, density / density.sum(1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("nonlinear", [False, True])
@pytest.mark.parametrize("observed", [0, 1])
def test_imputation_is_the_integral_of_the_joint_density(nonlinear, observed):
    "E and Var of one unseen feature by numerical integration of the mixture's joint density: no conditional formula is used."
    truth = small(nonlinear)
    mv = emotion_sample(truth, 6, seed=3)
    means, cov = joint(truth)
    o, first = [(0, 1, 2), (3, 4)][observed], [3, 0][observed]
    mean, var = emotion_impute(truth, [mv.xs[0], None] if observed == 0 else [None, mv.xs[1]])
    grid = np.linspace(-12, 12, 4801)
    bent = grid + truth.bend * np.sin(2 * grid)
    columns = [*o, first]
    for i in range(6):
        seen = features._straighten(mv.xs[observed][i].double(), truth.bend).numpy()
        points = np.column_stack([np.tile(seen, (len(grid), 1)), grid])
        p = sum(stats.multivariate_normal(m[columns], cov[np.ix_(columns, columns)]).pdf(points) for m in means)
        e = (p * bent).sum() / p.sum()
        assert abs(mean[i, 0] - e) < 1e-6 and abs(var[i, 0] - ((p * bent**2).sum() / p.sum() - e**2)) < 1e-6


def test_conditional_against_rejection():
    "Samples whose observed view lies close to a point: brute force, no algebra."
    truth = small(noise=3.)
    mv = emotion_sample(truth, 600_000, seed=4)
    at = torch.tensor([[.3, -.4]])
    near = ((mv.xs[1] - at).abs() < .15).all(1)
    mean, var = emotion_impute(truth, [None, at])
    count = int(near.sum())
    assert count > 3000
    assert (mv.xs[0][near].double().mean(0) - mean).abs().max() < 4 / math.sqrt(count) + .01
    assert (mv.xs[0][near].double().var(0) / var - 1).abs().max() < .1
    share = mv.y[near].bincount().double() / count
    assert (share - emotion_posterior(truth, [None, at])[0]).abs().max() < 4 * .5 / math.sqrt(count)


@pytest.mark.parametrize("like", ["seed", "deap"])
@pytest.mark.parametrize("observed", [0, 1])
def test_calibration(like, observed):
    "90 % intervals cover 90 %, and the probability integral transform is uniform."
    truth = emotion_truth(like, seed=1)
    mv = emotion_sample(truth, 3000, seed=6)
    weights, means, cov = emotion_conditional(truth, [mv.xs[0], None] if observed == 0 else [None, mv.xs[1]])
    x, sd = mv.xs[1 - observed].double()[:, :20], cov.diag().sqrt()[:20]
    u = (weights[:, :, None] * torch.special.ndtr((x[:, None] - means[:, :, :20]) / sd)).sum(1)
    inside = ((u > .05) & (u < .95)).double().mean()
    assert abs(inside - .9) < .015
    assert all(stats.kstest(u[:, d].numpy(), "uniform").pvalue > 1e-4 for d in range(20))
    wrong = (weights[:, :, None] * torch.special.ndtr((x[:, None] - means[:, :, :20]) / (.85 * sd))).sum(1)    # too sure of itself
    assert all(stats.kstest(wrong[:, d].numpy(), "uniform").pvalue < 1e-2 for d in range(20))


def test_straightening_undoes_the_bend():
    line = torch.linspace(-8, 8, 1001).double()
    bent = line + .45 * torch.sin(2 * line)
    assert (bent.diff() > 0).all() and (features._straighten(bent, .45) - line).abs().max() < 1e-12
    assert torch.equal(features._straighten(line, 0.), line)


@pytest.mark.parametrize("nonlinear", [False, True])
def test_the_floor_is_what_the_best_rules_reach_and_no_other_passes(nonlinear):
    truth = emotion_truth("deap", nonlinear=nonlinear, seed=2)
    floor, mv = emotion_floor(truth, 3000, seed=0), emotion_sample(truth, 3000, seed=9)
    assert set(floor) == {"accuracy eeg", "accuracy peripheral", "accuracy both", "nmse peripheral from eeg", "nmse eeg from peripheral"}
    assert floor["accuracy both"] >= max(floor["accuracy eeg"], floor["accuracy peripheral"]) - .01
    for v in (0, 1):
        seen = [x if w == v else None for w, x in enumerate(mv.xs)]
        guess = emotion_posterior(truth, seen).argmax(1)
        assert abs(float((guess == mv.y).double().mean()) - floor[f"accuracy {truth.names[v]}"]) < .025
        target, best = mv.xs[1 - v].double(), emotion_impute(truth, seen)[0]
        nmse = lambda guess: float((target - guess).norm() / target.norm())
        key = f"nmse {truth.names[1 - v]} from {truth.names[v]}"
        assert abs(nmse(best) - floor[key]) < .01
        x = torch.cat([mv.xs[v].double(), torch.ones(len(mv), 1).double()], 1)
        half = torch.linalg.lstsq(x[:1500], target[:1500]).solution
        held_out = float((target[1500:] - x[1500:] @ half).norm() / target[1500:].norm())
        assert held_out > floor[key] and nmse(torch.zeros(())) > .99 > floor[key]


def test_closer_classes_are_harder_and_noise_raises_the_floor():
    at = lambda **o: emotion_floor(emotion_truth("seed", **o), 1000)
    assert abs(at(separation=0.)["accuracy both"] - 1 / 3) < 1e-9
    assert at(separation=1.)["accuracy eeg"] < at(separation=3.)["accuracy eeg"]
    assert at(noise=.5)["nmse eye from eeg"] < at(noise=4.)["nmse eye from eeg"]
    assert at(private=0, noise=1e-3, latent=2, blur=0)["nmse eye from eeg"] < .01     # nothing but z: the second view is known


@pytest.mark.parametrize("like", ["seed", "deap"])
def test_each_view_knows_a_part_of_the_class(like):
    sharp, best = (emotion_floor(emotion_truth(like, **o), 3000) for o in (dict(blur=0.), {}))
    alone = lambda floor: [a for k, a in floor.items() if k.startswith("accuracy") and "both" not in k]
    assert best["accuracy both"] > max(alone(best)) + .08 and min(alone(best)) > 1.5 / (3 if like == "seed" else 4)
    assert sharp["accuracy both"] < max(alone(sharp)) + .01 and abs(best["accuracy both"] - sharp["accuracy both"]) < .03
    assert all(b < s for b, s in zip(alone(best), alone(sharp)))


def test_blur_is_private_noise_on_the_other_views_direction():
    for blur in (0., .7, 3.):
        truth = emotion_truth("deap", private=2, blur=blur)
        for v in (0, 1):
            assert truth.private[v].shape[1] == 3 and torch.allclose(truth.private[v][:, 2], blur * truth.shared[v][:, 1 - v])
            total = truth.covariance(v, v) + truth.class_means(v).T @ truth.class_means(v) / 4
            assert torch.allclose(total.diag(), torch.ones(len(total)).double())


@pytest.mark.parametrize("options", [dict(noise=1e6), dict(noise=1e-6), dict(separation=1e6), dict(blur=1e6), dict(noise=1e6, nonlinear=True)])
def test_extreme_options_stay_finite(options):
    mv = load_emotion_sim(trials=6, segments=2, **options)
    floor = emotion_floor(emotion_truth(**options), 50)
    assert all(torch.isfinite(x).all() for x in mv.xs) and all(math.isfinite(f) for f in floor.values())


@pytest.mark.parametrize("by", ["trial", "segment"])
def test_too_few_trials_are_named(by):
    for trials in (1, 2, 3, 4, 5, 6, 9, 12):
        try: parts = [load_emotion_sim(s, trials=trials, segments=1, by=by) for s in ("train", "valid", "test")]
        except ValueError as e: assert f"trials must be enough for train, valid and test, classes in proportion, got {trials} (by={by!r})" in str(e) and trials < 12
        else: assert sum(map(len, parts)) == trials and all(len(p) for p in parts)
    assert len(load_emotion_sim(trials=1)) == 50


# --- emotion-sim: trials and the data set

@pytest.mark.parametrize("share", [0., .5, 1.])
def test_a_trial_moves_nothing_but_the_dependence(share):
    truth = small()
    mv = emotion_sample(truth, 6000, 2, share, seed=3)
    assert torch.equal(mv.groups, torch.arange(6000).repeat_interleave(2)) and torch.equal(mv.y, mv.groups % 3)
    l = torch.cat(mv.xs, 1).double() - torch.cat([truth.class_means(v) for v in (0, 1)], 1)[mv.y]
    _, cov = joint(truth)
    noise = np.diag(np.concatenate([s.numpy()**2 for s in truth.noise]))
    assert np.abs(l[::2].T.cov().numpy() - cov).max() < .05                                    # one segment: the same for every share
    assert np.abs((l[::2].T @ l[1::2] / 6000).numpy() - share * (cov - noise)).max() < .05      # two of a trial


def test_splits_by_trial_and_by_segment():
    options = dict(trials=30, segments=10, seed=4)
    for by in ("trial", "segment"):
        parts = [load_emotion_sim(s, by=by, **options) for s in ("train", "valid", "test")]
        whole = load_emotion_sim(by=by, **options)
        assert [len(p) for p in parts] == [180, 60, 60] and all(len(set(p.y.bincount().tolist())) == 1 for p in parts)
        rows = torch.cat([p.xs[0] for p in parts])
        assert len(rows.unique(dim=0)) == 300 and torch.equal(rows.sum(1).sort().values, whole.xs[0].sum(1).sort().values)
        shared = set(parts[0].groups.tolist()) & set(parts[2].groups.tolist())
        assert bool(shared) == (by == "segment")
    assert torch.equal(whole.y, whole.groups % 3)


def test_the_same_seed_gives_the_same_bytes():
    a, b, c = (load_emotion_sim("train", like="deap", trials=20, segments=3, seed=s) for s in (1, 1, 2))
    assert all(torch.equal(u, v) for u, v in zip(a.xs, b.xs)) and not torch.equal(a.xs[0], c.xs[0])
    assert all(torch.equal(u, v) for u, v in zip(emotion_truth(seed=1).shared, emotion_truth(seed=1).shared))
    assert not torch.equal(emotion_truth(seed=1).shared[0], emotion_truth(seed=2).shared[0])


def test_the_loaders_seed_gives_its_truth():
    options = dict(like="deap", latent=3, private=2, noise=1., separation=3., nonlinear=True, seed=7)
    mv, truth = load_emotion_sim(trials=400, segments=1, **options), emotion_truth(**options)
    right = (emotion_posterior(truth, mv.xs).argmax(1) == mv.y).double().mean()
    other = (emotion_posterior(emotion_truth(**options | dict(seed=8)), mv.xs).argmax(1) == mv.y).double().mean()
    assert right > .9 > other + .2


@pytest.mark.parametrize("call, error, message", [
    (lambda: load_emotion_sim("dev"), ValueError, "split='dev' is unknown"), (lambda: load_emotion_sim(like="amigos"), ValueError, "like='amigos' is unknown"),
    (lambda: load_emotion_sim(by="row"), ValueError, "by='row' is unknown"), (lambda: load_emotion_sim(trials=0), ValueError, "trials must be >= 1, got 0"),
    (lambda: load_emotion_sim(segments=1.5), TypeError, "segments must be a whole number"), (lambda: load_emotion_sim(trial_share=-.1), ValueError, "trial_share must lie"),
    (lambda: load_emotion_sim(latent=1), ValueError, "latent must be >= 2"), (lambda: load_emotion_sim(private=-1), ValueError, "private must be >= 0"),
    (lambda: load_emotion_sim(noise=0), ValueError, r"noise must lie in \[1e-06, 1e\+06\], got 0"), (lambda: load_emotion_sim(noise=1e300), ValueError, "noise must lie"),
    (lambda: load_emotion_sim(separation=math.nan), ValueError, "separation must lie"), (lambda: load_emotion_sim(separation=1e300), ValueError, "separation must lie"),
    (lambda: load_emotion_sim(blur=-1), ValueError, "blur must lie"), (lambda: load_emotion_sim(blur=1e300), ValueError, "blur must lie"),
    (lambda: load_emotion_sim(nonlinear="no"), TypeError, "nonlinear must be True or False"), (lambda: load_emotion_sim(seed=1.5), TypeError, "seed"),
    (lambda: load_emotion_sim(n=10**6), ValueError, "n must be at most"), (lambda: load_emotion_sim("train", trials=2), ValueError, "trials must be enough"),
    (lambda: emotion_posterior(small(), [None, None]), ValueError, "got 2, both None"), (lambda: emotion_posterior(small(), [None]), ValueError, "got 1"),
    (lambda: emotion_posterior(small(), [torch.zeros(4, 2), None]), ValueError, r"xs\[0\] must have shape \(n, 3\), got \(4, 2\)"),
    (lambda: emotion_impute(small(), [torch.zeros(4, 3), torch.zeros(4, 2)]), ValueError, "exactly one view must be None"),
    (lambda: emotion_floor(small(), 0), ValueError, "n must be >= 1")])
def test_bad_options_of_the_simulator(call, error, message):
    with pytest.raises(error, match=message): call()
