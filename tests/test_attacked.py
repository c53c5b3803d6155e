"Tables of attacked methods: halves and classes, settings that fit every method, rows that are kept and only read back for the same numbers, verdicts."
import copy
import json

import numpy as np
import pandas as pd
import pytest
import torch

import mvnb.attacked as attacked
from mvnb import models
from mvnb.attack import Target, attack_table
from mvnb.attacked import Claims, Pixels, clusterings, load_half, of_classes, ours, per_seed, score_attacks, settings_for, spread, train_method, verdict, worst_case
from mvnb.base import generator
from mvnb.evaluate import raw_features
from mvnb.models import ViewSpec
from mvnb.views import MultiView


def data(n=24, seed=0):
    g = generator(seed, "attacked data")
    y = torch.arange(n) % 3
    return MultiView([(torch.rand(n, 6, generator=g) * .6 + .2 * y[:, None]).clamp(0, 1) for _ in range(2)], y=y, classes="abc")


def comvc(mv, seed=0): return models.create("comvc", mv, hidden=(8,), head=6, seed=seed).eval()


small = dict(net="mlp", hidden=(8,), steps=2, warm=3)


# Halves

def test_a_half_is_cut_pooled_and_mirrored():
    whole, pooled = load_half("digits", "test", rows=30), load_half("digits", "test", rows=30, pool=2)
    assert len(whole) == 30 and whole.shapes == ((1, 28, 28),) * 2 and pooled.shapes == ((1, 14, 14),) * 2
    for x, p in zip(whole.xs, pooled.xs): np.testing.assert_allclose(p.numpy(), x.numpy().reshape(30, 1, 14, 2, 14, 2).mean((3, 5)), atol=1e-6)
    mirrored = load_half("mirrored", "test", rows=30)
    for x, m in zip(whole.xs, mirrored.xs): assert np.array_equal(m.numpy(), x.numpy()[..., ::-1])
    assert torch.equal(mirrored.y, whole.y)


def test_no_image_is_in_both_halves():
    a, b = (load_half("digits", split) for split in ("train", "test"))
    assert len(a) + len(b) == 1797 and not {x.tobytes() for x in a.xs[1].numpy()} & {x.tobytes() for x in b.xs[1].numpy()}


def test_classes_are_renumbered_in_the_order_given():
    mv = data().replace(y=torch.tensor([0, 1, 2, -1] * 6), classes="abc")
    kept = of_classes(mv, [2, 0])
    rows = [i for i, c in enumerate(mv.y.tolist()) if c in (0, 2)]
    assert kept.classes == ("c", "a") and kept.y.tolist() == [{2: 0, 0: 1}[mv.y[i].item()] for i in rows]
    assert torch.equal(kept.xs[0], mv.xs[0][rows])


@pytest.mark.parametrize("call, message", [
    (lambda: load_half("mnist", "test"), "name='mnist' is unknown"), (lambda: load_half("digits", "all"), "split='all' is unknown"), (lambda: load_half("digits", "test", pool=0), "pool must be"),
    (lambda: of_classes(data(), [3]), "classes=3 is unknown"), (lambda: of_classes(data(), [1, 1]), "different classes"), (lambda: of_classes(data(), []), "different classes"),
    (lambda: of_classes(MultiView([torch.rand(4, 2)]), [0]), "classes=0 is unknown"), (lambda: settings_for("KMeans"), "method='KMeans' is unknown")])
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message): call()


# Methods

@pytest.mark.parametrize("method", clusterings)
@pytest.mark.parametrize("variant", ["paper", "authors"])
def test_every_method_takes_its_settings(method, variant):
    settings = settings_for(method, variant=variant, **small)
    model = models.create(clusterings[method], data(), **settings)
    assert settings.get("variant") in (None, "mvnb" if method in ours else variant)
    if method.startswith("AR"):
        assert model.steps == 2 and float(model.step) == pytest.approx(.1)
        assert float(model.warm) == (3 if method in ours else 0) and model.attack == ("assignment" if method in ours else "contrastive")


def test_phases_are_given_to_those_that_have_them():
    assert settings_for("AECoDDC", **small)["pretrain"] == settings_for("InfoDDC", **small)["pretrain"] == 3
    assert "pretrain" not in settings_for("CoMVC", **small)


@pytest.mark.parametrize("method", ["CoMVC", "SEM"])
def test_seeds_of_a_method_train_together_and_are_repeatable(method):
    settings = settings_for(method, net="mlp", hidden=(8,))
    once, again = (train_method(method, data(), 4, settings=settings, seeds=[0, 1], batch_size=12, device="cpu", progress=False) for _ in range(2))
    assert len(once.models) == 2
    for a, b in zip(once.models, again.models): assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))
    assert any(not torch.equal(x, y) for x, y in zip(once.models[0].state_dict().values(), once.models[1].state_dict().values()))


def test_pixels_are_a_model_that_learnt_nothing():
    mv = data()
    holes = mv.present.clone()
    holes[:5, 0] = False
    mv = mv.replace(present=holes)
    model = Pixels(ViewSpec.of(mv))
    assert torch.equal(model.embed(mv), raw_features(mv)) and not list(model.parameters())
    target = Target(model, data())
    moved = attack_table(target, data(), ("sign", "assignment", "gan"), eps=.3, options={"gan": {"epochs": 1}})
    assert moved.set_index("attack")["fixed"]["assignment"] <= moved.acc_clean[0]


# Attacks on many models

def test_scores_are_those_of_the_attacks_one_by_one():
    train, test = data(), data(seed=1)
    trained = {"a": [comvc(train), comvc(train, 1)], "b": [None, comvc(train, 2)], "pixels": [Pixels(ViewSpec.of(train))]}
    table = score_attacks(trained, train, test, ["sign", "universal"], [.1, .2], options={"universal": {"steps": 3}})
    assert table[["method", "seed"]].drop_duplicates().to_numpy().tolist() == [["a", 0], ["a", 1], ["b", 1], ["pixels", 0]]
    for (m, seed), t in table.groupby(["method", "seed"]):
        alone = attack_table(Target(trained[m][seed], train, seed=seed), test, ("sign", "universal"), [.1, .2], {"universal": {"steps": 3}}, seed=seed, learn=train)
        pd.testing.assert_frame_equal(t.drop(columns=["method", "seed"]).reset_index(drop=True), alone)


def test_models_stay_as_they_were():
    train = data()
    model = comvc(train).train()
    before = copy.deepcopy(model.state_dict())
    score_attacks({"a": [model]}, train, train, ["gan", "assignment"], [.1], options={"gan": {"epochs": 1}})
    assert model.training and all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values()))


def test_finished_rows_are_read_back_and_only_for_the_same_numbers(tmp_path, monkeypatch):
    train, test, calls = data(), data(seed=1), []
    plain = attacked.attack
    monkeypatch.setattr(attacked, "attack", lambda *args, **kw: calls.append(args[2]) or plain(*args, **kw))
    model, options = comvc(train), {"universal": {"steps": 2}}
    def table(**changes): return score_attacks(**(dict(models={"a": [model]}, fitted=train, test=test, attacks=["sign", "universal"], eps=[.1], options=options, out=tmp_path) | changes))
    first = table()
    assert calls == ["sign", "universal"]
    pd.testing.assert_frame_equal(table(), first)
    pd.testing.assert_frame_equal(table(models={"another name": [model]}).assign(method="a"), first)
    assert len(calls) == 2
    assert len(table(eps=[.1, .2])) == 4 and len(calls) == 4  # the rows of the new radius alone
    for changes in (dict(options={"universal": {"steps": 3}}), dict(test=data(seed=2)), dict(fitted=data(seed=3)), dict(learn=test), dict(models={"a": [comvc(train, 7)]}), dict(models={"a": [None, model]})):
        before = len(calls)
        table(**changes)
        assert len(calls) > before, changes


def test_a_stopped_table_goes_on(tmp_path, monkeypatch):
    train, model, plain, calls = data(), comvc(data()), attacked.attack, []
    def stop(target, mv, name, **kw):
        calls.append(name)
        if name == "universal" and len(calls) < 3: raise KeyboardInterrupt
        return plain(target, mv, name, **kw)
    monkeypatch.setattr(attacked, "attack", stop)
    with pytest.raises(KeyboardInterrupt): score_attacks({"a": [model]}, train, train, ["sign", "universal"], [.1], out=tmp_path)
    file, = tmp_path.glob("*.json")
    assert len(json.loads(file.read_text())) == 1
    assert len(score_attacks({"a": [model]}, train, train, ["sign", "universal"], [.1], out=tmp_path)) == 2 and calls == ["sign", "universal", "universal"]


def test_every_device_gives_the_same_scores(device):
    train = data()
    a, b = (score_attacks({"a": [comvc(train)]}, train, train, ["sign", "assignment"], [.1], device=d) for d in ("cpu", device))
    assert np.abs(a.drop(columns=["method", "attack", "note"]) - b.drop(columns=["method", "attack", "note"])).max().max() < .1


@pytest.mark.parametrize("wrong", [dict(models={"a": [None]}), dict(models={}), dict(attacks=[]), dict(eps=[])])
def test_an_empty_table_is_refused(wrong):
    mv = data()
    with pytest.raises(ValueError, match="must each hold at least one"): score_attacks(**(dict(models={"a": [comvc(mv)]}, fitted=mv, test=mv, attacks=["sign"], eps=[.1]) | wrong))


def test_cells_and_worst_cases_by_hand():
    rows = [dict(method=m, seed=seed, attack=a, eps=e, acc_clean=.9 + .01 * seed, fixed=value) for m, seed, a, e, value in
            [("a", 0, "sign", .1, .1), ("a", 0, "gan", .1, .5), ("a", 0, "assignment", .1, .4), ("a", 1, "gan", .1, .3), ("a", 1, "assignment", .1, .6), ("a", 0, "gan", .2, .05), ("b", 0, "gan", .1, .01)]]
    scores = pd.DataFrame(rows)
    assert per_seed(scores, "a", "fixed", "gan", .1).to_dict() == {0: .5, 1: .3} and per_seed(scores, "a", "acc_clean").to_dict() == {0: .9, 1: .91}
    assert worst_case(scores, "a", .1).to_dict() == {0: .4, 1: .3}  # the noise is a floor, no attack
    assert not len(per_seed(scores, "a", "fixed", "gan", .3)) and not len(worst_case(scores, "c", .1)) and not len(worst_case(scores[scores.attack == "sign"], "a", .1))


# Verdicts

@pytest.mark.parametrize("d, said", [([.1] * 5, "holds"), ([-.1] * 5, "reversed"), ([0.] * 5, "within the spread"), ([.1, .1, .1, .1, -.01], "holds"), ([.1, .1, .1, -.01, -.01], "within the spread"),
                                     ([1., .01, .01, .01, -.9], "within the spread"), ([.1] * 4, "not testable here (4 seeds)"), ([.1], "not testable here (1 seed)"), ([.1] * 4 + [float("nan")], "not testable here (4 seeds)")])
def test_verdicts(d, said):
    assert verdict(pd.Series(d)) == said
    assert verdict(pd.Series(d), ours=False) == said.replace("holds", "reproduced")


def test_claims_are_recorded_and_the_papers_need_its_data():
    seen = []
    def record(name, values, **keys): seen.append((name, values, keys))
    for testable, expected in ((True, "reproduced"), (False, "not testable here (other data)")):
        claims = Claims(record, testable=testable)
        claims.judge("it falls", "eps .1", pd.Series([.2] * 5))
        claims.judge("ours holds", "eps .1", pd.Series([.2] * 5), ours=True)
        claims.judge("few", "eps .1", pd.Series([.2] * 2))
        claims.judge("nothing to compare", "eps .1", pd.Series([float("nan")]))
        assert claims.table().verdict.tolist() == [expected, "holds", "not testable here (2 seeds)"] and claims.table().whose.tolist() == ["paper", "ours", "paper"]
        assert claims.table().agree[0] == "5 of 5" and claims.table().difference[0] == "0.20 ± 0.00"
    assert len(seen) == 6 and seen[0] == ("claim", [.2] * 5, {"claim": "it falls", "where": "eps .1", "verdict": "reproduced"})
    assert list(Claims(record).table().columns) == ["claim", "whose", "where", "difference", "agree", "verdict"]


def test_a_cell_is_mean_spread_and_the_printed_value():
    assert spread(pd.Series([.1, .3])) == "0.20 ± 0.14" and spread([.5], .25) == "0.50 [0.25]" and spread([]) == "" and spread([float("nan")]) == ""
