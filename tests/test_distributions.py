"Gaussians, experts, mixtures, bounds: against torch.distributions, scipy, double loops, Monte Carlo and closed forms."
import math

import numpy as np
import pytest
import torch
import torch.distributions as td
from scipy import integrate, stats
from torch.autograd import gradcheck
from torch.func import grad, vmap

from mvnb.distributions import (club_bound, component_entropy_bound, gaussian_entropy, gaussian_kl, gaussian_log_prob, gaussian_nll,
                                jensen_entropy_bound, masked_softmax, mixture_log_prob, mixture_moments, product_of_experts, sample)

NAN = float("nan")


@pytest.fixture
def draw():
    g = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)


def normal(mu, logvar): return td.Independent(td.Normal(mu, (logvar / 2).exp()), 1)


# --- one Gaussian

def test_gaussian_against_references(draw):
    x, mu, logvar, mu2, logvar2 = (draw(4, 6, 3) for _ in range(5))
    p, q = normal(mu, logvar), normal(mu2, logvar2)
    assert torch.allclose(gaussian_log_prob(x, mu, logvar), p.log_prob(x))
    assert torch.allclose(gaussian_kl(mu, logvar, mu2, logvar2), td.kl_divergence(p, q))
    assert torch.allclose(gaussian_kl(mu, logvar), td.kl_divergence(p, normal(0 * mu, 0 * mu)))
    assert torch.allclose(gaussian_kl(mu, logvar, .5, -1.), td.kl_divergence(p, normal(0 * mu + .5, 0 * mu - 1)))
    assert torch.allclose(gaussian_entropy(logvar), p.entropy())
    scipy_value = stats.multivariate_normal(mu[0, 0], np.diag(logvar[0, 0].exp())).logpdf(x[0, 0])
    assert float(gaussian_log_prob(x, mu, logvar)[0, 0]) == pytest.approx(scipy_value)
    eps = draw(4, 6, 3)
    assert torch.allclose(sample(mu, logvar, eps), mu + (logvar / 2).exp() * eps)


def test_kl_keeps_precision_in_float32():
    logvar = torch.full((1, 1), 1e-3)
    assert float(gaussian_kl(torch.zeros(1, 1), logvar)) == pytest.approx(.5 * (math.expm1(1e-3) - 1e-3), abs=1e-7)
    assert gaussian_kl(torch.zeros(1, 1), torch.full((1, 1), -80.)).isfinite().all()


@pytest.mark.parametrize("call", [
    lambda a, b: gaussian_log_prob(a, a, b), lambda a, b: gaussian_kl(a, b), lambda a, b: gaussian_kl(a, a, b, b), lambda a, b: sample(a, a, b),
    lambda a, b: mixture_moments(torch.ones(4), a, b), lambda a, b: mixture_log_prob(b, torch.ones(4), a[None], a[None]), lambda a, b: jensen_entropy_bound(torch.ones(4), a, b),
    lambda a, b: club_bound(a, a, b), lambda a, b: gaussian_nll(a, b, a), lambda a, b: club_bound(a[0], a[0], a[0]),
    lambda a, b: gaussian_nll(a, a, a, torch.ones(4, 1)), lambda a, b: club_bound(a, a, a, torch.ones(3)),
    lambda a, b: product_of_experts(a, b), lambda a, b: product_of_experts(a, a, torch.ones(3))])
def test_shapes_that_do_not_fit(call):
    with pytest.raises(ValueError, match="must"): call(torch.zeros(4, 3), torch.zeros(4, 1))


# --- product of experts

def test_product_by_integration():
    "The normalised product of densities, integrated numerically."
    mus, taus = [1., -2., .5], [2., .3, 5.]
    density = lambda z: stats.norm.pdf(z) * np.prod([stats.norm.pdf(z, m, t ** -.5) for m, t in zip(mus, taus)])
    total = integrate.quad(density, -10, 10)[0]
    mean = integrate.quad(lambda z: z * density(z) / total, -10, 10)[0]
    var = integrate.quad(lambda z: (z - mean) ** 2 * density(z) / total, -10, 10)[0]
    m, tau = product_of_experts(torch.tensor(mus)[:, None].double(), torch.tensor(taus)[:, None].double())
    assert float(m) == pytest.approx(mean, abs=1e-6) and float(tau) == pytest.approx(1 / var, rel=1e-5)


def test_absent_and_ignorant_experts(draw):
    mu, tau = draw(8, 4, 2), draw(8, 4, 2).exp()
    present = torch.tensor([True, False, True, False]).expand(8, 4)
    reference = product_of_experts(mu[:, [0, 2]], tau[:, [0, 2]])
    for fill in (0., NAN, float("inf")):
        holes = [t.masked_fill(~present[..., None], fill).requires_grad_() for t in (mu, tau)]
        out = product_of_experts(*holes, present)
        assert all(torch.allclose(a, b) for a, b in zip(out, reference))
        sum(o.sum() for o in out).backward()
        assert all(h.grad.isfinite().all() and (h.grad[~present] == 0).all() for h in holes)
    ignorant = product_of_experts(mu, tau * present[..., None])
    assert all(torch.allclose(a, b) for a, b in zip(ignorant, reference))
    m, t = product_of_experts(mu, tau, present & False)
    assert (m == 0).all() and (t == 1).all()
    m, t = product_of_experts(mu, tau * 0)
    assert (m == 0).all() and (t == 1).all()
    sure = product_of_experts(mu[:, :1], torch.full_like(mu[:, :1], 1e12))
    assert torch.allclose(sure[0], mu[:, 0])


# --- weights

def test_masked_softmax(draw):
    logits, mask = draw(50, 5), torch.rand(50, 5, generator=torch.Generator().manual_seed(0)) < .6
    mask[0] = False
    out = masked_softmax(logits, mask)
    reference = logits.masked_fill(~mask, -math.inf).softmax(-1).nan_to_num(0)
    assert torch.allclose(out, reference) and (out[~mask] == 0).all() and (out[0] == 0).all()
    assert torch.allclose(masked_softmax(logits.T, mask.T, dim=0).T, out)
    assert torch.allclose(masked_softmax(logits + 1e5, mask), out, atol=1e-9)
    assert torch.allclose(masked_softmax(logits, mask.float()), out)
    assert torch.allclose(masked_softmax(logits, torch.tensor(True)), logits.softmax(-1))
    assert masked_softmax(logits.float() * 1e38 / 5, mask).isfinite().all()


def test_masked_softmax_far_below_zero():
    logits = torch.tensor([[-1e4, 0., -1e4 + 1]], requires_grad=True)
    out = masked_softmax(logits, torch.tensor([[True, False, True]]))
    out[0, 0].backward()
    assert torch.allclose(out[0, 2], torch.tensor(1.).sigmoid()) and logits.grad.isfinite().all() and logits.grad[0, 0] > .1


@pytest.mark.parametrize("junk", [NAN, math.inf, -math.inf, 1e30])
def test_masked_softmax_reads_no_absent_logit(draw, junk):
    mask = torch.tensor([[True, False, True], [False, True, False], [False, False, False]])
    logits = draw(3, 3)
    reference = masked_softmax(logits, mask)
    dirty = logits.masked_fill(~mask, junk).requires_grad_()
    out = masked_softmax(dirty, mask)
    assert torch.allclose(masked_softmax(dirty - 1e4, mask), reference)
    assert torch.equal(out, reference)
    (out * torch.arange(9.).view(3, 3)).sum().backward()
    assert dirty.grad.isfinite().all() and (dirty.grad[~mask] == 0).all() and (dirty.grad[0, [0, 2]] != 0).all()


# --- mixtures

def test_mixture_against_torch(draw):
    alpha, mu, logvar, x = draw(7, 4).softmax(-1), draw(7, 4, 3), draw(7, 4, 3), draw(7, 3)
    reference = td.MixtureSameFamily(td.Categorical(alpha), normal(mu, logvar))
    mean, lv = mixture_moments(alpha, mu, logvar)
    assert torch.allclose(mean, reference.mean) and torch.allclose(lv.exp(), reference.variance)
    assert torch.allclose(mixture_log_prob(x, alpha, mu, logvar), reference.log_prob(x))
    first = mixture_moments(alpha.T, mu.transpose(0, 1), logvar.transpose(0, 1), dim=0)
    assert torch.allclose(first[0], mean) and torch.allclose(first[1], lv)
    shared = mixture_moments(alpha[0], mu, logvar)
    assert torch.allclose(shared[0][3], mixture_moments(alpha[0], mu[3], logvar[3])[0])


def test_moments_do_not_cancel():
    mean, lv = mixture_moments(torch.tensor([.5, .5]), torch.full((2, 1), 1e4), torch.zeros(2, 1))
    assert mean == 1e4 and lv == 0


@pytest.mark.parametrize("junk", [NAN, math.inf, 1e30])
def test_components_of_weight_zero_are_not_read(draw, junk):
    alpha, mu, logvar, x = torch.tensor([.3, 0, .7]).double(), draw(5, 3, 2), draw(5, 3, 2), draw(5, 2)
    two = torch.tensor([.3, .7]).double()
    dirty = [t.clone() for t in (mu, logvar)]
    for t in dirty: t[:, 1] = junk; t.requires_grad_()
    kept = mu[:, [0, 2]], logvar[:, [0, 2]]
    a = alpha.clone().requires_grad_()
    pairs = [(mixture_log_prob(x, a, *dirty), mixture_log_prob(x, two, *kept)), (jensen_entropy_bound(a, *dirty), jensen_entropy_bound(two, *kept)),
             (component_entropy_bound(a, dirty[1]), component_entropy_bound(two, kept[1])), *zip(mixture_moments(a, *dirty), mixture_moments(two, *kept))]
    assert all(torch.allclose(p, q) for p, q in pairs)
    sum(p.sum() for p, _ in pairs).backward()
    assert all(t.grad.isfinite().all() for t in (*dirty, a)) and (dirty[0].grad[:, 1] == 0).all()


def test_mixture_of_nothing_is_the_prior(draw):
    alpha, mu, logvar, x = torch.zeros(5, 3).double().requires_grad_(), draw(5, 3, 2).requires_grad_(), draw(5, 3, 2), draw(5, 2)
    mean, lv = mixture_moments(alpha, mu, logvar)
    lp = mixture_log_prob(x, alpha, mu, logvar)
    assert (mean == 0).all() and (lv == 0).all() and torch.allclose(lp, gaussian_log_prob(x, 0 * x, 0 * x))
    (mean.sum() + lv.sum() + lp.sum()).backward()
    assert alpha.grad.isfinite().all() and mu.grad.isfinite().all()


# --- entropy bounds

@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("scale", [0., .5, 2., 10.])
def test_entropy_bounds_are_below_the_entropy(seed, scale):
    g = torch.Generator().manual_seed(seed)
    lam = torch.randn(3, generator=g, dtype=torch.float64).softmax(-1)
    mu, logvar = scale * torch.randn(3, 4, generator=g, dtype=torch.float64), torch.randn(3, 4, generator=g, dtype=torch.float64)
    pick = torch.multinomial(lam, 20000, replacement=True, generator=g)
    z = sample(mu[pick], logvar[pick], torch.randn(20000, 4, generator=g, dtype=torch.float64))
    lp = -mixture_log_prob(z, lam, mu, logvar)
    entropy, error = float(lp.mean()), float(lp.std()) / 20000 ** .5
    jensen, parts = float(jensen_entropy_bound(lam, mu, logvar)), float(component_entropy_bound(lam, logvar))
    assert max(jensen, parts) < entropy + 4 * error
    assert jensen > entropy - 4 * .5 * math.log(math.e / 2) - math.log(3) - 4 * error       # and not arbitrarily far below


def test_jensen_against_double_loop(draw):
    lam, mu, logvar = draw(3).softmax(-1), draw(3, 2), draw(3, 2)
    total = 0.
    for v in range(3):
        inner = sum(float(lam[i]) * stats.multivariate_normal(mu[i], np.diag((logvar[v].exp() + logvar[i].exp()))).pdf(mu[v]) for i in range(3))
        total -= float(lam[v]) * math.log(inner)
    assert float(jensen_entropy_bound(lam, mu, logvar)) == pytest.approx(total)
    per_dimension = sum(jensen_entropy_bound(lam, mu[:, [d]], logvar[:, [d]]) for d in range(2))
    assert abs(float(per_dimension) - total) > 1e-3                                         # joint, not a sum over dimensions
    batch = jensen_entropy_bound(lam, mu.expand(5, 3, 2), logvar.expand(5, 3, 2))
    assert batch.shape == (5,) and float(batch[0]) == pytest.approx(total)


def test_gap_of_one_gaussian(draw):
    logvar = draw(5, 1, 7)
    gap = gaussian_entropy(logvar[:, 0]) - jensen_entropy_bound(torch.ones(1).double(), draw(5, 1, 7), logvar)
    assert torch.allclose(gap, torch.full((5,), 7 * .5 * (1 - math.log(2))).double())
    same = component_entropy_bound(draw(5, 3).softmax(-1), logvar.expand(5, 3, 7))
    assert torch.allclose(same, gaussian_entropy(logvar[:, 0]))


def test_bounds_survive_many_dimensions():
    mu = torch.stack([torch.zeros(500), torch.full((500,), 3.)]).requires_grad_()
    bound = jensen_entropy_bound(torch.tensor([.5, .5]), mu, torch.full((2, 500), -8.))
    bound.backward()
    assert bound.isfinite() and mu.grad.isfinite().all()


# --- CLUB

def club_by_loops(s, mu, logvar):
    B = len(s)
    log_q = lambda i, j: float(normal(mu[i], logvar[i]).log_prob(s[j]))
    return np.mean([log_q(i, i) for i in range(B)]) - np.mean([log_q(i, j) for i in range(B) for j in range(B)])


def test_club_equals_all_pairs(draw):
    s, mu, logvar = draw(9, 3), draw(9, 3), draw(9, 3)
    assert float(club_bound(s, mu, logvar)) == pytest.approx(club_by_loops(s, mu, logvar))
    keep = torch.tensor([1, 0, 1, 1, 0, 0, 1, 1, 1])
    k = keep.bool()
    for weight in (keep, k, keep.double()):
        assert float(club_bound(s, mu, logvar, weight)) == pytest.approx(club_by_loops(s[k], mu[k], logvar[k]))
        assert torch.allclose(gaussian_nll(s, mu, logvar, weight), -gaussian_log_prob(s, mu, logvar)[k].mean())
    one = torch.zeros(9); one[4] = 1
    assert club_bound(s, mu, logvar, one) == 0                                              # a row is its own marginal
    runs = club_bound(s.expand(2, 9, 3), mu.expand(2, 9, 3), logvar.expand(2, 9, 3), k.expand(2, 9))
    assert runs.shape == (2,) and torch.allclose(runs[0], club_bound(s, mu, logvar, k))


@pytest.mark.parametrize("loss", [club_bound, gaussian_nll])
def test_rows_left_out(draw, loss):
    s, mu, logvar = draw(6, 2), draw(6, 2), draw(6, 2)
    keep = torch.tensor([True, True, False, True, False, True])
    dirty = [t.masked_fill(~keep[:, None], NAN).requires_grad_() for t in (s, mu, logvar)]
    value = loss(*dirty, keep)
    assert torch.allclose(value, loss(s[keep], mu[keep], logvar[keep]))
    value.backward()
    assert all(t.grad.isfinite().all() and (t.grad[~keep] == 0).all() for t in dirty)
    clean = [t.clone().requires_grad_() for t in (s, mu, logvar)]
    nothing = loss(*clean, torch.zeros(6))
    nothing.backward()
    assert nothing == 0 and all((t.grad == 0).all() for t in clean)


def test_club_does_not_cancel_far_from_zero():
    g = torch.Generator().manual_seed(0)
    s, mu, logvar = (torch.randn(50, 2, generator=g) for _ in range(3))
    near, far = club_bound(s, mu, logvar), club_bound(s + 1000, mu + 1000, logvar)
    assert abs(float(far - near)) < 1e-2 * abs(float(near))


@pytest.mark.parametrize("rho", [0., .3, .6, .9])
def test_club_bounds_mutual_information(rho):
    "s = rho c + sqrt(1 - rho^2) eps: I = -log(1 - rho^2) / 2 per dimension, the bound tends to rho^2 / (1 - rho^2)."
    g = torch.Generator().manual_seed(1)
    c, eps = (torch.randn(50000, 2, generator=g, dtype=torch.float64) for _ in range(2))
    bound = float(club_bound(rho * c + (1 - rho ** 2) ** .5 * eps, rho * c, torch.full_like(c, math.log(1 - rho ** 2))))
    mi = -.5 * math.log(1 - rho ** 2) * 2
    assert bound >= mi - .02 and bound == pytest.approx(2 * rho ** 2 / (1 - rho ** 2), rel=.03, abs=.02)


# --- under autograd and vmap

CASES = {
    "log_prob": (lambda x, m, v: gaussian_log_prob(x, m, v), [(4, 2)] * 3),
    "kl": (lambda *a: gaussian_kl(*a), [(4, 2)] * 4),
    "kl_prior": (lambda m, v: gaussian_kl(m, v), [(4, 2)] * 2),
    "entropy": (lambda v: gaussian_entropy(v), [(4, 2)]),
    "sample": (lambda *a: sample(*a), [(4, 2)] * 3),
    "poe": (lambda m, t: torch.stack(product_of_experts(m, t.exp())), [(4, 3, 2)] * 2),
    "poe_present": (lambda m, t: torch.stack(product_of_experts(m, t.exp(), (torch.arange(12) % 5 > 0).view(4, 3))), [(4, 3, 2)] * 2),
    "softmax": (lambda a: masked_softmax(a, (torch.arange(12) % 5 > 0).view(4, 3)), [(4, 3)]),
    "moments": (lambda a, m, v: torch.stack(mixture_moments(a.softmax(-1), m, v)), [(4, 3), (4, 3, 2), (4, 3, 2)]),
    "mixture": (lambda x, a, m, v: mixture_log_prob(x, a.softmax(-1), m, v), [(4, 2), (4, 3), (4, 3, 2), (4, 3, 2)]),
    "jensen": (lambda a, m, v: jensen_entropy_bound(a.softmax(-1), m, v), [(3,), (4, 3, 2), (4, 3, 2)]),
    "components": (lambda a, v: component_entropy_bound(a.softmax(-1), v), [(3,), (4, 3, 2)]),
    "club": (lambda *a: club_bound(*a), [(4, 2)] * 3),
    "club_weight": (lambda *a: club_bound(*a, torch.tensor([1, 0, 1, 1])), [(4, 2)] * 3),
    "nll_weight": (lambda *a: gaussian_nll(*a, torch.tensor([1, 0, 1, 1])), [(4, 2)] * 3),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients(draw, name):
    function, shapes = CASES[name]
    assert gradcheck(function, [draw(*s).requires_grad_() for s in shapes])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vmap(draw, name, dtype):
    function, shapes = CASES[name]
    inputs = [draw(3, *s).to(dtype) for s in shapes]
    together = vmap(function, randomness="error")(*inputs)
    assert together.dtype == dtype
    assert torch.allclose(together, torch.stack([function(*a) for a in zip(*inputs)]), atol=1e-5)
    slopes = vmap(grad(lambda *a: function(*a).sum()))(*inputs)
    assert torch.allclose(slopes[1], grad(lambda *a: function(*a).sum())(*[a[1] for a in inputs]), atol=1e-4)


def test_vmap_over_masks(draw):
    mask = torch.tensor([[[True, False], [False, False]], [[True, True], [False, True]]])
    mu, tau = draw(2, 2, 2, 3), draw(2, 2, 2, 3).exp()
    m, t = vmap(product_of_experts)(mu, tau, mask)
    assert torch.allclose(m[0], product_of_experts(mu[0], tau[0], mask[0])[0]) and (m[0, 1] == 0).all()
    logits = draw(2, 2, 2)
    assert torch.equal(vmap(masked_softmax)(logits, mask), masked_softmax(logits, mask))
    s = draw(2, 2, 3)
    weight = mask[..., 0]
    assert torch.allclose(vmap(club_bound)(s, s * .5, s * .1, weight), torch.stack([club_bound(a, a * .5, a * .1, w) for a, w in zip(s, weight)]))
