"The authors' networks against torch's layers, and what their dropout promises."
import math

import pytest
import torch
import torch.nn.functional as F

from mvnb.base import generator
from mvnb.models import seeded
from mvnb.models.dualvae_nets import ResidualBlock, ResidualDecoder, ResidualEncoder, Resize, authors_sizes, hashed_dropout, level_count, training


def full(G, B): return torch.ones(G, B, dtype=torch.bool)


def randn(*shape, seed=0): return torch.randn(*shape, generator=generator(seed, "x"), dtype=torch.float64)


def batch_norm(layer, x): return F.batch_norm(x, None, None, layer.weight, layer.bias, training=True, eps=1e-6)


def test_dropout_is_a_function_of_its_seeds():
    x, seed = torch.ones(200, 3, 16, 16), torch.randint(2**31, (200,), generator=generator(0, "seed"))
    for ratio in (.2, .5, .9):
        y = hashed_dropout(x, seed, 3, ratio)
        assert set(y.unique().tolist()) == {0., y.max().item()} and math.isclose(y.max(), 1 / (1 - ratio), rel_tol=1e-5)
        n = x.numel()
        assert abs((y > 0).float().mean() - (1 - ratio)) < 5 * math.sqrt(ratio * (1 - ratio) / n)
        assert torch.equal(y[7:9], hashed_dropout(x[7:9], seed[7:9], 3, ratio)), "a row's dropout depends on its own seed alone"
    kept = (hashed_dropout(x, seed, 0, .5) > 0).double().flatten(1)
    expected = 5 / math.sqrt(768)
    assert torch.corrcoef(kept).fill_diagonal_(0).abs().max() < expected + .03, "rows"
    assert torch.corrcoef(kept.T[:100]).fill_diagonal_(0).abs().max() < 5 / math.sqrt(200), "positions"
    other = (hashed_dropout(x, seed, 1, .5) > 0).double().flatten(1)
    assert abs((kept * other).mean() - .25) < .01, "layers"
    near = (hashed_dropout(x[:2], torch.tensor([5, 6]), 0, .5) > 0).flatten(1)
    assert abs((near[0] == near[1]).double().mean() - .5) < .1, "seeds next to each other"


def test_block_and_resize_in_torchs_words():
    x, rows = randn(5, 4, 8, 8), full(1, 5)
    for block in (ResidualBlock(4, 4).double(), ResidualBlock(4, 6).double()):
        h = block.conv2(F.silu(batch_norm(block.norm2, block.conv1(F.silu(batch_norm(block.norm1, x))))))
        torch.testing.assert_close(block(x, rows), h + (x if block.around is None else block.around(x)))
    up, down = Resize(4, True).double(), Resize(4, False).double()
    torch.testing.assert_close(up(x, rows), F.conv2d(x.repeat_interleave(2, 2).repeat_interleave(2, 3), up.conv.weight, up.conv.bias, padding=1))
    torch.testing.assert_close(down(x, rows)[:, :, 0, 0], F.conv2d(x[:, :, :3, :3], down.conv.weight, down.conv.bias).flatten(1))


def test_dropout_acts_in_training_only():
    block, x, seed = ResidualBlock(4, 4, dropout=.5).double(), randn(5, 4, 8, 8), torch.arange(5)
    plain = ResidualBlock(4, 4).double()
    plain.load_state_dict(block.state_dict())
    assert not torch.allclose(block(x, full(1, 5), seed), plain(x, full(1, 5)))
    torch.testing.assert_close(block.eval()(x, full(1, 5), None), plain.eval()(x, full(1, 5)))


@pytest.mark.parametrize("make, inputs", [(lambda: ResidualEncoder((2, 16, 16), 5, width=4), randn(6, 2, 16, 16)), (lambda: ResidualDecoder((2, 16, 16), 5, width=4), randn(6, 5)),
                                          (lambda: ResidualEncoder((2, 8, 8), 5, width=4), randn(6, 2, 8, 8))])
def test_exactly_the_biases_that_cannot_matter_are_frozen(make, inputs):
    "A bias is frozen if and only if its gradient vanishes."
    with seeded(0, "weights"): net = make().double()
    frozen = {n for n, p in net.named_parameters() if not p.requires_grad}
    net.requires_grad_(True)
    out = net(inputs, full(1, 6))
    grads = dict(zip((n for n, _ in net.named_parameters()), torch.autograd.grad((out * randn(*out.shape, seed=1)).sum(), list(net.parameters()))))
    zero = {n for n, g in grads.items() if g.abs().max() < 1e-9}
    assert frozen and zero == frozen


def test_sizes_are_those_of_the_table():
    assert [level_count((1, s, s)) for s in (8, 16, 32, 64)] == [1, 2, 3, 4]
    assert ResidualEncoder((1, 32, 32)).steps[-1].conv1.weight.shape[0] == 64
    assert len([s for s in ResidualEncoder((1, 64, 64), width=2).steps if isinstance(s, ResidualBlock)]) == 4 * 3 + 2
    assert len([s for s in ResidualDecoder((1, 64, 64), 20, width=2).steps if isinstance(s, ResidualBlock)]) == 2 + 4 * 4
    assert authors_sizes((3, 32, 32))["width"] == 16 and authors_sizes((3, 64, 64)) == dict(width=32, shared=8, specific=10, patch=4, dropout=.2)
    assert training["coil-20"]["batch_size"] == 49 and training["e-mnist"]["lr"] == 5e-4
    for width in (None, 20):
        net = ResidualEncoder((1, 16, 16), width, width=4, channels=3).double()
        assert net(randn(4, 1, 16, 16), full(2, 2)).shape == (4, width or 3 * 64)
    assert ResidualDecoder((3, 32, 32), 7, width=2).double()(randn(2, 7), full(1, 2)).shape == (2, 3, 32, 32)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 64), (784,), (1, 4, 4), (1, 48, 48)])
def test_other_sizes_are_refused(shape):
    for make in (ResidualEncoder, lambda s: ResidualDecoder(s, 20), authors_sizes):
        with pytest.raises(ValueError, match=r"side of 8, 16, 32, 64, \.\.\. pixels, got"): make(shape)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="dropout must lie in"): ResidualEncoder((1, 8, 8), dropout=1.)
    with pytest.raises(ValueError, match="width must be >= 1"): ResidualDecoder((1, 8, 8), 20, width=0)
