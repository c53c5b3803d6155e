"factVAE and its companions against literal, sample-by-sample readings of their equations and closed forms."
import itertools
import math

import numpy as np
import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from mvnb import models
from mvnb.base import generator
from mvnb.fit import fit
from mvnb.models import factvae as fv
from mvnb.views import MultiView

NAMES = ("factvae", "oi-vae", "jmvae+", "vae")
LINKED = ("factvae", "oi-vae")


def make_data(n=14, widths=(3, 5, 2), missing=True, seed=0):
    g = generator(seed, "factvae")
    present = torch.ones(n, len(widths), dtype=torch.bool)
    if missing: present[0, 1] = present[1, 0] = present[2, 0] = present[2, 2] = False
    return MultiView([torch.randn(n, d, generator=g) for d in widths], present, names=[f"g{i}" for i in range(len(widths))])


@pytest.fixture
def data(): return make_data()


@pytest.fixture(params=NAMES)
def name(request): return request.param


def make(name, data, seed=0, **settings):
    "A small model in double precision, moved away from special values."
    return models.create(name, data, seed=seed, **{"latent": 3, "width": 6, "hidden": (7,), **settings}).double()


def double(mv): return mv.replace(xs=[x.double() for x in mv.xs])


def noise_of(model, n, seed=1): return {k: v.double() for k, v in model.draw(n, generator(seed, "noise")).items()}


def images(n=6, G=3, side=16, seed=0):
    return MultiView([torch.rand(n, 1, side, side, generator=generator(seed, "images", g)) for g in range(G)])


# ---- the losses, one sample at a time ----

def body(model, g, x):
    "phi_g(x) by hand."
    for layer in model.encoder.layers: x = torch.relu(layer.weight[g, :, :len(x)] @ x + layer.bias[g, :, 0])
    return x


def likelihood(model, g, u, d):
    "p(x_g|z) by hand, from u = z W_g."
    if model.net == "relu": u = torch.relu(u)
    before = 0 if model.joint_out else sum(model.dims[:g])
    (w, v), (b, c) = model.decoder.weight(g), model.decoder.bias[:, before:before + d, 0]
    s = model.spread if model.net == "linear" else 0.
    return Independent(Normal(w @ u + b, torch.exp(.5 * (v @ u + c) + s) + 1e-3), 1)


def prior_of(K): return Independent(Normal(torch.zeros(K).double(), 1.), 1)


def theta(model): return -.5 * sum(p.square().sum() for p in model.decoder.parameters())


def literal_factvae(model, data, noise):
    B, G, total = len(data), data.n_views, 0.
    for r in range(B):
        kept = [g for g in range(G) if data.present[r, g] and noise["keep"][r, g] < model.keep]
        Lam, eta = torch.ones(3).double(), torch.zeros(3).double()
        for g in kept:
            h = body(model, g, data.xs[g][r])
            lam = ((h + (0. if model.baseline is None else model.baseline)) @ model.V[g]).abs()
            Lam, eta = Lam + lam, eta + lam * (h @ model.M[g])
        q = Independent(Normal(eta / Lam, Lam ** -.5), 1)
        z = q.mean + q.stddev * noise["eps"][r]
        for g in range(G):
            if data.present[r, g]: total = total - likelihood(model, g, z @ model.W[g], data.shapes[g][0]).log_prob(data.xs[g][r]) / B
        total = total + kl_divergence(q, prior_of(3)) / B
    return total - model.prior_weight * theta(model)


def literal_jmvae(model, data, noise):
    B, G, total = len(data), data.n_views, 0.
    for r in range(B):
        seen = [g for g in range(G) if data.present[r, g]]
        for e in seen:
            out = model.head.weight[e] @ body(model, e, data.xs[e][r]) + model.head.bias[e, :, 0]
            q = Independent(Normal(out[:3], torch.exp(.5 * out[3:])), 1)
            z = q.mean + q.stddev * noise["eps"][r, e]
            ll = sum(likelihood(model, g, model.inner.weight[g] @ z + model.inner.bias[g, :, 0], data.shapes[g][0]).log_prob(data.xs[g][r]) for g in seen)
            total = total - (ll - kl_divergence(q, prior_of(3))) / len(seen) / B
    return total - model.prior_weight * theta(model)


def literal_joint(model, data, noise):
    B, total = len(data), 0.
    for r in range(B):
        seen = [g for g in range(3) if data.present[r, g]]
        x = torch.cat([data.xs[g][r] if g in seen else torch.zeros_like(data.xs[g][r]) for g in range(3)])
        out = body(model, 0, x) @ model.head.weight + model.head.bias
        q = Independent(Normal(out[:3], torch.exp(.5 * out[3:])), 1)
        z = q.mean + q.stddev * noise["eps"][r]
        if hasattr(model, "W"):
            for g in seen: total = total - likelihood(model, g, z @ model.W[g], data.shapes[g][0]).log_prob(data.xs[g][r]) / B
        else:
            p = likelihood(model, 0, z @ model.inner.weight + model.inner.bias, 10).base_dist.log_prob(x).split([3, 5, 2])
            total = total - sum(p[g].sum() for g in seen) / B
        total = total + kl_divergence(q, prior_of(3)) / B
    return total - model.prior_weight * theta(model)


literal = {"factvae": literal_factvae, "oi-vae": literal_joint, "jmvae+": literal_jmvae, "vae": literal_joint}


@pytest.mark.parametrize("net", ["relu", "linear"])
@pytest.mark.parametrize("weight", [0., .7])
def test_loss_and_gradients_equal_the_literal_reading(name, data, net, weight):
    data = double(data)
    model = make(name, data, net=net, prior_weight=weight, **({"keep": .6} if name == "factvae" else {}))
    noise = noise_of(model, len(data))
    have, want = model(data.batch(), noise)["model"], literal[name](model, data, noise)
    torch.testing.assert_close(have, want.reshape(()), rtol=1e-10, atol=1e-10)
    parameters = dict(model.named_parameters())
    for (k, p), q in zip(zip(parameters, torch.autograd.grad(have, list(parameters.values()))), torch.autograd.grad(want, list(parameters.values()), allow_unused=True)):
        torch.testing.assert_close(p, torch.zeros_like(p) if q is None else q, rtol=1e-8, atol=1e-9, msg=lambda m: f"{k}: {m}")


@pytest.mark.parametrize("name", ["factvae", "jmvae+"])
@pytest.mark.parametrize("widths", [(4,), (3, 3, 3), (5, 3, 3, 2, 2), (2, 3, 2, 3), (1, 6, 6)])
def test_groups_laid_end_to_end_equal_a_loop_over_groups(name, widths):
    "Whatever widths are equal, and whichever of them are neighbours: every run of three, each term and gradient."
    from mvnb.fit import Stack
    data = double(make_data(9, widths, missing=False))
    present = torch.rand(9, len(widths), generator=generator(0, "present")) < .7
    data = data.replace(present=present)
    runs = [make(name, data, seed, prior_weight=.7) for seed in range(3)]
    noise = [noise_of(m, 9, seed) for seed, m in enumerate(runs)]
    batch, stack = data.batch(), Stack(runs, lr=1e-3)
    have = stack.gradients(type(batch)(tuple(x.expand(3, *x.shape) for x in batch.xs), batch.present.expand(3, 9, -1), batch.y.expand(3, 9)),
                           {k: torch.stack([n[k] for n in noise]) for k in noise[0]})["model"]
    for k, m in enumerate(runs):
        want = literal[name](m, data, noise[k])
        torch.testing.assert_close(have[k], want.reshape(()), rtol=1e-10, atol=1e-10)
        names, parameters = zip(*m.named_parameters())
        for n, p, g in zip(names, parameters, torch.autograd.grad(want, parameters, allow_unused=True)):
            torch.testing.assert_close(stack.params[n].grad[k], torch.zeros_like(p) if g is None else g, rtol=1e-8, atol=1e-9, msg=lambda m: f"{n}: {m}")


def test_without_a_baseline_the_precision_is_the_papers(data):
    data = double(data)
    model = make("factvae", data, baseline_precision=None)
    noise = noise_of(model, len(data))
    assert "baseline" not in dict(model.named_parameters())
    torch.testing.assert_close(model(data.batch(), noise)["model"], literal_factvae(model, data, noise), rtol=1e-10, atol=1e-10)


def test_terms_add_up(name, data):
    model = make(name, double(data), prior_weight=.3)
    out = model(double(data).batch(), noise_of(model, len(data)))
    torch.testing.assert_close(out["model"].detach(), out["recon"] + out["kl"] + .3 * out["prior"])


def test_both_scalings_of_the_prior_on_the_decoder(data):
    weight = {scale: float(models.create("factvae", data, prior_scale=scale, n_train=50).prior_weight) for scale in ("authors", "dataset", "none")}
    assert weight["authors"] == 1 and abs(weight["dataset"] - .02) < 1e-8 and weight["none"] == 0
    assert float(models.create("jmvae+", data).prior_weight) == 0
    with pytest.raises(ValueError, match="needs n_train"): models.create("factvae", data, prior_scale="dataset")


def test_padding_is_never_touched(name):
    data = make_data(64, widths=(2, 9), missing=False)
    result = fit(name, data, epochs=5, batch_size=16, lr=1e-2, seeds=[0, 1], settings={"latent": 3}, progress=False, device="cpu")
    for m in result.models:
        first = m.encoder.layers[0].weight
        if not m.joint_in: assert not first[0, :, 2:].any() and first[0, :, :2].all() and first[1].all()
        assert sum(w.numel() for w in m.decoder.weights) == 2 * (2 + 9) * m.width, "the decoder has none"


# ---- the product of experts ----

def test_nothing_observed_is_the_prior(data):
    model = make("factvae", double(data))
    mu, logvar = model.fused(double(data).batch(), torch.zeros(14, 3, dtype=torch.bool))
    assert not mu.any() and not logvar.any()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("baseline", [None, 100.])
def test_the_entropy_only_decreases(seed, baseline):
    "For every chain of group sets, sample by sample, whatever the weights."
    data = double(make_data(30, missing=False, seed=seed))
    model = make("factvae", data, seed=seed, baseline_precision=baseline)
    with torch.no_grad(): model.V[1, :, 0] = 0
    H = {s: fv.posterior_entropy(model, data, list(s)) for k in range(4) for s in itertools.combinations(range(3), k)}
    for small, large in itertools.combinations(H, 2):
        if set(small) < set(large): assert (H[large] <= H[small] + 1e-12).all(), (small, large)
    assert torch.allclose(H[()], torch.tensor(1.5 * math.log(2 * math.pi * math.e)).double())
    assert (H[(0, 1, 2)] < H[()]).all()


def test_jmvaes_mixture_can_grow_less_certain(data):
    "The entropy of a mixture of two far experts exceeds either's: what the paper holds against it, and the estimate shows it."
    data = double(make_data(20, widths=(2, 2), missing=False))
    model = make("jmvae+", data, latent=1, width=4)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([[[-5.], [-2.]], [[5.], [-2.]]]).double())
    one, both = (fv.posterior_entropy(model, data, s, samples=4000).mean() for s in ([0], [0, 1]))
    assert abs(float(one) - (.5 * math.log(2 * math.pi * math.e) - 1)) < .05 and abs(float(both - one) - math.log(2)) < .05


def test_exact_zeros_cut_a_group_off(data):
    data = double(data)
    model = make("factvae", data)
    with torch.no_grad(): model.V[:, :, 1] = 0
    mu, logvar = model.fused(data.batch(), data.present)
    assert not mu[:, 1].any() and not logvar[:, 1].any() and mu[:, 0].any()
    loss = model(data.batch(), noise_of(model, 14))["model"]
    gV, gW = torch.autograd.grad(loss, [model.V, model.W])
    assert not gV[:, :, 1].any() and gV[:, :, 0].any() and gW[:, 1].any(), "V stays off for ever, W need not"


def test_all_groups_dropped_still_trains(data):
    model = make("factvae", double(data), keep=0.)
    out = model(double(data).batch(), noise_of(model, 14))
    assert float(out["kl"]) == 0 and out["recon"] != 0


def test_rows_without_any_group(name):
    data = make_data(20)
    data = data.replace(present=torch.where(torch.arange(20)[:, None] < 3, torch.tensor(False), data.present))
    result = fit(name, data, epochs=2, batch_size=10, settings={"latent": 3}, progress=False, device="cpu")
    model = result.models[0]
    assert not model.embed(data)[:3].any(), "the prior's mean"
    assert all(torch.isfinite(x).all() for x in model.reconstruct(data)) and not fv.recon_ll(model, data)[:3].any()


# ---- lasso and links ----

def test_shrink_is_the_proximal_operator():
    "It minimises .5 |Phi - Phi0|^2 + t |Phi| for every link: no random change does better."
    g = generator(0, "prox")
    W, V, t = torch.randn(2, 3, 4, generator=g).double(), torch.randn(2, 5, 3, generator=g).double(), 2.5
    def cost(w, v): return .5 * ((w - W).square().sum() + (v - V).square().sum()) + t * fv.link_norm(w, v).sum()
    new = fv.shrink(W, V, t)
    best = cost(**{"w": new["W"], "v": new["V"]})
    for scale in (1e-3, 1e-1, 1.):
        for _ in range(20): assert cost(new["W"] + scale * torch.randn(W.shape, generator=g), new["V"] + scale * torch.randn(V.shape, generator=g)) > best
    assert (fv.link_norm(**new) == 0).any() and (fv.link_norm(**new) > 0).any()
    torch.testing.assert_close(fv.link_norm(**new), (fv.link_norm(W, V) - t).clamp_min(0))


@pytest.mark.parametrize("name", LINKED)
def test_a_step_is_sgd_then_shrinkage_for_the_links_and_adam_for_the_rest(name, data):
    from mvnb.fit import Stack
    data = double(data)
    model, before = make(name, data, lam=3.), make(name, data, lam=3.)
    noise = noise_of(model, 14)
    stack = Stack([model], lr=1e-3)
    grads = dict(zip(dict(before.named_parameters()), torch.autograd.grad(before(data.batch(), noise)["model"], list(before.parameters()))))
    batch = data.batch()
    stack.step(type(batch)(tuple(x[None] for x in batch.xs), batch.present[None], batch.y[None]), {k: v[None] for k, v in noise.items()})
    links = {k: getattr(before, k).detach() - 1e-4 * grads[k] for k in ("W", "V") if hasattr(before, k)}
    want = fv.shrink(links["W"], links.get("V"), 3e-4)
    for k in want: torch.testing.assert_close(stack.params[k][0].detach(), want[k], rtol=1e-9, atol=1e-12)
    step = stack.params["decoder.bias"][0].detach() - before.decoder.bias.detach()
    assert torch.allclose(step.abs()[grads["decoder.bias"] != 0], torch.tensor(1e-3).double(), rtol=1e-2), "Adam's first step"


def test_lambda_is_a_number_of_the_run():
    data = make_data(64, missing=False)
    result = fit("factvae", data, epochs=10, batch_size=16, seeds=[0, 0, 0], settings={"latent": 3, "phi_lr": 1e-2}, per_run={"lam": [0., 1., 20.]}, progress=False, device="cpu")
    norms = [float(fv.links(m).joint.sum()) for m in result.models]
    assert norms[0] > norms[1] > norms[2] == 0, "lambda = 20 moves 40 steps by .2 each: everything is off, exactly"


def test_links_apart_and_together(data):
    model = models.create("factvae", data, latent=4)
    V, W, joint = fv.links(model)
    assert V.shape == W.shape == joint.shape == (3, 4)
    torch.testing.assert_close(joint.square(), V.square() + W.square())
    torch.testing.assert_close(V[1, 2], model.V[1, :, 2].norm().detach())
    torch.testing.assert_close(W[1, 2], model.W[1, 2].norm().detach())
    assert fv.links(models.create("oi-vae", data)).V is None
    for other in ("vae", "jmvae+"):
        with pytest.raises(TypeError, match="no link matrix"): fv.links(models.create(other, data))


def test_off_is_a_share_of_the_columns_maximum():
    norms = torch.tensor([[1., 100., 0.], [.049, 5.1, 0.], [.051, 4.9, 0.]])
    assert fv.links_off(norms).tolist() == [[False, False, True], [True, False, True], [False, True, True]]
    assert not fv.links_off(norms, 0.)[:, :2].any()
    with pytest.raises(ValueError, match="threshold"): fv.links_off(norms, 1.5)


def test_block_diagonal():
    on = torch.tensor([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0]]).bool()
    blocks = [(0, 1), (2, 3)]
    assert fv.block_diagonal(~on, blocks) and fv.block_diagonal(~on[:, [1, 2, 0]], blocks)
    for cell in itertools.product(range(4), range(3)):
        other = on.clone()
        other[cell] = ~other[cell]
        assert not fv.block_diagonal(~other, blocks), cell
    assert not fv.block_diagonal(~on[:, :1], blocks), "the bottom is served by nobody"


# ---- images ----

def test_faces(name):
    data = images(12, side=32)  # at 16 a bias before the first batch norm has no gradient but rounding
    present = torch.ones(12, 3, dtype=torch.bool)
    present[:5, 1] = False
    data = data.replace(present=present)
    settings = dict(preset="faces", latent=4, width=5, filters=2)
    result = fit(name, data, epochs=2, batch_size=6, seeds=[0, 1], settings=settings, progress=False, device="cpu")
    for m in result.models:
        assert m.embed(data).shape == (12, 4) and all(torch.isfinite(x).all() and x.shape == (12, 1, 32, 32) for x in m.reconstruct(data))
        assert [s.shape for s in m.reconstruct(data, [0], [1], "samples", samples=3)] == [(12, 3, 1, 32, 32)]
        assert torch.isfinite(fv.elbo(m, data, samples=3)).all() and m.reconstruct(data, [0], [1], "sd", samples=3)[0].min() > 0
    alone = fit(name, data, epochs=2, batch_size=6, seeds=[1], settings=settings, progress=False, device="cpu").models[0]
    for (k, p), q in zip(alone.state_dict().items(), result.models[1].state_dict().values()): torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5, msg=lambda m: f"{k}: {m}")


def test_the_likelihood_of_images_equals_a_loop():
    data = double(images(4, G=2))
    for name in NAMES:
        model = make(name, data, preset="faces", filters=2, net="dcgan").eval()
        with torch.no_grad(): model.spread.normal_(generator=generator(0, "s"))
        z = torch.randn(3, 4, 3, generator=generator(0, "z")).double()
        ll = model.log_likelihood(data.xs, z, data.present)
        mean, sigma = model.outputs(z, data.present)
        for s, r, g in itertools.product(range(3), range(4), range(2)):
            torch.testing.assert_close(ll[s, r, g], Normal(mean[g][s, r], sigma[g][s, r]).log_prob(data.xs[g][r]).sum())


def test_absent_images_change_nothing():
    data = images(12)
    present = torch.rand(12, 3, generator=generator(0, "p")) < .7
    other = MultiView([torch.where(present[:, g, None, None, None], x, 7.) for g, x in enumerate(data.xs)], present)
    a, b = (fit("factvae", mv, epochs=2, batch_size=6, settings=dict(preset="faces", latent=4, width=5, filters=2), progress=False, device="cpu").models[0]
            for mv in (data.replace(present=present), other))
    assert all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values()))


# ---- scores ----

def linear_model(name="factvae", widths=(2, 3, 2), seed=0, scale=.7):
    "A model whose decoder is linear with constant sigma, and that Gaussian's moments."
    data = make_data(40, widths, missing=True, seed=seed)
    model = make(name, data, seed=seed, net="linear", latent=2, width=5, hidden=(4,))
    with torch.no_grad():
        if hasattr(model, "baseline") and model.baseline is not None: model.baseline.fill_(1.)
        if hasattr(model, "V"): model.V.mul_(.3)
        for g in range(1 if model.joint_out else len(widths)):
            model.decoder.weight(g)[1] = 0
            model.decoder.weight(g)[0] *= scale
    zeros, eye = torch.zeros(1, 1, 2).double(), torch.eye(2).double()[:, None]
    mean0, sigma = model.outputs(zeros, torch.ones(1, 3).bool())
    rows, _ = model.outputs(eye, torch.ones(1, 3).bool())
    mean = [m.flatten().detach() for m in mean0]
    B = [(r[:, 0] - m).detach() for r, m in zip(rows, mean)]
    return double(data), model, mean, B, [s.flatten().detach() for s in sigma]


def exact(mean, B, sigma, x, groups):
    groups = list(groups)
    if not groups: return torch.tensor(0.).double()
    b, s = torch.cat([B[g] for g in groups], 1), torch.cat([sigma[g] for g in groups])
    return MultivariateNormal(torch.cat([mean[g] for g in groups]), b.T @ b + s.square().diag()).log_prob(torch.cat([x[g] for g in groups]))


def rows_of(data, r, groups): return [g for g in groups if data.present[r, g]]


@pytest.mark.parametrize("name", NAMES)
def test_importance_sampling_meets_the_exact_likelihood(name):
    data, model, *moments = linear_model(name)
    for groups in ([0, 1, 2], [1], [0, 2]):
        ll, ess = fv.is_ll(model, data, groups, samples=4000)
        want = torch.stack([exact(*moments, [x[r] for x in data.xs], rows_of(data, r, groups)) for r in range(len(data))])
        assert (ess > 50).all() and (ess <= 4000).all()
        assert float((ll - want).abs().max()) < .25 and abs(float((ll - want).mean())) < .02, groups


@pytest.mark.parametrize("name", NAMES)
def test_conditional_scores_meet_the_exact_ones(name):
    data, model, *moments = linear_model(name)
    for T, O in (([0], [1, 2]), ([0, 1], [2]), ([2], []), ([1], [0])):
        ll, ess = fv.conditional_ll(model, data, T, O, samples=4000)
        want = torch.stack([exact(*moments, [x[r] for x in data.xs], rows_of(data, r, [*T, *O])) - exact(*moments, [x[r] for x in data.xs], rows_of(data, r, O)) for r in range(len(data))])
        assert abs(float((ll - want).mean())) < .03 and ess.shape == (len(data),), (T, O)


@pytest.mark.parametrize("name", NAMES)
def test_the_bound_is_below_and_recon_above(name):
    data, model, *moments = linear_model(name)
    want = torch.stack([exact(*moments, [x[r] for x in data.xs], rows_of(data, r, range(3))) for r in range(len(data))])
    bound, recon = fv.elbo(model, data, samples=2000), fv.recon_ll(model, data, samples=2000)
    assert (bound < want + .1).all() and (recon >= bound).all()
    a, mu, logvar = model.posterior(data.batch(), data.present)
    torch.testing.assert_close(recon - bound, (a * fv.gaussian_kl(mu, logvar)).sum(1).detach(), rtol=1e-9, atol=1e-9)


def test_the_bound_is_exact_for_the_exact_posterior():
    "The prior as posterior of nothing, and a decoder that ignores z."
    data, model, *_ = linear_model()
    assert not fv.elbo(model, data, observed=[], targets=[]).any() and fv.is_ll(model, data, [])[0].abs().max() < .1
    with torch.no_grad(): model.W.zero_()
    mean, sigma = ([t[g].flatten().detach() for g in range(3)] for t in model.outputs(torch.zeros(1, 1, 2).double(), torch.ones(1, 3).bool()))
    want = torch.stack([sum(Normal(mean[g], sigma[g]).log_prob(data.xs[g][r]).sum() for g in rows_of(data, r, range(3))) for r in range(len(data))])
    torch.testing.assert_close(fv.elbo(model, data, observed=[]), want)
    torch.testing.assert_close(fv.is_ll(model, data)[0], want, rtol=0, atol=.25)


def test_a_bad_posterior_shows_in_the_effective_sample_size():
    data, model, *_ = linear_model()
    good = fv.is_ll(model, data, samples=1000)[1].mean()
    with torch.no_grad(): model.M.add_(8.)
    assert fv.is_ll(model, data, samples=1000)[1].mean() < .5 * good


def test_the_table_holds_every_pair_of_disjoint_sets():
    data, model, *_ = linear_model()
    table = fv.conditional_table(model, data, samples=50)
    assert len(table) == 3**3 - 2**3 and not table.duplicated(["observed", "targets"]).any()
    row = table.query("observed == 'g0, g2' and targets == 'g1'").iloc[0]
    assert abs(row.ll - float(fv.conditional_ll(model, data, [1], [2, 0], samples=50)[0].mean())) < 1e-9
    assert len(fv.conditional_table(model, data, [(["g0"], ["g1"])], samples=50)) == 1
    with pytest.raises(ValueError, match="overlap"): fv.conditional_table(model, data, [([0], [0, 1])])


def test_scores_do_not_depend_on_absent_values_and_repeat(name):
    data = make_data(9)
    model = models.create(name, data, latent=3)
    other = data.replace(xs=[x.masked_fill(~data.present[:, g, None], float("nan")) for g, x in enumerate(data.xs)])
    for score in (fv.recon_ll, fv.elbo, lambda *a: fv.is_ll(*a, samples=40)[0], fv.posterior_entropy):
        assert torch.equal(score(model, data), score(model, other)) and torch.isfinite(score(model, data)).all()


def test_scoring_leaves_no_trace(name):
    data = images(4)
    model = models.create(name, data, preset="faces", net="dcgan", latent=3, width=4, filters=2).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fv.is_ll(model, data, samples=10), fv.elbo(model, data, samples=2), model.reconstruct(data)
    assert model.training and all(torch.equal(before[k], v) for k, v in model.state_dict().items())


# ---- any to any ----

def test_reconstruct_reads_only_what_it_may(name, data):
    model = models.create(name, data, latent=3)
    complete = make_data(14, missing=False)
    shuffled = complete.replace(xs=[complete.xs[0], complete.xs[1].flip(0) + 9, complete.xs[2]])
    for what in ("mean", "samples", "sd"):
        a, b = (model.reconstruct(d, ["g0", "g2"], ["g1"], what, samples=5) for d in (complete, shuffled))
        assert len(a) == 1 and torch.equal(a[0], b[0]) and a[0].shape == ((14, 5, 5) if what == "samples" else (14, 5))
    nothing = model.reconstruct(complete, observed=[])
    assert all(torch.allclose(x, x[:1].expand_as(x), atol=1e-6) for x in nothing), "the prior knows no rows"
    assert model.reconstruct(complete, targets=[]) == []


def test_mean_and_sd_against_the_linear_gaussian():
    "With nothing observed x_g has mean c_g and variance diag(B'B + sigma^2)."
    data, model, mean, B, sigma = linear_model()
    got, sd = (model.reconstruct(data, [], what=w, samples=4000) for w in ("mean", "sd"))
    for g in range(3):
        torch.testing.assert_close(got[g][0], mean[g])
        torch.testing.assert_close(sd[g][0], (B[g].square().sum(0) + sigma[g].square()).sqrt(), rtol=.05, atol=.01)


def test_a_mixtures_mean_is_the_mean_of_its_experts_decodes(data):
    data = double(make_data(14, missing=False))
    model = make("jmvae+", data)
    whole, parts = model.reconstruct(data), [model.reconstruct(data, [g]) for g in range(3)]
    for g in range(3): torch.testing.assert_close(whole[g], sum(p[g] for p in parts) / 3)


def test_samples_of_a_mixture():
    alpha = torch.tensor([[.2, .8], [1., 0.]])
    mu = torch.tensor([[[-3.], [3.]], [[-3.], [3.]]])
    z = fv.draw_posterior(alpha, mu, torch.full_like(mu, -4.), 20000, generator(0, "z"))
    assert z.shape == (20000, 2, 1) and abs(float((z[:, 0] > 0).float().mean()) - .8) < .015 and not (z[:, 1] > 0).any()


def test_impute_fills_only_what_is_absent(name, data):
    model = models.create(name, data, latent=3)
    filled, back = model.impute(data), model.reconstruct(data)
    for g in range(3):
        here = data.present[:, g]
        assert torch.equal(filled.xs[g][here], data.xs[g][here]) and torch.equal(filled.xs[g][~here], back[g][~here])


# ---- the Gaussian baselines ----

@pytest.mark.parametrize("kind", ["channel", "full"])
def test_gaussian_baselines_against_torch(kind):
    train, test = make_data(200, missing=False, seed=1), make_data(30, missing=True, seed=2)
    x = torch.cat(train.xs, 1).double().numpy()
    cov = np.cov(x.T, bias=True)
    cov = np.diag(np.diag(cov)) if kind == "channel" else cov + 1e-6 * np.eye(10)
    b = fv.fit_gaussian(train, kind)
    np.testing.assert_allclose(b.covariance, cov, rtol=1e-9, atol=1e-12)
    ends = [0, 3, 8, 10]
    for T, O in (([0, 1, 2], []), ([1], [0]), ([0, 2], [1])):
        have = fv.gaussian_ll(b, test, T, O)
        for r in range(30):
            def lp(groups):
                c = [i for g in sorted(groups) if test.present[r, g] for i in range(ends[g], ends[g + 1])]
                if not c: return 0.
                z = torch.cat([v[r] for v in test.batch().xs]).double()
                return float(MultivariateNormal(b.mean[c], b.covariance[c][:, c]).log_prob(z[c]))
            assert abs(float(have[r]) - (lp([*T, *O]) - lp(O))) < 1e-8
    z = torch.cat(test.batch().xs, 1).double()
    L = b.covariance
    want = b.mean + (L[:, 3:8] @ torch.linalg.inv(L[3:8, 3:8]) @ (z[:, 3:8] - b.mean[3:8]).T).T
    torch.testing.assert_close(b.predict(z, [1]), want)
    assert torch.equal(b.predict(z, [])[0], b.mean)


def test_gaussian_baselines_on_constant_and_absent_channels():
    data = make_data(20)
    flat = data.replace(xs=[torch.ones_like(data.xs[0]), *data.xs[1:]])
    for kind in ("channel", "full"): assert torch.isfinite(fv.gaussian_ll(fv.fit_gaussian(flat, kind), flat)).all()
    assert float(fv.fit_gaussian(flat).covariance[0, 0]) == pytest.approx(1e-6)
    gone = data.replace(present=data.present & torch.tensor([True, False, True]))
    with pytest.raises(ValueError, match="'g1' is present in no row"): fv.fit_gaussian(gone)
    with pytest.raises(ValueError, match="complete row"): fv.fit_gaussian(gone, "full")
    with pytest.raises(ValueError, match="choose one of: channel, full"): fv.fit_gaussian(data, "diag")
    with pytest.raises(ValueError, match="V = 2"): fv.gaussian_ll(fv.fit_gaussian(data), data.select([0, 1]))
    with pytest.raises(ValueError, match="overlap"): fv.gaussian_ll(fv.fit_gaussian(data), data, [0], [0])


# ---- bad and odd input ----

@pytest.mark.parametrize("wrong, message", [
    (dict(lam=-1), "lam must be a finite number >= 0, got -1"), (dict(keep=1.1), "keep must lie in"), (dict(preset="limbs"), "choose one of: bars, mocap"),
    (dict(net="conv"), "choose one of: linear, relu, dcgan"), (dict(latent=0), "latent must be >= 1"), (dict(width=0), "width must be >= 1"), (dict(hidden=8), "hidden must be a list"),
    (dict(hidden=(0,)), "hidden must be >= 1"), (dict(prior_weight=-1), "prior_weight"), (dict(prior_scale="N"), "authors, dataset, none"), (dict(n_train=0, prior_scale="dataset"), "n_train must be >= 1"),
    (dict(baseline_precision=float("nan")), "baseline_precision"), (dict(phi_lr=-1), "phi_lr"), (dict(net="dcgan", filters=2), "images"), (dict(net="dcgan"), "filters must be >= 1"),
])
def test_bad_settings_are_named(data, wrong, message):
    with pytest.raises(ValueError, match=message): models.create("factvae", data, **wrong)


def test_a_group_of_width_zero_is_refused(name):
    data = MultiView([torch.ones(4, 2), torch.ones(4, 0)], names=["a", "empty"])
    with pytest.raises(ValueError, match="group 'empty' has width 0"): models.create(name, data)


def test_images_that_do_not_fit():
    for bad in (images(2, side=12), MultiView([torch.rand(2, 1, 16, 16), torch.rand(2, 1, 32, 32)])):
        with pytest.raises(ValueError, match="divisible by 16"): models.create("factvae", bad, preset="faces", filters=2)


def test_unknown_groups(name, data):
    model = models.create(name, data, latent=3)
    for call in (lambda: model.reconstruct(data, ["arm"]), lambda: model.reconstruct(data, targets=["arm"]), lambda: fv.recon_ll(model, data, observed=["arm"]),
                 lambda: fv.is_ll(model, data, ["arm"]), lambda: fv.conditional_ll(model, data, ["arm"], []), lambda: fv.posterior_entropy(model, data, ["arm"])):
        with pytest.raises(ValueError, match="group='arm' is unknown; choose one of: g0, g1, g2"): call()
    with pytest.raises(ValueError, match="group=3 is unknown"): model.reconstruct(data, [3])
    with pytest.raises(ValueError, match="differ"): model.reconstruct(data, [0, "g0"])
    with pytest.raises(ValueError, match="overlap"): fv.conditional_ll(model, data, [0], [0, 1])
    with pytest.raises(ValueError, match="samples must be >= 10"): fv.is_ll(model, data, samples=9)
    with pytest.raises(ValueError, match="what='mode'"): model.reconstruct(data, what="mode")


def test_constant_channels_train(name):
    "A channel that never changes is allowed: its sigma falls towards the floor, and everything stays finite."
    data = make_data(64, missing=False)
    data = data.replace(xs=[data.xs[0], torch.zeros_like(data.xs[1]), data.xs[2]])
    result = fit(name, data, epochs=300, batch_size=32, lr=5e-3, seeds=range(5), settings={"latent": 3, "prior_scale": "none"}, progress=False, device="cpu", schedule="constant")
    assert not result.errors and all(torch.isfinite(fv.elbo(m, data)).all() for m in result.models)
    sd = [m.reconstruct(data, targets=[1], what="sd", samples=8)[0] for m in result.models]
    assert min(t.min() for t in sd) >= fv.FLOOR * .99 and torch.stack([t.max() for t in sd]).median() < .45, "single runs differ: the likelihood is steep where sigma is small"


def test_one_group_is_enough(name):
    data = make_data(20, widths=(4,), missing=False)
    model = fit(name, data, epochs=1, batch_size=10, settings={"latent": 2}, progress=False, device="cpu").models[0]
    assert torch.isfinite(fv.is_ll(model, data, samples=20)[0]).all()


def test_numbers_of_weights():
    "The presets' networks, counted by hand."
    bars = MultiView([torch.zeros(2, 4)] * 4)
    count = {n: sum(p.numel() for p in models.create(n, bars, preset="bars").parameters()) for n in NAMES}
    assert count["factvae"] == 4 * (4 * 8 + 8) + 4 * 2 * (8 * 4 + 4) + 3 * 4 * 4 * 8 + 2
    assert count["oi-vae"] == (16 * 8 + 8) + (8 * 8 + 8) + 4 * 2 * (8 * 4 + 4) + 4 * 4 * 8 + 1
    face = images(2, G=2, side=64)
    model = models.create("factvae", face, preset="faces", filters=2, latent=3, width=5)
    assert model.encoder.bodies[0].head.weight.shape == (8 * 64, 5) and model.decoder.bodies[0].convs[0].weight.shape == (5, 16, 4, 4)


@pytest.mark.slow
def test_bars_are_taken_apart():
    "The paper's Fig. 2, as accepted: block-diagonal at 5 % for lambda = 1 in 4 of 5 seeds, never for 0; the right half from the left."
    from mvnb.data.bars import load_bars
    train, test = load_bars(), load_bars("test")
    models_ = fit("factvae", train, **fv.training["bars"], seeds=[*range(5)] * 2, settings={"preset": "bars"}, per_run={"lam": [1.] * 5 + [0.] * 5}, progress=False, device="cpu").models
    blocks = [fv.block_diagonal(fv.links_off(fv.links(m).joint), [(0, 1), (2, 3)]) for m in models_]
    assert sum(blocks[:5]) >= 4 and not any(blocks[5:]), blocks
    left, right = [0, 2], [1, 3]
    for m in models_: assert sum((a - test.xs[g]).square().mean() / 2 for a, g in zip(m.reconstruct(test, left, right), right)) < .006
