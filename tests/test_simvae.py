"SiMVAE, SDGM, SDGM+, Psi: what is filled in, what the bound becomes, gradients, several incomplete views, guards."
import warnings

import pytest
import torch
from test_smvae import step, toy
from torch.autograd import gradcheck
from torch.func import functional_call

from mvnb.base import generator
from mvnb.corrupt import drop_views, hide_labels
from mvnb.distributions import gaussian_entropy, gaussian_log_prob
from mvnb.evaluate import nmse
from mvnb.fit import fit
from mvnb.models import create
from mvnb.models.simvae import Conditional, refuse_absent, view_numbers
from mvnb.views import MultiView

SMALL = dict(latent=3, hidden=[8])


@pytest.fixture
def few(): return drop_views(hide_labels(toy(), .2, seed=0), .5, seed=0, view=1)


def delta(model):
    "Make q_psi as good as sure: its log-variance at the lower limit, whatever it reads."
    for psi in model.psi:
        half = psi.out.bias.shape[0] // 2
        psi.out.weight.data[:, half:], psi.out.bias.data[half:] = 0., -10.
    return model


class TestCompleting:
    def test_what_is_there_stays_and_what_is_not_is_drawn(self, few):
        model = create("simvae", few, **SMALL)
        batch, noise = step(model, few, 24)
        b, part = batch["unlabelled"], model.completed(batch["unlabelled"], noise["unlabelled"])
        has = b.present[:, 1]
        assert part.batch.present.all() and torch.equal(part.batch.xs[0], b.xs[0]) and torch.equal(part.batch.xs[1][has], b.xs[1][has])
        mu, logvar = model.psi[0]([x.flatten(1) for x in b.xs], b.present)
        eps = noise["unlabelled"]["eps_x"][:, 3:]
        torch.testing.assert_close(part.batch.xs[1][~has], (mu + (.5 * logvar).exp() * eps)[~has])
        torch.testing.assert_close(part.mean[1][~has], mu[~has])
        torch.testing.assert_close(part.entropy, gaussian_entropy(logvar) * ~has)
        torch.testing.assert_close(part.log_psi, gaussian_log_prob(b.xs[1], mu, logvar) * has)

    def test_a_sure_psi_gives_the_bound_of_the_completed_row(self, few):
        "Eq. 15 with a delta-like q_psi against eq. 14."
        model = delta(create("simvae", few, **SMALL))
        batch, noise = step(model, few, 24)
        parts = {k: model.completed(b, noise[k]) for k, b in batch.items()}
        filled = {k: model.completed(model.filled(b), noise[k]) for k, b in batch.items()}
        log_q, eye = model.class_log_prob(filled["unlabelled"].batch.xs), torch.eye(3)
        drawn = model.unlabelled_bound(parts, noise, eye, log_q) - parts["unlabelled"].entropy.sum()
        torch.testing.assert_close(drawn, model.unlabelled_bound(filled, noise, eye, log_q), rtol=2e-3, atol=.5)
        assert (filled["unlabelled"].entropy == 0).all()

    def test_the_decoder_of_the_observed_view_reads_the_filled_one(self, few):
        model = create("simvae", few, **SMALL)
        b = few[few.present.all(1)].batch(slice(0, 6))
        z, eye = torch.zeros(6, 3, 1, 2, 3), torch.eye(3)[None]
        other = (b.xs[0], b.xs[1] + 1)
        assert not torch.allclose(model.view_log_prob(0, b.xs, z, eye), model.view_log_prob(0, other, z, eye))
        same = (b.xs[0] + 1, b.xs[1])
        assert torch.equal(model.view_log_prob(1, b.xs, z, eye), model.view_log_prob(1, same, z, eye))

    def test_on_complete_rows_the_imputation_loss_is_psi_s_likelihood(self):
        mv = hide_labels(toy(), .2, seed=0)
        model = create("simvae", mv, c1=2., **SMALL)
        batch, noise = step(model, mv)
        parts = {k: model.completed(b, noise[k]) for k, b in batch.items()}
        weight, term = model.other_terms(parts)["imputation"]
        own = torch.cat([gaussian_log_prob(b.xs[1], *model.psi[0](b.xs, b.present)) for b in batch.values()])
        torch.testing.assert_close(term, -own.mean())
        assert float(weight) == 2.

    @pytest.mark.parametrize("variant, settings", [("paper", {}), ("paper", {"incomplete": (0, 1)}), ("mvnb", {"k_neighbours": 2})])
    def test_gradients_against_finite_differences(self, few, variant, settings):
        mv = few.replace(xs=[x.double() for x in few.xs])
        model = create("simvae", mv, variant=variant, latent=2, hidden=[3], **settings).double()
        batch, noise = step(model, mv, 10, dtype=torch.float64)
        names = ["psi.0.out.bias", "psi.0.body.bias", "heads.0.bias", "heads.1.bias", "decoders.0.out.bias", "free"]
        params = dict(model.named_parameters())
        if variant == "mvnb": names = names[2:]  # what the classifier learns from E[q_psi] is held fixed, which finite differences cannot know
        def loss(*values): return functional_call(model, params | dict(zip(names, values)), (batch, noise))["model"]
        assert gradcheck(loss, [params[n].detach().clone().requires_grad_() for n in names], eps=1e-6, atol=1e-5)

    def test_the_paper_s_classifier_reaches_psi_and_ours_does_not(self, few):
        for variant, reaches in (("paper", True), ("mvnb", False)):
            model = create("simvae", few, variant=variant, weight=0., c1=0., k_neighbours=2, **SMALL)
            batch, noise = step(model, few, 24)
            grads = torch.autograd.grad(model.losses(batch, noise)["model"], list(model.psi.parameters()), allow_unused=True)
            assert any(g is not None and g.abs().sum() > 0 for g in grads) == reaches


class TestImputing:
    def test_linear_views_are_imputed(self):
        whole = toy(400)
        given = drop_views(hide_labels(whole, .1, seed=0), .5, seed=0, view=1)
        model = fit("simvae", given, epochs=40, batch_size=100, lr=5e-3, settings=dict(variant="mvnb", latent=4, hidden=[32], blur=0.), progress=False).models[0]
        gone = ~given.present[:, 1]
        assert nmse(whole.xs[1], model.impute(given).xs[1], gone) < .6
        sd = model.uncertainty(given)[1]
        assert (sd[gone] > 0).all() and (sd[~gone] == 0).all()

    @pytest.mark.parametrize("name", ["simvae", "sdgm+", "psi"])
    def test_imputing_keeps_what_is_there(self, few, name):
        model = create(name, few, **({"hidden": [8]} if name == "psi" else SMALL))
        done = model.impute(few)
        assert done.present.all() and torch.equal(done.xs[0], few.xs[0]) and torch.equal(done.xs[1][few.present[:, 1]], few.xs[1][few.present[:, 1]])

    def test_any_set_of_incomplete_views(self):
        three = toy(90, V=3)
        given = drop_views(drop_views(hide_labels(three, .2, seed=0), .4, seed=0, view=1), .4, seed=1, view=2)
        model = fit("simvae", given, epochs=3, batch_size=40, settings=SMALL | dict(incomplete=[1, 2]), progress=False).models[0]
        assert model.always == (0,) and len(model.psi) == 2 and model.impute(given).present.all()
        every = fit("simvae", given, epochs=3, batch_size=40, settings=SMALL | dict(incomplete=[0, 1, 2]), progress=False).models[0]
        assert every.always == () and torch.isfinite(every.proba(given)).all()

    def test_images_are_imputed_as_images(self):
        g = generator(0, "images")
        mv = MultiView([torch.rand(30, 1, 4, 4, generator=g), torch.rand(30, 2, 3, 3, generator=g)], y=torch.arange(30) % 3)
        model = create("simvae", mv, **SMALL)
        done = model.impute(drop_views(mv, .5, seed=0, view=1))
        assert done.xs[1].shape == (30, 2, 3, 3) and model.uncertainty(mv)[1].shape == (30, 2, 3, 3)

    def test_psi_alone_trains_on_complete_rows_only(self, few):
        model = create("psi", few, hidden=[8])
        b = few.batch()
        full = few[few.present.all(1)].batch()
        noise = {"blur": torch.zeros(len(few), 7)}
        want = -gaussian_log_prob(full.xs[1], *model.psi[0](full.xs, full.present)).mean()
        torch.testing.assert_close(model.losses(b, noise)["model"], want)


class TestRelatives:
    def test_sdgm_plus_never_reads_the_view_it_predicts(self, few):
        model = fit("sdgm+", few, epochs=2, batch_size=30, settings=SMALL, progress=False).models[0]
        other = few.replace(xs=[few.xs[0], few.xs[1] + 5])
        assert torch.equal(model.proba(few), model.proba(other))
        batch, noise = step(model, few, 24)
        part = model.completed(batch["unlabelled"], noise["unlabelled"])
        assert (part.entropy != 0).all(), "a is drawn in every row"
        assert torch.equal(part.known.bool(), batch["unlabelled"].present[:, 1]), "and compared with x^m where that is known"

    def test_sdgm_plus_decodes_an_absent_observed_view(self, few):
        model = create("sdgm+", few, **SMALL)
        swapped = few.replace(present=few.present.flip(1))
        gone = ~swapped.present[:, 0]
        assert torch.equal(model.impute(swapped).xs[0][gone], model.reconstruct(swapped)[0][gone])

    def test_sdgm_s_auxiliary_variable_is_no_view_of_the_data(self, few):
        complete = few.replace(present=torch.ones_like(few.present))
        model = fit("sdgm", complete, epochs=2, batch_size=30, settings=SMALL | dict(auxiliary=2), progress=False).models[0]
        assert len(model.reconstruct(complete)) == 2 and model.views.names == complete.names
        batch, noise = step(model, complete, 24)
        part = model.completed(model.wide(batch["unlabelled"]), noise["unlabelled"])
        assert part.batch.xs[2].shape[1] == 2 and (part.known == 0).all()


class TestGuards:
    def test_a_view_that_may_not_be_missing(self, few):
        with pytest.raises(ValueError, match="'view 1' is absent in 30 rows"): fit("simvae", few, epochs=1, settings=dict(incomplete=[0]), progress=False)
        with pytest.raises(ValueError, match="absent in 30 rows"): create("psi", few, incomplete=[0]).impute(few)
        with pytest.raises(ValueError, match="incomplete"): refuse_absent(few, [0])

    def test_no_complete_row_warns_and_trains(self, few):
        alone = few.replace(present=torch.tensor([[True, False]] * 60))
        with pytest.warns(UserWarning, match="N_c = 0"): result = fit("simvae", alone, epochs=1, batch_size=30, settings=SMALL, progress=False)
        assert torch.isfinite(result.models[0].proba(alone)).all()
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            fit("simvae", few, epochs=1, batch_size=30, settings=SMALL, progress=False)

    def test_one_view_is_not_enough(self, few):
        with pytest.raises(ValueError, match="at least 2"): create("simvae", few.select([0]))
        with pytest.raises(ValueError, match="at least 2 views"): Conditional([4], 0, [8])

    @pytest.mark.parametrize("names, message", [(["eeg"], "eeg"), ([], "at least one"), ([0, "view 0"], "different"), ([7], "unknown")])
    def test_unknown_views(self, few, names, message):
        with pytest.raises(ValueError, match=message): view_numbers(few, names)
        with pytest.raises(ValueError, match=message): create("simvae", few, incomplete=names)

    def test_sdgm_fills_nothing_in(self, few):
        with pytest.raises(ValueError, match="sdgm\\+ imputes"): create("sdgm", few, incomplete=[0])

    @pytest.mark.parametrize("setting, message", [(dict(c1=-1.), "c1"), (dict(blur=float("nan")), "blur"), (dict(auxiliary=3), "auxiliary"), (dict(samples=0), "samples")])
    def test_bad_settings(self, few, setting, message):
        with pytest.raises(ValueError, match=message): create("simvae", few, **setting)
