"""A training step of DualVAE's authors as their public code makes it: a pass per view and purpose, through torch's own layers.

The reference for `DualVAE(variant="authors", net="authors")`: the same losses and gradients (tests/test_dualvae.py), and what its
speed is measured against. The shared encoder runs 2V times (patch-masked for the KL of c, unmasked for c itself), the specific
encoders 2V times (for the reconstruction, and again for L_d), the decoders V times. Complete data only, as in the code.
"""
import torch
import torch.nn.functional as F

from mvnb.models.dualvae import patch_keep, view_mask
from mvnb.models.dualvae_nets import ResidualBlock


def norm(layer, x):
    "torch's BatchNorm with a layer's weights and batch statistics."
    return F.batch_norm(x, None, None, layer.weight, layer.bias, training=True, eps=layer.eps)


def residual(net, x):
    "One pass through an encoder's or decoder's convolutions."
    x = net.start(x)
    for step in net.steps:
        if isinstance(step, ResidualBlock):
            h = step.conv1(F.silu(norm(step.norm1, x)))
            h = step.conv2(F.silu(norm(step.norm2, h)))
            x = (x if step.around is None else step.around(x)) + h
        elif step.up: x = step.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        else: x = step.conv(F.pad(x, (0, 1, 0, 1)))
    return net.end(F.silu(norm(net.norm, x)))


def kl(mu, logvar): return .5 * (mu.pow(2) + logvar.exp() - 1 - logvar).sum(1).mean()


def gaussian(h):
    mu, logvar = h.chunk(2, 1)
    return mu, logvar.clamp(-10, 10)


def consistent(model, xs):
    "mu and logvar of c: gate-weighted averages of the experts' outputs."
    features = [residual(model.shared[0], x).flatten(1) for x in xs]
    alpha = F.softmax(model.gate(torch.cat(features, 1)), 1)
    out = torch.stack([torch.cat(gaussian(f(h)), 1) for f, h in zip(model.experts, features)], 1)
    return (alpha[..., None] * out).sum(1).chunk(2, 1)


def specific(model, v, x, eps):
    "mu, logvar and a sample of s."
    mu, logvar = gaussian(model.specific[v].head(residual(model.specific[v], x).flatten(1)))
    return mu, logvar, mu + (.5 * logvar).exp() * eps


def literal_loss(
    model,   # DualVAE(variant="authors", net="authors", dropout=0.0), in training mode
    xs,      # V tensors (B, C, H, W), all present
    noise,   # from model.draw(B, generator)
):           # the one scalar that the code minimises for all parameters
    "Squared errors summed over the batch, KL of c from the patch-masked pass, half the KL of s, the estimator's negative log-likelihood."
    B, V = len(xs[0]), len(xs)
    hidden = view_mask(noise["sample"], noise["view"], torch.ones(B, V, dtype=torch.bool, device=xs[0].device), model.view_mask)
    xs = [x * ~hidden[:, v].view(-1, 1, 1, 1) for v, x in enumerate(xs)]
    masked = [x * patch_keep(noise[f"patch{v}"], model.patch_mask, x.shape[1:], model.patch) for v, x in enumerate(xs)]
    total = model.beta_c * kl(*consistent(model, masked))
    mu, logvar = consistent(model, xs)
    c = mu + (.5 * logvar).exp() * noise["eps_c"]
    for v, x in enumerate(xs):
        mu, logvar, s = specific(model, v, x, noise["eps_s"][:, v])
        back = residual(model.decoders[v], model.decoders[v].head(torch.cat([c, s], 1)).unflatten(1, (-1, 8, 8)))
        total = total + F.mse_loss(back, x, reduction="sum") + model.beta_s * kl(mu, logvar)
    for v, x in enumerate(xs):
        s = specific(model, v, x, noise["eps_s"][:, v])[2]
        mean, logvar = model.club[v]["mu"](c), model.club[v]["logvar"](c).tanh()
        total = total - torch.distributions.Normal(mean, (.5 * logvar).exp()).log_prob(s).sum(1).mean() * model.weight_d
    return total
