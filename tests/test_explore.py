"Everything behind the pages, without a browser: the worker, the frame, the mosaic, the page, and each page's state."
import contextvars
import io
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image
from traitlets import TraitError

from mvnb import explore
from mvnb.attack import attack_scores
from mvnb.corrupt import corrupt, missing_rate
from mvnb.data import load
from mvnb.evaluate import kmeans_scores, raw_features, robustness_curve
from mvnb.explore import (Attacks, BarGroups, BodyGroups, Corruptions, FaceGroups, FewLabels, Frame, Latest, Page, Robustness, choice_buttons, fingerprint, kept_models,
                          mosaic, number_slider, ratio_slider, read_models, remembered, score_grid)
from mvnb.fit import fit
from mvnb.plots import MISSING, blank_figure, style
from mvnb.semi import accuracy, fit_problems, imputation_error, load_parts, problem

PAGES = sorted((Path(__file__).resolve().parent.parent / "nbs/explore").glob("*.ipynb"))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    "One empty cache for all tests of this file."
    with pytest.MonkeyPatch.context() as m:
        folder = tmp_path_factory.mktemp("cache")
        m.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "mvnb/explore"


def picture(page): return np.asarray(Image.open(io.BytesIO(page.picture.value)))


# ---- the newest request wins

def test_only_the_newest_waiting_request_is_served():
    served, go, started = [], threading.Event(), threading.Event()
    def work(x):
        served.append(x)
        started.set()
        assert go.wait(60)
    latest = Latest(work, failed=lambda e: served.append(e))
    latest.submit(0)
    assert started.wait(60)
    for i in range(1, 100): latest.submit(i)
    assert served == [0]
    go.set()
    latest.wait(60)
    assert served == [0, 99]


def test_work_never_overlaps_and_the_last_is_always_served():
    running, worst, done = [0], [0], []
    def work(x):
        running[0] += 1
        worst[0] = max(worst[0], running[0])
        done.append(x)
        running[0] -= 1
    latest = Latest(work, failed=done.append)
    threads = [threading.Thread(target=lambda k=k: [latest.submit(k) for _ in range(200)]) for k in range(4)]
    for t in threads: t.start()
    for t in threads: t.join()
    latest.submit("last")
    latest.wait(60)
    assert worst[0] == 1 and done[-1] == "last" and not [x for x in done if isinstance(x, Exception)]


def test_a_failure_is_reported_and_the_next_request_served():
    failed, done = [], []
    latest = Latest(lambda x: done.append(1 / x), failed.append)
    latest.submit(0)
    latest.wait(60)
    latest.submit(2)
    latest.wait(60)
    assert isinstance(failed[0], ZeroDivisionError) and done == [.5]


def test_work_sees_the_context_of_its_request():
    var, seen = contextvars.ContextVar("var", default=0), []
    latest = Latest(lambda: seen.append(var.get()), seen.append)
    var.set(7)
    latest.submit()
    latest.wait(60)
    assert seen == [7]


def test_waiting_has_an_end():
    go = threading.Event()
    latest = Latest(lambda: go.wait(60), print)
    latest.submit()
    with pytest.raises(TimeoutError, match="0.01 seconds"): latest.wait(.01)
    go.set()
    latest.wait(60)


def test_work_hears_that_it_is_overtaken():
    heard, started, go = [], threading.Event(), threading.Event()
    def work(x):
        started.set()
        assert go.wait(60)
        heard.append(latest.overtaken)
    latest = Latest(work, heard.append)
    latest.submit(0)
    assert started.wait(60) and not latest.overtaken
    latest.submit(1)
    go.set()
    latest.wait(60)
    assert heard == [True, False]


def test_python_does_not_wait_for_work_that_can_stop():
    code = """import threading, time
from mvnb.explore import Latest
started = threading.Event()
def work():
    started.set()
    while not latest.overtaken: time.sleep(.01)
    print("stopped")
latest = Latest(work, print)
latest.submit()
started.wait()
print("end")"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.split() == ["end", "stopped"] and not done.stderr


# ---- figure and mosaic

def drawing():
    with style():
        figure = blank_figure(3, 2)
        ax = figure.subplots()
        line, = ax.plot([0, 1, 2], [0, 1, 0])
    return figure, ax, line


def test_equal_content_gives_equal_bytes_and_the_layout_stays():
    figure, ax, line = drawing()
    frame = Frame(figure, [line])
    first, place = frame.png(), ax.get_position().bounds
    line.set_ydata([1, 0, 1])
    second = frame.png()
    assert second != first and ax.get_position().bounds == place
    line.set_ydata([0, 1, 0])
    assert frame.png() == first
    assert Image.open(io.BytesIO(first)).size == (240, 160)
    other = Frame(*(lambda f, a, l: (f, [l]))(*drawing()))
    assert other.png() == first


def test_a_frame_shows_what_a_whole_drawing_shows():
    figure, ax, line = drawing()
    frame = Frame(figure, [line])
    line.set_ydata([1, .2, 1])
    ours = np.asarray(Image.open(io.BytesIO(frame.png())))
    line.set_animated(False)
    frame.canvas.draw()
    whole = np.asarray(frame.canvas.buffer_rgba())[..., :3]
    assert (ours != whole).any(-1).mean() < .002  # the line over instead of under a tick of the axes


def test_mosaic_puts_tiles_in_their_place():
    g = torch.Generator().manual_seed(0)
    rows = [torch.rand(4, 1, 8, 8, generator=g), torch.rand(4, 3, 8, 8, generator=g), torch.rand(4, 8, 8, generator=g).numpy()]
    missing = np.zeros((3, 4), bool)
    missing[1, 2] = True
    m = mosaic(rows, missing, gap=3)
    assert m.shape == (3 * 35 + 3, 4 * 35 + 3, 3)
    def tile(r, c): return m[3 + r * 35:35 + r * 35, 3 + c * 35:35 + c * 35]
    for c in range(4):
        assert np.array_equal(tile(0, c)[::4, ::4], np.repeat(rows[0][c, 0].numpy()[..., None], 3, -1))
        if c != 2: assert np.array_equal(tile(1, c)[3::4, 3::4], np.moveaxis(rows[1][c].numpy(), 0, -1))
    colours = {tuple(x) for x in tile(1, 2).reshape(-1, 3)}
    assert colours == {(1., 1., 1.), tuple(np.float32(to_rgb(MISSING)))}
    assert (m[:3] == 1).all() and (m[:, -3:] == 1).all()


def test_mosaic_clips_and_refuses():
    assert mosaic([torch.tensor([[[2., -1.]]])], gap=0).tolist()[0][0] == [1, 1, 1]
    assert mosaic([torch.tensor([[[2., -1.]]])], gap=0).tolist()[0][-1] == [0, 0, 0]
    with pytest.raises(ValueError, match="one shape"): mosaic([torch.zeros(2, 8, 8), torch.zeros(3, 8, 8)])
    with pytest.raises(ValueError, match="one shape"): mosaic([])
    with pytest.raises(ValueError, match="channels"): mosaic([torch.zeros(2, 5, 8, 8)])
    assert mosaic([torch.zeros(1, 40, 64)], gap=1).shape == (42, 66, 3)


# ---- the page

class Dot:
    alt = "A dot."
    def __init__(self):
        figure, ax, line = drawing()
        self.figure, self.moving, self.line = figure, [line], line
    def controls(self): return {"height": ratio_slider("height", [0, .5, 1], .5), "number": number_slider("number", 3)}
    def show(self, height, number):
        if number == 3: raise ValueError("no <b>three</b>")
        self.line.set_ydata([0, height, number / 3])
        return {"height": f"{height:g}", "odd <i>": str(number % 2 == 1)}


def test_page_draws_moves_and_returns():
    page = Page(Dot())
    first = page.picture.value
    page.set(height=1)
    assert page.picture.value != first and page.picture.tooltip == "A dot. Now: height: 1; odd <i>: False"
    page.set(number=1, height=.5)
    assert "odd &lt;i&gt;:</span> True" in page.readout.value and "role='status'" in page.readout.value
    page.set(number=0)
    assert page.picture.value == first and page.values() == {"height": .5, "number": 0}


def test_page_says_what_went_wrong_and_goes_on():
    page = Page(Dot())
    first = page.picture.value
    page.set(number=3)
    assert "ValueError: no &lt;b&gt;three&lt;/b&gt;" in page.readout.value and "role='alert'" in page.readout.value and "Traceback" in page.readout.value
    assert page.picture.value == first
    page.set(number=0)
    assert "alert" not in page.readout.value and page.picture.value == first


def test_a_page_that_cannot_draw_at_all_fails_at_once():
    class Broken(Dot):
        def show(self, **values): raise ValueError("broken")
    with pytest.raises(ValueError, match="broken"): Page(Broken())


def test_page_has_fixed_sizes_and_an_accessible_name():
    page = Page(Dot(), readout_height=4)
    assert (page.picture.layout.width, page.picture.layout.height, page.picture.layout.min_height) == ("240px", "160px", "160px")
    assert page.readout.layout.height == page.readout.layout.min_height == "6em" and page.readout.layout.overflow == "auto"
    assert page.picture.get_state()["tooltip"].startswith("A dot.") and page.picture.get_state()["description"] == ""


def test_moves_do_not_queue_up():
    class Slow(Dot):
        shown, go, started = [], threading.Event(), threading.Event()
        def show(self, height, number):
            self.shown.append(number)
            if number == 1:
                self.started.set()
                assert self.go.wait(60)
            return super().show(height, number % 3)
    page = Page(Slow())
    page.controls["number"].value = 1
    assert Slow.started.wait(60)
    for number in (2, 0, 2, 0, 2): page.controls["number"].value = number
    Slow.go.set()
    page.latest.wait(60)
    assert Slow.shown == [0, 1, 2]


class Slow(Dot):
    "Needs a number to be computed before it can be shown."
    def __init__(self):
        super().__init__()
        self.known, self.go, self.asked = set(), {n: threading.Event() for n in range(4)}, []
    def prepare(self, height, number):
        for n in sorted(range(3), key=lambda n: n != number):
            if n in self.known: continue
            yield f"computing <{n}>"
            self.asked.append(n)
            assert self.go[n].wait(60)
            self.known.add(n)
        if number == 3: raise ValueError("three cannot be computed")
    def show(self, height, number): return super().show(height, number) if number in self.known else None


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end: time.sleep(.005)
    assert condition()


def test_what_takes_long_is_computed_behind_the_page():
    scene = Slow()
    page = Page(scene)
    blank = page.picture.value
    until(lambda: "computing &lt;0&gt;..." in page.progress.value)
    assert Image.open(io.BytesIO(blank)).size == (240, 160) and not page.readout.value and "role='status'" in page.progress.value
    scene.go[0].set()
    until(lambda: "computing &lt;1&gt;..." in page.progress.value and page.readout.value)
    first = page.picture.value
    assert first != blank and scene.known == {0}
    page.controls["number"].value = 2                     # overtakes: 2 comes next
    page.latest.wait(60)
    assert page.picture.value == first                    # not there yet: the picture stays
    scene.go[1].set()
    until(lambda: scene.asked == [0, 1, 2])
    scene.go[2].set()
    page.wait(60)
    assert not page.progress.value and page.picture.value != first and "odd &lt;i&gt;:</span> False" in page.readout.value
    page.set(number=0)
    assert page.picture.value == first and scene.asked == [0, 1, 2]


def test_the_newest_values_come_next():
    scene = Slow()
    page = Page(scene)
    until(lambda: scene.asked == [0])
    page.controls["number"].value = 2
    for event in scene.go.values(): event.set()
    page.wait(60)
    assert scene.asked == [0, 2, 1]


def test_a_failure_behind_the_page_is_written_into_it():
    scene = Slow()
    for event in scene.go.values(): event.set()
    page = Page(scene)
    page.wait(60)
    first = page.picture.value
    page.set(number=3)
    assert "ValueError: three cannot be computed" in page.readout.value and not page.progress.value and page.picture.value == first
    page.set(number=0)
    assert "alert" not in page.readout.value and page.picture.value == first


def test_unknown_controls_and_values_are_refused():
    page = Page(Dot())
    with pytest.raises(ValueError, match="control='width' is unknown; choose one of: height, number"): page.set(width=1)
    with pytest.raises(TraitError): page.set(height=.3)


def test_controls_keep_exact_values():
    values = [i / 20 for i in range(21)]
    slider = ratio_slider("x", values, .15)
    for i, v in enumerate(values):
        slider.index = i
        assert slider.value == v
    assert slider.options[3] == ("15 %", .15)
    with pytest.raises(ValueError, match="start=0.17"): ratio_slider("x", values, .17)
    with pytest.raises(ValueError, match=r"VMR must lie in \[0, 1\], got 2"): ratio_slider("VMR", [2], 2)
    assert choice_buttons("x", ["a", "b"]).value == "a" and number_slider("x", 5, 2).max == 5


# ---- what is kept

def test_models_are_trained_once_and_again_when_something_changed(cache):
    data = load("digits", n=60)
    one = kept_models("dualvae", data, epochs=1)[0]
    folders = set(cache.glob("dualvae-*"))
    again = kept_models("dualvae", data, epochs=1)[0]
    assert set(cache.glob("dualvae-*")) == folders and fingerprint(one) == fingerprint(again) and not again.training
    assert fingerprint(one) == fingerprint(fit("dualvae", data, epochs=1, progress=False, device="cpu").models[0])
    kept_models("dualvae", data, epochs=2), kept_models("dualvae", data[:50], epochs=1), kept_models("dualvae", data, epochs=1, settings={"variant": "mvnb"})
    assert len(set(cache.glob("dualvae-*"))) == len(folders) + 3
    assert len(kept_models("dualvae", [data, data[:60]], epochs=1, seeds=[0, 1])) == 2


def test_read_models_from_folder_file_or_nowhere(tmp_path):
    data = load("digits", n=60)
    models = fit("dualvae", data, epochs=0, seeds=list(range(11)), out=tmp_path / "run", progress=False, device="cpu").models
    for place in (tmp_path / "run", str(tmp_path / "run")): assert [fingerprint(m) for m in read_models(place)] == [fingerprint(m) for m in models]
    assert [fingerprint(m) for m in read_models(tmp_path / "run/run_10.pt")] == [fingerprint(models[10])]
    with pytest.raises(FileNotFoundError): read_models(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no run_0.pt"): read_models(tmp_path)


def test_pages_that_open_together_compute_once(cache):
    calls, results = [], []
    def make():
        calls.append(1)
        time.sleep(.1)
        return {"x": torch.ones(1)}
    threads = [threading.Thread(target=lambda: results.append(remembered("together", 0, make))) for _ in range(3)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert len(calls) == 1 and [r["x"].item() for r in results] == [1, 1, 1]


def test_remembered_computes_once_and_survives_a_damaged_file(cache):
    calls = []
    def make(): calls.append(1); return {"x": torch.arange(3.)}
    for _ in range(2): assert remembered("numbers", [1, "a"], make)["x"].tolist() == [0, 1, 2]
    assert len(calls) == 1
    remembered("numbers", [2, "a"], make)
    assert len(calls) == 2
    for file in cache.glob("numbers-*.pt"): file.write_bytes(b"half a fi")
    remembered("numbers", [1, "a"], make)
    assert len(calls) == 3


def test_fingerprint_sees_views_gaps_labels_and_weights():
    data = load("digits", n=20)
    other = [data.replace(xs=[data.xs[0] + 1e-4, data.xs[1]]), corrupt(data, vmr=.1, seed=0), data.replace(y=data.y.flip(0)), data.replace(y=None), data[:19]]
    assert len({fingerprint(d) for d in (data, *other)}) == 6 and fingerprint(data) == fingerprint(load("digits", n=20))


# ---- the pages' states

def test_corruptions_counts_what_it_shows():
    scene = Corruptions(n=40)
    said = scene.show("digits", "one view, at random", .5, .25, 3)
    bad = corrupt(load("digits")[:40], vmr=.5, snr=.25, seed=3)
    assert said["samples with a view missing"] == "20 of 40 (50.0%), asked 50%" and said["absent entries"] == f"{missing_rate(bad).entries:.1%}"
    assert said["pixels overwritten"] == "16 of 64 an image, asked 25%"
    strip = scene.absent.get_array()
    assert np.array_equal((strip == np.array(to_rgb(MISSING))).all(-1), ~bad.present.T.numpy())
    assert np.array_equal(scene.images.get_array(), mosaic([x[:10] for x in bad.xs], ~bad.present.T.numpy()[:, :10]))
    assert "10 of 40 (25.0%)" in scene.show("digits", "unpaired instead of missing", .25, 0., 0)["samples whose edges (*) is another sample's"]


def test_corruptions_of_every_kind_and_set():
    page = Page(Corruptions(n=30))
    first, seen = page.picture.value, set()
    for name in explore.image_sets:
        for kind in explore.missing_kinds:
            page.set(data=name, kind=kind)
            assert "alert" not in page.readout.value, (name, kind, page.readout.value)
            seen.add(page.picture.value)
    assert len(seen) >= 20  # of 25: two views have one way to lose all but one
    page.set(data="digits", kind="one view, at random")
    assert page.picture.value == first
    page.set(seed=1)
    assert page.picture.value != first
    page.set(vmr=1., snr=1., seed=0)
    assert "30 of 30 (100.0%)" in page.readout.value and "64 of 64" in page.readout.value


@pytest.fixture(scope="module")
def robustness(cache):
    torch.set_num_threads(1)
    return Robustness(epochs=1, vmrs=(0., .5, 1.), snrs=(0., .2))


def test_score_grid_is_the_protocol(robustness):
    data = robustness.data[:150]
    scores = score_grid(robustness.model, data, [0., .5, 1.], [0., .2], repeats=2)
    assert {k: tuple(v.shape) for k, v in scores.items()} == {"kmeans": (2, 3, 2), "svc": (2, 3, 2), "confusion": (3, 2, 10, 10)}
    curve = robustness_curve({"model": robustness.model.embed, "floor": raw_features}, data, vmr=[0., .5, 1.], snr=[0., .2], repeats=2)
    for task in ("kmeans", "svc"):
        rows = curve[(curve["task"] == task) & (curve["metric"] == "acc")]
        for i, name in enumerate(("model", "floor")):
            means = rows[rows["model"] == name].groupby(["vmr", "snr"])["value"].mean().to_numpy().reshape(3, 2)
            assert np.allclose(scores[task][i], means, atol=1e-6)
    bad = corrupt(data, vmr=.5, snr=.2, seed=0)
    for i, f in enumerate((robustness.model.embed, raw_features)):
        assert scores["kmeans"][i, 1, 1] == pytest.approx(kmeans_scores(f(bad), data.y, repeats=2)["acc"].mean())
    assert (scores["confusion"].sum((2, 3)) == len(data)).all() and (scores["confusion"].sum(3)[0, 0] == data.y.bincount()).all()


def test_scores_are_computed_behind_the_page_the_chosen_noise_first(cache, robustness):
    scene = Robustness(epochs=1, vmrs=(0., .5), snrs=(0., .2))
    said = scene.show(vmr=.5, snr=.2)
    assert said["k-means accuracy"].startswith("... on c, ... on raw") and np.isnan(scene.curves["svc", 1].get_ydata()).all()
    steps = scene.prepare(vmr=.5, snr=.2)
    assert next(steps) == "computing the accuracies at SNR 20% (1 of 2)" and not scene.scores
    assert next(steps) == "computing the accuracies at SNR 0% (2 of 2)" and set(scene.scores) == {.2}
    said = scene.show(vmr=.5, snr=.2)
    assert said["k-means accuracy"].startswith(f"{float(scene.scores[.2]['kmeans'][0, 1, 0]):.1%} on c") and (scene.curves["svc", 1].get_ydata() > .5).all()
    assert scene.show(vmr=.5, snr=0.)["SVC accuracy"].startswith("... on c")
    assert not list(steps) and set(scene.scores) == {0., .2} and not list(scene.prepare(vmr=0., snr=0.))


def test_robustness_moves_and_returns(robustness):
    page = Page(robustness)
    page.wait()
    first = page.picture.value
    page.set(vmr=1., snr=.2)
    assert page.picture.value != first and "samples without a view:</span> 359 of 359" in page.readout.value
    assert robustness.here.get_xdata()[0] == 1 and robustness.here.get_ydata()[0] == pytest.approx(float(robustness.scores[.2]["kmeans"][0, 2, 0]))
    z = np.concatenate([p.get_xydata() for p in robustness.points])
    assert len(z) == 359 and np.isfinite(z).all()
    few = corrupt(robustness.data, vmr=1., snr=.2, seed=0)[robustness.rows]
    heights = torch.tensor([[bar.get_height() for bar in bars] for bars in robustness.bars]).T
    assert torch.allclose(heights, robustness.model.gate_weights(few).to(heights), atol=1e-6) and (heights[~few.present] == 0).all()
    page.set(vmr=.5, snr=.2)
    assert page.picture.value == first


def test_robustness_of_a_model_of_your_own(robustness, cache, tmp_path):
    own = fit("dualvae", load("digits", split="train"), epochs=0, out=tmp_path, progress=False, device="cpu").models[0]
    scene = Robustness(run=tmp_path, vmrs=(0., .5), snrs=(0.,))
    assert fingerprint(scene.model) == fingerprint(own) != fingerprint(robustness.model)
    assert set(Page(scene).values()) == {"vmr", "snr"}


def test_few_labels_shows_the_same_rows_in_every_cell(cache):
    scene = FewLabels(labels=(.02, .1), missing=(.1, .9), epochs=1, rows=20)
    page = Page(scene)
    page.wait()
    first = page.picture.value
    page.set(missing=.1)
    few = scene.maps["observed"].get_array().mask[:, 0]
    page.set(missing=.9)
    many = scene.maps["observed"].get_array().mask[:, 0]
    assert many.sum() > few.sum() and (many | ~few).all()  # nested
    error = scene.maps["error"].get_array()
    assert (error[~many] == 0).all() and (np.abs(error[many]).mean(1) > 0).all()
    assert page.picture.value == first
    page.set(labels=.02)
    assert page.picture.value != first and "9 of 432 labels" in page.readout.value
    row = int(many.argmax())
    page.set(row=row)
    sd = scene.models[.02, .9].uncertainty(scene.problems[.02, .9].train[scene.shown])[-1][row].numpy()
    assert np.allclose(scene.band[1].get_ydata() - scene.band[0].get_ydata(), 2 * sd, atol=1e-5) and (sd > 0).all()
    assert sum(bar.get_height() for bar in scene.proba) == pytest.approx(1, abs=1e-5)


def test_few_labels_trains_the_first_cell_before_the_others(cache):
    scene = FewLabels(labels=(.02, .1), missing=(.1, .9), epochs=1, rows=20)
    steps = scene.prepare(labels=.1, missing=.9, row=0)
    assert scene.show(labels=.1, missing=.9, row=0) is None
    assert next(steps) == "training a model for 10% labels and 90% of the rows without the view"
    assert next(steps) == "training the models of the other 3 cells" and set(scene.models) == {(.1, .9)}
    assert scene.show(labels=.1, missing=.9, row=0) and scene.show(labels=.02, missing=.1, row=0) is None
    assert not list(steps) and list(scene.problems) != list(scene.models) and set(scene.models) == set(scene.problems) and not list(scene.prepare(.02, .1, 0))


def test_few_labels_of_models_of_your_own(tmp_path):
    cells = dict(labels=(.02, .1), missing=(.1, .9), rows=20)
    ask = dict(labels=.1, missing=.1, row=3)
    problems = FewLabels(**cells).problems
    def run(name, problems, **options): return fit_problems("simvae", problems, settings={"variant": "mvnb"}, epochs=0, out=tmp_path / name, progress=False, device="cpu", **options).models
    models = run("four", list(problems.values()), seeds=[0, 1, 2, 3])
    scene = FewLabels(run=tmp_path / "four", **cells)
    assert not list(scene.prepare(**ask)) and [fingerprint(m) for m in scene.models.values()] == [fingerprint(m) for m in models] and list(scene.models) == list(problems)
    assert scene.scores[.1, .1] == (accuracy(models[2], problems[.1, .1].test), imputation_error(models[2], problems[.1, .1].train, problems[.1, .1].truth))
    one = run("one", [problems[.02, .1]])[0]
    for place in ("one", "one/run_0.pt"):
        scene = FewLabels(run=tmp_path / place, **cells)
        assert {fingerprint(m) for m in scene.models.values()} == {fingerprint(one)} and len(scene.models) == 4
    page = Page(scene)
    before = page.picture.value
    page.set(missing=.1)
    assert page.picture.value != before and "43 rows without" in page.readout.value
    run("two", [problems[.02, .1]] * 2)
    with pytest.raises(ValueError, match="run must hold 1 model or 4, one per label share and missing fraction, got 2"): FewLabels(run=tmp_path / "two", **cells)
    fit("dualvae", load("digits", n=60), epochs=0, out=tmp_path / "other", progress=False, device="cpu")
    with pytest.raises(ValueError, match="this model was made for"): FewLabels(run=tmp_path / "other", **cells)


def test_few_labels_takes_as_many_classes_as_the_model_knows(tmp_path):
    parts = load_parts("mfeat", tiny=True)
    fit("simvae", problem(parts, .05, .5, seed=0).train, epochs=0, settings={"variant": "mvnb"}, out=tmp_path, progress=False, device="cpu")
    scene = FewLabels(run=tmp_path, labels=(.05,), missing=(.5,))
    assert len(scene.proba) == 10 and len(scene.problems[.05, .5].train) == len(parts[0])


@pytest.mark.parametrize("make", [lambda: BarGroups(epochs=2), lambda: BodyGroups(epochs=3), lambda: FaceGroups(epochs=2)], ids=["bars", "body", "faces"])
def test_groups_show_what_is_ticked(cache, make):
    scene = make()
    page, names = Page(scene), scene.data.names
    first = page.picture.value
    assert page.values() == {"row": 0} | {name: v == 0 for v, name in enumerate(names)}
    page.set(**{name: True for name in names})
    full = [bar.get_height() for bar in scene.bars]
    assert full[1] == pytest.approx(full[2]) and full[2] < full[0]
    page.set(**{name: False for name in names})
    none = [bar.get_height() for bar in scene.bars]
    assert none[1] == pytest.approx(none[0]) and none[0] == full[0] and "nothing (the prior)" in page.readout.value
    prior = page.picture.value
    page.set(row=3)
    assert page.picture.value != prior
    page.set(row=0, **{names[0]: True})
    assert page.picture.value == first


def test_hidden_quadrants_are_not_shown(cache):
    scene = BarGroups(epochs=2)
    scene.show(row=1, **{name: name == "top right" for name in scene.data.names})
    mask = np.ma.getmaskarray(scene.images[1].get_array())
    assert mask.tolist() == [[True, True, False, False]] * 2 + [[True] * 4] * 2
    assert not np.ma.getmaskarray(scene.images[0].get_array()).any()


def test_hidden_faces_are_striped(cache):
    scene = FaceGroups(epochs=2)
    names, size = scene.data.names, 34   # a tile and its gap
    scene.show(row=1, **{name: name == names[2] for name in names})
    truth, seen, rebuilt = (p.get_array() for p in scene.pictures)
    def tile(m, i): return m[2 + i // 2 * size:size + i // 2 * size, 2 + i % 2 * size:size + i % 2 * size]
    def striped(t): return {tuple(x) for x in t.reshape(-1, 3)} == {(1., 1., 1.), tuple(np.float32(to_rgb(MISSING)))}
    assert [striped(tile(seen, i)) for i in range(7)] == [True, True, False, True, True, True, True] and (tile(seen, 7) == 1).all()
    for i, x in enumerate(scene.data.xs): assert np.array_equal(tile(truth, i)[..., 0], x[1, 0].numpy())
    assert np.array_equal(tile(seen, 2), tile(truth, 2)) and not any(striped(tile(m, i)) for m in (truth, rebuilt) for i in range(7))


def test_attacks_stay_in_their_radius_and_are_kept(cache):
    model = kept_models("mae", load("digits", split="train", n=200), epochs=1)[0]
    options = dict(radii=(0., .05, .2), n=50, gan=dict(epochs=1))
    scene = Attacks({"mine": model}, kinds=("assignment", "gan", "uniform"), **options)
    assert scene.show("mine", "assignment", .05) is None
    page = Page(scene)
    page.wait()
    first, kept = page.picture.value, len(list(cache.glob("attack-*.pt")))
    assert page.values() == {"model": "mine", "kind": "assignment", "eps": .05} and kept == 3
    for kind in scene.kinds:
        page.set(kind=kind)
        for radius in scene.radii:
            mv, score = scene.attacked["mine", kind, radius]
            assert max(float((a - b).abs().max()) for a, b in zip(mv.xs, scene.data.xs)) <= radius + 1e-6
            assert score == attack_scores(scene.targets["mine"], scene.data, mv)
    assert len(list(cache.glob("attack-*.pt"))) == 9
    page.set(eps=0.)
    assert "0.0% of 50" in page.readout.value and "change of a pixel:</span> 0.000" in page.readout.value
    page.set(kind="uniform", eps=.2)
    assert page.picture.value != first
    page.set(kind="assignment", eps=.05)
    assert page.picture.value == first
    again = Page(Attacks({"mine": model}, kinds=("assignment",), **options))
    again.wait()
    assert again.picture.value == first and len(list(cache.glob("attack-*.pt"))) == 9


def test_the_gan_says_that_it_is_being_trained(cache):
    model = kept_models("mae", load("digits", split="train", n=200), epochs=1)[0]
    scene = Attacks({"mine": model, "mae": dict(epochs=0)}, kinds=("assignment", "gan"), radii=(0., .1), n=40, gan=dict(epochs=1))
    assert list(scene.prepare("mine", "gan", .1)) == ["training a GAN at radius 0 (1 of 2)", "training a GAN at radius 0.1 (2 of 2)"]
    assert list(scene.prepare("mae", "assignment", 0.))[0] == "training mae" and not list(scene.prepare("mine", "gan", 0.))
    assert scene.show("mine", "gan", .1) and scene.show("mine", "assignment", .1) is None


def test_unknown_attacks_are_refused():
    with pytest.raises(ValueError, match="kinds='gradient' is unknown"): Attacks(kinds=("gradient",))


# ---- the notebooks

@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_pages_are_thin(path):
    cells = json.loads(path.read_text())["cells"]
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    assert len(code) <= 4 and code[0].startswith("from mvnb.explore import") and all(len(c.splitlines()) == 1 for c in code)
    assert all(c.startswith("Page(") for c in code[1:])
    assert not [c for c in cells if c.get("outputs")], "pages are saved without outputs: a widget's picture lives in its kernel"


def test_there_are_pages(): assert [p.stem[:2] for p in PAGES] == ["60", "61", "62", "63", "64"]
