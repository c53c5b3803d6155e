"PolyMNIST: generator against a literal loop, official layouts written here, hostile files."
import hashlib
import io
import os
import pickle
import random
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mvnb.base import generator
from mvnb.data import DataCorrupt, DataNotAvailable, load, stratified_rows
from mvnb.data import polymnist
from mvnb.data.polymnist import check_polymnist, invert_digits, load_polymnist, pair_rows, read_photo, read_png, read_pt

REAL = os.environ.get("MVNB_DATA", "")


def fake(split, n=None):
    "Digits whose masks spell a number that no other image has, train or test."
    n = n or {"train": 130, "test": 50}[split]
    code = torch.arange(n) + (1000 if split == "test" else 0)
    x = torch.zeros(n, 784, dtype=torch.uint8)
    x[:, :16] = 129 * ((code[:, None] >> torch.arange(16)) & 1).byte() + 64
    return x.reshape(n, 28, 28), torch.from_numpy(np.random.default_rng(n).integers(0, 10, n))


def spelled(x):
    "The numbers that `fake` wrote, from images on black photographs."
    return ((torch.as_tensor(x)[:, 0].reshape(len(x), -1)[:, :16] > 128).long() << torch.arange(16)).sum(1)


def photo(seed, high=60, wide=90):
    return np.random.default_rng(seed).integers(0, 256, (high, wide, 3), dtype=np.uint8)


@pytest.fixture
def made(home, monkeypatch):
    "MNIST and five photographs."
    monkeypatch.setattr(polymnist, "_digits", lambda split, tiny: fake(split))
    folder = home / "data/backgrounds"
    folder.mkdir(parents=True)
    for m, name in enumerate(("c.jpg", "a.jpeg", "e.JPG", "b.jpg", "d.jpg")): Image.fromarray(photo(m)).save(folder / name, "JPEG")
    return folder


def literal(x, y, photo, g):
    "The published construction, an image at a time, with PIL and floats."
    image = []
    for c in range(int(y.max()) + 1):
        rows = [r for r in range(len(y)) if y[r] == c]
        image.append([rows[p] for p in torch.randperm(len(rows), generator=g).tolist()])
    pairs = [(i, c, r) for c, rows in enumerate(image) for i, r in enumerate(rows)]
    pairs.sort()
    h, w = photo.shape[:2]
    x0 = torch.randint(0, w - 28, (len(y),), generator=g).tolist()
    y0 = torch.randint(0, h - 28, (len(y),), generator=g).tolist()
    out = []
    for k, (_, _, r) in enumerate(pairs):
        crop = np.asarray(Image.fromarray(photo).crop((x0[k], y0[k], x0[k] + 28, y0[k] + 28))).astype(np.float64) / 255
        for i in range(28):
            for j in range(28):
                if x[r, i, j] > 128: crop[i, j] = 1 - crop[i, j]
        out.append(np.floor(crop * 255 + .5).astype(np.uint8).transpose(2, 0, 1))
    return np.stack(out), [c for _, c, _ in pairs]


# --- the construction

@pytest.mark.parametrize("seed", [0, 1])
def test_equals_a_literal_loop(seed):
    g = np.random.default_rng(seed)
    x, y = torch.from_numpy(g.integers(0, 256, (40, 28, 28), dtype=np.uint8)), torch.from_numpy(g.integers(0, 5, 40))
    x[0, 0, :4] = torch.tensor([128, 129, 127, 255], dtype=torch.uint8)      # the threshold itself
    photos = {"a": photo(1), "b": photo(2, 29, 200)}
    views, labels = polymnist._generated("train", photos, x, y, seed, cache=False)
    for m, (view, p) in enumerate(zip(views, photos.values())):
        expected, classes = literal(x, y, p, generator(seed, "polymnist", "train", m))
        assert view.dtype == np.uint8 and np.array_equal(view, expected) and labels.tolist() == classes


def test_crops_reach_every_corner():
    p = np.zeros((33, 31, 3), np.uint8)
    p[..., 0], p[..., 1] = np.arange(33)[:, None], np.arange(31)
    out = invert_digits(torch.zeros(500, 28, 28, dtype=torch.uint8), p, generator(0))
    corners = {(int(i), int(j)) for i, j in out[:, :2, 0, 0]}
    assert corners == {(i, j) for i in range(33 - 28) for j in range(31 - 28)}      # [0, H - 28) x [0, W - 28)
    assert np.array_equal(out[:, 0, 27, 27] - out[:, 0, 0, 0], np.full(500, 27)) and (out[:, 2] == 0).all()


@pytest.mark.parametrize("bad", [photo(0)[:28], photo(0)[:, :28], photo(0)[..., 0], photo(0)[..., :2], photo(0).astype(np.float32)])
def test_bad_photo(bad):
    with pytest.raises(ValueError, match="photo must be uint8.*got"): invert_digits(torch.zeros(2, 28, 28, dtype=torch.uint8), bad, generator(0))


def test_pairs():
    y = torch.from_numpy(np.random.default_rng(0).integers(0, 4, 200))
    a, labels = pair_rows(y, generator(0, "a"))
    b, same = pair_rows(y, generator(0, "b"))
    assert torch.equal(labels, same) and torch.equal(y[a], labels) and torch.equal(y[b], labels)
    assert a.sort().values.tolist() == b.sort().values.tolist() == list(range(200)) and not torch.equal(a, b)
    seen = [0] * 4
    numbers = []
    for c in labels.tolist(): numbers.append((seen[c], c)); seen[c] += 1
    assert numbers == sorted(numbers)
    with_gap, labels = pair_rows(torch.tensor([5, 0, 5, 0, 5]), generator(0))
    assert labels.tolist() == [0, 5, 0, 5, 5] and sorted(with_gap.tolist()) == list(range(5))


def test_bytes_are_pinned():
    "Whoever changes the construction changes the cache's version with it."
    ramp = (np.arange(60 * 90 * 3) * 37 % 256).astype(np.uint8).reshape(60, 90, 3)
    views, y = polymnist._generated("train", {"a": ramp, "b": ramp[::-1]}, fake("train")[0], torch.arange(130) % 10, 3, cache=False)
    assert hashlib.sha256(b"".join(v.tobytes() for v in views)).hexdigest()[:16] == "892ba0ab4e335cab"
    assert y.tolist() == 13 * list(range(10))


# --- tiny

def test_tiny():
    train, test, both = (load_polymnist(s, tiny=True, size=28) for s in ("train", "test", "all"))
    assert len(train) + len(test) == 1797 and both.shapes == ((3, 28, 28),) * 5 and both.names == ("m0", "m1", "m2", "m3", "m4")
    assert all(torch.equal(torch.cat([a, b]), c) for a, b, c in zip(train.xs, test.xs, both.xs)) and both.n_classes == 10
    assert all(x.dtype == torch.float32 and 0 <= x.min() and x.max() <= 1 and torch.equal((x * 255).round() / 255, x) for x in both.xs)
    assert not any(torch.equal(a, b) for a, b in zip(train.xs, load_polymnist("train", tiny=True, size=28, seed=1).xs))
    assert torch.equal(load("polymnist", tiny=True, split="test", size=28).xs[4], test.xs[4])


def test_tiny_writes_and_reads_nothing(home):
    load_polymnist("test", tiny=True)
    assert not list(home.rglob("*"))


def test_size_32_is_the_plain_bilinear_resize():
    small, big = (load_polymnist("test", n=20, size=s, tiny=True) for s in (28, 32))
    expected = torch.nn.functional.interpolate(small.xs[3], size=(32, 32), mode="bilinear", align_corners=False)
    assert big.shapes == ((3, 32, 32),) * 5 and torch.allclose(big.xs[3], expected, atol=1e-6)


def test_same_bytes_in_another_process():
    code = ("import hashlib; from mvnb.data.polymnist import load_polymnist as l; "
            "print(hashlib.sha256(b''.join(x.numpy().tobytes() for x in l('test', tiny=True, n=100, seed=5, size=28).xs)).hexdigest())")
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": "7"}).stdout.strip()
    mine = load_polymnist("test", tiny=True, n=100, seed=5, size=28)
    assert out == hashlib.sha256(b"".join(x.numpy().tobytes() for x in mine.xs)).hexdigest()


def test_global_random_state_is_left_alone():
    torch.manual_seed(0); np.random.seed(0)
    a = torch.get_rng_state().clone()
    load_polymnist("test", tiny=True, n=10)
    assert torch.equal(a, torch.get_rng_state())


# --- generated

def test_generated_from_files(made):
    mv = load_polymnist("test", size=28, seed=2)
    for m, name in enumerate(("a.jpeg", "b.jpg", "c.jpg", "d.jpg", "e.JPG")):      # sorted by name
        expected, classes = literal(*fake("test"), read_photo(made / name), generator(2, "polymnist", "test", m))
        assert np.array_equal((mv.xs[m] * 255).round().byte().numpy(), expected) and mv.y.tolist() == classes
    with pytest.raises(DataNotAvailable, match="no official PolyMNIST files"): load_polymnist(source="official")
    assert check_polymnist() == "no official files; generated (PolyMNIST-like) from 130 + 50 images of MNIST on a.jpeg, b.jpg, c.jpg, d.jpg, e.JPG"


def test_other_digits_or_labels_meet_no_old_cache(home):
    photos, (x, y) = {"a": photo(0), "b": photo(1)}, fake("test")
    contents = ((x, y), (x.flip(0), y), (x, y.flip(0)))
    assert not torch.equal(y, y.flip(0)) and torch.equal(y.bincount(), y.flip(0).bincount())
    for kept, content in enumerate(contents, 1):
        fresh, cached, again = (polymnist._generated("test", photos, *content, 0, cache=c) for c in (False, True, True))
        for views, labels in (cached, again): assert all(np.array_equal(a, b) for a, b in zip(views, fresh[0])) and torch.equal(labels, fresh[1])
        assert len(list((home / "cache").rglob("x.npy"))) == 2 * kept


def test_no_image_in_both_halves(home, monkeypatch):
    monkeypatch.setattr(polymnist, "_digits", lambda split, tiny: fake(split))
    monkeypatch.setattr(polymnist, "_photos", lambda views: {str(m): np.zeros((40, 40, 3), np.uint8) for m in range(views)})
    for seed in range(3):
        train, test, both = (load_polymnist(s, size=28, seed=seed) for s in ("train", "test", "all"))
        for m in range(5):
            a, b = (spelled(mv.xs[m] * 255) for mv in (train, test))
            assert set(a.tolist()) == set(range(130)) and set(b.tolist()) == set(range(1000, 1050))      # each image once a view
            assert torch.equal(fake("train")[1][a], train.y) and torch.equal(spelled(both.xs[m] * 255), torch.cat([a, b]))
        assert not torch.equal(spelled(train.xs[0] * 255), spelled(train.xs[1] * 255))


def test_rows_and_views_are_parts_of_the_whole(made):
    whole = load_polymnist("all", size=28)
    part = load_polymnist("all", size=28, n=40, views=2)
    rows = stratified_rows(whole.y, 40, seed=0)
    assert len(part) == 40 and part.n_views == 2 and torch.equal(part.y, whole.y[rows]) and (rows < 130).any() and (rows >= 130).any()
    assert all(torch.equal(a, b[rows]) for a, b in zip(part.xs, whole.xs))


def test_cache(made, home, monkeypatch):
    first = load_polymnist("test", size=28)
    folder = home / "cache/mvnb/generated"
    assert len(list(folder.glob("polymnist-*"))) == 5
    with monkeypatch.context() as c:
        c.setattr(polymnist, "invert_digits", lambda *a: pytest.fail("built again"))
        assert all(torch.equal(a, b) for a, b in zip(load_polymnist("test", size=28).xs, first.xs))
        first.xs[0].zero_()                                       # our own copy
        assert load_polymnist("test", size=28).xs[0].max() > 0
    Image.fromarray(photo(77)).save(made / "a.jpeg", "JPEG")     # another photograph of the same name
    second = load_polymnist("test", size=28)
    assert len(list(folder.glob("polymnist-*"))) == 6 and not torch.equal(second.xs[0], first.xs[0]) and torch.equal(second.xs[1], first.xs[1])
    (made / "a.jpeg").rename(made / "zz.jpg")                     # another order
    assert torch.equal(load_polymnist("test", size=28, views=1).y, second.y) and len(list(folder.glob("polymnist-*"))) == 7
    load_polymnist("test", size=28, seed=1); load_polymnist("train", size=28)
    assert len(list(folder.glob("polymnist-*"))) == 7 + 5 + 5


@pytest.mark.slow
def test_two_processes_build_at_once(made):
    code = ("import torch, sys; sys.path.insert(0, sys.argv[1]); import test_data_polymnist as t; from mvnb.data import polymnist as p\n"
            "p._digits = lambda split, tiny: t.fake(split, 3000)\n"
            "print(float(sum((x * (m + 1)).double().sum() for m, x in enumerate(p.load_polymnist('train', size=28).xs))))")
    runs = [subprocess.Popen([sys.executable, "-c", code, str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    out = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0] and out[0] == out[1] and float(out[0]) > 0


def test_halves_differ_even_for_equal_digits(made, monkeypatch):
    monkeypatch.setattr(polymnist, "_digits", lambda split, tiny: fake("test"))
    train, test = (load_polymnist(s, size=28, views=1) for s in ("train", "test"))
    assert not torch.equal(train.xs[0], test.xs[0])


def test_missing_inputs(home, made):
    with pytest.raises(DataNotAvailable, match="views=6.*") as e: load_polymnist(views=6)
    assert str(made) in str(e.value) and "5 photographs" in str(e.value)
    for f in made.iterdir(): f.unlink()
    (made / "notes.txt").write_text("x"); (made / ".hidden.jpg").write_text("x")
    for call in (load_polymnist, check_polymnist):
        with pytest.raises(DataNotAvailable) as e: call()
        for part in (str(made), "MVNB_DATA is", "5 RGB photographs", str(home / "data/polymnist")): assert part in str(e.value)


def test_missing_mnist(home):
    (home / "data/backgrounds").mkdir(parents=True)
    for m in range(5): Image.fromarray(photo(m)).save(home / "data/backgrounds" / f"{m}.jpg")
    with pytest.raises(DataNotAvailable, match="train-images"): load_polymnist()


@pytest.mark.parametrize("name, make, text", [
    ("small", lambda: Image.fromarray(photo(0)[:28]), "90 x 28 pixels"), ("cmyk", lambda: Image.new("CMYK", (50, 50)), "mode CMYK"),
])
def test_photo_refused(tmp_path, name, make, text):
    make().save(tmp_path / f"{name}.jpg")
    with pytest.raises(DataCorrupt, match=text) as e: read_photo(tmp_path / f"{name}.jpg")
    assert str(tmp_path / f"{name}.jpg") in str(e.value) and "expected a complete RGB or grey JPEG" in str(e.value)


def test_photo_faults(tmp_path):
    file = tmp_path / "a.jpg"
    Image.fromarray(photo(0)).save(file)
    good = file.read_bytes()
    at = good.index(b"\xff\xc0")
    claims = good[:at + 5] + struct.pack(">HH", 60_000, 60_000) + good[at + 9:]
    png = io.BytesIO(); Image.fromarray(photo(0)).save(png, "PNG")
    large = good[:at + 5] + struct.pack(">HH", 9_000, 8_000) + good[at + 9:]
    for bad, text in ((good[:len(good) // 2], "truncated"), (b"", ""), (b"<html>", ""), (png.getvalue(), ""), (claims, "bomb"), (large, "8000 x 9000 pixels")):
        file.write_bytes(bad)
        with pytest.raises(DataCorrupt, match=f"a.jpg: expected a complete.*{text}"): read_photo(file)
    file.write_bytes(good)
    assert read_photo(file).shape == (60, 90, 3)
    Image.fromarray(photo(0)[..., 0]).save(file)
    grey = read_photo(file)
    assert (grey[..., 0] == grey[..., 2]).all()
    with pytest.raises(FileNotFoundError): read_photo(tmp_path / "none.jpg")


# --- official PNG files

def write_pngs(folder, xs, y, order=None):
    folder.mkdir(parents=True)
    for m, x in enumerate(xs):
        (folder / f"m{m}").mkdir()
        seen, names = [0] * 10, []
        for c in y.tolist(): names.append(f"{seen[c]}.{c}.png"); seen[c] += 1
        for r in order or range(len(y)): Image.fromarray(x[r].transpose(1, 2, 0)).save(folder / f"m{m}" / names[r])


@pytest.fixture
def content():
    "Train and test in the official order, three views."
    parts = {}
    for split in ("train", "test"):
        x, y = fake(split)
        parts[split] = polymnist._generated(split, {str(m): photo(m) for m in range(3)}, x, y, 0, cache=False)
    return parts


@pytest.fixture(params=["", "MMNIST", "PolyMNIST"])
def official(request, home, content):
    for split, (xs, y) in content.items(): write_pngs(home / "data/polymnist" / request.param / split, xs, y)
    return home / "data/polymnist" / request.param


@pytest.mark.parametrize("source", ["auto", "official"])
def test_official_png(official, content, source):
    both = load_polymnist("all", size=28, views=3, source=source)
    for m in range(3):
        expected = np.concatenate([content["train"][0][m], content["test"][0][m]])
        assert np.array_equal((both.xs[m] * 255).round().byte().numpy(), expected)
    assert torch.equal(both.y, torch.cat([content["train"][1], content["test"][1]]))
    assert max(both.y[:130].bincount()) > 10      # so that 10.c.png is not sorted before 2.c.png
    part = load_polymnist("test", size=28, views=2, source=source, n=12, seed=3)
    rows = stratified_rows(content["test"][1], 12, seed=3)
    assert torch.equal(part.y, content["test"][1][rows]) and torch.equal(part.xs[1], torch.from_numpy(content["test"][0][1])[rows].float() / 255)


def test_directory_order(home, content, monkeypatch):
    xs, y = content["train"]
    order = list(range(len(y))); random.Random(0).shuffle(order)
    write_pngs(home / "a/train", xs, y); write_pngs(home / "b/train", xs, y, order)
    results = [polymnist._png_part(home / f / "train", 3, False) for f in "ab"]
    scandir = os.scandir
    monkeypatch.setattr(polymnist.os, "scandir", lambda p: random.Random(1).sample(list(scandir(p)), k=130))
    results.append(polymnist._png_part(home / "a/train", 3, False))
    for views, labels in results: assert all(np.array_equal(a, b) for a, b in zip(views, xs)) and torch.equal(labels, y)


def test_png_cache_follows_the_files(home, content, monkeypatch):
    xs, y = content["test"]
    write_pngs(home / "data/polymnist/test", xs, y)
    first = load_polymnist("test", size=28, views=2)
    with monkeypatch.context() as c:
        c.setattr(polymnist, "read_png", lambda p: pytest.fail("read again"))
        assert torch.equal(load_polymnist("test", size=28, views=2).xs[1], first.xs[1])
    Image.fromarray(255 - xs[1][0].transpose(1, 2, 0)).save(home / "data/polymnist/test/m1/0.0.png")
    second = load_polymnist("test", size=28, views=2)
    assert torch.allclose(second.xs[1][0], 1 - first.xs[1][0]) and torch.equal(second.xs[1][1:], first.xs[1][1:]) and torch.equal(second.xs[0], first.xs[0])


def test_faults_never_lead_to_generated_data(made, home, content):
    xs, y = content["test"]
    root = home / "data/polymnist"
    root.mkdir()
    with pytest.raises(DataNotAvailable, match="exists but does not hold PolyMNIST.*expected train/ and test/.*source='generated'"): load_polymnist("test")
    write_pngs(root / "test", xs, y)
    with pytest.raises(DataNotAvailable, match="train does not exist"): load_polymnist("train", views=3)
    with pytest.raises(DataNotAvailable, match="m3 does not exist"): load_polymnist("test")
    assert len(load_polymnist("test", source="generated")) == 50
    for wrong, text in (("x.png", "nothing but files named"), ("01.3.png", "nothing but"), ("1.13.png", "nothing but"), ("1.3.PNG", "nothing but"),
                        ("٣.3.png", "nothing but"), ("1.3.png~", "nothing but"), ("99.3.png", "only in m1")):
        (root / "test/m1" / wrong).write_bytes(b"")
        with pytest.raises(DataCorrupt, match=text) as e: load_polymnist("test", views=3)
        assert wrong in str(e.value) and str(root / "test") in str(e.value)
        (root / "test/m1" / wrong).unlink()
    (root / "test/m1/0.3.png").unlink()
    with pytest.raises(DataCorrupt, match=r"m0 and m1 must hold the same file names, but 0.3.png is only in m0 \(1 such"): load_polymnist("test", views=3)
    (root / "test/m1/0.3.png").mkdir()
    with pytest.raises(DataCorrupt, match="0.3.png: expected nothing but files"): load_polymnist("test", views=3)
    (root / "test/m1/0.3.png").rmdir(); (root / "test/m1/0.3.png").write_bytes(b"no image")
    with pytest.raises(DataCorrupt, match="m1/0.3.png: expected a complete PNG"): load_polymnist("test", views=3)
    assert not [p for p in (home / "cache").rglob(".build-*")]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(wide=28, high=28, depth=8, colour=2, interlace=0, rows=28, extra=b"", cut=None, pieces=1):
    pixels = zlib.compress((b"\0" + bytes(range(84))) * rows)[:cut]
    step = -(-len(pixels) // pieces)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", wide, high, depth, colour, 0, 0, interlace)) + extra
            + b"".join(chunk(b"IDAT", pixels[a:a + step]) for a in range(0, len(pixels), step)) + chunk(b"IEND", b""))


@pytest.mark.parametrize("bad, text", [
    (b"", r"\(none\)"), (b"\x89PNG\r\n\x1a\n", "expected"), (png().replace(b"IHDR", b"JHDR"), "expected"),
    (png(wide=27), "27 x 28"), (png(high=2**31 - 1), "2147483647"), (png(depth=16), "16 bit"),
    (png(colour=0), "colour type 0"), (png(colour=6), "colour type 6"), (png(interlace=1), "interlace 1"),
    (png()[:-1], "IEND"), (png()[:-12], "IEND"), (png() + b"x", "IEND"),
    (png(cut=-1), "bytes of pixels"), (png(cut=40), "pixels"),
    (png(rows=0), "0 bytes"), (png(rows=20), "1,700 bytes of pixels instead of 2,380"), (png(rows=27), "2,295 bytes"), (png(rows=29), "2,465 bytes"),
    (png(rows=10**5), "bytes of pixels"), (png(extra=chunk(b"juNK", bytes(70_000))), "65,537 bytes"),
    (png(extra=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**25)))), "expected"),      # 32 MB of text
    (png()[:60] + b"\0\0" + png()[62:], "expected"), (png()[:-13] + bytes([png()[-13] ^ 1]) + png()[-12:], "IDAT"),
])
def test_bad_png(tmp_path, bad, text):
    (tmp_path / "0.0.png").write_bytes(bad)
    with pytest.raises(DataCorrupt, match=text) as e: read_png(tmp_path / "0.0.png")
    assert str(tmp_path / "0.0.png") in str(e.value) and "expected a complete PNG, RGB, 28 x 28" in str(e.value)


def test_good_png(tmp_path):
    for good in (png(), png(extra=chunk(b"tEXt", b"a\0b")), png(pieces=5)):
        (tmp_path / "0.0.png").write_bytes(good)
        x = read_png(tmp_path / "0.0.png")
        assert x.shape == (3, 28, 28) and x.dtype == np.uint8 and x[1, 5].tolist() == list(range(1, 84, 3))


# --- official tensors

def write_pts(folder, xs, y, as_float=(0,)):
    folder.mkdir(parents=True)
    for m, x in enumerate(xs): torch.save(torch.from_numpy(x).float() / 255 if m in as_float else torch.from_numpy(x), folder / f"m{m}.pt")
    torch.save(y, folder / "labels.pt")


@pytest.mark.parametrize("sub", ["", "MMNIST"])
def test_official_pt(home, content, sub):
    for split, (xs, y) in content.items(): write_pts(home / "data/polymnist" / sub / split, xs, y)
    both = load_polymnist("all", size=28, views=3)
    for m in range(3):
        assert np.array_equal((both.xs[m] * 255).round().byte().numpy(), np.concatenate([content[s][0][m] for s in ("train", "test")]))
    assert torch.equal(both.y, torch.cat([content["train"][1], content["test"][1]]))
    folder = home / "data/polymnist" / sub / "test"
    torch.save(torch.from_numpy(255 - content["test"][0][1]), folder / "m1.pt")      # the cache follows the file
    os.utime(folder / "m1.pt", ns=(1, 1))
    assert torch.allclose(load_polymnist("test", size=28, views=3).xs[1], 1 - both.xs[1][130:])
    with pytest.raises(DataNotAvailable, match="m3.pt does not exist"): load_polymnist("test")
    (folder / "labels.pt").unlink()
    with pytest.raises(DataNotAvailable, match="labels.pt does not exist"): load_polymnist("test", views=3)


class Hostile:
    def __init__(self, function, *args): self.call = function, args
    def __reduce__(self): return self.call


def rezip(data, change=lambda name, content: content, compress=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", compress) as new:
        for entry in old.infolist(): new.writestr(entry.filename, change(entry.filename, old.read(entry)))
    return out.getvalue()


def saved(content, **options):
    out = io.BytesIO(); torch.save(content, out, **options)
    return out.getvalue()


GOOD = saved(torch.arange(7, dtype=torch.uint8))


def test_rezip_is_harmless(tmp_path):
    "The helper that makes hostile files makes good ones, too."
    (tmp_path / "a.pt").write_bytes(rezip(GOOD))
    assert read_pt(tmp_path / "a.pt").tolist() == list(range(7))
    torch.save(torch.nn.Parameter(torch.ones(3)), tmp_path / "a.pt")
    assert not read_pt(tmp_path / "a.pt").requires_grad


def touch(f, function=os.system):
    "An object that makes the file `f` when it is unpickled."
    return Hostile(function, f"touch {f}" if function is os.system else f"open({str(f)!r}, 'w')")


def changed(entry, change):
    return rezip(GOOD, lambda name, content: change(content) if name.endswith(entry) else content)


@pytest.mark.filterwarnings("ignore::UserWarning")      # of the quantized tensor
@pytest.mark.parametrize("make, text", [
    (lambda f: saved(touch(f)), "call of posix.system, refused"),
    (lambda f: saved(touch(f, eval)), "refused and not executed"),
    (lambda f: saved([touch(f, exec)]), "refused"),
    (lambda f: pickle.dumps(touch(f)), "not a zip"),
    (lambda f: saved(touch(f), _use_new_zipfile_serialization=False), "not a zip"),
    (lambda f: changed("data.pkl", lambda c: pickle.dumps(touch(f), 2)), "refused"),
    (lambda f: changed("data.pkl", lambda c: c.replace(b"K\x07", b"K\xc8")), "expected one tensor"),      # claims 200 bytes
    (lambda f: changed("data/0", lambda c: c[:-3]), "expected one tensor"),
    (lambda f: GOOD[:len(GOOD) // 2], "not a zip"),
    (lambda f: GOOD[:-1], "expected one tensor"),
    (lambda f: b"", "not a zip"),
    (lambda f: rezip(GOOD, compress=zipfile.ZIP_DEFLATED), "compressed entries"),
    (lambda f: saved(torch.zeros(1, dtype=torch.uint8).expand(10**9)), "not contiguous"),
    (lambda f: saved(torch.eye(3).to_sparse()), "torch.sparse_coo"),
    (lambda f: saved(torch.empty(10**9, 3, 28, 28, device="meta")), "plain content"),
    (lambda f: saved(torch.quantize_per_tensor(torch.zeros(5), 1., 0, torch.quint8)), "quint8"),
    (lambda f: saved({"x": torch.zeros(3)}), "a dict"),
    (lambda f: saved(None), "a NoneType"),
])
def test_hostile_pt(tmp_path, monkeypatch, make, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m0.pt").write_bytes(make(tmp_path / "pwned"))
    with pytest.raises(DataCorrupt, match=text) as e: read_pt(tmp_path / "m0.pt")
    assert str(tmp_path / "m0.pt") in str(e.value) and "weights_only" not in str(e.value)
    assert [p.name for p in tmp_path.iterdir()] == ["m0.pt"]


@pytest.mark.parametrize("file, tensor, text", [
    ("m1.pt", torch.zeros(50, 3, 32, 32), r"expected images \(n, 3, 28, 28\).*\(50, 3, 32, 32\)"),
    ("m1.pt", torch.zeros(50, 3, 28, 28, dtype=torch.int64), "int64"), ("m1.pt", torch.full((50, 3, 28, 28), .3001), "k/255"),
    ("m1.pt", torch.full((50, 3, 28, 28), 2.), "k/255"), ("m1.pt", torch.full((50, 3, 28, 28), -1 / 255), "k/255"),
    ("m1.pt", torch.full((50, 3, 28, 28), float("nan")), "k/255"), ("m1.pt", torch.zeros(49, 3, 28, 28), "expected 50 images.*found 49"),
    ("labels.pt", torch.arange(50), "0..9"), ("labels.pt", torch.zeros(50, 1), "0..9"), ("labels.pt", torch.full((50,), .5), "0..9"),
    ("labels.pt", -torch.ones(50), "0..9"), ("labels.pt", torch.zeros(0), "0..9"),
])
def test_bad_tensors(home, content, file, tensor, text):
    folder = home / "data/polymnist/test"
    write_pts(folder, content["test"][0], content["test"][1])
    torch.save(tensor, folder / file)
    with pytest.raises(DataCorrupt, match=text) as e: load_polymnist("test", views=3)
    assert str(folder / file) in str(e.value)


# --- check and options

def test_check_official(home, monkeypatch):
    xs, y = polymnist._generated("test", {str(m): photo(m) for m in range(5)}, *fake("test"), 0, cache=False)
    for split in ("train", "test"): write_pngs(home / "data/polymnist" / split, xs, y)
    with pytest.raises(DataCorrupt, match="train: expected MNIST's class counts .5923, 6742"): check_polymnist()
    monkeypatch.setattr(polymnist, "_COUNTS", dict.fromkeys(("train", "test"), tuple(y.bincount(minlength=10).tolist())))
    assert check_polymnist() == f"official files in {home / 'data/polymnist'}: 50 + 50 samples in 5 views, complete and with MNIST's class counts"
    assert not (home / "cache").exists()
    load_polymnist("all")
    file = home / "data/polymnist/test/m4/0.0.png"
    stat = file.stat()
    file.write_bytes(file.read_bytes()[:-5] + b"xxxxx"); os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    load_polymnist("test")                                        # same size and time: the cache answers
    with pytest.raises(DataCorrupt, match="m4/0.0.png"): check_polymnist()


@pytest.mark.parametrize("options, error, text", [
    (dict(split="valid"), ValueError, "split='valid'.*train, test, all"), (dict(size=30), ValueError, "size=30.*28, 32"),
    (dict(views=0), ValueError, "views"), (dict(views=2.5), TypeError, "views"), (dict(views=6), ValueError, "views must be at most 5"),
    (dict(n=0), ValueError, "n must"), (dict(n=1.5), TypeError, "n must"), (dict(n=2000), ValueError, "n must be at most"),
    (dict(seed=-1), ValueError, "seed"), (dict(seed="a"), TypeError, "seed"), (dict(tiny="no"), TypeError, "tiny must be True or False, got 'no'"),
    (dict(source="web"), ValueError, "auto, official, generated"), (dict(source="official"), ValueError, "tiny=True"),
])
def test_bad_options(options, error, text):
    with pytest.raises(error, match=text): load_polymnist(**dict(tiny=True) | options)


# --- real files

@pytest.mark.data
@pytest.mark.skipif(not REAL, reason="MVNB_DATA is not set")
def test_real_files(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "10,000" in check_polymnist()
    x, y = polymnist._digits("test", tiny=False)
    mv = load_polymnist("test", size=28, views=2, source="generated")
    assert tuple(mv.y.bincount().tolist()) == polymnist._COUNTS["test"] and tuple(polymnist._digits("train", False)[1].bincount().tolist()) == polymnist._COUNTS["train"]
    for m, p in enumerate(polymnist._photos(2).values()):
        g = generator(0, "polymnist", "test", m)
        rows, labels = pair_rows(y, g)
        x0, y0 = (torch.randint(0, side - 28, (10_000,), generator=g) for side in (p.shape[1], p.shape[0]))
        for k in range(0, 10_000, 250):
            crop = np.asarray(Image.fromarray(p).crop((int(x0[k]), int(y0[k]), int(x0[k]) + 28, int(y0[k]) + 28)))
            expected = np.where(x[rows[k]].numpy()[..., None] > 128, 255 - crop, crop).transpose(2, 0, 1)
            assert np.array_equal((mv.xs[m][k] * 255).round().byte().numpy(), expected) and mv.y[k] == labels[k]
