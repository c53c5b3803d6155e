import math
import os
import random
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from mvnb.data import DataCorrupt, DataNotAvailable
from mvnb.data import mocap
from mvnb.data.mocap import (MOCAP_PARTS, MocapScale, check_mocap, draw_skeleton, euler_matrix, forward_kinematics, joint_positions,
                             load_mocap, load_skeleton, mocap_scale, read_amc, read_asf, write_tiny_mocap)

SIZES = (21, 12, 12, 7, 7)


@pytest.fixture
def home(home):
    "A data folder with the walker in it."
    return write_tiny_mocap(home / "data/cmu_mocap") / "07"


@pytest.fixture(scope="module")
def walker(tmp_path_factory):
    "(ASF text, AMC text of trial 1, skeleton)"
    home = write_tiny_mocap(tmp_path_factory.mktemp("walker"), [1]) / "07"
    return (home / "07.asf").read_text(), (home / "07_01.amc").read_text(), read_asf(home / "07.asf")


def asf(tmp_path, text):
    (tmp_path / "x.asf").write_text(text, newline="")
    return read_asf(tmp_path / "x.asf")


def amc(tmp_path, text, skeleton):
    (tmp_path / "x.amc").write_text(text, newline="")
    return read_amc(tmp_path / "x.amc", skeleton)


# -- positions -------------------------------------------------------------------------------------------------------------

def test_euler_matrix_is_scipys():
    angles = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 90
    assert np.allclose(euler_matrix(angles), Rotation.from_euler("xyz", angles.numpy(), degrees=True).as_matrix(), atol=1e-14)


def slow_positions(text, frame):
    """Positions by a recursive walk over the text of an ASF file, independent of the reader and of the vectorised chain.
    `frame`: {joint: values}, metres."""
    bones, tree, bone = {}, {}, None
    unit = .0254 / float(text.split("length")[1].split()[0])
    for line in text.split(":bonedata")[1].split(":hierarchy")[0].splitlines():
        words = line.split()
        if words[:1] == ["name"]: bone = bones.setdefault(words[1], {"dof": []})
        elif words and words[0] in ("direction", "axis", "length"): bone[words[0]] = [float(w) for w in words[1:] if w != "XYZ"]
        elif words[:1] == ["dof"]: bone["dof"] = words[1:]
    for line in text.split(":hierarchy")[1].splitlines():
        if len(words := line.split()) > 1: tree.setdefault(words[0], []).extend(words[1:])
    found = {}

    def visit(joint, position, turn):
        found[joint] = position
        for child in tree.get(joint, []):
            b = bones[child]
            angles = [dict(zip(b["dof"], frame.get(child, []))).get(d, 0.) for d in ("rx", "ry", "rz")]
            C, M = (Rotation.from_euler("xyz", a, degrees=True) for a in (b["axis"], angles))
            G = turn * C * M * C.inv()
            visit(child, position + G.apply(np.array(b["direction"]) * b["length"][0] * unit), G)
    visit("root", np.array(frame["root"][:3]) * unit, Rotation.from_euler("xyz", frame["root"][3:], degrees=True))
    return found


def test_kinematics_against_a_slow_recursion_with_arbitrary_axes_and_angles(tmp_path, walker):
    rng = np.random.default_rng(0)
    lines = []
    for line in walker[0].splitlines():
        if line.split()[:1] == ["axis"] and line.split()[1] != "XYZ": line = "    axis " + " ".join(f"{v:.4f}" for v in rng.uniform(-180, 180, 3)) + " XYZ"
        if line.split()[:1] == ["direction"]:
            d = rng.normal(size=3); d /= np.linalg.norm(d)
            line = "    direction " + " ".join(f"{v:.9f}" for v in d)
        lines.append(line)
    text = "\n".join(lines)
    skeleton = asf(tmp_path, text)
    motion = torch.tensor(rng.uniform(-180, 180, (5, 62)))
    p = forward_kinematics(skeleton, motion)
    for row, places in zip(motion.tolist(), p.numpy()):
        frame, values = {}, iter(row)
        for joint, dof in zip(skeleton.joints, skeleton.dof): frame[joint] = [next(values) for _ in dof]
        want = slow_positions(text, frame)
        assert np.allclose(places, [want[j] for j in skeleton.joints], atol=1e-10)


def test_order_of_freedoms_is_read_from_the_file(tmp_path, walker):
    text = walker[0].replace("order TX TY TZ RX RY RZ", "order RZ RY RX TX TZ TY").replace("dof rx ry rz", "dof rz rx ry")
    other = asf(tmp_path, text)
    order = [walker[2].channels.index(c) for c in other.channels]
    motion = torch.randn(4, 62, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 50
    assert order != sorted(order) and torch.allclose(forward_kinematics(other, motion[:, order]), forward_kinematics(walker[2], motion))


def test_rest_pose_and_a_turn_of_the_root(walker):
    skeleton = walker[2]
    rest = forward_kinematics(skeleton, torch.zeros(62, dtype=torch.float64))
    summed = [torch.zeros(3, dtype=torch.float64)]
    for j in range(1, 31): summed.append(summed[skeleton.parent[j]] + skeleton.offset[j])
    assert torch.allclose(rest, torch.stack(summed), atol=1e-12)
    turn = torch.zeros(62, dtype=torch.float64)
    turn[:6] = torch.tensor([1., 2., 3., 10., 20., 30.])
    R = euler_matrix(turn[3:6])
    assert torch.allclose(forward_kinematics(skeleton, turn), rest @ R.T + turn[:3] * skeleton.metres, atol=1e-12)
    left, right = (skeleton.joints.index(j) for j in ("lfemur", "rfemur"))
    assert torch.allclose(rest[left] * torch.tensor([-1., 1, 1]), rest[right], atol=1e-6)


def test_bones_keep_their_length_and_gradients_flow(walker):
    skeleton = walker[2]
    motion = (torch.randn(3, 2, 62, generator=torch.Generator().manual_seed(2)) * 60).requires_grad_()
    p = forward_kinematics(skeleton, motion)
    assert p.shape == (3, 2, 31, 3) and p.dtype == torch.float32
    length = (p - p[..., list(skeleton.parent), :])[..., 1:, :].norm(dim=-1)
    assert torch.allclose(length.double(), skeleton.offset[1:].norm(dim=-1).expand_as(length), atol=1e-5)
    p[..., -1, :].sum().backward()
    assert bool(motion.grad.isfinite().all()) and bool((motion.grad != 0).any())
    with pytest.raises(ValueError, match=r"motion.*62.*\(4, 59\)"): forward_kinematics(skeleton, torch.zeros(4, 59))


def test_positions_from_views_are_those_of_the_motion_without_translation(home):
    skeleton, scale = load_skeleton(), mocap_scale()
    motion = read_amc(home / "07_11.amc", skeleton)
    moved = forward_kinematics(skeleton, motion)
    mv = load_mocap("test")
    p = joint_positions(skeleton, mv, scale)
    assert torch.allclose(p.double(), moved - moved[:, :1], atol=1e-5)
    assert torch.allclose(joint_positions(skeleton, load_mocap("test", scale="none")), p, atol=1e-5)
    assert joint_positions(skeleton, [x.expand(2, *x.shape) for x in mv.xs], scale).shape == (2, 62, 31, 3)
    with pytest.raises(ValueError, match="views must be core"): joint_positions(skeleton, list(mv.xs)[::-1], scale)


# -- AMC -------------------------------------------------------------------------------------------------------------------

def test_values_are_those_of_the_text_whatever_order_line_ends_numbering_and_exponents(tmp_path, walker):
    _, text, skeleton = walker
    motion = amc(tmp_path, text, skeleton)
    frames = text.split("\n1\n")[1].split("\n2\n")[0].splitlines()
    by_hand = {line.split()[0]: [float(w) for w in line.split()[1:]] for line in frames}
    assert motion[0].tolist() == [v for j, dof in zip(skeleton.joints, skeleton.dof) if dof for v in by_hand[j]] and motion.shape == (42, 62)
    assert torch.equal(amc(tmp_path, text.replace("\n", "\r\n"), skeleton), motion)
    renumbered = "\n".join(str(int(line) + 400) if line.isdigit() else line for line in text.split("\n"))
    assert torch.equal(amc(tmp_path, renumbered, skeleton), motion)
    turned = "# x\n:DEGREES\n1\n" + "\n".join(reversed(frames)) + "\n\n# between\n2\n" + "\n".join(frames)
    assert torch.equal(amc(tmp_path, turned, skeleton), motion[[0, 0]])
    tiny = text.replace(f"\nlhand {frames[[f.split()[0] for f in frames].index('lhand')].split(' ', 1)[1]}", "\nlhand -1.90833e-014 +2.5E+001", 1)
    c = skeleton.channels.index(("lhand", "rx"))
    assert amc(tmp_path, tiny, skeleton)[0, c:c + 2].tolist() == [-1.90833e-14, 25.]


@pytest.mark.parametrize("old, new, words", [
    ("\n3\n", "\n4\n", ["expected frame 3", "found frame 4"]), ("\n3\n", "\n2\n", ["expected frame 3", "found frame 2"]),
    ("\n1\n", "\n", ["expected a frame number", "'root'"]), ("\nhead ", "\nheed ", ["head", "'heed'"]), ("\nltoes ", "\nrtoes ", ["'rtoes' again"]),
    ("\nroot 0 ", "\nroot ", ["6 finite numbers for root"]), ("\nroot 0 ", "\nroot 0 0 ", ["6 finite numbers for root"]),
    ("\nroot 0 ", "\nroot nan ", ["6 finite", "nan"]), ("\nroot 0 ", "\nroot 1e999 ", ["6 finite", "1e999"]), ("\nroot 0 ", "\nroot 1_0 ", ["1_0"]),
    ("\nroot 0 ", "\nroot 0x1 ", ["0x1"]), (":DEGREES", ":RADIANS", [":DEGREES", ":RADIANS"]), ("\nroot 0 ", "\nlhipjoint 0\nroot 0 ", ["'lhipjoint'"]),
    ("\n1\n", "\n" + "9" * 5000 + "\n", ["a frame number"]), ("\n1\n", "\n\u00b2\n", ["a frame number"]), ("\n3\n", "\n\0\1\n", ["expected frame 3"])])
def test_bad_amc_names_file_line_expected_found(tmp_path, walker, old, new, words):
    _, text, skeleton = walker
    assert old in text
    head, tail = text.split(old, 1)
    (tmp_path / "x.amc").write_bytes((head + new + tail).encode("latin-1"))
    with pytest.raises(DataCorrupt) as e: read_amc(tmp_path / "x.amc", skeleton)
    message = str(e.value)
    assert all(w in message for w in ["x.amc, line ", "expected", "found", *words]), message
    assert len(message) < 1000
    assert int(message.split("line ")[1].split(":")[0]) >= head.count("\n") + 1


def test_truncated_amc_is_refused_unless_it_ends_with_a_frame(tmp_path, walker):
    _, text, skeleton = walker
    lines = text.split("\n")
    for end in range(3, 3 + 62):           # the first two frames, line by line: 1 + 29 lines each, below 3 header lines + 1
        cut, whole = "\n".join(lines[:end]) + "\n", end in (33, 63)
        if whole: assert len(amc(tmp_path, cut, skeleton)) == (end - 3) // 30
        else:
            with pytest.raises(DataCorrupt, match="truncated"): amc(tmp_path, cut, skeleton)
    with pytest.raises(DataCorrupt, match="frames"): amc(tmp_path, "", skeleton)


# -- ASF -------------------------------------------------------------------------------------------------------------------

def test_skeleton_is_what_the_text_says(walker):
    text, _, s = walker
    assert len(s.joints) == 31 and s.joints[0] == "root" and s.parent[0] == -1 and all(0 <= p < j for j, p in enumerate(s.parent) if j)
    assert math.isclose(s.metres, 2.54 / .45 / 100) and len(s.channels) == 62 and s.dof[0] == ("tx", "ty", "tz", "rx", "ry", "rz")
    j = s.joints.index("ltibia")
    assert s.joints[s.parent[j]] == "lfemur" and s.dof[j] == ("rx",) and s.axis[j].tolist() == [0, 0, 10]
    assert math.isclose(float(s.offset[j].norm()), 7 * s.metres, rel_tol=1e-5)
    listed = [j for part in MOCAP_PARTS.values() for j in part]
    assert len(set(listed)) == len(listed) and set(s.joints) - set(listed) == {"lhipjoint", "rhipjoint"}


@pytest.mark.parametrize("old, new, words", [
    ("angle deg", "angle rad", ["angle deg", "'rad'"]), ("length 0.45", "length 0", ["> 0"]), ("length 0.45", "length x", ["1 finite number", "'x'"]),
    (":units", ":unit", ["sections", "':unit'"]), (":units", "::units", ["sections"]), (":units", ":units inches", ["inches"]), (":name", ":version", ["each once"]),
    ("mass 1.0", "weight 1", ["mass", "'weight'"]), ("order TX TY TZ RX RY RZ", "order TX TY TZ RX RY", ["TX TY TZ RX RY RZ"]),
    ("axis XYZ", "axis ZYX", ["axis XYZ", "ZYX"]), ("position 0 0 0", "position 0 1 0", ["position 0 0 0"]), ("orientation 0 0 0", "orientation 0 0", ["3 finite"]),
    ("0 0 10 XYZ", "0 0 10 ZYX", ["XYZ", "ZYX"]), ("0 0 10 XYZ", "0 10 XYZ", ["three angles"]), ("dof rx ry rz", "dof rx ry tz", ["rx ry rz"]),
    ("dof rx ry rz", "dof rx rx rz", ["each once"]), ("dof rx ry rz", "dof rx ry", ["4 numbers for the limits"]), ("(-180 180)", "(180 -180)", ["low high"]),
    ("(-180 180)", "(-180 x)", ["limits", "x"]), ("name head", "name thorax", ["name of its own", "thorax"]), ("name head", "name two words", ["one name"]),
    ("name head", "", ["also name"]), ("length 7", "length -7", [">= 0"]), ("length 7", "length inf", ["1 finite"]), ("direction 0", "direction 1", ["length 1"]),
    ("    id 1\n", "    idea 1\n", ["id, name", "'idea'"]), ("root lhipjoint", "root lhip", ["bone of the bonedata", "'lhip'"]),
    ("upperneck head", "upperneck head head", ["one parent", "'head'"]), ("root lowerback", "head lowerback", ["hang on the root", "lowerback"]),
    ("    upperneck head\n", "", ["hang on the root", "head"]), ("  begin\n", "", ["'begin'"]), (":hierarchy\n  begin\n", ":hierarchy\n  begin\n    root\n  end\n  begin\n", ["one block"])])
def test_bad_asf_names_file_line_expected_found(tmp_path, walker, old, new, words):
    assert old in walker[0]
    with pytest.raises(DataCorrupt) as e: asf(tmp_path, walker[0].replace(old, new, 1))
    assert all(w in str(e.value) for w in ["x.asf, line ", "expected", "found", *words]), str(e.value)


def test_truncated_asf_is_always_refused(tmp_path, walker):
    text = walker[0].rstrip()
    for end in range(0, len(text), 41):
        with pytest.raises(DataCorrupt): asf(tmp_path, text[:end])
    with pytest.raises(DataCorrupt): asf(tmp_path, text[:-1])


def test_asf_in_any_order_of_bones_and_hierarchy_with_carriage_returns(tmp_path, walker):
    text, _, skeleton = walker
    head, rest = text.split(":bonedata\n")
    bones, tree = rest.split(":hierarchy\n  begin\n")
    blocks, links = bones.split("  begin\n")[1:], tree.split("  end")[0].splitlines()
    random.Random(0).shuffle(blocks); random.Random(1).shuffle(links)
    mixed = head + ":bonedata\n" + "".join("  begin\n" + b for b in blocks) + ":hierarchy\n  begin\n" + "\n".join(links) + "\n  end\n"
    other = asf(tmp_path, mixed.replace("\n", "\r\n"))
    motion = torch.randn(62, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 40
    order = [skeleton.channels.index(c) for c in other.channels]
    joints = [skeleton.joints.index(j) for j in other.joints]
    assert joints != sorted(joints)
    assert torch.allclose(forward_kinematics(other, motion[order]), forward_kinematics(skeleton, motion)[joints])


# -- the data set ----------------------------------------------------------------------------------------------------------

def test_shapes_names_groups(home):
    train, test, both = (load_mocap(s) for s in ("train", "test", "all"))
    assert train.names == tuple(MOCAP_PARTS) and train.shapes == tuple((c,) for c in SIZES) and train.y is None
    assert train.groups.bincount().tolist() == [0, *(40 + 2 * t for t in range(1, 11))] and test.groups.unique().tolist() == [11]
    assert len(both) == len(train) + len(test) and all(torch.equal(a, torch.cat([b, c])) for a, b, c in zip(both.xs, train.xs, test.xs))
    assert all(x.dtype == torch.float32 for x in train.xs)
    a, b = train.split(.5, seed=0, groups=train.groups)
    assert not set(a.groups.tolist()) & set(b.groups.tolist())


def test_columns_are_the_joints_of_the_parts(home):
    text = (home / "07_03.amc").read_text().split("\n17\n")[1].split("\n18\n")[0].splitlines()
    values = {line.split()[0]: [float(w) for w in line.split()[1:]] for line in text}
    values["root"] = values["root"][3:]
    mv = load_mocap("test", trials=2, test_trial=3, scale="none")
    for x, joints in zip(mv.xs, MOCAP_PARTS.values()):
        assert x[16].tolist() == pytest.approx([v for j in joints for v in values[j]], rel=1e-6)


@pytest.mark.parametrize("scale, trials", [("train", 1), ("train", 5), ("fixed", 1), ("none", 2)])
def test_scale_by_a_slow_loop_and_back(home, scale, trials):
    raw = load_mocap("all", trials=10, scale="none")
    test, train = (load_mocap(s, trials=trials, scale=scale) for s in ("test", "train"))
    fit = mocap_scale(scale, trials)
    for v in range(5):
        x = raw.xs[v][raw.groups <= {"train": trials, "fixed": 10, "none": 0}[scale]].double()
        for c in range(SIZES[v]):
            low, high = (float(x[:, c].min()), float(x[:, c].max())) if scale != "none" else (0., 1.)
            want = (raw.xs[v][raw.groups == 11, c].double() - low) / max(high - low, .1)
            assert torch.allclose(test.xs[v][:, c].double(), want, atol=1e-4)
        assert torch.allclose(fit.to_degrees(test)[v], raw.xs[v][raw.groups == 11], atol=1e-4)
        assert torch.allclose(fit.to_scale(fit.to_degrees(train))[v], train.xs[v], atol=1e-5)
    if scale == "train": assert all(float(x.min()) == 0 and float(x.max()) <= 1 + 1e-6 for x in train.xs)
    assert [tuple(s.shape) for s in fit.span] == [(c,) for c in SIZES] and all(bool((s >= .1 - 1e-12).all()) for s in fit.span)


def test_still_channels_stay_finite(home):
    fit = mocap_scale("train", 1)
    column = list(MOCAP_PARTS["left arm"]).index("lclavicle")
    assert float(fit.span[2][column]) == pytest.approx(.1) and all(bool(x.isfinite().all()) for x in load_mocap(trials=1).xs)


def test_scale_refuses_other_shapes(home):
    fit = mocap_scale(trials=1)
    for wrong in ([torch.zeros(3, c) for c in SIZES[:4]], [torch.zeros(3, 7)] * 5, [torch.zeros(c + (c == 21), c) for c in SIZES], []):
        for function in (fit.to_degrees, fit.to_scale):
            with pytest.raises(ValueError, match="views must be core"): function(wrong)
    assert isinstance(fit, MocapScale)


def test_tiny_needs_no_files_and_takes_the_same_path(home, monkeypatch, tmp_path):
    from_files = load_mocap("all")
    monkeypatch.setenv("MVNB_DATA", str(tmp_path / "nothing")); monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "nothing"))
    tiny = load_mocap("all", tiny=True)
    assert all(torch.equal(a, b) for a, b in zip(from_files.xs, tiny.xs)) and torch.equal(from_files.groups, tiny.groups)
    assert load_skeleton(tiny=True).channels and float(mocap_scale(tiny=True).span[0][0]) > 1
    with pytest.raises(DataNotAvailable): load_mocap()
    with pytest.raises(DataNotAvailable): load_skeleton()


def test_the_walker_walks(walker, tmp_path):
    skeleton = walker[2]
    p = forward_kinematics(skeleton, read_amc(write_tiny_mocap(tmp_path, [12]) / "07" / "07_12.amc", skeleton))
    at = {j: p[:, i] for i, j in enumerate(skeleton.joints)}
    assert bool((at["head"][:, 1] > at["root"][:, 1]).all()) and bool((at["root"][:, 1] > at["lfoot"][:, 1]).all())
    assert bool((at["lhand"][:, 1] < at["lclavicle"][:, 1]).all()) and bool((at["lclavicle"][:, 0] > at["rclavicle"][:, 0]).all())
    ahead = {j: at[j][:, 2] - at["root"][:, 2] for j in ("lfoot", "rfoot", "lhand", "rhand")}
    assert np.corrcoef(ahead["lfoot"], ahead["rfoot"])[0, 1] < -.5 and np.corrcoef(ahead["lfoot"], ahead["rhand"])[0, 1] > .5


def test_same_bytes_again_and_order_of_files_does_not_matter(tmp_path):
    one, two = write_tiny_mocap(tmp_path / "a"), write_tiny_mocap(tmp_path / "b", reversed(range(1, 13)))
    files = sorted(f.name for f in (one / "07").iterdir())
    assert len(files) == 13 and all((one / "07" / f).read_bytes() == (two / "07" / f).read_bytes() for f in files)
    assert len({(one / "07" / f).read_bytes() for f in files}) == 13


def test_foreign_files_are_ignored_and_only_the_needed_trials_are_read(home):
    want = load_mocap("test", trials=2)
    (home / "07_00.amc").write_text("rubbish"); (home / "notes.txt").write_text("x"); (home / "07_05.amc").write_text("rubbish")
    assert all(torch.equal(a, b) for a, b in zip(load_mocap("test", trials=2).xs, want.xs))
    with pytest.raises(DataCorrupt, match="07_05.amc"): load_mocap("test", trials=5)
    (home / "07_04.amc").unlink()
    with pytest.raises(DataNotAvailable, match="07_04.amc.*mocap.cs.cmu.edu"): load_mocap(trials=4)


def test_a_skeleton_with_other_channels_is_refused(home):
    text = (home / "07.asf").read_text()
    (home / "07.asf").write_text(text.replace("    dof rx\n    limits (-180 180)\n", "    dof rx rz\n    limits (-180 180) (-180 180)\n", 1))
    with pytest.raises(DataCorrupt, match=r"07.asf: expected \(21, 12, 12, 7, 7\) channels.*found"): load_skeleton()


@pytest.mark.parametrize("options, error, words", [
    (dict(split="valid"), ValueError, ["split", "'valid'", "train, test, all"]), (dict(trials=0), ValueError, ["trials", "0"]),
    (dict(trials=13), ValueError, ["trials", "12", "13"]), (dict(trials=2.5), TypeError, ["trials", "2.5"]), (dict(test_trial=13), ValueError, ["test_trial", "13"]),
    (dict(test_trial=10), ValueError, ["test_trial", "1..10", "10"]), (dict(trials=11), ValueError, ["test_trial", "11"]), (dict(scale="unit"), ValueError, ["scale", "'unit'", "fixed"])])
def test_bad_options(options, error, words):
    with pytest.raises(error) as e: load_mocap(**options, tiny=True)
    assert all(w in str(e.value) for w in words), str(e.value)


def rest(path, frames):
    "Put the resting pose, nearly zero, in the place of some frames."
    lines = path.read_text().split("\n")
    for frame in frames:
        start = lines.index(str(frame)) + 1
        for i in range(start, start + 29): lines[i] = " ".join([lines[i].split()[0], *["1e-15"] * (len(lines[i].split()) - 1)])
    path.write_text("\n".join(lines))


def test_a_resting_pose_at_the_beginning_is_not_loaded(home):
    whole = {t: load_mocap("test", test_trial=t, scale="none") for t in (11, 12)}
    before = mocap_scale()
    for path in ("07_12.amc", "07_01.amc"): rest(home / path, [1])
    cut = load_mocap("test", test_trial=12, scale="none")
    assert len(cut) == len(whole[12]) - 1 == 63 and all(torch.equal(a, b[1:]) for a, b in zip(cut.xs, whole[12].xs)) and len(cut.groups) == 63
    assert torch.equal(load_mocap("test", scale="none").xs[0], whole[11].xs[0])
    train = load_mocap("all")
    assert train.groups.bincount().tolist() == [0, 41, *(40 + 2 * t for t in range(2, 12))]
    assert all(bool((a >= b).all()) for a, b in zip(mocap_scale().low, before.low))                # zeros do not widen the range


@pytest.mark.parametrize("frames, found", [([1, 5], "2 in 64"), ([64], "1 in 64"), (range(1, 65), "64 in 64")])
def test_resting_poses_elsewhere_are_refused(home, monkeypatch, frames, found):
    rest(home / "07_12.amc", frames)
    monkeypatch.setattr(mocap, "_FRAMES", {})
    for call in (lambda: load_mocap("test", test_trial=12), check_mocap):
        with pytest.raises(DataCorrupt, match=f"07_12.amc: expected frames of nothing but zeros at the beginning only, found {found}"): call()


def test_check_counts_frames_and_reports_rest_poses(home, monkeypatch):
    with pytest.raises(DataCorrupt, match="07_01.amc: expected 316 frames, found 42"): check_mocap()
    monkeypatch.setattr(mocap, "_FRAMES", {t: 40 + 2 * t for t in range(1, 12) if t != 3})
    said = "12 trials, 636 frames, 62 channels, 31 joints; no checksums are published; numbers of frames of trials 3, 12 not verified"
    assert check_mocap() == said
    rest(home / "07_12.amc", [1, 2])
    assert check_mocap() == said + "; leading frames of nothing but zeros, not loaded: 07_12.amc (2)"
    (home / "07_12.amc").unlink()
    with pytest.raises(DataNotAvailable, match="07_12.amc"): check_mocap()


def test_drawing_colours_only_the_parts_asked_for(walker):
    skeleton = walker[2]
    rest = forward_kinematics(skeleton, torch.zeros(62))
    fig, ax = plt.subplots(subplot_kw=dict(projection="3d"))
    draw_skeleton(ax, rest, skeleton)
    assert len(ax.lines) == 30 and sum(line.get_color() == "tab:blue" for line in ax.lines) == 7
    assert sum(line.get_color() == "lightgrey" for line in ax.lines) == 2                      # the hip joints belong to no part
    x, y, z = (np.array(c) for c in ax.lines[0].get_data_3d())
    assert np.allclose([y[1], z[1], x[1]], rest[1])                                             # matplotlib's z is up
    ax.clear()
    draw_skeleton(ax, rest.requires_grad_(), skeleton, ["right leg"], alpha=.5)
    assert sorted(line.get_color() for line in ax.lines) == ["lightgrey"] * 26 + ["tab:orange"] * 4 and ax.lines[0].get_alpha() == .5
    with pytest.raises(ValueError, match="parts='tail'"): draw_skeleton(ax, rest, skeleton, ["tail"])
    with pytest.raises(ValueError, match=r"positions.*\(31, 3\).*\(2, 3\)"): draw_skeleton(ax, rest[:2], skeleton)
    plt.close(fig)


@pytest.mark.data
@pytest.mark.skipif(not Path(os.environ.get("MVNB_DATA", "none"), "cmu_mocap", "07").is_dir(), reason="needs CMU's subject 7 in MVNB_DATA")
def test_the_real_walks():
    assert check_mocap().startswith("12 trials")
    both = load_mocap("all")
    frames = both.groups.bincount()
    assert both.shapes == tuple((c,) for c in SIZES) and all(int(frames[t]) == n for t, n in mocap._FRAMES.items())
    for t in (11, 12): assert bool((torch.cat(load_mocap("test", test_trial=t, scale="none").xs, 1).abs().amax(1) > 1).all())    # no resting pose
    train, test = load_mocap(trials=1), load_mocap("test", trials=1)
    a, b = (torch.cat(m.xs, 1).double() for m in (train, test))
    # a Gaussian per channel, sd >= 1e-3: the floor of what a model should reach
    score = torch.distributions.Normal(a.mean(0), a.std(0, unbiased=False).clamp_min(1e-3)).log_prob(b).sum(1).mean()
    assert float(score) == pytest.approx(-18.2, abs=.1)
    skeleton = load_skeleton()
    p = joint_positions(skeleton, both, mocap_scale())
    head = p[:, skeleton.joints.index("head"), 1] - torch.minimum(p[:, skeleton.joints.index("rtoes"), 1], p[:, skeleton.joints.index("ltoes"), 1])
    assert 1.3 < float(head.median()) < 1.9                                                      # metres from toe to head
