"MultiViewEstimator against scikit-learn's own checks, against `fit` by hand, and what is refused."
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import toys
import torch
from sklearn.base import clone, is_classifier, is_clusterer
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import check_estimators_pickle, parametrize_with_checks

from mvnb import models
from mvnb.base import integer_seed
from mvnb.estimator import MultiViewEstimator
from mvnb.evaluate import clustering_accuracy
from mvnb.fit import fit
from mvnb.views import MultiView

SMALL = {"variant": "mvnb", "hidden": (16,), "c_dim": 2, "s_dim": 1}


def make(**changes): return MultiViewEstimator(**dict(settings=SMALL, epochs=2, batch_size=16, lr=1e-2) | changes)


@pytest.fixture(scope="module")
def blobs():
    "60 samples of three far classes in 6 columns, as float32, and their labels."
    X, y = make_blobs(60, 6, centers=3, cluster_std=.3, random_state=0)
    return (X / 4).astype(np.float32), y


@pytest.fixture(scope="module")
def Xs(blobs):
    "The columns as two views of 3, some rows missing."
    first, second = blobs[0][:, :3].copy(), blobs[0][:, 3:].copy()
    first[:10], second[30:45] = np.nan, np.nan
    return [first, second]


@pytest.fixture(scope="module")
def fitted(Xs, blobs): return make(epochs=20).fit(Xs, blobs[1])


def mask_of(Xs): return np.stack([~np.isnan(x).reshape(len(x), -1).all(1) for x in Xs], 1)


# scikit-learn's own checks. One does not apply as it stands; it is run with one column per view below.
EXPECTED_FAILED_CHECKS = {
    "check_estimators_pickle": "it scatters NaN over single cells; with blocks of two columns a view is missing as a whole or not at all",
}


@parametrize_with_checks([make(view_sizes=2, n_clusters=3, epochs=8, batch_size=64, lr=5e-2, settings=SMALL | {"beta_c": .001})],
                         expected_failed_checks=lambda e: EXPECTED_FAILED_CHECKS, xfail_strict=True)
def test_sklearn_checks(estimator, check): check(estimator)


@pytest.mark.parametrize("readonly", [False, True])
def test_sklearn_pickle_check_with_a_view_per_column(readonly):
    check_estimators_pickle("MultiViewEstimator", make(view_sizes=3, n_clusters=3), readonly_memmap=readonly)


def test_tags():
    assert is_clusterer(make()) and not is_classifier(make())
    assert get_tags(make()).input_tags.allow_nan
    assert get_tags(make(view_sizes=2)).input_tags.two_d_array and not get_tags(make()).input_tags.two_d_array


# the same numbers as by hand

def test_equals_fit_by_hand(Xs, device):
    est = make(random_state=7, weight_decay=.1, clip=1., schedule="constant", device=device).fit(Xs)
    mv = MultiView.from_list(Xs)
    result = fit("dualvae", mv, epochs=2, batch_size=16, lr=1e-2, seeds=(7,), settings=SMALL, weight_decay=.1, clip=1., schedule="constant",
                 device=device, progress=False)
    assert np.array_equal(est.transform(Xs), result.models[0].embed(mv).numpy())
    pd.testing.assert_frame_equal(est.history_, result.history)
    assert all(np.array_equal(a, b) for a, b in zip(est.impute(Xs), result.models[0].impute(mv).xs))
    assert all(np.array_equal(a, b) for a, b in zip(est.reconstruct(Xs), result.models[0].reconstruct(mv)))
    assert est.seed_ == 7 and est.n_views_ == 2 and est.view_names_ == ("view 0", "view 1")
    assert next(est.model_.parameters()).device.type == "cpu"


@pytest.mark.parametrize("name,value", [("weight_decay", .5), ("clip", .01), ("schedule", "constant"), ("lr", .1), ("batch_size", 60), ("epochs", 3), ("random_state", 1)])
def test_every_parameter_reaches_training(Xs, name, value):
    assert not np.allclose(make().fit_transform(Xs), make(**{name: value}).fit_transform(Xs), atol=1e-6)


def test_kmeans_on_the_training_embedding(fitted, Xs, blobs):
    z = fitted.transform(Xs)
    by_hand = KMeans(3, n_init=10, random_state=integer_seed(0, "kmeans")).fit(z)
    assert fitted.kmeans_.get_params() == by_hand.get_params()
    assert np.array_equal(fitted.labels_, by_hand.labels_) and np.array_equal(fitted.predict(Xs), by_hand.labels_)
    centres = fitted.kmeans_.cluster_centers_
    nearest = ((z[:5, None] - centres) ** 2).sum(2).argmin(1)
    assert np.array_equal(fitted.predict([x[:5] for x in Xs]), nearest)
    assert fitted.score(Xs, blobs[1]) == clustering_accuracy(blobs[1], fitted.labels_) > .7


def test_labels_do_not_change_a_model_that_learns_without(Xs, blobs):
    assert np.array_equal(make().fit_transform(Xs), make().fit_transform(Xs, blobs[1]))


def test_random_state(Xs):
    a, b = make(random_state=3).fit(Xs), make(random_state=3).fit(Xs)
    assert np.array_equal(a.transform(Xs), b.transform(Xs)) and np.array_equal(a.fit(Xs).transform(Xs), b.transform(Xs))
    drawn = make(random_state=np.random.RandomState(0)).fit(Xs)
    assert drawn.seed_ == np.random.RandomState(0).randint(2**31 - 1)
    assert np.array_equal(make(random_state=drawn.seed_).fit_transform(Xs), drawn.transform(Xs))
    assert make(random_state=None).fit(Xs).seed_ != make(random_state=None).fit(Xs).seed_
    before = torch.get_rng_state()
    make().fit(Xs)
    assert torch.equal(torch.get_rng_state(), before)


# forms of data

def test_every_form_of_the_same_data(fitted, Xs):
    z, mask = fitted.transform(Xs), mask_of(Xs)
    forms = [tuple(Xs), [x.astype(np.float64) for x in Xs], [torch.as_tensor(x) for x in Xs], [torch.as_tensor(x).double() for x in Xs],
             [pd.DataFrame(x) for x in Xs], MultiView.from_list(Xs), {"view 1": Xs[1], "view 0": Xs[0]}, MultiView.from_list(Xs[::-1], names=["view 1", "view 0"])]
    for form in forms: assert np.array_equal(fitted.transform(form), z), type(form)
    assert z.dtype == np.float32 and mask.sum() == 95


def test_masked_entries_are_never_read(Xs, blobs):
    mask, y = mask_of(Xs), blobs[1]
    a, b = ([np.where(m[:, None], x, np.float32(junk)) for x, m in zip(Xs, mask.T)] for junk in (np.nan, 1e30))
    b[0][0, 1] = np.inf
    one, two = make().fit(a, y, mask), make().fit(b, y, mask=mask.astype(int))
    for method in ("transform", "predict"): assert np.array_equal(getattr(one, method)(a, mask=mask), getattr(two, method)(b, mask=mask))
    for method in ("impute", "reconstruct"):
        for p, q in zip(getattr(one, method)(a, mask), getattr(two, method)(b, mask)): assert np.array_equal(p, q) and np.isfinite(p).all()
    assert np.array_equal(one.transform(a, mask), make().fit_transform(Xs, y)) and one.score(a, y, mask) == two.score(b, y, mask)
    assert np.array_equal(make().fit_transform(b, y, mask), one.transform(a, mask)) and np.array_equal(make().fit_predict(b, y, mask), one.labels_)


@pytest.mark.parametrize("view_sizes", [2, [3, 3], np.array([3, 3])])
def test_table_equals_list(Xs, view_sizes):
    X = np.hstack(Xs)
    est = make(view_sizes=view_sizes).fit(X)
    assert np.array_equal(est.transform(X), make().fit_transform(Xs)) and est.n_features_in_ == 6
    assert np.array_equal(est.transform(X.tolist()), est.transform(X))
    assert np.array_equal(np.hstack(est.impute(X))[~np.isnan(X)], X[~np.isnan(X)])
    masked = make(view_sizes=view_sizes).fit_transform(np.nan_to_num(X, nan=9), mask=mask_of(Xs))
    assert np.array_equal(masked, est.transform(X))


def test_blocks_are_those_of_array_split(blobs):
    for V, widths in ((4, [2, 2, 1, 1]), ([1, 5], [1, 5])):
        est = make(view_sizes=V).fit(blobs[0])
        assert [s[0] for s in est.model_.views.shapes] == widths
    assert [x.shape[1] for x in make(view_sizes=[1, 5]).fit(blobs[0]).impute(blobs[0])] == [1, 5]


def test_data_is_not_changed(Xs):
    copies = [x.copy() for x in Xs]
    make(n_clusters=2).fit(Xs).impute(Xs)
    for x, c in zip(Xs, copies): np.testing.assert_array_equal(x, c)


def test_images_and_imputation(blobs):
    g = np.random.default_rng(0)
    images, flat = g.random((40, 1, 4, 4), dtype=np.float32), g.random((40, 5), dtype=np.float32)
    images[:7] = np.nan
    est = make().fit([images, flat])
    filled = est.impute([images, flat])
    assert filled[0].shape == (40, 1, 4, 4) and np.array_equal(filled[0][7:], images[7:]) and np.array_equal(filled[1], flat)
    assert np.isfinite(filled[0]).all() and np.ptp(filled[0][:7]) > 0
    assert np.array_equal(filled[0][:7], est.reconstruct([images, flat])[0][:7])


# labels

def test_strings_and_unlabelled_rows(Xs, blobs):
    y = blobs[1]
    est = make().fit(Xs, np.array(["ant", "bee", "cat"])[y])
    assert est.classes_.tolist() == ["ant", "bee", "cat"] and est.labels_.dtype == np.int64 and set(est.labels_) == {0, 1, 2}
    assert est.score(Xs, np.array(["x", "y", "z"])[y]) == est.score(Xs, y) == est.score(Xs, torch.as_tensor(y)) == est.score(Xs, pd.Series(y * 10.))
    partly = np.where(np.arange(60) < 20, y, -1)
    assert est.score(Xs, partly) == clustering_accuracy(y[:20], est.labels_[:20])
    assert make().fit(Xs, np.where(y == 2, -1, y)).kmeans_.n_clusters == 2
    assert make(n_clusters=5).fit(Xs, y).kmeans_.n_clusters == 5


def test_a_multiview_carries_its_labels(Xs, blobs):
    mv = MultiView.from_list(Xs, y=blobs[1])
    est = make().fit(mv)
    assert est.kmeans_.n_clusters == 3 and est.score(mv) == est.score(Xs, blobs[1]) == est.score(mv, blobs[1])
    assert make().fit(mv, blobs[1] % 2).kmeans_.n_clusters == 2


def test_real_targets_are_no_classes(Xs, blobs):
    est = make().fit(Xs, blobs[0][:, 0])
    assert not hasattr(est, "classes_") and not hasattr(est, "labels_") and np.array_equal(est.transform(Xs), make().fit_transform(Xs))
    with pytest.raises(ValueError, match="class labels"): est.score(Xs, blobs[0][:, 0])
    assert np.isfinite(cross_val_score(make_pipeline(make(view_sizes=2), Ridge()), blobs[0], blobs[0][:, 0], cv=2)).all()


class Assigning(toys.Proximal):
    "A model that gives clusters by itself."
    def assign(self, mv): return self.embed(mv).softmax(1)


@pytest.fixture
def toy_models(monkeypatch):
    monkeypatch.setitem(models.registry, "classifier", "toys:SemiSupervised")
    monkeypatch.setitem(models.registry, "assigning", f"{__name__}:Assigning")


def test_a_model_that_predicts_classes(toy_models, blobs):
    X, y = blobs
    some = np.where(np.arange(60) % 3, y, -1)
    est = MultiViewEstimator("classifier", epochs=40, batch_size=32, lr=1e-2).fit([X, X], np.where(some < 0, -1, some * 2))
    assert est.classes_.tolist() == [0, 2, 4] and set(est.predict([X, X])) <= {0, 2, 4} and not hasattr(est, "kmeans_")
    assert est.score([X, X], 2 * y) == (est.predict([X, X]) == 2 * y).mean() > .9
    assert est.score([X, X], 2 * ((y + 1) % 3)) < .1, "classes have names: nothing is matched"
    with pytest.raises(AttributeError, match="'classifier' has no impute"): est.impute([X, X])


def test_a_model_that_assigns_clusters(toy_models, blobs):
    est = MultiViewEstimator("assigning", epochs=2, lr=1e-2)
    labels = est.fit_predict([blobs[0]])
    assert np.array_equal(labels, est.model_.assign(MultiView([blobs[0]])).argmax(1)) and not hasattr(est, "kmeans_")
    assert np.array_equal(est.predict([blobs[0]]), labels)


# parameters, copies, files

def test_parameters():
    est = make()
    assert est.get_params(deep=False)["settings"] is SMALL and est.get_params()["settings__c_dim"] == 2
    est.set_params(settings__c_dim=3, lr=.5)
    assert est.settings == SMALL | {"c_dim": 3} and SMALL["c_dim"] == 2 and est.lr == .5
    assert MultiViewEstimator().set_params(settings__c_dim=3).settings == {"c_dim": 3}
    assert clone(est).get_params() == est.get_params()
    with pytest.raises(ValueError, match="Invalid parameter 'epoch'"): est.set_params(epoch=1)
    assert make(settings=None).fit_transform([np.eye(8), np.eye(8)]).shape == (8, 10)


def test_refit_forgets(Xs, blobs):
    est = make(view_sizes=2).fit(blobs[0], blobs[1])
    assert {"classes_", "labels_", "kmeans_", "n_features_in_"} <= set(vars(est))
    est.set_params(view_sizes=None).fit(Xs)
    assert not {"classes_", "labels_", "kmeans_", "n_features_in_"} & set(vars(est))


@pytest.mark.parametrize("way", ["pickle", "joblib"])
def test_files(fitted, Xs, way, tmp_path):
    if way == "pickle": again = pickle.loads(pickle.dumps(fitted))
    else:
        joblib.dump(fitted, tmp_path / "est.joblib")
        again = joblib.load(tmp_path / "est.joblib")
    for method in ("transform", "predict"): assert np.array_equal(getattr(again, method)(Xs), getattr(fitted, method)(Xs))
    models.save(again.model_, tmp_path / "model.pt")
    assert torch.equal(models.load(tmp_path / "model.pt").embed(MultiView.from_list(Xs)), torch.as_tensor(fitted.transform(Xs)))


# inside scikit-learn

def test_pipeline_with_missing_blocks(Xs, blobs):
    X, y = np.hstack(Xs), blobs[1]
    pipe = make_pipeline(StandardScaler(), make(view_sizes=2, epochs=20), SVC())
    scores = cross_val_score(pipe, X, y, cv=StratifiedKFold(3, shuffle=True, random_state=0))
    assert scores.mean() > .7
    grid = GridSearchCV(pipe, {"multiviewestimator__settings__c_dim": [1, 3], "multiviewestimator__epochs": [1]}, cv=2).fit(X, y)
    assert grid.best_estimator_[1].transform(X).shape == (60, grid.best_params_["multiviewestimator__settings__c_dim"])


def test_multiview_goes_through_cross_validation(Xs, blobs):
    mv, cv = MultiView.from_list(Xs, y=blobs[1]), KFold(3, shuffle=True, random_state=0)
    scores = cross_val_score(make(), mv, blobs[1], cv=cv)
    by_hand = [make().fit(mv[a], blobs[1][a]).score(mv[b], blobs[1][b]) for a, b in cv.split(mv)]
    assert np.array_equal(scores, by_hand) and np.array_equal(cross_val_score(make(), mv, cv=cv), by_hand)
    grid = GridSearchCV(make(), {"settings": [SMALL, SMALL | {"c_dim": 3}], "lr": [1e-3, 1e-2]}, cv=2).fit(mv, blobs[1])
    assert len(grid.cv_results_["params"]) == 4 and np.isfinite(grid.cv_results_["mean_test_score"]).all()
    assert grid.predict(mv).shape == (60,)


@pytest.mark.parametrize("form", ["list", "multiview", "frame"])
def test_set_output(Xs, form):
    X = {"list": Xs, "multiview": MultiView.from_list(Xs), "frame": pd.DataFrame(np.hstack(Xs), index=np.arange(60) * 2)}[form]
    est = make(view_sizes=2 if form == "frame" else None).set_output(transform="pandas")
    table = est.fit_transform(X)
    assert list(table.columns) == ["multiviewestimator0", "multiviewestimator1"] == list(est.get_feature_names_out())
    assert list(table.index) == list(range(0, 120, 2) if form == "frame" else range(60))
    assert np.array_equal(table, est.set_output(transform="default").transform(X))


# what is refused

@pytest.mark.parametrize("changes,error,message", [
    (dict(model="dualvea"), ValueError, "'dualvea' is unknown; choose one of: .*dualvae"), (dict(model=None), ValueError, "choose one of"),
    (dict(settings={"beta": 1}), ValueError, "'beta' is unknown"), (dict(settings=["c_dim"]), TypeError, "settings must be a dict"),
    (dict(n_clusters=0), ValueError, "n_clusters"), (dict(n_clusters=2.), TypeError, "n_clusters"), (dict(n_clusters=61), ValueError, "n_clusters=61 .*n_samples=60"),
    (dict(epochs=-1), ValueError, "epochs"), (dict(epochs=1.5), TypeError, "epochs"), (dict(batch_size=0), ValueError, "batch_size"), (dict(lr=0), ValueError, "lr"),
    (dict(clip=0), ValueError, "clip"), (dict(weight_decay=-1), ValueError, "weight_decay"), (dict(schedule="step"), ValueError, "schedule"),
    (dict(random_state=-1), ValueError, "random_state"), (dict(random_state=True), TypeError, "random_state"), (dict(random_state="x"), ValueError, "seed"),
])
def test_bad_parameters(Xs, changes, error, message):
    est = make(**changes)
    with pytest.raises(error, match=message): est.fit(Xs)
    with pytest.raises(NotFittedError): est.transform(Xs)


@pytest.mark.parametrize("view_sizes,error,message", [
    (0, ValueError, "view_sizes must be >= 1"), (7, ValueError, "6 feature.*minimum of 7"), ([3, 4], ValueError, "sum to 7 columns, but X has 6"), ([6, 0], ValueError, "view_sizes must be >= 1"),
    ("2", TypeError, "view_sizes must be a number of blocks"), (2.5, TypeError, "view_sizes"), ([1.5, 4.5], TypeError, "view_sizes"), (True, TypeError, "view_sizes"),
])
def test_bad_view_sizes(blobs, view_sizes, error, message):
    with pytest.raises(error, match=message): make(view_sizes=view_sizes).fit(blobs[0])


def partly(Xs):
    x = Xs[0].copy()
    x[20, 1] = np.nan
    return [x, Xs[1]]


BAD_DATA = {
    "one array": (lambda Xs: np.hstack(Xs), TypeError, "view_sizes=2"), "a frame": (lambda Xs: pd.DataFrame(Xs[0]), TypeError, "DataFrame"),
    "nothing": (lambda Xs: [], ValueError, "at least one view"), "lengths": (lambda Xs: [Xs[0], Xs[1][:-1]], ValueError, "same number of samples"),
    "partly NaN": (partly, ValueError, "view 0.*first: row 20"), "strings": (lambda Xs: [Xs[0], Xs[1].astype(str)], TypeError, "numeric"),
    "infinity": (lambda Xs: [Xs[0], np.where(Xs[1] > 0, np.inf, Xs[1])], ValueError, "infinity"),
    "no view in a row": (lambda Xs: [Xs[0], np.where(np.arange(60)[:, None] == 5, np.nan, Xs[1])], ValueError, "1 rows have no view at all .first: row 5"),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data(fitted, Xs, name):
    change, error, message = BAD_DATA[name]
    with pytest.raises(error, match=message): make().fit(change(Xs))
    for method in ("transform", "predict", "impute", "reconstruct"):
        with pytest.raises(error, match=message): getattr(fitted, method)(change(Xs))


def test_other_views_than_in_fit(fitted, Xs, blobs):
    with pytest.raises(ValueError, match="V = 1 views.*made for 2"): fitted.transform(Xs[:1])
    with pytest.raises(ValueError, match=r"shape \(2,\), this model was made for \(3,\)"): fitted.transform([Xs[0][:, :2], Xs[1]])
    named = make().fit({"a": Xs[0], "b": Xs[1]})
    assert np.array_equal(named.transform({"b": Xs[1], "a": Xs[0]}), named.transform(Xs))
    with pytest.raises(ValueError, match=r"views \('a', 'c'\).*fitted on \('a', 'b'\)"): named.transform({"a": Xs[0], "c": Xs[1]})
    with pytest.raises(ValueError, match="X has 5 features"): make(view_sizes=2).fit(blobs[0]).transform(blobs[0][:, :5])


@pytest.mark.parametrize("mask,message", [(np.ones((60, 3)), "shape"), (np.full((60, 2), .5), "Boolean"), (np.zeros((60, 2), bool), "no view at all"), (np.ones((60, 2), bool), "NaN")])
def test_bad_masks(fitted, Xs, mask, message):
    with pytest.raises(ValueError, match=message): fitted.transform(Xs, mask=mask)
    with pytest.raises(ValueError, match=message): make().fit(Xs, mask=mask)


def test_a_mask_does_not_go_with_a_multiview(Xs):
    with pytest.raises(ValueError, match="carries its own"): make().fit(MultiView.from_list(Xs), mask=mask_of(Xs))


@pytest.mark.parametrize("y,error,message", [
    (np.zeros(59), ValueError, "59 labels for 60"), (np.zeros((60, 2)), ValueError, "1d"), (np.full(60, np.nan), ValueError, "NaN"),
    (np.array(["a", 1] * 30, dtype=object), TypeError, "one kind"),
])
def test_bad_labels(fitted, Xs, y, error, message):
    with pytest.raises(error, match=message): make().fit(Xs, y)
    with pytest.raises(error, match=message): fitted.score(Xs, y)


def test_unknown_number_of_clusters(Xs, monkeypatch):
    est = make().fit(Xs)
    with pytest.raises(ValueError, match="set n_clusters, or give y to fit"): est.predict(Xs)
    with pytest.raises(ValueError, match="y must hold class labels"): est.score(Xs)
    with pytest.raises(ValueError, match="y must hold class labels"): est.score(Xs, np.full(60, -1))
    monkeypatch.setattr("mvnb.estimator.train", lambda *a, **k: pytest.fail("trained for nothing"))
    with pytest.raises(ValueError, match="set n_clusters, or give y to fit"): make().fit_predict(Xs)


@pytest.mark.parametrize("method", ["transform", "predict", "impute", "reconstruct", "score", "get_feature_names_out"])
def test_unfitted(Xs, method):
    with pytest.raises(NotFittedError): getattr(make(), method)(*([] if method == "get_feature_names_out" else [Xs]))


def test_divergence_is_an_error(Xs):
    with pytest.warns(RuntimeWarning), pytest.raises(ArithmeticError, match="not finite"): make(lr=1e30, epochs=5).fit(Xs)
