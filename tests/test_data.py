"Registry, file search, idx reader and the two image sets."
import gzip
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import ndimage

import mvnb.data as data
from mvnb.data import (DataCorrupt, DataNotAvailable, DataSet, MNIST_FILES, data_dir, data_dirs, find_file, info, load, names, register,
                       stratified_rows)
from mvnb.data import images
from mvnb.data.images import edge_image, load_digits, read_idx

REAL = os.environ.get("MVNB_DATA", "")


def idx(x, code=8):
    x = np.asarray(x)
    return bytes([0, 0, code, x.ndim]) + struct.pack(f">{x.ndim}I", *x.shape) + x.tobytes()


@pytest.fixture
def home(tmp_path, monkeypatch):
    "A computer with nothing on it."
    monkeypatch.setenv("MVNB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def tiny_mnist(home):
    "Four small files in the official format; train 200, test 50."
    g = np.random.default_rng(0)
    (home / "data/mnist").mkdir(parents=True)
    content = []
    for n, (image, label) in zip((200, 50), (MNIST_FILES[:2], MNIST_FILES[2:])):
        x, y = g.integers(0, 256, (n, 28, 28), dtype=np.uint8), g.integers(0, 10, n, dtype=np.uint8)
        (home / "data" / image).write_bytes(gzip.compress(idx(x)))
        (home / "data" / label).write_bytes(gzip.compress(idx(y)))
        content.append((x, y))
    return home / "data/mnist", content


# --- registry

def test_registry_is_lazy():
    code = "import sys, mvnb.data as d; assert d.names(); assert 'mvnb.data.images' not in sys.modules; d.load('digits'); assert 'mvnb.data.images' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_entry_is_complete():
    for name in names():
        entry = info(name)
        assert entry.name == name and entry.title and entry.licence and entry.source and entry.size
        assert callable(data._loader(entry))
        assert all(f.count("/") == 1 for f in entry.files)
    with pytest.raises(AttributeError): info("digits").title = "mine"


def test_unknown_names_and_options():
    with pytest.raises(ValueError, match="digits, e-mnist"): load("mnits")
    with pytest.raises(ValueError, match="digits, e-mnist"): info("mnits")
    with pytest.raises(TypeError, match="'sizes'.*split, size, n, seed"): load("e-mnist", sizes=3)
    with pytest.raises(TypeError, match="verify"): load("e-mnist", verify=False)      # checksums cannot be switched off by accident


def test_register(monkeypatch):
    monkeypatch.setattr(data, "_REGISTRY", dict(data._REGISTRY))
    register(DataSet("mine", "t", "mvnb.data.images:load_digits", "s", "l", "s"))
    assert names()[-1] == "mine" and len(load("mine", split="test")) == 359
    with pytest.raises(ValueError, match="taken"): register(info("mine"))
    with pytest.raises(ValueError, match="module:function"): register(DataSet("bad", "t", "nowhere", "s", "l", "s"))
    with pytest.raises(TypeError, match="DataSet"): register("mine")


# --- files

def test_search_order(home, monkeypatch):
    assert data_dirs("a") == [home / "data/a", home / "cache/mvnb/a"]
    for place in ("cache/mvnb/a", "data/a"):
        (home / place).mkdir(parents=True)
        (home / place / "f").write_text(place)
        assert find_file("a", "f").read_text() == place and data_dir("a") == home / place
    monkeypatch.delenv("MVNB_DATA")
    assert find_file("a", "f").read_text() == "cache/mvnb/a"
    monkeypatch.delenv("XDG_CACHE_HOME"); monkeypatch.setenv("HOME", str(home))
    assert data_dirs("a") == [home / ".cache/mvnb/a"]


def test_not_available(home, monkeypatch):
    with pytest.raises(DataNotAvailable) as e: load("e-mnist")
    for part in (str(home / "data/mnist"), str(home / "cache/mvnb/mnist"), "train-images-idx3-ubyte.gz", "yann.lecun.com", "put it into"): assert part in str(e.value)
    assert isinstance(e.value, FileNotFoundError)
    monkeypatch.delenv("MVNB_DATA")
    with pytest.raises(DataNotAvailable, match="MVNB_DATA is not set.*MVNB_DATA=<data>"): data_dir("mnist")


def test_wrong_checksum(home):
    (home / "data/a").mkdir(parents=True); (home / "data/a/f").write_bytes(b"hello")
    assert find_file("a", "f", "md5:5d41402abc4b2a76b9719d911017c592")
    with pytest.raises(DataCorrupt) as e: find_file("a", "f", "sha1:" + "0" * 40, source="the moon")
    for part in (str(home / "data/a/f"), "0" * 40, "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d", "the moon", "again"): assert part in str(e.value)
    assert isinstance(e.value, ValueError)


# --- idx

@pytest.mark.parametrize("code, dtype", [(8, ">u1"), (9, ">i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")])
@pytest.mark.parametrize("shape", [(7,), (2, 3), (2, 1, 3), (0, 4)])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_read_idx(tmp_path, code, dtype, shape, pack):
    x = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    (tmp_path / "f").write_bytes(pack(idx(x, code)))
    out = read_idx(tmp_path / "f")
    assert np.array_equal(out, x) and out.dtype == np.dtype(dtype).newbyteorder("=") and out.flags.writeable


GOOD = idx(np.arange(100, dtype=np.uint8).reshape(10, 10))


@pytest.mark.parametrize("content, text", [
    (b"", "not an idx file.*nothing"), (b"\0\0\x08", "not an idx"), (b"\x01" + GOOD[1:], "not an idx"), (b"\0\0\x0a" + GOOD[3:], "not an idx"),
    (b"\0\0\x08\0", "dimensions >= 1"), (GOOD[:9], "truncated: expected a header of 12"), (GOOD[:-1], "expected 112 bytes.*found 111"),
    (GOOD + b"x", "expected 112 bytes.*found 113"), (gzip.compress(GOOD)[:40], "gzip"), (gzip.compress(GOOD)[:-4], "gzip"),
    (gzip.compress(GOOD)[:20] + b"garbage" * 9, "gzip"), (b"<html>404</html>", "3c 68 74 6d"), (gzip.compress(GOOD[:-5]), "found 107"),
    (b"\0\0\x08\xff" + b"\xff" * 1020, "expected"),
])
def test_damaged_idx(tmp_path, content, text):
    (tmp_path / "f.gz").write_bytes(content)
    with pytest.raises(DataCorrupt, match=text) as e: read_idx(tmp_path / "f.gz")
    assert str(tmp_path / "f.gz") in str(e.value)


def test_idx_not_there(tmp_path):
    with pytest.raises(FileNotFoundError): read_idx(tmp_path / "none")


# --- image sets

def test_edges_equal_scipy():
    x = torch.randint(256, (30, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = np.stack([ndimage.maximum_filter(i, size=3, mode="constant") - i for i in x[:, 0].numpy()])
    out = edge_image(x)
    assert out.dtype == torch.uint8 and np.array_equal(out[:, 0], expected)
    with pytest.raises(ValueError, match="x must have shape"): edge_image(x[0])


def test_digits():
    from sklearn.datasets import load_digits as sklearn_digits
    mv, raw = load("digits"), sklearn_digits()
    assert mv.shape == (1797, 2) and mv.shapes == ((1, 8, 8),) * 2 and mv.names == ("image", "edges") and mv.classes == tuple("0123456789")
    assert np.array_equal(mv.xs[0][:, 0].numpy() * 16, raw.images) and np.array_equal(mv.y, raw.target) and mv.present.all()
    assert np.array_equal(mv.xs[1][:, 0].numpy(), np.stack([ndimage.maximum_filter(i, size=3, mode="constant") - i for i in mv.xs[0][:, 0].numpy()]))
    assert all(x.dtype == torch.float32 and x.min() >= 0 and x.max() <= 1 for x in mv.xs)


def test_digits_split():
    mv, train, test = (load_digits(s) for s in ("all", "train", "test"))
    assert len(train) == 1438 and len(test) == 359
    rows = {bytes(x.numpy().tobytes()) for x in train.xs[0]}, {bytes(x.numpy().tobytes()) for x in test.xs[0]}
    assert not rows[0] & rows[1] and len(rows[0] | rows[1]) == len({bytes(x.numpy().tobytes()) for x in mv.xs[0]})
    assert (train.y.bincount() - .8 * mv.y.bincount()).abs().max() <= 1
    assert torch.equal(load_digits("test").xs[0], test.xs[0]) and not torch.equal(load_digits("test", seed=1).xs[0], test.xs[0])
    with pytest.raises(ValueError, match="all, train, test"): load_digits("valid")


@pytest.mark.parametrize("split", ["train", "test", "all"])
def test_emnist_from_tiny_files(tiny_mnist, split):
    _, content = tiny_mnist
    parts = {"train": content[:1], "test": content[1:], "all": content}[split]
    x, y = (np.concatenate(t) for t in zip(*parts))
    mv = images._emnist_edges(split, 28, None, 0, verify=False)
    assert np.array_equal(mv.xs[0][:, 0].numpy(), x / np.float32(255)) and np.array_equal(mv.y, y)
    edges = np.stack([ndimage.maximum_filter(i, size=3, mode="constant") - i for i in x])
    assert np.array_equal((mv.xs[1][:, 0] * 255).round().byte().numpy(), edges)
    big = images._emnist_edges(split, 32, None, 0, verify=False)
    assert big.shapes == ((1, 32, 32),) * 2 and 0 <= big.xs[1].min() and big.xs[1].max() <= 1
    at = np.clip((np.arange(32) + .5) * 28 / 32 - .5, 0, 27)          # half-pixel centres, by hand
    reference = ndimage.map_coordinates(mv.xs[1][3, 0].numpy(), np.meshgrid(at, at, indexing="ij"), order=1)
    assert np.allclose(big.xs[1][3, 0], reference, atol=1e-5)


def test_emnist_subset(tiny_mnist):
    few, more = (images._emnist_edges("train", 28, n, 0, verify=False) for n in (20, 60))
    assert len(few) == 20 and {x.numpy().tobytes() for x in few.xs[0]} < {x.numpy().tobytes() for x in more.xs[0]}
    assert not torch.equal(few.xs[0], images._emnist_edges("train", 28, 20, 1, verify=False).xs[0])
    with pytest.raises(ValueError, match="n must be at most"): images._emnist_edges("test", 28, 51, 0, verify=False)
    with pytest.raises(ValueError, match="28, 32"): load("e-mnist", size=64)
    with pytest.raises(ValueError, match="train, test, all"): load("e-mnist", split="valid")


def test_emnist_refuses_other_files(tiny_mnist):
    folder, (_, (x, y)) = tiny_mnist
    with pytest.raises(DataCorrupt, match="f68b3c2dcbeaaa9fbdd348bbdeb94873"): load("e-mnist")
    image, label = folder / "t10k-images-idx3-ubyte.gz", folder / "t10k-labels-idx1-ubyte.gz"
    for path, content, text in ((label, y[:-1], "50 labels"), (label, y.astype(">i4"), "labels"), (label, y + 10, "largest"), (image, x[:, :27], r"\(n, 28, 28\)"), (image, y, "bytes of shape")):
        good = path.read_bytes()
        path.write_bytes(idx(content, 12 if content.dtype.itemsize == 4 else 8))
        with pytest.raises(DataCorrupt, match=text): images._emnist_edges("test", 28, None, 0, verify=False)
        path.write_bytes(good)
    image.write_bytes(image.read_bytes()[:-100])
    with pytest.raises(DataCorrupt, match="gzip"): images._emnist_edges("test", 28, None, 0, verify=False)


@pytest.mark.parametrize("n", [1, 3, 10, 57, 1000])
def test_stratified_rows(n):
    y = torch.tensor([7] * 700 + [-1] * 200 + [3] * 100)[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]
    rows = stratified_rows(y, n, seed=0)
    assert len(set(rows.tolist())) == n and torch.equal(rows, rows.sort().values)
    for label, share in ((7, .7), (-1, .2), (3, .1)): assert abs(int((y[rows] == label).sum()) - share * n) <= 1
    assert torch.equal(rows, stratified_rows(y.numpy(), n, seed=0))
    with pytest.raises(ValueError, match="n must be >= 1"): stratified_rows(y, 0, seed=0)


# --- the real files

@pytest.mark.data
@pytest.mark.skipif(not REAL, reason="MVNB_DATA is not set")
@pytest.mark.parametrize("split, counts", [("train", [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]),
                                           ("test", [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009])])
def test_real_emnist(split, counts):
    mv = load("e-mnist", split=split, size=28)
    assert mv.y.bincount().tolist() == counts
    assert mv.xs[0].max() == 1 and mv.xs[1].min() == 0
    few = load("e-mnist", split=split, n=100)
    assert few.shapes == ((1, 32, 32),) * 2 and (few.y.bincount(minlength=10) - 10).abs().max() <= 2
