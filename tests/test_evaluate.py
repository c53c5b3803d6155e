"Scores against scikit-learn, scipy and closed forms; protocols, and what is refused."
import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, confusion_matrix, normalized_mutual_info_score
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

from mvnb.base import integer_seed
from mvnb.corrupt import corrupt
from mvnb.evaluate import (ari, clustering_accuracy, confusion, grid_features, kmeans_labels, kmeans_scores, match_clusters, nmi, nmse,
                           raw_features, robustness_curve, summary, svc_scores)
from mvnb.fit import fit
from mvnb.views import MultiView


def blobs(n=90, k=3, d=4, spread=.1, seed=0):
    g = np.random.default_rng(seed)
    y = np.arange(n) % k
    return g.normal(0, 3, (k, d))[y] + g.normal(0, spread, (n, d)), y


def brute_force(y, labels):
    "The best accuracy over all one-to-one maps of clusters to classes, by trying every one."
    clusters, classes = np.unique(labels), list(np.unique(y))
    targets = classes + [-1 - i for i in range(len(clusters))]
    return max(np.mean([dict(zip(clusters, p))[l] == c for l, c in zip(labels, y)]) for p in itertools.permutations(targets, len(clusters)))


@pytest.mark.parametrize("classes,clusters", [(3, 3), (2, 4), (4, 2), (1, 3), (3, 1)])
def test_accuracy_is_the_best_matching(classes, clusters):
    g = np.random.default_rng(classes * 10 + clusters)
    y, labels = g.integers(0, classes, 30), g.integers(0, clusters, 30)
    assert clustering_accuracy(y, labels) == pytest.approx(brute_force(y, labels))


def test_accuracy_ignores_the_numbering():
    g = np.random.default_rng(0)
    y, labels = g.integers(0, 5, 200), g.integers(0, 5, 200)
    assert clustering_accuracy(y, labels) == clustering_accuracy(y, g.permutation(5)[labels]) == clustering_accuracy(y, labels * 100 + 7)
    assert clustering_accuracy(y * 3 + 2, labels) == clustering_accuracy(y, labels)
    assert clustering_accuracy(y, g.permutation(5)[y]) == 1


def test_match_clusters_is_one_to_one_and_leftovers_are_no_class():
    y, labels = np.repeat([0, 4], 10), np.repeat([9, 2, 5, 1], 5)
    renamed, mapping = match_clusters(y, labels)
    assert len(set(mapping.values())) == 4 and {0, 4} <= set(mapping.values()) and sorted(mapping.values())[2:] == [5, 6]
    assert (renamed == [mapping[c] for c in labels]).all() and (renamed == y).sum() == 10


@pytest.mark.parametrize("kind", [list, np.asarray, torch.as_tensor, lambda x: torch.as_tensor(x).double(), lambda x: np.asarray(x, np.uint8)])
def test_labels_of_any_kind(kind):
    y, labels = [0, 0, 1, 1, 2, 2], [1, 1, 0, 0, 0, 2]
    assert clustering_accuracy(kind(y), kind(labels)) == pytest.approx(5 / 6)
    assert confusion(kind(y), kind(labels)).trace() == 5


def test_nmi_and_ari_equal_sklearn():
    g = np.random.default_rng(3)
    for _ in range(5):
        y, labels = g.integers(0, 4, 50), g.integers(0, 6, 50)
        assert nmi(torch.tensor(y), labels) == normalized_mutual_info_score(y, labels)
        assert ari(torch.tensor(y), labels) == adjusted_rand_score(y, labels)


def test_confusion_against_sklearn_and_accuracy():
    g = np.random.default_rng(1)
    y, labels = g.integers(0, 4, 100), g.integers(0, 6, 100)
    assert (confusion(y, labels, matched=False) == confusion_matrix(y, labels, labels=range(6))).all()
    N = confusion(y, labels)
    assert N.shape == (6, 6) and N.sum() == 100 and N[4:].sum() == 0
    assert N.trace() / 100 == clustering_accuracy(y, labels)
    assert confusion(y, y, k=9).shape == (9, 9)
    fewer = confusion(y, np.minimum(y, 2))
    assert fewer.shape == (4, 4) and (fewer.sum(0) == 0).sum() == 1


@pytest.mark.parametrize("score", [clustering_accuracy, nmi, ari, confusion, match_clusters])
@pytest.mark.parametrize("y,labels,error,words", [
    ([0, 1, -1], [0, 1, 1], ValueError, "y holds 1 negative"),
    ([0, 1, 1], [0, -1, -1], ValueError, "labels holds 2 negative"),
    ([0, 1], [0, 1, 1], ValueError, "one length, got 2 and 3"),
    ([], [], ValueError, "n >= 1"),
    ([[0, 1]], [0, 1], ValueError, "shape"),
    ([0, .5], [0, 1], ValueError, "whole numbers"),
    ([0, float("nan")], [0, 1], ValueError, "NaN"),
    (["a", "b"], [0, 1], TypeError, "numeric"),
])
def test_bad_labels(score, y, labels, error, words):
    with pytest.raises(error, match=words): score(y, labels)


def test_confusion_bad_k():
    with pytest.raises(ValueError, match="k must be at least 3"): confusion([0, 2], [0, 2], k=2)
    with pytest.raises(TypeError, match="k must be a whole"): confusion([0, 1], [0, 1], k=2.)


def test_nmse_closed_forms():
    g = np.random.default_rng(0)
    x, e = g.normal(size=(20, 3, 4)), g.normal(size=(20, 3, 4))
    assert nmse(x, x) == 0 and nmse(x, 0 * x) == 1
    assert nmse(x, -x) == pytest.approx(2) and nmse(x, 1.25 * x) == pytest.approx(.25)     # no square
    assert nmse(x, x + e) == pytest.approx(np.sqrt((e ** 2).sum() / (x ** 2).sum()))
    assert nmse(7 * x, 7 * (x + e)) == pytest.approx(nmse(x, x + e))
    assert nmse(torch.tensor(x, dtype=torch.float32), torch.tensor(x + e, requires_grad=True)) == pytest.approx(nmse(x, x + e), rel=1e-5)


def test_nmse_reads_only_the_mask():
    g = np.random.default_rng(1)
    x, xhat, mask = g.normal(size=(10, 2)), g.normal(size=(10, 2)), np.arange(10) < 4
    expected = nmse(x[:4], xhat[:4])
    x[5], xhat[6] = np.nan, 1e9
    assert nmse(x, xhat, mask) == expected == nmse(x, xhat, torch.tensor(mask))


def test_nmse_of_the_mean_is_one_on_z_scores():
    x = np.random.default_rng(0).normal(2, 3, (500, 4))
    z = (x - x.mean(0)) / x.std(0)
    assert nmse(z, np.broadcast_to(z.mean(0), z.shape)) == pytest.approx(1)


@pytest.mark.parametrize("args,words", [
    ((np.ones((3, 2)), np.ones((3, 1))), "one shape"),
    ((np.ones((3, 2)), np.ones((3, 2)), np.zeros(3, bool)), "mask selects no row"),
    ((np.ones((3, 2)), np.ones((3, 2)), np.ones(3)), "mask must be Boolean"),
    ((np.ones((3, 2)), np.ones((3, 2)), np.ones((3, 2), bool)), "mask must be Boolean"),
    ((np.ones((3, 2)), np.full((3, 2), np.nan)), "NaN"),
    ((np.zeros((3, 2)), np.ones((3, 2))), "undefined"),
    ((np.ones((0, 2)), np.ones((0, 2))), "no row"),
])
def test_nmse_bad_input(args, words):
    with pytest.raises(ValueError, match=words): nmse(*args)


def test_raw_features_never_read_what_is_absent():
    xs, present = [torch.ones(3, 1, 2, 2), torch.full((3, 5), 2.)], torch.tensor([[1, 1], [0, 1], [1, 0]]).bool()
    z = raw_features(MultiView(xs, present))
    assert z.shape == (3, 9) and z[1, :4].eq(0).all() and z[2, 4:].eq(0).all() and z[0].sum() == 4 + 10
    holed = [x.masked_fill(~present[:, v].view(-1, *[1] * (x.ndim - 1)), float("nan")) for v, x in enumerate(xs)]
    assert torch.equal(raw_features(MultiView(holed, present)), z)


def test_kmeans_equals_sklearn_and_depends_on_the_seed_alone():
    z, y = np.random.default_rng(0).normal(size=(200, 3)), np.arange(200) % 4
    expected = KMeans(4, n_init="auto", random_state=integer_seed(5, "kmeans", 2)).fit_predict(z)
    assert (kmeans_labels(z, 4, seed=5, repeat=2) == expected).all()
    scores = kmeans_scores(z, y, repeats=3, seed=5)
    assert list(scores.columns) == ["repeat", "acc", "nmi", "ari"] and list(scores["repeat"]) == [0, 1, 2]
    assert scores.acc[2] == clustering_accuracy(y, expected) and scores.ari[2] == adjusted_rand_score(y, expected)
    pd.testing.assert_frame_equal(scores, kmeans_scores(torch.tensor(z), torch.tensor(y), repeats=3, seed=5))
    assert not scores.equals(kmeans_scores(z, y, repeats=3, seed=6)) and scores.acc.nunique() > 1


def test_k_is_the_number_of_classes_that_occur():
    z, y = blobs()
    assert (kmeans_scores(z, y * 10, repeats=3).acc == 1).all()
    assert kmeans_scores(z, y, k=1, repeats=1).acc[0] == pytest.approx(1 / 3)


def test_svc_repeats_and_seeds():
    z, y = np.random.default_rng(0).normal(size=(120, 3)), np.arange(120) % 3
    z[:, 0] += y
    a = svc_scores(z, y, repeats=4)
    pd.testing.assert_frame_equal(a, svc_scores(torch.tensor(z), y, repeats=4))
    assert list(a.columns) == ["repeat", "acc"] and len(a) == 4 and a.acc.nunique() > 1
    assert np.allclose(a.acc * 24, np.round(a.acc * 24))      # 24 of 120 rows are scored
    assert not a.equals(svc_scores(z, y, repeats=4, seed=1))


@pytest.mark.parametrize("d,offset", [(3, 0), (64, 0), (200, 0), (200, 1e5)])
def test_svc_is_sklearns_for_narrow_and_wide_features(d, offset):
    g = np.random.default_rng(d)
    y = np.arange(150) % 3
    z = g.normal(size=(150, d)) + g.normal(size=(3, d))[y] * 1.5 / d ** .5 + offset
    scores = svc_scores(z, y, repeats=3, seed=2)
    for r in range(3):
        zs, zt, ys, yt = train_test_split(z, y, test_size=30, stratify=y, random_state=integer_seed(2, "svc", r))
        assert scores.acc[r] == SVC().fit(zs, ys).score(zt, yt)
    assert scores.acc.nunique() > 1 and (svc_scores(np.ones((150, d)), y, repeats=1).acc < .5).all()


def test_svc_can_separate_blobs_and_not_noise():
    z, y = blobs(n=150)
    assert svc_scores(z, y, repeats=2).acc.min() == 1
    assert svc_scores(np.random.default_rng(0).normal(size=(600, 4)), np.arange(600) % 3, repeats=5).acc.mean() < .45


def test_svc_splits_keep_the_shares_of_the_classes():
    y = np.repeat([0, 1], [80, 20])
    assert (svc_scores(np.zeros((100, 2)) + np.random.default_rng(0).normal(0, 1e-9, (100, 2)), y, repeats=6).acc == .8).all()   # always the larger class


def test_standardize_undoes_a_scale_that_hides_the_class():
    g = np.random.default_rng(0)
    y = np.arange(300) % 2
    z = np.stack([g.normal(0, 1000, 300), y + g.normal(0, .05, 300)], 1)
    assert svc_scores(z, y, repeats=3, standardize=True).acc.mean() > .95 > svc_scores(z, y, repeats=3).acc.mean() + .2


@pytest.mark.parametrize("score", [kmeans_scores, svc_scores])
def test_bad_features_and_labels(score):
    z, y = blobs()
    bad = z.copy(); bad[4, 1] = np.nan
    for args, words in (((bad, y), "z has NaN or infinity in 1 of 90 rows .first: row 4"), ((z[:5], y), "z must have 90 rows"), ((z[:, 0], y), "shape"),
                        ((z, np.where(y == 2, -1, y)), "y holds 30 negative"), ((z[:, :0], y), "shape")):
        with pytest.raises(ValueError, match=words): score(*args)
    with pytest.raises(ValueError, match="repeats must be >= 1"): score(z, y, repeats=0)
    with pytest.raises(TypeError, match="repeats"): score(z, y, repeats=2.5)
    with pytest.raises(ValueError, match="seed"): score(z, y, seed=-1)


def test_bad_k_and_splits():
    z, y = blobs()
    for k, words in ((0, "k must be >= 1"), (91, "k must be at most")):
        with pytest.raises(ValueError, match=words): kmeans_labels(z, k)
        with pytest.raises(ValueError, match=words): kmeans_scores(z, y, k=k)
    for size in (0, 1, .99, .01):
        with pytest.raises(ValueError, match="test_size"): svc_scores(z, y, test_size=size)
    with pytest.raises(ValueError, match="test_size"): svc_scores(z, y, test_size=1.5)
    with pytest.raises(ValueError, match="2 classes"): svc_scores(z, 0 * y)
    with pytest.raises(ValueError, match="at least 2 samples"): svc_scores(z, np.r_[9, y[1:]])


def two_views(n=60, seed=0):
    z, y = blobs(n, spread=.3, seed=seed)
    x = torch.tensor((z - z.min()) / (z.max() - z.min()), dtype=torch.float32)
    return MultiView([x, x.flip(1)], y=y)


def test_robustness_curve_scores_the_corrupted_features():
    mv = two_views()
    df = robustness_curve(raw_features, mv, vmr=(0, .5), snr=(0, .25), seed=3, repeats=2)
    assert list(df.columns) == ["vmr", "snr", "task", "metric", "repeat", "value"] and len(df) == 4 * 2 * 4
    z = raw_features(corrupt(mv, vmr=.5, snr=.25, seed=3))
    here = df.query("vmr == .5 and snr == .25 and metric == 'acc'")
    assert list(here[here.task == "kmeans"].value) == list(kmeans_scores(z, mv.y, repeats=2, seed=3).acc)
    assert list(here[here.task == "svc"].value) == list(svc_scores(z, mv.y, repeats=2, seed=3).acc)
    pd.testing.assert_frame_equal(df, robustness_curve(raw_features, mv, vmr=(0, .5), snr=(0, .25), seed=3, repeats=2))


@pytest.mark.parametrize("batched", [True, False])
def test_robustness_curve_hands_over_corrupted_data_and_settings(batched):
    seen = []
    def features(mv):
        seen.append(mv)
        return raw_features(mv).numpy()
    mv = two_views()
    df = robustness_curve(features, mv, vmr=np.array([0, .9]), repeats=1, scores="kmeans", view=0, batched=batched)
    if batched: assert len(seen) == 1 and len(seen[0]) == 60 + 54   # 54 rows come in two versions
    else: assert [float((~m.present).any(1).float().mean()) for m in seen] == [0, pytest.approx(.9)]
    assert int((~seen[-1].present[:, 0]).sum()) == 54 and seen[-1].present[:, 1].all()
    assert set(df.task) == {"kmeans"} and mv.present.all()


corruptions = [{}, dict(view=0), dict(sigma=.1), dict(unpaired=.3), dict(per="element", low=-1.), dict(sigma=.2, unpaired=.5, clip=(0, 1))]

@pytest.mark.parametrize("settings", corruptions, ids=str)
@pytest.mark.parametrize("holes", [False, True])
def test_grid_features_are_those_of_every_point_alone(settings, holes):
    mv, points = two_views(), [(.3, .25), (0, 0), (.5, 0), (.3, .5), (.9, .25), (0, .25)]
    mv = mv.replace(xs=[*mv.xs, mv.xs[0] * .5], names=["a", "b", "c"], present=torch.ones(60, 3, dtype=torch.bool))
    if holes: mv = corrupt(mv, vmr=.4, seed=9, view=2)
    if holes and "view" in settings: points = [(.3, 0), (.6, .5)]
    for limit in (None, 7, 60, 100):
        z = grid_features({"raw": raw_features, "twice": lambda m: 2 * raw_features(m)}, mv, points, seed=4, rows_at_once=limit, **settings)
        for p in points:
            alone = raw_features(corrupt(mv, vmr=p[0], snr=p[1], seed=4, **settings)).numpy()
            assert (z["raw"][p] == alone).all() and (z["twice"][p] == 2 * alone).all()
    assert list(z) == ["raw", "twice"] and set(z["raw"]) == set(points)


def test_grid_features_lose_two_of_three_views():
    x = torch.rand(40, 5)
    mv = MultiView([x, x + 1, x + 2], y=torch.arange(40) % 2)
    z = grid_features({"raw": raw_features}, mv, [(.5, 0), (1., .2)], seed=1, n_drop=2)["raw"]
    for p in z: assert (z[p] == raw_features(corrupt(mv, vmr=p[0], snr=p[1], seed=1, n_drop=2)).numpy()).all()
    assert (z[1., .2].reshape(40, 3, 5) == 0).all(2).sum() == 80


def test_grid_features_bad_input():
    mv, raw = two_views(), {"raw": raw_features}
    for args, error, words in (((raw, mv, []), ValueError, "0 points"), ((raw, mv[:0], [(0, 0)]), ValueError, "0 rows"), ((raw, mv.xs[0], [(0, 0)]), TypeError, "MultiView"),
                               ((raw, mv, [(0, 2)]), ValueError, "snr must lie in"), (({"raw": lambda m: raw_features(m)[1:]}, mv, [(0, 0)]), ValueError, "60 corrupted rows, got 59")):
        with pytest.raises(error, match=words): grid_features(*args)
    with pytest.raises(TypeError, match="corrupt"): grid_features(raw, mv, [(0, 0)], drop=2)


def test_rows_at_once_bounds_every_call():
    mv, sizes = two_views(), []
    def features(m):
        sizes.append(len(m))
        return raw_features(m)
    grid_features({"": features}, mv, [(v, s) for s in (0, .1, .2) for v in (0, .5)], rows_at_once=50)
    assert max(sizes) <= 50 and sum(sizes) == 3 * (60 + 30)
    sizes.clear()
    grid_features({"": features}, mv, [(v, s) for s in (0, .1, .2) for v in (0, .5)], rows_at_once=200)
    assert sizes == [180, 90]


@pytest.fixture(scope="module")
def batchnorm():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(60, 1, 8, 8, generator=g)
    mv = MultiView([x, 1 - x], y=torch.arange(60) % 3)
    return fit("dualvae", mv, epochs=3, batch_size=20, settings=dict(net="authors", hidden=(2,), variant="authors"), device="cpu", progress=False).models[0], mv


def test_one_pass_of_a_model_with_batchnorm_gives_the_numbers_of_single_passes(batchnorm):
    model, mv = batchnorm
    assert any(name.endswith(".mean") and float(b.abs().max()) > .01 for name, b in model.named_buffers())   # running statistics that matter
    model.train()                                              # a model left in training mode: `embed` must not use the batch's statistics
    arguments = dict(vmr=(0, .5, .9), snr=(0, .3), seed=1, repeats=2)
    z = grid_features({"": model.embed}, mv, [(v, s) for v in (0, .5, .9) for s in (0, .3)], seed=1)[""]
    for v, s in z: assert np.allclose(z[v, s], model.embed(corrupt(mv, vmr=v, snr=s, seed=1)), atol=1e-5)
    assert np.ptp(z[.5, .3], axis=0).max() > .01
    one, single = (robustness_curve(model.embed, mv, batched=b, **arguments) for b in (True, False))
    pd.testing.assert_frame_equal(one, single)


def test_robustness_curve_of_named_features_and_listed_points(batchnorm):
    model, mv = batchnorm
    points, features = [(0, 0), (.5, .1), (0, .9)], {"raw": raw_features, "model": model.embed}
    df = robustness_curve(features, mv, points=points, seed=2, repeats={"kmeans": 3, "svc": 1})
    assert list(df.columns) == ["model", "vmr", "snr", "task", "metric", "repeat", "value"]
    assert df.groupby(["task", "metric"]).size().to_dict() == {("kmeans", "acc"): 18, ("kmeans", "ari"): 18, ("kmeans", "nmi"): 18, ("svc", "acc"): 6}
    for (name, v, s), t in df.groupby(["model", "vmr", "snr"], sort=False):
        alone = robustness_curve(features[name], mv, vmr=v, snr=s, seed=2, repeats=3, scores="kmeans")
        assert list(t[t.task == "kmeans"].value) == list(alone.value)
    assert list(dict.fromkeys(zip(df.vmr, df.snr))) == points


def test_features_of_all_rows_need_a_call_per_point():
    mv = two_views()
    def centred(m): return raw_features(m) - raw_features(m).mean(0)
    df = robustness_curve(lambda m: centred(m)[:, :2] > 0, mv, vmr=(0, .9), repeats=1, scores="kmeans", batched=False)
    z = centred(corrupt(mv, vmr=.9, seed=0))[:, :2] > 0
    assert df.query("vmr == .9 and metric == 'acc'").value.item() == kmeans_scores(z, mv.y, repeats=1).acc[0]


def test_robustness_curve_bad_input():
    mv = two_views()
    for wrong, words in ((dict(vmr=1.2), "vmr must lie in"), (dict(snr=-.1), "snr must lie in"), (dict(vmr=[]), "vmr must list"), (dict(snr=(0, 0)), "different"),
                         (dict(scores="knn"), "kmeans, svc"), (dict(scores=()), "scores must name"), (dict(repeats=0), "repeats"),
                         (dict(points=[]), "points must list"), (dict(points=[(0, .1), (0, .1)]), "points must list"), (dict(points=[(2, 0)]), "vmr must lie in"),
                         (dict(rows_at_once=0), "rows_at_once must be >= 1"), (dict(repeats={"svc": 2}), "none for 'kmeans'")):
        with pytest.raises(ValueError, match=words): robustness_curve(raw_features, mv, **wrong)
    with pytest.raises(ValueError, match="mv must have labels"): robustness_curve(raw_features, mv.replace(y=None, classes=None))
    with pytest.raises(ValueError, match="negative labels"): robustness_curve(raw_features, mv.replace(y=torch.where(mv.y == 0, -1, mv.y)))
    with pytest.raises(ValueError, match="features at vmr=0, snr=0 has NaN"): robustness_curve(lambda m: raw_features(m) * float("nan"), mv)
    with pytest.raises(ValueError, match="features at vmr=0, snr=0 must have 60 rows"): robustness_curve(lambda m: raw_features(m)[:9], mv, batched=False)
    with pytest.raises(ValueError, match="a row for each of 90 corrupted rows, got 9"): robustness_curve(lambda m: raw_features(m)[:9], mv, vmr=(0, .5))
    with pytest.raises(ValueError, match="vmr=0.5, snr=0 has NaN"): robustness_curve(lambda m: raw_features(m) / m.present.all(1, keepdim=True), mv, vmr=(0, .5))
    with pytest.raises(ValueError, match="features must name"): robustness_curve({}, mv)
    with pytest.raises(TypeError, match="mv must be a MultiView"): robustness_curve(raw_features, mv.xs[0])


def test_summary():
    df = pd.DataFrame(dict(model=["a"] * 6 + ["b"], seed=[0, 0, 0, 1, 1, 1, 0], value=[1., 2, 3, 5, 6, 7, 4]))
    s = summary(df, "model").set_index("model")
    assert s.loc["a", "mean"] == 4 and s.loc["a", "std"] == pytest.approx(np.std([1, 2, 3, 5, 6, 7], ddof=1)) and s.loc["a", "count"] == 6
    assert np.isnan(s.loc["b", "std"]) and s.loc["b", "count"] == 1
    s = summary(df, ["model"], over="seed").set_index("model")
    assert s.loc["a", "mean"] == 4 and s.loc["a", "std"] == pytest.approx(np.sqrt(8)) and s.loc["a", "count"] == 2


def test_summary_bad_input():
    df = pd.DataFrame(dict(model=["a", "b"], value=[1., np.nan]))
    with pytest.raises(ValueError, match="1 NaN"): summary(df, "model")
    for args in (("name",), ("model", "score"), ("model", "value", "seed")):
        with pytest.raises(ValueError, match="model, value"): summary(df, *args)
    with pytest.raises(ValueError, match="rows"): summary(df[:0], "model")
