"Everything behind the pages, without a browser: the worker, the frame, the mosaic, the page, and each page's state."
import contextvars
import io
import json
import threading
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
from mvnb.evaluate import kmeans_scores, raw_features
from mvnb.explore import (Attacks, BarGroups, BodyGroups, Corruptions, FewLabels, Frame, Latest, Page, Robustness, choice_buttons, fingerprint, kept_models, mosaic,
                          number_slider, ratio_slider, read_model, remembered, score_grid)
from mvnb.fit import fit
from mvnb.plots import MISSING, blank_figure, style

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
        assert go.wait(5)
    latest = Latest(work, failed=lambda e: served.append(e))
    latest.submit(0)
    assert started.wait(5)
    for i in range(1, 100): latest.submit(i)
    assert served == [0]
    go.set()
    latest.wait(5)
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
    latest.wait(5)
    assert worst[0] == 1 and done[-1] == "last" and not [x for x in done if isinstance(x, Exception)]


def test_a_failure_is_reported_and_the_next_request_served():
    failed, done = [], []
    latest = Latest(lambda x: done.append(1 / x), failed.append)
    latest.submit(0)
    latest.wait(5)
    latest.submit(2)
    latest.wait(5)
    assert isinstance(failed[0], ZeroDivisionError) and done == [.5]


def test_work_sees_the_context_of_its_request():
    var, seen = contextvars.ContextVar("var", default=0), []
    latest = Latest(lambda: seen.append(var.get()), seen.append)
    var.set(7)
    latest.submit()
    latest.wait(5)
    assert seen == [7]


def test_waiting_has_an_end():
    go = threading.Event()
    latest = Latest(lambda: go.wait(5), print)
    latest.submit()
    with pytest.raises(TimeoutError, match="0.01 seconds"): latest.wait(.01)
    go.set()
    latest.wait(5)


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
                assert self.go.wait(5)
            return super().show(height, number % 3)
    page = Page(Slow())
    page.controls["number"].value = 1
    assert Slow.started.wait(5)
    for number in (2, 0, 2, 0, 2): page.controls["number"].value = number
    Slow.go.set()
    page.latest.wait(5)
    assert Slow.shown == [0, 1, 2]


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


def test_read_model_from_folder_file_or_nowhere(tmp_path):
    data = load("digits", n=60)
    model = fit("dualvae", data, epochs=1, out=tmp_path / "run", progress=False, device="cpu").models[0]
    for place in (tmp_path / "run", tmp_path / "run/run_0.pt", str(tmp_path / "run")): assert fingerprint(read_model(place)) == fingerprint(model)
    with pytest.raises(FileNotFoundError): read_model(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError): read_model(tmp_path)


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
    scores, data = robustness.scores, robustness.data
    assert {k: tuple(v.shape) for k, v in scores.items()} == {"kmeans": (2, 3, 2), "svc": (2, 3, 2), "confusion": (3, 2, 10, 10)}
    bad = corrupt(data, vmr=.5, snr=.2, seed=0)
    for i, f in enumerate((robustness.model.embed, raw_features)):
        assert scores["kmeans"][i, 1, 1] == pytest.approx(kmeans_scores(f(bad), data.y, repeats=3)["acc"].mean())
    assert (scores["confusion"].sum((2, 3)) == len(data)).all() and (scores["confusion"].sum(3)[0, 0] == data.y.bincount()).all()


def test_score_grid_of_a_few_rows():
    data, model = load("digits", n=80), fit("dualvae", load("digits", n=80), epochs=1, progress=False, device="cpu").models[0]
    assert score_grid(model, data, [0., .3], [.1], repeats=1)["svc"].shape == (2, 2, 1)


def test_robustness_moves_and_returns(robustness):
    page = Page(robustness)
    first = page.picture.value
    page.set(vmr=1., snr=.2)
    assert page.picture.value != first and "samples without a view:</span> 359 of 359" in page.readout.value
    assert robustness.here.get_xdata()[0] == 1 and robustness.here.get_ydata()[0] == pytest.approx(float(robustness.scores["kmeans"][0, 2, 1]))
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


@pytest.mark.parametrize("make", [lambda: BarGroups(epochs=2), lambda: BodyGroups(epochs=3)], ids=["bars", "body"])
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


def test_attacks_stay_in_their_radius_and_are_kept(cache):
    model = kept_models("mae", load("digits", split="train", n=200), epochs=1)[0]
    scene = Attacks({"mine": model}, kinds=("assignment", "uniform"), radii=(0., .05, .2), n=50)
    page = Page(scene)
    first, kept = page.picture.value, len(list(cache.glob("attack-*.pt")))
    assert page.values() == {"model": "mine", "kind": "assignment", "eps": .05}
    for i, (mv, score) in enumerate(zip(*scene.attacked("mine", "assignment"))):
        assert max(float((a - b).abs().max()) for a, b in zip(mv.xs, scene.data.xs)) <= scene.radii[i] + 1e-6
        assert score == attack_scores(scene.targets("mine"), scene.data, mv)
    page.set(eps=0.)
    assert "0.0% of 50" in page.readout.value and "change of a pixel:</span> 0.000" in page.readout.value
    page.set(kind="uniform", eps=.2)
    assert page.picture.value != first and len(list(cache.glob("attack-*.pt"))) == kept + 1
    page.set(kind="assignment", eps=.05)
    assert page.picture.value == first
    again = Page(Attacks({"mine": model}, kinds=("assignment",), radii=(0., .05, .2), n=50))
    assert again.picture.value == first and len(list(cache.glob("attack-*.pt"))) == kept + 1
    with pytest.raises(ValueError, match="kinds='gradient' is unknown"): Attacks({"mine": model}, kinds=("gradient",))


# ---- the notebooks

@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_pages_are_thin(path):
    cells = json.loads(path.read_text())["cells"]
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    assert len(code) <= 4 and code[0].startswith("from mvnb.explore import") and all(len(c.splitlines()) == 1 for c in code)
    assert all(c.startswith("Page(") for c in code[1:])
    assert not [c for c in cells if c.get("outputs")], "pages are saved without outputs: a widget's picture lives in its kernel"


def test_there_are_pages(): assert [p.stem[:2] for p in PAGES] == ["60", "61", "62", "63", "64"]
