"Poses cut from sequences, UMIST's files, drawn heads, and CVL in its official layout."
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from mvnb.data import DataCorrupt, DataNotAvailable, faces
from mvnb.data.faces import CVL_VIEWS, check_cvl, check_umist, draw_head, load_cvl, load_umist_poses, pose_rows

COUNTS = faces._COUNTS
SUBJECT = np.repeat(np.arange(20), COUNTS)


@pytest.fixture
def home(home):
    "The data folder."
    return home / "data"


def pictures(height=32, width=32):
    "Pictures that say who they are: pixel 0 the person, pixel 1 the number in the person's sequence."
    x = np.random.default_rng(0).integers(0, 256, (575, height, width), dtype=np.uint8)
    x[:, 0, 0], x[:, 0, 1] = SUBJECT, np.concatenate([np.arange(m) for m in COUNTS])
    return x


def write_umist(home, images=None, subject=SUBJECT, name="umist_32.npz", **more):
    (home / "umist").mkdir(parents=True, exist_ok=True)
    np.savez_compressed(home / "umist" / name, images=pictures() if images is None else images, subject=subject, **more)
    return home / "umist" / name


# --- poses

@pytest.mark.parametrize("length", [*range(1, 50), 1000])
@pytest.mark.parametrize("views", [1, 3, 7])
def test_poses_are_disjoint_consecutive_and_equally_spaced(length, views):
    rows = pose_rows(length, views)
    assert rows.shape == (length // views, views)
    if not len(rows): return
    assert len(set(rows.ravel().tolist())) == rows.size and rows.min() == 0 and rows.max() < length
    assert (np.diff(rows, axis=0) == 1).all()                                       # samples: next picture
    assert views == 1 or (abs(np.diff(rows, axis=1) - length / views) < 1).all()      # views: equally spaced
    assert (rows // (length / views) == np.arange(views))[0].all() or length % views   # each in its own segment


def test_umist_rows_follow_the_sweeps(home):
    write_umist(home)
    mv = load_umist_poses("all")
    person, number = (torch.stack([(x[:, 0, 0, c] * 255).round().long() for x in mv.xs], 1) for c in (0, 1))
    assert (person == mv.y[:, None]).all() and torch.equal(mv.y, mv.groups)
    assert len({(p, k) for p, k in zip(person.ravel().tolist(), number.ravel().tolist())}) == 7 * len(mv)      # no picture twice
    expected = []
    for p, m in enumerate(COUNTS):       # literally
        for a, b in faces._SWEEPS.get(p, ((0, m),)):
            turn = list(range(a, b)) if b > a else list(range(a, b, -1))
            expected += [[turn[g * len(turn) // 7 + j] for g in range(7)] for j in range(len(turn) // 7)]
    assert number.tolist() == expected and len(mv) == 68
    pinned = {1: [[0, 3, 7, 10, 14, 17, 21], [1, 4, 8, 11, 15, 18, 22], [2, 5, 9, 12, 16, 19, 23]],
              6: [[0, 1, 2, 3, 5, 6, 7], [18, 17, 16, 14, 13, 11, 10]], 8: [[0, 1, 2, 4, 5, 7, 8], [19, 18, 17, 15, 14, 12, 11]],
              13: [[0, 1, 2, 3, 4, 5, 6], [14, 13, 12, 11, 10, 9, 8], [15, 17, 19, 21, 23, 25, 27], [16, 18, 20, 22, 24, 26, 28]],
              14: [[0, 2, 4, 6, 8, 10, 12], [1, 3, 5, 7, 9, 11, 13]]}
    for p, rows in pinned.items(): assert number[mv.y == p].tolist() == rows, p
    raw = pictures()
    starts = np.concatenate([[0], np.cumsum(COUNTS)])
    assert all(np.array_equal((mv.xs[g][i, 0] * 255).round().numpy(), raw[starts[mv.y[i]] + number[i, g]]) for i in range(68) for g in range(7))


def test_sweeps_lie_inside_the_sequences():
    for p, sweeps in faces._SWEEPS.items():
        used = [k for a, b in sweeps for k in range(a, b, 1 if b > a else -1)]
        assert len(set(used)) == len(used) and 0 <= min(used) and max(used) < COUNTS[p]


def test_umist_splits(home):
    write_umist(home)
    for by in ("subject", "sample"):
        train, test = (load_umist_poses(s, by=by, seed=1) for s in ("train", "test"))
        both = set(train.groups.tolist()) & set(test.groups.tolist())
        assert len(train) + len(test) == 68 and bool(both) == (by == "sample")
        assert len(torch.cat([train.xs[0], test.xs[0]]).flatten(1).unique(dim=0)) == 68
    a, b, c = (load_umist_poses("test", seed=s) for s in (0, 0, 2))
    assert len(a.groups.unique()) == 4 and torch.equal(a.xs[3], b.xs[3]) and set(a.y.tolist()) != set(c.y.tolist())
    assert len(load_umist_poses("all", n=20)) == 20 and load_umist_poses("all", n=20).y.unique().tolist() == list(range(20))


def test_the_small_pictures(home):
    write_umist(home)
    with pytest.raises(DataNotAvailable, match="umist_28x23.npz"): load_umist_poses(size=28)
    assert check_umist() == "575 pictures of 20 people, 32 x 32 (no checksums are published)"
    write_umist(home, pictures(28, 23), name="umist_28x23.npz")
    mv = load_umist_poses("all", size=28)
    assert mv.shapes == ((1, 28, 23),) * 7 and torch.equal(mv.y, load_umist_poses("all").y) and "28 x 23" in check_umist()
    write_umist(home, pictures(23, 28), name="umist_28x23.npz")
    with pytest.raises(DataCorrupt, match=r"umist_28x23.npz\[images\]: expected bytes of shape \(575, 28, 23\), found uint8 \(575, 23, 28\)"): check_umist()


@pytest.mark.parametrize("change, message", [
    (lambda x, y: (x[:574], y), r"\[images\]: expected bytes of shape \(575, 32, 32\), found uint8 \(574, 32, 32\)"),
    (lambda x, y: (x.astype(np.float32) / 255, y), r"\[images\]: expected bytes .* found float32"),
    (lambda x, y: (x, y[::-1]), r"\[subject\]: expected the people 0 to 19 in order"), (lambda x, y: (x, y[:-1]), r"\[subject\]: expected the people"),
    (lambda x, y: (x, y + 1), r"\[subject\]"), (lambda x, y: (x, y.astype(float)), r"\[subject\]: .* found float64"),
    (lambda x, y: (x, y[:, None]), r"\[subject\]"), (lambda x, y: (x * (np.arange(575) != 77)[:, None, None].astype(np.uint8), y), "picture 77 is one flat tone"),
])
def test_umist_is_read_strictly(home, change, message):
    path = write_umist(home, *change(pictures(), SUBJECT))
    for read in (load_umist_poses, check_umist):
        with pytest.raises(DataCorrupt, match=f"{path.name}.*{message}"): read()


def test_umist_damaged_hostile_or_missing(home):
    with pytest.raises(DataNotAvailable, match="umist"): load_umist_poses()
    path = write_umist(home)
    data = path.read_bytes()
    for bad in (data[:-100], data[:5000], b"", b"<html>"):
        path.write_bytes(bad)
        with pytest.raises(DataCorrupt, match="umist_32.npz"): load_umist_poses()
    write_umist(home, subject=np.array([{"a": 1}] * 575, dtype=object))
    with pytest.raises(DataCorrupt, match="umist_32.npz"): load_umist_poses()
    np.savez(path, images=pictures())
    with pytest.raises(DataCorrupt, match="subject"): load_umist_poses()


@pytest.mark.data
def test_the_real_umist():
    try: faces._umist_file(32)
    except DataNotAvailable: pytest.skip("no umist there")
    assert check_umist().startswith("575 pictures of 20 people")
    mv = load_umist_poses("all")
    assert len(mv) == 68 and mv.shapes == ((1, 32, 32),) * 7
    for size in (32, 28):
        try: pictures = [x.numpy().tobytes() for v in load_umist_poses("all", size=size).xs for x in v]
        except DataNotAvailable: continue
        assert len(set(pictures)) == len(pictures) == 7 * 68              # no picture serves twice, by its bytes
    uneven = [(x - x.flip(3)).square().mean().sqrt() for x in mv.xs]      # a frontal face is the most symmetric
    assert all(a > b for a, b in zip(uneven, uneven[1:]))
    train, test = (load_umist_poses(s) for s in ("train", "test"))
    assert (len(train), len(test)) == (56, 12) and len(test.groups.unique()) == 4 and not set(train.y.tolist()) & set(test.y.tolist())


# --- drawn heads

def test_drawn_heads_turn():
    traits = torch.rand(10, generator=torch.Generator().manual_seed(0))
    traits[2] = 0                                                          # dark hair
    front, right, left = draw_head(traits, torch.tensor([0., math.pi / 2, -math.pi / 2]), 64).int()
    uneven = lambda x: (x - x.flip(1)).abs().float().mean()
    assert 3 * uneven(front) < uneven(right)
    dark = lambda x: int((x[:, :32] < 50).sum() - (x[:, 32:] < 50).sum())    # the back of the head is left when the face looks to the right
    assert dark(right) > 200 and dark(left) < -200 and abs(dark(front)) < 60
    assert draw_head(traits, torch.zeros(3), 16).shape == (3, 16, 16) and draw_head(traits, torch.zeros(1)).dtype == torch.uint8
    with pytest.raises(ValueError, match=r"traits must be ten numbers, got shape \(9,\)"): draw_head(traits[:9], torch.zeros(1))


def test_tiny_needs_no_files_and_is_the_same_every_time(home):
    a, b = (load_umist_poses("all", tiny=True) for _ in range(2))
    assert all(torch.equal(u, v) for u, v in zip(a.xs, b.xs)) and a.shapes == ((1, 32, 32),) * 7
    assert a.y.bincount().tolist() == [m // 7 for m in COUNTS]
    assert all(0 <= x.min() and x.max() <= 1 and x.std() > .05 for x in a.xs)
    assert load_umist_poses(size=28, tiny=True).shapes == ((1, 28, 23),) * 7
    uneven = [float((x - x.flip(3)).square().mean()) for x in a.xs]
    assert uneven[6] < .2 * uneven[0]
    means = torch.stack([a.xs[6][a.y == p].mean(0).flatten() for p in range(20)])
    assert torch.cdist(means, means).fill_diagonal_(9).min() > .5                     # 20 different people


def test_splitting_by_sample_leaks():
    found = {}
    for by in ("sample", "subject"):
        train, test = (load_umist_poses(s, by=by, tiny=True) for s in ("train", "test"))
        near = torch.cdist(test.xs[0].flatten(1), train.xs[0].flatten(1)).argmin(1)
        found[by] = float((test.xs[6] - train.xs[6][near]).norm() / test.xs[6].norm())
    assert found["sample"] < .4 * found["subject"]


@pytest.mark.parametrize("options, error, message", [
    (dict(split="valid"), ValueError, "split='valid'"), (dict(by="pose"), ValueError, "by='pose'"), (dict(size=64), ValueError, "size=64"),
    (dict(n=0, tiny=True), ValueError, "n must be >= 1"), (dict(n=71, split="all", tiny=True), ValueError, "n must be at most"), (dict(seed=.5, tiny=True), TypeError, "seed"),
    (dict(split="all", seed=-1, tiny=True), ValueError, "seed must be >= 0"), (dict(split="all", seed=1.5, tiny=True), TypeError, "seed must be")])
def test_bad_options_of_umist(home, options, error, message):
    with pytest.raises(error, match=message): load_umist_poses(**options)
    for wrong in (0, -3):
        with pytest.raises(ValueError, match="length must be >= 1"): pose_rows(wrong)
    with pytest.raises(TypeError, match="views must be a whole number"): pose_rows(7, 2.)


# --- CVL

def jpeg(number, size=(640, 480)):
    "A smooth colour picture, different for each number, as bytes."
    y, x = np.mgrid[:size[1], :size[0]] / 100
    rgb = np.stack([127 + 100 * np.sin(x * (1 + c) + y + number) for c in range(3)], 2).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=60)
    return file.getvalue()


PICTURES = [jpeg(k) for k in range(10)]


def write_cvl(folder, people, missing=(), extra=(), order=1):
    for p in list(range(1, people + 1))[::order]:
        (folder / str(p)).mkdir(parents=True)
        for k in list(range(1, 8))[::order] + [k for q, k in extra if q == p]:
            if (p, k) not in missing: (folder / str(p) / f"MVC-{k:03d}F.JPG").write_bytes(PICTURES[(p + 2 * k) % 10])
        (folder / str(p) / "Thumbs.db").write_bytes(b"x")
    (folder / "readme.txt").write_text("35- one picture is missing")
    (folder / "tools").mkdir()


def load(split="all", size=64, crop=450, holdout="paper", n=None, seed=0, people=9): return faces._load_cvl(split, size, crop, holdout, n, seed, people)


def test_cvl_complete(home):
    write_cvl(home / "cvl", 114, missing=[(35, 7), (44, 7), (93, 7)], extra=[(17, 8), (17, 9)])
    train, test, every = (load_cvl(s, size=32) for s in ("train", "test", "all"))
    assert (len(train), len(test), len(every)) == (100, 14, 114) and test.y.tolist() == list(range(100, 114)) and every.names == CVL_VIEWS
    assert every.shapes == ((1, 32, 32),) * 7 and torch.equal(every.groups, torch.arange(114)) and every.classes[34] == "person 35"
    assert [tuple(r) for r in (~every.present).nonzero().tolist()] == [(34, 6), (43, 6), (92, 6)]
    assert (every.xs[6][34] == 0).all() and 0 <= every.xs[0].min() and every.xs[0].max() <= 1
    drawn = [load_cvl("test", size=32, holdout="random", seed=s).y.tolist() for s in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2] and all(len(d) == 14 for d in drawn)
    assert not set(drawn[0]) & set(load_cvl("train", size=32, holdout="random", seed=1).y.tolist())
    assert len(load_cvl("train", size=32, n=10)) == 10


def test_a_picture_by_hand(home):
    write_cvl(home / "cvl", 9)
    mv = load(size=30, crop=300)
    with Image.open(home / "cvl/4/MVC-006F.JPG") as image: rgb = np.asarray(image).astype(float)
    grey = np.floor(rgb @ [.299, .587, .114] + .5)[90:390, 170:470]
    x = mv.xs[5][3, 0].numpy() * 255
    centre = (np.arange(30) + .5) * 10 - .5                # bilinear with anti-aliasing: a triangle of half-width 10 pixels
    weight = np.clip(1 - abs(np.arange(300) - centre[:, None]) / 10, 0, None)
    weight /= weight.sum(1, keepdims=True)
    assert abs(x - weight @ grey @ weight.T).max() < 1.6


def test_cvl_does_not_depend_on_the_folders_order_nor_on_the_cache(home, tmp_path, monkeypatch):
    write_cvl(home / "cvl", 9)
    first = load()
    assert all(torch.equal(a, b) for a, b in zip(first.xs, load().xs))
    monkeypatch.setattr(faces, "_read_faces", lambda *_: pytest.fail("read again"))
    load()
    monkeypatch.undo()
    monkeypatch.setenv("MVNB_DATA", str(tmp_path / "other")), monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other_cache"))
    write_cvl(tmp_path / "other/cvl", 9, order=-1)
    assert all(torch.equal(a, b) for a, b in zip(first.xs, load().xs))
    (tmp_path / "other/cvl/2/MVC-001F.JPG").write_bytes(jpeg(77))      # another content: the cache must not answer
    changed = load()
    assert not torch.equal(changed.xs[0][1], first.xs[0][1]) and torch.equal(changed.xs[1], first.xs[1])


def test_each_crop_and_size_has_its_own_cache(home):
    write_cvl(home / "cvl", 9)
    for options in (dict(crop=450), dict(crop=300), dict(crop=450, size=32), dict(crop=450)):
        want = faces._read_faces(faces._cvl_files(home / "cvl", 9), options.get("size", 64), options["crop"])["images"]
        assert np.array_equal(np.stack([(x[:, 0] * 255).round().byte().numpy() for x in load(**options).xs], 1), want)


def test_lower_case_names_and_a_changed_copy_of_the_loaded_data(home):
    write_cvl(home / "cvl", 9)
    first = load()
    for path in list((home / "cvl").glob("*/MVC*")): path.rename(path.with_name(path.name.lower()))
    again = load()
    again.xs[0].zero_()
    assert all(torch.equal(a, b) for a, b in zip(first.xs, load().xs))


@pytest.mark.parametrize("spoil, message", [
    (lambda c: (c / "3/MVC-002F.JPG").unlink(), r"cvl/3: expected the pictures .* of person 3, found the numbers \[1, 3, 4, 5, 6, 7\]"),
    (lambda c: (c / "3/MVC-008F.JPG").write_bytes(PICTURES[0]), r"cvl/3: .* found the numbers \[1, 2, 3, 4, 5, 6, 7, 8\]"),
    (lambda c: (c / "3/mvc-002f.jpg").write_bytes(PICTURES[0]), "cvl/3: expected one picture 002 of person 3, found two"),
    (lambda c: (c / "3").rename(c / "12"), r"expected the folders 1 to 9, one per person, found 9; missing: \[3\], not expected: \[12\]"),
    (lambda c: (c / "10").mkdir(), r"found 10; missing: none, not expected: \[10\]"),
    (lambda c: (c / "9/MVC-007F.JPG").write_bytes(PICTURES[0][:-3000]), "cvl/9/MVC-007F.JPG: expected a complete JPEG"),
    (lambda c: (c / "9/MVC-007F.JPG").write_bytes(b""), "cvl/9/MVC-007F.JPG: expected a complete JPEG picture, found 0 bytes"),
    (lambda c: Image.new("RGB", (640, 480)).save(c / "9/MVC-007F.JPG", "PNG"), "cvl/9/MVC-007F.JPG: expected a complete JPEG"),
    (lambda c: (c / "9/MVC-007F.JPG").write_bytes(jpeg(0, (480, 640))), "cvl/9/MVC-007F.JPG: expected a picture of 640 x 480, found 480 x 640"),
])
def test_cvl_is_read_strictly(home, spoil, message):
    write_cvl(home / "cvl", 9)
    assert faces._check_cvl(9) == "63 pictures of 9 people (no checksums are published); missing: none"
    load(size=16)
    spoil(home / "cvl")
    for read in (lambda: load(size=16), lambda: faces._check_cvl(9)):
        with pytest.raises(DataCorrupt, match=message): read()


def test_only_the_known_people_may_lack_pictures(home, monkeypatch):
    monkeypatch.setattr(faces, "_CVL_SHORT", (2,)), monkeypatch.setattr(faces, "_CVL_LONG", (4,))
    write_cvl(home / "cvl", 9, missing=[(2, 3)], extra=[(4, 8)])
    assert (~load().present).nonzero().tolist() == [[1, 2]] and "missing: front of person 2" in faces._check_cvl(9)
    (home / "cvl/2/MVC-001F.JPG").unlink()
    with pytest.raises(DataCorrupt, match=r"cvl/2: .* found the numbers \[2, 4, 5, 6, 7\]"): load()


@pytest.mark.parametrize("options, error, message", [
    (dict(split="valid"), ValueError, "split='valid'"), (dict(holdout="last"), ValueError, "holdout='last'"), (dict(size=0), ValueError, "size must be >= 1"),
    (dict(size=64.), TypeError, "size must be a whole number"), (dict(crop=481), ValueError, "crop must be at most 480"), (dict(crop=0), ValueError, "crop must be >= 1"),
    (dict(seed=-1), ValueError, "seed must be >= 0"), (dict(seed=1.5, split="all"), TypeError, "seed must be"),
    (dict(), DataNotAvailable, "cvl")])
def test_bad_options_of_cvl(home, options, error, message):
    with pytest.raises(error, match=message): load_cvl(**options)
    with pytest.raises(DataNotAvailable, match="cvl"): check_cvl()
