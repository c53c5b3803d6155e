"""A training step of DualVAE's authors as their public code makes it: a pass per view and purpose, through torch's own layers.

The reference for `DualVAE(variant="authors")` with their networks or with perceptrons: the same losses and gradients (tests/test_dualvae.py), and what its
speed is measured against. The shared encoder runs 2V times (patch-masked for the KL of c, unmasked for c itself), the specific
encoders 2V times (for the reconstruction, and again for L_d), the decoders V times. Complete data only, as in the code.
"""
import torch
import torch.nn.functional as F

from mvnb.models.dualvae import view_mask
from mvnb.models.dualvae_nets import ResidualBlock, ResidualDecoder
from mvnb.nets import MLP


def norm(layer, x):
    "torch's BatchNorm with a layer's weights and batch statistics."
    return F.batch_norm(x, None, None, layer.weight, layer.bias, training=True, eps=layer.eps)


def body(net, x):
    "One pass through an encoder or decoder: a perceptron, or the authors' convolutions and their linear layer."
    if isinstance(net, MLP):
        x = x.flatten(1)
        for i, layer in enumerate(net.layers): x = F.linear(F.relu(x) if i else x, layer.weight.T, layer.bias)
        return x if net.shape is None else x.unflatten(1, net.shape)
    if isinstance(net, ResidualDecoder): return residual(net, net.head(x).unflatten(1, (net.channels, 8, 8)))
    h = residual(net, x).flatten(1)
    return h if net.head is None else net.head(h)


def residual(net, x):
    "The convolutions of an encoder or decoder."
    x = net.start(x)
    for step in net.steps:
        if isinstance(step, ResidualBlock):
            h = step.conv1(F.silu(norm(step.norm1, x)))
            h = step.conv2(F.silu(norm(step.norm2, h)))
            x = (x if step.around is None else step.around(x)) + h
        elif step.up: x = step.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        else: x = step.conv(F.pad(x, (0, 1, 0, 1)))
    return net.end(F.silu(norm(net.norm, x)))


def patch_mask(scores, ratio, shape, patch):
    "1 where a pixel stays visible, 0 in the lowest-scored patches."
    masked = scores.argsort(1)[:, :int(float(ratio) * scores.shape[1] + 1e-4)]
    keep, h, w = torch.ones_like(scores).scatter(1, masked, 0.), shape[1] // patch, shape[2] // patch
    return keep.view(-1, 1, h, 1, w, 1).expand(-1, 1, h, patch, w, patch).reshape(-1, 1, *shape[1:])


def kl(mu, logvar): return .5 * (mu.pow(2) + logvar.exp() - 1 - logvar).sum(1).mean()


def gaussian(h):
    mu, logvar = h.chunk(2, 1)
    return mu, logvar.clamp(-10, 10)


def consistent(model, xs):
    "mu and logvar of c: gate-weighted averages of the experts' outputs."
    features = [body(model.shared[0], x) for x in xs]
    alpha = F.softmax(model.gate(torch.cat(features, 1)), 1)
    out = torch.stack([torch.cat(gaussian(body(f, h)), 1) for f, h in zip(model.experts, features)], 1)
    return (alpha[..., None] * out).sum(1).chunk(2, 1)


def specific(model, v, x, eps):
    "mu, logvar and a sample of s."
    mu, logvar = gaussian(body(model.specific[v], x))
    return mu, logvar, mu + (.5 * logvar).exp() * eps


def literal_loss(
    model,   # DualVAE(variant="authors") without dropout, net="authors" or "mlp", in training mode
    xs,      # V tensors (B, C, H, W), all present
    noise,   # from model.draw(B, generator)
):           # the one scalar that the code minimises for all parameters
    "Squared errors summed over the batch, KL of c from the patch-masked pass, half the KL of s, the estimator's negative log-likelihood."
    B, V = len(xs[0]), len(xs)
    hidden = view_mask(noise["sample"], noise["view"], torch.ones(B, V, dtype=torch.bool, device=xs[0].device), model.view_mask)
    xs = [x * ~hidden[:, v].view(-1, 1, 1, 1) for v, x in enumerate(xs)]
    masked = [x * patch_mask(noise[f"patch{v}"], model.patch_mask, x.shape[1:], model.patch) for v, x in enumerate(xs)]
    total = model.beta_c * kl(*consistent(model, masked))
    mu, logvar = consistent(model, xs)
    c = mu + (.5 * logvar).exp() * noise["eps_c"]
    for v, x in enumerate(xs):
        mu, logvar, s = specific(model, v, x, noise["eps_s"][:, v])
        back = body(model.decoders[v], torch.cat([c, s], 1))
        total = total + F.mse_loss(back, x, reduction="sum") + model.beta_s * kl(mu, logvar)
    for v, x in enumerate(xs):
        s = specific(model, v, x, noise["eps_s"][:, v])[2]
        mean, logvar = body(model.club[v]["mu"], c), body(model.club[v]["logvar"], c).tanh()
        total = total - torch.distributions.Normal(mean, (.5 * logvar).exp()).log_prob(s).sum(1).mean() * model.weight_d
    return total
