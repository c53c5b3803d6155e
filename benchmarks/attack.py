"""Speed of a training step of AR-DMVC-AM: as the models take it, against a literal one.

    python benchmarks/attack.py [--threads 1] [--net cnn] [--channels 64] [--images 28] [--runs 1] [--batch 100] [--steps 10] [--rounds 3] [--out FILE]

The defaults are the paper's networks; `--net mlp --images 14 --runs 5 --batch 50 --steps 5` is the cpu scale of `94_ardmvc_table1`,
five runs in one step against a literal step of each. A literal step computes the whole loss (contrastive and clustering) in every attack step, and lets autograd fill the gradients
of all parameters as well as those of the views; its networks are the same layers one after the other, in PyTorch's default
memory layout. Both start from the same weights, batch and noise; their attacked views, losses and gradients are compared first.
Times are medians over alternating rounds in one process, of the process's CPU time, which other programs disturb less:
compare the ratios of one run, not times of two.
"""
import argparse
import copy
import os
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

from mvnb.base import generator, write_json
from mvnb.fit import Stack
from mvnb.models import ViewSpec, evaluating, seeded
from mvnb.models.ardmvc import ARDMVCAM, ViewCNN, mitigator_loss, project
from mvnb.repro import provenance
from mvnb.views import Batch


class LiteralCNN(nn.Module):
    "The layers of a `ViewCNN` as they are written in the paper, sharing its parameters."
    def __init__(self, cnn):
        super().__init__()
        self.cnn, self.width = cnn, cnn.width

    def forward(self, x, rows, remember=True):
        for block, norm in enumerate(self.cnn.norms):
            x = F.relu(self.cnn.convs[2 * block](x))
            x = F.max_pool2d(F.relu(norm(self.cnn.convs[2 * block + 1](x), rows, remember)), 2)
        return x.flatten(1)


def literal_model(model):
    "The same weights in literal layers; perceptrons are literal as they are."
    copied = copy.deepcopy(model)
    copied.encoders = nn.ModuleList(LiteralCNN(f) if isinstance(f, ViewCNN) else f for f in copied.encoders)
    return copied


def literal_attack(model, batch, noise):
    "Attacked views: the whole loss in each step, gradients of everything."
    xs = [project(x + model.eps * noise[f"start{v}"], x, model.eps, batch.present[:, v]) for v, x in enumerate(batch.xs)]
    with evaluating(model):
        for _ in range(model.steps):
            here = [x.clone().requires_grad_() for x in xs]
            zs, _, hidden, logits = model.parts(here, batch.present)
            contrast = model.agreement(zs, batch.present)
            (contrast + 0 * model.cluster_loss(hidden, logits)).backward()  # the clustering loss is computed, and is no part of the attack
            xs = [project(x + model.step * h.grad.sign(), c, model.eps, batch.present[:, v]) for v, (x, h, c) in enumerate(zip(xs, here, batch.xs))]
        model.zero_grad()
    return xs


def literal_step(model, optimizer, batch, noise):
    "One step of plain PyTorch; returns the loss and the attacked views."
    zs, _, hidden, logits = model.parts(batch.xs, batch.present)
    total = model.cluster_loss(hidden, logits) + model.agreement(zs, batch.present)
    xs = literal_attack(model, batch, noise)
    zs, _, hidden, moved = model.parts(xs, batch.present)
    total = total + model.lam * (model.cluster_loss(hidden, moved) + model.agreement(zs, batch.present)) + model.gamma * mitigator_loss(moved, logits, model.mitigator)
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
    return float(total.detach()), xs


def build(channels, batch_size, steps, images=28, net="cnn", runs=1):
    "Models, and for each of them a batch of random images and the noise of a step."
    views = ViewSpec(((1, images, images),) * 2, ("image", "noisy"), tuple("0123456789"))
    settings, models, batches, noises = dict(net=net, channels=channels, hidden=(128, 64), steps=steps, lam=1.0), [], [], []
    for run in range(runs):
        with seeded(run, "weights"): models.append(ARDMVCAM(views, **settings))
        g = generator(run, "benchmark")
        batches.append(Batch(tuple(torch.rand(batch_size, *s, generator=g) for s in views.shapes), torch.ones(batch_size, 2, dtype=torch.bool), torch.full((batch_size,), -1)))
        noises.append(models[-1].draw(batch_size, g))
    return models, batches, noises


def together(batches, noises):
    "Batches and noise of all runs with a leading axis."
    return Batch(tuple(map(torch.stack, zip(*(b.xs for b in batches)))), *(torch.stack(ts) for ts in list(zip(*batches))[1:])), {k: torch.stack([n[k] for n in noises]) for k in noises[0]}


def compare(models, batches, noises):
    "Largest differences of the attacked views, the loss, and the gradients of the parameters, in double precision."
    models = [copy.deepcopy(m).double() for m in models]
    batches, noises = [b._replace(xs=tuple(x.double() for x in b.xs)) for b in batches], [{k: v.double() for k, v in n.items()} for n in noises]
    literals, stack = [literal_model(m) for m in models], Stack(models, lr=0.0)
    steps = [literal_step(m, torch.optim.SGD(m.parameters(), lr=0.0), b, n) for m, b, n in zip(literals, batches, noises)]
    ours = [m.attacked(b, n, m.parts(b.xs, b.present)[3]) for m, b, n in zip(models, batches, noises)]  # the clean pass has moved the running statistics
    terms, grads = stack.gradients(*together(batches, noises)), [{k.replace(".cnn.", "."): p for k, p in m.named_parameters()} for m in literals]
    return {"views": max(float((a - b).abs().max()) for (_, xs), moved in zip(steps, ours) for a, b in zip(moved, xs)),
            "loss": max(abs(float(total.detach()) - loss) for total, (loss, _) in zip(terms["model"], steps)),
            "gradients": max(float((p.grad[run] - one[k].grad).abs().max()) for run, one in enumerate(grads) for k, p in stack.params.items())}


def timed(step):
    "CPU seconds of one call, over all its threads."
    begin = time.process_time()
    step()
    return time.process_time() - begin


def measure(models, batches, noises, rounds):
    "CPU seconds per step and, of one run, per attack: ours and literal."
    literals, stack = [literal_model(m) for m in models], Stack([copy.deepcopy(m) for m in models], lr=1e-4)
    optimizers = [torch.optim.AdamW(m.parameters(), lr=1e-4, weight_decay=0., fused=True) for m in literals]
    model, literal, batch, noise = models[0], literals[0], batches[0], noises[0]
    logits, stacked = model.parts(batch.xs, batch.present, remember=False)[3].detach(), together(batches, noises)
    cases = {"step": lambda: stack.step(*stacked), "literal step": lambda: [literal_step(*each) for each in zip(literals, optimizers, batches, noises)],
             "attack": lambda: model.attacked(batch, noise, logits), "literal attack": lambda: literal_attack(literal, batch, noise)}
    for case in cases.values(): case()  # warm up
    times = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items(): times[name].append(timed(case))
    return {name: statistics.median(t) for name, t in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("threads", 1), ("channels", 64), ("images", 28), ("runs", 1), ("batch", 100), ("steps", 10), ("rounds", 3)): parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--net", choices=("cnn", "mlp"), default="cnn")
    parser.add_argument("--out", help="JSON file to write")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    different = compare(*build(2, 6, 3, net=a.net, runs=a.runs))
    print("largest differences from the literal step, double precision:", ", ".join(f"{k} {v:.1e}" for k, v in different.items()))
    times = measure(*build(a.channels, a.batch, a.steps, a.images, a.net, a.runs), a.rounds)
    for name in ("step", "attack"):
        print(f"{name:7s} {times[name]:7.3f} s, literal {times['literal ' + name]:7.3f} s, ratio {times['literal ' + name] / times[name]:.2f}")
    if a.out: write_json(a.out, {"arguments": {k: v for k, v in vars(a).items() if k != "out"}, "differences": different, "seconds": times, "load": os.getloadavg(), "provenance": provenance()})


if __name__ == "__main__": main()
