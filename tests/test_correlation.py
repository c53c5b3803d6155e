"Two-view baselines against classical CCA, numpy, finite differences and literal formulas."
import math

import numpy as np
import pytest
import torch
from scipy.linalg import eigh
from sklearn.cross_decomposition import CCA

from mvnb import models
from mvnb.base import generator
from mvnb.corrupt import drop_views
from mvnb.evaluate import nmse
from mvnb.fit import fit
from mvnb.models.correlation import paired_moments, total_correlation, unit_correlations, whitened
from mvnb.views import MultiView

NAMES = ["mae", "dcca", "dccae", "corrnet"]
small = {"mae": {"hidden": (8, 7), "latent": 4}, "dcca": {"hidden": (8,), "latent": 4}, "dccae": {"hidden": (8,), "latent": 4}, "corrnet": {"latent": 4}}


def normal(*shape, seed=0): return torch.randn(*shape, generator=generator(seed, "correlation"), dtype=torch.float64)


def two_codes(n=200, p=4, q=3):
    shared = normal(n, 2, seed=1)
    return shared @ normal(2, p, seed=2) + normal(n, p, seed=3), shared @ normal(2, q, seed=4) + normal(n, q, seed=5)


def linear_views(n=400, seed=0, dims=(7, 6)):
    "Two noisy linear views of three factors, z-scored, float32."
    z = normal(n, 3, seed=seed)
    xs = [z @ normal(3, d, seed=10 + d) + .3 * normal(n, d, seed=20 + d) for d in dims]
    return MultiView([((x - x.mean(0)) / x.std(0)).float() for x in xs], y=torch.arange(n) % 3)


def model_for(name, data, **settings): return models.create(name, data, seed=0, **{**small[name], **settings})


def loss(model, batch, noise=None):
    "One evaluation without touching the running moments."
    streams = {"all": batch} if name_of(model) in ("dcca", "dccae") else batch
    return model.eval()(streams, {} if noise is None else noise)


def name_of(model): return model.config["name"]


def generalised(f, g, eps):
    "Canonical correlations as the generalised eigenproblem of Hotelling, by scipy."
    f, g = (t.numpy() - t.numpy().mean(0) for t in (f, g))
    n, p = len(f) - 1, f.shape[1]
    S11, S22, S12 = f.T @ f / n + eps * np.eye(p), g.T @ g / n + eps * np.eye(g.shape[1]), f.T @ g / n
    A = np.block([[np.zeros((p, p)), S12], [S12.T, np.zeros((len(S22), len(S22)))]])
    B = np.block([[S11, np.zeros_like(S12)], [np.zeros_like(S12.T), S22]])
    return np.sort(eigh(A, B, eigvals_only=True))[::-1][:min(S12.shape)]


# --- the loss

@pytest.mark.parametrize("eps", [1e-9, 1e-3, .5])
def test_total_correlation_is_the_sum_of_the_generalised_eigenvalues(eps):
    f, g = two_codes()
    assert float(total_correlation(f, g, eps=eps)) == pytest.approx(generalised(f, g, eps).sum(), rel=1e-9)


def test_total_correlation_equals_sklearns_cca():
    f, g = two_codes()
    u, v = CCA(3, scale=False, max_iter=5000, tol=1e-12).fit_transform(f.numpy(), g.numpy())
    want = sum(np.corrcoef(a, b)[0, 1] for a, b in zip(u.T, v.T))
    assert float(total_correlation(f, g, eps=1e-12)) == pytest.approx(want, abs=1e-6)


def test_limits():
    f, _ = two_codes()
    assert float(total_correlation(f, f, eps=1e-12)) == pytest.approx(4), "a code is perfectly correlated with itself"
    assert float(total_correlation(f[:4], normal(4, 4, seed=9), eps=1e-12)) == pytest.approx(3), "4 points have 3 directions, all of them correlate"
    assert float(total_correlation(f, torch.zeros_like(f))) == 0
    assert float(total_correlation(f, f, torch.zeros(200).double())) == 0, "no row counts"
    assert float(total_correlation(normal(20_000, 3, seed=6), normal(20_000, 3, seed=7))) < .1, "independent codes"


def test_invariance_to_linear_maps_shifts_and_order():
    f, g = two_codes()
    want = total_correlation(f, g, eps=1e-12)
    for have in (total_correlation(f @ normal(4, 4, seed=6), g @ normal(3, 3, seed=7), eps=1e-12), total_correlation(f + 5, g - 3, eps=1e-12),
                 total_correlation(f[torch.arange(199, -1, -1)], g.flip(0), eps=1e-12), total_correlation(g, f, eps=1e-12)):
        torch.testing.assert_close(have, want, rtol=1e-7, atol=0)
    assert not torch.isclose(total_correlation(f, g.roll(1, 0), eps=1e-12), want), "the pairing does matter"


def test_rows_that_do_not_count_change_nothing():
    f, g = two_codes()
    weight = (torch.arange(200) % 3 > 0).double()
    wild = [torch.where(weight[:, None] > 0, t, 1e3 * t + 7) for t in (f, g)]
    torch.testing.assert_close(total_correlation(*wild, weight), total_correlation(f[weight > 0], g[weight > 0]), rtol=1e-9, atol=0)
    torch.testing.assert_close(paired_moments(*wild, weight)[2], torch.from_numpy(np.cov(f[weight > 0].T, g[weight > 0].T)[:4, 4:]))


def test_gradients_against_finite_differences():
    f, g = (t[:12].clone().requires_grad_() for t in two_codes())
    weight = (torch.arange(12) > 1).double()
    assert torch.autograd.gradcheck(lambda a, b: total_correlation(a, b, weight, 1e-3), (f, g))
    assert torch.autograd.gradcheck(lambda a, b: unit_correlations(a, b[:, :3], weight), (f[:, :3], g))


def test_gradient_where_eigenvalues_and_singular_values_coincide():
    "White codes, S12 = .5 I: every eigenvalue of S11 and S22 and every singular value of T is the same."
    q = torch.linalg.qr(torch.cat([torch.ones(40, 1).double(), normal(40, 6)], 1)).Q[:, 1:] * 39 ** .5
    f, g = q[:, :3], .5 * q[:, :3] + .75 ** .5 * q[:, 3:]
    assert float(total_correlation(f, g, eps=1e-12)) == pytest.approx(1.5)
    direction, x = normal(40, 3, seed=8), f.clone().requires_grad_()
    slope = (torch.autograd.grad(total_correlation(x, g, eps=1e-6), x)[0] * direction).sum()
    step = 1e-5 * direction
    assert float(slope) == pytest.approx(float(total_correlation(f + step, g, eps=1e-6) - total_correlation(f - step, g, eps=1e-6)) / 2e-5, rel=1e-5)


def test_no_rows_give_no_gradient_and_a_bad_run_does_not_stop_the_others():
    f, g = two_codes()
    x = f.clone().requires_grad_()
    (grad,) = torch.autograd.grad(total_correlation(x, g, torch.zeros(200).double()), x)
    assert torch.equal(grad, torch.zeros_like(grad))
    both = torch.vmap(total_correlation)(torch.stack([f, f * torch.nan, f]), torch.stack([g, g, g]))
    assert both[1].isnan() and torch.allclose(both[[0, 2]], total_correlation(f, g))


def test_whitened_says_nan_instead_of_raising():
    T, *_ = whitened(-torch.eye(2), torch.eye(2), torch.eye(2), 1e-4)
    assert T.isnan().all() and T.dtype == torch.float64


# --- deep CCA

def test_linear_network_has_the_loss_of_classical_cca():
    data = linear_views()
    model = model_for("dcca", data, hidden=(), latent=6, eps=1e-9).double()
    with torch.no_grad():
        for body, d in zip(model.encoders, (7, 6)): body.layers[0].weight.copy_(torch.eye(d, 6))
    batch = data.replace(xs=[x.double() for x in data.xs]).batch()
    want = generalised(batch.xs[0][:, :6], batch.xs[1], 1e-9).sum()
    assert float(loss(model, batch)["model"].detach()) == pytest.approx(-want, rel=1e-6)


def test_training_a_linear_network_finds_classical_cca():
    data = linear_views()
    want = generalised(*(x.double() for x in data.xs), 1e-4)[:3].sum()
    result = fit("dcca", data, epochs=200, batch_size=400, lr=3e-2, settings=dict(hidden=(), latent=3), progress=False, device="cpu")
    assert result.history.query("term == 'corr'")["value"].iloc[-1] == pytest.approx(want, abs=.01)


def test_canonical_variates():
    "After `align` on complete rows: white within a view up to eps, correlated with the partner alone; the scores of scikit-learn up to sign and scale."
    data = linear_views()
    model = model_for("dcca", data, hidden=(), latent=3, eps=1e-8).align(data)
    u, w = model.variates(data).chunk(2, 1)
    rho, *_ = model.canonical()
    torch.testing.assert_close(torch.cov(torch.cat([u, w], 1).T), torch.cat([torch.cat([torch.eye(3), torch.diag(rho)], 1), torch.cat([torch.diag(rho), torch.eye(3)], 1)]), atol=1e-3, rtol=0)
    codes = [f.detach().numpy().astype(float) for f in model.codes(data.xs)]
    for ours, theirs in zip((u, w), CCA(3, scale=False, max_iter=5000, tol=1e-12).fit_transform(*codes)):
        for j in range(3): assert abs(np.corrcoef(ours[:, j], theirs[:, j])[0, 1]) > .999


def test_the_variates_of_an_absent_view_are_their_expectation():
    data = linear_views()
    model = model_for("dcca", data).align(data)
    lost = drop_views(data, .3, seed=0, view=1)
    gone = ~lost.present[:, 1]
    u, w = model.variates(lost).chunk(2, 1)
    full = model.variates(data)
    torch.testing.assert_close(u, full[:, :4])
    torch.testing.assert_close(w[~gone], full[~gone, 4:])
    torch.testing.assert_close(w[gone], u[gone] * model.canonical()[0])


def test_the_outputs_and_the_variates_say_the_same_of_an_absent_view():
    "Predicting g from f and projecting, or predicting w from u: one regression in two bases."
    data = linear_views()
    model = model_for("dcca", data, eps=1e-8).align(data)
    lost = drop_views(data, 1., seed=0, view=1)
    f, g = model.embed(lost).chunk(2, 1)
    torch.testing.assert_close(f, model.codes(data.xs)[0].detach())
    mean = model.mean[4:8]
    torch.testing.assert_close((g - mean) @ model.canonical()[2], model.variates(lost)[:, 4:], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(model.embed(data), torch.cat(model.codes(data.xs), 1).detach())


def test_imputing_is_ridge_regression_on_the_code():
    data = linear_views()
    model = model_for("dcca", data, eps=.01).align(data)
    filled = model.impute(drop_views(data, 1., seed=0, view=1)).xs[1].double()
    f = model.codes(data.xs)[0].detach().double()
    f, x = f - f.mean(0), data.xs[1].double()
    n = len(f) - 1
    want = x.mean(0) + f @ torch.linalg.solve(f.T @ f / n + .01 * torch.eye(4), f.T @ (x - x.mean(0)) / n)
    torch.testing.assert_close(filled, want, atol=1e-4, rtol=1e-3)


def test_dccae_decodes_the_code_that_the_other_one_predicts():
    data = linear_views()
    model = model_for("dccae", data).align(data)
    f, g = (t.detach().double() for t in model.codes(data.xs))
    B = np.linalg.lstsq((f - f.mean(0)).numpy(), (g - g.mean(0)).numpy(), rcond=None)[0]
    exact = model_for("dccae", data, eps=1e-12).align(data)
    have = exact.impute(drop_views(data, 1., seed=0, view=1)).xs[1]
    want = model.decoders[1]((g.mean(0) + (f - f.mean(0)) @ torch.from_numpy(B)).float()).detach()
    torch.testing.assert_close(have, want, atol=1e-3, rtol=1e-2)


def test_running_moments_are_weighted_averages_of_the_batches():
    data = linear_views()
    model = model_for("dcca", data, hidden=()).train()
    a, b = (data[:200].batch(), data[200:].batch())
    t = [model.variables(model.codes(x.xs), x.xs).detach().double() for x in (a, b)]
    for batch in (a, b): model({"paired": batch}, {})
    share = 200 / (.9 * 200 + 200)
    step = t[1].mean(0) - t[0].mean(0)
    want = (1 - share) * torch.cov(t[0].T) + share * torch.cov(t[1].T) + share * (1 - share) * torch.outer(step, step)
    torch.testing.assert_close(model.cov.double(), want[:8], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.mean.double(), t[0].mean(0) + share * step, atol=1e-6, rtol=1e-5)
    model.align(data)
    torch.testing.assert_close(model.cov.double(), torch.cov(torch.cat(t).T)[:8], atol=1e-5, rtol=1e-4)


def test_a_loss_in_eval_mode_leaves_the_moments_alone():
    data = linear_views()
    model = model_for("dcca", data)
    loss(model, data.batch())
    assert float(model.pairs) == 0
    model.train()({"paired": data.batch()}, {})
    assert float(model.pairs) == len(data)


def test_rows_are_drawn_from_the_complete_ones():
    lost = drop_views(linear_views(), .75, seed=0)
    dcca, dccae = (model_for(name, lost) for name in ("dcca", "dccae"))
    both = lost.present.all(1).nonzero().squeeze(1)
    assert list(dcca.rows(lost)) == ["paired"] and torch.equal(dcca.rows(lost)["paired"], both)
    assert dccae.sizes(dccae.rows(lost), 64) == {"paired": 32, "single": 32}
    assert dccae.sizes(dccae.rows(linear_views()), 64) == {"paired": 64}, "one stream where nothing is missing"
    assert dccae.sizes(dccae.rows(drop_views(linear_views(), .25, seed=0)), 64) == {"paired": 48, "single": 16}
    assert dccae.sizes(dccae.rows(lost), 5000) == {"paired": 100, "single": 300}, "no row twice in a batch"
    with pytest.warns(UserWarning, match="no row with both views"): dcca.rows(drop_views(lost, .25, seed=1))


def test_dccae_is_minus_correlation_plus_weighted_errors():
    lost = drop_views(linear_views(50), .4, seed=0)
    model = model_for("dccae", lost, weight=3.).double()
    batch = lost.replace(xs=[x.double() for x in lost.xs]).batch()
    out, both = loss(model, batch), lost.present.all(1)
    codes = model.codes(batch.xs)
    want = sum((model.decoders[v](codes[v])[lost.present[:, v]] - batch.xs[v][lost.present[:, v]]).pow(2).mean() for v in (0, 1))
    torch.testing.assert_close(out["recon"], want.detach())
    torch.testing.assert_close(out["model"], 3 * want - total_correlation(codes[0][both], codes[1][both], eps=model.eps))


# --- the multimodal autoencoder

def test_mae_equals_its_formula_and_masks_come_from_the_noise_alone():
    lost = drop_views(linear_views(40), .3, seed=0)
    model = model_for("mae", lost).double()
    batch = lost.replace(xs=[x.double() for x in lost.xs]).batch()
    noise = {k: t.double() for k, t in model.draw(40, generator(0, "noise")).items()}
    chosen, want, zeroed = set(noise["row"].argsort()[:20].tolist()), 0., 0
    for b in range(40):
        seen = [x[b] for x in batch.xs]
        if b in chosen and lost.present[b].all():
            seen[int(noise["view"][b].argmax())] *= 0
            zeroed += 1
        z = model.code([x[None] for x in seen])
        want = want + sum((model.decoders[v](z)[0] - batch.xs[v][b]).pow(2).sum() for v in (0, 1) if lost.present[b, v]) / 40
    assert 5 < zeroed < 20
    have = model(batch, noise)["model"]
    torch.testing.assert_close(have, want)
    assert torch.equal(have, model(batch, noise)["model"])
    other = {k: t.double() for k, t in model.draw(40, generator(1, "noise")).items()}
    assert not torch.isclose(model(batch, other)["model"], have)
    assert torch.equal(*(model_for("mae", lost, hide=0.)(lost.batch(), {k: t.float() for k, t in n.items()})["model"] for n in (noise, other))), "nothing to hide: the noise is not read"


def test_mae_takes_more_than_two_views():
    data = MultiView([torch.randn(30, d, generator=generator(d, "x")) for d in (4, 5, 6)])
    model = fit("mae", drop_views(data, .5, seed=0), epochs=1, batch_size=16, settings=small["mae"], progress=False, device="cpu").models[0]
    assert [x.shape[1] for x in model.impute(drop_views(data, 1., seed=0, n_drop=2)).xs] == [4, 5, 6]


# --- the correlational network

def test_unit_correlations_are_numpys():
    f, g = normal(60, 5), normal(60, 5, seed=1)
    f[:, 4] = 2.
    weight = (torch.arange(60) % 4 > 0).double()
    want = [np.corrcoef(f[weight > 0, j], g[weight > 0, j])[0, 1] for j in range(4)] + [0.]
    np.testing.assert_allclose(unit_correlations(f, g, weight).numpy(), want, atol=1e-12)
    torch.testing.assert_close(unit_correlations(f[:, :4], -3 * f[:, :4] + 1, weight), -torch.ones(4).double())
    assert torch.equal(unit_correlations(f, g, torch.zeros(60).double()), torch.zeros(5).double())


def test_corrnet_equals_its_formula_also_where_a_view_is_missing():
    lost = drop_views(linear_views(40), .5, seed=0)
    model = model_for("corrnet", lost, lam=2.).double()
    batch = lost.replace(xs=[x.double() for x in lost.xs]).batch()
    W, b, h = [e.weight for e in model.encoders], model.bias, {}
    error = 0.
    for i in range(40):
        x, has = [t[i] for t in batch.xs], lost.present[i].tolist()
        for reads in [(0,), (1,), (0, 1)]:
            if not all(has[v] for v in reads): continue
            h[i, reads] = torch.sigmoid(sum(x[v] @ W[v] for v in reads) + b)
            error = error + sum((model.decoders[v](h[i, reads][None])[0] - x[v]).pow(2).sum() for v in (0, 1) if has[v]) / 40
    both = [i for i in range(40) if lost.present[i].all()]
    pair = [torch.stack([h[i, (v,)] for i in both]).detach().numpy() for v in (0, 1)]
    corr = sum(np.corrcoef(pair[0][:, j], pair[1][:, j])[0, 1] for j in range(4))
    out = model(batch, {})
    assert float(out["corr"]) == pytest.approx(corr, rel=1e-9) and len(both) == 20
    assert float(out["model"].detach()) == pytest.approx(float(error.detach()) - 2 * corr, rel=1e-9)
    torch.testing.assert_close(model.embed(lost)[both[0]], h[both[0], (0, 1)].detach(), atol=1e-6, rtol=1e-5, check_dtype=False)


# --- all of them

@pytest.mark.parametrize("name", NAMES)
def test_completes_linear_data_better_than_the_mean(name):
    data = linear_views()
    lost = drop_views(data, .5, seed=0, view=1)
    result = fit(name, lost, epochs=40, batch_size=64, lr=1e-2, settings=small[name], progress=False, device="cpu")
    mean = data.xs[1][lost.present[:, 1]].mean(0).expand_as(data.xs[1])
    gone = ~lost.present[:, 1]
    error = nmse(data.xs[1], result.models[0].impute(lost).xs[1], gone)
    assert error < .75 * nmse(data.xs[1], mean, gone)


@pytest.mark.parametrize("name", NAMES)
def test_image_views(name):
    data = MultiView([torch.rand(40, 1, 4, 4, generator=generator(v, "image")) for v in (0, 1)])
    lost = drop_views(data, .5, seed=0, view=1)
    model = fit(name, lost, epochs=1, batch_size=32, settings=small[name], progress=False, device="cpu").models[0]
    assert [x.shape for x in model.impute(lost).xs] == [x.shape for x in data.xs] and torch.isfinite(model.embed(lost)).all()


@pytest.mark.parametrize("name", NAMES[1:])
def test_two_views_exactly(name):
    data = MultiView([torch.rand(9, 3), torch.rand(9, 3), torch.rand(9, 3)])
    for wrong in (data, data.select([0])):
        with pytest.raises(ValueError, match=rf"2 views, got {wrong.n_views}"): models.create(name, wrong)


def test_too_few_rows_for_correlations():
    data = linear_views(40)
    with pytest.raises(ValueError, match="more than latent=30 rows with both views in a batch.*got 16"): fit("dcca", data, epochs=1, batch_size=16, progress=False)
    lost = drop_views(data, .9, seed=0)
    with pytest.raises(ValueError, match="from 4 such rows.*got 4"): fit("dccae", lost, epochs=1, batch_size=16, settings=small["dccae"], progress=False)
    with pytest.raises(ValueError, match="latent=4 rows with both views in mv, got 4"): model_for("dcca", lost).align(lost)


@pytest.mark.parametrize("name, wrong, message", [
    ("mae", dict(hide=1.1), "hide must lie in"), ("mae", dict(hidden=()), "list of 1 or more"), ("mae", dict(latent=0), "latent must be >= 1"),
    ("dcca", dict(eps=0.), "eps must be a finite number > 0"), ("dcca", dict(hidden=8), "hidden must be a list"), ("dcca", dict(hidden=(0,)), "hidden must be >= 1"),
    ("dccae", dict(weight=-1.), "weight must be a finite number >= 0"), ("dccae", dict(eps=-1.), "eps"), ("corrnet", dict(lam=math.inf), "lam must be a finite"), ("corrnet", dict(latent=0), "n_out must be >= 1"),
])
def test_bad_settings_are_named(name, wrong, message):
    with pytest.raises(ValueError, match=message): models.create(name, linear_views(10), **wrong)


def test_one_view_is_too_few_for_an_autoencoder_of_many():
    with pytest.raises(ValueError, match="at least 2 views, got 1"): models.create("mae", linear_views(10).select([0]))
