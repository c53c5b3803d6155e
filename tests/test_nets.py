"Bodies: shapes, references, K at a time, bad input."
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from mvnb.base import generator
from mvnb.nets import MLP, ConvDecoder, ConvEncoder, Linear, RowBatchNorm, activations, decoder, encoder, image_sizes, kinds, split_gaussian, subpixel


def test_linear_is_torchs_with_the_weight_transposed():
    layer, plain = Linear(7, 3), torch.nn.Linear(7, 3)
    plain.load_state_dict({"weight": layer.weight.T, "bias": layer.bias})
    x = torch.randn(2, 5, 7)
    torch.testing.assert_close(layer(x), plain(x))
    assert Linear(7, 3, bias=False).bias is None and torch.equal(Linear(7, 3, bias=False)(torch.zeros(1, 7)), torch.zeros(1, 3))

def test_linear_starts_as_torchs_does():
    torch.manual_seed(0)
    a, b = Linear(100, 2000), torch.nn.Linear(100, 2000)
    for p, q in ((a.weight, b.weight), (a.bias, b.bias)): assert p.abs().max() <= .1 and abs(p.std() / q.std() - 1) < .05

@pytest.mark.parametrize("name", activations)
def test_perceptron_is_written_out(name):
    net, x = MLP([6, 5, 4], name).double(), torch.randn(3, 2, 3).double()
    want = activations[name](x.flatten(1) @ net.layers[0].weight + net.layers[0].bias) @ net.layers[1].weight + net.layers[1].bias
    torch.testing.assert_close(net(x), want)

@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 28), (2, 4, 4), (1, 5, 9), (1, 33, 20), (1, 2, 2)])
def test_convolutional_shapes_and_gradients(shape):
    enc, dec = ConvEncoder(shape, 6, 4), ConvDecoder(shape, 6, 4)
    x = torch.rand(3, *shape)
    z = enc(x)
    assert z.shape == (3, 6) and dec(z).shape == x.shape
    (dec(z) - x).pow(2).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for m in (enc, dec) for p in m.parameters())

def test_image_sizes_halve_upwards():
    assert image_sizes((1, 64, 64)) == [(64, 64), (32, 32), (16, 16), (8, 8), (4, 4)] and image_sizes((1, 9, 5), 2) == [(9, 5), (5, 3), (3, 2)]
    with pytest.raises(ValueError, match=r"\(C, H, W\)"): image_sizes((8, 8))

def test_subpixel_is_pixel_shuffle_cut():
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(subpixel(x, (7, 8)), F.pixel_shuffle(x, 2)[..., :7, :8])

@pytest.mark.parametrize("net", kinds)
def test_K_nets_under_vmap_are_the_nets_alone(net):
    nets = [torch.nn.Sequential(encoder((1, 8, 8), 6, net, (4,)), decoder((1, 8, 8), 6, net, (4,))) for _ in range(3)]
    params, buffers = stack_module_state(nets)
    x = torch.rand(3, 5, 1, 8, 8)
    out = vmap(lambda p, b, x: functional_call(nets[0], (p, b), (x,)), randomness="error")(params, buffers, x)
    for k in range(3): torch.testing.assert_close(out[k], nets[k](x[k]), rtol=1e-4, atol=1e-5)

def randn(*shape, seed=0): return torch.randn(*shape, generator=generator(seed, "x"), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(4,), (4, 5, 5)], ids=["flat", "image"])
@pytest.mark.parametrize("G", [1, 3])
def test_batch_norm_is_torchs_called_once_per_pass_with_its_gradients(G, shape):
    x = (2 * randn(G * 6, *shape) + 1).requires_grad_()
    ours, theirs = RowBatchNorm(4, eps=1e-6).double(), (nn.BatchNorm1d if len(shape) == 1 else nn.BatchNorm2d)(4, eps=1e-6).double()
    for m in (ours, theirs): m.weight.data.copy_(torch.arange(1., 5)), m.bias.data.copy_(torch.arange(4.))
    have, want = ours(x, torch.ones(G, 6, dtype=torch.bool)), torch.cat([theirs(part) for part in x.chunk(G)])
    torch.testing.assert_close(have, want)
    torch.testing.assert_close(ours.mean, theirs.running_mean)
    torch.testing.assert_close(ours.var, theirs.running_var)
    weight = randn(*x.shape, seed=1)
    for a, b in zip(*(torch.autograd.grad((t * weight).sum(), [x, m.weight, m.bias]) for t, m in ((have, ours), (want, theirs)))): torch.testing.assert_close(a, b)
    before = ours.mean.clone()
    torch.testing.assert_close(ours(x, None, remember=False), theirs.eval()(x))
    torch.testing.assert_close(ours.eval()(x, None), theirs(x))
    assert torch.equal(ours.mean, before), "outside training nothing is learned"


def test_batch_norm_leaves_out_rows_and_passes_without_any():
    x, rows = randn(2 * 6, 3, 4, 4), torch.ones(2, 6, dtype=torch.bool)
    rows[0, 2:4] = rows[1] = False
    norm, alone, kept = RowBatchNorm(3).double(), nn.BatchNorm2d(3).double(), rows.flatten()
    torch.testing.assert_close(norm(x, rows)[kept], alone(x[kept]))
    torch.testing.assert_close(norm.mean, alone.running_mean)
    torch.testing.assert_close(norm.var, alone.running_var)
    before = norm.mean.clone()
    assert torch.isfinite(norm(x, torch.zeros_like(rows))).all() and torch.equal(norm.mean, before)
    torch.testing.assert_close(norm(x[:6], rows[0]), RowBatchNorm(3).double()(x[:6], rows[:1]), msg="one pass may do without its axis")


def test_batch_norm_under_vmap_is_each_run_by_itself_step_after_step():
    K, norms, theirs = 4, [RowBatchNorm(3).double() for _ in range(4)], [nn.BatchNorm2d(3).double() for _ in range(4)]
    params, buffers = stack_module_state(norms)
    for step in range(3):
        x, rows = 2 * randn(K, 6, 3, 2, 2, seed=step) + 1, torch.rand(K, 2, 3, generator=generator(step, "rows")) > .3
        rows[:, :, 0] = True
        have = vmap(lambda p, b, *a: functional_call(norms[0], (p, b), a), randomness="error")(params, buffers, x, rows)
        for k, (t, n) in enumerate(zip(have, theirs)):
            want = torch.cat([n(part[r]) for part, r in zip(x[k].chunk(2), rows[k])])
            torch.testing.assert_close(t[rows[k].flatten()], want)
    for k, n in enumerate(theirs):
        torch.testing.assert_close(buffers["mean"][k], n.running_mean)
        torch.testing.assert_close(buffers["var"][k], n.running_var)


def test_split_gaussian():
    mu, logvar = split_gaussian(torch.tensor([[1., -50., 50., 2.]]))
    assert mu.tolist() == [[1, -50]] and logvar.tolist() == [[10, 2]]
    with pytest.raises(ValueError, match="even last dimension"): split_gaussian(torch.zeros(2, 3))

@pytest.mark.parametrize("make, message", [
    (lambda: Linear(0, 2), "n_in must be >= 1"), (lambda: Linear(2, 0), "n_out must be >= 1"), (lambda: MLP([3]), "at least input and output"), (lambda: MLP([3, 4], "sigmoid"), "choose one of: relu"),
    (lambda: MLP([3, 4], shape=(5,)), "does not hold 4"), (lambda: ConvEncoder((8,), 2), r"\(C, H, W\)"), (lambda: ConvDecoder((8, 8), 2), r"\(C, H, W\)"),
    (lambda: ConvEncoder((1, 8, 8), 2, activation="x"), "activation='x'"), (lambda: encoder((3,), 2, "rnn"), "choose one of: mlp, conv"), (lambda: decoder((3,), 2, "rnn"), "choose one of: mlp, conv"),
])
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message): make()
