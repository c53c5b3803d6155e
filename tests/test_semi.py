"Protocols and scores of semi-supervised learning with missing views."
import pytest
import torch
from test_smvae import toy

from mvnb.semi import (Problem, accuracy, blinded, choose_runs, fit_problems, imputation_error, interval_coverage, joined, load_parts, problem, standardised)
from mvnb.views import MultiView


@pytest.fixture
def parts():
    whole = toy(300)
    return whole[:200], whole[200:250], whole[250:]


class Constant:
    "Names class `k`; fills every gap with `value`; claims a standard deviation of `sd`."
    def __init__(self, k=0, value=0., sd=1.): self.k, self.value, self.sd = k, value, sd
    def predict(self, mv): return torch.full((len(mv),), self.k)
    def impute(self, mv):
        xs = [torch.where(mv.present[:, v, None], x, self.value) for v, x in enumerate(mv.xs)]
        return mv.replace(xs=xs, present=torch.ones_like(mv.present))
    def uncertainty(self, mv): return [torch.full_like(x, self.sd) for x in mv.xs]


class TestProblem:
    def test_counts(self, parts):
        p = problem(parts, .1, .3, seed=0)
        assert isinstance(p, Problem) and len(p.train) == 200
        assert int((p.train.y >= 0).sum()) == 20 and int((~p.train.present[:, 1]).sum()) == 60 and p.train.present[:, 0].all()
        assert p.truth.present.all() and (p.truth.y >= 0).all() and p.test is parts[2]

    def test_shares_are_nested_and_seeds_differ(self, parts):
        small, large = problem(parts, .05, .1, seed=0).train, problem(parts, .1, .3, seed=0).train
        assert ((small.y < 0) | (small.y == large.y)).all() and (small.present | ~large.present | small.present).all()
        assert (~small.present[:, 1] <= ~large.present[:, 1]).all()
        assert not torch.equal(problem(parts, .1, .3, seed=1).train.present, large.present)

    def test_supervised_keeps_labelled_rows_only(self, parts):
        p = problem(parts, .1, .3, seed=0, protocol="supervised")
        assert len(p.train) == 20 and (p.train.y >= 0).all()

    def test_transductive_learns_from_test_rows_without_their_labels(self, parts):
        p = problem(parts, .1, .3, seed=0, protocol="transductive")
        assert len(p.train) == 20 + 50 and (p.train.y[20:] == -1).all() and p.train.present[20:].all()
        assert torch.equal(p.train.xs[0][20:], parts[2].xs[0]) and torch.equal(p.truth.y[20:], parts[2].y)

    def test_partial_throws_incomplete_rows_away(self, parts):
        p = problem(parts, .3, .5, seed=0, partial=True)
        assert len(p.train) == 100 and p.train.present.all()
        with pytest.raises(ValueError, match="no labelled row of the classes"): problem(parts, .02, .95, seed=0, partial=True)

    @pytest.mark.parametrize("options, message", [(dict(protocol="magic"), "inductive"), (dict(labels=0.), "share"), (dict(missing=1.2), "vmr"), (dict(view="eeg"), "eeg")])
    def test_bad_arguments(self, parts, options, message):
        with pytest.raises(ValueError, match=message): problem(parts, seed=0, **({"labels": .1} | options))

    def test_joined_needs_equal_views(self, parts):
        with pytest.raises(ValueError, match="names"): joined(parts[0], parts[1].select([0]))


class TestScores:
    def test_accuracy(self, parts):
        assert accuracy(Constant(1), parts[2]) == float((parts[2].y == 1).double().mean())
        with pytest.raises(ValueError, match="label in every row"): accuracy(Constant(), problem(parts, .1, seed=0).train)

    def test_imputation_error_of_zeros_is_one_and_of_the_truth_zero(self, parts):
        p = problem(parts, .1, .4, seed=0)
        assert imputation_error(Constant(), p.train, p.truth) == pytest.approx(1)
        class Oracle:
            def impute(self, mv): return p.truth
        assert imputation_error(Oracle(), p.train, p.truth) == 0
        with pytest.raises(ValueError, match="no row"): imputation_error(Constant(), p.truth, p.truth)
        with pytest.raises(ValueError, match="same rows"): imputation_error(Constant(), p.train[:5], p.truth)

    def test_coverage_of_a_true_model_is_the_level(self):
        g = torch.Generator().manual_seed(0)
        truth = MultiView([torch.zeros(4000, 1), torch.randn(4000, 5, generator=g) * 2 + 3])
        given = blinded(truth)
        for level in (.5, .9): assert interval_coverage(Constant(value=3., sd=2.), given, truth, level) == pytest.approx(level, abs=.01)
        assert interval_coverage(Constant(value=3., sd=1.), given, truth, .9) < .65
        for level in (0., 1., 1.5):
            with pytest.raises(ValueError, match="level"): interval_coverage(Constant(), given, truth, level)
        with pytest.raises(ValueError, match="nothing to score"): interval_coverage(Constant(), truth, truth)

    def test_blinded_takes_one_view_from_every_row(self, parts):
        gone = blinded(parts[1], 0)
        assert not gone.present[:, 0].any() and gone.present[:, 1].all()
        with pytest.raises(ValueError): blinded(parts[1].select([0]))


class TestTraining:
    OPTIONS = dict(epochs=4, batch_size=60, progress=False, settings=dict(latent=3, hidden=[8]))

    def test_problems_of_all_shares_are_one_batch(self, parts):
        problems = [problem(parts, share, missing, seed=0) for share in (.05, .2) for missing in (.1, .5)]
        result = fit_problems("simvae", problems, per_run=dict(c=[.1, .5, 1., .5]), **self.OPTIONS)
        assert len(result.models) == 4 and result.runs["c"].tolist() == [.1, .5, 1., .5]
        alone = fit_problems("simvae", problems[2:3], per_run=dict(c=[1.]), **self.OPTIONS).models[0]
        torch.testing.assert_close(alone.proba(parts[2]), result.models[2].proba(parts[2]), rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("choose", ["accuracy", "imputation"])
    def test_the_best_checkpoint_is_kept(self, parts, choose):
        result = fit_problems("simvae", [problem(parts, .2, .3, seed=0)], choose=choose, **self.OPTIONS)
        scores = result.history[result.history.term == "score"]["value"]
        model = result.models[0]
        own = accuracy(model, parts[1]) if choose == "accuracy" else -imputation_error(model, blinded(parts[1]), parts[1])
        assert len(scores) == 4 and own == pytest.approx(scores.max(), abs=1e-6)

    def test_runs_with_one_key_compete(self, parts):
        result = fit_problems("smvae", [problem(parts, .2, seed=0)] * 4, per_run=dict(c=[.001, 5., .001, 5.]), **self.OPTIONS)
        best = choose_runs(result, ["a", "a", "b", "b"], parts[1])
        assert set(best) == {"a", "b"} and best["a"] in (0, 1) and best["b"] in (2, 3)
        scores = [accuracy(m, parts[1]) for m in result.models]
        assert scores[best["a"]] == max(scores[:2])
        with pytest.raises(ValueError, match="keys"): choose_runs(result, ["a"], parts[1])

    def test_bad_batches(self, parts):
        with pytest.raises(ValueError, match="at least one"): fit_problems("smvae", [], **self.OPTIONS)
        other = problem((parts[0], parts[2], parts[1]), .2, seed=0)
        with pytest.raises(ValueError, match="share their validation data"): fit_problems("smvae", [problem(parts, .2, seed=0), other], **self.OPTIONS)
        with pytest.raises(ValueError, match="choose"): fit_problems("smvae", [other], choose="luck", **self.OPTIONS)


class TestData:
    def test_standardised_with_the_first_part_s_moments(self, parts):
        holed = parts[0].replace(xs=[torch.cat([parts[0].xs[0], torch.full((200, 1), 7.)], 1), parts[0].xs[1]])
        other = parts[1].replace(xs=[torch.cat([parts[1].xs[0], torch.full((50, 1), 9.)], 1), parts[1].xs[1]])
        a, b = standardised([holed, other])
        assert torch.allclose(a.xs[0][:, :3].mean(0), torch.zeros(3), atol=1e-5) and torch.allclose(a.xs[1].std(0, correction=0), torch.ones(4), atol=1e-4)
        assert (a.xs[0][:, 3] == 0).all() and torch.allclose(b.xs[0][:, 3], torch.full((50,), 2.))
        with pytest.raises(ValueError, match="absent in every row"): standardised([blinded(parts[0])])

    def test_the_tiny_set(self):
        train, valid, test = load_parts("mfeat", tiny=True)
        assert train.names == ("pix", "zer") and abs(float(train.xs[0].mean())) < 1e-5 and len(train) > 1000 and abs(len(valid) - len(test)) <= 1
        with pytest.raises(ValueError, match="mfeat, emotion-sim"): load_parts("mnist")

    @pytest.mark.data
    def test_the_real_set(self):
        sizes = [len(p) for p in load_parts("mfeat", seed=1)]
        assert sum(sizes) == 2000 and all(abs(n - want) <= 6 for n, want in zip(sizes, (1200, 400, 400))), "rows that repeat another stay together"
