"DualVAE against a literal, sample-by-sample reading of its equations."
import importlib.util
import itertools
import math
from pathlib import Path

import pytest
import torch
from torch.func import vmap
from torch.distributions import Independent, Normal, kl_divergence

from mvnb import models
from mvnb.base import generator
from mvnb.fit import Stack, fit
from mvnb.models import ViewSpec
from mvnb.models.dualvae import DualVAE, kept_patches, patch_count, patch_keep, presets, run_settings, speckle, structures, view_mask
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
    def observed(b, v):
        "What an encoder reads of one view: pepper where the pixel's score is in the lower half of [0, rate), salt in the upper half."
        rate, x = float(model.train_snr * noise["rate"][b]), xs[v][b].clone()
        for at in itertools.product(*map(range, x.shape)):
            score = float(noise[f"pixel{v}"][b][(0, *at[1:])])
            if score < rate: x[at] = 1. if score < rate / 2 else 0.
        return x
    recon, kl_c, kl_s, pairs = 0., 0., 0., [[] for _ in range(V)]
    for b in range(B):
        visible = [v for v in range(V) if present[b, v] and not hidden[b, v]]
        h = torch.zeros(V, 2 * model.c_dim, dtype=torch.float64)
        for v in visible: h[v] = model.shared[0]((observed(b, v) * keep[v][b])[None])[0]
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
            e = model.specific[v](observed(b, v)[None])[0]  # the unmasked view
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
    per = sum(x[0, 0].numel() for x in xs) / V / 64 if variant == "mvnb" else 1.
    total = recon + per * model.beta_c * kl_c + model.beta_s * kl_s + model.weight_d * bound
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


def test_the_recipes_weight_of_c_grows_with_the_pixels_of_a_view():
    for shapes, want in (([(1, 8, 8)] * 2, .03), ([(1, 32, 32)] * 2, .48), ([(3, 32, 32)] * 5, .48), ([(1, 16, 16), (128,)], .09)):
        views = ViewSpec(tuple(shapes), tuple("abcde"[:len(shapes)]), ())
        assert DualVAE(views, "mvnb", hidden=(2,)).weight_c().item() == pytest.approx(want)
        assert DualVAE(views, "paper", hidden=(2,)).weight_c().item() == 1
    with pytest.raises(ValueError, match="per_size must lie in"): DualVAE(views, per_size=2.)


def test_the_recipes_loss_is_not_the_papers(data):
    "The test above could not tell the variants apart if they were the same."
    data, out = double(data), {}
    for prior_s in (0., 1.):
        model = make(data, variant="paper", view_mask=1., prior_s=prior_s)
        out[prior_s] = float(model(data.batch(), {k: v.double() for k, v in model.draw(12, generator(1, "noise")).items()})["recon"].detach())
    assert out[0.] != out[1.]


def test_noise_strikes_what_is_read_but_no_absent_or_hidden_view(data):
    "With the authors' zeros for views that are not visible: they are read, and must stay zero."
    data = double(data)
    model, read = make(data, variant="authors", train_snr=1.), []
    model.shared[0].register_forward_pre_hook(lambda _, args: read.append(args[0]))
    noise = {k: v.double() for k, v in model.draw(12, generator(1, "noise")).items()}
    model(data.batch(), noise)
    hidden = view_mask(noise["sample"], noise["view"], data.present, model.view_mask)
    for v, x in enumerate(read[0].unflatten(0, (6, 12))[3:]):  # the second pass, without patch mask
        struck, kept = noise[f"pixel{v}"] < noise["rate"].view(-1, 1, 1, 1), data.present[:, v] & ~hidden[:, v]
        assert x[~kept].eq(0).all() and torch.equal(x[kept][~struck[kept]], data.xs[v][kept][~struck[kept]])
        assert set(x[kept][struck[kept]].tolist()) == {0., 1.}


@pytest.mark.parametrize("rate", [0., .3, 1.])
def test_speckle_overwrites_its_share_half_with_salt(rate):
    g = generator(0, "speckle")
    x = torch.full((4, 3, 50, 50), .5)
    out = speckle(x, torch.rand(4, 1, 50, 50, generator=g), torch.full((4,), rate))
    assert torch.equal(out[:, :1].expand_as(out), out), "the channels of a pixel are struck together"
    assert abs(float((out == 0).float().mean()) - rate / 2) < .02 and abs(float((out == 1).float().mean()) - rate / 2) < .02
    assert torch.equal(out == .5, (out != 0) & (out != 1))


@pytest.mark.parametrize("variant", presets)
@pytest.mark.parametrize("side", [4, 24])  # views side by side, and one after another
def test_what_no_run_uses_is_skipped_and_changes_no_number(variant, side):
    g = generator(0, "skip")
    data = MultiView([torch.rand(12, 1, side, side, generator=g) for _ in range(2)], torch.rand(12, 2, generator=g) > .2)
    model = models.create("dualvae", data, seed=0, variant=variant, hidden=(7,), view_mask=.6)
    assert len(model.groups) == (1 if side == 4 else 2)
    a = step(model, data.batch())
    model.unused = frozenset(k for k in model.per_run if not getattr(model, k))
    assert {"authors": "train_snr", "paper": "mask_targets", "mvnb": "nll_d"}[variant] in model.unused
    b = step(model, data.batch())
    for i in (0, 1): assert all(torch.equal(a[i][k], b[i][k]) for k in a[i])


def test_fit_tells_a_model_what_no_run_uses(data):
    made = [models.create("dualvae", data, seed=k, hidden=(7,), train_snr=s) for k, s in enumerate((0., .5))]
    assert {"prior_s", "mask_targets"} <= Stack(made, lr=1e-3).base.unused and Stack(made, lr=1e-3).base.uses("train_snr") and not Stack(made[:1], lr=1e-3).base.uses("train_snr")
    assert made[0].unused == frozenset(), "only the copy that is trained knows"


@pytest.mark.parametrize("ratio", [0., .3, 1.])
def test_kept_patches_are_the_highest_ranks_also_in_a_batch_of_runs(ratio):
    scores = torch.rand(3, 40, 25, generator=generator(0, "ranks"))
    want = scores.argsort(2).argsort(2) >= math.floor(ratio * 25 + 1e-4)
    have = vmap(kept_patches)(scores, torch.full((3,), ratio))
    assert torch.equal(have, want) and torch.equal(have, torch.stack([kept_patches(s, torch.tensor(ratio)) for s in scores]))
    assert torch.equal(vmap(kept_patches, in_dims=(1, None))(scores, torch.tensor(ratio)), want.transpose(0, 1))


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
    assert run_settings("authors", masking=False, disentangle=False) == presets["authors"] | {"view_mask": 0., "patch_mask": 0., "weight_d": 0.}
    with pytest.raises(ValueError, match="choose one of: paper, mvnb, authors"): run_settings("ours")
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
    mv = MultiView([torch.rand(32, 1, 8, 8, generator=generator(v, "c")) for v in range(2)])
    h = fit("dualvae", mv, epochs=15, batch_size=16, lr=5e-3, settings={"net": net, "hidden": (8,)}, progress=False, device="cpu").history.query("term == 'model'")["value"].tolist()
    assert h[-1] < .8 * h[0]


@pytest.mark.parametrize("wrong, message", [
    (dict(view_mask=1.1), "view_mask must lie in"), (dict(patch_mask=-.1), "patch_mask"), (dict(patch=3), "patch=3 does not divide"), (dict(c_dim=0), "c_dim"),
    (dict(beta_c=-1), "beta_c"), (dict(beta_s=float("nan")), "beta_s"), (dict(prior_s=2), "prior_s"), (dict(net="rnn"), "choose one of: mlp, conv"),
    (dict(moe="soft"), "choose one of: experts, linear"), (dict(fuse="mean"), "choose one of: moments, parameters"), (dict(hidden=(0,)), ">= 1"), (dict(hidden=8), "hidden must be a list"), (dict(hidden=(), net="conv"), "hidden must be a list"),
    (dict(masking="no"), "masking='no'"), (dict(patch_mask=1), "patch_mask=1 masks all 4 patches of view 'view 0'"), (dict(patch_mask=1 - 1e-5), "masks all 4 patches"),
    (dict(mask_targets=2), "mask_targets"), (dict(nll_d=-1), "nll_d"), (dict(kl_fused=1.5), "kl_fused"), (dict(feed_zeros=3), "feed_zeros"), (dict(batch_sum=2), "batch_sum"),
    (dict(reads="pixels"), "choose one of: posteriors, features"), (dict(second_pass=2), "second_pass"), (dict(features=0), "features must be >= 1"),
    (dict(dropout=.2), "dropout=0.2 goes with net='authors'"), (dict(net="authors"), "side of 8, 16, 32"), (dict(reads="features", fuse="mean"), "choose one of: moments"),
])
def test_bad_settings_are_named(data, wrong, message):
    with pytest.raises(ValueError, match=message): models.create("dualvae", data, **wrong)


def test_settings_of_the_wrong_type_are_named(data):
    for wrong in (dict(beta_c="0.3"), dict(beta_c=True), dict(c_dim=2.5)):
        with pytest.raises(TypeError, match=next(iter(wrong))): models.create("dualvae", data, **wrong)


def test_one_view_is_too_few(data):
    with pytest.raises(ValueError, match="at least 2 views, got 1"): models.create("dualvae", data.select([0]))


def step(model, batch, seed=1):
    "The losses, and the gradients of each player's parameters, at fixed noise of the model's own precision."
    dtype = next(model.parameters()).dtype
    noise = {k: v.to(dtype) if v.is_floating_point() else v for k, v in model.draw(len(batch.present), generator(seed, "noise")).items()}
    out, parameters, grads = model(batch, noise), dict(model.named_parameters()), {}
    for player, names in models.player_parameters(model).items():
        names = [n for n in names if parameters[n].requires_grad]
        grads |= zip(names, torch.autograd.grad(out[player], [parameters[n] for n in names], retain_graph=True, allow_unused=True, materialize_grads=True))
    return out, grads, noise


def assert_same_step(a, b):
    for k in a[0]: torch.testing.assert_close(a[0][k], b[0][k], rtol=1e-9, atol=1e-9, msg=lambda m: f"{k}: {m}")
    assert a[1].keys() == b[1].keys()
    for k in a[1]: torch.testing.assert_close(a[1][k], b[1][k], rtol=1e-7, atol=1e-9, msg=lambda m: f"{k}: {m}")


@pytest.fixture
def images():
    g = generator(0, "images")
    return MultiView([torch.rand(10, 1, 16, 16, generator=g).double() for _ in range(3)], y=torch.arange(10) % 2)


def test_the_papers_switches_all_thrown_are_the_authors_variant(data):
    data, changed = double(data), {k: v for k, v in presets["authors"].items() if v != presets["paper"][k]}
    assert set(changed) == {"mask_targets", "nll_d", "kl_fused", "feed_zeros", "batch_sum", "beta_s"}
    assert all(structures["authors"][k] != v for k, v in structures["paper"].items())
    a, b = make(data, variant="authors"), make(data, **changed, **structures["authors"])
    assert_same_step(step(a, data.batch()), step(b, data.batch()))


@pytest.mark.parametrize("name", ["mask_targets", "nll_d", "kl_fused", "feed_zeros", "batch_sum", "prior_s"])
def test_every_switch_changes_its_own_terms_and_no_other(data, name):
    data = double(data)
    off, on = (step(make(data, view_mask=1., **{name: value}), data.batch()) for value in (0., 1.))
    changed = {k for k in off[0] if not torch.equal(off[0][k], on[0][k])}
    want = {"mask_targets": {"recon", "kl_s", "club", "estimator"}, "nll_d": set(), "kl_fused": {"kl_c"}, "batch_sum": set(),
            "feed_zeros": {"recon", "kl_c", "club", "estimator"}, "prior_s": {"recon", "kl_s", "club", "estimator"}}[name]
    assert changed == want | {"model"}


def test_terms_of_the_switches_in_closed_form(data):
    data = double(data)
    def total(**settings): return {k: v.item() for k, v in step(make(data, **settings), data.batch())[0].items()}
    o = total()
    assert math.isclose(total(nll_d=1)["model"], o["model"] - o["club"] + o["estimator"], rel_tol=1e-9)
    assert math.isclose(total(batch_sum=1)["model"], o["model"] + (2 * 12 - 1) * o["recon"], rel_tol=1e-9)
    assert total(kl_fused=1)["kl_c"] < o["kl_c"], "Jensen: the moment-matched Gaussian is nearer to the prior than the mean of the experts' divergences"
    model = make(data, kl_fused=1, view_mask=0)
    mu, logvar, kl, _ = model.fused(data.batch().xs, data.present)
    prior, q = Normal(torch.zeros(3).double(), 1.), Normal(mu, (.5 * logvar).exp())
    torch.testing.assert_close(kl, kl_divergence(q, prior).sum(1))


def test_blanked_targets_are_those_of_zeroed_data(images):
    "With `mask_targets` a step with the view mask is a step without it on data where the hidden views are zeros."
    model = DualVAE(ViewSpec.of(images), hidden=(7,), mask_targets=1, feed_zeros=1, view_mask=.5).double()
    have, _, noise = step(model, images.batch())
    hidden = view_mask(noise["sample"], noise["view"], images.present, model.view_mask)
    assert hidden.any()
    model.view_mask.zero_()
    want = step(model, images.replace(xs=[x * ~hidden[:, v].view(-1, 1, 1, 1) for v, x in enumerate(images.xs)]).batch())[0]
    for k in want: torch.testing.assert_close(have[k], want[k])


def test_the_second_pass_decodes_what_the_patch_mask_did_not_touch(data):
    "With weights on KL(c) of 0 the patch mask then changes nothing, and without the second pass it does."
    data = double(data)
    for second_pass in (True, False):
        grads = [step(make(data, second_pass=second_pass, beta_c=0., patch_mask=r), data.batch())[1] for r in (.25, .75)]
        assert all(torch.allclose(grads[0][k], grads[1][k]) for k in grads[0]) == second_pass
    a, b = (step(make(data, second_pass=s, patch_mask=0.), data.batch()) for s in (True, False))
    assert_same_step(a, b)


def test_experts_on_features(data):
    data = double(data)
    model = make(data, reads="features", features=16)
    assert model.gate.weight.shape == (3 * 16, 3) and model.experts[0].layers[0].weight.shape == (16, 2 * (16 + 6) // 3)
    assert make(data, reads="features", features=16, moe="linear").gate.weight.shape == (3 * 16, 6)
    assert all(g.abs().sum() > 0 for g in step(model, data.batch())[1].values())


def test_zeros_are_read_only_if_asked(data):
    "A view that is absent has weight 0, or with `feed_zeros` the weight of an image of zeros."
    dropped, fed = make(double(data)), make(double(data), feed_zeros=1)
    alpha, beta = dropped.gate_weights(double(data)), fed.gate_weights(double(data))
    assert (alpha[~data.present] == 0).all() and (beta > 0).all()
    zeros = double(data).replace(xs=[x * data.present[:, v].view(-1, 1, 1, 1) for v, x in enumerate(double(data).xs)], present=torch.ones_like(data.present))
    torch.testing.assert_close(fed.embed(double(data)), dropped.embed(zeros))


def test_mask_ratios_are_runs_of_one_batch(data):
    "Figs. 5 and 6: the grid of both ratios trains together, each run as if alone."
    grid = [(v, p) for v in (0., .9) for p in (0., .75)]
    common = dict(epochs=2, batch_size=4, settings={"hidden": (7,)}, progress=False, device="cpu")
    together = fit("dualvae", data, seeds=[0] * 4, per_run={"view_mask": [v for v, _ in grid], "patch_mask": [p for _, p in grid]}, **common)
    alone = fit("dualvae", data, seeds=[0], per_run={"view_mask": [.9], "patch_mask": [.75]}, **common)
    for p, q in zip(together.models[3].parameters(), alone.models[0].parameters()): torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
    assert not torch.equal(together.models[0].embed(data), together.models[3].embed(data))


def test_reconstruction_from_one_code_alone(data):
    data, model = double(data), make(double(data))
    c, s = model.embed(data), model.specifics(data)
    for codes, (a, b) in {"both": (1, 1), "c": (1, 0), "s": (0, 1)}.items():
        for v, r in enumerate(model.reconstruct(data, codes)): torch.testing.assert_close(r, model.decoders[v](torch.cat([a * c, b * s[v]], 1)))
    with pytest.raises(ValueError, match="choose one of: both, c, s"): model.reconstruct(data, "z")


def test_samples_of_s_are_seeded_and_the_priors_where_a_view_is_absent(data):
    many = data.replace(xs=[x[:1].expand(4000, -1, -1, -1) for x in data.xs], present=torch.tensor([[True, False, True]] * 4000), y=None)
    model = make(data).float()
    a, b, other = model.specifics(many, seed=0), model.specifics(many, seed=0), model.specifics(many, seed=1)
    assert all(torch.equal(p, q) for p, q in zip(a, b)) and not torch.equal(a[0], other[0])
    assert a[1].mean().abs() < .05 and (a[1].std() - 1).abs() < .05
    torch.testing.assert_close(a[0].mean(0), model.specifics(many)[0][0], atol=.1, rtol=0)


def test_training_images_must_lie_in_the_unit_interval(data):
    for wrong, low in ((data.xs[0] * 255, "0"), (data.xs[0] - .5, "-0.4")):
        with pytest.raises(ValueError, match=rf"view 'view 0' must hold images in \[0, 1\], got values from {low}"):
            fit("dualvae", data.replace(xs=[wrong, *data.xs[1:]]), epochs=1, batch_size=4, progress=False)
    absent = data.replace(xs=[data.xs[0], data.xs[1].masked_fill(~data.present[:, 1].view(-1, 1, 1, 1), 300.), data.xs[2]])
    assert len(make(data).rows(absent)) == 12, "what is absent is not looked at"
    flat = MultiView([torch.randn(12, 5) * 9, torch.randn(12, 5)])
    assert len(models.create("dualvae", flat).rows(flat)) == 12, "features have no range"


counts = {"e-mnist": (2, (1, 32, 32), 2_967_924), "polymnist": (5, (3, 32, 32), 6_767_386), "coil-20": (3, (1, 64, 64), 57_495_278), "coil-100": (3, (3, 64, 64), 57_499_316)}

@pytest.mark.parametrize("name", counts)
def test_parameter_counts_of_the_authors(name):
    V, shape, want = counts[name]
    with torch.device("meta"): model = DualVAE(ViewSpec((shape,) * V, tuple(map(str, range(V))), ()), variant="authors", net="authors")
    assert sum(p.numel() for p in model.parameters()) == want
    assert (model.patch, model.dropout) == ((2, 0.) if shape[1] == 32 else (4, .2)) and model.patches == (256,) * V
    assert models.player_parameters(model)["estimator"]


def authors_code():
    spec = importlib.util.spec_from_file_location("literal_dualvae", Path(__file__).parent.parent / "benchmarks" / "literal_dualvae.py")
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


@pytest.mark.parametrize("net", ["authors", "mlp"])
def test_one_pass_each_equals_the_codes_many_passes(images, net):
    "Losses and all gradients of variant 'authors', against a step that repeats each pass, with torch's layers."
    model = models.create("dualvae", images, variant="authors", net=net, hidden=(4,), view_mask=.4).double()
    out, grads, noise = step(model, images.batch())
    total = authors_code().literal_loss(model, list(images.xs), noise)
    torch.testing.assert_close(out["model"], total, rtol=1e-9, atol=1e-9)
    parameters = dict(model.named_parameters())
    want = torch.autograd.grad(total, [parameters[k] for k in grads], materialize_grads=True)
    for (k, have), g in zip(grads.items(), want): torch.testing.assert_close(have, g, rtol=1e-6, atol=1e-8, msg=lambda m: f"{k}: {m}")
    assert all(g.abs().max() > 0 for g in want)


def test_one_call_of_the_shared_encoder_equals_a_call_per_view_and_keeps_absent_rows_out(images):
    present = torch.ones(10, 3, dtype=torch.bool)
    present[:4, 0] = present[4:6, 2] = False
    model = models.create("dualvae", images, net="authors", hidden=(4,)).double()
    f, rows = model.shared[0], [present[:, v].nonzero().squeeze(1) for v in range(3)]
    h = model.posteriors(images.replace(present=present).batch().xs, present)
    for v, r in enumerate(rows): torch.testing.assert_close(h[r, v], f(images.xs[v][r], torch.ones(1, len(r), dtype=torch.bool)))
    assert (h[~present] == 0).all()


@pytest.mark.parametrize("variant", ["paper", "authors"])
def test_run_k_of_K_is_the_run_alone_with_the_authors_networks(images, variant):
    data = images.select([0, 1]).replace(present=torch.rand(10, 2, generator=generator(0, "p")) > .2)
    def create(seed, **s): return models.create("dualvae", data, seed=seed, variant=variant, net="authors", hidden=(4,), dropout=.2, **s).double()
    common = dict(epochs=2, batch_size=5, progress=False, device="cpu")
    together = fit(create, data, seeds=[5, 6], per_run={"view_mask": [.2, .6]}, runs_per_step=2, **common)
    for k in range(2):
        alone = fit(create, data, seeds=[5 + k], per_run={"view_mask": [[.2, .6][k]]}, **common)
        for (n, p), q in zip(together.models[k].state_dict().items(), alone.models[0].state_dict().values()):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8, msg=lambda m: f"run {k}, {n}: {m}")


def test_the_authors_networks_embed_one_sample_at_a_time_and_survive_a_file(images, tmp_path):
    data = images.replace(xs=[x.float() for x in images.xs])
    model = fit("dualvae", data, epochs=1, batch_size=5, settings={"variant": "authors", "net": "authors", "hidden": (4,)}, progress=False, device="cpu").models[0]
    torch.testing.assert_close(model.embed(data[3:4]), model.embed(data)[3:4], atol=1e-5, rtol=1e-4)
    models.save(model, tmp_path / "m.pt")
    assert torch.equal(models.load(tmp_path / "m.pt").embed(data), model.embed(data))
    many = data[torch.arange(10).repeat(30)]
    torch.testing.assert_close(model.embed(many)[-10:], model.embed(data), atol=1e-5, rtol=1e-4)
    assert model.impute(data).present.all() and [r.shape for r in model.reconstruct(data)] == [x.shape for x in data.xs]


def test_the_authors_networks_need_views_of_one_shape(images):
    mixed = MultiView([images.xs[0], images.xs[1][:, :, :8, :8]])
    with pytest.raises(ValueError, match="views of one shape"): models.create("dualvae", mixed, net="authors")


@pytest.mark.parametrize("ablation", [dict(masking=False), dict(moe="linear"), dict(disentangle=False)])
@pytest.mark.parametrize("variant", presets)
def test_every_ablation_of_every_variant_makes_a_step_with_the_authors_networks(images, variant, ablation):
    model = models.create("dualvae", images, variant=variant, net="authors", hidden=(2,), **ablation).double()
    out, grads, _ = step(model, images.batch())
    assert all(torch.isfinite(v) for v in out.values()) and all(torch.isfinite(g).all() for g in grads.values())
    moved = {k.split(".")[0] for k, g in grads.items() if g.abs().max() > 0}
    assert moved == {"shared", "specific", "decoders", "gate", "club"} | ({"experts"} if "moe" not in ablation else set())
    if "moe" in ablation: assert model.gate.weight.shape == (3 * (512 if variant == "authors" else 20), 20)
