"Three tiny models for the ways of training that the contract must carry besides DualVAE's."
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad

from mvnb.models import Model, ViewSpec, leading, seeded
from mvnb.nets import MLP


class SemiSupervised(Model):
    "Labelled and unlabelled rows in separate streams, the unlabelled loss summed exactly over the labels (as SMVAE)."
    per_run = ("c",)

    def __init__(self, views, c=.5, labelled=4):
        super().__init__(views)
        self.setting("c", c, low=0)
        self.labelled, self.k = labelled, len(views.classes)
        d = views.shapes[0][0]
        self.classifier, self.encoder, self.decoder = MLP([d, 8, self.k]), MLP([d + self.k, 8, 4]), MLP([2 + self.k, 8, d])

    def rows(self, data):
        return {"labelled": (data.y >= 0).nonzero().squeeze(1), "unlabelled": (data.y < 0).nonzero().squeeze(1)}

    def sizes(self, rows, batch_size):
        return {"labelled": self.labelled, "unlabelled": batch_size - self.labelled}

    def draw(self, n, generator):
        return {k: {"eps": torch.randn(*leading(m), 2, generator=generator, device=generator.device)} for k, m in n.items()}

    def bound(self, x, y, eps):
        mu, logvar = self.encoder(torch.cat([x, y], -1)).chunk(2, -1)
        back = self.decoder(torch.cat([mu + (.5 * logvar).exp() * eps, y], -1))
        return (back - x).pow(2).sum(-1) + .5 * (mu.pow(2) + logvar.exp() - 1 - logvar).sum(-1)

    def losses(self, batch, noise):
        lab, unl = batch["labelled"], batch["unlabelled"]
        eye = torch.eye(self.k, device=lab.device)
        supervised = self.bound(lab.xs[0], eye[lab.y], noise["labelled"]["eps"]).mean()
        cross = F.nll_loss(self.classifier(lab.xs[0]).log_softmax(1), lab.y)
        logq, B = self.classifier(unl.xs[0]).log_softmax(1), len(unl.xs[0])
        x, eps = unl.xs[0].repeat_interleave(self.k, 0), noise["unlabelled"]["eps"].repeat_interleave(self.k, 0)
        every = self.bound(x, eye.repeat(B, 1), eps)
        unsupervised = (logq.exp() * (every.view(B, self.k) + logq)).sum(1).mean()
        return {"model": supervised + unsupervised + self.c * cross, "cross": cross.detach()}

    def embed(self, mv): return self.over_rows(mv, lambda b: self.classifier(b.xs[0]))
    def predict(self, mv): return self.embed(mv).argmax(1)


class Proximal(Model):
    "Group lasso by a proximal step after plain SGD on one weight, AdamW on the rest (as factVAE)."
    per_run = ("lam",)
    optimizers = {"W": {"kind": "sgd", "lr": 1e-2}}

    def __init__(self, views, lam=1.0, width=6):
        super().__init__(views)
        self.setting("lam", lam, low=0)
        d = sum(s[0] for s in views.shapes)
        self.encoder, self.W = MLP([d, 8, width]), nn.Parameter(torch.randn(width, d) * .3)

    def code(self, batch): return self.encoder(torch.cat(batch.xs, 1))

    def losses(self, batch, noise):
        x = torch.cat(batch.xs, 1)
        return {"model": (self.code(batch) @ self.W - x).pow(2).sum(1).mean()}

    def after_step(self, params, buffers, lr):
        W, t = params["W"], lr["W"] * buffers["lam"]
        norm = W.norm(dim=1, keepdim=True)
        return {"W": W * (1 - t / norm.clamp_min(1e-12)).clamp_min(0)}

    def embed(self, mv): return self.over_rows(mv, self.code)


class Adversarial(Model):
    "PGD inside the loss through BatchNorm, and a discriminator as a second player (as AR-DMVC and its GAN)."
    players = {"model": ("encoder", "head"), "discriminator": ("critic",)}
    per_run = ("eps",)

    def __init__(self, views, eps=.1):
        super().__init__(views)
        self.setting("eps", eps, low=0)
        d = views.shapes[0][0]
        self.encoder = nn.Sequential(nn.Linear(d, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU())  # a bias before BatchNorm has no gradient but rounding
        self.head, self.critic = nn.Linear(8, 3), nn.Linear(8, 1)

    def draw(self, n, generator):
        return {"start": torch.rand(*leading(n), self.views.shapes[0][0], generator=generator, device=generator.device) * 2 - 1}

    def attack(self, x, start):
        "Two PGD steps on a frozen copy: detached parameters, cloned buffers, gradients with respect to x alone."
        state = {k: v.detach() for k, v in self.encoder.named_parameters()} | {k: v.clone() for k, v in self.encoder.named_buffers()}
        clean = functional_call(self.encoder, {k: v.clone() for k, v in state.items()}, (x,)).detach()
        def away(z): return (functional_call(self.encoder, {k: v.clone() for k, v in state.items()}, (z,)) - clean).pow(2).sum()
        z = x + self.eps * start
        for _ in range(2): z = x + (z + self.eps / 2 * grad(away)(z).sign() - x).clamp(-1, 1) * self.eps
        return z.detach()

    def losses(self, batch, noise):
        x = batch.xs[0]
        clean, adversarial = self.encoder(x), self.encoder(self.attack(x, noise["start"]))
        logits = self.head(clean)
        agree = (logits.softmax(1) - self.head(adversarial).softmax(1)).pow(2).sum(1).mean() - logits.softmax(1).var(0).sum()
        real, fake = self.critic(clean), self.critic(adversarial)
        return {"model": agree + F.softplus(-fake).mean(), "discriminator": F.softplus(-real.clone()).mean() + F.softplus(fake).mean()}

    def embed(self, mv): return self.over_rows(mv, lambda b: self.encoder(b.xs[0]))


def make(cls, data):
    "create(seed=..., **per-run settings) for a toy."
    def create(seed, **settings):
        with seeded(seed, "weights"): return cls(ViewSpec.of(data), **settings)
    return create


toys = {"semi-supervised": SemiSupervised, "proximal": Proximal, "adversarial": Adversarial}
