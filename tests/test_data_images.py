"MNIST and what is made from it: bytes against slow references, pairs and halves, patches, faults, and the real files."
import dataclasses
import gzip
import hashlib
import inspect
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

import mvnb.data as data
from mvnb.data import DataCorrupt, DataNotAvailable, info, load
from mvnb.data import images
from mvnb.data.images import (cut_patches, edge_image, load_digits, load_emnist_edges, load_fashion, load_mnist, load_noisyfashion, load_noisymnist,
                              load_patchedmnist, noisy_pairs, noisy_view)

MNIST_COUNTS = {"train": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949], "test": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]}
SETS = ("mnist", "fashion", "e-mnist", "noisymnist", "noisyfashion", "patchedmnist")
TINY = ("mnist", "e-mnist", "noisymnist", "patchedmnist")


def idx(x):
    x = np.asarray(x)
    return gzip.compress(bytes([0, 0, 8 if x.dtype.itemsize == 1 else 12, x.ndim]) + struct.pack(f">{x.ndim}I", *x.shape) + x.tobytes(), mtime=0)


def rows(x):
    "The distinct images of a batch, as bytes."
    return {i.tobytes() for i in np.asarray(x)}


@pytest.fixture
def official(home, monkeypatch):
    "Small files in the official layout (train 200, test 60), and a registry that takes them for the published ones."
    g, content = np.random.default_rng(0), {}
    for folder in ("mnist", "fashion"):
        (home / "data" / folder).mkdir(parents=True)
        for part, n in (("train", 200), ("t10k", 60)):
            x, y = g.integers(0, 256, (n, 28, 28), dtype=np.uint8), (np.arange(n) % 10).astype(np.uint8)
            content[folder, part] = x, y = x, g.permutation(y)
            put(home, folder, part, x, y, monkeypatch)
    return content


def put(home, folder, part, x, y, monkeypatch):
    "Write one part and adjust the registry's checksums."
    new = {}
    for kind, a in (("images-idx3", x), ("labels-idx1", y)):
        path, packed = f"{folder}/{part}-{kind}-ubyte.gz", idx(a)
        (home / "data" / path).write_bytes(packed)
        new[path] = "md5:" + hashlib.md5(packed).hexdigest()
    registry = {name: dataclasses.replace(r, files=tuple(dataclasses.replace(f, checksum=new.get(f.path, f.checksum)) for f in r.files))
                for name, r in data._REGISTRY.items()}
    monkeypatch.setattr(data, "_REGISTRY", registry)


def both(official, folder):
    x, y = (np.concatenate([official[folder, part][i] for part in ("train", "t10k")]) for i in (0, 1))
    return x, y


# --- one view, two views

@pytest.mark.parametrize("name, folder", [("mnist", "mnist"), ("fashion", "fashion"), ("e-mnist", "mnist")])
@pytest.mark.parametrize("split", ["train", "test", "all"])
def test_official_files(official, name, folder, split):
    x, y = official[folder, "train" if split == "train" else "t10k"] if split != "all" else both(official, folder)
    mv = load(name, split=split, size=28)
    assert np.array_equal(mv.xs[0][:, 0].numpy(), x / np.float32(255)) and np.array_equal(mv.y, y) and mv.xs[0].dtype == torch.float32
    if name == "e-mnist":
        edges = np.stack([ndimage.maximum_filter(i, size=3, mode="constant") - i for i in x])
        assert np.array_equal(mv.xs[1][:, 0].numpy(), edges / np.float32(255)) and mv.names == ("image", "edges")
    else: assert mv.names == ("image",)
    assert mv.classes[0] == ("T-shirt/top" if folder == "fashion" else "0") and mv.n_classes == 10
    big = load(name, split=split, size=32)
    at = np.clip((np.arange(32) + .5) * 28 / 32 - .5, 0, 27)          # half-pixel centres, by hand
    for v, x in zip(big.xs, mv.xs):
        assert v.shape == (len(y), 1, 32, 32)
        for i in (0, 3): assert np.allclose(v[i, 0], ndimage.map_coordinates(x[i, 0].numpy(), np.meshgrid(at, at, indexing="ij"), order=1), atol=1e-5)


def test_sizes_by_default():
    assert {f.__name__: inspect.signature(f).parameters["size"].default for f in (load_mnist, load_fashion, load_emnist_edges)} == dict(
        load_mnist=28, load_fashion=28, load_emnist_edges=32)


@pytest.mark.parametrize("name", SETS)
def test_subset(official, name):
    whole, few, more, other = (load(name, n=n, seed=s) for n, s in ((None, 0), (20, 0), (30, 0), (20, 1)))
    assert len(few) == 20 and rows(few.xs[0]) < rows(more.xs[0]) < rows(whole.xs[0]) and rows(few.xs[0]) != rows(other.xs[0])
    assert (few.y.bincount(minlength=whole.n_classes) - 20 * whole.y.bincount() / len(whole)).abs().max() < 1
    for x, of in zip(few.xs, whole.xs): assert rows(x) < rows(of)
    if few.groups is not None: assert set(few.groups.tolist()) <= set(whole.groups.tolist())
    with pytest.raises(ValueError, match="n must be at most the number of rows"): load(name, n=1000)
    with pytest.raises(ValueError, match="n must be >= 1"): load(name, n=0)


@pytest.mark.parametrize("name", SETS)
def test_same_seed_same_bytes(official, home, monkeypatch, name):
    a, b, c = load(name, n=30), load(name, n=30), None
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "another"))                  # built again from the files
    c = load(name, n=30)
    for other in (b, c): assert all(x.numpy().tobytes() == z.numpy().tobytes() for x, z in zip(a.xs, other.xs)) and torch.equal(a.y, other.y)


@pytest.mark.parametrize("name", SETS)
def test_no_files_and_wrong_files(home, name):
    with pytest.raises(DataNotAvailable) as e: load(name)
    folder = "fashion" if "fashion" in name else "mnist"
    for part in (f"data set {name!r}", "train-images-idx3-ubyte.gz", str(home / "data" / folder), "MVNB_OFFLINE"): assert part in str(e.value)
    (home / "data" / folder).mkdir(parents=True)
    for f in info(name).files: (home / "data" / f.path).write_bytes(idx(np.zeros(3, np.uint8)))
    with pytest.raises(DataCorrupt) as e: load(name)
    for part in (info(name).files[0].path, info(name).files[0].checksum[4:]): assert part in str(e.value)
    assert not list(home.rglob("*.npy"))                                          # nothing half-built is left


@pytest.mark.parametrize("name", SETS)
def test_damaged_parts(official, home, monkeypatch, name):
    folder = "fashion" if "fashion" in name else "mnist"
    x, y = official[folder, "train"]
    for bad, text in (((x, y[:-1]), "labels-idx1.*200 labels"), ((x, y.astype(">i4")), "labels"), ((x, y + 10), "largest"), ((x[:, :27], y), r"images-idx3.*\(n, 28, 28\)"),
                      ((y, y), "bytes of shape"), ((x.astype(">i4"), y), "bytes of shape"), ((x[:0], y[:0]), "bytes of shape")):
        put(home, folder, "train", *bad, monkeypatch)
        with pytest.raises(DataCorrupt, match=text): load(name)
    path = home / "data" / info(name).files[0].path
    put(home, folder, "train", x, y, monkeypatch)
    load(name)
    path.write_bytes(path.read_bytes()[:-10])                                     # generated sets do not read it again; others notice
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "another"))
    with pytest.raises(DataCorrupt, match="not the published file"): load(name)


@pytest.mark.parametrize("name", SETS)
def test_bad_options(official, name):
    options = inspect.signature(data._named(info(name).loader)).parameters
    assert {"split", "n", "seed"} <= set(options) and ("tiny" in options) == (name in TINY) and "verify" not in options
    with pytest.raises(ValueError, match="split='valid' is unknown.*train, test, all"): load(name, split="valid")
    for also in (dict(), dict(n=10), dict(split="all")):
        with pytest.raises(ValueError, match="seed must be >= 0"): load(name, seed=-1, **also)
        with pytest.raises(TypeError, match="seed must be a whole number"): load(name, seed=1.5, **also)
    if "tiny" in options:
        for value in ("no", 1, None):
            with pytest.raises(TypeError, match=f"tiny must be True or False, got {value!r}"): load(name, tiny=value)
    for option, value, text in (("size", 64, "28, 32"), ("sd", -1, "sd must be"), ("sd", float("nan"), "sd must be"), ("pairing", "all", "within, authors"), ("views", 3, "paper, all")):
        if option in options:
            with pytest.raises(ValueError, match=text): load(name, **{option: value})


def test_bad_options_build_nothing(official, home):
    for name in ("noisymnist", "noisyfashion", "patchedmnist"):
        for wrong in (dict(n=0), dict(n=-1), dict(n=2.), dict(n=True), dict(seed=-1)):
            with pytest.raises((TypeError, ValueError), match="n must be|seed must be"): load(name, **wrong)
    for name in ("noisymnist", "noisyfashion"):
        with pytest.raises(ValueError, match=r"sd must leave finite numbers \(float32\), got 1e\+39"): load(name, sd=1e39)
    assert not list((home / "cache").rglob("*.npy"))


@pytest.mark.parametrize("split, total", [("all", 1797), ("train", 1438), ("test", 359)])
def test_some_digits(split, total):
    whole, few, more = (load("digits", split=split, seed=3, **o) for o in ({}, dict(n=50), dict(n=60)))
    assert [len(mv) for mv in (whole, few, more)] == [total, 50, 60] and rows(few.xs[0]) < rows(more.xs[0]) < rows(whole.xs[0])
    assert (few.y.bincount() - 50 * whole.y.bincount() / total).abs().max() < 1 and torch.equal(few.xs[1], edge_image(few.xs[0]))
    assert rows(load_digits(split, n=50, seed=4).xs[0]) != rows(few.xs[0])
    for wrong, error, text in ((dict(n=0), ValueError, "n must be >= 1"), (dict(n=total + 1), ValueError, "n must be at most"), (dict(n=1.5), TypeError, "n must"),
                               (dict(seed=-1), ValueError, "seed must be >= 0"), (dict(seed=1.5), TypeError, "seed must be a whole number")):
        with pytest.raises(error, match=text): load_digits(split, **wrong)


@pytest.mark.parametrize("name", TINY)
def test_tiny_needs_no_files(home, name):
    whole, train, test = (load(name, split=s, tiny=True) for s in ("all", "train", "test"))
    assert len(train) + len(test) == len(whole) == (537 if name == "patchedmnist" else 1797)
    assert all(x.dtype == torch.float32 and x.min() >= 0 and x.max() <= 1 for x in whole.xs) and whole.present.all()
    for w, a, b in zip(whole.xs, train.xs, test.xs): assert rows(w) == rows(a) | rows(b)
    assert whole.y.bincount().tolist() == (train.y.bincount() + test.y.bincount()).tolist()


def test_tiny_is_enlarged_digits(home):
    mv, digits = load_mnist("all", tiny=True), torch.cat([load_digits(s).xs[0] for s in ("train", "test")])
    at = np.clip((np.arange(28) + .5) * 8 / 28 - .5, 0, 7)
    for i in (0, 700, 1796):
        expected = ndimage.map_coordinates(digits[i, 0].numpy(), np.meshgrid(at, at, indexing="ij"), order=1)
        assert np.abs(mv.xs[0][i, 0].numpy() - expected).max() < .51 / 255


def test_edges():
    dot = torch.zeros(1, 1, 6, 6, dtype=torch.uint8); dot[0, 0, 0, 0] = 9
    assert edge_image(dot).nonzero()[:, 2:].tolist() == [[0, 1], [1, 0], [1, 1]] and edge_image(dot).sum() == 27
    x = torch.randint(256, (30, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(edge_image(x)[:, 0], [ndimage.maximum_filter(i, size=3, mode="constant") - i for i in x[:, 0].numpy()])
    with pytest.raises(ValueError, match=r"x must have shape.*\(1, 28, 28\)"): edge_image(x[0])


# --- noisy pairs

LABELS = [torch.arange(400) % 10, torch.tensor([3] * 211 + [0] * 37 + [7] * 101)[torch.randperm(349, generator=torch.Generator().manual_seed(0))],
          torch.zeros(4, dtype=torch.long), torch.tensor([5] * 1999)]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("y", LABELS, ids=len)
def test_pairs_stay_in_their_half(y, seed):
    n, half = len(y), len(y) // 2
    first, second, ring = noisy_pairs(y, seed=seed)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(n))       # every image once in each view
    assert (first != second).all() and torch.equal(y[first], y[second])
    train, test = ({*first[s].tolist(), *second[s].tolist()} for s in (slice(half), slice(half, n)))
    assert len(train) == half and len(test) == n - half and not train & test         # no image in both halves
    for c in y.unique(): assert abs(int((y[first[:half]] == c).sum()) - int((y == c).sum()) / 2) <= 1
    assert all(torch.equal(a, b) for a, b in zip((first, second, ring), noisy_pairs(y, seed=seed)))
    if n > 4: assert not torch.equal(second, noisy_pairs(y, seed=seed + 10)[1])


@pytest.mark.parametrize("y", LABELS, ids=len)
def test_rings_are_the_cycles_of_the_pairing(y):
    first, second, ring = noisy_pairs(y, seed=0)
    following, number, seen = dict(zip(first.tolist(), second.tolist())), dict(zip(first.tolist(), ring.tolist())), set()
    train = set(first[:len(y) // 2].tolist())
    for i in following:                                                               # walk every cycle, slowly
        if i in seen: continue
        cycle, j = [i], following[i]
        while j != i: cycle.append(j); j = following[j]
        assert len({number[j] for j in cycle}) == 1 and sum(r == number[i] for r in number.values()) == len(cycle)
        mates = sum(int(y[j]) == int(y[i]) and (j in train) == (i in train) for j in following)
        assert 10 <= len(cycle) < 20 or len(cycle) == mates < 10
        seen |= set(cycle)


def test_authors_pairing_leaks():
    y = torch.arange(20_000) % 10
    first, second, ring = noisy_pairs(y, seed=0, pairing="authors")
    half = len(y) // 2
    assert ring is None and sorted(first.tolist()) == sorted(second.tolist()) == list(range(len(y))) and torch.equal(y[first], y[second])
    train = torch.cat([first[:half], second[:half]])
    leaked = (torch.isin(first[half:], train) | torch.isin(second[half:], train)).float().mean()
    assert abs(leaked - .75) < .01
    assert 1 <= int((first == second).sum()) < 40                                     # a random permutation: one fixed point per class on average
    with pytest.raises(ValueError, match="pairing='mine' is unknown"): noisy_pairs(y, seed=0, pairing="mine")


def test_partners_are_uniform():
    y = torch.zeros(8, dtype=torch.long)
    count = torch.zeros(8, 8)
    for seed in range(700):
        first, second, _ = noisy_pairs(y, seed=seed)
        count[first, second] += 1
    off = count[~torch.eye(8, dtype=torch.bool)]
    assert count.diagonal().sum() == 0 and off.sum() == 5600 and (off - 100).abs().max() < 50   # sd 10


def test_lonely_images():
    with pytest.raises(ValueError, match="class 2 has a single image in one half"): noisy_pairs(torch.tensor([0] * 8 + [2] * 3), seed=0)


def test_noise_by_hand():
    x = torch.randint(256, (50, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    z = noisy_view(x, sd=.2, seed=3)
    e = images.generator(3, "noise")
    raw = x.double().numpy() / 127.5 - 1 + .2 * torch.randn(x.shape, generator=e).double().numpy()
    assert np.allclose(z, (raw - raw.min()) / (raw.max() - raw.min()), atol=1e-6) and z.min() == 0 and z.max() == 1
    assert torch.allclose(noisy_view(x, sd=0, seed=0), x / 255, atol=1e-6)
    assert not torch.equal(z, noisy_view(x, sd=.2, seed=4)) and x.dtype == torch.uint8
    black = noisy_view(torch.cat([x, torch.zeros(200, 1, 28, 28, dtype=torch.uint8)]), sd=.2, seed=0)
    scale = 1 / (raw.max() - raw.min())
    assert abs(float(black[50:].std()) / (.2 * scale) - 1) < .1 and .2 < float(black[50:].mean()) < .35
    for bad, error, text in ((dict(x=x / 255), TypeError, "bytes"), (dict(x=x, sd=-1), ValueError, "sd"), (dict(x=x, sd=1e39), ValueError, "sd must leave finite"), (dict(x=x, sd=8e37), ValueError, "sd must leave finite"),
                             (dict(x=x * 0, sd=0), ValueError, "more than one value")):
        with pytest.raises(error, match=text): noisy_view(**bad, seed=0)


@pytest.mark.parametrize("name, folder", [("noisymnist", "mnist"), ("noisyfashion", "fashion")])
@pytest.mark.parametrize("pairing", ["within", "authors"])
def test_noisy_sets(official, name, folder, pairing):
    x, y = both(official, folder)
    class_of = {i.tobytes(): int(c) for i, c in zip(x, y)}
    train, test, whole = (load(name, split=s, sd=0, pairing=pairing) for s in ("train", "test", "all"))      # sd=0: the partners can be recognised
    found = []
    for mv in (train, test):
        a, b = ([i.tobytes() for i in v[:, 0].mul(255).round().byte().numpy()] for v in mv.xs)
        assert [class_of[i] for i in a] == [class_of[i] for i in b] == mv.y.tolist() and len(mv) == 130
        found.append({*a, *b})
    assert bool(found[0] & found[1]) == (pairing == "authors") and found[0] | found[1] == set(class_of)
    assert all(torch.equal(w, torch.cat([a, b])) for w, a, b in zip(whole.xs, train.xs, test.xs)) and whole.names == ("image", "noisy")
    if pairing == "authors": assert whole.groups is None
    else:
        parts = [whole, *whole.split((.5, .3, .2), seed=0, groups=whole.groups)]
        sources = [{i.tobytes() for v in mv.xs for i in v.mul(255).round().byte().numpy()} for mv in parts]
        assert sum(map(len, sources[1:])) == len(sources[0])                          # cut by rings, no image is in two parts
        assert [len(s) for s in sources] == [len(mv) for mv in parts]
    noisy = load(name, pairing=pairing)
    assert torch.equal(noisy.xs[0], train.xs[0]) and not torch.equal(noisy.xs[1], train.xs[1])      # sd changes the noise, not the pairs
    assert not torch.equal(load(name, seed=1, pairing=pairing).xs[0], train.xs[0])


def test_noisy_cache(official, home):
    a = load_noisymnist()
    files = sorted(home.rglob("noisy.npy"))
    assert len(files) == 1 and (home / "cache") in files[0].parents
    stamp = files[0].stat().st_mtime_ns
    a.xs[1].zero_()                                                                   # our own copy
    assert load_noisymnist("test").xs[1].max() <= 1 and load_noisymnist().xs[1].max() > 0 and files[0].stat().st_mtime_ns == stamp
    for other in (dict(seed=1), dict(sd=.3), dict(pairing="authors"), dict(tiny=True)): load_noisymnist(**other)
    load_noisyfashion()
    load_noisymnist("all", n=10)
    assert len(list(home.rglob("noisy.npy"))) == 6                                    # nothing that decides the content is left out of the key


def test_other_files_other_set(official, home, monkeypatch):
    first = load_noisymnist("all", sd=0)
    x, y = official["mnist", "train"]
    put(home, "mnist", "train", 255 - x, y, monkeypatch)
    assert not torch.equal(load_noisymnist("all", sd=0).xs[0], first.xs[0])


# --- patches

def test_patches_equal_scipy_and_pillow():
    x = torch.randint(256, (5, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    out = cut_patches(x)
    assert out.shape == (12, 5, 1, 28, 28) and out.dtype == torch.int16
    cells = [(r, c) for r in range(4) for c in range(4) if not (r in (0, 3) and c in (0, 3))]
    at = np.clip((np.arange(112) + .5) / 4 - .5, 0, 27)
    for i in range(5):
        slow = ndimage.map_coordinates(x[i, 0].double().numpy(), np.meshgrid(at, at, indexing="ij"), order=1) * 64
        pil = np.asarray(Image.fromarray(x[i, 0].float().numpy()).resize((112, 112), Image.BILINEAR)) * 64
        for p, (r, c) in zip(out[:, i, 0].numpy(), cells):
            window = np.s_[28 * r:28 * r + 28, 28 * c:28 * c + 28]
            assert np.allclose(p, slow[window], atol=1e-6) and np.allclose(p, pil[window], atol=.1)   # whole numbers: nothing is lost
    assert torch.equal(cut_patches(x, ((1, 1),))[0], out[3])
    many = x.repeat(300, 1, 1, 1)                                                     # more than one block
    assert torch.equal(cut_patches(many, ((0, 2),))[0], out[1].repeat(300, 1, 1, 1))
    with pytest.raises(TypeError, match="bytes"): cut_patches(x / 255)
    with pytest.raises(ValueError, match=r"x must have shape \(n, 1, 28, 28\).*32"): cut_patches(torch.zeros(2, 1, 32, 32, dtype=torch.uint8))


def test_patched_set(official):
    x, y = both(official, "mnist")
    x, y = torch.from_numpy(x[y <= 2])[:, None], y[y <= 2]
    whole = load_patchedmnist("all", views="all")
    assert np.array_equal(whole.y, y) and whole.classes == ("0", "1", "2") and whole.n_views == 12
    for v, p in zip(whole.xs, cut_patches(x)): assert np.array_equal(v.numpy(), p.numpy() / np.float32(16320))
    three = load_patchedmnist("all")
    assert three.names == ("patch 01", "patch 02", "patch 11") and all(torch.equal(three.xs[i], whole.select([n]).xs[0]) for i, n in enumerate(three.names))
    halves = [load_patchedmnist(s, views="all") for s in ("train", "test")]
    joined = [rows(torch.stack(mv.xs, 1)) for mv in halves]
    assert not joined[0] & joined[1] and joined[0] | joined[1] == rows(torch.stack(whole.xs, 1)) and len(halves[0]) == len(y) // 2
    assert (halves[0].y.bincount() - whole.y.bincount() / 2).abs().max() <= 1
    assert not torch.equal(load_patchedmnist(seed=1).xs[0], load_patchedmnist().xs[0])


# --- the real files

@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.data
@pytest.mark.parametrize("split", ["train", "test"])
def test_real_counts(split):
    mnist, fashion = load_mnist(split), load_fashion(split)
    assert mnist.y.bincount().tolist() == MNIST_COUNTS[split] and mnist.shapes == ((1, 28, 28),)
    assert fashion.y.bincount().tolist() == [len(fashion) // 10] * 10 and len(fashion) == len(mnist)
    for mv in (mnist, fashion): assert mv.xs[0].min() == 0 and mv.xs[0].max() == 1
    assert load_emnist_edges(split, n=50).shapes == ((1, 32, 32),) * 2


@pytest.mark.data
@pytest.mark.parametrize("name", ["noisymnist", "noisyfashion"])
def test_real_noisy(cache, name):
    x, y = images._read_images(name, "all")
    train, test = (load(name, split=s) for s in ("train", "test"))
    assert len(train) == len(test) == 35_000 and not set(train.groups.tolist()) & set(test.groups.tolist())
    assert torch.equal(train.y.bincount() + test.y.bincount(), y.bincount()) and (train.y.bincount() - test.y.bincount()).abs().max() <= 2
    noisy = torch.cat([mv.xs[1] for mv in (train, test)])
    assert noisy.min() == 0 and noisy.max() == 1
    first, second, _ = noisy_pairs(y, seed=0)
    background = noisy[x[second] == 0]
    assert .24 < float(background.mean()) < .28 and .045 < float(background.std()) < .055
    clean = load(name, split="all", sd=0)
    assert torch.equal(clean.xs[0].mul(255).round().byte(), x[first]) and torch.equal(clean.xs[1].mul(255).round().byte(), x[second])


@pytest.mark.data
def test_real_patches(cache):
    mv = load_patchedmnist("all")
    assert len(mv) == 21_770 and mv.y.bincount().tolist() == [6903, 7877, 6990]
    everything = load_patchedmnist("all", views="all", n=2000)
    assert everything.n_views == 12
    for x in load_patchedmnist("all", views="all").xs: assert x.min() == 0 and x.max() == 1   # stretching to [0, 1] changes nothing
    assert len({r.tobytes() for r in torch.cat([x.flatten(1) for x in mv.xs], 1).numpy()}) == len(mv)      # no row repeats in all views (three, so in twelve)
    assert all(len(rows(x)) < len(mv) for x in mv.xs)                                                     # single patches do
    assert len(load_patchedmnist("train")) == len(load_patchedmnist("test")) == 10_885
