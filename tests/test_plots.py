"What is drawn equals the data, limits are fixed, missing is visible, and nothing global changes."
import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from mvnb import plots
from mvnb.plots import (FLOOR, MARKERS, MISSING, PALETTE, confusion_plot, embedding_plot, history_plot, image_grid, imputation_grid, link_plot,
                        matrix_panels, robustness_plot, save_figure, style, surface_plot)
from mvnb.views import MultiView

g = np.random.default_rng(0)
SCORES = pd.DataFrame([dict(model=m, seed=s, repeat=r, vmr=v, metric="acc", task="kmeans", value=float(g.uniform(.2, .9)))
                       for m in ("a", "b", "raw") for s in range(3) for r in range(2) for v in (.5, 0., .9)])
HISTORY = pd.DataFrame([dict(run=r, seed=r, epoch=e, term=t, value=float(g.normal())) for r in range(3) for e in range(5) for t in ("elbo", "kl", "club", "nll")])
IMAGES = g.uniform(0, 1, (5, 1, 4, 4))
MATRIX, ROWS = g.normal(size=(7, 4)) * 4, np.array([1, -1, 0, 2, 0, 1, -1])
GRID = pd.DataFrame([dict(c1=a, c=b, seed=s, metric="acc", value=.5 + .1 * np.log10(a) + .02 * b + .03 * s) for a in (.1, 1., 10.) for b in (1., 2.) for s in range(3)])
LINKS = np.array([[2., .04, 0., 1.], [4., .01, 0., .5], [.1, 1., 0., .051], [0., .8, 0., .049]])


def lines(fig, i=0): return {l.get_label(): l for l in fig.axes[i].lines}


def pixels(fig):
    fig.set_dpi(50)
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def count(fig, colour): return int((np.abs(pixels(fig).astype(int) - np.round(np.array(to_rgb(colour)) * 255)).max(-1) <= 2).sum())


def drawn(fig):
    fig.subplots().plot([1, 2], color=PALETTE[0])
    return fig


CALLS = {
    "robustness": lambda: robustness_plot(SCORES, floor="raw", paper={.5: .5}),
    "confusion": lambda: confusion_plot(np.eye(3, dtype=int)),
    "images": lambda: image_grid([IMAGES, IMAGES], present=np.arange(10).reshape(5, 2) != 3),
    "imputation": lambda: imputation_grid(IMAGES, IMAGES, IMAGES, rows=2),
    "embedding": lambda: embedding_plot(g.normal(size=(20, 3)), np.arange(20) % 3),
    "history": lambda: history_plot(HISTORY),
    "blank": lambda: drawn(plots.blank_figure(3, 2)),
    "matrices": lambda: matrix_panels({"truth": MATRIX, "guess": torch.tensor(MATRIX / 2)}, ROWS),
    "surface": lambda: surface_plot(GRID, "c1", "c", marked=[(1., 2.)]),
    "links": lambda: link_plot({"V": None, "W": LINKS, "joint": torch.tensor(LINKS)}),
}


@pytest.mark.parametrize("name", CALLS)
def test_returns_a_figure_that_draws_and_leaves_no_trace(name):
    import matplotlib.pyplot as plt
    before, figures = dict(matplotlib.rcParams), plt.get_fignums()
    fig = CALLS[name]()
    assert isinstance(fig, Figure) and dict(matplotlib.rcParams) == before and plt.get_fignums() == figures
    assert len(np.unique(pixels(fig).reshape(-1, 3), axis=0)) > 2


@pytest.mark.parametrize("name", CALLS)
def test_a_notebook_can_show_it_without_pyplot(name):
    assert CALLS[name]()._repr_png_().startswith(b"\x89PNG")


def test_style_is_local_nests_and_is_undone_after_an_error():
    before = dict(matplotlib.rcParams)
    with style():
        assert matplotlib.rcParams["font.size"] == 9 != before["font.size"]
    with style(figure_dpi=33):
        assert robustness_plot(SCORES).dpi == 33
    with pytest.raises(RuntimeError), style(font_size=20): raise RuntimeError
    assert dict(matplotlib.rcParams) == before and robustness_plot(SCORES).dpi == plots.HOUSE["figure.dpi"]
    with pytest.raises(ValueError, match="figure_dip"), style(figure_dip=1): pass


def test_palette_is_distinct_and_missing_is_in_no_map():
    colours = np.array([to_rgb(c) for c in (*PALETTE, MISSING, FLOOR)])
    distances = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + 9 * np.eye(len(colours))
    assert distances.min() > .2 and len(set(MARKERS)) == len(MARKERS) and "*" not in MARKERS
    for name in ("gray", "RdBu_r", "Blues"):
        assert np.linalg.norm(matplotlib.colormaps[name](np.linspace(0, 1, 256))[:, :3] - to_rgb(MISSING), axis=1).min() > .3


def test_robustness_lines_are_group_means_and_bands_are_seed_spreads():
    ax = robustness_plot(SCORES).axes[0]
    per_seed = SCORES.groupby(["model", "vmr", "seed"]).value.mean().groupby(["model", "vmr"])
    for (name, line), band in zip(lines(ax.figure).items(), ax.collections):
        assert list(line.get_xdata()) == [0, .5, .9]
        assert np.allclose(line.get_ydata(), 100 * per_seed.mean()[name])
        ys = band.get_paths()[0].vertices[:, 1]
        assert ys.max() == pytest.approx(100 * (per_seed.mean() + per_seed.std(ddof=1))[name].max())
        assert ys.min() == pytest.approx(100 * (per_seed.mean() - per_seed.std(ddof=1))[name].min())
    assert ax.get_ylim()[1] == 100 and ax.get_ylim()[0] == 0
    assert ax.get_ylabel() == "accuracy (%)" and "share of samples that lost one view" in ax.get_xlabel()


def test_robustness_spread_over_every_row_and_over_one_seed():
    rows = SCORES[SCORES.model == "a"]
    band = lambda df, **kw: robustness_plot(df, **kw).axes[0].collections
    top = 100 * (rows.groupby("vmr").value.mean() + rows.groupby("vmr").value.std()).max()
    assert band(rows, over=None)[0].get_paths()[0].vertices[:, 1].max() == pytest.approx(top)
    assert len(band(rows[rows.seed == 0])) == 1                       # one seed: the spread of its repeats
    assert len(band(rows[(rows.seed == 0) & (rows.repeat == 0)])) == 0  # one value: no spread to show


@pytest.mark.parametrize("floor,label,height", [
    ("raw", "raw", 100 * SCORES[SCORES.model == "raw"].groupby("vmr").value.mean().to_numpy()),
    (.25, "floor", np.array([25, 25])),
    (SCORES[SCORES.model == "raw"], "floor", 100 * SCORES[SCORES.model == "raw"].groupby("vmr").value.mean().to_numpy()),
])
def test_robustness_floor(floor, label, height):
    line = lines(robustness_plot(SCORES, floor=floor))[label]
    assert line.get_linestyle() == "--" and line.get_color() == FLOOR and np.allclose(line.get_ydata(), height)


def test_robustness_paper_stars():
    fig = robustness_plot(SCORES, paper={.5: .4161})
    stars = fig.axes[0].collections[-1]
    assert stars.get_offsets().tolist() == [[.5, pytest.approx(41.61)]] and stars.get_label() == "printed in the paper"
    paper = pd.DataFrame(dict(model=["b", "elsewhere"], vmr=[.5, .9], value=[.3, .4]))
    faces = robustness_plot(SCORES, paper=paper).axes[0].collections[-1].get_facecolor()
    assert np.allclose(faces[:, :3], [to_rgb(PALETTE[1]), to_rgb("white")])


def test_robustness_without_hue_percent_or_own_figure():
    fig = Figure()
    ax = fig.subplots()
    assert robustness_plot(SCORES[SCORES.model == "a"].assign(value=lambda d: d.value * 7), hue=None, percent=False, ax=ax, title="t") is fig
    assert ax.get_ylabel() == "accuracy" and ax.get_title() == "t" and len(ax.lines) == 1
    assert ax.lines[0].get_ydata().max() > 1


@pytest.mark.parametrize("change,words", [
    (dict(x="snr"), "unknown; choose one of: model, seed"), (dict(y="score"), "choose one of"), (dict(hue="method"), "choose one of"),
    (dict(floor="pixels"), "choose one of: a, b, raw"), (dict(paper={.5: 41.61}), "divide by 100"), (dict(over="run"), "choose one of"),
    (dict(floor=pd.DataFrame(dict(vmr=[0]))), "choose one of: vmr"), (dict(paper=pd.DataFrame(dict(vmr=[0]))), "column of paper"),
    (dict(df=SCORES.assign(metric=["acc", "nmi"] * 27)), "mixes several values of 'metric' .acc, nmi"), (dict(df=SCORES.assign(snr=[0., .1] * 27)), "mixes several values of 'snr'"),
    (dict(df=SCORES.assign(value=np.nan)), "NaN"), (dict(df=SCORES[:0]), "rows"), (dict(df=SCORES.assign(value=50.)), "percent=True"),
])
def test_robustness_bad_input(change, words):
    with pytest.raises(ValueError, match=words): robustness_plot(**(dict(df=SCORES) | change))


def test_confusion_shares_counts_and_limits():
    N = np.array([[8, 2, 0], [2, 3, 0], [0, 0, 0]])
    ax = confusion_plot(torch.tensor(N), ["cat", "dog"], title="t").axes[0]
    image = ax.images[0]
    assert image.get_clim() == (0, 1) and np.allclose(image.get_array(), [[.8, .2, 0], [.4, .6, 0], [0, 0, 0]])
    assert {(*t.get_position(), t.get_text()) for t in ax.texts} == {(0, 0, "8"), (1, 0, "2"), (0, 1, "2"), (1, 1, "3")}
    assert [t.get_text() for t in ax.get_yticklabels()] == ["cat", "dog", "–"]
    assert ax.get_xlabel() == "matched cluster" and ax.get_ylabel() == "true class" and ax.get_title() == "t"


def test_confusion_of_many_classes_stays_legible():
    ax = confusion_plot(np.eye(100, dtype=int)).axes[0]
    assert not ax.texts and len(ax.get_xticks()) == 10


@pytest.mark.parametrize("matrix,classes,words", [
    (np.ones((2, 3)), None, "shape"), (np.ones(3), None, "shape"), (np.full((2, 2), -1), None, "counts"), (np.full((2, 2), .5), None, "counts"),
    (np.full((2, 2), np.nan), None, "counts"), (np.eye(2), ["a", "b", "c"], "3 classes"), (np.zeros((0, 0)), None, "shape"),
])
def test_confusion_bad_input(matrix, classes, words):
    with pytest.raises(ValueError, match=words): confusion_plot(matrix, classes)


def test_image_grid_draws_the_right_images_and_marks_the_missing():
    mv = MultiView([IMAGES, 1 - IMAGES], [[1, 1], [0, 1], [1, 1], [1, 0], [1, 1]], y=[0, 1, 0, 1, -1], names=["left", "right"], classes=["cat", "dog"])
    fig = image_grid(mv, rows=[3, 1, 4])
    for (i, v), ax in zip([(i, v) for i in (3, 1, 4) for v in (0, 1)], fig.axes):
        if mv.present[i, v]:
            assert np.allclose(ax.images[0].get_array(), mv.xs[v][i, 0]) and ax.images[0].get_clim() == (0, 1) and not ax.patches
        else:
            assert not ax.images and ax.patches[0].get_facecolor()[:3] == to_rgb(MISSING) and ax.patches[0].get_hatch()
    assert [ax.get_title() for ax in fig.axes[:2]] == ["left", "right"] and [ax.get_ylabel() for ax in fig.axes[::2]] == ["dog", "dog", "?"]
    assert count(fig, MISSING) > 500 and count(image_grid(mv[[0, 2]]), MISSING) == 0


def test_absent_images_are_never_read():
    present = np.array([[True], [False]])
    a = image_grid([np.stack([IMAGES[0], IMAGES[1]])], present=present)
    b = image_grid([np.stack([IMAGES[0], np.full_like(IMAGES[1], np.nan)])], present=present)
    assert (pixels(a) == pixels(b)).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_missing_pixels_have_the_missing_colour(channels):
    x = np.repeat(IMAGES, channels, 1).copy()
    x[0, :, :2] = np.nan
    full, holed = count(image_grid([np.repeat(IMAGES, channels, 1)], rows=1), MISSING), count(image_grid([x], rows=1), MISSING)
    assert full == 0 and holed > 200
    assert count(image_grid([np.full_like(x, np.nan)], rows=1), MISSING) > 200


def test_image_scale_does_not_follow_the_data():
    dark, bright = (image_grid([np.full((1, 2, 2), v)]) for v in (.1, .9))
    assert not (pixels(dark) == pixels(bright)).all()
    ax = image_grid([IMAGES * 10 - 5], rows=1, limits=(-5, 5)).axes[0]
    assert ax.images[0].get_clim() == (-5, 5)


@pytest.mark.parametrize("args,words", [
    (dict(views=[]), "same samples"), (dict(views=[np.zeros((3, 4))]), "view 0 must be images"), (dict(views=[np.zeros((3, 2, 4, 4))]), "C = 1 or 3"),
    (dict(views=[IMAGES, IMAGES[:3]]), "same samples"), (dict(views=[IMAGES], present=np.ones((5, 2))), r"present must have shape \(5, 1\)"),
    (dict(views=[IMAGES], rows=0), "rows must be >= 1"), (dict(views=[IMAGES], rows=[5]), "0..4"), (dict(views=[IMAGES], rows=[]), "rows"),
    (dict(views=[IMAGES], names=["a", "b"]), "names must name 1"),
])
def test_image_grid_bad_input(args, words):
    with pytest.raises(ValueError, match=words): image_grid(**args)


def test_imputation_columns_and_fixed_error_limits():
    observed, imputed = IMAGES.copy(), IMAGES * .9
    observed[:, :, 0] = np.nan
    fig = imputation_grid(IMAGES, observed, torch.tensor(imputed), present=[True, False, True, True, True], rows=2)
    tiles = np.array(fig.axes[:8]).reshape(2, 4)
    assert [ax.get_title() for ax in tiles[0]] == ["truth", "observed", "imputed", "error"]
    assert np.allclose(tiles[1, 3].images[0].get_array(), imputed[1, 0] - IMAGES[1, 0])
    assert all(ax.images[0].get_clim() == (-1, 1) for ax in tiles[:, 3]) and tiles[0, 0].images[0].get_clim() == (0, 1)
    assert not tiles[1, 1].images and tiles[1, 1].patches[0].get_facecolor()[:3] == to_rgb(MISSING)
    assert tiles[0, 1].images[0].get_array().mask[0].all() and not tiles[0, 1].images[0].get_array().mask[1:].any()
    rgb = np.repeat(IMAGES, 3, 1)
    assert np.allclose(imputation_grid(rgb, rgb, rgb * .5).axes[3].images[0].get_array(), -.5 * IMAGES[0, 0])


@pytest.mark.parametrize("change,words", [
    (dict(truth=IMAGES * np.nan), "truth has NaN"), (dict(imputed=IMAGES * np.nan), "imputed has NaN"), (dict(imputed=IMAGES[:3]), "one shape"),
    (dict(present=[True]), "present must have shape"), (dict(rows=-1), "rows"), (dict(truth=IMAGES[0, 0]), "truth must be images"),
])
def test_imputation_bad_input(change, words):
    with pytest.raises(ValueError, match=words): imputation_grid(**(dict(truth=IMAGES, observed=IMAGES, imputed=IMAGES) | change))


def test_embedding_is_pca():
    from sklearn.decomposition import PCA
    z = g.normal(size=(50, 6)) * [5, 3, 1, 1, 1, 1]
    ax = embedding_plot(torch.tensor(z)).axes[0]
    drawn, pca = np.asarray(ax.collections[0].get_offsets()), PCA(2).fit(z)
    assert np.allclose(np.abs(drawn), np.abs(pca.transform(z)))
    assert f"{pca.explained_variance_ratio_[0]:.0%}" in ax.get_xlabel()


def test_embedding_colours_classes_and_greys_the_unlabelled():
    z, y = g.normal(size=(40, 2)), np.arange(40) % 4 - 1
    ax = embedding_plot(z, y, ["cat", "dog", "cow"]).axes[0]
    assert [c.get_label() for c in ax.collections] == ["unlabelled", "cat", "dog", "cow"]
    for c, dots in zip(range(-1, 3), ax.collections):
        assert np.allclose(dots.get_offsets(), z[y == c]) and to_rgb(dots.get_facecolor()[0][:3]) == to_rgb(FLOOR if c < 0 else PALETTE[c])


@pytest.mark.parametrize("args,words", [
    ((np.zeros((5, 1)),), "d >= 2"), ((np.zeros(5),), "d >= 2"), ((np.full((5, 2), np.nan),), "NaN or infinity in 5 rows"), ((np.zeros((5, 2)), [0, 1]), "y must have shape"),
])
def test_embedding_bad_input(args, words):
    with pytest.raises(ValueError, match=words): embedding_plot(*args)


def test_history_means_spread_and_gaps():
    fig = history_plot(HISTORY, title="t")
    assert [ax.get_ylabel() for ax in fig.axes] == ["elbo", "kl", "club", "nll"] and fig.get_suptitle() == "t"
    for ax in fig.axes:
        values = HISTORY[HISTORY.term == ax.get_ylabel()].groupby("epoch").value
        assert np.allclose(ax.lines[0].get_ydata(), values.mean()) and ax.get_title() == "3 runs"
        assert ax.collections[0].get_paths()[0].vertices[:, 1].max() == pytest.approx((values.mean() + values.std()).max())
    broken = HISTORY.assign(value=HISTORY.value.where((HISTORY.run != 2) | (HISTORY.epoch < 4), np.inf))
    ax = history_plot(broken, "kl").axes[0]
    assert ax.get_title() == "3 runs, 1 value not finite" and len(history_plot(broken, "kl").axes) == 1
    rest = broken[(broken.term == "kl") & np.isfinite(broken.value)]
    assert np.allclose(ax.lines[0].get_ydata(), rest.groupby("epoch").value.mean())
    assert history_plot(HISTORY.assign(value=1.), log=True).axes[0].get_yscale() == "log"


def test_history_bad_input():
    with pytest.raises(ValueError, match="elbo, kl, club, nll"): history_plot(HISTORY, ["loss"])
    with pytest.raises(ValueError, match="choose one of: run"): history_plot(HISTORY.drop(columns="term"))
    with pytest.raises(ValueError, match="at least one term"): history_plot(HISTORY[:0])


@pytest.mark.parametrize("suffix,magic", [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_save_figure(tmp_path, suffix, magic):
    path = save_figure(robustness_plot(SCORES, title="Some title"), tmp_path / "new" / f"curve.{suffix}", dpi=50)
    assert path.read_bytes().startswith(magic) and [p.name for p in path.parent.iterdir()] == [path.name]
    if suffix != "pdf": assert b"Some title" in path.read_bytes()


def test_save_figure_bad_input(tmp_path):
    fig = robustness_plot(SCORES)
    with pytest.raises(ValueError, match="png, pdf, svg"): save_figure(fig, tmp_path / "curve.jpg")
    with pytest.raises(ValueError, match="dpi"): save_figure(fig, tmp_path / "curve.png", dpi=0)
    assert not list(tmp_path.iterdir())


def test_spread_plot_draws_means_spreads_floor_and_printed_values():
    df = pd.DataFrame([dict(model=m, seed=s, value=v + .01 * s) for m, v in (("b", .5), ("a", .2)) for s in range(3)])
    fig = plots.spread_plot(df, floor=.3, paper={"a": .4})
    ax, bars = fig.axes[0], fig.axes[0].containers[0]
    assert bars.lines[0].get_xdata() == pytest.approx([51, 21]) and [t.get_text() for t in ax.get_yticklabels()] == ["b", "a"]
    left, right = (c.get_xdata() for c in bars.lines[1])
    assert (right - left) / 2 == pytest.approx([1, 1])
    assert {30.0} <= {line.get_xdata()[0] for line in ax.lines if len(set(line.get_xdata())) == 1}
    assert ax.collections[-1].get_offsets().tolist() == [[40, 1]]
    for wrong, message in ((dict(paper={"c": .1}), "choose one of: b, a"), (dict(y="acc"), "column='acc'"), (dict(floor=30), "shares")):
        with pytest.raises(ValueError, match=message): plots.spread_plot(df, **wrong)


def test_link_plot_is_relative_to_each_column_sorted_and_marked():
    fig = link_plot({"V": None, "W": LINKS, "joint": LINKS * [1, 2, 3, 4]}, "abcd", "links")
    first, second = fig.axes[:2]
    order = [3, 0, 1, 2]        # column 3 serves a, b, c; 0: a, b; 1: c, d; nothing uses 2
    want = (LINKS / [4, 1, 1, 1])[:, order]
    assert [ax.get_title() for ax in fig.axes[:2]] == ["W", "joint"] and fig.get_suptitle() == "links"
    for ax in (first, second):
        assert np.allclose(ax.images[0].get_array(), want) and ax.images[0].get_clim() == (0, 1)
        assert [t.get_text() for t in ax.get_xticklabels()] == ["3", "0", "1", "2"] and ax.get_xlabel() == "latent dimension"
        off = {tuple(map(int, t.get_position()[::-1])) for t in ax.texts}
        assert off == {tuple(i) for i in np.argwhere((want < .05) | (np.arange(4) == 3))} and {t.get_text() for t in ax.texts} == {"off"}
    assert [t.get_text() for t in first.get_yticklabels()] == list("abcd") and first.get_ylabel() == "group" and not second.get_ylabel()


def test_link_plot_order_threshold_and_layout():
    order = lambda ax: [int(t.get_text()) for t in ax.get_xticklabels()]
    assert order(link_plot(LINKS, sort=False).axes[0]) == [0, 1, 2, 3]
    named = link_plot({"a": LINKS, "b": LINKS[:, ::-1]}, sort="a").axes
    assert order(named[0]) == order(named[1]) == [3, 0, 1, 2] != order(link_plot({"b": LINKS[:, ::-1]}).axes[0])
    assert not link_plot(LINKS, threshold=None).axes[0].texts and len(link_plot(LINKS, threshold=1).axes[0].texts) == 13
    assert len(link_plot({str(i): LINKS for i in range(5)}, columns=2).axes) == 6       # and the colour bar
    many = link_plot(np.tile(LINKS, 32)).axes[0]
    assert not many.texts and len(many.collections[0].get_offsets()) == 32 * 9 and many.figure.get_size_inches()[0] < 10


@pytest.mark.parametrize("args,words", [
    (dict(norms=LINKS[0]), r"shape \(G, K\)"), (dict(norms=-LINKS), "numbers >= 0"), (dict(norms=LINKS * np.nan), "finite"), (dict(norms={"V": None}), "at least one"),
    (dict(norms=LINKS, groups=["a"]), "each of 1 groups"), (dict(norms={"a": LINKS, "b": LINKS[:3]}), "each of 4 groups"), (dict(norms=LINKS, threshold=2), "threshold"),
    (dict(norms={"a": LINKS}, sort="b"), "choose one of: a"), (dict(norms={"a": LINKS, "b": LINKS[:, :2]}, sort="a"), "one shape"), (dict(norms=LINKS, columns=0), "columns"),
])
def test_link_plot_bad_input(args, words):
    with pytest.raises(ValueError, match=words): link_plot(**args)


def test_matrix_panels_share_one_scale_and_are_sorted_by_class():
    guess = MATRIX + 1
    fig = matrix_panels({"truth": MATRIX, "guess": guess}, ROWS, ["a", "b", "c"], limit=2, unit="volts", title="t")
    panels = {ax.get_title(): ax for ax in fig.axes if ax.images}
    order = [2, 4, 0, 5, 3, 1, 6]            # a, b, c, then the unlabelled, each in its own order
    assert list(panels) == ["truth", "guess", "guess - truth"] and fig.get_suptitle() == "t"
    for name, want in {"truth": MATRIX, "guess": guess, "guess - truth": np.ones_like(MATRIX)}.items():
        assert np.allclose(panels[name].images[0].get_array(), want[order])
        assert panels[name].images[0].get_clim() == (-2, 2) and panels[name].images[0].get_cmap().name == "RdBu_r"
        assert [line.get_ydata()[0] for line in panels[name].lines] == [1.5, 3.5, 4.5] and panels[name].get_xlabel() == "feature"
    for name in ("truth", "guess - truth"):
        assert [(t.get_position()[1], t.get_text()) for t in panels[name].get_yticklabels()] == [(.5, "a"), (2.5, "b"), (4, "c"), (5.5, "?")]
    assert not panels["guess"].get_yticklabels() and [ax.get_ylabel() for ax in fig.axes if not ax.images] == ["volts and its error"]


def test_matrix_panels_without_errors_or_classes():
    fig = matrix_panels({"a": MATRIX, "b": MATRIX}, errors=False)
    assert len([ax for ax in fig.axes if ax.images]) == 2 and not fig.axes[0].lines and np.array_equal(fig.axes[0].images[0].get_array(), MATRIX)
    assert len([ax for ax in matrix_panels({"a": MATRIX}).axes if ax.images]) == 1


@pytest.mark.parametrize("args,words", [
    (dict(matrices={}), "at least one"), (dict(matrices={"a": MATRIX, "b": MATRIX[1:]}), "one shape"), (dict(matrices={"a": MATRIX[0]}), r"\(n, D\)"),
    (dict(matrices={"a": MATRIX, "b": MATRIX * np.nan}), "'b' has NaN"), (dict(matrices={"a": MATRIX}, y=ROWS[1:]), r"shape \(7,\)"),
    (dict(matrices={"a": MATRIX}, y=ROWS, classes=["a", "b"]), "names 2 classes"), (dict(matrices={"a": MATRIX}, limit=0), "limit"),
])
def test_matrix_panels_bad_input(args, words):
    with pytest.raises(ValueError, match=words): matrix_panels(**args)


def test_surface_plot_draws_and_writes_the_means():
    fig = surface_plot(GRID, "c1", "c", marked=[(1., 2.)], title="t")
    ax, bar = fig.axes
    want = np.array([[47., 57, 67], [45, 55, 65]])           # rows from the largest c downwards
    assert np.allclose(ax.images[0].get_array(), want) and np.allclose(ax.images[0].get_clim(), (45, 67))
    assert [t.get_text() for t in ax.texts] == [f"{v:.1f}\n± 3.0" for v in want.ravel()]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0.1", "1", "10"] and [t.get_text() for t in ax.get_yticklabels()] == ["2", "1"]
    assert (ax.get_xlabel(), ax.get_ylabel(), bar.get_ylabel(), ax.get_title()) == ("c1", "c", "accuracy (%)", "t")
    assert [p.get_xy() for p in ax.patches] == [(.5, -.5)]


def test_surface_plot_limits_holes_and_one_seed():
    one = GRID[(GRID.seed == 0) & ~((GRID.c1 == 10) & (GRID.c == 2))]
    ax = surface_plot(one, "c1", "c", limits=(0, 1), percent=False, label="NMSE").axes[0]
    assert ax.images[0].get_clim() == (0, 1) and ax.images[0].get_array().mask.sum() == 1
    assert len(ax.texts) == 5 and ax.texts[0].get_text() == "0.440"                  # no spread of one seed
    flat = surface_plot(one.assign(value=.5), "c1", "c").axes[0]
    assert flat.images[0].get_clim() == (50, 51)
    with pytest.raises(ValueError, match="column"): surface_plot(GRID, "c1", "c2")
    with pytest.raises(ValueError, match="percent=False"): surface_plot(GRID.assign(value=3.), "c1", "c")
    with pytest.raises(ValueError, match="several values of 'metric'"): surface_plot(GRID.assign(metric=["acc", "nmi"] * 9), "c1", "c")
    with pytest.raises(ValueError, match="marked"): surface_plot(GRID, "c1", "c", marked=[(5., 2.)])
