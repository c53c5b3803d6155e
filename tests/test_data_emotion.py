"Differential entropy against closed forms; DEAP and SEED from small files in the official layouts."
import math
import os
import pickle
import re
import struct
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from scipy.special import digamma, polygamma

from mvnb.data import DataCorrupt, DataNotAvailable, emotion, load
from mvnb.data.emotion import (DEAP_BANDS, DEAP_CLASSES, SEED_BANDS, check_deap, check_seed, clip_numbers, differential_entropy, load_deap, load_seed,
                               rating_classes)

LABELS = (2, 1, 0, 0, 1, 2, 0, 1, 2, 2, 1, 0, 1, 2, 0)   # positive, neutral, negative, negative, ... of the 15 clips
SECONDS = (235, 233, 206, 238, 185, 195, 237, 216, 265, 237, 235, 233, 235, 238, 206)


def entropy(variance): return .5 * np.log(2 * np.pi * np.e * variance)


@pytest.fixture
def home(home):
    "The data folder."
    return home / "data"


@pytest.fixture
def shuffled(monkeypatch):
    "Folders list their files backwards."
    real = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(sorted(real(self), reverse=True)))


# --- differential entropy

def slow_entropy(x, fs, bands, size, floor):
    "The sum over frequencies, written out."
    out = np.zeros((len(x) // size, len(bands)))
    for w in range(len(out)):
        part = x[w * size:(w + 1) * size]
        for b, (low, high) in enumerate(bands.values()):
            variance = 0.
            for k in range(1, size // 2 + 1):
                if low <= k * fs / size < high:
                    X = sum(part[t] * complex(math.cos(2 * math.pi * k * t / size), -math.sin(2 * math.pi * k * t / size)) for t in range(size))
                    variance += abs(X) ** 2 / size**2 * (1 if 2 * k == size else 2)
            out[w, b] = .5 * math.log(2 * math.pi * math.e * max(variance, floor))
    return out


@pytest.mark.parametrize("fs, window", [(32, 1), (32, .5), (15, 1), (8, 2.5)])
def test_against_the_sum_written_out(fs, window):
    x = np.random.default_rng(0).normal(size=75)
    bands = {"a": (0, fs / 8), "b": (fs / 8, fs / 4), "c": (fs / 4, fs / 2)}
    assert np.allclose(differential_entropy(x, fs, bands, window), slow_entropy(x, fs, bands, round(fs * window), 1e-6), atol=1e-10)


@pytest.mark.parametrize("f", range(1, 64))
def test_sinusoids(f):
    x = 3 * np.sin(2 * np.pi * f * np.arange(256) / 128 + .3)
    h = differential_entropy(x, 128)
    expected = [entropy(4.5 if a <= f < b else 1e-6) for a, b in DEAP_BANDS.values()]
    assert h.shape == (2, 4) and np.allclose(h, expected, atol=1e-9)


@pytest.mark.parametrize("size", [100, 101])
def test_parseval(size):
    "Bands that tile everything have the variance of the window."
    x = np.random.default_rng(0).normal(5, 2, size=(7, 3 * size))
    bands = {f"{i}": (i, i + 10) for i in range(0, 40, 10)} | {"top": (40, 50)}
    h = differential_entropy(x, 100, bands, size / 100, floor=1e-30)
    nyquist = np.abs(np.fft.rfft(x.reshape(7, 3, size))[..., -1] / size) ** 2 * (size % 2 == 0)   # f < 50 leaves out the last frequency
    assert np.allclose(np.exp(2 * (h - entropy(1))).sum(-1) + nyquist, x.reshape(7, 3, size).var(-1))


def test_scale_shape_and_rest():
    x = np.random.default_rng(0).normal(size=(2, 3, 300))
    h = differential_entropy(x, 128)
    assert h.shape == (2, 3, 2, 4) and h.dtype == np.float64
    assert np.allclose(differential_entropy(10 * x + 7, 128), h + math.log(10))           # the mean is in no band
    assert np.array_equal(differential_entropy(x[..., :256], 128), h)
    assert np.allclose(differential_entropy(x[1, 2], 128), h[1, 2])
    assert np.allclose(differential_entropy(x.astype(np.float32), 128), h, atol=1e-5)


def test_white_noise_has_its_known_bias_and_variance():
    K, n = np.array([4, 6, 17, 14]), 20000
    h = differential_entropy(2 * np.random.default_rng(1).normal(size=(n, 128)), 128)[:, 0]
    exact = entropy(2 * K / 128 * 4) + (digamma(K) - np.log(K)) / 2
    assert (abs(h.mean(0) - exact) < 4 * np.sqrt(polygamma(1, K) / 4 / n)).all()
    assert np.allclose(h.var(0), polygamma(1, K) / 4, rtol=.06)
    assert (abs(h.mean(0) - entropy(2 * K / 128 * 4)) > 6 * np.sqrt(polygamma(1, K) / 4 / n)).all()
    assert abs(np.corrcoef(h.T) - np.eye(4)).max() < .03                                  # bands share no frequency


def test_floor():
    assert np.allclose(differential_entropy(np.full(128, 33.), 128), entropy(1e-6))
    assert np.allclose(differential_entropy(np.zeros(128), 128, floor=.5), entropy(.5))


@pytest.mark.parametrize("wrong, text", [
    (dict(fs=100.5), "window_s"), (dict(window_s=.001), "window_s"), (dict(window_s=0), "window_s"), (dict(window_s=9), "x must"), (dict(fs=64), "gamma"), (dict(fs=0), "fs"),
    (dict(bands={}), "bands"), (dict(bands={"a": (4, 4)}), "a \\(4, 4\\)"), (dict(bands={"a": (.1, .5)}), "bands"), (dict(bands={"a": (60, 70)}), "a \\(60, 70\\)"),
    (dict(floor=0), "floor"), (dict(floor=-1), "floor"), (dict(x=np.array(["a"] * 200)), "x must"), (dict(x=np.float64(3)), "x must"), (dict(x=np.zeros(200, complex)), "x must"),
    (dict(x=np.r_[np.zeros(255), np.nan]), "x must be finite, got 1"), (dict(x=np.full(256, -np.inf)), "x must be finite, got 256"), (dict(bands=[(4, 8)]), "bands"), (dict(bands=None), "bands"),
    (dict(bands={"a": (4, 8, 12)}), "bands"), (dict(bands={"a": 4}), "bands"), (dict(bands={"a": ("4", "8")}), "bands"), (dict(bands={"a": "48"}), "bands"), (dict(bands={"a": (4, None)}), "bands"),
    (dict(bands={"a": (8, 4)}), "bands"), (dict(bands={"a": (np.nan, 8)}), "bands"), (dict(bands={"a": (4, np.inf)}), "bands")])
def test_entropy_bad_input(wrong, text):
    with pytest.raises(ValueError, match=text): differential_entropy(**(dict(x=np.zeros(256), fs=128) | wrong))


# --- DEAP: the layout is official, only shorter (the loader's length is lowered), and some files are as Python 2 wrote them

def python2_pickle(content):
    "A dict of arrays as cPickle of Python 2 wrote it with protocol 2."
    short = lambda s: b"U" + bytes([len(s)]) + s
    file = b"\x80\2}("
    for k, x in content.items():
        dtype = b"cnumpy\ndtype\n" + short(x.dtype.str[1:].encode()) + b"K\0K\1\x87R(K\3" + short(b"<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
        file += (short(k.encode()) + b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + short(b"b") + b"\x87R(K\1("
                 + b"".join(b"J" + struct.pack("<i", s) for s in x.shape) + b"t" + dtype + b"\x89T" + struct.pack("<i", x.nbytes) + x.tobytes() + b"tb")
    return file + b"u."


def write_deap(folder, subject, seed=0):
    g = np.random.default_rng([seed, subject])
    content = {"labels": g.choice([1.5, 4.0, 4.6, 6.0, 8.1], size=(40, 4)), "data": g.normal(size=(40, 40, 640)) * np.exp(g.normal(size=(40, 40, 1)))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"s{subject:02d}.dat").write_bytes(python2_pickle(content) if subject % 2 else pickle.dumps(content, 2))
    return content


@pytest.fixture
def deap(home, monkeypatch):
    monkeypatch.setattr(emotion, "_SAMPLES", 640)
    folder = home / "deap/data_preprocessed_python"
    return folder, {s: write_deap(folder, s) for s in (5, 2, 3)}


def test_deap_is_what_the_definition_says(deap):
    mv = load_deap(subjects=[2, 3, 5])
    assert mv.names == ("eeg", "peripheral") and mv.shapes == ((128,), (32,)) and mv.classes == DEAP_CLASSES and mv.xs[0].dtype == torch.float32
    row = 0
    for s in (2, 3, 5):
        x, ratings = deap[1][s]["data"], deap[1][s]["labels"]
        for trial in range(40):
            v, a = ratings[trial, :2]
            if abs(v - 5) < 1 or abs(a - 5) < 1: continue
            h = differential_entropy(x[trial, :, 3 * 128:], 128)                          # channel, window, band
            for w in range(2):
                assert np.allclose(mv.xs[0][row], h[:32, w].T.ravel(), atol=1e-5) and np.allclose(mv.xs[1][row], h[32:, w].T.ravel(), atol=1e-5)
                assert int(mv.y[row]) == 2 * (v > 5) + (a > 5) and int(mv.groups[row]) == 40 * (s - 1) + trial
                row += 1
    assert row == len(mv) > 0 and set(mv.y.tolist()) == {0, 1, 2, 3}
    with_baseline = load_deap(subjects=[2, 3, 5], baseline=True)
    assert len(with_baseline) == row // 2 * 5 and torch.equal(with_baseline.xs[0].view(-1, 5, 128)[:, 3:], mv.xs[0].view(-1, 2, 128))


def test_rating_classes_at_the_borders():
    v = np.array([1, 4, 4.01, 5, 5.99, 6, 9.])
    ratings = np.stack([a.ravel() for a in np.meshgrid(v, v)], 1)
    y, kept = rating_classes(ratings)
    assert kept.tolist() == [{a, b} <= {1, 4, 6, 9} for a, b in ratings] and y[kept].tolist() == [2 * (a >= 6) + (b >= 6) for a, b in ratings[kept]]


@pytest.mark.parametrize("ratings", [[1, 2, 3], 5, [[5], [6]], [["a", "b"]], [[5, np.nan]], [[5, 9.5]], [[0, 5]], [[[5, 5]]], [[5, None]]])
def test_rating_classes_refuses(ratings):
    with pytest.raises(ValueError, match="ratings"): rating_classes(ratings)


def test_rating_classes_takes_lists_and_bytes():
    for kind in (list, lambda r: np.array(r, np.uint8), lambda r: np.array(r, np.float32)):
        y, kept = rating_classes(kind([[1, 9, 0], [5, 6, 99]]))
        assert y.tolist() == [1, 1] and kept.tolist() == [True, False]


def test_deap_split_of_too_few(deap):
    for by, subjects in (("subject", [2, 3]), ("subject", [5])):
        for split in ("train", "valid", "test"):
            with pytest.raises(ValueError, match=re.escape(f"split_by='{by}' leaves a part empty: subjects={subjects} have {len(subjects)} {by}s")):
                load_deap(split, by, subjects=subjects)
    assert len(load_deap("all", "subject", subjects=[2, 3])) > 0


def test_deap_splits(deap):
    whole = load_deap(subjects=[2, 3, 5])
    for by, name in (("trial", lambda m: set(m.groups.tolist())), ("subject", lambda m: set((m.groups // 40).tolist()))):
        parts = [load_deap(s, by, subjects=[2, 3, 5], seed=3) for s in ("train", "valid", "test")] if by == "trial" else None
        if parts is None:
            with pytest.raises(ValueError, match="empty"): load_deap("valid", by, subjects=[2, 3, 5])       # 3 people make no 10 parts
            continue
        assert sum(map(len, parts)) == len(whole)
        for i in range(3):
            for j in range(i): assert not name(parts[i]) & name(parts[j])
        trials = [len(name(p)) for p in parts]
        assert abs(trials[0] - .8 * sum(trials)) <= 1 and abs(trials[1] - trials[2]) <= 1
    parts = [load_deap(s, "segment", subjects=[2, 3, 5], seed=3) for s in ("train", "valid", "test")]
    assert sum(map(len, parts)) == len(whole) and abs(len(parts[0]) - .8 * len(whole)) <= 1
    assert set(parts[0].groups.tolist()) & set(parts[2].groups.tolist())                                    # the leak
    rows = torch.cat([torch.cat(p.xs, 1) for p in parts])
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, torch.cat(whole.xs, 1).tolist()))
    assert not torch.equal(load_deap("train", subjects=[2, 3], seed=1).groups, load_deap("train", subjects=[2, 3], seed=2).groups)
    assert torch.equal(load_deap("train", subjects=[2, 3], seed=1).xs[0], load_deap("train", subjects=[3, 2], seed=1).xs[0])


def test_deap_subjects_split_never_shares_a_person(home, monkeypatch):
    monkeypatch.setattr(emotion, "_SAMPLES", 640)
    g = np.random.default_rng(0)
    rows = {s: (g.normal(size=(4, 160)).astype("f4"), np.arange(4) % 4, np.arange(4) + 40 * (s - 1)) for s in range(1, 33)}
    monkeypatch.setattr(emotion, "_deap_files", lambda subjects: {s: s for s in subjects})
    monkeypatch.setattr(emotion, "_deap_subject", lambda s: s)
    monkeypatch.setattr(emotion, "_deap_rows", lambda person, s, baseline: rows[s])
    people = [set((load_deap(split, "subject").groups // 40).tolist()) for split in ("train", "valid", "test")]
    assert [len(p) for p in people] == [26, 3, 3] and len(set.union(*people)) == 32


def test_deap_takes_n_rows(deap):
    few = load_deap("train", subjects=[2, 3], n=20, seed=1)
    assert len(few) == 20 and set(few.groups.tolist()) <= set(load_deap("train", subjects=[2, 3], seed=1).groups.tolist())
    assert torch.equal(few.xs[1], load("deap", split="train", subjects=[2, 3], n=20, seed=1).xs[1])


def test_deap_is_cached_and_notices_changes(deap, monkeypatch):
    folder, _ = deap
    first = load_deap(subjects=[3])
    with monkeypatch.context() as m:
        m.setattr(emotion, "_read_deap", lambda path: pytest.fail("the cache was not used"))
        assert torch.equal(load_deap(subjects=[3]).xs[0], first.xs[0])
    write_deap(folder, 3, seed=1)
    os.utime(folder / "s03.dat", ns=(1, 1))
    assert load_deap(subjects=[3]).xs[0].shape != first.xs[0].shape or not torch.equal(load_deap(subjects=[3]).xs[0], first.xs[0])


def test_deap_notices_other_content_of_equal_size_and_time(deap):
    "A file that was replaced, with its time kept, is another file; the same content elsewhere is the same."
    path = deap[0] / "s03.dat"
    first, status = load_deap(subjects=[3], n=10).xs[0], path.stat()
    content = {k: v.copy() for k, v in deap[1][3].items()}
    content["data"] *= 2
    path.write_bytes(python2_pickle(content))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert np.allclose(load_deap(subjects=[3], n=10).xs[0], first + math.log(2), atol=1e-4)


def test_deap_folder_may_be_flat(deap, home):
    first = load_deap(subjects=[3])
    for p in list((home / "deap/data_preprocessed_python").iterdir()): p.rename(home / "deap" / p.name)
    (home / "deap/data_preprocessed_python").rmdir()
    assert torch.equal(load_deap(subjects=[3]).xs[0], first.xs[0])


class Touch:
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("wrong, text", [
    (dict(data=np.zeros((40, 32, 640))), r"shape \(40, 40, 640\), found float64 \(40, 32, 640\)"), (dict(labels=np.full((40, 3), 5.)), "labels"), (dict(labels=np.full((40, 4), 9.5)), "1 to 9"),
    (dict(labels=np.full((40, 4), 0.)), "1 to 9"), (dict(data=np.full((40, 40, 640), np.nan)), "finite"), (dict(data=np.zeros((40, 40, 640), complex)), "complex"), (dict(data=[1, 2]), "a list"),
    (dict(data=None), "NoneType"), ("no dict", "a list"), ("keys", "data, labels"), ("cut", "truncated"), ("code", "mkdir")])
def test_deap_refuses(deap, wrong, text):
    folder, content = deap
    path, canary = folder / "s05.dat", folder / "canary"
    if wrong == "cut": path.write_bytes(path.read_bytes()[:-1000])
    else:
        new = {"no dict": [1], "keys": {"data": content[5]["data"]}, "code": content[5] | {"more": Touch(canary)}}.get(wrong) if isinstance(wrong, str) else content[5] | wrong
        path.write_bytes(pickle.dumps(new, 2))
    with pytest.raises(DataCorrupt, match=text) as e: load_deap(subjects=[5])
    assert str(path) in str(e.value) and not canary.exists()
    assert len(load_deap(subjects=[2])) > 0                                                # the others still load


def test_deap_options(deap):
    for wrong, error in ((dict(split="dev"), ValueError), (dict(split_by="second"), ValueError), (dict(subjects=[0]), ValueError), (dict(subjects=[33]), ValueError), (dict(subjects=[2, 2]), ValueError),
                         (dict(subjects=[]), ValueError), (dict(subjects=3), TypeError), (dict(subjects="3"), TypeError), (dict(subjects=[2.5]), TypeError),
                         (dict(subjects=[2], n=10**6), ValueError), (dict(subjects=[2], n=0), ValueError)):
        with pytest.raises(error, match=next(k for k in reversed(wrong))): load_deap(**wrong)
    with pytest.raises(DataNotAvailable, match="s01.dat, s04.dat"): load_deap()
    with pytest.raises(DataNotAvailable, match="s01.dat"): check_deap()


def test_deap_check(home, monkeypatch):
    monkeypatch.setattr(emotion, "_SAMPLES", 640)
    content = {"labels": np.full((40, 4), 6.), "data": np.zeros((40, 40, 640), "f4")}
    content["labels"][:10, 1] = 5.5
    (home / "deap").mkdir(parents=True)
    for s in range(1, 33): (home / f"deap/s{s:02d}.dat").write_bytes(pickle.dumps(content, 2))
    assert check_deap().startswith("32 people, 1,280 trials, 960 of them")
    (home / "deap/s07.dat").write_bytes(b"")
    with pytest.raises(DataCorrupt, match="s07.dat"): check_deap()


@pytest.mark.parametrize("name, loader, check, address", [("deap", load_deap, check_deap, "eecs.qmul.ac.uk"), ("seed", load_seed, check_seed, "bcmi.sjtu.edu.cn")])
def test_gated(home, name, loader, check, address):
    for action in (loader, check):
        with pytest.raises(DataNotAvailable, match=address) as e: action()
        assert "sign" in str(e.value) and str(home / name) in str(e.value)


# --- SEED

def write_seed(root, subject, session, window=4, shift=0, change=lambda part, stored, eyes: None):
    g = np.random.default_rng([subject, session])
    lengths = [s // window for s in SECONDS]
    y, cut = np.repeat(LABELS, lengths), sum(lengths[:9])
    x, stored, eyes = g.normal(size=(len(y), 343)), {}, {}
    for part, rows in (("train", slice(0, cut)), ("test", slice(cut, None))):
        bands = {b: x[rows, 62 * i:62 * i + 62] for i, b in enumerate(SEED_BANDS)}
        stored |= {f"{part}_data": dict(sorted(bands.items())), f"{part}_label": y[rows] - shift}
        eyes[f"{part}_data_eye"] = x[rows, 310:]
    change(part, stored, eyes)
    eeg, eye = root / f"02-EEG-DE-feature/eeg_used_{window}s", root / "04-Eye-tracking-feature/eye_tracking_feature"
    for f in (eeg, eye): f.mkdir(parents=True, exist_ok=True)
    np.savez(eeg / f"{subject}_{session}.npz", **{k: pickle.dumps(v) if isinstance(v, dict) else v for k, v in stored.items()})
    (eye / f"{subject}_{session}").write_bytes(pickle.dumps(eyes, 2))
    return x, y


@pytest.fixture
def seed(home):
    return home / "seed", {k: write_seed(home / "seed", *k, shift=k[1] == 2) for k in ((10, 1), (2, 2), (2, 1))}


def test_seed_is_what_was_written(seed):
    mv = load_seed()
    x, y = (np.concatenate([seed[1][k][i] for k in ((2, 1), (2, 2), (10, 1))]) for i in (0, 1))
    assert mv.names == ("eeg", "eye") and mv.shapes == ((310,), (33,)) and mv.classes == ("negative", "neutral", "positive")
    assert np.array_equal(torch.cat(mv.xs, 1), x.astype("f4")) and np.array_equal(mv.y, y)
    clips = np.repeat(range(1, 16), [s // 4 for s in SECONDS])
    assert mv.groups.tolist() == [100 * s + 20 * k + c for s, k in ((2, 1), (2, 2), (10, 1)) for c in clips]


def test_seed_splits_of_the_paper(seed):
    whole, parts = load_seed(subjects=[10]), [load_seed(s, subjects=[10]) for s in ("train", "valid", "test")]
    assert [len(p) for p in parts] == [499, 175, 168] and [27 * len(p) for p in parts] == [13473, 4725, 4536]     # Du et al. 2018, Table 1
    assert torch.equal(torch.cat([p.xs[1] for p in parts]), whole.xs[1])                                          # the first 175 and last 168 of the test part
    for part, clips in zip(parts, (range(1, 10), range(10, 13), range(13, 16))): assert set((part.groups % 20).tolist()) == set(clips)
    assert len(load_seed(sessions=[1])) == 2 * 842 and len(load_seed(subjects=[2], sessions=[2])) == 842
    few = load_seed("test", n=30, seed=1)
    assert len(few) == 30 and torch.equal(few.xs[0], load_seed("test", n=30, seed=1).xs[0]) and not torch.equal(few.xs[0], load_seed("test", n=30, seed=2).xs[0])


def test_seed_one_second_and_one_view(seed):
    write_seed(seed[0], 2, 1, window=1)
    assert [len(load_seed(s, window=1)) for s in ("train", "valid", "test")] == [2010, 705, 679]
    write_seed(seed[0], 2, 1)                                                    # eye movements of 4-s windows again
    with pytest.raises(ValueError, match="window=1 does not fit.*2_1 has 499 rows.*window of 4 s.*2,010 windows; eye=False") as e: load_seed(window=1)
    assert not isinstance(e.value, DataCorrupt)                                  # the files are good, the options do not fit them
    one = load_seed(window=1, eye=False)
    assert one.names == ("eeg",) and len(one) == 3394


def test_seed_order_and_sub_folder(seed, home, shuffled):
    first = load_seed()
    (home / "moved").mkdir()
    seed[0].rename(home / "moved/SEED_Multimodal")
    (home / "moved").rename(seed[0])
    assert torch.equal(load_seed().xs[0], first.xs[0])


@pytest.mark.parametrize("clips", [range(1, 10), range(10, 16), range(1, 16)])
@pytest.mark.parametrize("window", [1, 4])
def test_clip_numbers(clips, window):
    lengths = [SECONDS[c - 1] // window for c in clips]
    y = np.repeat([LABELS[c - 1] for c in clips], lengths)
    if clips == range(1, 16): expected = None                                    # clips 9 and 10 have one label: never read together
    else: expected = np.repeat(clips, lengths).tolist()
    assert expected is None or clip_numbers(y, clips, "file").tolist() == expected
    for wrong in (y[::-1], y[:-lengths[-1]], y[:0], np.r_[y, 1], 2 - y):
        with pytest.raises(DataCorrupt, match="file"): clip_numbers(wrong, clips, "file")


def cut_band(part, stored, eyes): stored["train_data"]["beta"] = stored["train_data"]["beta"][:-1]
def no_band(part, stored, eyes): del stored["test_data"]["gamma"]
def no_label(part, stored, eyes): del stored["test_label"]
def bad_label(part, stored, eyes): stored["train_label"] = stored["train_label"] + 1
def bad_order(part, stored, eyes): stored["train_label"] = stored["train_label"][::-1]
def no_pickle(part, stored, eyes): stored["train_data"] = np.zeros(4)
def code(part, stored, eyes): stored["train_data"]["beta"] = Touch("canary")
def nan(part, stored, eyes): stored["test_data"]["beta"] = stored["test_data"]["beta"] * np.nan
def eye_shape(part, stored, eyes): eyes["test_data_eye"] = eyes["test_data_eye"][:, :31]
def eye_key(part, stored, eyes): del eyes["test_data_eye"]
def eye_code(part, stored, eyes): eyes["more"] = Touch("canary")


@pytest.mark.parametrize("change, text", [
    (cut_band, r"train_data.*beta.*\(499, 62\), found float64 \(498, 62\)"), (no_band, "test_data.*gamma"), (no_label, "test_label"), (bad_label, "train_label.*labels 0, 1, 2"), (bad_order, "train_label.*run"),
    (no_pickle, "train_data.*bytes of a pickle"), (code, "train_data.*mkdir"), (nan, "test_data.*finite"), (eye_shape, r"\(343, 33\), found float64 \(343, 31\)"), (eye_key, "test_data_eye"), (eye_code, "mkdir")])
def test_seed_refuses(home, monkeypatch, change, text):
    home.mkdir()
    monkeypatch.chdir(home)
    write_seed(home / "seed", 1, 1, change=change)
    with pytest.raises(DataCorrupt, match=text) as e: load_seed()
    assert str(home / "seed") in str(e.value) and "1_1" in str(e.value) and not (home / "canary").exists()
    with pytest.raises(DataCorrupt): check_seed()


def test_seed_missing_files(seed):
    (seed[0] / "04-Eye-tracking-feature/eye_tracking_feature/10_1").unlink()
    assert len(load_seed(subjects=[2])) == 2 * 842 and len(load_seed(eye=False)) == 3 * 842
    with pytest.raises(DataNotAvailable, match="10_1.*eye=False"): load_seed()
    with pytest.raises(DataNotAvailable, match="eeg_used_1s"): load_seed(window=1)
    with pytest.raises(DataNotAvailable, match="ExtractedFeatures"): load_seed(layout="extracted", window=1)
    for p in (seed[0] / "02-EEG-DE-feature/eeg_used_4s").iterdir(): p.unlink()
    with pytest.raises(DataNotAvailable, match="found none"): load_seed()


def test_seed_eyes_of_no_window_are_corrupt(seed):
    write_seed(seed[0], 2, 1, window=1, change=lambda part, stored, eyes: eyes.update({k: v[:-1] for k, v in eyes.items()}))
    with pytest.raises(DataCorrupt, match=r"\(2010, 33\).*found float64 \(2009, 33\)"): load_seed(window=1)


def test_seed_with_eeg_only(seed):
    assert check_seed() == "multimodal: 3 recordings of 2 people, 2,526 windows of 4 s, EEG and eyes; layout and labels verified, no checksum published"
    write_seed(seed[0], 2, 1, window=1)
    write_seed(seed[0], 2, 1)
    assert "3,394 windows of 1 s, EEG only" in check_seed()
    (seed[0] / "04-Eye-tracking-feature/eye_tracking_feature/10_1").unlink()
    with pytest.raises(DataNotAvailable, match="10_1"): check_seed()              # some are there: the set is incomplete
    for p in (seed[0] / "04-Eye-tracking-feature/eye_tracking_feature").iterdir(): p.unlink()
    (seed[0] / "04-Eye-tracking-feature/eye_tracking_feature").rmdir()
    assert "2,526 windows of 4 s, EEG only" in check_seed() and len(load_seed(eye=False)) == 2526


@pytest.mark.parametrize("y, clips, name", [([0], [0], "clips"), ([0], [16], "clips"), ([0], [], "clips"), ([0], [-1], "clips"), ([0.], [3], "y must"), ([[0]], [3], "y must"), (["a"], [3], "y must")])
def test_clip_numbers_bad_input(y, clips, name):
    with pytest.raises(ValueError, match=name) as e: clip_numbers(np.array(y), clips, "file")
    assert not isinstance(e.value, DataCorrupt)
    assert clip_numbers([2, 2], [1], "file").tolist() == [1, 1]


def test_seed_options(seed):
    for wrong in (dict(split="dev"), dict(window=2), dict(layout="other"), dict(smooth="none"), dict(subjects=[3]), dict(sessions=[3]), dict(subjects=[])):
        with pytest.raises(ValueError, match=next(iter(wrong))): load_seed(**wrong)
    with pytest.raises(ValueError, match="subjects=\\[10\\].*sessions=\\[2\\]"): load_seed(subjects=[10], sessions=[2])


def write_extracted(folder, name, lengths=SECONDS, **changes):
    g = np.random.default_rng(int(name.split("_")[1]))
    content = {f"de_{k}{c}": g.normal(size=(62, s, 5)) for c, s in enumerate(lengths, 1) for k in ("LDS", "movingAve")}
    folder.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(folder / f"{name}.mat", content | changes, do_compression=bool(int(name[0]) % 2))
    scipy.io.savemat(folder / "label.mat", {"label": np.array([LABELS]) - 1})
    return content


def test_extracted_features(home, shuffled):
    folder = home / "seed/ExtractedFeatures"
    lengths = range(3, 18)
    content = {name: write_extracted(folder, name, lengths) for name in ("2_20140101", "11_20140301", "2_20131231")}
    (folder / "readme.txt").write_text("hello")
    mv = load_seed(layout="extracted", window=1)
    assert mv.names == ("eeg",) and len(mv) == 3 * sum(lengths)
    row = 0
    for s, k, name in ((2, 1, "2_20131231"), (2, 2, "2_20140101"), (11, 1, "11_20140301")):       # sessions by date, people by number
        for c, length in enumerate(lengths, 1):
            for t in range(length):
                assert np.allclose(mv.xs[0][row].view(5, 62), content[name][f"de_LDS{c}"][:, t].T, atol=1e-6)
                assert int(mv.y[row]) == LABELS[c - 1] and int(mv.groups[row]) == 100 * s + 20 * k + c
                row += 1
    smooth = load_seed("valid", layout="extracted", window=1, smooth="movingAve", subjects=[11])
    assert len(smooth) == 12 + 13 + 14 and np.allclose(smooth.xs[0][0].view(5, 62), content["11_20140301"]["de_movingAve10"][:, 0].T, atol=1e-6)
    for date in ("20150101", "20150102"): write_extracted(folder, f"2_{date}", lengths)
    with pytest.raises(DataCorrupt, match="2_20150102.*at most 3 sessions"): load_seed(layout="extracted", window=1)
    for date in ("20150101", "20150102"): (folder / f"2_{date}.mat").unlink()
    folder.rename(home / "seed/ExtractedFeatures_4s")
    assert torch.equal(load_seed(layout="extracted").xs[0], mv.xs[0])
    assert "extracted: 3 recordings of 2 people" in check_seed()


@pytest.mark.parametrize("changes, text", [
    (dict(de_LDS3=np.zeros((61, 4, 5))), r"de_LDS3.*\(62, any, 5\), found float64 \(61, 4, 5\)"), (dict(de_LDS3=np.array([{"a": 1}, 2], dtype=object)), "de_LDS3, found cell"), (dict(de_LDS3="text"), "found char"),
    (dict(de_LDS3={"a": 1}), "found struct"), (dict(de_LDS3=np.full((62, 4, 5), np.inf)), "finite"), (dict(de_LDS3=np.zeros((62, 4, 5), complex)), "complex"), (dict(de_LDS3=np.zeros((2, 2)) > 0), "de_LDS3")])
def test_extracted_refuses(home, changes, text):
    write_extracted(home / "seed/ExtractedFeatures", "1_20140101", [4] * 15, **changes)
    with pytest.raises(DataCorrupt, match=text) as e: load_seed(layout="extracted", window=1)
    assert "1_20140101.mat" in str(e.value)


def test_extracted_damage(home):
    folder = home / "seed/ExtractedFeatures"
    for name in ("1_20140101", "2_20140101"):                     # compressed and not
        write_extracted(folder, name, [4] * 15)
        good = (folder / f"{name}.mat").read_bytes()
        for bad in (b"", good[:100], good[:len(good) // 2], b"\x89HDF\r\n\x1a\n" + bytes(600), b"<html>" * 100, bytes(1000)):
            (folder / f"{name}.mat").write_bytes(bad)
            with pytest.raises(DataCorrupt, match=name): load_seed(layout="extracted", window=1, subjects=[int(name[0])])
        (folder / f"{name}.mat").write_bytes(good)
    scipy.io.savemat(folder / "label.mat", {"label": np.array([LABELS[:14]]) - 1})
    with pytest.raises(DataCorrupt, match="label.mat.*15 labels, found 14"): load_seed(layout="extracted", window=1)
    (folder / "label.mat").unlink()
    with pytest.raises(DataNotAvailable, match="label.mat"): load_seed(layout="extracted", window=1)


def test_a_size_that_is_claimed_is_not_believed(home):
    "The header of a MATLAB file can declare any shape."
    write_extracted(home / "seed/ExtractedFeatures", "2_20140101", [4] * 15)
    path = home / "seed/ExtractedFeatures/2_20140101.mat"
    shape = struct.pack("<3i", 62, 4, 5)
    data = path.read_bytes()
    assert data.count(shape) == 30
    path.write_bytes(data.replace(shape, struct.pack("<3i", 62, 2**26, 5)))
    with pytest.raises(DataCorrupt, match="at most"): load_seed(layout="extracted", window=1)


def element(kind, content, order="<"):
    "A data element of MATLAB's format 5: type, size, content, filled to 8 bytes."
    return struct.pack(order + "II", kind, len(content)) + content + bytes(-len(content) % 8)


def mat_array(name, dims, zeros, order="<"):
    "An array of doubles that declares `dims` and holds so many bytes of zeros."
    flags, shape = struct.pack(order + "II", 6, 0), struct.pack(f"{order}{len(dims)}i", *dims)
    return element(14, element(6, flags, order) + element(5, shape, order) + element(1, name.encode(), order) + element(9, bytes(zeros), order), order)


def mat_file(*elements, order="<", packed=True):
    elements = [struct.pack(order + "II", 15, len(z := zlib.compress(e, 9))) + z if packed else e for e in elements]
    return b"MATLAB 5.0 MAT-file".ljust(124) + (b"\0\1IM" if order == "<" else b"\1\0MI") + b"".join(elements)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("packed", [True, False])
def test_mat_is_read_exactly(tmp_path, order, packed):
    path = tmp_path / "a.mat"
    path.write_bytes(mat_file(mat_array("b", (2, 3), 48, order), mat_array("a", (4,) * 3, 512, order), order=order, packed=packed))
    found = emotion._read_mat(path, ["a", "b"])
    assert {k: (v.shape, v.sum()) for k, v in found.items()} == {"a": ((4, 4, 4), 0), "b": ((2, 3), 0)}
    x = np.random.default_rng(0).normal(size=(62, 7, 5))
    scipy.io.savemat(path, {"x": x, "i": np.arange(5, dtype="i2"), "text": "abc", "cell": np.array([{"a": 1}, 2], dtype=object)}, do_compression=packed)
    found = emotion._read_mat(path, ["x", "i"])
    assert np.array_equal(found["x"], x) and found["i"].tolist() == [list(range(5))]


def test_mat_bomb_stays_packed(tmp_path):
    "62 x 10 x 5 numbers declared, a thousand times as much behind them: it is not unpacked beyond the limit."
    path, size = tmp_path / "a.mat", 5 * 10**7
    path.write_bytes(mat_file(mat_array("de_LDS1", (62, 10, 5), size)))
    assert path.stat().st_size < size / 500
    tracemalloc.start()
    try:
        with pytest.raises(DataCorrupt, match="a.mat: expected at most 4,000,000 bytes when unpacked"): emotion._read_mat(path, ["de_LDS1"], max_bytes=4_000_000)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 16_000_000


def test_mat_bomb_in_small_parts(tmp_path):
    "Each array is below the limit, all together are above; also those that nobody asked for."
    path = tmp_path / "a.mat"
    for packed in (True, False):
        path.write_bytes(mat_file(*(mat_array(f"x{i}", (10, 10), 800) for i in range(10)), packed=packed))
        assert emotion._read_mat(path, ["x3"], max_bytes=10**4)["x3"].shape == (10, 10)
        with pytest.raises(DataCorrupt, match="a.mat.*at most 4,000 bytes"): emotion._read_mat(path, ["x3"], max_bytes=4000)


@pytest.mark.parametrize("packed", [True, False])
def test_mat_names_are_not_repeated(tmp_path, packed):
    path = tmp_path / "a.mat"
    for names in (("a", "b", "a"), ("b", "b", "a")):                               # also one that is not asked for
        path.write_bytes(mat_file(*(mat_array(n, (2, 3), 48) for n in names), packed=packed))
        with warnings.catch_warnings(), pytest.raises(DataCorrupt, match="a.mat: expected each name once, found 3 arrays with 2 names"):
            warnings.simplefilter("ignore")
            emotion._read_mat(path, ["a"])


def test_mat_that_is_packed_in_other_ways(tmp_path):
    "Packed twice, two arrays in one, more or less than the size says, an unknown element, other headers."
    path, one = tmp_path / "a.mat", mat_array("a", (2, 3), 48)
    inner = mat_file(one)[128:]
    good = mat_file(one)
    wrong = [mat_file(inner), mat_file(one + mat_array("b", (2, 3), 48)), mat_file(one + bytes(8)), mat_file(one[:-8]), good[:-1], good + b"\0", good + bytes(8),
             mat_file(element(9, bytes(48)), packed=False), good[:124] + b"\0\2IM" + good[128:], good[:124] + b"\1\0IM" + good[128:], b"\0" + good[1:], good[:128] + inner[:-20] + bytes(20)]
    for data in wrong:
        path.write_bytes(data)
        with pytest.raises(DataCorrupt, match="a.mat"): emotion._read_mat(path, ["a"])
    path.write_bytes(good)
    assert emotion._read_mat(path, ["a"])["a"].shape == (2, 3)


@pytest.mark.data
@pytest.mark.parametrize("name, check", [("deap", check_deap), ("seed", check_seed)])
def test_real_files(name, check):
    "For those who have the licence."
    if not (Path(os.environ["MVNB_DATA"]) / name).is_dir(): pytest.skip(f"{name} is gated and not here")
    assert "no checksum published" in check()
