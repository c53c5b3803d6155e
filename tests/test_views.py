"MultiView: what goes in, what comes out, what is refused."
import numpy as np
import pytest
import torch

from mvnb.base import generator
from mvnb.views import Batch, MultiView, fill_absent, split_rows, view_index


@pytest.fixture
def mv():
    g = generator(0, "views")
    present = torch.rand(20, 3, generator=g) > .3
    present[~present.any(1), 0] = True
    return MultiView([torch.rand(20, 2, generator=g), torch.rand(20, 1, 4, 4, generator=g), torch.rand(20, generator=g)], present,
                     torch.arange(20) % 4 - 1, ["a", "b", "c"], ["x", "y", "z"])


def test_what_a_model_sees_has_zeros_where_views_are_absent(mv):
    holed = mv.replace(xs=[torch.where(mv.present[:, v].view(-1, *[1] * (x.ndim - 1)), x, float("nan")) for v, x in enumerate(mv.xs)])
    for data in (mv, holed):
        batch = data.batch()
        assert isinstance(batch, Batch) and batch.device == mv.device and torch.equal(batch.y, mv.y)
        for v, x in enumerate(batch.xs):
            assert torch.isfinite(x).all() and (x[~mv.present[:, v]] == 0).all() and torch.equal(x[mv.present[:, v]], mv.xs[v][mv.present[:, v]])

def test_fill_absent_works_with_leading_run_dimension():
    x, present = torch.full((3, 5, 2, 2), float("nan")), torch.zeros(3, 5, dtype=torch.bool)
    assert (fill_absent(x, present, 7.) == 7).all() and fill_absent(x, ~present).isnan().all()

def test_lists_of_arrays_with_nan_rows_go_in_and_out(mv):
    again = MultiView.from_list(mv.to_list(), mv.y, mv.names, mv.classes)
    assert torch.equal(again.present, mv.present) and all(torch.equal(a, b) for a, b in zip(again.batch().xs, mv.batch().xs))
    again = MultiView.from_dict(dict(zip(mv.names, mv.to_list())))
    assert torch.equal(again.present, mv.present) and again.names == mv.names and again.y is None
    assert MultiView.from_dict({"a": np.zeros((2, 1))}, present=[[1], [0]]).present.tolist() == [[True], [False]]

def test_dtypes():
    kinds = MultiView([np.arange(3), np.arange(3, dtype=np.float64), np.array([True, False, True]), torch.zeros(3, dtype=torch.float64), torch.arange(3)])
    assert [x.dtype for x in kinds.xs] == [torch.float32] * 3 + [torch.float64, torch.float32] and kinds.shapes == ((1,),) * 5

def test_read_only_memory_is_taken_without_a_warning_or_a_copy(tmp_path, recwarn):
    np.save(tmp_path / "x.npy", np.zeros((4, 2), np.float32))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    view = MultiView([mapped]).xs[0]
    assert not recwarn.list and view.data_ptr() == mapped.ctypes.data

def test_rows(mv):
    assert len(mv) == 20 and mv.shape == (20, 3) and len(mv[3]) == 1 and torch.equal(mv[-1].xs[0], mv.xs[0][-1:])
    for rows in (slice(2, 9, 3), [2, 5, 8], np.array([2, 5, 8]), torch.tensor([2, 5, 8])):
        part = mv[rows]
        assert torch.equal(part.xs[1], mv.xs[1][[2, 5, 8]]) and torch.equal(part.present, mv.present[[2, 5, 8]]) and part.classes == mv.classes
    mask = mv.y == 0
    assert torch.equal(mv[mask].y, mv.y[mask]) and torch.equal(mv[mask.numpy()].y, mv.y[mask]) and len(mv[[]]) == 0
    assert torch.equal(mv[[1, 2], ...].y, mv.y[[1, 2]]), "how scikit-learn indexes arrays"
    with pytest.raises(IndexError, match="row 20"): mv[20]
    with pytest.raises(TypeError, match="select"): mv[0, 1]
    with pytest.raises(TypeError, match="not iterable"): iter(mv)

def test_views_by_name_and_number(mv):
    part = mv.select(["c", 0])
    assert part.names == ("c", "a") and torch.equal(part.present, mv.present[:, [2, 0]]) and torch.equal(part.xs[0], mv.xs[2])
    assert view_index(mv, "b") == 1 and view_index(mv, np.int64(2)) == 2
    for bad in ("d", 3, -1, True):
        with pytest.raises(ValueError, match="choose one of: a, b, c"): view_index(mv, bad)

def test_replace_shares_what_stays_and_checks_what_comes(mv):
    other = mv.replace(y=None)
    assert other.y is None and other.xs[0] is mv.xs[0] and mv.y is not None and other.classes == mv.classes
    with pytest.raises(ValueError, match="NaN"): mv.replace(xs=[x * float("nan") for x in mv.xs])

def test_an_entry_that_becomes_present_is_checked():
    mv = MultiView([torch.tensor([[1.], [float("nan")]])], present=[[1], [0]])
    with pytest.raises(ValueError, match="first: row 1"): mv.replace(present=torch.ones(2, 1, dtype=torch.bool))

@pytest.mark.parametrize("wrong, error, message", [
    (dict(xs=[]), ValueError, "at least one view"), (dict(xs=torch.zeros(3, 2)), TypeError, "list with one array per view"), (dict(xs={"a": 1}), TypeError, "from_dict"),
    (dict(xs=[torch.zeros(3, 1), torch.zeros(4, 1)]), ValueError, "same number of samples"), (dict(xs=[np.array(["a"])]), TypeError, "numeric"),
    (dict(xs=[torch.zeros(2, 1, dtype=torch.complex64)]), TypeError, "real"), (dict(xs=[torch.tensor(1.)]), ValueError, "row per sample"),
    (dict(xs=[torch.zeros(2, 1)], present=torch.ones(2, 2)), ValueError, r"present must have shape \(2, 1\)"),
    (dict(xs=[torch.zeros(2, 1)], present=torch.tensor([[.5], [1]])), ValueError, "Boolean"),
    (dict(xs=[torch.zeros(2, 1)], y=[0]), ValueError, r"y must have shape \(2,\)"), (dict(xs=[torch.zeros(2, 1)], y=[0, .5]), ValueError, "whole numbers"),
    (dict(xs=[torch.zeros(2, 1)], groups=[0]), ValueError, r"groups must have shape \(2,\)"), (dict(xs=[torch.zeros(2, 1)], groups=[0, .5]), ValueError, "groups must hold whole"),
    (dict(xs=[torch.zeros(2, 1)], groups=[0, float("inf")]), ValueError, "groups must hold whole"), (dict(xs=[torch.zeros(2, 1)], groups=[1e300, 2e300]), ValueError, "groups must hold whole"),
    (dict(xs=[torch.zeros(2, 1)], groups=["a", "b"]), TypeError, "groups must be numeric"), (dict(xs=[torch.zeros(2, 1)], groups=torch.tensor([1j, 0])), ValueError, "groups must hold whole"),
    (dict(xs=[torch.zeros(2, 1)], y=[0, -2]), ValueError, ">= -1"), (dict(xs=[torch.zeros(2, 1)], y=[0, float("nan")]), ValueError, "whole numbers"),
    (dict(xs=[torch.zeros(2, 1)], names=["a", "b"]), ValueError, "names must name 1"), (dict(xs=[torch.zeros(2, 1)] * 2, names=["a", "a"]), ValueError, "differ"),
    (dict(xs=[torch.zeros(2, 1)], y=[0, 3], classes="ab"), ValueError, "label 3"),
    (dict(xs=[torch.tensor([[1.], [float("inf")]])]), ValueError, "'view 0' has NaN or infinity .*first: row 1"),
])
def test_bad_input_is_named(wrong, error, message):
    with pytest.raises(error, match=message): MultiView(**wrong)

def test_partly_nan_rows_are_no_missing_views():
    with pytest.raises(ValueError, match="NaN or infinity"): MultiView.from_list([np.array([[1., np.nan]])])
    for wrong in (np.zeros((2, 2)), {}):
        with pytest.raises(TypeError): MultiView.from_list(wrong)
    with pytest.raises(TypeError, match="dict"): MultiView.from_dict([np.zeros((2, 2))])
    with pytest.raises(ValueError, match="at least one view"): MultiView.from_list([])
    with pytest.raises(ValueError, match="same number"): MultiView.from_list([np.zeros((2, 2)), np.zeros((3, 2))])


@pytest.mark.parametrize("n", [10, 101, 1000])
@pytest.mark.parametrize("sizes", [.8, (.8, .2), (.5, .3, .2), (.2, .2)])
def test_parts_are_disjoint_sized_and_seeded(n, sizes):
    parts, again, other = (split_rows(n, sizes, seed=s) for s in (1, 1, 2))
    shares = [sizes, 1 - sizes] if isinstance(sizes, float) else list(sizes)
    together = torch.cat(parts)
    assert len(together.unique()) == len(together) and all(abs(len(p) - s * n) <= 1 for p, s in zip(parts, shares))
    assert all(torch.equal(a, b) for a, b in zip(parts, again)) and not torch.equal(parts[0], other[0])
    if sum(shares) == 1: assert len(together) == n

def test_stratified_parts_keep_the_shares():
    y = torch.cat([torch.zeros(700), torch.ones(200), torch.full((100,), 2.)]).long()
    for part, share in zip(split_rows(1000, (.7, .3), seed=0, y=y, stratify=True), (.7, .3)):
        assert torch.bincount(y[part]).tolist() == [round(700 * share), round(200 * share), round(100 * share)]

def test_groups_travel_with_the_rows():
    mv = MultiView([torch.zeros(6, 1), torch.zeros(6, 2)], groups=[5, 5, 3, 3, 9, 9])
    assert mv.groups.dtype == torch.int64 and mv[[4, 0]].groups.tolist() == [9, 5] and mv[:3].groups.tolist() == [5, 5, 3]
    assert mv.select([1]).groups.tolist() == mv.to("cpu").groups.tolist() == mv.replace(xs=mv.xs).groups.tolist() == mv.groups.tolist()
    assert [set(part.groups.tolist()) for part in mv.split([1 / 3, 2 / 3], seed=0, groups=True)] == [set(part.groups.tolist()) for part in mv.split([1 / 3, 2 / 3], seed=0, groups=mv.groups)]
    with pytest.raises(ValueError, match="groups=True"): mv.replace(groups=None).split(.5, seed=0, groups=True)
    assert mv.replace(groups=None).groups is None and MultiView([torch.zeros(2, 1)])[:1].groups is None


def test_groups_are_never_cut():
    groups = np.repeat([f"subject {i}" for i in range(20)], 7)
    a, b = split_rows(140, .75, seed=3, groups=groups)
    assert not set(groups[a.numpy()]) & set(groups[b.numpy()]) and len(a) == 105

@pytest.mark.parametrize("wrong, message", [(dict(sizes=(.8, .5)), "at most 1"), (dict(sizes=1.5), "sizes must lie"), (dict(sizes=()), "at most 1|sum"), (dict(stratify=True), "needs labels"),
                                            (dict(sizes=(.99, .01)), "empty"), (dict(groups=[0] * 3), "groups must have shape"), (dict(seed=-1), "seed must"),
                                            (dict(y=[0] * 10, stratify=True, groups=[0] * 10), "cannot be combined")])
def test_bad_splits_are_named(wrong, message):
    with pytest.raises(ValueError, match=message): split_rows(10, **(dict(seed=0) | wrong))

def test_split_of_a_multiview(mv):
    a, b = mv.split(.5, seed=0)
    assert len(a) + len(b) == 20 and a.names == mv.names
    a, b = mv.split((.5, .5), seed=0, groups=np.arange(20) // 5)
    assert {len(a), len(b)} == {10}

@pytest.mark.cuda
def test_to_another_device_and_back(mv):
    there = mv.to("cuda")
    assert there.device.type == "cuda" and all(torch.equal(a, b) for a, b in zip(there.to("cpu").batch().xs, mv.batch().xs))


def test_fill_changes_absent_entries_alone_and_keeps_the_data_types():
    mv = MultiView([torch.arange(6.).view(3, 2), torch.arange(12, dtype=torch.float64).view(3, 2, 2)], torch.tensor([[1, 0], [1, 1], [0, 1]]), y=[0, 1, 0])
    xs = [x - 100 for x in mv.xs]
    new = mv.fill([x.float() for x in xs])
    assert bool(new.present.all()) and [x.dtype for x in new.xs] == [torch.float32, torch.float64] and new.y.equal(mv.y)
    for v in range(2):
        assert new.xs[v][mv.present[:, v]].equal(mv.xs[v][mv.present[:, v]]) and new.xs[v][~mv.present[:, v]].equal(xs[v][~mv.present[:, v]])
    with pytest.raises(ValueError, match=r"xs must have the shapes \[\(3, 2\), \(3, 2, 2\)\]"): mv.fill([xs[0], xs[1][:2]])
    with pytest.raises(ValueError, match="xs must have the shapes"): mv.fill(xs[:1])
