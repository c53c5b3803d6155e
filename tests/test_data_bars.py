import math

import numpy as np
import pytest
import torch

from mvnb.data.bars import bars_image, load_bars


def test_shapes_names_and_defaults():
    train, test = load_bars(), load_bars("test")
    assert (len(train), len(test)) == (10_000, 1_000) and train.y is None and bool(train.present.all())
    assert train.names == ("top left", "top right", "bottom left", "bottom right") and train.shapes == ((4,),) * 4
    assert load_bars(size=8, n=3).shapes == ((16,),) * 4 and len(load_bars("test", n=7)) == 7


@pytest.mark.parametrize("size", [2, 4, 8])
def test_noise_free_images_are_bars(size):
    image = bars_image(load_bars(size=size, n=20_000, noise_sd=0))
    assert set(image.unique().tolist()) == {0, .5} and bool((image == image[..., :1]).all())
    lit, p = image[..., 0].gt(0).float(), .75 / size
    # each row's rate and each pair's joint rate lie within 5 standard errors of the Bernoulli's
    assert bool((lit.mean(0) - p).abs().max() < 5 * math.sqrt(p * (1 - p) / len(lit)))
    joint = (lit.T @ lit / len(lit))[~torch.eye(size, dtype=torch.bool)]
    assert bool((joint - p * p).abs().max() < 5 * math.sqrt(p * p * (1 - p * p) / len(lit)))


def test_noise_is_gaussian_white_and_of_the_given_size():
    noisy, clean = (bars_image(load_bars(n=20_000, noise_sd=s)) for s in (.05, 0))
    e = ((noisy - clean) / .05).flatten(1).double()
    assert abs(float(e.mean())) < 5 / math.sqrt(e.numel()) and abs(float(e.var()) - 1) < 5 * math.sqrt(2 / e.numel())
    assert abs(float(e.pow(4).mean()) - 3) < 5 * math.sqrt(96 / e.numel())
    assert float((torch.cov(e.T) - torch.eye(16)).abs().max()) < 5 * math.sqrt(2 / len(e))
    assert abs(float(noisy.var(0).mean()) - (.25 * .1875 * .8125 + .0025)) < .001


def test_quadrants_by_a_slow_loop():
    mv = load_bars(size=8, n=4)
    image = bars_image(mv)
    for v, (top, left) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
        for i in range(4):
            want = [float(image[i, top + r, left + c]) for r in range(4) for c in range(4)]
            assert mv.xs[v][i].tolist() == want
    assert np.array_equal(image, np.block([[mv.xs[0].reshape(4, 4, 4).numpy(), mv.xs[1].reshape(4, 4, 4).numpy()],
                                           [mv.xs[2].reshape(4, 4, 4).numpy(), mv.xs[3].reshape(4, 4, 4).numpy()]]))


def test_joining_keeps_leading_dimensions_and_gradients():
    xs = [torch.randn(5, 3, 4, requires_grad=True) for _ in range(4)]
    image = bars_image(xs)
    assert image.shape == (5, 3, 4, 4) and torch.equal(image[2], bars_image([x[2] for x in xs]))
    image.sum().backward()
    assert all(bool((x.grad == 1).all()) for x in xs)


def test_same_seed_same_numbers_other_seed_or_split_others():
    def flat(**options): return torch.cat(load_bars(**{"n": 500} | options).xs, 1)
    assert torch.equal(flat(seed=3), flat(seed=3))
    for other in (dict(seed=4), dict(seed=3, split="test")):
        a, b = flat(seed=3) > .25, flat(**other) > .25
        agree = float((a == b).float().mean())
        assert .6 < agree < .8                        # independent draws agree in p^2 + (1 - p)^2 = .695
    assert torch.equal(flat(noise_sd=.05) > .25, flat(noise_sd=.01) > .25)


def test_noise_of_train_and_test_differs():
    train, test = ((bars_image(load_bars(s, n=500)) - bars_image(load_bars(s, n=500, noise_sd=0))).flatten() / .05 for s in ("train", "test"))
    assert abs(float(torch.dot(train, test)) / train.numel()) < 5 / math.sqrt(train.numel())     # independent: correlation 0


def test_global_random_state_is_left_alone():
    state = torch.get_rng_state()
    load_bars(n=10)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("options, error, words", [
    (dict(split="all"), ValueError, ["split", "'all'", "train, test"]), (dict(size=5), ValueError, ["size", "even", "5"]),
    (dict(size=0), ValueError, ["size", ">= 2", "0"]), (dict(size=4.0), TypeError, ["size", "4.0"]),
    (dict(n=0), ValueError, ["n", ">= 1", "0"]), (dict(noise_sd=-.1), ValueError, ["noise_sd", "-0.1"]),
    (dict(noise_sd=float("nan")), ValueError, ["noise_sd", "nan"]), (dict(seed=-1), ValueError, ["seed", "-1"])])
def test_bad_options(options, error, words):
    with pytest.raises(error) as e: load_bars(**options)
    assert all(w in str(e.value) for w in words)


@pytest.mark.parametrize("views", [[], [torch.zeros(2, 4)] * 3, [torch.zeros(2, 5)] * 4, [torch.zeros(2, 0)] * 4, [torch.zeros(())] * 4,
                                   [torch.zeros(2, 4)] * 3 + [torch.zeros(2, 9)]])
def test_bad_quadrants(views):
    with pytest.raises(ValueError, match="4 quadrants"): bars_image(views)
