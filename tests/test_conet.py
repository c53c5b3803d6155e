"CoNet against its formula; what absent views and labels can and cannot change."
import pytest
import torch
import torch.nn.functional as F

from mvnb import models
from mvnb.base import generator
from mvnb.corrupt import drop_views, hide_labels
from mvnb.evaluate import nmse
from mvnb.fit import fit
from mvnb.views import MultiView

SMALL = dict(hidden=(8,), latent=4)


def clusters(n=300, seed=0):
    "Two noisy views of three classes and a factor, float32."
    g = generator(seed, "clusters")
    y = torch.arange(n) % 3
    z = torch.cat([F.one_hot(y, 3).float() * 2, torch.randn(n, 1, generator=g)], 1)
    xs = [z @ torch.randn(4, d, generator=generator(d, "map")) + .3 * torch.randn(n, d, generator=g) for d in (7, 6)]
    return MultiView([(x - x.mean(0)) / x.std(0) for x in xs], y=y)


def test_losses_equal_the_formula():
    data = drop_views(hide_labels(clusters(60), .3, seed=0), .4, seed=0)
    model = models.create("conet", data, weight=3., **SMALL).double()
    rows = model.rows(data)
    data = data.replace(xs=[x.double() for x in data.xs])
    out = model({k: data.batch(r) for k, r in rows.items()}, {})
    h = [f(x) for f, x in zip(model.encoders, data.batch().xs)]
    both = data.present.all(1)
    recon = sum((model.decoders[v](h[1 - v][both]) - data.xs[v][both]).pow(2).mean() for v in (0, 1))
    code = torch.stack([sum(h[v][i] for v in (0, 1) if data.present[i, v]) / data.present[i].sum() for i in range(60)])
    known = data.y >= 0
    cross = -torch.stack([model.logits(code[i]).log_softmax(0)[data.y[i]] for i in known.nonzero().squeeze(1)]).mean()
    torch.testing.assert_close(out["model"], recon + 3 * cross)
    torch.testing.assert_close(model.embed(data), code.detach())
    assert torch.equal(model.predict(data), model.logits(code).argmax(1))


def test_a_view_is_predicted_from_the_other_alone():
    data = clusters(30)
    model = models.create("conet", data, **SMALL)
    a = model.impute(drop_views(data, 1., seed=0, view=1)).xs[1]
    assert torch.equal(a, model.decoders[1](model.encoders[0](data.xs[0])).detach())
    none = data.replace(present=torch.zeros(30, 2, dtype=torch.bool))
    assert torch.isfinite(model.impute(none).xs[0]).all()


def test_completes_and_classifies():
    data = clusters()
    few = drop_views(hide_labels(data, .1, seed=0), .5, seed=0, view=1)
    model = fit("conet", few, epochs=60, batch_size=64, lr=1e-2, settings=SMALL, progress=False, device="cpu").models[0]
    assert nmse(data.xs[1], model.impute(few).xs[1], ~few.present[:, 1]) < .6
    assert (model.predict(clusters(seed=1)) == clusters().y).double().mean() > .9


def test_without_weight_labels_change_nothing_in_the_encoders():
    data = hide_labels(clusters(), .1, seed=0)
    wrong = data.replace(y=torch.where(data.y >= 0, (data.y + 1) % 3, -1), classes=data.classes)
    a, b = (fit("conet", d, epochs=2, batch_size=64, settings={**SMALL, "weight": 0.}, progress=False, device="cpu").models[0] for d in (data, wrong))
    assert all(torch.equal(p, q) for p, q in zip(a.encoders.parameters(), b.encoders.parameters()))


def test_refusals():
    data = clusters(30)
    three = MultiView([*data.xs, data.xs[0]], y=data.y)
    for wrong in (data.select([0]), three):
        with pytest.raises(ValueError, match=f"2 views, got {wrong.n_views}"): models.create("conet", wrong)
    with pytest.raises(ValueError, match="at least 2 classes"): models.create("conet", MultiView(data.xs))
    with pytest.raises(ValueError, match="no labelled row"): fit("conet", data.replace(y=torch.full((30,), -1), classes=data.classes), epochs=1, progress=False)
    with pytest.raises(ValueError, match="weight must be"): models.create("conet", data, weight=-1.)
    with pytest.raises(ValueError, match="labelled must lie in"): models.create("conet", data, labelled=1.5)
