"Checks, streams and files."
import hashlib
import json
import math
import multiprocessing
import os
import stat

import numpy as np
import pytest
import torch

from mvnb.base import atomic_write, check_choice, check_count, check_number, check_ratio, file_hash, generator, integer_seed, write_json


@pytest.mark.parametrize("value", [0, 1, .5, np.float32(.25), torch.tensor(.75), np.int64(1)])
def test_ratios_in_range_pass_as_floats(value): assert isinstance(check_ratio("r", value), float) and check_ratio("r", value) == float(value)

@pytest.mark.parametrize("value, error", [(-.01, ValueError), (1.01, ValueError), (float("nan"), ValueError), (float("inf"), ValueError), ("0.5", TypeError), (None, TypeError), (True, TypeError)])
def test_other_ratios_are_named(value, error):
    with pytest.raises(error, match="^snr must"): check_ratio("snr", value)

def test_half_open_ratios():
    with pytest.raises(ValueError, match=r"\[0, 1\), got 1"): check_ratio("vmr", 1, closed=False)

@pytest.mark.parametrize("value, error", [(0, ValueError), (-3, ValueError), (1.0, TypeError), ("3", TypeError), (True, TypeError)])
def test_counts(value, error):
    assert check_count("epochs", np.int64(3)) == 3
    with pytest.raises(error, match="^epochs must be"): check_count("epochs", value)

@pytest.mark.parametrize("value, error", [(0, ValueError), (-1, ValueError), (float("nan"), ValueError), (math.inf, ValueError), ("x", TypeError), (False, TypeError)])
def test_numbers(value, error):
    assert check_number("lr", 1) == 1. and check_number("lr", -2.) == -2.
    with pytest.raises(error, match="^lr must be"): check_number("lr", value, low=0, strict=True)

def test_choices_list_what_is_known():
    with pytest.raises(ValueError, match="colour='red' is unknown; choose one of: blue, green"): check_choice("colour", "red", ("blue", "green"))


def test_streams_are_named_by_all_their_parts():
    draws = {key: torch.rand(4, generator=generator(*key)).tolist() for key in [(0, "a"), (1, "a"), (0, "b"), (0, "a", 1), (0, "a", 11), (0, "a", 1, 1), (0, "a1")]}
    assert len({tuple(v) for v in draws.values()}) == len(draws)
    assert draws[0, "a"] == torch.rand(4, generator=generator(0, "a")).tolist()

def test_streams_of_neighbouring_seeds_are_uncorrelated():
    x = torch.stack([torch.randn(2000, generator=generator(s, "noise")) for s in range(8)])
    off = torch.corrcoef(x) - torch.eye(8)
    assert off.abs().max() < .12  # 5 standard errors

@pytest.mark.parametrize("seed, error", [(-1, ValueError), (1.5, TypeError), (None, TypeError)])
def test_bad_seeds(seed, error):
    with pytest.raises(error, match="^seed must"): generator(seed)
    with pytest.raises(error, match="^seed must"): integer_seed(seed)

def test_integer_seeds_suit_scikit_learn(): assert all(0 <= integer_seed(s, "x") < 2**31 for s in range(50)) and len({integer_seed(s, "x") for s in range(50)}) == 50


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    atomic_write(tmp_path / "deep/a", lambda f: f.write(b"old"))
    def fails(f):
        f.write(b"new" * 100000)
        raise OSError(28, "No space left on device")
    with pytest.raises(OSError, match="No space"): atomic_write(tmp_path / "deep/a", fails)
    assert (tmp_path / "deep/a").read_bytes() == b"old" and os.listdir(tmp_path / "deep") == ["a"]

def test_written_files_are_as_readable_as_any_other(tmp_path):
    (tmp_path / "plain").write_text("")
    atomic_write(tmp_path / "a", lambda f: f.write(b""))
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)

def _write_often(path, letter):
    for _ in range(50): atomic_write(path, lambda f: f.write(letter * 100000))

def test_two_writers_never_mix(tmp_path):
    path = tmp_path / "shared"
    writers = [multiprocessing.get_context("fork").Process(target=_write_often, args=(path, letter)) for letter in (b"a", b"b")]
    for w in writers: w.start()
    while any(w.is_alive() for w in writers):
        if path.exists(): assert len(set(path.read_bytes())) == 1
    for w in writers: w.join()
    assert all(w.exitcode == 0 for w in writers) and len(path.read_bytes()) == 100000


def test_json_knows_tensors_arrays_and_holes(tmp_path):
    content = {"t": torch.tensor([1., float("nan")]), "a": np.arange(2), "s": np.float32(.5), 3: (1, math.inf), "n": None, "text": "ä"}
    write_json(tmp_path / "a.json", content)
    assert json.loads((tmp_path / "a.json").read_text()) == {"t": [1., None], "a": [0, 1], "s": .5, "3": [1, None], "n": None, "text": "ä"}
    with pytest.raises(TypeError): write_json(tmp_path / "b.json", {"x": object()})
    assert not (tmp_path / "b.json").exists()


def test_file_hash_is_hashlibs(tmp_path):
    content = os.urandom(3_000_000)
    (tmp_path / "f").write_bytes(content)
    for method in ("sha256", "md5"): assert file_hash(tmp_path / "f", method) == hashlib.new(method, content).hexdigest()
    with pytest.raises(OSError): file_hash(tmp_path / "none")
