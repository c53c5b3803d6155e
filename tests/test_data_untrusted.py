"Hostile pickles and archives: refused by name, nothing executed, nothing written outside; honest ones come back exactly."
import builtins
import functools
import gzip
import operator
import os
import pickle
import pickletools
import resource
import signal
import stat
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
import zlib

import numpy as np
import pytest

from mvnb.data import DataCorrupt
from mvnb.data import untrusted
from mvnb.data.untrusted import load_npz, load_pickle, read_bytes, unpack_zip


class Call:
    def __init__(self, f, *args): self.reduced = f, args
    def __reduce__(self): return self.reduced


def refused(action, *arguments, **options):
    with pytest.raises(DataCorrupt) as e: action(*arguments, **options)
    assert len(str(e.value)) < 600
    return str(e.value)


def peak_memory(action, *arguments, **options):
    "What an action returns or raises, and the most bytes that it held on the way."
    tracemalloc.start()
    try: return refused(action, *arguments, **options) if options.pop("bad", False) else action(*arguments, **options), tracemalloc.get_traced_memory()[1]
    finally: tracemalloc.stop()


def short(s):
    return b"U" + bytes([len(s)]) + s


def python2_array(x, numpy=b"numpy.core.multiarray", dtype=None, raw=None, shape=None):
    "What cPickle of Python 2 wrote with protocol 2; the parts can be replaced by wrong ones."
    shape = b"(" + b"".join(b"J" + s.to_bytes(4, "little") for s in (x.shape if shape is None else shape)) + b"t"
    dtype = dtype or b"cnumpy\ndtype\n" + short(x.dtype.str[1:].encode()) + b"K\0K\1\x87R(K\3" + short(b"<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    raw = x.tobytes() if raw is None else raw
    return (b"c" + numpy + b"\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + short(b"b") + b"\x87R(K\1" + shape + dtype + b"\x89"
            + b"T" + len(raw).to_bytes(4, "little") + raw + b"tb")


# --- honest pickles

ARRAYS = [np.arange(6.).reshape(2, 3), np.asfortranarray(np.arange(12, dtype=">i4").reshape(3, 4)), np.zeros((0, 3), "f4"), np.array(7), np.array([True, False]),
          np.array([b"ab", b"\0\xff"]), np.arange(3, dtype="u1"), np.array([1 + 2j]), np.arange(10)[::2], np.array([np.nan, np.inf, -0.0]), np.zeros((1,) * 10, "i2")]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("x", ARRAYS, ids=lambda x: f"{x.dtype.str}{x.shape}")
def test_arrays_of_every_protocol_come_back_exactly(x, protocol):
    back = load_pickle(pickle.dumps(x, protocol))
    assert type(back) is np.ndarray and back.dtype == x.dtype.newbyteorder("=") and back.shape == x.shape
    assert back.tobytes() == x.astype(back.dtype).tobytes()                     # bit for bit, NaN and -0 too
    assert back.flags.writeable and back.dtype.isnative
    standard = np.asarray(pickle.loads(pickle.dumps(x, protocol)))
    assert back.tobytes() == standard.astype(back.dtype).tobytes() and back.flags.f_contiguous == standard.flags.f_contiguous


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_and_containers(protocol):
    shared = np.arange(3.)
    x = {"a": [1, -1, 2**31, 2**70, -2**70, 255, 65535, 1.5, -0.0, float("inf"), True, False, None], "b": ("x", (), ("é€😀",), b"", b"\0\xff"), 3: {}, "c": [],
         "d": np.float32(.25), "e": np.int64(-3), "long": list(range(2000)), "two": [shared, shared], b"k": {"deep": {"deeper": [((1,),)]}}}
    back = load_pickle(pickle.dumps(x, protocol))
    assert list(back) == list(x)
    for k in x:
        if k != "two": assert back[k] == x[k] and type(back[k]) is type(x[k]), k
    assert back["two"][0] is back["two"][1] and np.array_equal(back["two"][0], shared)


@pytest.mark.parametrize("numpy", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_python2_protocol2(numpy):
    x = np.random.default_rng(0).normal(size=(4, 5, 6))
    back = load_pickle(b"\x80\2}(" + short(b"labels") + python2_array(x[0], numpy) + short(b"d\xe9") + python2_array(x, numpy) + b"u.")
    assert np.array_equal(back["labels"], x[0]) and np.array_equal(back["d\xe9"], x)   # latin1
    if numpy == b"numpy.core.multiarray":       # the standard library agrees
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert np.array_equal(pickle.loads(b"\x80\2" + python2_array(x) + b".", encoding="latin1"), x)


def test_python2_protocol0():
    "One line per instruction; bytes above 127 stand in the quoted text as they are or escaped."
    raw = bytes(range(256))
    for quoted in (repr(raw)[1:].encode(), b"'" + raw.replace(b"\\", b"\\\\").replace(b"'", b"\\'").replace(b"\n", b"\\n") + b"'"):
        file = (b"cnumpy.core.multiarray\n_reconstruct\np0\n(cnumpy\nndarray\np1\n(I0\ntS'b'\ntRp2\n(I1\n(I256\ntcnumpy\ndtype\np3\n(S'u1'\nI0\nI1\ntRp4\n"
                b"(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nS" + quoted + b"\ntb.")
        assert load_pickle(file).tolist() == list(range(256))


def test_files_gzipped_or_not(tmp_path):
    x = {"x": np.arange(5.)}
    for content in (pickle.dumps(x), gzip.compress(pickle.dumps(x))):
        (tmp_path / "1_1").write_bytes(content)
        assert np.array_equal(load_pickle(tmp_path / "1_1")["x"], x["x"])
    with pytest.raises(FileNotFoundError): load_pickle(tmp_path / "none")


# --- hostile pickles

CALLS = [lambda c: Call(os.system, f"touch {c}"), lambda c: Call(eval, f"open({c!r}, 'w')"), lambda c: Call(exec, f"open({c!r}, 'w')"), lambda c: Call(open, c, "w"),
         lambda c: Call(subprocess.check_call, ["touch", c]), lambda c: Call(os.mkdir, c), lambda c: Call(functools.partial, os.mkdir, c),
         lambda c: Call(operator.methodcaller("touch"), c), lambda c: Call(operator.attrgetter("system"), os), lambda c: Call(getattr, os, "system"),
         lambda c: Call(builtins.__import__, "os"), lambda c: Call(np.load, c), lambda c: Call(np.save, c, 1), lambda c: Call(np.fromfile, c), lambda c: Call(np.zeros, 3),
         lambda c: Call(bytearray, 10**12), lambda c: Call(list, b"ab"), lambda c: Call(np.dtype, "O"), lambda c: Call(np.ndarray, (10**6, 10**6)),
         lambda c: slice(1), lambda c: range(3), lambda c: {1, 2}, lambda c: frozenset([1]), lambda c: bytearray, lambda c: np.ndarray, lambda c: os.system,
         lambda c: np.array([None, {}]), lambda c: np.array([Call(os.mkdir, c)]), lambda c: np.zeros(2, "M8[s]"), lambda c: np.zeros(2, [("a", "f4")]), lambda c: np.array(["ab"]),
         lambda c: np.ma.zeros(3), lambda c: np.zeros(2, "V4"), lambda c: np.dtype("f8"), lambda c: object()]


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
@pytest.mark.parametrize("i", range(len(CALLS)))
def test_nothing_but_arrays(tmp_path, i, protocol):
    canary, file = tmp_path / "canary", tmp_path / "s01.dat"
    thing = CALLS[i](str(canary))
    for content in (thing, {"data": np.zeros(3), "labels": [thing]}):
        try: file.write_bytes(pickle.dumps(content, protocol))
        except (pickle.PicklingError, TypeError): pytest.skip("cannot be written with this protocol")
        before = set(sys.modules)
        assert str(file) in refused(load_pickle, file)
        assert not canary.exists() and set(sys.modules) == before


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_the_message_names_what_was_asked(tmp_path, protocol):
    assert f"{os.system.__module__}.system" in refused(load_pickle, pickle.dumps(Call(os.system, "x"), protocol))
    assert "s01.dat" in refused(load_pickle, pickle.dumps(Call(os.system, "x"), protocol), name="s01.dat")


def test_the_canary_would_sing(tmp_path):
    "The hostile files do what they are meant to when they are unpickled: the tests above can fail."
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(Call(os.mkdir, str(canary))))
    assert canary.exists()


HAND_MADE = {
    "dotted": b"\x80\4\x8c\5numpy\x8c\x0dndarray.tofile\x93.", "dotted module": b"cnumpy.core.multiarray._reconstruct\n__globals__\n.", "submodule": b"cnumpy\n_core\n.",
    "name not text": b"\x80\4K\1K\2\x93.", "persid": b"Pcanary\n.", "binpersid": b"K\1Q.", "ext1": b"\x82\1.", "ext2": b"\x83\1\0.", "ext4": b"\x84\1\0\0\0.",
    "inst": b"(ios\nsystem\n.", "obj": b"(cnumpy\nndarray\no.", "newobj": b"cnumpy\nndarray\n)\x81.", "newobj_ex": b"cnumpy\nndarray\n)}\x92.", "dup": b"N2.", "pop": b"NN0.",
    "buffer": b"\x97.", "set": b"\x8f.", "call text": b"X\1\0\0\0aX\1\0\0\0b\x85R.", "call None": b"N)R.", "build name": b"cnumpy\nndarray\n}b.", "build dict": b"}}b.",
    "build function": b"c_codecs\nencode\nN}X\1\0\0\0aK\1s\x86b.", "append to name": b"cnumpy\nndarray\nK\1a.", "append to array": b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87RK\1a.",
    "set on list": b"]K\1K\2s.", "key None": b"}NK\1s.", "key tuple": b"})K\1s.", "key list": b"}]K\1s.", "key float": b"}G\0\0\0\0\0\0\0\0K\1s.", "key huge": b"}\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x1fK\1s.",
    "odd items": b"(K\1d.", "reconstruct dict": b"cnumpy.core.multiarray\n_reconstruct\ncbuiltins\nbytes\nK\0\x85U\1b\x87R.",
    "codec": b"c_codecs\nencode\nX\4\0\0\0bombX\4\0\0\0zlib\x86R.", "codec utf-32": b"c_codecs\nencode\nX\1\0\0\0aX\6\0\0\0utf-32\x86R.", "codec errors": b"c_codecs\nencode\nX\1\0\0\0aX\6\0\0\0latin1X\6\0\0\0ignore\x87R.",
    "not latin1": b"c_codecs\nencode\nX\3\0\0\0\xe2\x82\xacX\6\0\0\0latin1\x86R.", "bytes(n)": b"cbuiltins\nbytes\nJ\xff\xff\xff\x7f\x85R.",
    "memo slot": b"Nr\xff\xff\xff\x7f.", "memo text": b"Np99999999999999\n.", "memo negative": b"Np-1\n.", "memo unknown": b"h\7.", "memo empty": b"q\0.",
    "long4": b"\x8b\xff\xff\xff\x7f.", "long4 negative": b"\x8b\xff\xff\xff\xff.", "binbytes8": b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.", "bytearray8": b"\x96\xff\xff\xff\xff\xff\xff\xff\xffabc.",
    "binunicode8": b"\x8d\xff\xff\xff\xff\0\0\0\0abc.", "binbytes": b"B\xff\xff\xff\xffabc.", "binstring": b"T\xff\xff\xff\x7fabc.", "binstring negative": b"T\xff\xff\xff\xffabc.",
    "digits": b"I" + b"9" * 10**6 + b"\n.", "utf8": b"X\1\0\0\0\xff.", "string": b"Sabc\n.", "string escape": b"S'\\x'\n.", "string quotes": b"S'\n.", "escape": b"V\\u12\n.", "float": b"Fabc\n.",
    "deep tuples": b")" + b"\x85" * 300_000 + b".", "deep lists": b"]" * 300_000 + b"a" * 299_999 + b".", "deep key": b"})" + b"\x85" * 300_000 + b"K\1s.", "deep array": b"]" * 17 + b"a" * 16 + b".",
    "itself": b"]q\0h\0a.", "laughs": b"]q\0" + b"".join(b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(14)) + b"0" * 0 + b"\x85.",
    "empty": b"", "no stop": b"N", "nothing": b".", "two values": b"NN.", "open mark": b"(N.", "no mark": b"t.", "underflow": b"\x86.", "html": b"<html>", "zeros": bytes(100), "half a slot":
    b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87R.", "a name": b"cnumpy\nndarray\n.", "a type": b"cnumpy\ndtype\nU\2f8K\0K\1\x87R.",
}


@pytest.mark.parametrize("title", HAND_MADE)
def test_hand_made(title):
    refused(load_pickle, HAND_MADE[title])


def test_laughs():
    "3 bytes a level double the entries: 2**25 of them in a few hundred bytes."
    levels = b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(12))
    assert len(load_pickle(b"(]q\0" + levels + b"l.")) == 13                             # the same with 2**12 entries is allowed
    wide = b"]q\0" + b"".join(b"](" + b"h%c" % i * 100 + b"eq%c" % (i + 1) for i in range(4))
    assert "more than 1,000,000 entries" in refused(load_pickle, b"(" + wide + b"l.")


DTYPE = b"cnumpy\ndtype\nU\2%sK\0K\1\x87R"
BUILD = b"(K\3U\1<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"


@pytest.mark.parametrize("part", [
    dict(shape=(2**31 - 1,)), dict(shape=(2**31 - 1,) * 4), dict(shape=(1,) * 33), dict(shape=(3, 2)), dict(shape=(2**31 - 1, 0, 1)), dict(raw=b""), dict(raw=bytes(39)), dict(raw=bytes(41)),
    dict(dtype=DTYPE % b"O8" + BUILD), dict(dtype=DTYPE % b"V8" + BUILD), dict(dtype=DTYPE % b"M8" + BUILD), dict(dtype=DTYPE % b"U2" + BUILD), dict(dtype=DTYPE % b"S0" + BUILD),
    dict(dtype=b"N"), dict(dtype=b"U\2f8"), dict(dtype=b"cnumpy\nndarray\n"), dict(dtype=b"cnumpy\ndtype\n(dtR"), dict(dtype=b"cnumpy\ndtype\ncos\nsystem\nK\0K\1\x87R"),
    dict(dtype=DTYPE % b"f8" + b"(K\3U\1?NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"), dict(dtype=DTYPE % b"f8" + b"(K\3U\1<N(U\1at}J\4\0\0\0J\1\0\0\0K\0tb"),
    dict(dtype=DTYPE % b"f8" + b"}b"), dict(dtype=DTYPE % b"b1" + BUILD, raw=b"\2\1\0\0\1")])
def test_arrays_that_lie(part):
    x = np.arange(5.)
    assert np.array_equal(load_pickle(b"\x80\2" + python2_array(x) + b"."), x)
    tracemalloc.start()
    try: refused(load_pickle, b"\x80\2" + python2_array(x, **part) + b".")
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 10**6


def test_an_array_is_built_once():
    "A second BUILD would exchange the content under a view of the first."
    x = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87R"
    state = b"(K\1(K\1t" + DTYPE % b"u1" + BUILD + b"\x89U\1atb"
    assert load_pickle(x + state + b".").tolist() == [97]
    refused(load_pickle, x + state + state + b".")


def test_one_text_used_many_times():
    "A memoised text that is made an array again and again multiplies the memory."
    raw = b"T" + (10**5).to_bytes(4, "little") + bytes(10**5) + b"q\0"
    one = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87R(K\1(J" + (10**5).to_bytes(4, "little") + b"t" + DTYPE % b"u1" + BUILD + b"\x89h\0tb"
    assert len(load_pickle(b"(" + raw + one + b"t.")) == 2
    assert "encodes" in refused(load_pickle, b"(" + raw + one * 5 + b"t.")
    binary = b"B" + raw[1:]
    assert len(load_pickle(b"(" + binary + one * 5 + b"t.")) == 6
    assert "500,000" not in refused(load_pickle, b"(" + binary + one * 5 + b"t.", max_bytes=450_000)


def test_size_limits(tmp_path):
    file = pickle.dumps(np.zeros(1000))
    assert len(load_pickle(file, max_bytes=len(file))) == 1000
    assert "at most" in refused(load_pickle, file, max_bytes=len(file) - 1)
    (tmp_path / "bomb").write_bytes(gzip.compress(bytes(10**7)))
    assert "bomb" in refused(read_bytes, tmp_path / "bomb", max_bytes=10**6)
    assert "bomb" in refused(load_pickle, tmp_path / "bomb", max_bytes=10**6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(untrusted, "_MAX_STEPS", 100)
        assert load_pickle(pickle.dumps([0] * 50, 2)) == [0] * 50
        assert "too long" in refused(load_pickle, pickle.dumps([0] * 100, 2))


def test_reading_takes_memory_for_what_is_there(tmp_path):
    "A file of 10 bytes needs no 2 GB, whatever the limit; one of a megabyte, packed or not, not much more than it has."
    content = np.random.default_rng(0).bytes(10**6)
    for name, data, limit in (("small", b"x" * 10, 2 * 10**6), ("plain", content, 4 * 10**6), ("packed", gzip.compress(content), 6 * 10**6)):
        (tmp_path / name).write_bytes(data)
        found, peak = peak_memory(read_bytes, tmp_path / name)
        assert found == (content if name == "packed" else data) and peak < limit
    (tmp_path / "bomb").write_bytes(gzip.compress(bytes(3 * 10**7)))
    message, peak = peak_memory(read_bytes, tmp_path / "bomb", max_bytes=10**6, bad=True)
    assert "too large" in message and peak < 10**7


@pytest.mark.parametrize("size", [0, 1, 2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20])
def test_pieces_make_the_whole(tmp_path, size):
    content = np.random.default_rng(size).bytes(size)
    for data in (content, gzip.compress(content, 1)):
        (tmp_path / "x").write_bytes(data)
        assert read_bytes(tmp_path / "x", max_bytes=max(len(data), size)) == content
        if size: refused(read_bytes, tmp_path / "x", max_bytes=size - 1)


def test_every_truncation_is_noticed(tmp_path):
    for protocol in (0, 2, 5):
        file = pickle.dumps({"data": np.arange(4.), "labels": [1, "a"]}, protocol)
        for end in range(len(file)): refused(load_pickle, file[:end])
    packed = gzip.compress(file)
    for end in range(2, len(packed)):
        (tmp_path / "x").write_bytes(packed[:end])
        refused(load_pickle, tmp_path / "x")


def test_damaged_bytes_never_do_more_than_raise():
    "Fuzzing: each changed byte gives data or DataCorrupt, no other error."
    g = np.random.default_rng(0)
    for protocol in (0, 2, 4):
        good = pickle.dumps({"data": np.arange(4.), "labels": [1, "a", None, 2.5], "t": (np.float64(1), b"x")}, protocol)
        for _ in range(1500):
            bad = bytearray(good)
            for at in g.integers(0, len(bad), g.integers(1, 4)): bad[at] = g.integers(0, 256)
            try: load_pickle(bytes(bad))
            except DataCorrupt: pass


def test_every_instruction_is_decided():
    "Known to be data, or refused: a new instruction of a later Python is refused until somebody looks at it."
    used = untrusted._PUSH | set(untrusted._NEW) | set("""PROTO FRAME STOP MARK TUPLE LIST DICT TUPLE1 TUPLE2 TUPLE3 APPEND APPENDS SETITEM SETITEMS PUT BINPUT
        LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BUILD""".split())
    for op in pickletools.opcodes:
        if op.name in used: continue
        with pytest.raises(DataCorrupt, match=f"instruction {op.name}"):
            untrusted._step(untrusted._Machine("file", 100, 100), op.name, None)


# --- npz

def npy(descr="<f8", shape="(2,)", content=bytes(16), version=(1, 0), header=None):
    header = (header or f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}").encode()
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version[0] == 1 else "<I", len(header)) + header + content


def zipped(path, *entries, method=zipfile.ZIP_DEFLATED):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, content in entries: archive.writestr(name, content)
    return path


def test_npz_is_read_exactly(tmp_path):
    arrays = {f"x{i}": x for i, x in enumerate(ARRAYS)} | {"pickle": np.array(pickle.dumps({"a": 1}))}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        back = load_npz(tmp_path / "a.npz", list(arrays))
        for k, x in arrays.items():
            assert back[k].dtype == x.dtype.newbyteorder("=") and np.array_equal(back[k], x, equal_nan=x.dtype.kind == "f") and back[k].flags.writeable
    assert list(load_npz(tmp_path / "a.npz", ["x1"])) == ["x1"]
    assert load_pickle(back["pickle"].item()) == {"a": 1}
    for header in ("{'descr': '<f8', 'fortran_order': False, 'shape': (2L,), }", None):                  # Python 2 wrote 2L
        assert load_npz(zipped(tmp_path / "b.npz", ("x.npy", npy(header=header))), ["x"])["x"].tolist() == [0, 0]
    assert load_npz(zipped(tmp_path / "b.npz", ("x.npy", npy(version=(2, 0)))), ["x"])["x"].tolist() == [0, 0]


@pytest.mark.parametrize("bad", [
    npy(shape="(10**12,)"), npy(shape="(1000000000000,)"), npy(shape="(3,)"), npy(shape="(1,)"), npy(shape="(-2,)"), npy(shape="(True, 2)"), npy(shape="'ab'"), npy(shape="2"), npy(content=b""),
    npy(descr="|O"), npy(descr="<U4"), npy(descr="<M8[s]"), npy(descr="|V8"), npy(descr=[("a", "<f8")]), npy(descr=("<f8", (2,))), npy(descr="|S0"), npy(descr="nonsense"),
    npy(version=(3, 0)), npy(version=(9, 9)), npy(header="{}"), npy(header="__import__('os').system('x')"), npy(header="(" * 900), npy(header="-" * 900 + "1"), npy(header=" " * 2000),
    npy()[:7], npy()[:20], b"", b"<html>", pickle.dumps(3)])
def test_npy_that_lies(tmp_path, bad):
    assert "b.npz[x]" in refused(load_npz, zipped(tmp_path / "b.npz", ("x.npy", bad)), ["x"])


def test_npz_that_lies(tmp_path):
    canary, file = tmp_path / "canary", tmp_path / "a.npz"
    np.savez(file, x=np.array([Call(os.mkdir, str(canary))], dtype=object))
    refused(load_npz, file, ["x"])
    assert not canary.exists()
    np.savez_compressed(file, x=np.zeros(10**6))
    assert "declared" in refused(load_npz, file, ["x"], max_bytes=10**6)
    assert "x" in (message := refused(load_npz, file, ["x", "y"])) and "found no y" in message
    assert "twice" in refused(load_npz, zipped(file, ("x.npy", npy()), ("x.npy", npy())), ["x"])
    assert "method" in refused(load_npz, zipped(file, ("x.npy", npy()), method=zipfile.ZIP_LZMA), ["x"])
    good = zipped(file, ("x.npy", npy())).read_bytes()
    for end in range(0, len(good), 7):
        file.write_bytes(good[:end])
        refused(load_npz, file, ["x"])
    for at in range(0, len(good)):
        file.write_bytes(good[:at] + bytes([good[at] ^ 0x55]) + good[at + 1:])
        try: load_npz(file, ["x"])
        except DataCorrupt: pass


def lying(path, name, content, more):
    "An archive of one entry: the directory declares `content` and its checksum, the packed stream goes on with `more` zeros."
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(content) + b"".join(packer.compress(bytes(10**6)) for _ in range(more // 10**6)) + packer.flush()
    fields = (20, 0, 8, 0, 0x21, zlib.crc32(content), len(packed), len(content), len(name), 0)
    local = struct.pack("<4s5H3I2H", b"PK\3\4", *fields) + name.encode() + packed
    central = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, *fields, 0, 0, 0, 0, 0) + name.encode()
    path.write_bytes(local + central + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(central), len(local), 0))
    return path


def test_what_is_packed_beyond_the_declared_size_stays_packed(tmp_path):
    "152 bytes declared, with the right checksum, and 60 MB behind them in the same stream."
    file = lying(tmp_path / "a.npz", "x.npy", npy(content=np.ones(2).tobytes()), 6 * 10**7)
    with zipfile.ZipFile(file) as archive: assert archive.infolist()[0].file_size < 200 and file.stat().st_size < 10**6
    back, peak = peak_memory(load_npz, file, ["x"], max_bytes=10**6)
    assert back["x"].tolist() == [1, 1] and peak < 5 * 10**6
    files, peak = peak_memory(unpack_zip, file, tmp_path / "new", max_bytes=10**6)
    assert [p.stat().st_size for p in files] == [len(npy())] and peak < 5 * 10**6


def test_names_of_arrays_may_differ_in_case_alone(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.ones(2), x=np.zeros(3))
    back = load_npz(tmp_path / "a.npz", ["X", "x"])
    assert back["X"].tolist() == [1, 1] and back["x"].tolist() == [0, 0, 0]


# --- zip

def entry(name, mode=0, system=3):
    info = zipfile.ZipInfo("x")
    info.filename = info.orig_filename = name
    info.create_system, info.external_attr = system, mode << 16
    return info


def everything(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_zip_unpacks(tmp_path):
    file = zipped(tmp_path / "a.zip", ("set/", ""), ("set/b/c.txt", "c" * 10**6), ("set/a.txt", "a"), ("é.txt", "e"))
    files = unpack_zip(file, tmp_path / "deep" / "data")
    assert [p.relative_to(tmp_path / "deep/data").as_posix() for p in files] == ["set/a.txt", "set/b/c.txt", "é.txt"]
    assert files[0].read_text() == "a" and files[1].stat().st_size == 10**6 and everything(tmp_path / "deep")[0] == "data" and len(list((tmp_path / "deep").iterdir())) == 1
    with pytest.raises(FileExistsError, match="not empty"): unpack_zip(file, tmp_path / "deep" / "data")
    (tmp_path / "empty").mkdir()
    assert len(unpack_zip(file, tmp_path / "empty")) == 3
    umask = os.umask(0); os.umask(umask)
    assert stat.S_IMODE((tmp_path / "empty").stat().st_mode) == 0o777 & ~umask
    with pytest.raises(FileNotFoundError): unpack_zip(tmp_path / "none.zip", tmp_path / "new")


BAD_NAMES = ["../canary", "a/../../canary", "a/..", "..", ".", "/canary", "//canary", "a//b", "./a", "C:/canary", "C:canary", "a:stream", "..\\canary", "\\canary", "a\\b", "a\0b", "a\nb", "\x7f", "a" * 300,
             "a/" * 600 + "b", "a.", "a ", " ", "../", "/", "NUL", "nul.txt", "a/CON", "con/a", "Aux.tar.gz", "prn", "COM1.png", "lpt9", "com\u00b9", "CONIN$", "NUL .txt",
             "a<b", "a>b", "a|b", "a?b", "a*b", 'a"b']


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_zip_names(tmp_path, name):
    (tmp_path / "data").mkdir()
    file = zipped(tmp_path / "data/a.zip", ("good.txt", "good"), (entry(name), "bad"))
    before = everything(tmp_path)
    assert "a.zip" in refused(unpack_zip, file, tmp_path / "data" / "new")
    assert everything(tmp_path) == before


@pytest.mark.parametrize("name", ["console.txt", "nulls", "a.con", "com", "com10", "auxiliary/lpt", "~", "$HOME", "a b.txt", ".hidden", "a,b;c'd!", "\u00e9\u4e2d"])
def test_zip_names_that_are_fine(tmp_path, name):
    assert [p.relative_to(tmp_path / "new").as_posix() for p in unpack_zip(zipped(tmp_path / "a.zip", (name, "x")), tmp_path / "new")] == [name]


def test_zip_targets(tmp_path, monkeypatch):
    file = zipped(tmp_path / "a.zip", ("a", "x"))
    for name in ("real", "here"): (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path / "here")
    before = everything(tmp_path)
    for target, why in ((tmp_path / "link", "is a link"), (tmp_path / "dangling", "is a link"), (file, "is a file"), (tmp_path, "is not empty"), (".", "working folder"),
                        (tmp_path / "here", "working folder"), (tmp_path / "new" / "..", "no name of its own")):
        with pytest.raises(FileExistsError, match=why) as e: unpack_zip(file, target)
        assert repr(str(target)) in str(e.value) and everything(tmp_path) == before
    for target in ("below", tmp_path / ("f" * 240), tmp_path / "real"): assert len(unpack_zip(file, target)) == 1
    assert (tmp_path / "here/below/a").read_text() == "x"
    with pytest.raises(IsADirectoryError): unpack_zip(tmp_path, "new")
    with pytest.raises(OSError, match="a.zip/new"): unpack_zip(file, file / "new")


def test_zip_on_a_full_disk(tmp_path, monkeypatch):
    "A limit on the size of files stands for the disk; then one that fails at the last step."
    file = zipped(tmp_path / "a.zip", ("small", "x"), ("set/big", bytes(10**6)))
    old, limit = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limit[1]))
    try:
        with pytest.raises(OSError, match="a.zip cannot be unpacked.*nothing was unpacked") as e: unpack_zip(file, tmp_path / "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, old)
    assert e.value.filename == str(tmp_path / "new") and e.value.errno and everything(tmp_path) == ["a.zip"]
    monkeypatch.setattr(type(tmp_path), "rename", lambda self, target: (_ for _ in ()).throw(PermissionError(13, "denied")))
    with pytest.raises(PermissionError, match="denied") as e: unpack_zip(file, tmp_path / "new")
    assert e.value.filename == str(tmp_path / "new") and everything(tmp_path) == ["a.zip"]


def test_zip_counts_folders_too(tmp_path):
    "Folders that are only parts of a name: 20 names, 8,000 folders."
    file = zipped(tmp_path / "a.zip", *((f"{i}/" + "a/" * 400 + "f", "") for i in range(20)))
    assert "at most 8,000 files and folders" in refused(unpack_zip, file, tmp_path / "new", max_files=8_000) and everything(tmp_path) == ["a.zip"]
    file = zipped(tmp_path / "a.zip", ("set/", ""), ("set/b/", ""), ("set/b/c", "x"), ("set/b/d", "x"), ("e/f", "x"))          # set, b, c, d, e, f
    assert "at most 5 files and folders" in refused(unpack_zip, file, tmp_path / "new", max_files=5) and everything(tmp_path) == ["a.zip"]
    assert len(unpack_zip(file, tmp_path / "new", max_files=6)) == 3


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
@pytest.mark.parametrize("system", [0, 3])
def test_zip_links(tmp_path, kind, system):
    (tmp_path / "outside").mkdir()
    file = zipped(tmp_path / "a.zip", (entry("way", kind | 0o777, system), str(tmp_path / "outside")), ("way/canary", "x"))
    before = everything(tmp_path)
    assert "link" in refused(unpack_zip, file, tmp_path / "new")
    assert everything(tmp_path) == before


def test_zip_bombs_and_damage(tmp_path):
    file = tmp_path / "a.zip"
    before = lambda: everything(tmp_path) == ["a.zip"]
    zipped(file, *((f"{i}", bytes(10**6)) for i in range(5)))
    assert "5,000,000 declared" in refused(unpack_zip, file, tmp_path / "new", max_bytes=4 * 10**6) and before()
    assert "at most 4 files" in refused(unpack_zip, file, tmp_path / "new", max_files=4) and before()
    for names in (("a", "a"), ("a", "A"), ("a", "a/"), ("a", "a/b"), ("a/b", "a")):
        assert "a.zip" in refused(unpack_zip, zipped(file, *((n, "x") for n in names)), tmp_path / "new") and before()
    good = zipped(file, ("a.txt", b"content" * 3), method=zipfile.ZIP_STORED).read_bytes()
    for bad in (good.replace(b"contentc", b"kontentc"), good[:-1], good[:40], b"", b"PK\5\6", good.replace(b"a.txt", b"b.txt", 1)):   # checksum, truncation, two names
        file.write_bytes(bad)
        assert "a.zip" in refused(unpack_zip, file, tmp_path / "new") and before()


def test_zip_that_declares_too_little(tmp_path):
    "The size in the directory says 10 bytes, the content unpacks to 10 MB: at most what was declared is ever written."
    file = zipped(tmp_path / "a.zip", ("a", bytes(10**7)))
    data = bytearray(file.read_bytes())
    for mark, offset in ((b"PK\1\2", 24), (b"PK\3\4", 22)):
        at = data.index(mark) + offset
        assert struct.unpack("<I", data[at:at + 4]) == (10**7,)
        data[at:at + 4] = struct.pack("<I", 10)
    file.write_bytes(data)
    assert "damaged" in refused(unpack_zip, file, tmp_path / "new", max_bytes=1000) and everything(tmp_path) == ["a.zip"]


def test_zip_encrypted(tmp_path):
    file = zipped(tmp_path / "a.zip", ("a", "x"))
    data = bytearray(file.read_bytes())
    for mark, offset in ((b"PK\1\2", 8), (b"PK\3\4", 6)): data[data.index(mark) + offset] |= 1
    file.write_bytes(data)
    assert "encrypted" in refused(unpack_zip, file, tmp_path / "new") and everything(tmp_path) == ["a.zip"]


def test_zip_changed_bytes(tmp_path):
    good = zipped(tmp_path / "a.zip", ("set/a.txt", "hello " * 20), ("set/b.txt", "b")).read_bytes()
    for at in range(len(good)):
        (tmp_path / "a.zip").write_bytes(good[:at] + bytes([good[at] ^ 0x41]) + good[at + 1:])
        try: unpack_zip(tmp_path / "a.zip", tmp_path / f"new{at}")
        except DataCorrupt: assert not (tmp_path / f"new{at}").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
