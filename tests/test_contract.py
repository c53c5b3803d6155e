"One contract for every registered model, and for toys of the ways of training still to come."
import copy

import pytest
import torch
from toys import make, toys

from mvnb import models
from mvnb.base import generator
from mvnb.fit import fit
from mvnb.models import player_parameters
from mvnb.views import MultiView


def data_for(name, device="cpu"):
    "40 rows: two flat views with absent entries for registered models, complete ones for the toys, some labels."
    g = generator(0, "contract")
    xs = [torch.rand(40, 6, generator=g), torch.rand(40, 6, generator=g)]
    y = torch.arange(40) % 3
    if name in toys: return MultiView(xs, y=torch.where(torch.arange(40) < 12, y, -1), classes="abc").to(device)
    present = torch.ones(40, 2, dtype=torch.bool)
    present[:8, 0] = present[8:14, 1] = False
    return MultiView(xs, present, y).to(device)


def creator(name, data):
    if name in toys: return make(toys[name], data)
    return lambda seed, **s: models.create(name, data, seed=seed, **small.get(name, {}), **s)


small = {"dualvae": {"hidden": (16,)}, "factvae": {"latent": 5}, "oi-vae": {"latent": 5}, "jmvae+": {"latent": 5}, "vae": {"latent": 5},
         "mvae": {"latent": 5, "hidden": (16,)}, "psi": {"incomplete": (0, 1), "hidden": (16,)},
         "smvae": {"latent": 5, "hidden": (16,), "variant": "mvnb"}, "m2": {"latent": 5, "hidden": (16,)},
         "simvae": {"latent": 5, "hidden": (16,), "variant": "mvnb", "incomplete": (0, 1)}, "sdgm+": {"latent": 5, "hidden": (16,)},
         "sdgm": {"latent": 5, "hidden": (16,), "auxiliary": 3},
         "mae": {"hidden": (8, 7), "latent": 3}, "dcca": {"hidden": (8,), "latent": 3}, "dccae": {"hidden": (8,), "latent": 3},
         "corrnet": {"latent": 3}, "conet": {"hidden": (8,), "latent": 3},
         **dict.fromkeys(("simvc", "comvc", "ar-dmvc", "ar-dmvc-am", "aecoddc", "infoddc", "sem"), {"hidden": (16, 8), "head": 7}),
         "eamc": {"hidden": (16, 8), "head": 7, "attention": (6,), "critic": (8,)}, "multi-vae": {"hidden": (16,), "width": 12, "z_dim": 3},
         "beta-vae": {"hidden": (16,), "z_dim": 3}, "joint-vae": {"hidden": (16,), "width": 12, "z_dim": 3}}
cases = [*models.names(), *toys]


@pytest.fixture(params=cases)
def name(request): return request.param


def step_inputs(model, data, n=16, seed=0):
    rows, g = model.rows(data), generator(seed, "noise", device=data.device)
    sizes = model.sizes(rows, n)
    if isinstance(rows, dict): return {k: data.batch(rows[k][:sizes[k]]) for k in rows}, model.draw(sizes, g)
    return data.batch(rows[:sizes]), model.draw(sizes, g)


def test_losses_are_one_finite_scalar_per_player(name):
    data = data_for(name)
    out = creator(name, data)(seed=0)(*step_inputs(creator(name, data)(seed=0), data))
    model = creator(name, data)(seed=0)
    assert set(model.players) <= set(out)
    for k, v in out.items():
        assert v.shape == () and torch.isfinite(v), k
        assert v.requires_grad == (k in model.players), f"{k}: totals carry gradients, terms to log do not"


def test_gradients_reach_every_parameter_from_its_own_player(name):
    data = data_for(name)
    model = creator(name, data)(seed=0)
    out, parameters = model(*step_inputs(model, data)), dict(model.named_parameters())
    for player, owned in player_parameters(model).items():
        grads = torch.autograd.grad(out[player], [parameters[k] for k in owned], retain_graph=True, allow_unused=True)
        missing = [k for k, g in zip(owned, grads) if g is None or not g.abs().sum() > 0]
        assert not missing, f"{player} does not move {missing}"


def test_same_seed_same_numbers_and_other_seed_others(name):
    data = data_for(name)
    create = creator(name, data)
    a, b, c = (fit(create, data, epochs=2, batch_size=16, seeds=[s], progress=False, device="cpu") for s in (3, 3, 4))
    assert all(torch.equal(p, q) for p, q in zip(a.models[0].parameters(), b.models[0].parameters()))
    assert not all(torch.equal(p, q) for p, q in zip(a.models[0].parameters(), c.models[0].parameters()))
    assert a.history["value"].tolist() == b.history["value"].tolist()


def test_the_global_generator_is_neither_used_nor_changed(name):
    data = data_for(name)
    before = torch.random.get_rng_state()
    one = fit(creator(name, data), data, epochs=1, batch_size=16, progress=False, device="cpu")
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(12345)
    two = fit(creator(name, data), data, epochs=1, batch_size=16, progress=False, device="cpu")
    assert all(torch.equal(p, q) for p, q in zip(one.models[0].parameters(), two.models[0].parameters()))


def test_run_k_of_K_is_the_run_alone(name):
    data = data_for(name)
    create = creator(name, data)
    setting = create(seed=0).per_run[0]
    values = [.2, .4, .6]
    together = fit(create, data, epochs=3, batch_size=16, seeds=[5, 6, 7], per_run={setting: values}, progress=False, clip=5., device="cpu")
    for k in range(3):
        alone = fit(create, data, epochs=3, batch_size=16, seeds=[5 + k], per_run={setting: [values[k]]}, progress=False, clip=5., device="cpu")
        for (n, p), q in zip(together.models[k].state_dict().items(), alone.models[0].state_dict().values()):
            torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5, msg=lambda m: f"run {k}, {n}: {m}")


def test_embed_has_one_row_per_sample_and_leaves_no_trace(name):
    data = data_for(name)
    model = creator(name, data)(seed=0).train()
    before = copy.deepcopy(model.state_dict())
    z = model.embed(data)
    assert z.shape[0] == len(data) and z.ndim == 2 and torch.isfinite(z).all() and not z.requires_grad
    assert model.training and all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values()))
    assert torch.allclose(model.embed(data[5:9]), z[5:9], atol=1e-5), "a sample's embedding does not depend on its neighbours"


def test_other_views_are_refused(name):
    data = data_for(name)
    model = creator(name, data)(seed=0)
    with pytest.raises(ValueError, match="V = 1"): model.embed(data.select([0]))
    wide = data.replace(xs=[data.xs[0], torch.zeros(40, 9)])
    with pytest.raises(ValueError, match=r"\(9,\)"): model.embed(wide)
    with pytest.raises(ValueError, match=r"\(9,\)"): fit(creator(name, data), wide, epochs=1, progress=False)


@pytest.mark.parametrize("registered", models.names())
class TestRegistered:
    "What only registered models owe: absent data, files, extras."

    def test_nan_in_absent_data_changes_nothing(self, registered):
        data = data_for(registered)
        holed = data.replace(xs=[x.masked_fill(~data.present[:, v, None], float("nan")) for v, x in enumerate(data.xs)])
        a, b = (fit(creator(registered, data), d, epochs=2, batch_size=16, progress=False, device="cpu").models[0] for d in (data, holed))
        assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))
        assert torch.equal(a.embed(data), a.embed(holed))
        for method in ("reconstruct", "predict", "assign"):
            if hasattr(a, method):
                for p, q in zip(getattr(a, method)(data), getattr(a, method)(holed)): assert torch.equal(p, q), method
        if hasattr(a, "impute"):
            assert all(torch.equal(p, q) and torch.isfinite(p).all() for p, q in zip(a.impute(data).xs, a.impute(holed).xs))

    def test_all_views_absent_but_one_works(self, registered):
        data = data_for(registered)
        for v in range(data.n_views):
            only = torch.zeros(40, data.n_views, dtype=torch.bool)
            only[:, v] = True
            alone = data.replace(present=only)
            result = fit(creator(registered, data), alone, epochs=1, batch_size=16, progress=False, device="cpu")
            assert torch.isfinite(result.models[0].embed(alone)).all()

    def test_save_and_load(self, registered, tmp_path):
        data = data_for(registered)
        model = fit(creator(registered, data), data, epochs=1, batch_size=16, progress=False, device="cpu").models[0]
        models.save(model, tmp_path / "m.pt")
        again = models.load(tmp_path / "m.pt")
        assert torch.equal(model.embed(data), again.embed(data)) and again.views == model.views and again.config == model.config

    def test_imputing_keeps_what_is_there(self, registered):
        data = data_for(registered)
        model = creator(registered, data)(seed=0)
        if not hasattr(model, "impute"): pytest.skip("has no impute")
        filled = model.impute(data)
        assert filled.present.all()
        for v in range(data.n_views): assert torch.equal(filled.xs[v][data.present[:, v]], data.xs[v][data.present[:, v]])


@pytest.mark.cuda
def test_cpu_and_gpu_agree_on_one_step(name):
    data = data_for(name)
    model = creator(name, data)(seed=0)
    batch, noise = step_inputs(model, data)
    want = model(batch, noise)
    def move(t): return {k: move(v) for k, v in t.items()} if isinstance(t, dict) else type(t)(tuple(x.cuda() for x in t.xs), t.present.cuda(), t.y.cuda()) if hasattr(t, "xs") else t.cuda()
    have = copy.deepcopy(creator(name, data)(seed=0)).cuda()(move(batch), move(noise))
    for k in want: torch.testing.assert_close(have[k].cpu(), want[k], rtol=1e-3, atol=1e-3)


@pytest.mark.cuda
def test_training_on_the_gpu(name):
    data = data_for(name)
    result = fit(creator(name, data), data, epochs=2, batch_size=16, seeds=[0, 1], progress=False, device="cuda")
    assert not result.errors and torch.isfinite(result.models[1].embed(data)).all()
