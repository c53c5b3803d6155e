"DualVAE against a literal, sample-by-sample reading of its equations."
import math

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from mvnb import models
from mvnb.base import generator
from mvnb.models.dualvae import patch_count, patch_keep, presets, run_settings, view_mask
from mvnb.views import MultiView


@pytest.fixture
def data():
    g = generator(0, "dualvae")
    present = torch.ones(12, 3, dtype=torch.bool)
    present[0, 1] = present[1, 0] = present[2, 0] = present[2, 2] = False
    return MultiView([torch.rand(12, 1, 4, 4, generator=g) for _ in range(3)], present, torch.arange(12) % 3)


def make(data, **settings): return models.create("dualvae", data, seed=0, hidden=(7,), c_dim=3, s_dim=2, **settings).double()


def double(data): return data.replace(xs=[x.double() for x in data.xs])


def literal(model, batch, noise, variant):
    "Eqs. 1-16 one sample at a time, with torch.distributions; returns the same terms as `losses`."
    xs, present, _ = batch
    B, V = present.shape
    hidden = view_mask(noise["sample"], noise["view"], present, model.view_mask)
    keep = [patch_keep(noise[f"patch{v}"], model.patch_mask, x.shape[1:], model.patch) for v, x in enumerate(xs)]
    recon, kl_c, kl_s, pairs = 0., 0., 0., [[] for _ in range(V)]
    for b in range(B):
        visible = [v for v in range(V) if present[b, v] and not hidden[b, v]]
        h = torch.zeros(V, 2 * model.c_dim, dtype=torch.float64)
        for v in visible: h[v] = model.shared[0]((xs[v][b] * keep[v][b])[None])[0]
        logits = model.gate(h.flatten()[None])[0]
        alpha = torch.exp(logits[visible]) / torch.exp(logits[visible]).sum()
        experts = [model.experts[v](h[v][None])[0] for v in visible]
        qs = [Independent(Normal(e[:model.c_dim], torch.exp(.5 * e[model.c_dim:].clamp(-10, 10))), 1) for e in experts]
        mean = sum(a * q.mean for a, q in zip(alpha, qs))
        second = sum(a * (q.variance + q.mean ** 2) for a, q in zip(alpha, qs))
        c = mean + torch.sqrt(second - mean ** 2) * noise["eps_c"][b]
        prior = Independent(Normal(torch.zeros(model.c_dim).double(), 1.), 1)
        kl_c = kl_c + sum(a * kl_divergence(q, prior) for a, q in zip(alpha, qs)) / B
        for v in range(V):
            if not present[b, v]: continue  # really missing: never a target
            e = model.specific[v](xs[v][b][None])[0]  # the unmasked view
            q = Independent(Normal(e[:model.s_dim], torch.exp(.5 * e[model.s_dim:].clamp(-10, 10))), 1)
            eps = noise["eps_s"][b, v]
            from_prior = variant == "mvnb" and bool(hidden[b, v])
            s = eps if from_prior else q.mean + q.stddev * eps
            if not from_prior:
                kl_s = kl_s + kl_divergence(q, Independent(Normal(torch.zeros(model.s_dim).double(), 1.), 1)) / B
                pairs[v].append((c, s))
            recon = recon + .5 * (model.decoders[v](torch.cat([c, s])[None])[0] - xs[v][b]).pow(2).sum() / B
    bound = nll = 0.
    for v in range(V):
        q = [Independent(Normal(model.estimate(v, c[None])[0][0], torch.exp(.5 * model.estimate(v, c[None])[1][0])), 1) for c, _ in pairs[v]]
        n = len(q)
        if not n: continue
        positive = sum(q[i].log_prob(pairs[v][i][1]) for i in range(n)) / n
        bound = bound + positive - sum(q[i].log_prob(pairs[v][j][1]) for i in range(n) for j in range(n)) / n ** 2
        nll = nll - positive
    total = recon + model.beta_c * kl_c + model.beta_s * kl_s + model.weight_d * bound
    return {"model": total, "estimator": nll, "recon": recon, "kl_c": kl_c, "kl_s": kl_s, "club": bound}


@pytest.mark.parametrize("variant", ["paper", "mvnb"])
def test_losses_and_gradients_equal_the_literal_reading(data, variant):
    data, model = double(data), make(data, variant=variant, view_mask=.5, patch_mask=.5)
    noise = {k: v.double() for k, v in model.draw(12, generator(1, "noise")).items()}
    have, want = model(data.batch(), noise), literal(model, data.batch(), noise, variant)
    for k in want: torch.testing.assert_close(have[k], torch.as_tensor(want[k]), rtol=1e-9, atol=1e-9)
    parameters = dict(model.named_parameters())
    for player, names in models.player_parameters(model).items():
        a, b = (torch.autograd.grad(o[player], [parameters[k] for k in names], retain_graph=True) for o in (have, want))
        for name, p, q in zip(names, a, b): torch.testing.assert_close(p, q, rtol=1e-7, atol=1e-9, msg=lambda m: f"{player}, {name}: {m}")


def test_the_recipes_loss_is_not_the_papers(data):
    "The test above could not tell the variants apart if they were the same."
    data, out = double(data), {}
    for prior_s in (0., 1.):
        model = make(data, variant="paper", view_mask=1., prior_s=prior_s)
        out[prior_s] = float(model(data.batch(), {k: v.double() for k, v in model.draw(12, generator(1, "noise")).items()})["recon"].detach())
    assert out[0.] != out[1.]


def test_view_mask_hides_exactly_its_share_and_never_the_only_view():
    g = generator(0, "mask")
    present = torch.rand(1000, 4, generator=g) > .3
    present[~present.any(1), 0] = True
    for ratio in (0., .3, .5, 1.):
        hidden = view_mask(torch.rand(1000, generator=g), torch.rand(1000, 4, generator=g), present, torch.tensor(ratio))
        assert not (hidden & ~present).any() and (present & ~hidden).any(1).all() and hidden.sum(1).max() <= 1
        eligible = present.sum(1) > 1
        if ratio in (0., 1.): assert torch.equal(hidden.any(1), eligible & (ratio > 0))
        else: assert abs(int(hidden.any(1).sum()) - ratio * int(eligible.sum())) < 60
    full = torch.ones(1000, 4, dtype=torch.bool)
    hidden = view_mask(torch.rand(1000, generator=g), torch.rand(1000, 4, generator=g), full, torch.tensor(.3))
    assert int(hidden.sum()) == 300 and (hidden.sum(0) - 75).abs().max() < 35, "every view is hidden about equally often"


@pytest.mark.parametrize("ratio", [0., .25, .7, .999, 1.])
@pytest.mark.parametrize("shape, patch", [((1, 8, 8), 2), ((3, 8, 4), 4), ((10,), 2)])
def test_patch_mask_is_exact_and_whole_patches(ratio, shape, patch):
    P = patch_count(shape, patch)
    keep = patch_keep(torch.rand(50, P, generator=generator(0, "p")), torch.tensor(ratio), shape, patch)
    size = 1 if len(shape) == 1 else patch * patch
    assert ((~keep).flatten(1).sum(1) == math.floor(ratio * P + 1e-4) * size).all()
    if len(shape) == 3:
        blocks = keep.view(50, shape[1] // patch, patch, shape[2] // patch, patch)
        assert torch.equal(blocks.amax((2, 4)), blocks.amin((2, 4)))


def test_ablations_are_numbers_of_the_preset():
    assert run_settings(masking=False) == presets["paper"] | {"view_mask": 0., "patch_mask": 0.}
    assert run_settings(disentangle=False) == presets["paper"] | {"weight_d": 0.}
    with pytest.raises(ValueError, match="choose one of: paper, mvnb"): run_settings("ours")
    with pytest.raises(ValueError, match="view_mask, patch_mask"): run_settings(beta=1)


def test_without_masks_everything_visible_is_read(data):
    data, model = double(data), make(data, masking=False)
    noise = {k: v.double() for k, v in model.draw(12, generator(1, "noise")).items()}
    mu, *_ = model.fused(data.batch().xs, data.present)
    recon = 0.
    c = mu + (.5 * model.fused(data.batch().xs, data.present)[1]).exp() * noise["eps_c"]
    assert torch.allclose(model.embed(data), mu)
    for v, x in enumerate(data.batch().xs):
        h = model.specific[v](x)
        s = h[:, :2] + (.5 * h[:, 2:].clamp(-10, 10)).exp() * noise["eps_s"][:, v]
        recon = recon + (.5 * (model.decoders[v](torch.cat([c, s], 1)) - x).flatten(1).pow(2).sum(1) * data.present[:, v]).mean()
    torch.testing.assert_close(model(data.batch(), noise)["recon"], recon.detach())


def test_fusions(data):
    data = double(data)
    moments, parameters = make(data, fuse="moments"), make(data, fuse="parameters")
    one = data.replace(present=torch.tensor([[True, False, False]] * 12))
    for m in (moments, parameters): assert torch.equal(m.gate_weights(one), torch.tensor([[1., 0., 0.]] * 12).double())
    a, b = (m.fused(one.batch().xs, one.present) for m in (moments, parameters))
    for p, q in zip(a[:3], b[:3]): torch.testing.assert_close(p, q)  # a mixture of one is that one
    a, b = (m.fused(data.batch().xs, data.present) for m in (moments, parameters))
    torch.testing.assert_close(a[0], b[0])
    assert (a[1][3:] > b[1][3:]).all(), "a mixture's variance exceeds the geometric mean of its parts"


def test_linear_fusion_replaces_the_experts(data):
    model = make(double(data), moe="linear")
    assert len(model.experts) == 0 and model.gate.weight.shape == (3 * 6, 6)
    assert torch.isfinite(model.embed(double(data))).all()


def test_views_of_different_shapes_get_encoders_of_their_own(data):
    mixed = MultiView([data.xs[0], data.xs[1][:, :, :2, :2], torch.rand(12, 5)])
    model = models.create("dualvae", mixed, hidden=(7,))
    assert len(model.shared) == 3 and model.embed(mixed).shape == (12, 10) and [r.shape for r in model.reconstruct(mixed)] == [x.shape for x in mixed.xs]


@pytest.mark.parametrize("net", ["mlp", "conv"])
def test_both_kinds_of_bodies_train(net):
    from mvnb.fit import fit
    mv = MultiView([torch.rand(32, 1, 8, 8, generator=generator(v, "c")) for v in range(2)])
    h = fit("dualvae", mv, epochs=15, batch_size=16, lr=5e-3, settings={"net": net, "hidden": (8,)}, progress=False, device="cpu").history.query("term == 'model'")["value"].tolist()
    assert h[-1] < .8 * h[0]


@pytest.mark.parametrize("wrong, message", [
    (dict(view_mask=1.1), "view_mask must lie in"), (dict(patch_mask=-.1), "patch_mask"), (dict(patch=3), "patch=3 does not divide"), (dict(c_dim=0), "c_dim"),
    (dict(beta_c=-1), "beta_c"), (dict(beta_s=float("nan")), "beta_s"), (dict(prior_s=2), "prior_s"), (dict(net="rnn"), "choose one of: mlp, conv"),
    (dict(moe="soft"), "choose one of: experts, linear"), (dict(fuse="mean"), "choose one of: moments, parameters"), (dict(hidden=(0,)), ">= 1"), (dict(hidden=8), "hidden must be a list"), (dict(hidden=(), net="conv"), "hidden must be a list"),
    (dict(masking="no"), "masking='no'"),
])
def test_bad_settings_are_named(data, wrong, message):
    with pytest.raises(ValueError, match=message): models.create("dualvae", data, **wrong)


def test_settings_of_the_wrong_type_are_named(data):
    for wrong in (dict(beta_c="0.3"), dict(beta_c=True), dict(c_dim=2.5)):
        with pytest.raises(TypeError, match=next(iter(wrong))): models.create("dualvae", data, **wrong)


def test_one_view_is_too_few(data):
    with pytest.raises(ValueError, match="at least 2 views, got 1"): models.create("dualvae", data.select([0]))
