"The registry and model files."
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from mvnb import models
from mvnb.models import Model, ModelFileError, ViewSpec, create, evaluating, leading, load, load_tensors, model_class, save, seeded
from mvnb.views import MultiView


@pytest.fixture
def data(): return MultiView([torch.rand(6, 4), torch.rand(6, 4)], y=[0, 1, 2, 0, 1, 2])


def test_registry():
    assert "dualvae" in models.names() and model_class("dualvae").__name__ == "DualVAE"
    for f in (model_class, lambda n: create(n, ViewSpec(((4,),), ("a",), ()))):
        with pytest.raises(ValueError, match="choose one of: .*dualvae"): f("dualvea")

def test_create_refuses_unknown_settings_and_data(data):
    with pytest.raises(ValueError, match="dualvae setting='beta' is unknown; choose one of: variant"): create("dualvae", data, beta=1)
    with pytest.raises(TypeError, match="MultiView or ViewSpec, got list"): create("dualvae", [torch.zeros(3, 4)])
    with pytest.raises(ValueError, match="seed must be >= 0"): create("dualvae", data, seed=-1)

def test_weights_come_from_the_seed_alone(data):
    a = create("dualvae", data, seed=1)
    torch.manual_seed(99)
    b, c = create("dualvae", data, seed=1), create("dualvae", data, seed=2)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters())) and not torch.equal(next(a.parameters()), next(c.parameters()))

def test_seeded_restores_the_global_state():
    before = torch.random.get_rng_state()
    with pytest.raises(KeyError), seeded(0, "x"):
        torch.rand(3)
        raise KeyError
    assert torch.equal(before, torch.random.get_rng_state())

def test_evaluating_restores_every_flag():
    net = torch.nn.Sequential(torch.nn.BatchNorm1d(2).eval(), torch.nn.Linear(2, 2))
    with pytest.raises(KeyError), evaluating(net):
        assert not any(m.training for m in net.modules())
        raise KeyError
    assert [m.training for m in net.modules()] == [True, False, True]

def test_views_spec_and_leading(data):
    assert ViewSpec.of(data) == ViewSpec.of(ViewSpec.of(data)) == (((4,), (4,)), ("view 0", "view 1"), ("0", "1", "2"))
    assert leading(3) == (3,) and leading((2, 3)) == (2, 3)

def test_a_model_says_what_it_lacks(data):
    class Empty(Model): pass
    model = Empty(ViewSpec.of(data))
    with pytest.raises(TypeError, match=r"Empty must define losses"): model(data.batch(), {})
    with pytest.raises(TypeError, match=r"Empty must define embed"): model.embed(data)
    with pytest.raises(ValueError, match="setting='gamma' is unknown"): model.setting("gamma", 1.)

def test_over_rows_joins_pieces(data):
    model = create("dualvae", data)
    for size in (1, 4, 100): assert torch.equal(model.over_rows(data, lambda b: b.xs[0], size), data.xs[0])
    assert [t.shape for t in model.over_rows(data, lambda b: (b.xs[0], b.y), 4)] == [(6, 4), (6,)]
    assert model.embed(data[:0]).shape == (0, 10)

def test_files_that_cannot_be_used_are_named(data, tmp_path):
    model = create("dualvae", data, hidden=(8,))
    save(model, tmp_path / "m.pt")
    whole = (tmp_path / "m.pt").read_bytes()
    with pytest.raises(FileNotFoundError, match="none.pt"): load(tmp_path / "none.pt")
    for name, content in (("half.pt", whole[:len(whole) // 2]), ("empty.pt", b""), ("text.pt", b"hello")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelFileError, match=name): load(tmp_path / name)
    torch.save({"kind": "something else"}, tmp_path / "other.pt")
    with pytest.raises(ModelFileError, match="expected a file of kind 'mvnb model', found 'something else'"): load(tmp_path / "other.pt")
    content = load_tensors(tmp_path / "m.pt", "mvnb model")
    torch.save(content | {"config": content["config"] | {"settings": {"hidden": [9]}}}, tmp_path / "unfit.pt")
    with pytest.raises(ModelFileError, match="does not make a model"): load(tmp_path / "unfit.pt")
    for change, message in ((dict(format=99), "format 99"), (dict(views=None), "does not make"), (dict(config={"name": "gone", "seed": 0, "settings": {}}), "name='gone' is unknown")):
        torch.save(content | change, tmp_path / "x.pt")
        with pytest.raises(ModelFileError, match=message): load(tmp_path / "x.pt")
    del content["views"]
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ModelFileError, match="KeyError: 'views'"): load(tmp_path / "x.pt")

def test_numpy_settings_are_stored_as_plain_numbers(data, tmp_path):
    model = create("dualvae", data, seed=np.int64(3), c_dim=np.int64(4), hidden=range(8, 10), beta_c=np.float32(.5))
    save(model, tmp_path / "m.pt")
    assert load(tmp_path / "m.pt").config == {"name": "dualvae", "seed": 3, "settings": {"c_dim": 4, "hidden": [8, 9], "beta_c": .5}}
    with pytest.raises(TypeError, match="hidden must be a number"): create("dualvae", data, hidden=object())

def test_views_in_another_order_are_refused(data):
    model = create("dualvae", data)
    with pytest.raises(ValueError, match="in the order"): model.embed(data.select([1, 0]))

def test_other_floating_types_are_cast(data):
    model = create("dualvae", data)
    for dtype in (torch.float64, torch.float16):
        torch.testing.assert_close(model.embed(data.replace(xs=[x.to(dtype) for x in data.xs])), model.embed(data), rtol=1e-2, atol=1e-2)

def test_threads_do_not_disturb_each_others_weights(data):
    want = [create("dualvae", data, seed=s, hidden=(128, 128)).state_dict() for s in range(8)]
    with ThreadPoolExecutor(8) as pool: have = list(pool.map(lambda s: create("dualvae", data, seed=s, hidden=(128, 128)).state_dict(), [0, 1, 2, 3, 4, 5, 6, 7] * 3))
    for i, state in enumerate(have): assert all(torch.equal(a, b) for a, b in zip(state.values(), want[i % 8].values())), i

class Hostile:
    def __init__(self, path): self.path = path
    def __reduce__(self): return (os.mkdir, (str(self.path),))

def test_a_hostile_file_is_refused_and_nothing_runs(tmp_path):
    torch.save({"kind": "mvnb model", "state": Hostile(tmp_path / "executed")}, tmp_path / "bad.pt")
    with pytest.raises(ModelFileError, match="bad.pt"): load(tmp_path / "bad.pt")
    assert not (tmp_path / "executed").exists()

def test_a_loaded_model_is_in_eval_mode_and_complete(data, tmp_path):
    model = create("dualvae", data, seed=4, hidden=(8,), variant="mvnb")
    save(model, tmp_path / "m.pt")
    again = load(tmp_path / "m.pt")
    assert not again.training and again.config == model.config and torch.equal(again.prior_s, torch.tensor(1.)) and torch.equal(again.embed(data), model.embed(data))
