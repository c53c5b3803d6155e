"""Speed of training: K runs as one batch against the same K one after another, the data path, and the parts of a step.

    python benchmarks/run.py [--threads 2] [--device auto] [--compile MODE] [--seconds 2] [--only NAME ...] [--out FILE]

Both sides of every ratio are measured in this one process, in alternating rounds (machines are noisy: compare ratios
of one run, not times of two). "One after another" is the plain loop people write: torch.nn.Linear layers, one module,
one fused AdamW, loss.backward(), without vmap. `one_batch` steps all K runs at once, `fit` as many at once as mvnb.fit chooses
(runs_per_step). Medians over the rounds are printed, and the spread of the fit's ratio over them.

The factVAE rows have a table of their own, with 1 and 2 threads whatever --threads says: K runs in one batch against K times
the plain loop (a module per group and a loop over groups, `plain_*`), and against K times mvnb.fit with one run (`alone_*`). The SMVAE and SiMVAE rows likewise: the plain loop goes over labels, components and views one by one.

The DualVAE rows hold one step of K runs with the authors' mathematics against K steps of `literal_dualvae.py`, which repeats passes as their code does,
with their networks and with the perceptrons of scale cpu. Both sides need the masked and the unmasked pass of the shared encoder, so at two views
only 10 passes become 8: where the products are most of the step, a ratio well above 10/8 is not to be expected.
"""
import argparse
import itertools
import math
import os
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from literal_dualvae import literal_loss
from mvnb import models
from mvnb.base import generator, write_json
from mvnb.data.bars import load_bars
from mvnb.data.mocap import load_mocap
from mvnb.fit import Stack, _Data, batch_of_runs, fit
from mvnb.models import Model, ViewSpec, leading, seeded
from mvnb.models.factvae import FLOOR, shrink, training as schedules
from mvnb.models.smvae import neighbour_targets
from mvnb.nets import MLP, ConvDecoder, ConvEncoder
from mvnb.repro import provenance
from mvnb.views import Batch, MultiView

LOG_2PI = math.log(2 * math.pi)


class VAE(Model):
    "A plain VAE of given bodies: the arithmetic of the workbook's models without their bookkeeping."
    def __init__(self, views, encoder, decoder, latent):
        super().__init__(views)
        self.encoder, self.decoder, self.latent = encoder(), decoder(), latent

    def draw(self, n, generator): return {"eps": torch.randn(*leading(n), self.latent, generator=generator, device=generator.device)}

    def losses(self, batch, noise):
        x = batch.xs[0]
        mu, logvar = self.encoder(x).chunk(2, -1)
        back = self.decoder(mu + (.5 * logvar).exp() * noise["eps"])
        kl = .5 * (mu.pow(2) + logvar.exp() - 1 - logvar).sum(1)
        return {"model": ((back - x).flatten(1).pow(2).sum(1) + kl).mean()}


class Plain(nn.Module):
    "The same perceptron with torch.nn.Linear: the plain loop's layers."
    def __init__(self, dims):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(dims, dims[1:]))

    def forward(self, x):
        for layer in self.layers[:-1]: x = torch.relu(layer(x))
        return self.layers[-1](x)


def perceptron(dims, plain=False):
    "Encoder, decoder and latent width of a mirrored perceptron VAE."
    up, down = [*dims[:-1], 2 * dims[-1]], dims[::-1]
    body = Plain if plain else MLP
    return (lambda: body(up)), (lambda: body(down)), dims[-1]


def convolution(shape, width, latent):
    return (lambda: ConvEncoder(shape, 2 * latent, width)), (lambda: ConvDecoder(shape, latent, width)), latent


# name: sample shape, rows per step, runs K, bodies, plain bodies, the ratio a throwaway prototype reached
cases = {
    "factVAE-sized 12-32-8":  ((12,), 64, 32, perceptron([12, 32, 8]), perceptron([12, 32, 8], True), 9.0),
    "64-wide 64-64-10":       ((64,), 128, 8, perceptron([64, 64, 10]), perceptron([64, 64, 10], True), 2.4),
    "240-100-30":             ((240,), 128, 16, perceptron([240, 100, 30]), perceptron([240, 100, 30], True), 1.7),
    "784-256-20":             ((784,), 128, 8, perceptron([784, 256, 20]), perceptron([784, 256, 20], True), 1.1),
    "conv 1x28x28, 8 wide":   ((1, 28, 28), 64, 8, convolution((1, 28, 28), 8, 10), convolution((1, 28, 28), 8, 10), 1.1),
    "conv 3x32x32, 32 wide":  ((3, 32, 32), 64, 4, convolution((3, 32, 32), 32, 10), convolution((3, 32, 32), 32, 10), None),
}


def synchronize(device):
    if device.type == "cuda": torch.cuda.synchronize()


def timed(step, device, seconds):
    "Seconds per call, after a warm-up call, over about `seconds`."
    step()
    synchronize(device)
    begin, n = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds or n < 2:
        step()
        n += 1
    synchronize(device)
    return (time.perf_counter() - begin) / n


def runs_case(name, device, compile, seconds, rounds):
    "One architecture: seconds per step of all K runs, together and one after another."
    shape, B, K, bodies, plain_bodies, prototype = cases[name]
    views = ViewSpec((shape,), ("view",), ())
    def make(which, k):
        with seeded(k, "weights"): return VAE(views, *which)
    x = torch.rand(K, B, *shape, device=device)
    eps = torch.randn(K, B, bodies[2], device=device)
    present, y = torch.ones(K, B, 1, dtype=torch.bool, device=device), torch.full((K, B), -1, device=device)
    def rows(a, b): return Batch((x[a:b],), present[a:b], y[a:b]), {"eps": eps[a:b]}
    whole = Stack([make(bodies, k) for k in range(K)], lr=1e-3, device=device, compile=compile)
    size = min(K, batch_of_runs(make(bodies, 0), device))
    group = whole if size == K else Stack([make(bodies, k) for k in range(size)], lr=1e-3, device=device, compile=compile)
    alone = make(plain_bodies, 0).to(device)
    optimizer = torch.optim.AdamW(alone.parameters(), lr=1e-3, weight_decay=0., fused=True)
    one = Batch((x[0],), present[0], y[0])
    def plain():
        loss = alone(one, {"eps": eps[0]})["model"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    rounds_ = []
    for _ in range(rounds):  # one after another: a run's weights stay warm while it trains, so K times one run is fair to it
        rounds_.append((timed(lambda: whole.step(*rows(0, K)), device, seconds), K / size * timed(lambda: group.step(*rows(0, size)), device, seconds),
                        K * timed(plain, device, seconds)))
    together, fitted, after = (statistics.median(t) for t in zip(*rounds_))
    ratios = sorted(c / b for _, b, c in rounds_)
    return dict(case=name, K=K, batch=B, one_batch_ms=1e3 * together, fit_ms=1e3 * fitted, alone_ms=1e3 * after, one_batch_ratio=statistics.median(c / a for a, _, c in rounds_),
                runs_per_step=size, fit_ratio=statistics.median(ratios), lowest=ratios[0], highest=ratios[-1], prototype=prototype)


def compare(name, B, steps, Ks, device, seconds, rounds, threads):
    "Milliseconds per step of all K runs in one batch, one after another (`alone`) and by the plain loop, if `steps` has one, at each number of threads."
    out, before = [], torch.get_num_threads()
    for t in threads:
        torch.set_num_threads(t)
        times = [{k: timed(f, device, seconds) for k, f in steps.items()} for _ in range(rounds)]
        for K in Ks:
            row = dict(case=name, K=K, batch=B, threads=t, one_batch_ms=1e3 * statistics.median(r[K] for r in times))
            for kind, of in (("alone", Ks[0]), ("plain", "plain")):
                pairs = [(r.get(of, math.nan), r[K]) for r in times]
                ratios = sorted(K * a / b for a, b in pairs)
                row |= {f"{kind}_ms": K * 1e3 * statistics.median(a for a, _ in pairs), f"{kind}_ratio": statistics.median(ratios), f"{kind}_lowest": ratios[0], f"{kind}_highest": ratios[-1]}
            out.append(row)
    torch.set_num_threads(before)
    return out


class PlainGroups(nn.Module):
    "factVAE and JMVAE+ as people write them: modules for each group, a loop over the groups; started from the weights of `model`."
    def __init__(self, model):
        super().__init__()
        def linear(layer, g, n_in=None):
            own = nn.Linear(layer.weight[g, :, :n_in].shape[1], layer.weight.shape[1])
            own.load_state_dict({"weight": layer.weight[g, :, :n_in], "bias": layer.bias[g, :, 0]})
            return own
        def head(g, part, columns):
            own = nn.Linear(model.width, columns.stop - columns.start)
            own.load_state_dict({"weight": model.decoder.weight(g)[part], "bias": model.decoder.bias[part, columns, 0]})
            return own
        self.relu, self.prior_weight, self.lam, self.keep, self.jmvae = model.decoder.relu, float(model.prior_weight), float(getattr(model, "lam", 0)), float(getattr(model, "keep", 1)), hasattr(model, "inner")
        ends = [sum(model.dims[:g]) for g in range(len(model.dims) + 1)]
        self.encoders = nn.ModuleList(nn.Sequential(*(m for i, layer in enumerate(model.encoder.layers) for m in (linear(layer, g, None if i else d), nn.ReLU()))) for g, d in enumerate(model.dims))
        self.means, self.spreads = (nn.ModuleList(head(g, part, slice(ends[g], ends[g + 1])) for g in range(len(model.dims))) for part in (0, 1))
        self.spread = nn.Parameter(model.spread.detach().clone()) if model.net == "linear" else 0.0
        if self.jmvae: self.heads, self.inners = (nn.ModuleList(linear(layer, g) for g in range(len(model.dims))) for layer in (model.head, model.inner))
        else:
            self.M, self.V, self.W = (nn.ParameterList(p.detach().clone() for p in stacked) for stacked in (model.M, model.V, model.W))
            self.baseline = nn.Parameter(model.baseline.detach().clone())

    def log_likelihood(self, xs, z):
        "(B, G): log p(x_g|z)."
        out = []
        for g, x in enumerate(xs):
            u = self.inners[g](z) if self.jmvae else z @ self.W[g]
            u = torch.relu(u) if self.relu else u
            out.append(torch.distributions.Normal(self.means[g](u), torch.exp(.5 * self.spreads[g](u) + self.spread) + FLOOR, validate_args=False).log_prob(x).sum(1))
        return torch.stack(out, 1)

    def forward(self, batch, noise):
        present, hs = batch.present, [f(x) for f, x in zip(self.encoders, batch.xs)]
        if self.jmvae:
            loss = 0.
            for g, h in enumerate(hs):
                mu, logvar = self.heads[g](h).chunk(2, 1)
                z = mu + (.5 * logvar).exp() * noise["eps"][:, g]
                one = (self.log_likelihood(batch.xs, z) * present).sum(1) - .5 * (mu.pow(2) + logvar.exp() - 1 - logvar).sum(1)
                loss = loss - (one * present[:, g] / present.sum(1)).mean()
        else:
            total, weighted, seen = 1., 0., present & (noise["keep"] < self.keep)
            for g, h in enumerate(hs):
                precision = ((h + self.baseline) @ self.V[g]).abs() * seen[:, g, None]
                total, weighted = total + precision, weighted + precision * (h @ self.M[g])
            mu = weighted / total
            z = mu + total.rsqrt() * noise["eps"]
            kl = .5 * (mu.pow(2) + 1 / total - 1 + total.log()).sum(1)
            loss = (kl - (self.log_likelihood(batch.xs, z) * present).sum(1)).mean()
        if self.prior_weight: loss = loss + self.prior_weight * .5 * sum(p.square().sum() for m in (self.means, self.spreads) for p in m.parameters())
        return loss

    def optimizers(self):
        links = [] if self.jmvae else [*self.V, *self.W]
        rest = [p for p in self.parameters() if not any(p is q for q in links)]
        return [torch.optim.AdamW(rest, lr=1e-3, weight_decay=0., fused=True)] + ([torch.optim.SGD(links, lr=1e-4, fused=True)] if links else [])

    @torch.no_grad()
    def shrink(self, lr=1e-4):
        for W, V in ([] if self.jmvae else zip(self.W, self.V)):
            new = shrink(W[None], V[None], lr * self.lam)
            W.copy_(new["W"][0])
            V.copy_(new["V"][0])


# name: model, data set and preset
group_cases = {"factVAE, bars": ("factvae", "bars"), "factVAE, mocap": ("factvae", "mocap"), "JMVAE+, bars": ("jmvae+", "bars"), "JMVAE+, mocap": ("jmvae+", "mocap")}


def groups_case(name, device, compile, seconds, rounds, Ks=(1, 5, 16, 32), threads=(1, 2)):
    "One model of groups: milliseconds per step of all K runs, in one batch, one after another, and by the plain loop."
    which, preset = group_cases[name]
    data = load_bars(n=1000) if preset == "bars" else load_mocap(tiny=True)
    B = schedules[preset]["batch_size"]
    made = [models.create(which, data, preset=preset, seed=k) for k in range(max(Ks))]
    drawn = [m.draw(B, generator(k, "bench")) for k, m in enumerate(made)]
    noise = {k: torch.stack([d[k] for d in drawn]).to(device) for k in drawn[0]}
    batch = data[:B].to(device).batch()
    def rows(K): return Batch(tuple(x.expand(K, *x.shape).contiguous() for x in batch.xs), batch.present.expand(K, -1, -1), torch.full((K, B), -1, device=device)), {k: v[:K] for k, v in noise.items()}
    plain = PlainGroups(made[0]).to(device)
    optimizers, own = plain.optimizers(), {k: v[0] for k, v in noise.items()}
    with torch.no_grad(): torch.testing.assert_close(plain(batch, own), made[0].to(device)(batch, own)["model"], rtol=1e-4, atol=1e-4)  # both sides compute one thing
    def plain_step():
        loss = plain(batch, own)
        for o in optimizers: o.zero_grad()
        loss.backward()
        for o in optimizers: o.step()
        plain.shrink()
    stacks = {K: (Stack(made[:K], lr=1e-3, device=device, compile=compile), *rows(K)) for K in Ks}
    steps = {"plain": plain_step} | {K: (lambda s, b, n: lambda: s.step(b, n))(*v) for K, v in stacks.items()}
    return compare(name, B, steps, Ks, device, seconds, rounds, threads)


class PlainSMVAE(nn.Module):
    "SMVAE's literal step as people write it: concatenated inputs, a loop over labels, components and views; started from the weights of `model`."
    def __init__(self, model):
        super().__init__()
        def linear(weight, bias):
            own = nn.Linear(*weight.shape)
            own.load_state_dict({"weight": weight.detach().T.clone(), "bias": bias.detach().clone()})
            return own
        def net(joined, out):
            layers = [linear(torch.cat(list(joined.inputs)), joined.bias), *(linear(layer.weight, layer.bias) for layer in joined.layers)]
            return nn.Sequential(*(m for layer in layers for m in (layer, nn.Softplus())), linear(out.weight, out.bias))
        self.encoders = nn.ModuleList(net(body, head) for body, head in zip(model.encoders, model.heads))
        self.decoders = nn.ModuleList(net(d.body, d.out) for d in model.decoders)
        self.classifier, self.free = net(model.classifier, model.logits), nn.Parameter(model.free.detach().clone())
        self.K, self.c = model.K, float(model.c)

    def minus_loss(self, xs, y, eps):
        "-L(X, y), (B,), eq. 5."
        moments = [f(torch.cat([x, y], 1)).chunk(2, 1) for f, x in zip(self.encoders, xs)]
        moments, lam = [(mu, logvar.clamp(-10, 10)) for mu, logvar in moments], self.free.softmax(0)
        total = -torch.log(torch.tensor(float(self.K)))
        for v, (mu, logvar) in enumerate(moments):
            z = mu + (.5 * logvar).exp() * eps[:, 0, v]
            one = -.5 * (LOG_2PI + mu.square() + logvar.exp()).sum(1)
            for f, x in zip(self.decoders, xs):
                m, s = f(torch.cat([z, y], 1)).chunk(2, 1)
                one = one + torch.distributions.Normal(m, (.5 * s.clamp(-10, 10)).exp(), validate_args=False).log_prob(x).sum(1)
            omega = [torch.distributions.Normal(m, (logvar.exp() + s.exp()).sqrt(), validate_args=False).log_prob(mu).sum(1) for m, s in moments]
            total = total + lam[v] * (one - (torch.stack(omega) + lam.log()[:, None]).logsumexp(0))
        return total

    def forward(self, batch, noise):
        few, rest = batch["labelled"], batch["unlabelled"]
        eye, rows = torch.eye(self.K, device=few.device), len(few.y) + len(rest.y)
        log_q = self.classifier(torch.cat(rest.xs, 1)).log_softmax(1)
        total = self.minus_loss(few.xs, eye[few.y], noise["labelled"]["eps"]).sum()
        for k in range(self.K):
            total = total + (log_q[:, k].exp() * (self.minus_loss(rest.xs, eye[k].expand(len(rest.y), -1), noise["unlabelled"]["eps"]) - log_q[:, k])).sum()
        return -total / rows + self.c * nn.functional.cross_entropy(self.classifier(torch.cat(few.xs, 1)), few.y)


# name: model, settings, is there a plain loop?
label_cases = {"SMVAE, paper": ("smvae", dict(variant="paper"), True), "SMVAE, mvnb": ("smvae", dict(variant="mvnb"), False), "SiMVAE, mvnb": ("simvae", dict(variant="mvnb"), False)}


def labels_case(name, device, seconds, rounds, Ks=(1, 4, 16), threads=(1, 2)):
    "A semi-supervised model on views of 240 and 47 features, 10 classes, batches of 120: milliseconds per step of all K runs."
    which, settings, loop = label_cases[name]
    g, B = generator(0, "bench"), 120
    mv = MultiView([torch.randn(400, d, generator=g) for d in (240, 47)], y=torch.where(torch.arange(400) < 40, torch.arange(400) % 10, -1), classes="0123456789")
    if which == "simvae": mv = mv.replace(present=torch.stack([torch.ones(400, dtype=torch.bool), torch.arange(400) % 2 == 0], 1))
    made = [models.create(which, mv, seed=k, **settings) for k in range(max(Ks))]
    rows = made[0].rows(mv)
    sizes = made[0].sizes(rows, B)
    drawn = [m.draw(sizes, generator(k, "bench")) for k, m in enumerate(made)]
    one = {k: mv[r[:sizes[k]]].to(device).batch() for k, r in rows.items()}
    def stacked(K):
        batch = {k: Batch(tuple(x.expand(K, *x.shape).contiguous() for x in b.xs), b.present.expand(K, -1, -1), b.y.expand(K, -1)) for k, b in one.items()}
        return batch, {k: {name: torch.stack([d[k][name] for d in drawn[:K]]).to(device) for name in drawn[0][k]} for k in drawn[0]}
    steps = {K: (lambda s, b, n: lambda: s.step(b, n))(Stack(made[:K], lr=1e-3, device=device), *stacked(K)) for K in Ks}
    if loop:
        plain, own = PlainSMVAE(made[0]).to(device), {k: {n: t.to(device) for n, t in d.items()} for k, d in drawn[0].items()}
        with torch.no_grad(): torch.testing.assert_close(plain(one, own), made[0].to(device)(one, own)["model"], rtol=1e-4, atol=1e-2)  # both sides compute one thing
        optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=0., fused=True)
        def plain_step():
            loss = plain(one, own)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        steps["plain"] = plain_step
    return compare(name, B, steps, Ks, device, seconds, rounds, threads)


def label_parts(device, seconds):
    "Where a step of one SMVAE run goes, forward and backward of each part (as above, batch of 120)."
    g = generator(0, "bench")
    x, eye, out = [torch.randn(108, d, generator=g).to(device) for d in (240, 47)], torch.eye(10, device=device)[None], []
    present = torch.ones(108, 2, dtype=torch.bool, device=device)
    mv = MultiView([t.cpu() for t in x], y=torch.arange(108) % 10)
    for variant in ("paper", "mvnb"):
        model = models.create("smvae", mv, variant=variant).to(device)
        z, eps, q = torch.randn(108, 10, 1, 2, 30, device=device), torch.randn(108, 1, 2, 30, device=device), torch.rand(108, 10, device=device)
        def back(f):
            def run(): f().sum().backward()
            return run
        parts_ = {"encoders": back(lambda: torch.cat(model.posterior(x, present, eye)[1:])), "decoders and densities": back(lambda: sum(model.view_log_prob(v, x, z, eye) for v in range(2))),
                  "classifier": back(lambda: model.class_log_prob(x)), "the whole bound": back(lambda: model.bound(x, present, eps, eye))}
        if variant == "mvnb": parts_["neighbours (no gradient)"] = lambda: neighbour_targets(x, present, q, 5)
        out += [dict(variant=variant, part=k, ms=1e3 * timed(f, device, seconds)) for k, f in parts_.items()]
    return out


# name: networks, width, side of the two views, rows per step, runs K
dualvae_cases = {
    "DualVAE, E-MNIST size, 4 wide":        ("authors", 4, 32, 32, 1),
    "DualVAE, 10 runs, 8 x 8, 64 wide":     ("mlp", 64, 8, 128, 10),
    "DualVAE, 10 runs, 8 x 8, 256 wide":    ("mlp", 256, 8, 128, 10),
    "DualVAE, 5 runs, 32 x 32, 256 wide":   ("mlp", 256, 32, 256, 5),
    "DualVAE, E-MNIST size, 16 wide":       ("authors", 16, 32, 64, 1),
}


def check_equal(model, xs, noise):
    "The literal reading gives our loss and the gradient of every trained parameter, each player's from its own total."
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    out, total = model(Batch(tuple(xs), torch.ones(len(xs[0]), len(xs), dtype=torch.bool, device=xs[0].device), None), noise), literal_loss(model, xs, noise)
    torch.testing.assert_close(out["model"], total, rtol=1e-9, atol=1e-9)
    theirs = dict(zip(named, torch.autograd.grad(total, list(named.values()))))
    for player, names in models.player_parameters(model).items():
        names = [n for n in names if n in named]
        ours = torch.autograd.grad(out[player], [named[n] for n in names], retain_graph=True)
        for n, g in zip(names, ours): torch.testing.assert_close(g, theirs[n], rtol=1e-6, atol=1e-8, msg=lambda m: f"{n}: {m}")


def dualvae_pair(name, device):
    "A training step of K runs as one batch and one literal step after another, on two grey views, each with weights of its own; first they must agree, on 8 rows in float64."
    net, width, side, B, K = dualvae_cases[name]
    g, settings = generator(0, "bench"), dict(lr=5e-4, weight_decay=1e-4, betas=(.9, .95))
    mv = MultiView([torch.rand(B, 1, side, side, generator=g) for _ in range(2)])
    def make(seed): return models.create("dualvae", mv, seed=seed, variant="authors", net=net, hidden=(width,)).to(device)
    ours, theirs, batch = [make(k) for k in range(K)], [make(k) for k in range(K)], mv.to(device).batch()
    noises = [{k: v.to(device) for k, v in ours[0].draw(B, generator(seed, "noise")).items()} for seed in range(K)]
    check_equal(make(0).double(), [x[:8].double() for x in batch.xs], {k: v[:8].double() for k, v in noises[0].items()})
    stack, drawn = Stack(ours, device=device, **settings), {k: torch.stack([noise[k] for noise in noises]) for k in noises[0]}
    together = Batch(tuple(torch.stack([x] * K) for x in batch.xs), torch.stack([batch.present] * K), torch.stack([batch.y] * K))
    optimizers = [torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True, **settings) for model in theirs]
    def literal():
        for model, optimizer, noise in zip(theirs, optimizers, noises):
            loss = literal_loss(model, batch.xs, noise)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return {"ours": lambda: stack.step(together, drawn), "literal": literal}


def step_memory(step, device):
    "MB that a step takes at its peak beyond what lay there before it: activations, gradients and what the operations use themselves."
    step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as prof: step()
    changes = sorted((e.start_ns(), e.nbytes()) for e in prof.profiler.kineto_results.events() if e.name() == "[memory]")
    return max(itertools.accumulate(n for _, n in changes)) / 1e6


def dualvae_case(name, device, seconds, rounds, threads=(1, 2)):
    "DualVAE with the authors' mathematics: a training step of K runs at once, each pass made once, against the literal step of one run after another."
    steps, (*_, B, K), out, before = dualvae_pair(name, device), dualvae_cases[name], [], torch.get_num_threads()
    memory = {k: step_memory(f, device) for k, f in steps.items()}
    for t in threads:
        torch.set_num_threads(t)
        times = [{k: timed(f, device, seconds) for k, f in steps.items()} for _ in range(rounds)]
        ratios = sorted(r["literal"] / r["ours"] for r in times)
        out.append(dict(case=name, runs=K, batch=B, threads=t, **{f"{k}_ms": 1e3 * statistics.median(r[k] for r in times) for k in steps},
                        ratio=statistics.median(ratios), lowest=ratios[0], highest=ratios[-1], **{f"{k}_MB": v for k, v in memory.items()}))
    torch.set_num_threads(before)
    return out


def data_path(device, seconds, rounds, n=20000, B=256, steps=40):
    "Samples per second of getting batches of a two-view image set: rows of resident tensors against torch's DataLoader."
    g = generator(0, "bench")
    mv = MultiView([torch.rand(n, 1, 28, 28, generator=g) for _ in range(2)], y=torch.arange(n) % 10)
    data = _Data([mv], device, resident=True)
    def resident():
        batch = data.chunk(torch.randperm(n)[:steps * B].view(1, steps, B))
        for t in range(steps): batch(t)
    set_ = torch.utils.data.TensorDataset(*mv.xs, mv.present, mv.y)
    def loader(workers):
        def epoch():
            it = torch.utils.data.DataLoader(set_, B, shuffle=True, num_workers=workers)
            for t, batch in zip(range(steps), it): batch = [x.to(device) for x in batch]
        return epoch
    rows = []
    for name, f in (("resident rows", resident), ("DataLoader, 0 workers", loader(0)), ("DataLoader, 2 workers", loader(2))):
        rows.append(dict(path=name, samples_per_s=steps * B / statistics.median(timed(f, device, seconds) for _ in range(rounds))))
    return rows


def training(device, n=20000, B=128):
    "Samples per second of whole training epochs (64-64-10 VAE): mvnb.fit against the plain loop over torch's DataLoader."
    g = generator(0, "bench")
    mv = MultiView([torch.rand(n, 64, generator=g)])
    _, _, _, bodies, plain_bodies, _ = cases["64-wide 64-64-10"]
    def create(seed):
        with seeded(seed, "weights"): return VAE(ViewSpec.of(mv), *bodies)
    def with_fit(K):
        begin = time.perf_counter()
        fit(create, mv, epochs=2, batch_size=B, seeds=range(K), device=device, progress=False)
        return 2 * n * K / (time.perf_counter() - begin)
    def with_loader(workers):
        with seeded(0, "weights"): model = VAE(ViewSpec.of(mv), *plain_bodies).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0., fused=True)
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(mv.xs[0]), B, shuffle=True, num_workers=workers, drop_last=True)
        begin = time.perf_counter()
        for _ in range(2):
            for x, in loader:
                x = x.to(device)
                loss = model(Batch((x,), None, None), {"eps": torch.randn(B, 10, device=device)})["model"]
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return 2 * n / (time.perf_counter() - begin)
    with_fit(1)
    rows = [("mvnb.fit, 1 run", with_fit(1)), ("mvnb.fit, 8 runs", with_fit(8)), ("plain loop, DataLoader, 0 workers", with_loader(0)), ("plain loop, DataLoader, 2 workers", with_loader(2))]
    return [dict(training=name, samples_per_s=v) for name, v in rows]


def parts(device, seconds):
    "Where a DualVAE step of five runs goes: drawing noise, gathering rows, forward, backward, optimizer."
    g = generator(0, "bench")
    mv = MultiView([torch.rand(2000, 1, 8, 8, generator=g) for _ in range(2)])
    K, B, S = 5, 128, 10
    made = [models.create("dualvae", mv, seed=k, variant="mvnb") for k in range(K)]
    stack, data = Stack(made, lr=1e-3, device=device), _Data([mv] * K, device, True)
    index = torch.stack([torch.randperm(2000, generator=g)[:S * B].view(S, B) for _ in range(K)])
    def noise(): return [made[0].draw((S, B), generator(k, "noise", device=device)) for k in range(K)]
    drawn = noise()
    noise0 = {k: torch.stack([d[k] for d in drawn])[:, 0] for k in drawn[0]}
    rows, batch = data.chunk(index), data.chunk(index)(0)
    def forward(): return stack.loss(batch, noise0)
    def optimize():
        for o in stack.optimizers: o.step()
    t = {"noise": timed(noise, device, seconds) / S, "rows": timed(lambda: rows(0), device, seconds), "forward": timed(forward, device, seconds)}
    t["backward"] = timed(lambda: stack.gradients(batch, noise0), device, seconds) - t["forward"]
    t["optimizer"] = timed(optimize, device, seconds)
    whole = timed(lambda: stack.step(batch, noise0), device, seconds)
    return [dict(part=k, ms=1e3 * v) for k, v in t.items()] + [dict(part="whole step (forward, backward, optimizer)", ms=1e3 * whole)]


def table(rows):
    "Rows of dicts as aligned text."
    text = [[k for k in rows[0]]] + [[f"{v:.2f}" if isinstance(v, float) and v < 1000 else f"{v:.0f}" if isinstance(v, float) else str(v) for v in r.values()] for r in rows]
    widths = [max(len(r[i]) for r in text) for i in range(len(text[0]))]
    return "\n".join("  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths))) for r in text)


def main():
    p = argparse.ArgumentParser(description="Measure the speed of training.")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--device", default="auto")
    p.add_argument("--compile", default=None, help="torch.compile mode of the vectorised step: default, reduce-overhead (CUDA graphs)")
    p.add_argument("--seconds", type=float, default=1.0, help="per measurement")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--only", nargs="*", default=[*cases, *group_cases, *label_cases, *list(dualvae_cases)[:3]], help="cases to run")
    p.add_argument("--full", action="store_true", help="also DualVAE with the authors' full width (seconds per step on a CPU)")
    p.add_argument("--out", default=None, help="write the numbers to this JSON file")
    a = p.parse_args()
    if a.full: a.only += [name for name in dualvae_cases if name not in a.only]
    torch.set_num_threads(a.threads)
    device = torch.device("cuda" if a.device == "auto" and torch.cuda.is_available() else "cpu" if a.device == "auto" else a.device)
    where = provenance() | {"load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None}  # other processes: 2 threads on 2 busy cores measure their waiting
    print(f"device {device}, {a.threads} threads, {where['device']}, torch {torch.__version__}, compile {a.compile}, load before {where['load']}\n")
    rows = [runs_case(name, device, a.compile, a.seconds, a.rounds) for name in cases if name in a.only]
    if rows: print("K runs as one batch against one after another (ms per step of all K runs)\n" + table(rows) + "\n")
    groups = [row for name in group_cases if name in a.only for row in groups_case(name, device, a.compile, a.seconds / 4, a.rounds)]
    if groups: print("factVAE and JMVAE+, K runs as one batch (ms per step of all K runs) against mvnb.fit one run after another (alone) and a plain loop\n" + table(groups) + "\n")
    few = [row for name in label_cases if name in a.only for row in labels_case(name, device, a.seconds / 4, a.rounds)]
    if few: print("SMVAE and SiMVAE, K runs as one batch (ms per step of all K runs) against one run after another (alone) and a plain loop over labels\n" + table(few) + "\n")
    inside = label_parts(device, a.seconds / 4) if few else []
    if inside: print("parts of an SMVAE step\n" + table(inside) + "\n")
    dual = [row for name in dualvae_cases if name in a.only for row in dualvae_case(name, device, a.seconds, a.rounds)]
    if dual: print("a DualVAE step of K runs, authors' mathematics, against K literal ones: 8 passes for 10 (equal losses and gradients; MB: peak of a step)\n" + table(dual) + "\n")
    paths = data_path(device, a.seconds, a.rounds)
    print("getting batches of two 28x28 views, 256 rows\n" + table(paths) + "\n")
    epochs = training(device)
    print("training a 64-64-10 VAE on 20,000 rows (samples of all runs per second)\n" + table(epochs) + "\n")
    split = parts(device, a.seconds)
    print("a DualVAE step, K = 5, 128 rows, two 8x8 views\n" + table(split))
    if a.out: print("\nwrote", write_json(Path(a.out), dict(runs=rows, groups=groups, labels=few, label_parts=inside, dualvae=dual, data=paths, training=epochs, parts=split, threads=a.threads, compile=a.compile, **where)))


if __name__ == "__main__": main()
