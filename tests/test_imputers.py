"Imputers against scikit-learn, a convex reference, closed forms; what is refused."
import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import RidgeCV

from mvnb.corrupt import drop_views
from mvnb.evaluate import nmse
from mvnb.models.imputers import MeanImputer, RidgeImputer, SoftImputeALS, soft_impute_als
from mvnb.views import MultiView

ALL = [MeanImputer(), RidgeImputer(), SoftImputeALS(rank=4, n_lams=5)]


def low_rank(n=120, widths=(6, 5, 4), rank=3, noise=0., seed=0):
    "Complete float64 views that share `rank` factors; an offset on every feature."
    g = np.random.default_rng(seed)
    x = g.normal(size=(n, rank)) @ g.normal(size=(rank, sum(widths))) + g.normal(size=sum(widths)) + noise * g.normal(size=(n, sum(widths)))
    return MultiView([torch.from_numpy(p) for p in np.split(x, np.cumsum(widths)[:-1], 1)])


@pytest.mark.parametrize("imputer", ALL, ids=lambda i: type(i).__name__)
class TestEvery:
    def test_what_is_present_stays_and_what_stood_in_the_holes_is_not_read(self, imputer):
        truth = low_rank(noise=.1)
        mv = drop_views(truth, .6, seed=0, n_drop=2)
        holed = mv.replace(xs=[x.masked_fill(~mv.present[:, v, None], float("nan")) for v, x in enumerate(mv.xs)])
        filled, again = imputer.fit(mv).impute(mv), imputer.fit(holed).impute(holed)
        assert filled.present.all() and filled.names == mv.names
        for v, x in enumerate(mv.xs):
            assert torch.equal(filled.xs[v][mv.present[:, v]], x[mv.present[:, v]]) and filled.xs[v].dtype == x.dtype
            assert torch.equal(filled.xs[v], again.xs[v]) and torch.isfinite(filled.xs[v]).all()

    def test_rows_without_any_view_get_the_means(self, imputer):
        mv = drop_views(low_rank(noise=.1), .3, seed=0)
        bare = mv[:3].replace(present=torch.zeros(3, 3, dtype=torch.bool))
        for v, x in enumerate(imputer.fit(mv).impute(bare).xs):
            torch.testing.assert_close(x, mv.xs[v][mv.present[:, v]].mean(0).expand(3, -1))

    def test_new_rows_and_their_neighbours(self, imputer):
        truth = low_rank(noise=.1)
        mv = drop_views(truth, .5, seed=0)
        imputer.fit(mv[:80])
        together, alone = imputer.impute(mv[80:]), imputer.impute(mv[100:101])
        for a, b in zip(together.xs, alone.xs): torch.testing.assert_close(a[20:21], b)

    def test_images_keep_their_shape_and_type(self, imputer):
        flat = low_rank(widths=(12, 6), noise=.1)
        mv = drop_views(MultiView([flat.xs[0].float().view(-1, 3, 2, 2), flat.xs[1].float()]), .5, seed=0, view=0)
        filled = imputer.fit(mv).impute(mv)
        assert filled.xs[0].shape == (120, 3, 2, 2) and filled.xs[0].dtype == torch.float32
        flat = mv.replace(xs=[mv.xs[0].flatten(1), mv.xs[1]])
        assert torch.equal(filled.xs[0].flatten(1), imputer.fit(flat).impute(flat).xs[0])

    def test_complete_data_come_back(self, imputer):
        mv = low_rank(noise=.1)
        for a, b in zip(imputer.fit(mv).impute(mv).xs, mv.xs): assert torch.equal(a, b)

    def test_refusals(self, imputer):
        mv = low_rank()
        with pytest.raises(ValueError, match="view 'view 1' is absent in all 120 rows"): imputer.fit(drop_views(mv, 1., seed=0, view=1))
        with pytest.raises(TypeError, match="must be a MultiView"): imputer.fit(mv.xs)
        with pytest.raises(NotFittedError): type(imputer)().impute(mv)
        with pytest.raises(ValueError, match="V = 2"): imputer.fit(mv).impute(mv.select([0, 1]))

    def test_one_linear_world_is_restored_unless_by_means(self, imputer):
        truth = low_rank()
        mv = drop_views(truth, .5, seed=0)
        fresh = type(imputer)(lam=1e-3) if isinstance(imputer, SoftImputeALS) else imputer
        errors = [nmse(x - x.mean(0), f - x.mean(0), ~p) for x, f, p in zip(truth.xs, fresh.fit(mv).impute(mv).xs, mv.present.T)]
        if isinstance(imputer, MeanImputer): assert all(.8 < e < 1.2 for e in errors)
        else: assert max(errors) < 3e-2, errors


def test_ridge_is_sklearns_on_the_complete_rows():
    mv = drop_views(low_rank(widths=(6, 5), noise=.5), .4, seed=0, view=1)
    rows, gone = mv.present.all(1), ~mv.present[:, 1]
    want = RidgeCV(np.logspace(-3, 5, 17)).fit(mv.xs[0][rows].numpy(), mv.xs[1][rows].numpy())
    np.testing.assert_allclose(RidgeImputer().fit(mv).impute(mv).xs[1][gone], want.predict(mv.xs[0][gone].numpy()))


def test_ridge_uses_all_rows_that_have_what_it_needs():
    "With V = 3 the map from view 0 to view 1 learns from rows that lack view 2."
    truth = low_rank(noise=.5)
    present = torch.ones(120, 3, dtype=torch.bool)
    present[:40, 2] = False
    present[40:60, 1:] = False
    mv, rows = truth.replace(present=present), present[:, 1]
    want = RidgeCV(np.logspace(-3, 5, 17)).fit(truth.xs[0][rows].numpy(), truth.xs[1][rows].numpy())
    np.testing.assert_allclose(RidgeImputer().fit(mv).impute(mv).xs[1][40:60], want.predict(truth.xs[0][40:60].numpy()))


def test_ridge_learns_a_pattern_that_fit_did_not_meet():
    truth = low_rank()
    filled = RidgeImputer().fit(truth).impute(drop_views(truth, 1., seed=0, view=2))
    assert nmse(truth.xs[2], filled.xs[2]) < 1e-3


def test_ridge_refuses_what_it_cannot_learn():
    truth = low_rank(widths=(6, 5))
    one = truth.replace(present=torch.eye(2, dtype=torch.bool)[torch.arange(120) % 2])
    with pytest.raises(ValueError, match="'view 0' cannot be learned from \\['view 1'\\]: 0 of 120 rows"): RidgeImputer().fit(one)
    for wrong in ([], [0.], [-1.]):
        with pytest.raises(ValueError, match="alphas"): RidgeImputer(wrong).fit(truth)


def soft_impute(x, observed, lam, steps=5000):
    "The convex problem by iterated singular-value thresholding; returns M and the objective."
    M = np.zeros_like(x)
    for _ in range(steps):
        u, s, vt = np.linalg.svd(np.where(observed, x, M), full_matrices=False)
        s = np.maximum(s - lam, 0)
        M = u * s @ vt
    return M, .5 * ((x - M)[observed] ** 2).sum() + lam * s.sum()


@pytest.mark.parametrize("lam", [.3, 1., 4.])
def test_als_solves_the_convex_problem(lam):
    g = np.random.default_rng(0)
    x, observed = g.normal(size=(20, 8)) + 2 * np.outer(g.normal(size=20), g.normal(size=8)), g.random((20, 8)) > .3
    M, best = soft_impute(x, observed, lam)
    *_, (A, B) = soft_impute_als(x, observed, [10., lam], rank=8, tol=1e-12, max_iter=20000)
    ours = .5 * ((x - A @ B.T)[observed] ** 2).sum() + lam * np.linalg.svd(A @ B.T, compute_uv=False).sum()
    assert ours == pytest.approx(best, rel=1e-6)
    np.testing.assert_allclose(A @ B.T, M, atol=1e-2)


def test_als_with_nothing_missing_is_the_thresholded_svd():
    x = np.random.default_rng(0).normal(size=(15, 6))
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    *_, (A, B) = soft_impute_als(x, np.ones_like(x, bool), [s[2]], rank=6, tol=1e-14, max_iter=20000)
    np.testing.assert_allclose(A @ B.T, u * np.maximum(s - s[2], 0) @ vt, atol=1e-3)


def test_als_never_raises_the_objective():
    g = np.random.default_rng(1)
    x, observed = g.normal(size=(30, 10)), g.random((30, 10)) > .4
    def objective(A, B): return .5 * ((x - A @ B.T)[observed] ** 2).sum() + .25 * ((A ** 2).sum() + (B ** 2).sum())
    values = [objective(*next(iter(soft_impute_als(x, observed, [.5], rank=4, tol=0., max_iter=k)))) for k in range(1, 12)]
    assert (np.diff(values) <= 1e-10).all() and values[-1] < values[0] - 1e-3


def test_components_lost_at_a_high_penalty_come_back_at_a_low_one():
    x = np.random.default_rng(0).normal(size=(15, 6))
    path = list(soft_impute_als(x, np.ones_like(x, bool), [100., 1e-3], rank=6))
    assert np.linalg.norm(path[0][0] @ path[0][1].T) < .2 * np.linalg.norm(x)
    np.testing.assert_allclose(path[1][0] @ path[1][1].T, x, atol=1e-2)


def test_soft_impute_agrees_with_its_own_factors_on_the_rows_of_fit():
    "The row-wise ridge of `impute` is where the alternation ends."
    mv = drop_views(low_rank(noise=.3), .4, seed=0)
    soft = SoftImputeALS(rank=15, lam=2.).fit(mv)
    x, observed = np.concatenate([x.numpy() for x in mv.batch().xs], 1), mv.present.numpy().repeat([6, 5, 4], 1)
    *_, (A, B) = soft_impute_als(x - soft.mean_, observed, [20., 2.], rank=15, tol=1e-12, max_iter=20000)
    have = np.concatenate([v.numpy() for v in soft.impute(mv).xs], 1)
    np.testing.assert_allclose(have[~observed], (A @ B.T + soft.mean_)[~observed], atol=.03)


def test_soft_impute_chooses_its_penalty_by_seed_and_near_the_best():
    truth = low_rank(n=300, noise=.7)
    mv = drop_views(truth, .5, seed=0, view=2)
    gone = ~mv.present[:, 2]
    a, b, c = (SoftImputeALS(seed=s).fit(mv) for s in (0, 0, 1))
    assert a.lam_ == b.lam_ and a.tried_ == b.tried_ and a.tried_ != c.tried_
    def score(soft): return nmse(truth.xs[2], soft.impute(mv).xs[2], gone)
    assert score(a) < 1.05 * min(score(SoftImputeALS(lam=lam).fit(mv)) for lam, _ in a.tried_)


@pytest.mark.parametrize("wrong, message", [(dict(rank=0), "rank"), (dict(n_lams=1), "n_lams"), (dict(smallest=1.), "smallest"), (dict(smallest=0), "smallest"),
                                            (dict(share=1.5), "share"), (dict(lam=0), "lam")])
def test_bad_settings_are_named(wrong, message):
    with pytest.raises(ValueError, match=message): SoftImputeALS(**wrong).fit(low_rank(30))


def test_no_row_to_choose_the_penalty_by():
    truth = low_rank(40, widths=(6, 5))
    one = truth.replace(present=torch.eye(2, dtype=torch.bool)[torch.arange(40) % 2])
    with pytest.raises(ValueError, match="0 rows can lose a view"): SoftImputeALS().fit(one)
    assert SoftImputeALS(lam=1.).fit(one).impute(one).present.all()
