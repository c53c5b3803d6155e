"The deep clustering models and their defence against loops, closed forms and a literal step."
import copy
import importlib.util
import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from mvnb.base import generator
from mvnb.corrupt import drop_views
from mvnb.fit import Stack
from mvnb.models import ViewSpec, player_parameters, seeded, settings_of
from mvnb.models.ardmvc import (ARDMVC, ARDMVCAM, ClusterHead, CoMVC, SiMVC, ViewCNN, cluster_count, contrastive_loss, ddc_losses, mitigator_loss,
                                pgd, presets, project, readings, setting_or, view_encoders)
from mvnb.views import MultiView

FLAT = ViewSpec(((6,), (5,), (4,)), ("a", "b", "c"), tuple("xyz"))
IMAGES = ViewSpec(((1, 28, 28),) * 2, ("a", "b"), tuple("0123456789"))


def make(cls, views=FLAT, seed=0, **settings):
    with seeded(seed, "weights"): return cls(views, **({"hidden": (7,), "head": 5} if views is FLAT else {"channels": 2}) | settings)


def flat_data(n=12, missing=True, seed=0):
    g = generator(seed, "ardmvc")
    present = torch.ones(n, 3, dtype=torch.bool)
    if missing: present[0, 1] = present[1, 0] = present[2, 0] = present[2, 2] = False
    return MultiView([torch.rand(n, *s, generator=g) for s in FLAT.shapes], present, torch.arange(n) % 3, names=FLAT.names, classes=FLAT.classes)


def brute_ddc(hidden, a, sigma, share, scale):
    "Eqs. 15-17 element by element in Python floats."
    n, k = a.shape
    def d2(x, y): return float(sum((p - q) ** 2 for p, q in zip(x.tolist(), y.tolist())))
    upper = [d2(hidden[i], hidden[j]) for i, j in itertools.combinations(range(n), 2)]
    median = sorted(upper)[(len(upper) - 1) // 2]  # torch's median: the lower one
    var = (share * math.sqrt(median)) ** 2 if sigma == "distance" else share * median
    kernel = [[math.exp(-d2(hidden[i], hidden[j]) / (2 * var)) for j in range(n)] for i in range(n)]
    m = [[math.exp(-sum((float(a[i, l]) - (l == j)) ** 2 for l in range(k))) for j in range(k)] for i in range(n)]
    def divergence(c):
        def inner(i, j): return sum(c[p][i] * kernel[p][q] * c[q][j] for p in range(n) for q in range(n))
        return sum(inner(i, j) / math.sqrt(inner(i, i) * inner(j, j)) for i, j in itertools.combinations(range(k), 2))
    pairs = math.comb(k, 2)
    orthogonal = sum(float(a[i] @ a[j]) for i, j in itertools.combinations(range(n), 2)) / math.comb(n, 2)
    return divergence(a.tolist()) * (1 / pairs if scale == "mean" else pairs), orthogonal, divergence(m) / pairs


@pytest.mark.parametrize("sigma, scale, share", [("distance", "mean", .15), ("squared", "mean", .15), ("squared", "printed", .4)])
def test_ddc_terms_equal_loops(sigma, scale, share):
    g = generator(1, "ddc")
    hidden, a = torch.randn(9, 4, generator=g, dtype=torch.float64), torch.randn(9, 3, generator=g, dtype=torch.float64).softmax(1)
    have, want = ddc_losses(hidden, a, sigma=sigma, share=share, scale=scale), brute_ddc(hidden, a, sigma, share, scale)
    for h, w in zip(have, want): assert float(h) == pytest.approx(w, rel=1e-9)


def test_ddc_gradients_and_the_bandwidth_that_carries_none():
    "Finite differences in the assignments; in the features the gradient along their scale would vanish if the bandwidth moved with them."
    g = generator(2, "ddc")
    hidden, a = torch.randn(6, 3, generator=g, dtype=torch.float64), torch.randn(6, 3, generator=g, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: sum(ddc_losses(hidden, t.softmax(1), share=.5)), a)
    hidden.requires_grad_()
    sum(ddc_losses(hidden, a.softmax(1), share=.5)).backward()
    assert (hidden.grad * hidden).sum().abs() > 1e-3, "with a moving bandwidth the loss would not depend on the scale of the features"
    scaled = ddc_losses(3 * hidden, a.softmax(1))
    for s, t in zip(scaled, ddc_losses(hidden, a.softmax(1))): torch.testing.assert_close(s, t)


def test_ddc_does_not_see_the_order_of_rows_and_clusters():
    g = generator(3, "ddc")
    hidden, a, rows = torch.randn(10, 4, generator=g), torch.randn(10, 4, generator=g).softmax(1), torch.randperm(10, generator=g)
    for s, t in zip(ddc_losses(hidden, a), ddc_losses(hidden[rows], a[rows][:, [2, 0, 3, 1]])): torch.testing.assert_close(s, t)


def test_ddc_is_finite_where_features_coincide_and_clusters_are_empty():
    hidden, a = torch.zeros(5, 3, requires_grad=True), torch.tensor([[1., 0., 0.]]).repeat(5, 1).requires_grad_()
    total = sum(ddc_losses(hidden, a))
    total.backward()
    assert torch.isfinite(total) and torch.isfinite(hidden.grad).all() and torch.isfinite(a.grad).all()


def brute_contrastive(zs, present, tau, reading, views):
    B, pairs, total = len(zs), list(itertools.permutations(views, 2)), 0.
    def s(i, u, j, v): return float(torch.cosine_similarity(zs[i, u], zs[j, v], 0)) / tau
    for u, v in pairs:
        values = []
        for i in range(B):
            if not (present[i, u] and present[i, v]): continue
            cross, own, other = ([s(i, a, j, b) for j in range(B) if j != i and present[j, b]] for a, b in ((u, v), (u, u), (v, v)))
            negatives = cross + own + (other if reading == "paper" else [s(i, u, i, v)])
            if not cross + own + (other if reading == "paper" else []): continue
            values.append(math.log(sum(map(math.exp, negatives))) - s(i, u, i, v))
        total += sum(values) / max(1, len(values))
    return total if reading == "paper" else total / max(1, len(pairs))


@pytest.mark.parametrize("reading", ["paper", "authors"])
@pytest.mark.parametrize("views", [None, (0, 1)])
def test_contrastive_loss_equals_loops(reading, views):
    g = generator(4, "contrastive")
    zs, present = torch.randn(7, 3, 4, generator=g, dtype=torch.float64), torch.rand(7, 3, generator=g) < .7
    have = contrastive_loss(zs, present, tau=.5, reading=reading, views=views)
    assert float(have) == pytest.approx(brute_contrastive(zs, present, .5, reading, range(3) if views is None else views), rel=1e-9)
    if views: torch.testing.assert_close(have, contrastive_loss(zs[:, :2], present[:, :2], tau=.5, reading=reading))


@pytest.mark.parametrize("reading", ["paper", "authors"])
def test_contrastive_loss_without_any_pair_is_zero_with_finite_gradients(reading):
    zs = torch.randn(3, 2, 4, generator=generator(0, "z")).requires_grad_()
    for present in (torch.tensor([[True, False]] * 3), torch.tensor([[True, True], [False, False], [False, False]])):
        loss = contrastive_loss(zs, present, reading=reading)
        assert loss == 0 and torch.isfinite(torch.autograd.grad(loss, zs)[0]).all()


def test_contrastive_gradient_in_double_precision():
    g = generator(5, "contrastive")
    zs, present = torch.randn(4, 3, 3, generator=g, dtype=torch.float64, requires_grad=True), torch.rand(4, 3, generator=g) < .8
    for reading in ("paper", "authors"): assert torch.autograd.gradcheck(lambda z: contrastive_loss(z, present, tau=.5, reading=reading), zs)


def test_mitigator_directions():
    p, q = torch.tensor([[0., 30.]]), torch.tensor([[0., 0.]])
    assert float(mitigator_loss(p, q)) == pytest.approx(math.log(2), abs=1e-5), "KL(attacked || clean): a sure attacked row against an undecided clean one"
    assert float(mitigator_loss(q, p)) == pytest.approx(15 - math.log(2), abs=1e-4)
    a, b = (q.softmax(1)[0] + 1e-4).tolist(), (p.softmax(1)[0] + 1e-4).tolist()
    assert float(mitigator_loss(p, q, "authors")) == pytest.approx(sum(s * math.log(s / t) for s, t in zip(a, b)), rel=1e-4)


def test_parameter_counts_are_the_published_ones():
    assert sum(p.numel() for p in CoMVC(IMAGES).parameters()) == 327_072
    assert sum(p.numel() for p in ViewCNN((1, 28, 28)).parameters()) == 111_680 and sum(p.numel() for p in ClusterHead(1024, 10).parameters()) == 103_710


def test_the_cnn_is_its_layers():
    cnn, x = ViewCNN((1, 28, 28), 3), torch.rand(5, 1, 28, 28, generator=generator(0, "x"))
    def block(i, t): return nn.functional.max_pool2d(nn.functional.batch_norm(cnn.convs[2 * i + 1](cnn.convs[2 * i](t).relu()), None, None, training=True).relu(), 2)
    torch.testing.assert_close(cnn(x, torch.ones(5, dtype=torch.bool)), block(1, block(0, x)).flatten(1), rtol=1e-4, atol=1e-5)
    assert [c.bias.requires_grad for c in cnn.convs] == [True, False, True, False]
    def running(i, t): return nn.functional.max_pool2d(cnn.norms[i](cnn.convs[2 * i + 1](cnn.convs[2 * i](t).relu()), None, remember=False).relu(), 2)
    cnn(x, torch.ones(5, dtype=torch.bool))
    for t in (cnn(x, None, remember=False), cnn.eval()(x, None)): torch.testing.assert_close(t, running(1, running(0, x)).flatten(1), rtol=1e-4, atol=1e-5)


def test_absent_views_are_left_out_of_the_mean_and_their_content_of_everything():
    model, mv = make(CoMVC), flat_data()
    model.theta.data = torch.tensor([.5, -1., 2.])
    zs, z, _, _ = model.parts(*mv.batch()[:2])
    weights = model.theta.exp()
    want = torch.stack([sum(weights[v] * zs[i, v] for v in range(3) if mv.present[i, v]) / sum(weights[v] for v in range(3) if mv.present[i, v]) for i in range(12)])
    torch.testing.assert_close(z, want)
    holed = mv.replace(xs=[x.masked_fill(~mv.present[:, v, None], float("nan")) for v, x in enumerate(mv.xs)])
    for method in ("embed", "logits", "proba", "predict", "head_features"): assert torch.equal(getattr(model, method)(mv), getattr(model, method)(holed))
    assert all(torch.equal(a, b) for a, b in zip(model.view_embeddings(mv), model.view_embeddings(holed)))
    torch.testing.assert_close(model.view_embeddings(mv)[1][3:], zs[3:, 1])


@pytest.mark.parametrize("variant", presets)
def test_losses_equal_their_formula(variant):
    "Eq. 14 from the parts, with weights that all count."
    mv, model = flat_data(), make(ARDMVCAM, variant=variant, lam=2., gamma=3., weight_c=.7, steps=3, eps=.1, step=.05, warm=0.)
    model.theta.data = torch.tensor([.5, -1., 2.])
    batch, noise = mv.batch(), model.draw(12, generator(0, "noise"))
    have, r, total = copy.deepcopy(model)(batch, noise), readings[variant], 0.
    outs = [model.parts(batch.xs, batch.present)]
    outs.append(model.parts(model.attacked(batch, noise, outs[0][3]), batch.present))
    for weight, (zs, _, hidden, l) in zip((1., 2.), outs):
        w = .7 * (float(model.theta.detach().softmax(0).min()) if variant == "authors" else 1.)
        total = total + weight * (sum(ddc_losses(hidden, l.softmax(1), sigma=r["sigma"])) + w * contrastive_loss(zs, batch.present, reading=r["contrast"]))
    total = total + 3 * mitigator_loss(outs[1][3], outs[0][3], r["mitigator"])
    torch.testing.assert_close(have["model"], total, rtol=1e-4, atol=1e-4)
    assert make(ARDMVC, variant=variant).gamma == 0 and make(ARDMVCAM, variant=variant).gamma == torch.tensor(presets[variant]["gamma"])


def test_without_attack_the_adversarial_loss_is_the_clean_one():
    mv, model = flat_data(), make(ARDMVCAM, eps=0., lam=1.)
    out = model(mv.batch(), model.draw(12, generator(0, "noise")))
    torch.testing.assert_close(out["ddc"], out["ddc_attacked"]), torch.testing.assert_close(out["model"], 2 * (out["ddc"] + out["contrast"]))
    assert abs(out["kl"]) < 1e-6


@pytest.mark.parametrize("attack", ["contrastive", "assignment", "both"])
@pytest.mark.parametrize("views", [FLAT, IMAGES], ids=["flat", "images"])
def test_the_attack_in_training_keeps_its_ball_and_raises_its_loss(views, attack):
    g = generator(7, "attack")
    mv = flat_data() if views is FLAT else MultiView([torch.rand(6, 1, 28, 28, generator=g) for _ in range(2)], names=("a", "b"), classes=IMAGES.classes)
    model = make(ARDMVC, views, attack=attack, steps=4, eps=.1, step=.05)
    batch, noise = mv.batch(), model.draw(len(mv), g)
    zs, _, _, logits = model.parts(batch.xs, batch.present, remember=False)
    before = {k: v.clone() for k, v in model.named_buffers()}
    xs = model.attacked(batch, noise, logits)
    assert all(torch.equal(v, before[k]) for k, v in model.named_buffers()) and not any(x.requires_grad for x in xs)
    for v, (x, a) in enumerate(zip(batch.xs, xs)):
        assert (x - a).abs().max() <= .1 + 1e-6 and a.min() >= 0 and a.max() <= 1 and not a[~batch.present[:, v]].any()
    zs2, _, _, logits2 = model.parts(xs, batch.present, remember=False)
    away = [float(-(logits.softmax(1) * l.log_softmax(1)).sum(1).mean().detach()) for l in (logits, logits2)]
    apart = [float(contrastive_loss(z, batch.present).detach()) for z in (zs, zs2)]
    gain = {"contrastive": apart[1] - apart[0], "assignment": away[1] - away[0], "both": apart[1] + away[1] - apart[0] - away[0]}[attack]
    assert gain > 0


def test_first_pairs_leave_the_third_view_at_its_random_start():
    mv, model = flat_data(missing=False), make(ARDMVC, variant="authors", steps=5, eps=.1, step=.1)
    batch, noise = mv.batch(), make(ARDMVC).draw(12, generator(0, "noise"))
    xs = model.attacked(batch, noise, model.parts(batch.xs, batch.present)[3])
    start = [project(x + .1 * noise[f"start{v}"], x, .1, batch.present[:, v]) for v, x in enumerate(batch.xs)]
    assert torch.equal(xs[2], start[2]) and not torch.equal(xs[0], start[0])


def test_projection_is_the_nearest_point():
    x, clean, here = torch.tensor([[-.5, .5, 1.4, .9]] * 2), torch.tensor([[.05, .5, .95, .2], [0.] * 4]), torch.tensor([True, False])
    torch.testing.assert_close(project(x, clean, .1, here), torch.tensor([[0., .5, 1., .3], [0.] * 4]))


def test_pgd_finds_the_corner_of_a_linear_function():
    w, x = torch.tensor([1., -2., 0.5]), torch.full((2, 3), .5)
    far, = pgd(lambda xs: (xs[0] * w).sum(), [x], torch.ones(2, 1, dtype=torch.bool), [torch.zeros(2, 3)], eps=.2, step=.05, steps=6)
    torch.testing.assert_close(far, x + .2 * w.sign())


def test_the_attack_begins_after_the_warm_steps():
    model = make(ARDMVCAM, variant="mvnb", warm=2., eps=.4, steps=1)
    mv, radii = flat_data(), []
    for _ in range(6):
        radii.append(float(model.radius()))
        model(mv.batch(), model.draw(12, generator(0, "noise")))
    assert radii == pytest.approx([0, 0, 0, .2, .4, .4]) and float(model.eval().radius()) == pytest.approx(.4)
    assert float(make(ARDMVC, warm=0.).radius()) == pytest.approx(.2)


def literal_attack(model, batch, noise):
    "The attack with the whole loss in each step, and gradients of the parameters as well, by autograd."
    params = [p for p in model.parameters() if p.requires_grad]
    own = model.parts(batch.xs, batch.present, remember=False)[3].detach().softmax(1)
    attacked = [project(x + model.eps * noise[f"start{v}"], x, model.eps, batch.present[:, v]) for v, x in enumerate(batch.xs)]
    for _ in range(model.steps):
        here = [a.clone().requires_grad_() for a in attacked]
        zs, _, hidden, logits = model.parts(here, batch.present, remember=False)
        ddc = sum(ddc_losses(hidden, logits.softmax(1), sigma=model.sigma))
        loss = contrastive_loss(zs, batch.present, tau=model.tau, reading=model.contrast) - (own * logits.log_softmax(1)).sum(1).mean() * (model.attack == "both") + 0 * ddc
        grads = torch.autograd.grad(loss, here + params, allow_unused=True)[:len(here)]
        attacked = [project(a + model.step * g.sign(), x, model.eps, batch.present[:, v]) for v, (a, g, x) in enumerate(zip(attacked, grads, batch.xs))]
    return attacked


@pytest.mark.parametrize("attack", ["contrastive", "both"])
def test_the_attack_equals_the_literal_one(attack):
    mv = flat_data().replace(xs=[x.double() for x in flat_data().xs])
    model = make(ARDMVCAM, attack=attack, steps=4, eps=.1, step=.03).double()
    batch, noise = mv.batch(), {k: v.double() for k, v in model.draw(12, generator(0, "noise")).items()}
    for a, b in zip(model.attacked(batch, noise, model.parts(batch.xs, batch.present, remember=False)[3]), literal_attack(model, batch, noise)): torch.testing.assert_close(a, b)


@pytest.mark.parametrize("settings", [dict(images=16), dict(images=6, net="mlp", runs=2)], ids=["cnn", "runs of mlp"])
def test_the_benchmarks_two_steps_are_one(settings):
    spec = importlib.util.spec_from_file_location("attack_benchmark", Path(__file__).parent.parent / "benchmarks" / "attack.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    different = benchmark.compare(*benchmark.build(2, 6, 3, **settings))
    assert different["views"] < 1e-9 and different["loss"] < 1e-9 and different["gradients"] < 1e-9


def test_images_train_through_the_stack_and_the_frozen_biases_stay():
    g = generator(8, "images")
    mv = MultiView([torch.rand(8, 1, 28, 28, generator=g) for _ in range(2)], y=torch.arange(8) % 10, names=("a", "b"), classes=IMAGES.classes)
    models_ = [make(ARDMVCAM, IMAGES, seed=s, steps=1) for s in (0, 1)]
    stack = Stack(models_, lr=1e-2)
    assert not any("convs.1.bias" in k or "convs.3.bias" in k for k in stack.params) and set(stack.params) < {k for ks in player_parameters(models_[0]).values() for k in ks}
    batch = mv.batch()
    pair = type(batch)(tuple(torch.stack([x, x]) for x in batch.xs), torch.stack([batch.present] * 2), torch.stack([batch.y] * 2))
    noise = {k: torch.stack([v, v]) for k, v in models_[0].draw(8, g).items()}
    first, again = stack.step(pair, noise), stack.step(pair, noise)
    assert torch.isfinite(again["model"]).all() and not torch.equal(first["model"], again["model"]) and stack.buffers["seen"].tolist() == [2, 2]


def test_bad_settings_are_named():
    mv = flat_data()
    with pytest.raises(ValueError, match="k must say"): cluster_count(FLAT._replace(classes=()))
    with pytest.raises(ValueError, match="k must be >= 2"): cluster_count(FLAT, 1)
    assert cluster_count(FLAT) == 3 and cluster_count(FLAT, 7) == 7
    with pytest.raises(ValueError, match="needs at least 2, got 1"): CoMVC(ViewSpec(((4,),), ("a",), ("x", "y")))
    with pytest.raises(ValueError, match="variant='ours'"): make(ARDMVC, variant="ours")
    with pytest.raises(ValueError, match="eps must lie in"): make(ARDMVC, eps=1.1)
    with pytest.raises(ValueError, match="lam must be"): make(ARDMVC, lam=-1.)
    with pytest.raises(ValueError, match="steps must be"): make(ARDMVC, steps=-1)
    with pytest.raises(ValueError, match="share must be"): make(SiMVC, share=0.)
    with pytest.raises(ValueError, match="16 x 16"): view_encoders(ViewSpec(((1, 12, 12),), ("a",), ()))
    with pytest.raises(ValueError, match="one width"): view_encoders(ViewSpec(((1, 28, 28), (3,)), ("a", "b"), ()), hidden=(9,))
    with pytest.raises(ValueError, match="list of one or more"): view_encoders(FLAT, hidden=9)
    with pytest.raises(ValueError, match=r"\[0, 1\]"): make(ARDMVC).rows(mv.replace(xs=[x - 1 for x in mv.xs]))
    with pytest.raises(ValueError, match="at least 2 rows"): make(SiMVC).sizes(torch.arange(9), 1)
    with pytest.raises(ValueError, match="at least 2 rows"): ddc_losses(torch.zeros(1, 2), torch.ones(1, 2))
    with pytest.raises(ValueError, match="sigma="): ddc_losses(torch.zeros(3, 2), torch.ones(3, 2), sigma="mean")
    with pytest.raises(ValueError, match="reading="): contrastive_loss(torch.zeros(3, 2, 2), torch.ones(3, 2).bool(), reading="ours")
    assert setting_or("authors", sigma=None, lam=7.) == ["squared", 7.] and {"k", "variant", "tau", "attack", "warm"} <= set(settings_of(ARDMVCAM))


def test_a_check_of_values_reads_only_what_is_present():
    mv = flat_data()
    wild = mv.replace(xs=[x.masked_fill(~mv.present[:, v, None], 9.) for v, x in enumerate(mv.xs)])
    assert len(make(ARDMVC).rows(wild)) == 12
    assert make(SiMVC).predict(drop_views(mv[3:], .5, seed=0)).shape == (9,)
