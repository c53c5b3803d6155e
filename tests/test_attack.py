"Attacks: the threat model, what they raise, what they leave as it was, and the scores against a by-hand count."
import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import adjusted_rand_score
from torch import nn

from mvnb.attack import GAN, Critic, Perturbation, Target, _scores, attack, attack_scores, attack_table, attacks, is_paper_image, objectives, universal_pattern
from mvnb.base import generator
from mvnb.corrupt import drop_views
from mvnb.models import Model, ViewSpec, seeded
from mvnb.models.ardmvc import ARDMVCAM, CoMVC, SiMVC, contrastive_loss
from mvnb.models.dualvae import DualVAE
from mvnb.models.factvae import FactVAE
from mvnb.models.simvae import SiMVAE
from mvnb.models.smvae import SMVAE
from mvnb.views import MultiView

makers = {"simvc": lambda v: SiMVC(v, hidden=(8,), head=6), "ar-dmvc-am": lambda v: ARDMVCAM(v, hidden=(8,), head=6), "dualvae": lambda v: DualVAE(v, hidden=(8,), c_dim=3, s_dim=2),
          "factvae": lambda v: FactVAE(v, latent=4), "simvae": lambda v: SiMVAE(v, latent=3, hidden=(8,), incomplete=(0, 1)), "smvae": lambda v: SMVAE(v, latent=3, hidden=(8,))}
complete_only = ("smvae",)


def data(n=12, missing=True, seed=0):
    g = generator(seed, "attack data")
    y, present = torch.arange(n) % 3, torch.ones(n, 2, dtype=torch.bool)
    if missing: present[:3, 0] = present[3:5, 1] = False
    return MultiView([(torch.rand(n, 6, generator=g) + .3 * y[:, None]).clamp(0, 1) for _ in range(2)], present, y, classes="abc")


def model_of(name, mv):
    with seeded(0, "weights"): return makers[name](ViewSpec.of(mv))


def target_of(name, mv): return Target(model_of(name, mv), mv)


def quick(name): return {"gan": {"epochs": 1}, "universal": {"steps": 4}}.get(name, {} if name in ("uniform", "sign") else {"steps": 3})


@pytest.mark.parametrize("eps", [0., .07, 1.])
@pytest.mark.parametrize("name", makers)
def test_every_attack_keeps_to_the_threat_model_and_leaves_the_model_alone(name, eps):
    mv = data(missing=name not in complete_only)
    target = target_of(name, mv)
    target.model.train()
    parameters, buffers = ([(k, v.clone()) for k, v in it()] for it in (target.model.named_parameters, target.model.named_buffers))
    for kind in attacks:
        out = attack(target, mv, kind, eps=eps, seed=1, batch_size=5, **quick(kind))
        assert torch.equal(out.present, mv.present) and torch.equal(out.y, mv.y)
        for v, (x, a) in enumerate(zip(mv.xs, out.xs)):
            here = mv.present[:, v]
            assert (a - x).abs().max() <= eps + 1e-6 and a.min() >= 0 and a.max() <= 1 and torch.equal(a[~here], x[~here]), kind
        moved = max(float((a - x).abs().max()) for a, x in zip(out.xs, mv.xs))
        assert moved == 0 if eps == 0 else moved > eps / 10, kind
    assert target.model.training and all(m.training for m in target.model.modules()) and all(p.grad is None for p in target.model.parameters())
    assert "over_rows" not in vars(target.model)
    for (k, v), (l, w) in zip(parameters + buffers, [*target.model.named_parameters(), *target.model.named_buffers()]): assert k == l and torch.equal(v, w), k


def test_batch_norms_running_statistics_do_not_drift():
    g = generator(0, "images")
    mv = MultiView([torch.rand(6, 1, 28, 28, generator=g) for _ in range(2)], y=torch.arange(6) % 2, classes="ab")
    with seeded(0, "weights"): model = CoMVC(ViewSpec.of(mv), channels=2).train()
    before, clean = copy.deepcopy(model.state_dict()), model.logits(mv)
    for kind in attacks: attack(Target(model, mv), mv, kind, eps=.1, **quick(kind))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) and torch.equal(model.logits(mv), clean)


@pytest.mark.parametrize("kind", objectives)
@pytest.mark.parametrize("name", ["simvc", "dualvae", "smvae"])
def test_ascent_raises_its_objective_on_every_batch(name, kind):
    mv = data(24, missing=False)
    target = target_of(name, mv)
    out = attack(target, mv, kind, eps=.1, batch_size=8)
    for rows in torch.arange(24).tensor_split(3):
        batch = target.batch(mv[rows])
        value = objectives[kind](target, batch)
        with torch.no_grad(): assert value([x[rows] for x in out.xs]) > value(batch.xs)


def test_more_steps_and_a_larger_ball_raise_it_further():
    mv = data(24, missing=False)
    target = target_of("simvc", mv)
    value = objectives["assignment"](target, target.batch(mv))
    with torch.no_grad(): found = [float(value(attack(target, mv, "assignment", eps=e, steps=s, step=.02).xs)) for e, s in ((.05, 1), (.05, 10), (.2, 40))]
    assert found[0] < found[1] < found[2]


def test_the_gradient_is_that_of_the_model():
    "A linear model, whose worst case is known: every value moves by eps against the logit's sign."
    class Linear(Model):
        def __init__(self, views):
            super().__init__(views)
            self.w = nn.Parameter(torch.tensor([[1., -1., 2., -.5, 1., 1.]]).T @ torch.tensor([[1., -1.]]))
        def embed(self, mv): return self.over_rows(mv, lambda b: b.xs[0] @ self.w)
        def logits(self, mv): return self.embed(mv)
    mv = MultiView([torch.full((4, 6), .5)])
    target = Target(Linear(ViewSpec.of(mv)), mv)
    assert target.k == 2 and target.labels(mv).tolist() == [0] * 4
    out = attack(target, mv, "assignment", eps=.1)
    torch.testing.assert_close(out.xs[0], (.5 - .1 * target.model.w.detach()[:, 0].sign()).expand(4, 6))
    torch.testing.assert_close(attack(target, mv, "universal", eps=.1).xs[0], out.xs[0])


def test_same_seed_same_attack_and_other_seed_another():
    mv = data()
    target = target_of("simvc", mv)
    for kind in attacks:
        a, b, c = (attack(target, mv, kind, eps=.1, seed=s, **quick(kind)) for s in (3, 3, 4))
        assert all(torch.equal(x, y) for x, y in zip(a.xs, b.xs)), kind
        assert not all(torch.equal(x, y) for x, y in zip(a.xs, c.xs)), kind


def test_the_global_generator_is_left_alone():
    mv = data()
    target, before = target_of("simvc", mv), torch.random.get_rng_state()
    for kind in attacks: attack(target, mv, kind, eps=.1, **quick(kind))
    assert torch.equal(before, torch.random.get_rng_state())


def test_row_wise_attacks_do_not_depend_on_the_batches():
    mv = data(16, missing=False)
    target = target_of("simvc", mv)
    for kind in ("uniform", "sign"):
        a, b = (attack(target, mv, kind, eps=.1, batch_size=s) for s in (4, 16))
        assert all(torch.equal(x, y) for x, y in zip(a.xs, b.xs))
    a, b = (attack(target, mv, "assignment", eps=.1, batch_size=s) for s in (4, 16))
    for x, y in zip(a.xs, b.xs): torch.testing.assert_close(x, y, atol=1e-5, rtol=0)


def test_floors():
    mv = MultiView([torch.full((500, 4), .5)] * 2)
    target = Target(SiMVC(ViewSpec.of(mv), k=2, hidden=(3,)), mv)
    sign, uniform = (attack(target, mv, kind, eps=.2).xs[0] - .5 for kind in ("sign", "uniform"))
    torch.testing.assert_close(sign.abs(), torch.full_like(sign, .2))
    assert abs(float(sign.mean())) < .02 and abs(float(uniform.mean())) < .02 and float(uniform.std()) == pytest.approx(.2 / 3**.5, abs=.01)


def test_a_universal_pattern_is_one_for_all_and_learned_on_other_rows():
    mv, other = data(30, missing=False), data(20, missing=False, seed=1)
    target = target_of("simvc", mv)
    pattern = universal_pattern(target, other, eps=.1, batch_size=8)
    out = attack(target, mv, "universal", eps=.1, learn=other, batch_size=8)
    for x, a, d in zip(mv.xs, out.xs, pattern):
        assert d.shape == (1, 6) and d.abs().max() <= .1
        torch.testing.assert_close(a, (x + d).clamp(0, 1))


def test_representations_and_clusters_of_models_without_them():
    mv = data()
    target = target_of("dualvae", mv)
    batch, model = target.batch(mv), target.model
    for v in (0, 1):
        only = torch.zeros_like(mv.present)
        only[:, v] = mv.present[:, v]
        torch.testing.assert_close(target.views(batch)[:, v], model.embed(mv.replace(present=only)))
    z = model.embed(mv)
    distance = torch.cdist(z, target.centres)
    assert torch.equal(target.labels(mv), distance.argmin(1)) and target.k == 3
    torch.testing.assert_close(target.logits(batch), -distance.square() / target.spread, rtol=1e-3, atol=1e-3)
    assert float(target.spread) == pytest.approx(float(distance.amin(1).square().mean()), rel=1e-3)
    semi = target_of("smvae", data(missing=False))
    assert semi.head == "proba" and torch.equal(semi.labels(data(missing=False)), semi.model.predict(data(missing=False)))


def test_the_papers_networks_have_its_sizes():
    x = torch.rand(3, 1, 28, 28, generator=generator(0, "x"))
    assert Perturbation((1, 28, 28))(x).shape == x.shape and Critic((1, 28, 28))(x).shape == (3,)
    counts = [sum(p.numel() for p in m((1, 28, 28)).parameters()) for m in (Perturbation, Critic)]
    assert counts == [80 + 1168 + 4640 + 4624 + 1160 + 289, 136 + 2064 + 32 + 8224 + 64 + 33]
    assert is_paper_image((3, 28, 28)) and not is_paper_image((1, 32, 32)) and not is_paper_image((784,))
    assert Perturbation((1, 8, 8))(x[..., :8, :8]).shape == (3, 1, 8, 8) and Critic((5,))(torch.rand(3, 5)).shape == (3,)


@pytest.mark.parametrize("variant", ["paper", "authors"])
def test_the_gans_losses_equal_their_equations(variant):
    mv = data(7)
    target = target_of("simvc", mv)
    gan, batch, (m1, m2, m3) = GAN(target, .1, variant, mu=(5., 4., 2.)), target.batch(mv), (5., 4., 2.)
    raw, attacked = gan.perturb(batch)
    moved = batch._replace(xs=tuple(attacked))
    clean = [target.views(batch).detach(), gan.consensus(batch).detach()]
    loss, _ = gan.generator_loss(batch, clean)
    want = 0.
    for v in (0, 1):
        rows = [i for i in range(7) if mv.present[i, v]]
        D = torch.sigmoid(gan.critics[v](attacked[v]))[rows]
        com = (clean[0] - target.views(moved))[rows, v].square().sum(1)
        norm = raw[v][rows].square().sum(1)
        if variant == "paper": want = want + (1 - D).log().mean() - m1 * com.sum() / 7 - m3 * torch.minimum(.1 - norm, torch.zeros(())).sum() / 7
        else: want = want + (D - 1).square().mean() - m1 * com.sqrt().sum() + m3 * norm.sqrt().sum() / 7
    con = (clean[1] - gan.consensus(moved)).square().sum(1)
    want = want - m2 * (con.mean() if variant == "paper" else con.sqrt().sum())
    torch.testing.assert_close(loss, want, rtol=1e-4, atol=1e-4)
    real, fake = ([torch.sigmoid(d(x))[mv.present[:, v]] for v, (d, x) in enumerate(zip(gan.critics, xs))] for xs in (batch.xs, attacked))
    if variant == "paper": want = -sum(r.log().mean() + (1 - f).log().mean() for r, f in zip(real, fake))
    else: want = sum((r - 1).square().mean() + f.square().mean() for r, f in zip(real, fake))
    torch.testing.assert_close(gan.critic_loss(batch, attacked), want, rtol=1e-4, atol=1e-5)
    assert gan.consensus(batch).shape[1] == (8 if variant == "paper" else 6)


def test_a_gan_learns_to_move_the_representation():
    mv = data(60, missing=False)
    target = target_of("simvc", mv)
    batch = target.batch(mv)
    clean = [target.views(batch).detach(), target.fused(batch).detach()]
    def way(gan): return float((target.fused(batch._replace(xs=tuple(gan.perturb(batch)[1]))) - clean[1]).square().sum(1).mean().detach())
    gans = GAN(target, .2, mu=(5., 500., 0.)), GAN(target, .2, mu=(5., 500., 0.)).fit(mv, epochs=20, batch_size=20)
    before, after = map(way, gans)
    assert after > 2 * before


def test_scores_by_hand():
    y, before = np.array([0, 0, 1, 1, 2, 2]), np.array([2, 2, 0, 0, 1, 2])
    after = np.array([2, 0, 0, 0, 3, 3])
    s = _scores(y, before, after, 4)
    assert s["acc_clean"] == pytest.approx(5 / 6) and s["acc"] == pytest.approx(5 / 6) and s["fixed"] == pytest.approx(3 / 6) and s["changed"] == pytest.approx(3 / 6)
    assert s["clusters_clean"] == s["clusters"] == 3 and s["note"] == "clean: 3 of 4 clusters found; attacked: 3 of 4 clusters found"
    assert s["ari"] == pytest.approx(adjusted_rand_score(y, after))
    assert _scores(y, y, y, 3)["note"] == "" and _scores(y, y, y, 3)["fixed"] == 1


def test_a_table_has_a_row_per_attack_and_radius():
    mv = data()
    target = target_of("simvc", mv)
    table = attack_table(target, mv, ("sign", "assignment"), [0., .1], options={"assignment": {"steps": 2}})
    assert table[["attack", "eps"]].values.tolist() == [["sign", 0.], ["sign", .1], ["assignment", 0.], ["assignment", .1]]
    clean = table[table.eps == 0]
    assert (clean.acc == clean.acc_clean).all() and (clean.fixed == clean.acc_clean).all() and (clean.changed == 0).all()
    row = attack_scores(target, mv, attack(target, mv, "assignment", eps=.1, steps=2))
    assert row == table.iloc[3].drop(["attack", "eps"]).to_dict()


def test_bad_input_is_named():
    mv = data()
    target = target_of("simvc", mv)
    with pytest.raises(TypeError, match="model must be"): Target(nn.Linear(2, 2), mv)
    with pytest.raises(ValueError, match="has no embed"): Target(Model(ViewSpec.of(mv)), mv)
    with pytest.raises(ValueError, match="k must say"): Target(model_of("dualvae", mv), MultiView(mv.xs))
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"): Target(target.model, mv.replace(xs=[x + 1 for x in mv.xs]))
    for eps in (-.1, 1.5):
        with pytest.raises(ValueError, match="eps must lie in"): attack(target, mv, "sign", eps=eps)
    with pytest.raises(ValueError, match=r"view 'view 1' must lie in \[0, 1\]"): attack(target, mv.replace(xs=[mv.xs[0], mv.xs[1] - .5]), "sign", eps=.1)
    with pytest.raises(ValueError, match="fgsm.*uniform"): attack(target, mv, "fgsm", eps=.1)
    with pytest.raises(ValueError, match="at least 2 rows"): attack(target, mv[:1], "contrastive", eps=.1)
    with pytest.raises(ValueError, match="at least 2 rows"): attack(target, mv, "gan", eps=.1, learn=mv[:1])
    with pytest.raises(ValueError, match="batch_size must be >= 2"): attack(target, mv, "contrastive", eps=.1, batch_size=1)
    with pytest.raises(ValueError, match="V = 1"): attack(target, mv.select([0]), "sign", eps=.1)
    with pytest.raises(ValueError, match="sign has no option 'steps'; it has: none"): attack(target, mv, "sign", eps=.1, steps=3)
    with pytest.raises(ValueError, match="objective="): attack(target, mv, "universal", eps=.1, objective="ours")
    with pytest.raises(ValueError, match="variant="): attack(target, mv, "gan", eps=.1, variant="ours")
    with pytest.raises(ValueError, match="three weights"): attack(target, mv, "gan", eps=.1, mu=(1., 1.))
    with pytest.raises(ValueError, match="label for every row"): attack_scores(target, MultiView(mv.xs, mv.present), mv)
    with pytest.raises(ValueError, match="12 rows"): attack_scores(target, mv, mv[:5])


def test_nan_in_absent_views_changes_nothing():
    mv = drop_views(data(missing=False), .5, seed=0)
    holed = mv.replace(xs=[x.masked_fill(~mv.present[:, v, None], float("nan")) for v, x in enumerate(mv.xs)])
    target = target_of("simvc", mv)
    for kind in attacks:
        a, b = (attack(target, d, kind, eps=.1, **quick(kind)) for d in (mv, holed))
        for v, (x, y) in enumerate(zip(a.xs, b.xs)): assert torch.equal(x[mv.present[:, v]], y[mv.present[:, v]]) and y[~mv.present[:, v]].isnan().all(), kind


def test_the_contrastive_attack_is_on_all_pairs_of_the_views_own_representations():
    mv = data(8, missing=False)
    target = target_of("simvc", mv)
    batch = target.batch(mv)
    zs = torch.stack(target.model.view_embeddings(mv), 1)
    torch.testing.assert_close(objectives["contrastive"](target, batch)(batch.xs), contrastive_loss(zs, mv.present))
    start = objectives["consensus"](target, batch)
    assert start(batch.xs) == 0 and objectives["assignment"](target, batch)(batch.xs) == F.cross_entropy(target.model.logits(mv), target.labels(mv), reduction="sum")
