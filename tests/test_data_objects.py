"COIL and RegDB from files in their official layout, and the drawn sets that stand in for them."
import hashlib
import importlib.resources
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mvnb.data import DataCorrupt, DataNotAvailable, load
from mvnb.data import objects as O

LOADERS = {"coil20": O.load_coil20, "coil100": O.load_coil100, "poses": O.load_coil_poses}


def same(a, b): return all(torch.equal(x, z) for x, z in zip((*a.xs, a.y, a.groups), (*b.xs, b.y, b.groups)))


@pytest.fixture
def home(home):
    "An empty data folder."
    (home / "data").mkdir()
    return home / "data"


# --- pixels ---------------------------------------------------------------------------------------------------------------------------
def test_halve_is_numpys_rounded_mean():
    x = np.random.default_rng(0).integers(0, 256, (3, 2, 64, 32), dtype=np.uint8)
    x[0, 0, :32] //= 100                                                           # many ties
    assert np.array_equal(O.halve(x), np.round(x.reshape(3, 2, 32, 2, 16, 2).mean((3, 5))))
    sums = np.array([[[s // 4 + (q < s % 4) for q in range(4)]] for s in range(1021)]).reshape(1021, 2, 2).astype(np.uint8)   # every sum of four
    assert np.array_equal(O.halve(sums)[:, 0, 0], np.round(np.arange(1021) / 4))


@pytest.mark.parametrize("x", [np.zeros((3, 4), np.uint8), np.zeros((4, 3), np.uint8), np.zeros((4, 4), np.float32), np.zeros(4, np.uint8)])
def test_halve_refuses(x):
    with pytest.raises(ValueError, match="x must hold bytes"): O.halve(x)


# --- the checksums in the package -----------------------------------------------------------------------------------------------------
def test_checksums_ship_with_the_package():
    text = importlib.resources.files("mvnb.data").joinpath("coil.sha256").read_text()
    assert len(text) < 100_000 and text.startswith("# SHA-256 of the official COIL images")
    sums = {coil.name: O._coil_sums(coil) for coil in (O._COIL20, O._COIL100)}
    assert [len(s) for s in sums.values()] == [20, 100]
    flat = [s for rows in sums.values() for row in rows for s in row]
    assert all(len(s) == 8 and int(s, 16) >= 0 for s in flat) and len(set(flat)) > 8600        # a symmetric object may repeat an image


# --- COIL: files in the official layout -----------------------------------------------------------------------------------------------
def write_coil(folder, coil, images, order=None):
    "Images enlarged 2x, so that halving restores them; returns the checksums by object and pose."
    folder.mkdir(parents=True, exist_ok=True)
    names = [(o, k, folder / f"obj{o + 1}__{k * coil.step}.png") for o in range(coil.objects) for k in range(72)]
    for o, k, path in sorted(names, key=order) if order else names:
        x = images[o, k].repeat(2, 1).repeat(2, 2)
        Image.fromarray(x[0] if coil.mode == "L" else x.transpose(1, 2, 0)).save(path, compress_level=1)
    sums = [hashlib.sha256(path.read_bytes()).hexdigest()[:8] for *_, path in names]
    return [sums[72 * o:72 * o + 72] for o in range(coil.objects)]


GREY, COLOUR = replace(O._COIL20, objects=2), replace(O._COIL100, objects=2)


@pytest.mark.parametrize("coil", [GREY, COLOUR], ids=lambda c: c.name)
@pytest.mark.parametrize("inside", [False, True])
def test_png_folder(home, coil, inside):
    images = O._turntable(8, coil.mode)[:2]
    sums = write_coil(home / coil.folder / (coil.inside if inside else ""), coil, images)
    (home / coil.folder / "readme.txt").write_text("not an image")
    for _ in range(2): assert np.array_equal(O._coil_images(coil, sums), images)               # read, then from the cache


def test_directory_order_does_not_matter(home, monkeypatch):
    images = O._turntable(8, "L")[:2]
    sums = write_coil(home / "coil20", GREY, images, order=lambda t: hashlib.md5(t[2].name.encode()).hexdigest())
    listing = Path.iterdir
    for flip in (sorted, lambda p: sorted(p, reverse=True), lambda p: random.Random(0).sample(list(p), len(list(listing(home / "coil20"))))):
        monkeypatch.setattr(Path, "iterdir", lambda self: iter(flip(listing(self))))
        assert np.array_equal(O._coil_pngs(GREY, home / "coil20", sums), images)


def test_files_in_the_cache_folder_are_found(home, monkeypatch):
    folder = home.parent / "cache/mvnb/coil20"
    sums = write_coil(folder, GREY, O._turntable(8, "L")[:2])
    assert O._find_coil(GREY) == folder and O._coil_images(GREY, sums).shape == (2, 72, 1, 64, 64)


def fault_exchanged(folder): (folder / "obj2__7.png").write_bytes((folder / "obj2__8.png").read_bytes())
def fault_bit(folder):
    data = bytearray((folder / "obj2__7.png").read_bytes()); data[len(data) // 2] ^= 1
    (folder / "obj2__7.png").write_bytes(data)
def fault_truncated(folder): (folder / "obj2__7.png").write_bytes((folder / "obj2__7.png").read_bytes()[:-50])
def fault_empty(folder): (folder / "obj2__7.png").write_bytes(b"")


@pytest.mark.parametrize("fault", [fault_exchanged, fault_bit, fault_truncated, fault_empty])
def test_a_damaged_png_is_named_also_after_it_was_cached(home, fault):
    sums = write_coil(home / "coil20", GREY, O._turntable(8, "L")[:2])
    O._coil_images(GREY, sums)
    fault(home / "coil20")
    with pytest.raises(DataCorrupt, match=rf"obj2__7\.png .*expected sha256 {sums[1][7]}\.\.\., found [0-9a-f]{{8}}\.\.\.; unpack"): O._coil_images(GREY, sums)


@pytest.mark.parametrize("write, message", [
    (lambda p: p.write_bytes(p.read_bytes()[:-50]), "is damaged: expected a complete PNG image"),
    (lambda p: p.write_bytes(b"<html>404</html>"), "is damaged: expected a complete PNG image"),
    (lambda p: Image.new("L", (64, 64)).save(p), "expected a 128 x 128 image of mode L, found 64 x 64, mode L"),
    (lambda p: Image.new("RGB", (128, 128)).save(p), "found 128 x 128, mode RGB"),
    (lambda p: Image.new("L", (4096, 4096)).save(p), "at most 4,194,304 pixels, found 4,096 x 4,096"),
    (lambda p: Image.new("L", (128, 128)).save(p, "GIF"), "is damaged: expected a complete PNG image")])
def test_decoding_believes_nothing(home, write, message):
    path = home / "obj1__0.png"
    Image.new("L", (128, 128)).save(path)
    assert O._read_png(path, "", "L").shape == (1, 64, 64)
    write(path)
    with pytest.raises(DataCorrupt, match=message) as e: O._read_png(path, "", "L")
    assert str(path) in str(e.value)


def test_png_files_win_and_an_incomplete_folder_is_an_error(home):
    images = O._turntable(8, "L")[:2]
    (home / "coil20_npz").mkdir()
    np.savez(home / "coil20_npz/coil20_64.npz", images=images[::-1, :, 0], angle_deg=np.arange(0, 360, 5))
    either = replace(GREY, pixels="")
    assert np.array_equal(O._coil_images(either, None), images[::-1])
    sums = write_coil(home / "coil20", GREY, images)
    assert np.array_equal(O._coil_images(either, sums), images)
    for k in (3, 9, 11, 40): (home / "coil20" / f"obj1__{k}.png").unlink()
    with pytest.raises(DataCorrupt, match=r"expected the 144 files obj1__0\.png to obj2__71\.png; missing: 4 \(obj1__3\.png, obj1__9\.png, obj1__11\.png, \.\.\.\)"):
        O._coil_images(either, sums)


def test_files_of_another_set_are_an_error(home):
    sums = write_coil(home / "coil20", GREY, O._turntable(8, "L")[:2])
    (home / "coil20/obj3__0.png").write_bytes(b"")
    with pytest.raises(DataCorrupt, match=r"missing: none; not of this set: 1 \(obj3__0\.png\)"): O._coil_images(GREY, sums)


def test_a_folder_with_the_name_of_a_png_is_no_picture(home):
    sums = write_coil(home / "coil20", GREY, O._turntable(8, "L")[:2])
    (home / "coil20/obj2__7.png").unlink()
    (home / "coil20/obj2__7.png").mkdir()
    with pytest.raises(DataCorrupt, match=r"missing: 1 \(obj2__7\.png\); not of this set: none"): O._coil_images(GREY, sums)
    (home / "coil100/obj1__0.png").mkdir(parents=True)
    with pytest.raises(DataNotAvailable, match="coil-100"): O._find_coil(COLOUR)


def test_public_loaders_compare_with_the_official_files(home):
    (home / "coil20").mkdir()
    for o in range(1, 21):
        for k in range(72): (home / "coil20" / f"obj{o}__{k}.png").write_bytes(b"fake")
    for call in (O.load_coil20, O.load_coil_poses, O.check_coil20, lambda: load("coil-20")):
        with pytest.raises(DataCorrupt, match=rf"obj1__0\.png \(4 bytes\) is not the official image: expected sha256 {O._coil_sums(O._COIL20)[0][0]}"): call()


@pytest.mark.parametrize("folder", [None, "coil20", "coil20/coil-20-proc"])
def test_nothing_there_says_what_to_do(home, folder):
    if folder: (home / folder).mkdir(parents=True)
    for call in (O.load_coil20, O.check_coil20):
        with pytest.raises(DataNotAvailable, match=r"'coil-20'.*cave\.cs\.columbia\.edu.*obj<1\.\.20>__<0\.\.71>\.png"): call()


@pytest.mark.parametrize("arrays, message", [
    (dict(images=np.zeros((2, 71, 64, 64), np.uint8)), r"expected images of shape \(2, 72, 64, 64\), bytes, found \(2, 71, 64, 64\)"),
    (dict(images=np.zeros((2, 72, 64, 64), np.float32)), "bytes, found .*float32"),
    (dict(angle_deg=np.arange(72)), r"expected angle_deg 0, 5, \.\.\., 355"),
    (dict(images=np.ones((2, 72, 64, 64), np.uint8)), "these are not the official images"),
    (dict(images=np.array([None])), "coil20_64.npz"),
    (dict(images=None), "images")])
def test_compact_array_is_checked(home, arrays, message):
    good = np.zeros((2, 72, 64, 64), np.uint8)
    coil = replace(GREY, pixels=hashlib.sha256(good).hexdigest())
    held = dict(images=good, angle_deg=np.arange(0, 360, 5))
    (home / "coil20_npz").mkdir()
    np.savez(home / "coil20_npz/coil20_64.npz", **held)
    assert O._coil_images(coil, None).shape == (2, 72, 1, 64, 64) and "equal to the official ones, halved" in O._check_coil(coil)
    np.savez(home / "coil20_npz/coil20_64.npz", **{k: v for k, v in (held | arrays).items() if v is not None})
    with pytest.raises(DataCorrupt, match=message): O._coil_images(coil, None)


def test_compact_colour_array_is_channel_first(home):
    x = np.random.default_rng(0).integers(0, 256, (2, 72, 32, 32, 3), dtype=np.uint8)
    (home / "coil100").mkdir()
    np.savez(home / "coil100/coil100_32.npz", images=x, angle_deg=np.arange(0, 360, 5))
    images = O._coil_images(COLOUR, None)
    assert images.shape == (2, 72, 3, 32, 32) and np.array_equal(images[1, 7, 2], x[1, 7, :, :, 2])
    with pytest.raises(ValueError, match="size=64 is unknown; choose one of: 32"): O._to_size(images, 64)


# --- COIL: samples --------------------------------------------------------------------------------------------------------------------
def test_pose_groups_use_every_pose_once():
    g = O.pose_groups(20, seed=3)
    assert g.dtype == torch.int64 and g.shape == (20, 3, 24)
    for o in range(20): assert sorted(int(k) for v in range(3) for k in g[o, v]) == list(range(72))
    assert torch.equal(g, O.pose_groups(20, seed=3)) and not torch.equal(g, O.pose_groups(20, seed=4))
    assert len({tuple(p.flatten().tolist()) for p in g}) == 20                     # a permutation of its own for every object


@pytest.mark.parametrize("wrong, error", [(dict(views=5), ValueError), (dict(views=0), ValueError), (dict(poses=0), ValueError), (dict(seed=-1), ValueError),
                                          (dict(seed=.5), TypeError), (dict(objects=0), ValueError), (dict(objects="2"), TypeError)])
def test_pose_groups_refuse(wrong, error):
    with pytest.raises(error, match=next(iter(wrong))): O.pose_groups(**(dict(objects=2, seed=0) | wrong))


@pytest.mark.parametrize("name, mode, channels", [("coil20", "L", 1), ("coil100", "RGB", 3)])
def test_samples_are_three_poses_of_one_object(name, mode, channels):
    mv, images, pairing = LOADERS[name](tiny=True, seed=5), O._turntable(8, mode), O.pose_groups(8, seed=5)
    assert len(mv) == 192 and mv.shapes == ((channels, 64, 64),) * 3 and mv.names == ("pose 1", "pose 2", "pose 3") and mv.n_classes == 8
    for row in random.Random(0).sample(range(192), 40):
        o, i = divmod(row, 24)
        assert mv.y[row] == mv.groups[row] == o
        for v in range(3): assert np.array_equal(mv.xs[v][row].numpy(), images[o, pairing[o, v, i]].astype(np.float32) / np.float32(255))


def hashes(mv, views=None): return [x.numpy().tobytes() for v in mv.xs for x in v]


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("seed", [0, 1])
def test_no_image_is_in_both_halves(name, seed):
    whole, train, test = (LOADERS[name](s, tiny=True, seed=seed) for s in ("all", "train", "test"))
    assert len(train) + len(test) == len(whole) and len(train) == {"poses": 60}.get(name, 154)
    assert len(set(hashes(whole))) == len(hashes(whole)) and not set(hashes(train)) & set(hashes(test))


@pytest.mark.parametrize("name", ["coil20", "coil100"])
def test_split_by_object_shares_no_object(name):
    train, test = (LOADERS[name](s, "object", tiny=True) for s in ("train", "test"))
    assert not set(train.groups.tolist()) & set(test.groups.tolist()) and len(train) == 6 * 24 and len(test) == 2 * 24
    both = [set(LOADERS[name](s, tiny=True).groups.tolist()) for s in ("train", "test")]
    assert both[0] & both[1]                                                       # by sample the objects are shared
    whole = LOADERS[name](tiny=True)
    a, b = whole.split(.8, seed=0, groups=whole.groups)
    assert same(a, train) and same(b, test)


def test_poses_are_the_seven_directions():
    mv, images = O.load_coil_poses(tiny=True), O._turntable(8, "L")
    assert mv.n_views == 7 and len(mv) == 80 and mv.names[6] == "300-345 deg"
    angles = [[] for _ in range(7)]
    for o in range(8):
        for i, offset in enumerate(range(0, 50, 5)):
            for g in range(7):
                angle = 50 * g + offset
                if o == 0: angles[g].append(angle)
                assert np.array_equal(mv.xs[g][10 * o + i].numpy(), images[o, angle // 5].astype(np.float32) / np.float32(255))
    assert len(set(sum(angles, []))) == 70 and torch.equal(mv.y, torch.arange(8).repeat_interleave(10)) and torch.equal(mv.y, mv.groups)
    parts = [set(O.load_coil_poses(s, tiny=True).groups.tolist()) for s in ("train", "test")]
    assert sorted(len(p) for p in parts) == [2, 6] and not parts[0] & parts[1]


@pytest.mark.parametrize("name", LOADERS)
def test_options(name):
    f = LOADERS[name]
    assert same(f(tiny=True, n=30, seed=2), f(tiny=True, n=30, seed=2)) and not same(f(tiny=True, n=30, seed=2), f(tiny=True, n=30, seed=3))
    few, many = f("train", tiny=True, n=24), f("train", tiny=True)
    share = 24 * many.y.bincount(minlength=8) / len(many)
    assert len(few) == 24 and (few.y.bincount(minlength=8) - share).abs().max() <= 1 and set(hashes(few)) <= set(hashes(many))
    small = f(tiny=True, size=32)
    assert np.array_equal(small.xs[0][:9].mul(255).round().byte().numpy(), O.halve(f(tiny=True).xs[0][:9].mul(255).round().byte().numpy()))
    for x in f(tiny=True).xs: assert x.dtype == torch.float32 and 0 <= x.min() and x.max() <= 1


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("wrong", [dict(split="valid"), dict(size=28), dict(size=128), dict(n=10**6), dict(n=0), dict(seed=-1, split="train"), dict(n=2.5)])
def test_bad_options(name, wrong):
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))): LOADERS[name](tiny=True, **wrong)


@pytest.mark.parametrize("f", [O.load_coil20, O.load_coil100, O.load_regdb, O.load_regdb_sim])
def test_bad_split_by(f):
    with pytest.raises(ValueError, match="split_by='row' is unknown; choose one of: sample"): f(split_by="row")


@pytest.mark.parametrize("wrong, error", [(-1, ValueError), (1.5, TypeError), (True, TypeError)])
@pytest.mark.parametrize("split", ["all", "test"])
def test_bad_seeds_are_refused_even_where_they_decide_nothing(split, wrong, error):
    for f in LOADERS.values():
        with pytest.raises(error, match="seed must be"): f(split, seed=wrong, tiny=True)


def test_turntable_turns():
    x = O._turntable(8, "RGB").astype(int)
    assert x.shape == (8, 72, 3, 64, 64)
    near, far = (np.abs(x - np.roll(x, k, axis=1)).mean((1, 2, 3, 4)) for k in (1, 18))
    assert (near > 0).all() and (near < far).all()                                 # 5 degrees change less than 90
    assert np.array_equal(O._turntable(3, "RGB"), x[:3]) and not np.array_equal(O._turntable(3, "RGB", seed=1), x[:3])


# --- RegDB ----------------------------------------------------------------------------------------------------------------------------
def write_regdb(folder, people=6, images=4, size=(64, 128), train=3, shuffle=None):
    "Random pictures in the official layout; returns bytes (camera, person, image, 3, 128, 64)."
    x = np.random.default_rng(0).integers(0, 256, (2, people, images, size[1], size[0], 3), dtype=np.uint8)
    x[1] = x[1, ..., :1]                                                            # thermal: grey
    (folder / "idx").mkdir(parents=True)
    for c, camera in enumerate(("Visible", "Thermal")):
        lists = {"train": [], "test": []}
        for p in range(people):
            for i in range(images):
                name = f"{camera}/{p + 101}/male_front_{camera[0].lower()}_{7 * i:05}_{p + 101}.bmp"
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(x[c, p, i, ..., 0] if c else x[c, p, i]).save(folder / name)
                lists["train" if p < train else "test"].append(f"{name} {p if p < train else p - train}")
        for part, lines in lists.items():
            if shuffle is not None: random.Random(shuffle + c).shuffle(lines)
            (folder / "idx" / f"{part}_{camera.lower()}_1.txt").write_text("\n".join(lines) + "\n")
    return np.moveaxis(x, -1, 3)


@pytest.mark.parametrize("shuffle", [None, 0, 1])
def test_regdb_pairs_by_person_and_name(home, shuffle):
    x = write_regdb(home / "regdb", shuffle=shuffle)
    mv = load("regdb", identities=6)
    assert mv.names == ("visible", "thermal") and mv.shapes == ((3, 128, 64),) * 2 and mv.classes[0] == "person 101" and torch.equal(mv.y, mv.groups)
    for v in (0, 1): assert np.array_equal(mv.xs[v].numpy(), x[v].reshape(24, 3, 128, 64).astype(np.float32) / np.float32(255))
    assert mv.y.tolist() == [p for p in range(6) for _ in range(4)]
    assert O.check_regdb() == "6 people, 24 pairs, all images readable; no checksums published"


def test_regdb_splits(home):
    write_regdb(home / "regdb")
    halves = {by: [O.load_regdb(s, by, identities=6) for s in ("train", "test")] for by in ("sample", "identity")}
    for train, test in halves.values(): assert len(train) == len(test) == 12 and not set(hashes(train)) & set(hashes(test))
    assert [h.y.bincount().tolist() for h in halves["sample"]] == [[2] * 6] * 2
    assert not set(halves["identity"][0].y.tolist()) & set(halves["identity"][1].y.tolist())


def test_regdb_chooses_people_by_seed(home):
    write_regdb(home / "regdb")
    chosen = {O.load_regdb(identities=3, seed=s).classes for s in range(8)}
    assert len(chosen) > 1 and all(len(set(c)) == 3 for c in chosen)
    assert same(O.load_regdb(identities=3, seed=1, n=5), O.load_regdb(identities=3, seed=1, n=5)) and len(O.load_regdb(identities=3, n=5)) == 5


@pytest.mark.parametrize("by", ["shift", "paper"])
def test_regdb_copies_stay_in_their_half(home, by):
    write_regdb(home / "regdb")
    plain, train, test = O.load_regdb("train", identities=6), *(O.load_regdb(s, identities=6, augment=10, augment_by=by) for s in ("train", "test"))
    assert len(train) == len(test) == 120 and torch.equal(train.xs[0][::10], plain.xs[0]) and torch.equal(train.y, plain.y.repeat_interleave(10))
    assert not set(hashes(train)) & set(hashes(test))
    if by == "paper": assert len({x.numpy().tobytes() for x in train.xs[1]}) == 120                     # no two copies are equal


def test_regdb_images_of_another_size_are_resized(home):
    x = write_regdb(home / "regdb", size=(80, 100))
    want = np.asarray(Image.fromarray(np.moveaxis(x[0, 0, 0], 0, -1)).resize((64, 128), Image.Resampling.BILINEAR))
    assert np.array_equal(O.load_regdb(identities=6).xs[0][0].mul(255).round().byte().numpy(), np.moveaxis(want, -1, 0))


@pytest.mark.parametrize("line", ["Visible/../../secret.bmp 0", "../Visible/101/x.bmp 0", "/etc/hosts 0", "Visible/101/.. 0", "Thermal/101/x.bmp 0", "Visible/101/x.bmp",
                                  "Visible/101/x.bmp -1", "Visible/101/x.bmp 0 0", "Visible/one/x.bmp 0", "Visible/101/sub/x.bmp 0", "Visible\\101\\x.bmp 0",
                                  "C:/101/x.bmp 0", "Visible/101/a:b.bmp 0", "<html>"])
def test_regdb_hostile_lines_are_refused_by_number(home, line):
    write_regdb(home / "regdb", images=2)
    path = home / "regdb/idx/train_visible_1.txt"
    path.write_text(path.read_text() + line + "\n")
    for call in (O.load_regdb, O.check_regdb):
        with pytest.raises(DataCorrupt, match=r"train_visible_1\.txt, line 7: expected 'Visible/<person>/<file> <label>', found") as e: call()
        assert repr(line) in str(e.value)


def test_regdb_links_that_lead_out_are_refused(home):
    write_regdb(home / "regdb", images=2)
    file = next((home / "regdb/Visible/101").iterdir())
    file.rename(home / "secret.bmp"); file.symlink_to(home / "secret.bmp")
    with pytest.raises(DataCorrupt, match=r"line \d: Visible/101/.* leads out of .*regdb, to .*secret\.bmp"): O.load_regdb(identities=6)


def change(name, act):
    def apply(folder):
        path = folder / "idx" / name
        lines = act(path.read_text().splitlines())
        path.write_text("\n".join(lines) + "\n")
    return apply


@pytest.mark.parametrize("fault, message", [
    (change("train_thermal_1.txt", lambda s: s[1:]), r"as many visible as thermal images of person 101, found 2 and 1"),
    (change("train_thermal_1.txt", lambda s: s[2:]), r"the same people in both cameras, found only in one: \[101\]"),
    (change("train_visible_1.txt", lambda s: s + s[:1]), "a file of person 101 is listed twice"),
    (change("train_visible_1.txt", lambda s: s + [s[0].replace(" 0", " 5")]), "line 7: person 101 has label 0 and 5"),
    (change("test_visible_1.txt", lambda s: s + ["Visible/101/other.bmp 9"]), "different people in the train and test list of Visible, found person 101"),
    (lambda f: [change(f"{p}_{c}_1.txt", lambda s: [])(f) for p in ("train", "test") for c in ("visible", "thermal")], "found empty ones"),
    (lambda f: (f / "idx/test_thermal_1.txt").unlink(), r"test_thermal_1\.txt is missing: expected the four lists"),
    (lambda f: (f / "Thermal/102/male_front_t_00007_102.bmp").unlink(), r"1 listed files are missing \(first: Thermal/102/male_front_t_00007_102\.bmp\)"),
    (lambda f: (f / "Thermal/102/male_front_t_00007_102.bmp").write_bytes(b"BM" + bytes(99)), "male_front_t_00007_102.bmp is damaged"),
    (lambda f: Image.new("L", (5000, 5000)).save(f / "Visible/102/male_front_v_00007_102.bmp"), "at most 4,194,304 pixels, found 5,000 x 5,000")])
def test_regdb_faults_are_named(home, fault, message):
    write_regdb(home / "regdb", images=2)
    fault(home / "regdb")
    for call in (lambda: O.load_regdb(identities=6), O.check_regdb):
        with pytest.raises(DataCorrupt, match=message): call()


def test_regdb_is_gated(home):
    for call in (O.load_regdb, O.check_regdb):
        with pytest.raises(DataNotAvailable, match="'regdb'.*agreement.*dongguk.*Visible/, Thermal/ and idx"): call()


@pytest.mark.parametrize("wrong", [dict(split="valid"), dict(identities=7), dict(identities=0), dict(augment=0), dict(augment_by="rotation"), dict(n=99)])
def test_regdb_bad_options(home, wrong):
    write_regdb(home / "regdb", images=2)
    with pytest.raises(ValueError, match=next(iter(wrong))): O.load_regdb(**(dict(identities=6) | wrong))


# --- copies ---------------------------------------------------------------------------------------------------------------------------
def moved(x, down, right, mirror):
    "Slow: pixel by pixel, edges repeated."
    c, h, w = x.shape
    out = torch.empty_like(x)
    for i in range(h):
        for j in range(w):
            column = min(max(j - right, 0), w - 1)
            out[:, i, j] = x[:, min(max(i - down, 0), h - 1), w - 1 - column if mirror else column]
    return out


def test_shifted_copies_are_shifts_alike_in_both_views():
    xs = [torch.rand(3, 3, 32, 16, generator=torch.Generator().manual_seed(v)) for v in (0, 1)]
    out = O.augment_pairs(xs, 9, "shift", seed=0)
    seen = set()
    for i in range(27):
        fits = [(d, r, m) for d in range(-2, 3) for r in range(-1, 2) for m in (False, True)
                if all(torch.equal(moved(x[i // 9], d, r, m), o[i]) for x, o in zip(xs, out))]
        assert len(fits) == 1 and (i % 9 or fits[0] == (0, 0, False))
        seen.add(fits[0])
    assert len(seen) > 10 and {m for *_, m in seen} == {True, False} and {d for d, *_ in seen} == set(range(-2, 3))


def test_copies_of_the_paper_are_grey_noisy_inverted():
    x = .3 + .4 * torch.rand(5, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    out = O.augment_pairs([x], 10, "paper", seed=0)[0].reshape(5, 10, 3, 64, 32)
    assert torch.equal(out[:, 0], x)
    for j in range(1, 10):
        want, sd = [(1 - x, .02), (x.mean(1, keepdim=True).expand_as(x), .02), (x, .1)][j % 3]
        error = out[:, j] - want
        assert abs(float(error.mean())) < 5 * sd / error.numel()**.5 and abs(float(error.std()) / sd - 1) < .03


def test_augment_pairs_is_seeded_and_strict():
    xs = [torch.rand(2, 3, 32, 16)]
    for by in ("shift", "paper"):
        a, b, c = (O.augment_pairs(xs, 3, by, seed=s)[0] for s in (0, 0, 1))
        assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(O.augment_pairs(xs, 1, "paper", seed=0)[0], xs[0])
    for wrong in ((xs, 0, "shift"), (xs, 2, "blur")):
        with pytest.raises(ValueError): O.augment_pairs(*wrong, seed=0)


# --- regdb-sim ------------------------------------------------------------------------------------------------------------------------
def test_sim_is_deterministic_and_cached(home):
    a = O.load_regdb_sim(identities=4, images=6, size=64)
    folders = list((home.parent / "cache/mvnb/generated").iterdir())
    assert len(folders) == 1 and same(a, O.load_regdb_sim(identities=4, images=6, size=64))
    fresh = O._draw_people(0, 4, 6, 64)
    assert np.array_equal(a.xs[0].mul(255).round().byte().numpy(), fresh["visible"]) and np.array_equal(a.xs[1][:, 2].mul(255).round().byte().numpy(), fresh["thermal"])
    assert not same(a, O.load_regdb_sim(identities=4, images=6, size=64, seed=1))
    assert torch.equal(O.load_regdb_sim(identities=2, images=6, size=64).xs[0], a.xs[0][:12])         # people are drawn one by one
    for m, size in ((3, 64), (6, 32)):                                                                   # no cache of other options is taken
        other = O.load_regdb_sim(identities=4, images=m, size=size)
        assert np.array_equal(other.xs[0].mul(255).round().byte().numpy(), O._draw_people(0, 4, m, size)["visible"])
    assert a.shapes == ((3, 64, 32),) * 2 and a.y.bincount().tolist() == [6] * 4 and torch.equal(a.y, a.groups)
    assert all(0 <= x.min() and x.max() <= 1 for x in a.xs) and len(set(hashes(a))) == 48


@pytest.mark.slow
def test_sim_is_the_same_for_any_number_of_threads():
    "At 30 images a tensor is cut among the threads, and for 3 and 7 not at a multiple of a vector's length."
    script = "import hashlib, sys, torch; from mvnb.data import objects as O\nfor t in map(int, sys.argv[1:]):\n    torch.set_num_threads(t)\n" \
             "    print(torch.get_num_threads(), *[hashlib.sha256(z.numpy()).hexdigest() for i in range(2) for z in O._camera_pair(0, i, 30, 128)])"
    found = {}
    for threads in (["1"], ["2", "3", "7"]):
        done = subprocess.run([sys.executable, "-c", script, *threads], env=os.environ | {"OMP_NUM_THREADS": threads[0]}, capture_output=True, text=True, check=True)
        found |= {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert list(found) == ["1", "2", "3", "7"] and all(len(f) == 4 and f == found["1"] for f in found.values())


def test_cloudy_is_bilinear_and_the_same_for_any_number_of_threads():
    x = torch.rand(30, 3, 6, 3, generator=torch.Generator().manual_seed(0))
    for size in (32, 64, 128):
        assert torch.allclose(O._cloudy(x, size), torch.nn.functional.interpolate(x, size=(size, size // 2), mode="bilinear"), atol=1e-6)
    threads = torch.get_num_threads()
    try:
        pictures = []
        for t in (1, 2, 3, 7):
            torch.set_num_threads(t)
            pictures.append(O._cloudy(x, 128))
    finally: torch.set_num_threads(threads)
    assert all(torch.equal(pictures[0], p) for p in pictures[1:])


def test_sim_splits(home):
    for by in ("sample", "identity"):
        train, test = (O.load_regdb_sim(s, by, identities=6, images=8, size=32) for s in ("train", "test"))
        assert len(train) == len(test) == 24 and not set(hashes(train)) & set(hashes(test))
        assert bool(set(train.y.tolist()) & set(test.y.tolist())) == (by == "sample")
    assert len(O.load_regdb_sim("test", identities=6, images=8, size=32, n=7)) == 7


@pytest.mark.parametrize("wrong", [dict(split="valid"), dict(size=100), dict(identities=0), dict(images=0), dict(n=10**6), dict(seed=-1)])
def test_sim_bad_options(home, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))): O.load_regdb_sim(**wrong)


@pytest.mark.parametrize("options, message", [
    (dict(split_by="identity", identities=1), "identities must be >= 2 to be split by identity, got 1"), (dict(images=1), "images must be >= 2 of a person to be split by sample, got 1")])
def test_halves_of_one_are_refused_by_name(home, options, message):
    small = dict(identities=3, images=3, size=32) | options
    for split in ("train", "test"):
        with pytest.raises(ValueError, match=message): O.load_regdb_sim(split, **small)
    assert len(O.load_regdb_sim("all", **small)) == small["identities"] * small["images"]
    write_regdb(home / "regdb", images=small["images"])
    with pytest.raises(ValueError, match=message): O.load_regdb("test", small.get("split_by", "sample"), identities=small["identities"])


def test_sim_identity_shows_in_both_views(home):
    "The mean image of half of a person's pictures finds the person in the other half, far above chance (1/10) but not always."
    train, test = (O.load_regdb_sim(s, identities=10, images=20, size=32) for s in ("train", "test"))
    for v in (0, 1):
        means = torch.stack([train.xs[v][train.y == c].mean(0) for c in range(10)])
        right = (torch.cdist(test.xs[v].flatten(1), means.flatten(1)).argmin(1) == test.y).float().mean()
        assert .5 < right < 1


def test_sim_cameras_see_the_same_stance():
    "Where the masks say body, the thermal image is warmer than beside it."
    g = O.generator(0, "regdb-sim", 2)
    f, s = O._figure(g), O._stances(g, 12)
    masks, *_ = O._body_masks(f, s, 64)
    body = torch.stack(masks[:4]).amax(0)
    thermal = O._camera_pair(0, 2, 12, 64)[1].float()
    for t, b in zip(thermal, body): assert t[b > .9].mean() > t[b < .1].mean() + 30
    assert (thermal[0] - thermal[1]).abs().mean() > 3                                                    # stances differ


def test_capsule_and_ellipse_are_distances():
    v, u = torch.meshgrid(torch.linspace(-1, 1, 21), torch.linspace(-1, 1, 21), indexing="ij")
    a, b = (-.3, -.2), (.4, .5)
    points = torch.stack([torch.tensor(a) + t * (torch.tensor(b) - torch.tensor(a)) for t in torch.linspace(0, 1, 2001)])
    slow = torch.cdist(torch.stack([u, v], -1).reshape(-1, 2), points).amin(1).reshape(21, 21) - .1
    assert torch.allclose(O._capsule(u, v, a, b, .1), slow, atol=1e-3)
    assert torch.allclose(O._ellipse(u, v, .1, .2, .3, .3), ((u - .1)**2 + (v - .2)**2).sqrt() - .3, atol=1e-6)


# --- the real files -------------------------------------------------------------------------------------------------------------------
@pytest.fixture
def cache(tmp_path, monkeypatch): monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path)); monkeypatch.setenv("MVNB_OFFLINE", "1")


def real(f, **options):
    try: return f(**options)
    except DataNotAvailable as e: pytest.skip(str(e)[:80])


@pytest.mark.data
def test_real_coil20(cache):
    mv = real(O.load_coil20)
    assert len(mv) == 480 and mv.shapes == ((1, 64, 64),) * 3 and mv.n_classes == 20 and len(set(hashes(mv))) > 1400
    train, test = (O.load_coil20(s) for s in ("train", "test"))
    assert (len(train), len(test)) == (384, 96)
    assert "1,440 images, " in O.check_coil20()
    poses = O.load_coil_poses()
    assert len(poses) == 200 and poses.n_views == 7 and [len(O.load_coil_poses(s)) for s in ("train", "test")] == [160, 40]


@pytest.mark.data
def test_real_coil20_array_is_the_halved_png_files(cache):
    path = real(O._find_coil, coil=O._COIL20)
    array = next((p for root in O.data_dirs() for p in (root / f for f in O._COIL20.compact) if p.is_file()), None)
    if path.is_file() or array is None: pytest.skip("needs both the PNG files and the array")
    assert np.array_equal(O._coil_pngs(O._COIL20, path, O._coil_sums(O._COIL20)), O._coil_array(O._COIL20, array))


@pytest.mark.data
def test_real_coil100(cache):
    mv = real(O.load_coil100, size=32)
    assert len(mv) == 2400 and mv.shapes == ((3, 32, 32),) * 3 and mv.n_classes == 100
    assert "7,200 images, " in O.check_coil100()
    assert [len(O.load_coil100(s, "object", size=32)) for s in ("train", "test")] == [80 * 24, 20 * 24]
