"The trainer against literal loops, faults, and itself."
import copy
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from toys import Adversarial, Proximal, SemiSupervised, make

from mvnb import models
from mvnb.base import generator
from mvnb.fit import NonFiniteLoss, Stack, fit
from mvnb.models import ModelFileError, ViewSpec
from mvnb.views import MultiView

quiet = dict(progress=False, device="cpu")


@pytest.fixture
def data():
    g = generator(1, "fit")
    return MultiView([torch.rand(48, 6, generator=g), torch.rand(48, 6, generator=g)], y=torch.where(torch.arange(48) < 15, torch.arange(48) % 3, -1), classes="abc")


def weights(model): return torch.cat([p.detach().flatten() for p in model.parameters()])


def reference_step(model, optimizers, batch, noise, clip=None):
    "What one step means, written out: every player's own gradient, clipped, its optimizer, the hook."
    parameters, out = dict(model.named_parameters()), None
    out = model(batch, noise)
    grads = {}
    for player, names in models.player_parameters(model).items():
        g = torch.autograd.grad(out[player], [parameters[k] for k in names], retain_graph=True)
        norm = torch.stack([x.pow(2).sum() for x in g]).sum().sqrt()
        scale = 1. if clip is None else min(1., clip / float(norm))
        grads |= {k: x * scale for k, x in zip(names, g)}
    for k, g in grads.items(): parameters[k].grad = g
    for o in optimizers: o.step()


@pytest.mark.parametrize("clip", [None, .1])
def test_stack_equals_unfused_unstacked_steps(data, clip):
    create = make(Adversarial, data)
    runs = [create(seed=k, eps=.05 * k) for k in range(3)]
    stack = Stack([create(seed=k, eps=.05 * k) for k in range(3)], lr=1e-2, weight_decay=.1, clip=clip)
    optimizers = [[torch.optim.AdamW(m.parameters(), lr=1e-2, weight_decay=.1, fused=False)] for m in runs]
    for t in range(10):
        noise = {"start": torch.rand(3, 48, 6, generator=generator(0, t)) * 2 - 1}
        batch = type(data.batch())(tuple(x.expand(3, *x.shape) for x in data.xs), data.present.expand(3, 48, 2), data.y.expand(3, 48))
        stack.step(batch, noise)
        for k, m in enumerate(runs): reference_step(m, optimizers[k], data.batch(), {"start": noise["start"][k]}, clip)
    for k, m in enumerate(runs):
        for name, p in m.named_parameters(): torch.testing.assert_close(stack.params[name][k].detach(), p.detach(), rtol=1e-3, atol=1e-5)
        for name, b in m.named_buffers(): torch.testing.assert_close(stack.buffers[name][k], b, rtol=1e-3, atol=1e-5)
    assert int(stack.buffers["encoder.1.num_batches_tracked"][0]) == 20, "clean and adversarial pass; PGD's passes leave no trace"


def test_gradients_of_transposed_products_are_contiguous(data):
    stack = Stack([make(Proximal, data)(seed=k) for k in range(2)], lr=1e-2)
    batch = type(data.batch())(tuple(x.expand(2, *x.shape) for x in data.xs), data.present.expand(2, 48, 2), data.y.expand(2, 48))
    stack.gradients(batch, {})
    assert all(p.grad.is_contiguous() for p in stack.params.values())


def test_proximal_step_is_the_models_and_uses_the_runs_own_setting(data):
    result = fit(make(Proximal, data), data, epochs=40, batch_size=16, seeds=[0, 0, 0], per_run={"lam": [0., 1., 1e3]}, schedule="constant", **quiet)
    norms = [m.W.norm(dim=1) for m in result.models]
    assert (norms[0] > 0).all() and norms[1].sum() < norms[0].sum() and (norms[2] == 0).all()


def test_sgd_parameters_take_plain_gradient_steps(data):
    create = make(Proximal, data)
    m = create(seed=0, lam=0.)
    stack = Stack([create(seed=0, lam=0.)], lr=1e-3)
    batch = type(data.batch())(tuple(x[None] for x in data.xs), data.present[None], data.y[None])
    stack.step(batch, {})
    g, = torch.autograd.grad(m(data.batch(), {})["model"], [m.W])
    torch.testing.assert_close(stack.params["W"][0].detach(), m.W.detach() - 1e-2 * g)


def test_semi_supervised_streams_learn_from_both(data):
    g = generator(2, "blobs")
    y = torch.arange(300) % 3
    x = torch.eye(6)[y] * 2 + .3 * torch.randn(300, 6, generator=g)
    train = MultiView([x, x], y=torch.where(torch.arange(300) < 9, y, -1), classes="abc")
    model = fit(make(SemiSupervised, train), train, epochs=60, batch_size=32, lr=1e-2, per_run={"c": [5.]}, **quiet).models[0]
    assert (model.predict(train) == y).float().mean() > .95


def test_every_row_is_seen_once_an_epoch_and_absent_entries_as_zero():
    class Spy(Proximal):
        def losses(self, batch, noise):
            x = batch.xs[0]
            return super().losses(batch, noise) | {"sum": x.sum(), "squares": x.pow(2).sum(), "cubes": x.pow(3).sum()}
    mv = MultiView([torch.arange(1., 13)[:, None], torch.ones(12, 1)], present=[[1, 1]] * 11 + [[0, 1]])
    h = fit(make(Spy, mv), mv, epochs=1, batch_size=4, **quiet).history.set_index("term")["value"] * 3  # means over 3 steps
    assert [h["sum"], h["squares"], h["cubes"]] == [sum(k ** e for k in range(1, 12)) for e in (1, 2, 3)]


def test_runs_with_their_own_data_equal_runs_alone(data):
    from mvnb.corrupt import drop_views
    datas = [drop_views(data, .5, seed=k) for k in range(2)]
    create = lambda seed: models.create("dualvae", data, seed=seed, hidden=(8,))
    for resident in (True, False):
        both = fit(create, datas, epochs=2, batch_size=16, seeds=[0, 1], resident=resident, **quiet)
        for k in range(2):
            one = fit(create, datas[k], epochs=2, batch_size=16, seeds=[k], **quiet)
            torch.testing.assert_close(weights(both.models[k]), weights(one.models[0]), rtol=1e-3, atol=1e-5)


def test_data_that_streams_gives_the_same_numbers_as_resident_data(data, tmp_path):
    np.save(tmp_path / "x.npy", data.xs[0].numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    stream = MultiView([mapped, data.xs[1]], y=data.y, classes="abc")
    a, b = (fit(make(Proximal, data), d, epochs=2, batch_size=16, resident=r, **quiet).models[0] for d, r in ((data, True), (stream, False)))
    assert torch.equal(weights(a), weights(b))


def test_groups_of_runs_give_the_same_runs(data):
    create = make(Proximal, data)
    together = fit(create, data, epochs=2, batch_size=16, seeds=[0, 1, 2], **quiet)
    groups = fit(create, data, epochs=2, batch_size=16, seeds=[0, 1, 2], runs_per_step=2, **quiet)
    for a, b in zip(together.models, groups.models): torch.testing.assert_close(weights(a), weights(b), rtol=1e-4, atol=1e-6)
    assert groups.runs["run"].tolist() == [0, 1, 2] and set(groups.history["run"]) == {0, 1, 2}
    pd.testing.assert_frame_equal(together.history, groups.history, rtol=1e-4)


class Fragile(Proximal):
    "Its loss becomes NaN in a run whose lam is negative-coded (above 100), after some steps."
    def __init__(self, views, lam=1.0):
        super().__init__(views, lam)
        self.register_buffer("count", torch.zeros(()))
    def losses(self, batch, noise):
        self.count.add_(1)
        out = super().losses(batch, noise)
        spoil = torch.where((self.lam > 100) & (self.count > 7), float("nan"), 0.0)
        return {"model": out["model"] + spoil, "plain": out["model"].detach()}


def test_a_nan_stops_its_run_alone_and_is_named(data, tmp_path):
    create = make(Fragile, data)
    with pytest.warns(RuntimeWarning, match=r"run 1 \(seed 8\): 'model' is not finite in epoch 2, step 1"):
        result = fit(create, data, epochs=4, batch_size=16, seeds=[7, 8, 9], per_run={"lam": [0., 101., 0.]}, out=tmp_path, **quiet)
    assert result.models[1] is None and list(result.errors) == [1] and result.runs.status.tolist() == ["done", "failed", "done"]
    assert torch.isfinite(weights(result.last_good[1])).all() and int(result.last_good[1].count) <= 7
    for k, seed in ((0, 7), (2, 9)):
        alone = fit(create, data, epochs=4, batch_size=16, seeds=[seed], per_run={"lam": [0.]}, **quiet)
        torch.testing.assert_close(weights(result.models[k]), weights(alone.models[0]), rtol=1e-4, atol=1e-6)
    again = fit(create, data, epochs=4, batch_size=16, seeds=[7, 8, 9], per_run={"lam": [0., 101., 0.]}, out=tmp_path, **quiet)
    assert again.models[1] is None and torch.equal(weights(again.models[0]), weights(result.models[0])), "the finished training is read back"


class Scalars(models.Model):
    "All it trains are a 0-d parameter and a vector; a start above 100 overflows."
    per_run = ("start",)
    def __init__(self, views, start=0.0):
        super().__init__(views)
        self.setting("start", start)
        self.scale, self.shift = torch.nn.Parameter(torch.tensor(.5)), torch.nn.Parameter(torch.zeros(6))
    def losses(self, batch, noise): return {"model": ((self.scale * batch.xs[0] + self.shift - self.start) * torch.where(self.start > 100, torch.inf, 1.)).square().sum(1).mean()}


@pytest.mark.parametrize("clip", [None, .1])
def test_a_parameter_without_dimensions_trains_clips_and_fails_like_any_other(data, clip, tmp_path):
    create = make(Scalars, data)
    arguments = dict(epochs=3, batch_size=16, lr=1e-2, weight_decay=.1, clip=clip, **quiet)
    together = fit(create, data, seeds=[0, 1, 2], per_run={"start": [0., 1., 2.]}, out=tmp_path / "all", **arguments)
    for k in range(3):
        alone = fit(create, data, seeds=[k], per_run={"start": [float(k)]}, **arguments).models[0]
        assert alone.scale.ndim == together.models[k].scale.ndim == 0 and alone.scale != .5
        torch.testing.assert_close(weights(together.models[k]), weights(alone), rtol=1e-4, atol=1e-6)
    batch = data.batch()
    stack = Stack([create(seed=0, start=3.)], lr=1e-2, clip=clip)
    reference = create(seed=0, start=3.)
    stack.step(type(batch)(tuple(x[None] for x in batch.xs), batch.present[None], batch.y[None]), {})
    reference_step(reference, [torch.optim.AdamW(reference.parameters(), lr=1e-2, weight_decay=0., fused=False)], batch, {}, clip)
    torch.testing.assert_close(stack.params["scale"][0].detach(), reference.scale.detach())
    with pytest.warns(RuntimeWarning, match="run 1"): broken = fit(create, data, seeds=[0, 1, 2], per_run={"start": [0., 101., 2.]}, **arguments)
    assert broken.models[1] is None and float(broken.last_good[1].scale.detach()) == .5, "the 0-d weight was good before"
    for k in (0, 2): torch.testing.assert_close(weights(broken.models[k]), weights(together.models[k]), rtol=1e-4, atol=1e-6)
    again = fit(create, data, seeds=[0, 1, 2], per_run={"start": [0., 1., 2.]}, out=tmp_path / "all", **arguments)
    assert all(torch.equal(weights(a), weights(b)) for a, b in zip(again.models, together.models)), "read back from its file"


def test_if_no_run_is_left_the_error_is_raised(data):
    with pytest.warns(RuntimeWarning), pytest.raises(NonFiniteLoss, match="run 0"):
        fit(make(Fragile, data), data, epochs=4, batch_size=16, per_run={"lam": [101.]}, **quiet)


script = """
import sys, torch
sys.path.insert(0, {tests!r})
from toys import Adversarial, make
from test_fit import slow_data
from mvnb.fit import fit
torch.set_num_threads(1)
data = slow_data()
fit(make(Adversarial, data), data, epochs=60, batch_size=16, seeds=[0, 1], out={out!r}, checkpoint_seconds=.05, progress=False, device="cpu")
print("done")
"""

def slow_data():
    g = generator(3, "slow")
    return MultiView([torch.rand(160, 6, generator=g)] * 2)


def test_killed_at_any_moment_it_continues_to_the_same_numbers(tmp_path):
    data, out = slow_data(), tmp_path / "run"
    kills = 0
    for wait in (.2, .35, .5, .1, .6):
        child = subprocess.Popen([sys.executable, "-c", script.format(tests=str(Path(__file__).parent), out=str(out))], stdout=subprocess.PIPE)
        limit = time.monotonic() + 60
        before = (out / "runs_0.pt").stat().st_mtime_ns if (out / "runs_0.pt").exists() else 0
        while child.poll() is None and time.monotonic() < limit and not ((out / "runs_0.pt").exists() and (out / "runs_0.pt").stat().st_mtime_ns > before): time.sleep(.01)
        time.sleep(wait)
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            kills += 1
        child.communicate()
        if kills >= 2: break
    assert kills >= 1, "the training ended before it could be killed"
    arguments = dict(epochs=60, batch_size=16, seeds=[0, 1], progress=False, device="cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        resumed = fit(make(Adversarial, data), data, out=out, **arguments)
        whole = fit(make(Adversarial, data), data, **arguments)
    finally: torch.set_num_threads(threads)
    for a, b in zip(resumed.models, whole.models): assert torch.equal(weights(a), weights(b))
    assert resumed.history["value"].tolist() == pytest.approx(whole.history["value"].tolist(), rel=1e-12)


def test_ctrl_c_saves_and_the_next_call_continues(tmp_path):
    out = tmp_path / "run"
    child = subprocess.Popen([sys.executable, "-c", script.format(tests=str(Path(__file__).parent), out=str(out))], stderr=subprocess.PIPE, text=True)
    while child.poll() is None and not (out / "runs_0.pt").exists(): time.sleep(.01)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert "KeyboardInterrupt: stopped in epoch" in err and "continues from" in err
    state = torch.load(out / "runs_0.pt", weights_only=True)
    assert (state["epoch"], state["step"]) > (0, 0) and state["epoch"] < 60


def test_a_checkpoint_of_another_training_is_refused_and_a_damaged_one_named(data, tmp_path):
    create = make(Proximal, data)
    fit(create, data, epochs=2, batch_size=16, out=tmp_path, **quiet)
    for change in (dict(lr=5e-3), dict(epochs=3), dict(batch_size=8), dict(seeds=[1])):
        with pytest.raises(ValueError, match=next(iter(change))): fit(create, data, **(dict(epochs=2, batch_size=16) | change), out=tmp_path, **quiet)
    with pytest.raises(ValueError, match="data"): fit(create, data.replace(xs=[x + 1 for x in data.xs]), epochs=2, batch_size=16, out=tmp_path, **quiet)
    file = tmp_path / "runs_0.pt"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelFileError, match="runs_0.pt"): fit(create, data, epochs=2, batch_size=16, out=tmp_path, **quiet)


def test_a_live_curve_is_a_picture_in_a_notebook(monkeypatch):
    from mvnb.fit import _Progress
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda picture, display_id: shown.append(picture))
    show = _Progress(3, 2, show=False)
    show.live = True
    for epoch in (1, 2, 3): show(epoch, {"model": 1. / epoch})
    show.close()
    assert len(shown) == 1 and shown[0].data.startswith(b"\x89PNG") and show.curve == {"model": [(1, 1.), (2, .5), (3, 1. / 3)]}


def test_a_bad_score_stops_its_run_alone(data, tmp_path):
    create, score = make(Proximal, data), lambda m: float("nan") if m.lam > 5 else 1.
    with pytest.warns(RuntimeWarning, match="'score' is not finite"):
        result = fit(create, data, epochs=2, batch_size=16, seeds=[0, 1], per_run={"lam": [1., 9.]}, score=score, out=tmp_path, **quiet)
    assert result.runs.status.tolist() == ["done", "failed"] and torch.isfinite(weights(result.last_good[1])).all()
    with pytest.warns(RuntimeWarning), pytest.raises(NonFiniteLoss, match="'score'"): fit(create, data, epochs=2, batch_size=16, per_run={"lam": [9.]}, score=score, **quiet)


def test_groups_number_their_errors_by_the_whole_and_errors_travel(data):
    with pytest.warns(RuntimeWarning):
        result = fit(make(Fragile, data), data, epochs=4, batch_size=16, seeds=[0, 1, 2], per_run={"lam": [0., 0., 101.]}, runs_per_step=1, **quiet)
    error = pickle.loads(pickle.dumps(result.errors[2]))
    assert error.run == 2 and "run 2 (seed 2)" in str(error) and result.history["value"].dtype == float


def test_interrupted_in_the_last_validation_everything_is_saved(data, tmp_path):
    def score(model):
        signal.raise_signal(signal.SIGINT)
        return 1.
    with pytest.raises(KeyboardInterrupt, match="the same call continues"): fit(make(Proximal, data), data, epochs=1, batch_size=16, score=score, out=tmp_path, **quiet)
    assert fit(make(Proximal, data), data, epochs=1, batch_size=16, score=score, out=tmp_path, **quiet).runs.status.tolist() == ["done"]


def test_out_is_tried_before_any_work(data, tmp_path):
    (tmp_path / "file").write_text("")
    class Never(Proximal):
        def losses(self, batch, noise): raise AssertionError("trained before out was tried")
    with pytest.raises(ValueError, match="must be a folder to write in"): fit(make(Never, data), data, epochs=1, out=tmp_path / "file", **quiet)


def test_a_checkpoint_knows_every_runs_numbers_and_all_of_the_data(tmp_path):
    g = generator(5, "fingerprint")
    mv = MultiView([torch.rand(4000, 3, generator=g), torch.rand(4000, 3, generator=g)], torch.arange(4000)[:, None] % 7 > torch.tensor([[-1, 2]]))
    arguments = dict(epochs=0, settings={"hidden": (4,), "variant": "paper"}, out=tmp_path, **quiet)
    fit("dualvae", mv, **arguments)
    with pytest.raises(ValueError, match="model"): fit("dualvae", mv, **(arguments | {"settings": {"hidden": (4,), "variant": "mvnb"}}))
    with pytest.raises(ValueError, match="score"): fit("dualvae", mv, **arguments, valid=mv[:10])
    changed = mv.xs[0].clone()
    changed[1] += 1
    with pytest.raises(ValueError, match="data"): fit("dualvae", mv.replace(xs=[changed, mv.xs[1]]), **arguments)
    holed = mv.replace(xs=[x.masked_fill(~mv.present[:, v, None], float("nan")) for v, x in enumerate(mv.xs)])
    fit("dualvae", holed, **arguments)  # what stands where data is absent does not count
    square = torch.rand(6, 6, generator=g)
    from mvnb.fit import _fingerprint
    a, t = MultiView([square]), MultiView([square.T])
    assert _fingerprint([a, a]) != _fingerprint([a, t])


def test_frozen_parameters_stay(data):
    def create(seed):
        model = make(Proximal, data)(seed=seed)
        model.encoder.layers[0].weight.requires_grad_(False)
        return model
    result = fit(create, data, epochs=2, batch_size=16, seeds=[0, 1], **quiet)
    for k, m in enumerate(result.models):
        assert torch.equal(m.encoder.layers[0].weight, create(k).encoder.layers[0].weight) and not m.encoder.layers[0].weight.requires_grad
        assert not torch.equal(m.encoder.layers[0].bias, create(k).encoder.layers[0].bias)


def test_float64_data_train_a_float32_model(data):
    double = data.replace(xs=[x.double() for x in data.xs])
    a, b = (fit(make(Proximal, data), d, epochs=1, batch_size=16, **quiet).models[0] for d in (data, double))
    assert torch.equal(weights(a), weights(b))


def test_training_beside_other_threads_that_draw(data):
    stop, made = threading.Event(), make(Proximal, data)(seed=0)  # torch's layers draw their first weights from the global generator
    def create(seed): return copy.deepcopy(made)
    def draw():
        while not stop.is_set(): torch.rand(3)
    noisy = threading.Thread(target=draw)
    noisy.start()
    try: a = fit(create, data, epochs=20, batch_size=16, **quiet)
    finally:
        stop.set()
        noisy.join()
    assert torch.equal(weights(a.models[0]), weights(fit(create, data, epochs=20, batch_size=16, **quiet).models[0]))


def test_data_that_is_not_resident_is_fetched_in_small_pieces(data, monkeypatch):
    import mvnb.fit
    want = fit(make(Proximal, data), data, epochs=1, batch_size=4, **quiet)
    largest, rows = [0], mvnb.fit._Field.rows
    def spy(self, index):
        tensor, local = rows(self, index)
        largest[0] = max(largest[0], len(tensor))
        return tensor, local
    monkeypatch.setattr(mvnb.fit, "_FETCH_BYTES", 8 * 48)
    monkeypatch.setattr(mvnb.fit._Field, "rows", spy)
    have = fit(make(Proximal, data), data, epochs=1, batch_size=4, resident=False, **quiet)
    assert largest[0] <= 8 and torch.equal(weights(want.models[0]), weights(have.models[0]))


def test_early_stopping_keeps_each_runs_best_weights(data):
    scores = {0: [1, 5, 2, 1, 0, 9], 1: [1, 2, 3, 4, 5, 6]}
    class Numbered(Proximal):
        per_run = ("lam", "which")
        def __init__(self, views, lam=0., which=0.):
            super().__init__(views, lam)
            self.setting("which", which)
    calls, kept = {0: 0, 1: 0}, {}
    def score(model):
        k = int(model.which)
        value = scores[k][calls[k]]
        if value == 5: kept[k] = weights(model).clone()
        calls[k] += 1
        return float(value)
    result = fit(make(Numbered, data), data, epochs=6, batch_size=16, seeds=[0, 0], per_run={"which": [0., 1.]}, score=score, patience=3, **quiet)
    assert result.runs.status.tolist() == ["stopped early", "done"] and result.runs.epochs.tolist() == [5, 6]
    assert torch.equal(weights(result.models[0]), kept[0])


def test_validation_data_gives_a_score(data):
    result = fit(make(Proximal, data), data[:32], epochs=3, batch_size=16, valid=data[32:], **quiet)
    scores = result.history.query("term == 'score'")
    assert len(scores) == 3 and np.isfinite(scores["value"]).all()


def test_validation_works_with_streams_and_inner_gradients(data):
    for cls in (SemiSupervised, Adversarial):
        assert not fit(make(cls, data), data, epochs=1, batch_size=16, valid=data, **quiet).history.query("term == 'score'").empty


def test_history_is_tidy(data):
    h = fit(make(Adversarial, data), data, epochs=3, batch_size=16, seeds=[4, 5], per_run={"eps": [.1, .2]}, **quiet).history
    assert list(h.columns) == ["run", "seed", "eps", "epoch", "term", "value"]
    assert len(h) == 2 * 3 * 2 and set(h["term"]) == {"model", "discriminator"} and h.groupby("run")["seed"].first().tolist() == [4, 5]


def test_models_are_written_and_nothing_temporary_stays(tmp_path):
    mv = MultiView([torch.rand(20, 5), torch.rand(20, 5)])
    result = fit("dualvae", mv, epochs=1, batch_size=10, seeds=[0, 1], settings={"hidden": (8,)}, out=tmp_path, **quiet)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run_0.pt", "run_1.pt", "runs_0.pt"]
    assert torch.equal(models.load(tmp_path / "run_1.pt").embed(mv), result.models[1].embed(mv))


@pytest.mark.parametrize("wrong, message", [
    (dict(epochs=-1), "epochs must be >= 0"), (dict(epochs=1.5), "epochs must be a whole number"), (dict(epochs=1, batch_size=0), "batch_size"),
    (dict(epochs=1, lr=0), "lr must be"), (dict(epochs=1, lr=float("nan")), "lr must be"), (dict(epochs=1, weight_decay=-1), "weight_decay"),
    (dict(epochs=1, clip=0), "clip"), (dict(epochs=1, seeds=[]), "at least one run"), (dict(epochs=1, seeds=[-1]), "seeds must be >= 0"),
    (dict(epochs=1, schedule="step"), "choose one of: cosine, constant"), (dict(epochs=1, patience=2), "patience needs"),
    (dict(epochs=1, per_run={"lam": [1., 2.]}), "2 values for 1 runs"), (dict(epochs=1, per_run={"lam": [float("inf")]}), "lam must be a finite"),
    (dict(epochs=1, runs_per_step=0), "runs_per_step"), (dict(epochs=1, resident="yes"), "resident"), (dict(epochs=1, settings={"a": 1}), "settings go with"),
    (dict(epochs=1, seeds=3), "seeds must be a list"), (dict(epochs=1, seeds=np.array([1.5])), "seeds must be a whole"), (dict(epochs=1, seeds=np.array([True])), "seeds must be a whole"),
    (dict(epochs=1, betas=.9), "betas must be two"), (dict(epochs=1, betas=(.9,)), "betas must be two"), (dict(epochs=1, betas=(.9, 1.)), "betas must lie"),
    (dict(epochs=1, per_run={"lam": .1}), r"per_run\['lam'\] must list"),
    (dict(epochs=1, checkpoint_seconds=-1), "checkpoint_seconds"), (dict(epochs=1, validate_every=0), "validate_every"),
])
def test_bad_arguments_are_named(data, wrong, message):
    with pytest.raises((ValueError, TypeError), match=message): fit(make(Proximal, data), data, progress=False, **wrong)


def test_bad_data_and_models_are_named(data):
    create = make(Proximal, data)
    with pytest.raises(TypeError, match="MultiView"): fit(create, [torch.zeros(3, 2)], epochs=1, **quiet)
    with pytest.raises(ValueError, match="2 data sets for 1 runs"): fit(create, [data, data], epochs=1, **quiet)
    with pytest.raises(ValueError, match="same number of rows"): fit(create, [data, data[:9]], epochs=1, seeds=[0, 1], **quiet)
    with pytest.raises(ValueError, match="no rows"): fit(create, data[:0], epochs=1, **quiet)
    with pytest.raises(ValueError, match="choose one of: .*dualvae, "): fit("dualvea", data, epochs=1, **quiet)
    with pytest.raises(TypeError, match="create must be"): fit(None, data, epochs=1, **quiet)
    with pytest.raises(ValueError, match="per_run='beta_x' is unknown|dualvae setting='beta_x' is unknown"): fit("dualvae", data, epochs=1, per_run={"beta_x": [1.]}, **quiet)
    with pytest.raises(ValueError, match="another architecture"):
        fit(lambda seed: Proximal(ViewSpec.of(data), width=6 + seed), data, epochs=1, seeds=[0, 1], **quiet)
    with pytest.raises(TypeError, match="score must be a function"): fit(create, data, epochs=1, score=3, **quiet)
    with pytest.raises(TypeError, match="must return a mvnb.models.Model, got Linear"): fit(lambda seed: torch.nn.Linear(2, 2), data, epochs=1, **quiet)
    with pytest.raises(ValueError, match="same view names"): fit(create, [data, data.select([1, 0])], epochs=1, seeds=[0, 1], **quiet)
    with pytest.raises(ValueError, match="same classes"): fit(create, [data, data.replace(classes="abcd")], epochs=1, seeds=[0, 1], **quiet)
    with pytest.raises(ValueError, match="device='gpu' is unknown"): fit(create, data, epochs=1, device="gpu")
    with pytest.raises(ValueError, match="stands in settings and in per_run"): fit("dualvae", data, epochs=1, settings={"beta_c": 1.}, per_run={"beta_c": [1.]}, **quiet)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA GPU"): fit(create, data, epochs=1, device="cuda", progress=False)


def test_an_empty_stream_is_named(data):
    with pytest.raises(ValueError, match="no rows for the stream 'unlabelled'"):
        fit(make(SemiSupervised, data), data[:9], epochs=1, batch_size=8, **quiet)


def test_zero_epochs_return_the_initial_weights(data):
    create = make(Proximal, data)
    assert torch.equal(weights(fit(create, data, epochs=0, **quiet).models[0]), weights(create(seed=0)))


def test_hidden_randomness_is_an_error(data):
    class Secret(Proximal):
        def losses(self, batch, noise):
            out = super().losses(batch, noise)
            return {"model": out["model"] + torch.randn_like(batch.xs[0]).mean()}
    for seeds in ([0], [0, 1]):
        with pytest.raises(RuntimeError, match="random"): fit(make(Secret, data), data, epochs=1, batch_size=16, seeds=seeds, **quiet)


def test_a_parameter_without_player_or_with_two_is_an_error(data):
    class Nobody(Proximal): players = {"model": ("encoder",)}
    class Both(Proximal): players = {"model": ("",), "other": ("W",)}
    for cls in (Nobody, Both):
        with pytest.raises(ValueError, match="exactly one player"): fit(make(cls, data), data, epochs=1, **quiet)


@pytest.mark.slow
def test_compiled_steps_give_the_same_numbers(data):
    create = make(Proximal, data)
    a, b = (fit(create, data, epochs=2, batch_size=16, seeds=[0, 1], compile=c, **quiet) for c in (None, "default"))
    torch.testing.assert_close(weights(a.models[1]), weights(b.models[1]), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_compiled_steps_of_two_players():
    "Each player's gradient is a backward pass through one compiled loss, of which a second one in a process is compiled with other buffers."
    images = MultiView([torch.rand(32, 1, 8, 8, generator=generator(v, "compiled")) for v in range(2)])
    for variant in ("mvnb", "authors"):
        a, b = (fit("dualvae", images, epochs=1, batch_size=16, seeds=[0, 1], settings={"hidden": (8,), "variant": variant}, compile=c, **quiet) for c in (None, "default"))
        torch.testing.assert_close(weights(a.models[1]), weights(b.models[1]), rtol=1e-3, atol=1e-5)
