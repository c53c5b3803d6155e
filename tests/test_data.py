"Registry, file search, idx reader and the two image sets."
import gzip
import http.server
import inspect
import os
import struct
import subprocess
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

import mvnb.data as data
from mvnb.data import (DataCorrupt, DataNotAvailable, DataSet, File, cached_arrays, data_dirs, find_files, find_folder, info, load, names, register,
                       stratified_rows)
from mvnb.data.images import edge_image, load_digits, read_idx

REAL = os.environ.get("MVNB_DATA", "")


def idx(x, code=8):
    x = np.asarray(x)
    return bytes([0, 0, code, x.ndim]) + struct.pack(f">{x.ndim}I", *x.shape) + x.tobytes()


# --- registry

def test_registry_is_lazy():
    code = ("import sys, mvnb.data as d; assert d.names(); assert not [m for m in sys.modules if m.startswith('mvnb.data.')]; "
            "d.load('digits'); assert 'mvnb.data.images' in sys.modules and 'mvnb.data.mocap' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", names())
def test_every_entry_is_complete(name):
    entry = info(name)
    assert entry.name == name and entry.title and entry.licence and entry.source and entry.size and entry.used_by
    assert callable(data._named(entry.loader)) and (not entry.check or callable(data._named(entry.check)))
    assert all(f.path.count("/") >= 1 and (not f.checksum or f.checksum.count(":") == 1) for f in entry.files)
    assert bool(entry.access) == entry.licence.startswith("gated")
    if entry.access: assert entry.folder and entry.layout and not entry.archive and not any(f.url for f in entry.files)   # nothing gated is ever downloaded
    if entry.folder: assert entry.layout and entry.check
    if any(not f.checksum for f in entry.files): assert entry.check                                                      # no checksum: read it strictly
    options = inspect.signature(data._named(entry.loader)).parameters
    assert all(p.default is not p.empty for p in options.values()) and {"seed"} & set(options) or name == "mocap"


def test_every_set_of_the_issue_is_there():
    wanted = ("mnist fashion e-mnist polymnist coil-20 coil-100 noisymnist noisyfashion patchedmnist regdb seed deap bars mocap cvl mfeat coil-poses "
              "umist-poses emotion-sim regdb-sim digits")
    assert set(wanted.split()) == set(names())
    with pytest.raises(AttributeError): info("digits").title = "mine"


def test_unknown_names_and_options():
    with pytest.raises(ValueError, match="digits, mnist"): load("mnits")
    with pytest.raises(ValueError, match="digits, mnist"): info("mnits")
    with pytest.raises(TypeError, match="'sizes'.*split, size, n, seed"): load("e-mnist", sizes=3)
    with pytest.raises(TypeError, match="verify"): load("e-mnist", verify=False)      # checksums cannot be switched off by accident


def test_register(monkeypatch):
    monkeypatch.setattr(data, "_REGISTRY", dict(data._REGISTRY))
    register(DataSet("mine", "t", "mvnb.data.images:load_digits", "s", "l", "s"))
    assert names()[-1] == "mine" and len(load("mine", split="test")) == 359
    with pytest.raises(ValueError, match="taken"): register(info("mine"))
    with pytest.raises(ValueError, match="loader must be 'module:function'"): register(DataSet("bad", "t", "nowhere", "s", "l", "s"))
    with pytest.raises(ValueError, match="check must be 'module:function'"): register(DataSet("bad", "t", "a:b", "s", "l", "s", check="c"))
    with pytest.raises(TypeError, match="DataSet"): register("mine")


# --- files

HELLO = "md5:5d41402abc4b2a76b9719d911017c592"


@pytest.fixture
def server(tmp_path):
    "A web server on this machine, and the paths that it was asked for."
    asked, folder = [], tmp_path / "web"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs): super().__init__(*args, directory=str(folder), **kwargs)
        def log_message(self, *args): asked.append(self.path)
        def do_GET(self):
            if self.path != "/cut": return super().do_GET()
            asked.append(self.path)
            self.send_response(200); self.send_header("Content-Length", "5000"); self.end_headers(); self.wfile.write(b"hel")
    it = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=it.serve_forever, daemon=True).start()
    yield folder, asked, f"http://127.0.0.1:{it.server_port}"
    it.shutdown(); it.server_close()


@pytest.fixture
def registry(monkeypatch):
    "May be written to."
    monkeypatch.setattr(data, "_REGISTRY", dict(data._REGISTRY))


def entry(files=(), **more): return register(DataSet("mine", "t", "mvnb.views:MultiView", "s", "l", "example.org", files=files, **more))


def test_search_order(home, monkeypatch, registry):
    assert data_dirs("a") == [home / "data/a", home / "cache/mvnb/a"] and data.cache_dir() == home / "cache/mvnb"
    entry((File("a/f"),), folder="a", layout="x")
    for place in ("cache/mvnb/a", "data/a"):
        (home / place).mkdir(parents=True)
        (home / place / "f").write_text(place)
        assert find_files("mine")[0].read_text() == place and find_folder("mine") == home / place
    monkeypatch.delenv("MVNB_DATA")
    assert find_files("mine")[0].read_text() == "cache/mvnb/a"
    monkeypatch.delenv("XDG_CACHE_HOME"); monkeypatch.setenv("HOME", str(home))
    assert data_dirs("a") == [home / ".cache/mvnb/a"]
    with pytest.raises(ValueError, match="fits no file.*has: f"): find_files("mine", "g*")


def test_not_available(home, monkeypatch):
    with pytest.raises(DataNotAvailable) as e: load("e-mnist")
    for part in (str(home / "data/mnist"), str(home / "cache/mvnb/mnist"), "train-images-idx3-ubyte.gz", "yann.lecun.com", "put it into", "MVNB_OFFLINE"): assert part in str(e.value)
    assert isinstance(e.value, FileNotFoundError)
    monkeypatch.delenv("MVNB_DATA")
    with pytest.raises(DataNotAvailable, match="MVNB_DATA is not set.*MVNB_DATA=<data>"): find_files("mnist")


@pytest.mark.parametrize("name", ["seed", "deap", "regdb", "cvl"])
def test_gated_sets_say_how(home, name):
    for action in (load, find_folder, data.fetch):
        with pytest.raises(DataNotAvailable) as e: action(name)
        for part in (info(name).source, info(name).access, info(name).layout, str(home / "data" / name)): assert part in str(e.value)


def test_wrong_checksum(home, registry):
    (home / "data/a").mkdir(parents=True); (home / "data/a/f").write_bytes(b"hello")
    entry((File("a/f", HELLO),)); assert find_files("mine")
    data._REGISTRY.pop("mine"); entry((File("a/f", "sha1:" + "0" * 40, "http://127.0.0.1:9/f"),))
    with pytest.raises(DataCorrupt) as e: find_files("mine")
    for part in (str(home / "data/a/f"), "0" * 40, "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d", "example.org", "again", "mvnb data fetch mine"): assert part in str(e.value)
    assert isinstance(e.value, ValueError) and (home / "data/a/f").read_bytes() == b"hello"                            # never touched


def test_download(home, registry, server, monkeypatch):
    folder, asked, url = server
    (folder / "f").write_bytes(b"hello")
    entry((File("a/f", HELLO, f"{url}/f"),))
    with pytest.raises(DataNotAvailable, match="MVNB_OFFLINE"): find_files("mine")
    assert not asked
    monkeypatch.setenv("MVNB_OFFLINE", "0")
    assert data.fetch("mine") == data.Check("mine", "ok", "1 files equal the published checksums")
    path, = find_files("mine")
    assert path == home / "cache/mvnb/a/f" and path.read_bytes() == b"hello" and asked == ["/f"]                        # once
    assert path.stat().st_mode & 0o444 == 0o444 and not list((home / "cache/mvnb").glob(".*"))
    path.write_bytes(b"hallo")
    with pytest.raises(DataCorrupt, match="mvnb data fetch"): find_files("mine")
    assert asked == ["/f"] and path.read_bytes() == b"hallo"                                                            # not again behind your back


@pytest.mark.parametrize("name, error, text", [("bad", DataCorrupt, "nothing was kept"), ("none", DataNotAvailable, "404"), ("cut", (DataNotAvailable, DataCorrupt), "cut")])
def test_bad_downloads_leave_nothing(home, registry, server, monkeypatch, name, error, text):
    folder, asked, url = server
    (folder / "bad").write_bytes(b"hell")
    entry((File(f"a/{name}", HELLO, f"{url}/{name}"),))
    monkeypatch.setenv("MVNB_OFFLINE", "")
    with pytest.raises(error, match=text): find_files("mine")
    assert asked and not [p for p in (home / "cache").rglob("*") if p.is_file()]


def test_cut_download_without_checksum(home, registry, server, monkeypatch):
    entry((File("a/cut", "", f"{server[2]}/cut"),))
    monkeypatch.setenv("MVNB_OFFLINE", "")
    with pytest.raises(DataNotAvailable, match="could not be downloaded"): find_files("mine")
    assert not [p for p in (home / "cache").rglob("*") if p.is_file()]


def test_no_network(home, registry, monkeypatch):
    entry((File("a/f", HELLO, "http://127.0.0.1:9/f"),))
    monkeypatch.setenv("MVNB_OFFLINE", "")
    with pytest.raises(DataNotAvailable, match="could not be downloaded.*example.org"): find_files("mine")


def good(): return f"{len(list(find_folder('mine').iterdir()))} files"


def strict():
    "No web page passes for data."
    for path in find_folder("mine").iterdir():
        if path.read_bytes().startswith(b"<html>"): raise DataCorrupt(f"{path} is a web page")
    return "no web pages"


def slow():
    "Says when it has begun, and waits."
    folder = find_folder("mine")
    print("checking", flush=True)
    time.sleep(3)
    return good() if folder.name == "many" else ""


@pytest.mark.parametrize("page", [b"data", b"<html>maintenance</html>"])
def test_files_without_checksum_are_on_trial_first(home, registry, server, monkeypatch, page):
    folder, asked, url = server
    for f in "ab": (folder / f).write_bytes(page)
    entry(tuple(File(f"many/{f}", "", f"{url}/{f}") for f in "ab"), folder="many", layout="a, b", check=f"{__name__}:strict")
    monkeypatch.setenv("MVNB_OFFLINE", "")
    if page == b"data":
        assert data.fetch("mine") == data.Check("mine", "ok", "no web pages") and len(find_files("mine")) == 2 and asked == ["/a", "/b"]
    else:
        for action in (data.fetch, find_files, find_folder):
            with pytest.raises(DataCorrupt, match="web page"): action("mine")
    assert (home / "cache/mvnb/many").exists() == (page == b"data") and not list((home / "cache/mvnb").glob(".*"))


@pytest.mark.parametrize("check", ["good", "refuse"])
def test_archives(home, registry, server, monkeypatch, check):
    folder, asked, url = server
    with zipfile.ZipFile(folder / "all.zip", "w") as z: z.writestr("a.png", b"a"); z.writestr("b.png", b"b")
    entry(folder="many", layout="*.png", archive=f"{url}/all.zip", check=f"{__name__}:{check}")
    with pytest.raises(DataNotAvailable, match="all.zip"): data.fetch("mine")                                           # MVNB_OFFLINE
    assert not asked
    monkeypatch.setenv("MVNB_OFFLINE", "")
    if check == "refuse":
        with pytest.raises(DataCorrupt, match="b.png"): find_folder("mine")
        assert not [p for p in (home / "cache").rglob("*") if p.is_file()]
    else:
        assert find_folder("mine") == home / "cache/mvnb/many" and sorted(p.name for p in find_folder("mine").iterdir()) == ["a.png", "b.png"]
        assert asked == ["/all.zip"] and data.fetch("mine") == data.check("mine") == data.Check("mine", "ok", "2 files") and asked == ["/all.zip"]


def refuse():
    find_folder("mine")
    raise DataCorrupt("b.png is damaged")


def test_hostile_archive(home, registry, server, monkeypatch):
    folder, asked, url = server
    with zipfile.ZipFile(folder / "all.zip", "w") as z: z.writestr("../../escaped", b"a")
    entry(folder="many", layout="*.png", archive=f"{url}/all.zip", check=f"{__name__}:good")
    monkeypatch.setenv("MVNB_OFFLINE", "")
    with pytest.raises(DataCorrupt, match="escaped"): data.fetch("mine")
    assert not list(home.rglob("*escaped")) and not (home / "cache/mvnb/many").exists()


@pytest.mark.slow
def test_archives_are_seen_whole_or_not_at_all(home, server):
    "One process is killed while it reads what it has unpacked; two others fetch the same archive at once."
    folder, asked, url = server
    with zipfile.ZipFile(folder / "all.zip", "w") as z: z.writestr("a.png", b"a"); z.writestr("b.png", b"b")
    code = (f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_data as t; from mvnb import data\n"
            f"t.entry(folder='many', layout='x', archive='{url}/all.zip', check='test_data:slow')\nprint(data.fetch('mine').text)")
    def start(): return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"MVNB_OFFLINE": ""})
    first = start()
    assert first.stdout.readline() == "checking\n"
    assert not (home / "cache/mvnb/many").exists()
    first.kill(); first.wait()
    assert not (home / "cache/mvnb/many").exists()
    both = [start(), start()]
    outs = [p.communicate(timeout=60) for p in both]
    assert [p.returncode for p in both] == [0, 0] and all(out.endswith("2 files\n") for out, _ in outs), outs
    assert asked.count("/all.zip") == 3


def test_partly_present_folders(home, registry):
    entry((File("many/a"), File("many/b")), folder="many", layout="a, b", check=f"{__name__}:good")
    (home / "data/many").mkdir(parents=True)
    with pytest.raises(DataNotAvailable): find_folder("mine")                                                           # an empty folder is none
    (home / "data/many/a").touch(); (home / "cache/mvnb/many").mkdir(parents=True)
    assert find_folder("mine") == home / "data/many"                                                                    # the best there is
    for f in "ab": (home / "cache/mvnb/many" / f).touch()
    assert find_folder("mine") == home / "cache/mvnb/many"                                                              # the first that is whole


def test_check(home):
    assert data.check("digits").state == "built in" and data.check("mnist").state == "missing" and "yann.lecun.com" in data.check("mnist").text
    (home / "data/mnist").mkdir(parents=True)
    (home / "data" / info("mnist").files[3].path).write_bytes(b"x")                                                     # a damaged file among missing ones
    assert data.check("mnist").state == "corrupt" and data.check("e-mnist").state == "corrupt"
    with pytest.raises(ValueError, match="unknown"): data.check("mnits")
    with pytest.raises(DataCorrupt, match="t10k-labels"): data.fetch("mnist")


def test_check_downloads_nothing_in_any_thread(home, registry, server, monkeypatch):
    folder, asked, url = server
    (folder / "f").write_bytes(b"hello")
    entry((File("a/f", HELLO, f"{url}/f"),))
    monkeypatch.setenv("MVNB_OFFLINE", "")
    with ThreadPoolExecutor(4) as pool: assert {c.state for c in pool.map(data.check, ["mine"] * 20)} == {"missing"}
    assert not asked and not data.offline() and data.fetch("mine").state == "ok" and asked == ["/f"]


def test_check_survives_what_cannot_be_read(home, monkeypatch):
    def deny(*args): raise PermissionError(13, "Permission denied", "somewhere")
    (home / "data/mnist").mkdir(parents=True); (home / "data" / info("mnist").files[0].path).write_bytes(b"x")
    monkeypatch.setattr(data, "file_hash", deny)
    assert data.check("mnist").state == "corrupt" and "Permission denied" in data.check("mnist").text


def test_environment_that_names_no_folder(home, monkeypatch):
    monkeypatch.setenv("MVNB_DATA", "~nobody-of-that-name/x")
    with pytest.raises(ValueError, match="MVNB_DATA must name a folder"): find_files("mnist")
    monkeypatch.delenv("MVNB_DATA")
    (home / "cache").write_text("a file")
    with pytest.raises(OSError, match="set XDG_CACHE_HOME"): cached_arrays("set", {}, lambda: pytest.fail("built before it was known that it can be kept"))


# --- arrays built once

def test_cached_arrays(home):
    calls = []
    def build(): calls.append(1); return dict(x=np.arange(6, dtype=np.uint8).reshape(2, 3), y=np.array([.5], np.float32))
    a, b, c = (cached_arrays("set", dict(seed=s, size=3), build) for s in (0, 0, 1))
    assert len(calls) == 2 and all(np.array_equal(a[f], b[f]) and a[f].dtype == b[f].dtype for f in ("x", "y"))
    a["x"][:] = 9
    assert cached_arrays("set", dict(size=3, seed=0), build)["x"].max() == 5 and torch.from_numpy(a["x"]).sum() == 54 and len(calls) == 2
    assert not list((home / "cache/mvnb/generated").glob(".*"))
    with pytest.raises(ValueError, match="name must"): cached_arrays("../x", {}, build)


@pytest.mark.parametrize("damage", ["cut", "empty", "longer", "gone", "other", "index", "[]", "null", '{"bytes": {}}', '{"bytes": 3}', '{"bytes": null}'])
def test_damaged_cache(home, damage):
    def build(): return dict(x=np.arange(1000))
    cached_arrays("set", {}, build)
    folder, = (home / "cache/mvnb/generated").iterdir()
    if damage == "empty": (folder / "x.npy").write_bytes(b"")
    if damage == "longer": (folder / "x.npy").open("ab").write(b"x")
    if damage == "cut": (folder / "x.npy").write_bytes((folder / "x.npy").read_bytes()[:-8])
    if damage == "gone": (folder / "x.npy").unlink()
    if damage == "other": np.save(folder / "x.npy", np.arange(999))
    if damage == "index": (folder / "content.json").write_text("{")
    if damage[0] in "[n{": (folder / "content.json").write_text(damage)
    with pytest.raises(DataCorrupt, match="delete it") as e: cached_arrays("set", {}, build)
    assert str(folder) in str(e.value)


def test_a_failed_build_leaves_nothing(home):
    def interrupted(): raise KeyboardInterrupt
    class Full:
        shape, dtype = (1,), np.dtype("f4")
        def __array__(self, *args, **kwargs): raise OSError("No space left on device")
    with pytest.raises(KeyboardInterrupt): cached_arrays("set", {}, interrupted)
    with pytest.raises(OSError, match="No space"): cached_arrays("set", {}, lambda: dict(x=Full()))
    assert not list((home / "cache").rglob("*.npy")) and not list((home / "cache/mvnb/generated").iterdir())
    with pytest.raises(ValueError, match="name its arrays"): cached_arrays("set", {}, lambda: {"../../evil": np.ones(2)})
    with pytest.raises(ValueError): cached_arrays("set", dict(x=float("nan")), lambda: {})
    stale = home / "cache/mvnb/generated/.build-old"; stale.mkdir(); os.utime(stale, (0, 0))
    young = home / "cache/mvnb/generated/.build-new"; young.mkdir()
    assert cached_arrays("set", {}, lambda: dict(x=np.ones(2)))["x"].sum() == 2 and not stale.exists() and young.exists()


def test_two_processes_build_the_same_set(home):
    code = """
import os, sys, time, numpy as np
from mvnb.data import cached_arrays
def build():
    print("built", flush=True)
    open(f"{os.environ['XDG_CACHE_HOME']}.{os.getpid()}", "w").close()
    while len([f for f in os.listdir(os.path.dirname(os.environ["XDG_CACHE_HOME"])) if f.startswith("cache.")]) < 2: time.sleep(.01)   # both are in here at once
    return {f"x{i}": np.full((200, 1000), i) for i in range(5)}
sys.stdin.readline()
arrays = cached_arrays("set", dict(a=1), build)
assert all((arrays[f"x{i}"] == i).all() for i in range(5))
"""
    both = [subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for p in both: p.stdin.write("\n"); p.stdin.flush()
    outs = [p.communicate(timeout=60)[0] for p in both]
    assert [p.returncode for p in both] == [0, 0] and outs == ["built\n"] * 2
    folder, = (home / "cache/mvnb/generated").iterdir()
    assert sorted(p.name for p in folder.iterdir()) == ["content.json", *(f"x{i}.npy" for i in range(5))]


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
PACKED = gzip.compress(GOOD, mtime=0)        # no time inside: the tests' names are the same in every process


@pytest.mark.parametrize("content, text", [
    (b"", "not an idx file.*nothing"), (b"\0\0\x08", "not an idx"), (b"\x01" + GOOD[1:], "not an idx"), (b"\0\0\x0a" + GOOD[3:], "not an idx"),
    (b"\0\0\x08\0", "dimensions >= 1"), (GOOD[:9], "truncated: expected a header of 12"), (GOOD[:-1], "expected 112 bytes.*found 111"),
    (GOOD + b"x", "expected 112 bytes.*found 113"), (PACKED[:40], "gzip"), (PACKED[:-4], "gzip"),
    (PACKED[:20] + b"garbage" * 9, "gzip"), (b"<html>404</html>", "3c 68 74 6d"), (gzip.compress(GOOD[:-5], mtime=0), "found 107"),
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
@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in names() if info(n).files or info(n).folder])
def test_real_files(name, tmp_path, monkeypatch):
    "What is there is what it should be, and loads."
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = data.check(name)
    assert found.state in ("ok", "missing"), found
    if found.state == "missing": pytest.skip(f"{name} is not in MVNB_DATA")
    mv = load(name, **{"n": 40} if "n" in inspect.signature(data._named(info(name).loader)).parameters else {})
    assert mv.present.all() and len(mv) >= 20
