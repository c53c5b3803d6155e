"Corruptions: exact counts, nesting, independence of streams, purity, faults."
import numpy as np
import pytest
import torch

from mvnb.corrupt import corrupt, drop_views, gaussian_noise, missing_rate, salt_and_pepper, unpair
from mvnb.views import MultiView

RATIOS = [0., .1, .25, .5, .75, .9, 1.]


def complete(n=101, V=3, shape=(3, 4, 4)):
    g = torch.Generator().manual_seed(0)
    return MultiView([torch.rand(n, *shape, generator=g) * .8 + .1 for _ in range(V)], y=torch.arange(n) % 4, names=[f"v{v}" for v in range(V)])


def holey(n=101):
    mv = complete(n)
    present = torch.rand(n, 3, generator=torch.Generator().manual_seed(1)) < .6
    present[torch.arange(n), torch.arange(n) % 3] = True
    xs = [x.masked_fill(~present[:, v].view(-1, 1, 1, 1), float("nan")) for v, x in enumerate(mv.xs)]
    return mv.replace(xs=xs, present=present)


FUNCTIONS = {
    "drop_views": lambda mv, seed=0: drop_views(mv, .4, seed=seed),
    "salt_and_pepper": lambda mv, seed=0: salt_and_pepper(mv, .4, seed=seed),
    "gaussian_noise": lambda mv, seed=0: gaussian_noise(mv, .4, seed=seed, clip=(0, 1)),
    "unpair": lambda mv, seed=0: unpair(mv, .4, seed=seed),
    "corrupt": lambda mv, seed=0: corrupt(mv, vmr=.4, snr=.4, sigma=.4, unpaired=.4, seed=seed),
}


def equal(a, b):
    return torch.equal(a.present, b.present) and all(torch.equal(x.nan_to_num(-9), z.nan_to_num(-9)) for x, z in zip(a.xs, b.xs))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_pure_and_seeded(name):
    mv = complete()
    before = mv.replace(xs=[x.clone() for x in mv.xs], present=mv.present.clone())
    state = torch.get_rng_state()
    out = FUNCTIONS[name](mv)
    assert equal(mv, before) and torch.equal(state, torch.get_rng_state())
    assert equal(out, FUNCTIONS[name](mv)) and not equal(out, FUNCTIONS[name](mv, seed=1)) and not equal(out, mv)
    assert torch.equal(out.y, mv.y) and out.names == mv.names and out.classes == mv.classes
    assert [x.dtype for x in out.xs] == [x.dtype for x in mv.xs]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float64_stays(name):
    mv = complete()
    assert FUNCTIONS[name](mv.replace(xs=[x.double() for x in mv.xs])).xs[0].dtype == torch.float64


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_same_on_gpu(name):
    mv = complete()
    out = FUNCTIONS[name](mv.to("cuda"))
    assert out.device.type == "cuda" and torch.equal(out.present.cpu(), FUNCTIONS[name](mv).present)
    assert all(torch.allclose(a.cpu(), b, atol=1e-6) for a, b in zip(out.xs, FUNCTIONS[name](mv).xs))


@pytest.mark.parametrize("n", [1, 2, 10, 101])
@pytest.mark.parametrize("n_drop", [1, 2])
@pytest.mark.parametrize("vmr", RATIOS)
def test_drop_views_is_exact(n, n_drop, vmr):
    mv = complete(n)
    out = drop_views(mv, vmr, seed=3, n_drop=n_drop)
    lost = (~out.present).sum(1)
    assert int((lost == n_drop).sum()) == round(vmr * n) and int((lost > 0).sum()) == round(vmr * n)
    rate = missing_rate(out)
    assert rate.samples == pytest.approx(round(vmr * n) / n) and rate.entries == pytest.approx(round(vmr * n) / n * n_drop / 3)


def test_drop_views_nests_in_ratio_and_in_number():
    mv = complete(500)
    for n_drop in (1, 2):
        masks = [drop_views(mv, r, seed=5, n_drop=n_drop).present for r in RATIOS]
        for a, b in zip(masks, masks[1:]):
            assert (b <= a).all()
            hit = ~a.all(1)
            assert torch.equal(a[hit], b[hit])           # the same view is lost, and no other
    assert (drop_views(mv, .5, seed=5, n_drop=2).present <= drop_views(mv, .5, seed=5).present).all()


def test_drop_views_is_uniform():
    mv = MultiView([torch.zeros(6000, 1)] * 3)
    out = drop_views(mv, .5, seed=0).present
    assert ((~out).sum(0) - 1000).abs().max() < 150          # each view a third of 3,000 losses; sd about 26
    assert abs(int((~out[:3000]).sum()) - 1500) < 200        # spread over the rows


def test_named_view():
    mv = complete()
    out = drop_views(mv, .3, seed=0, view="v1")
    assert missing_rate(out).views == {"v0": 0., "v1": pytest.approx(30 / 101), "v2": 0.}
    assert equal(out, drop_views(mv, .3, seed=0, view=1))
    assert torch.equal(out.present[:, 1], drop_views(mv, .3, seed=0).present.all(1))   # the rows do not depend on `view`


def test_incomplete_data_keeps_a_view():
    mv = holey()
    able = int((mv.present.sum(1) > 1).sum())
    out = drop_views(mv, able / 101, seed=0)
    assert (out.present.sum(1) >= 1).all() and (out.present <= mv.present).all()
    assert int((mv.present.sum(1) - out.present.sum(1)).sum()) == able
    with pytest.raises(ValueError, match=f"only {able} can"):
        drop_views(mv, (able + 1) / 101, seed=0)
    with pytest.raises(ValueError, match="each must keep"):
        drop_views(mv.select("v0"), .1, seed=0)
    with pytest.raises(ValueError, match="'v0'"):
        drop_views(mv, .9, seed=0, view="v0")


def test_missing_rate():
    assert missing_rate(complete()) == (0., 0., {"v0": 0., "v1": 0., "v2": 0.})
    mv = holey()
    rate, present = missing_rate(mv), mv.present.numpy()
    assert rate.samples == pytest.approx(1 - present.all(1).mean()) and rate.entries == pytest.approx(1 - present.mean())
    assert missing_rate(mv[:0]).entries == 0


@pytest.mark.parametrize("shape, per, pixels", [((7,), "pixel", 7), ((5, 6), "pixel", 30), ((3, 5, 6), "pixel", 30), ((3, 5, 6), "element", 90)])
@pytest.mark.parametrize("snr", RATIOS)
def test_speckles_are_exact(shape, per, pixels, snr):
    mv = complete(40, 2, shape)
    out = salt_and_pepper(mv, snr, seed=0, per=per, low=-1, high=2)
    for a, b in zip(out.xs, mv.xs):
        hit = a != b
        assert set(a[hit].tolist()) <= {-1., 2.}
        if len(shape) == 3 and per == "pixel":
            assert torch.equal(hit.all(1), hit.any(1)) and (a.masked_fill(~hit, 0).std(1) == 0).all()
            hit = hit[:, 0]
        assert (hit.flatten(1).sum(1) == round(snr * pixels)).all()


def test_speckles_nest_and_are_fair():
    mv = complete(300, 2, (1, 16, 16))
    grown = [salt_and_pepper(mv, r, seed=0) for r in RATIOS]
    for a, b in zip(grown, grown[1:]):
        for x, z, base in zip(a.xs, b.xs, mv.xs):
            hit = x != base
            assert torch.equal(x[hit], z[hit])
    x = grown[3].xs[0]
    salt, pepper = int((x == 1).sum()), int((x == 0).sum())
    assert salt + pepper == 300 * 128 and abs(salt - pepper) < 5 * (300 * 128) ** .5
    assert not torch.equal(grown[3].xs[0] == 1, grown[3].xs[1] == 1)               # views get their own noise
    where = ((x == 0) | (x == 1)).double().mean((0, 1))
    assert (where - .5).abs().max() < .15                                          # everywhere in the image


def test_speckles_in_blocks(monkeypatch):
    import mvnb.corrupt as module
    calls, randint = [], torch.randint
    monkeypatch.setattr(module.torch, "randint", lambda high, size, **k: calls.append(size) or randint(high, size, **k))
    mv = MultiView([torch.full((20, 1, 1024, 1024), .5)])
    out = salt_and_pepper(mv, .25, seed=0)
    assert [c[0] for c in calls] == [16, 4]
    assert ((out.xs[0] != .5).flatten(1).sum(1) == 2 ** 18).all()


@pytest.mark.parametrize("name", ["salt_and_pepper", "gaussian_noise"])
def test_absent_is_untouched(name):
    mv = holey()
    out = FUNCTIONS[name](mv)
    assert torch.equal(out.present, mv.present)
    for v, x in enumerate(out.xs):
        assert x[~mv.present[:, v]].isnan().all() and x[mv.present[:, v]].isfinite().all()
    whole = FUNCTIONS[name](complete())                       # a view's noise does not depend on what else is missing
    assert all(torch.equal(x[mv.present[:, v]], whole.xs[v][mv.present[:, v]]) for v, x in enumerate(out.xs))


def test_gaussian_noise():
    mv = complete(400)
    one, two = (gaussian_noise(mv, s, seed=0) for s in (1., 2.))
    assert torch.allclose(two.xs[0] - mv.xs[0], 2 * (one.xs[0] - mv.xs[0]), atol=1e-5)
    eps = torch.stack([a - b for a, b in zip(one.xs, mv.xs)])
    assert abs(float(eps.std()) - 1) < .02 and abs(float(eps.mean())) < .02
    assert abs(np.corrcoef(eps[0].flatten(), eps[1].flatten())[0, 1]) < .03
    clipped = gaussian_noise(mv, 2., seed=0, clip=(0, 1)).xs[0]
    assert torch.equal(clipped, two.xs[0].clamp(0, 1))
    assert equal(gaussian_noise(mv, 0., seed=0), mv)


@pytest.mark.parametrize("n", [2, 3, 10, 101])
@pytest.mark.parametrize("ratio", RATIOS)
def test_unpair_is_a_derangement(n, ratio):
    mv = MultiView([torch.arange(n), torch.arange(n), torch.arange(n)])
    out = unpair(mv, ratio, seed=0)
    k = round(ratio * n)
    moved = (out.xs[2] != mv.xs[2]).squeeze(1)
    assert int(moved.sum()) == (k if k > 1 else 0)
    assert out.xs[2].flatten().sort().values.tolist() == list(range(n)) and torch.equal(out.xs[1], mv.xs[1])


def test_unpair_moves_presence_and_nests():
    mv = holey()
    with pytest.raises(ValueError, match="without any view"):
        unpair(mv.select(["v0", "v1"])[mv.present[:, :2].any(1)], 1., seed=0)
    present = torch.ones(10, 2, dtype=torch.bool); present[:3, 1] = False
    x = torch.arange(10.)
    out = unpair(MultiView([x, x.where(present[:, 1], torch.tensor(float("nan")))], present), 1., seed=1)
    assert int((~out.present[:, 1]).sum()) == 3 and torch.equal(out.xs[1].squeeze().isnan(), ~out.present[:, 1])
    assert torch.equal(out.present[:, 0], present[:, 0])
    ids = MultiView([torch.arange(100)] * 2)
    moved = [(unpair(ids, r, seed=0, view=0).xs[0] != ids.xs[0]).squeeze(1) for r in (.2, .5, .9)]
    assert (moved[0] <= moved[1]).all() and (moved[1] <= moved[2]).all()


def test_corrupt_composes_independent_parts():
    mv = complete()
    full = corrupt(mv, vmr=.5, snr=.2, sigma=.3, unpaired=.4, seed=7)
    by_hand = salt_and_pepper(gaussian_noise(drop_views(unpair(mv, .4, seed=7), .5, seed=7), .3, seed=7), .2, seed=7)
    assert equal(full, by_hand)
    masks = [corrupt(mv, vmr=.5, snr=s, sigma=g, seed=7).present for s in (0, .5) for g in (0, 1)]
    assert all(torch.equal(m, masks[0]) for m in masks)
    alone = corrupt(mv, snr=.2, seed=7)
    for vmr in (.3, .9):
        both = corrupt(mv, vmr=vmr, snr=.2, seed=7)
        assert all(torch.equal(both.xs[v][both.present[:, v]], alone.xs[v][both.present[:, v]]) for v in range(3))
    assert equal(corrupt(mv, seed=0), mv)
    options = corrupt(mv, vmr=.5, view="v2", unpaired=.5, unpaired_view="v0", snr=.1, per="element", low=-1, high=3, sigma=.1, clip=(0, 1), seed=0)
    assert missing_rate(options).views["v0"] == 0 and options.xs[0].max() == 3 and options.xs[0].min() == -1


@pytest.mark.parametrize("call, error, text", [
    (lambda mv: drop_views(mv, 1.1, seed=0), ValueError, "vmr"),
    (lambda mv: drop_views(mv, float("nan"), seed=0), ValueError, "vmr"),
    (lambda mv: drop_views(mv, "half", seed=0), TypeError, "vmr"),
    (lambda mv: drop_views(mv, .1, seed=-1), ValueError, "seed"),
    (lambda mv: drop_views(mv, .1, seed=0.5), TypeError, "seed"),
    (lambda mv: drop_views(mv, .1, seed=0, n_drop=0), ValueError, "n_drop"),
    (lambda mv: drop_views(mv, .1, seed=0, n_drop=3), ValueError, "lose 3 views"),
    (lambda mv: drop_views(mv, .1, seed=0, n_drop=2, view="v0"), ValueError, "n_drop"),
    (lambda mv: drop_views(mv, .1, seed=0, view="left"), ValueError, "v0, v1, v2"),
    (lambda mv: drop_views(mv.xs, .1, seed=0), TypeError, "mv must be a MultiView"),
    (lambda mv: salt_and_pepper(mv, -.1, seed=0), ValueError, "snr"),
    (lambda mv: salt_and_pepper(mv, .1, seed=0, per="row"), ValueError, "pixel, element"),
    (lambda mv: salt_and_pepper(mv, .1, seed=0, low=1, high=0), ValueError, "low"),
    (lambda mv: salt_and_pepper(mv, .1, seed=0, high=float("inf")), ValueError, "high"),
    (lambda mv: gaussian_noise(mv, -1, seed=0), ValueError, "sigma"),
    (lambda mv: gaussian_noise(mv, 1, seed=0, clip=(1, 0)), ValueError, "clip"),
    (lambda mv: gaussian_noise(mv, 1, seed=0, clip=1), ValueError, "clip"),
    (lambda mv: unpair(mv, 2, seed=0), ValueError, "ratio"),
    (lambda mv: unpair(mv, .5, seed=0, view=3), ValueError, "unknown"),
    (lambda mv: unpair(mv.select("v0"), .5, seed=0), ValueError, "two views"),
    (lambda mv: corrupt(mv, unpaired=-.5, seed=0), ValueError, "unpaired"),
    (lambda mv: corrupt(mv, sigma=-.5, seed=0), ValueError, "sigma"),
    (lambda mv: corrupt(mv, vmr=.5), TypeError, "seed"),
    (lambda mv: corrupt([1, 2], vmr=.5, seed=0), TypeError, "MultiView"),
])
def test_bad_input(call, error, text):
    with pytest.raises(error, match=text):
        call(complete())


def test_empty_data():
    mv = complete()[:0]
    assert len(corrupt(mv, vmr=.5, snr=.5, sigma=1., unpaired=.5, seed=0)) == 0
