"MVAE, SMVAE, M2: bounds against closed forms and Monte Carlo, gradients, the label sum, limits, bad input."
import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck
from torch.func import functional_call

from mvnb.base import generator
from mvnb.corrupt import hide_labels
from mvnb.distributions import gaussian_kl, gaussian_log_prob, mixture_log_prob, sample
from mvnb.estimator import MultiViewEstimator
from mvnb.fit import fit
from mvnb.models import create
from mvnb.models.smvae import GaussianDecoder, JoinedMLP, neighbour_targets
from mvnb.views import MultiView


def toy(n=60, V=2, K=3, seed=0, dtype=torch.float32):
    "Clusters seen through V linear views of different widths."
    g = generator(seed, "toy")
    y = torch.arange(n) % K
    z = torch.eye(K)[y] * 3 + torch.randn(n, K, generator=g)
    xs = [(z @ torch.randn(K, 3 + v, generator=g)).to(dtype) for v in range(V)]
    return MultiView(xs, y=y, classes=[f"class {k}" for k in range(K)])


def step(model, mv, n=12, seed=0, dtype=None):
    "Batches and noise of one step."
    rows = model.rows(mv)
    sizes = model.sizes(rows, n)
    dicts = isinstance(rows, dict)
    noise = model.draw(sizes, generator(seed, "noise"))
    batch = {k: mv.batch(r[:sizes[k]]) for k, r in rows.items()} if dicts else mv.batch(rows[:sizes])
    if dtype: noise = {k: {j: t.to(dtype) for j, t in v.items()} for k, v in noise.items()} if dicts else {k: t.to(dtype) for k, t in noise.items()}
    return batch, noise


@pytest.fixture
def few(): return hide_labels(toy(), .2, seed=0)


class TestBlocks:
    def test_joined_inputs_equal_concatenated_ones(self):
        torch.manual_seed(0)
        net = JoinedMLP([4, 3, 2], [7, 5])
        parts = [torch.randn(6, d) for d in (4, 3, 2)]
        h = torch.nn.functional.softplus(torch.cat(parts, 1) @ torch.cat(list(net.inputs)) + net.bias)
        assert torch.allclose(net(*parts), torch.nn.functional.softplus(net.layers[0](h)), atol=1e-6)

    def test_a_missing_input_is_refused(self):
        with pytest.raises(ValueError): JoinedMLP([4, 3], [5])(torch.zeros(2, 4))

    @pytest.mark.parametrize("variance", ["input", "shared"])
    def test_decoder_density_and_gradients_equal_the_written_out_ones(self, variance):
        torch.manual_seed(0)
        net = GaussianDecoder([3, 2], [5, 6], 9, variance).double()
        if variance == "shared": net.logvar.data.normal_()
        z, label, x = torch.randn(4, 2, 3, dtype=torch.float64), torch.eye(2, dtype=torch.float64)[None], torch.randn(4, 1, 9, dtype=torch.float64)
        def direct():
            out = net.out(net.body(z, label))
            return gaussian_log_prob(x, out[..., :9], out[..., 9:].clamp(-10, 10) if variance == "input" else net.logvar.expand(9))
        got, want = net.log_prob(x, z, label), direct()
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
        for a, b in zip(torch.autograd.grad(got.sum(), list(net.parameters())), torch.autograd.grad(want.sum(), list(net.parameters()))):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


class TestBounds:
    def test_one_view_is_the_ordinary_vae(self):
        mv = toy(V=1)
        model = create("mvae", mv, entropy="components", latent=4)
        batch, noise = step(model, mv, 20)
        _, mu, logvar = model.posterior(batch.xs, batch.present)
        z = sample(mu[:, :, None], logvar[:, :, None], noise["eps"][:, None])
        want = model.view_log_prob(0, batch.xs, z)[:, 0, 0, 0] - gaussian_kl(mu, logvar)[:, 0, 0]
        torch.testing.assert_close(model.bound(batch.xs, batch.present, noise["eps"])[:, 0], want, rtol=1e-5, atol=1e-4)

    @pytest.mark.parametrize("entropy", ["jensen", "components"])
    def test_never_above_an_importance_sampled_log_likelihood(self, entropy):
        "log p(X) by 20,000 draws from the mixture; the bound, averaged over draws, must not exceed it."
        mv = toy(n=6)
        model = fit("mvae", toy(n=60), epochs=30, batch_size=30, settings=dict(latent=2, hidden=[16], variance="shared", entropy=entropy), lr=1e-2, progress=False).models[0]
        batch, S, g = mv.batch(), 20000, generator(1, "is")
        with torch.no_grad():
            lam, mu, logvar = (t[:, 0] for t in model.posterior(batch.xs, batch.present))
            pick = torch.multinomial(lam, S, True, generator=g)
            z = sample(*(t.gather(1, pick[..., None].expand(-1, -1, 2)) for t in (mu, logvar)), torch.randn(6, S, 2, generator=g))
            joint = sum(model.view_log_prob(v, batch.xs, z[:, None, None])[:, 0, 0] for v in range(2)) + gaussian_log_prob(z, torch.zeros(2), torch.zeros(2))
            q = mixture_log_prob(z, lam[:, None].expand(-1, S, -1), mu[:, None], logvar[:, None])
            log_p = (joint - q).logsumexp(1) - math.log(S)
            bounds = torch.stack([model.bound(batch.xs, batch.present, torch.randn(6, 1, 2, 2, generator=g))[:, 0] for _ in range(2000)])
        assert (bounds.mean(0) <= log_p + 4 * bounds.std(0) / 2000**.5 + .01).all()

    def test_more_samples_same_expectation_less_spread(self, few):
        model = create("smvae", few, latent=4, hidden=[8])
        rows, g = few.batch(slice(0, 8)), generator(0, "t")
        eye = torch.eye(3)[None]
        def values(T, n):
            return torch.stack([model.bound(rows.xs, rows.present, torch.randn(8, T, 2, 4, generator=g), eye) for _ in range(n)]).detach()
        one, many = values(1, 800), values(8, 100)
        assert (one.mean(0) - many.mean(0)).abs().max() < 5 * one.std(0).max() / 800**.5
        assert many.std(0).mean() < .5 * one.std(0).mean()

    def test_the_sum_over_labels_equals_a_loop(self, few):
        model = create("smvae", few, latent=4, hidden=[8])
        batch, noise = step(model, few)
        b, eps = batch["unlabelled"], noise["unlabelled"]["eps"]
        log_q = model.class_log_prob(b.xs)
        total = 0.
        for k in range(3):
            one = model.bound(b.xs, b.present, eps, torch.eye(3)[k].expand(len(b.y), 1, 3))[:, 0] - math.log(3)
            total = total + log_q[:, k].exp() * (one - log_q[:, k])
        parts = {k: model.completed(v, noise[k]) for k, v in batch.items()}
        torch.testing.assert_close(model.unlabelled_bound(parts, noise, torch.eye(3), log_q), total.sum(), rtol=1e-5, atol=1e-3)

    def test_a_sure_classifier_turns_the_unlabelled_bound_into_the_labelled_one(self, few):
        model = create("smvae", few, latent=4, hidden=[8])
        batch, noise = step(model, few)
        b = batch["unlabelled"]
        part = model.completed(b, noise["unlabelled"])
        sure = torch.full((len(b.y), 3), -200.)
        sure[:, 1] = 0.
        got = model.unlabelled_bound({"unlabelled": part}, noise, torch.eye(3), sure)
        want = model.labelled_bound(part, noise["unlabelled"], torch.eye(3)[[1] * len(b.y)])
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-3)

    def test_all_labels_known_is_the_supervised_objective(self):
        mv = toy()
        model = create("smvae", mv, c=.7, latent=4, hidden=[8])
        assert list(model.rows(mv)) == ["labelled"]
        batch, noise = step(model, mv)
        b, onehot = batch["labelled"], torch.eye(3)[batch["labelled"].y]
        bound = model.bound(b.xs, b.present, noise["labelled"]["eps"], onehot[:, None])[:, 0] - math.log(3)
        want = -bound.mean() - .7 * (onehot * model.class_log_prob(b.xs)).sum(1).mean()
        torch.testing.assert_close(model.losses(batch, noise)["model"], want)

    def test_one_view_with_exact_entropy_is_m2(self, few):
        one = few.select([0])
        a, b = create("smvae", one, entropy="components", latent=4, hidden=[8]), create("m2", one, latent=4, hidden=[8])
        a.load_state_dict(b.state_dict() | {"free": torch.zeros(1)})
        batch, noise = step(a, one)
        torch.testing.assert_close(a.losses(batch, noise)["model"], b.losses(batch, noise)["model"])

    def test_absent_views_leave_mixture_and_sum(self, few):
        model = create("smvae", few, latent=4, hidden=[8])
        present = torch.tensor([[True, False]] * 8)
        xs = few.batch(slice(0, 8)).xs
        eps, eye = torch.randn(8, 1, 2, 4, generator=generator(0, "eps")), torch.eye(3)[None]
        a = model.bound((xs[0], torch.zeros_like(xs[1])), present, eps, eye)
        b = model.bound((xs[0], xs[1]), present, eps, eye)
        lam, *_ = model.posterior(xs, present, eye)
        assert torch.equal(a, b) and torch.equal(lam[:, 0], torch.tensor([[1., 0.]] * 8))

    @pytest.mark.parametrize("name, settings", [("smvae", {}), ("smvae", {"entropy": "components", "samples": 2}), ("smvae", {"variant": "mvnb", "k_neighbours": 2}), ("m2", {})])
    def test_gradients_against_finite_differences(self, few, name, settings):
        mv = few.replace(xs=[x.double() for x in few.xs])
        model = create(name, mv, latent=2, hidden=[3], **settings).double()
        batch, noise = step(model, mv, 8, dtype=torch.float64)
        names = ["heads.0.bias", "decoders.0.out.bias", *(["free"] if name == "smvae" else [])]
        if settings.get("variant") != "mvnb": names += ["classifier.bias", "logits.bias"]  # ours holds its targets fixed, which finite differences cannot know
        params = dict(model.named_parameters())
        def loss(*values): return functional_call(model, params | dict(zip(names, values)), (batch, noise))["model"]
        assert gradcheck(loss, [params[n].detach().clone().requires_grad_() for n in names], eps=1e-6, atol=1e-5)


class TestAgreement:
    def test_neighbours_against_brute_force(self):
        g = generator(0, "n")
        xs = [torch.randn(12, 3, generator=g), torch.randn(12, 5, generator=g)]
        present = torch.rand(12, 2, generator=g) < .7
        present[~present.any(1), 0] = True
        q = torch.rand(12, 4, generator=g)
        got = neighbour_targets([x * present[:, v, None] for v, x in enumerate(xs)], present, q, 1)
        for i in range(12):
            best = []
            for j in range(12):
                both = [v for v in range(2) if present[i, v] and present[j, v]]
                if j != i and both: best.append((sum(float((xs[v][i] - xs[v][j]).square().sum()) for v in both) / sum(xs[v].shape[1] for v in both), j))
            if best: assert torch.allclose(got[i], q[min(best)[1]])

    def test_equivariant_to_the_order_of_rows(self):
        mv = toy(n=20)
        q, order = torch.rand(20, 3, generator=generator(0, "q")), torch.randperm(20, generator=generator(0, "p"))
        a = neighbour_targets(mv.xs, mv.present, q, 4)
        assert torch.allclose(neighbour_targets([x[order] for x in mv.xs], mv.present, q[order], 4), a[order])

    @pytest.mark.parametrize("k", [0, 12, 99])
    def test_too_many_neighbours(self, k):
        with pytest.raises(ValueError, match="k must be"): neighbour_targets([torch.zeros(12, 2)], torch.ones(12, 1, dtype=torch.bool), torch.zeros(12, 3), k)

    def test_balance_is_zero_for_even_answers_only(self, few):
        model = create("smvae", few, variant="mvnb", latent=4, hidden=[8], k_neighbours=2)
        batch, noise = step(model, few)
        even, one = torch.full((12, 3), -math.log(3.)), torch.log(torch.tensor([[.98, .01, .01]] * 12))
        known = torch.eye(3)[batch["labelled"].y]
        assert abs(float(model.agreement(batch, known, even, even)["balance"][1])) < 1e-6
        assert float(model.agreement(batch, known, one, one)["balance"][1]) > .9

    def test_a_damaged_copy_keeps_a_view_in_every_row(self, few):
        model = create("smvae", few, variant="mvnb", drop=1.0, noise=0.0)
        batch, noise = step(model, few, 40)
        parts = {k: model.completed(b, noise[k]) for k, b in batch.items()}
        xs = [torch.cat(x) for x in zip(*(b.xs for b in batch.values()))]
        copies = model.damaged(xs, parts, noise)
        kept = torch.stack([(c != 0).any(1) for c in copies], 1)
        assert (kept.sum(1) == 1).all() and kept.any(0).all()
        assert all(torch.equal(c[k], x[k]) for c, x, k in zip(copies, xs, kept.T))


def test_training_separates_clusters_from_two_labels_each():
    train, test = toy(240), toy(240)
    few = hide_labels(train, 6 / 240, seed=0)
    model = fit("smvae", few, epochs=40, batch_size=80, lr=3e-3, settings=dict(variant="mvnb", latent=4, hidden=[32]), progress=False).models[0]
    assert (model.predict(test) == test.y).float().mean() > .9
    assert torch.allclose(model.proba(test).sum(1), torch.ones(240), atol=1e-5)
    assert abs(sum(model.view_weights().values()) - 1) < 1e-6


def test_the_history_holds_the_weights_of_the_views(few):
    result = fit("smvae", few, epochs=3, batch_size=20, settings=dict(latent=4, hidden=[8]), progress=False)
    terms = result.history.pivot(index="epoch", columns="term", values="value")
    torch.testing.assert_close(torch.tensor((terms["lambda view 0"] + terms["lambda view 1"]).to_numpy()), torch.ones(3, dtype=torch.float64), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings, message", [
    (dict(variant="best"), "paper, mvnb"), (dict(c=-1.), "c must be"), (dict(consistency=1.), "needs variant='mvnb'"), (dict(labelled=1.5), "labelled"),
    (dict(hidden=[]), "hidden"), (dict(latent=0), "latent"), (dict(samples=0), "samples"), (dict(entropy="exact"), "jensen"), (dict(variance="none"), "variance"),
    (dict(k_neighbours=0), "k_neighbours")])
def test_bad_settings(few, settings, message):
    with pytest.raises(ValueError, match=message): create("smvae", few, **settings)


def test_bad_data(few):
    with pytest.raises(ValueError, match="at least 2 classes"): create("smvae", few.replace(y=None, classes=None))
    with pytest.raises(ValueError, match="no labelled row"): fit("smvae", few.replace(y=torch.full_like(few.y, -1), classes=few.classes), epochs=1, progress=False)
    with pytest.raises(ValueError, match="class 2"): fit("smvae", few.replace(y=torch.where(few.y == 2, -1, few.y), classes=few.classes), epochs=1, progress=False)


def test_constant_features_do_no_harm(few):
    flat = few.replace(xs=[torch.cat([few.xs[0], torch.ones(60, 1)], 1), few.xs[1]])
    result = fit("smvae", flat, epochs=30, batch_size=30, lr=1e-2, settings=dict(latent=4, hidden=[8]), progress=False)
    assert not result.errors and torch.isfinite(result.models[0].proba(flat)).all()


def test_the_estimator_learns_from_labels_named_by_strings():
    mv = toy(240)
    names = np.array(["calm", "sad", "glad"])[mv.y.numpy()]
    y = np.where(np.arange(240) < 12, np.arange(240) % 3, -1)
    model = MultiViewEstimator("smvae", settings=dict(variant="mvnb", latent=4, hidden=[32]), epochs=40, batch_size=80, lr=3e-3, n_clusters=3)
    X = [x.numpy() for x in mv.xs]
    assert model.fit(X, y).score(X, mv.y.numpy()) > .9, "the accuracy of classes, not of matched clusters"
    assert model.score(X, (mv.y.numpy() + 1) % 3) < .1
    assert set(model.fit(X, names).predict(X)) <= {"calm", "sad", "glad"}
