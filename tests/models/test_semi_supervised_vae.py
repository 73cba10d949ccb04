"""The M2 model and its guide against the bounds of the paper, written by hand."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from torch import nn
from torch.distributions import Normal

from ppl_vae import VariationalEM
from ppl_vae.guides import SemiSupervisedGuide
from ppl_vae.models import SemiSupervisedVAE
from ppl_vae.models.priors import MixtureOfNormals
from ppl_vae.nn import MLP, ConvDecoder, ConvEncoder

K, L, N, D = 3, 2, 8, 5
LABELS = {
    "labeled": torch.tensor([0, 1, 2, 0, 1, 2, 0, 0]),
    "unlabeled": torch.full((N,), -1),
    "mixed": torch.tensor([0, -1, 2, -1, -1, 1, 0, -1]),
    "no labels": None,
}
PRIOR = torch.tensor([0.2, 0.3, 0.5])


@pytest.fixture(autouse=True)
def own_param_store():
    """Give Pyro's parameter store back as it was."""
    with pyro.get_param_store().scope():
        yield


def pair(**kwargs):
    torch.manual_seed(0)
    sizes = {"num_classes": K, "latent_dim": L}
    decoder = MLP(K + L, D, hidden=(9,))
    model = SemiSupervisedVAE(decoder, likelihood="normal", class_prior=PRIOR, **sizes).double()
    guide = SemiSupervisedGuide(MLP(D, K, hidden=(9,)), MLP(D + K, 2 * L, hidden=(9,)), **sizes, **kwargs).double()
    return model, guide


@pytest.fixture
def x():
    return torch.randn(N, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def labeled_bound(model, guide, x, y, noise):
    """-L(x, y) of Kingma et al. (6): E_q(z|x,y)[log p(x|y,z) + log p(y) + log p(z) - log q(z|x,y)], one draw of z."""
    hot = nn.functional.one_hot(y, K).double()
    loc, raw = guide.encoder(torch.cat([x, hot], 1)).split(L, 1)
    scale = 1e-6 + nn.functional.softplus(raw)
    z = loc + scale * noise
    p_x = Normal(model.decoder(torch.cat([hot, z], 1)), model.likelihood.scale).log_prob(x).sum(1)
    p_z = Normal(0.0, 1.0).log_prob(z).sum(1)
    p_y = (PRIOR.double() / PRIOR.double().sum()).log()[y]
    return p_x + p_y + p_z - Normal(loc, scale).log_prob(z).sum(1)


def bound(model, guide, x, y, noise):
    """The bound of every row, (N,) nats, with noise (K, N, L)."""
    every = torch.stack([labeled_bound(model, guide, x, torch.full((N,), k), noise[k]) for k in range(K)])
    log_q = guide.classifier(x).log_softmax(1).T
    unlabeled = (log_q.exp() * (every - log_q)).sum(0)
    if y is None:
        return unlabeled
    labeled = every.gather(0, y.clamp(min=0).unsqueeze(0)).squeeze(0)
    return torch.where(y >= 0, labeled, unlabeled)


def gradients(value, *modules):
    leaves = [p for module in modules for p in module.parameters()]
    return torch.autograd.grad(value, leaves, materialize_grads=True, allow_unused=True)


@pytest.mark.parametrize("name", LABELS)
def test_enumerated_it_is_the_bound_by_hand(name, x):
    model, guide = pair()
    y = LABELS[name]
    torch.manual_seed(2)
    loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(model, guide, x, y=y)
    torch.manual_seed(2)
    noise = torch.normal(torch.zeros(K, N, L).double(), torch.ones(K, N, L).double())
    expected = -bound(model, guide, x, y, noise).sum()
    close(loss, expected)
    for a, b in zip(gradients(loss, model, guide), gradients(expected, model, guide), strict=True):
        close(a, b)


def test_the_twin_a_label_more_is_seen(x):
    model, guide = pair()
    y = LABELS["mixed"].clone()
    torch.manual_seed(2)
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide, x, y=y)
    y[1] = 0
    torch.manual_seed(2)
    assert TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide, x, y=y) != pytest.approx(loss, abs=1e-3)


@pytest.mark.parametrize("name", ["mixed", "no labels"])
@pytest.mark.parametrize("enumerate", [True, False])
def test_drawn_the_bound_is_the_same_on_average(name, enumerate, x):
    """One datum labeled and one not, many times, by Trace_ELBO's own sum."""
    model, guide = pair(enumerate=enumerate)
    y, particles = LABELS[name], 20_000

    def plated(fn):
        return pyro.plate("particles", particles, dim=-2)(fn)

    with torch.no_grad():
        q = poutine.trace(plated(guide)).get_trace(x, y=y)
        p = poutine.trace(poutine.replay(plated(model), trace=q)).get_trace(x, y=y)
        for each in (q, p):
            each.compute_log_prob()
        drawn = sum(s["log_prob"] for s in p.nodes.values() if s["type"] == "sample" and "log_prob" in s)
        drawn = drawn - q.nodes["y"]["log_prob"] - q.nodes["z"]["log_prob"]
        noise = torch.randn(500, K, N, L, dtype=torch.float64)
        exact = torch.stack([bound(model, guide, x, y, each) for each in noise])
    difference = drawn.mean(0) - exact.mean(0)
    error = (drawn.var(0) / particles + exact.var(0) / len(noise)).sqrt()
    assert (difference / error).abs().max() < 4.5
    assert ((difference + 0.5) / error).abs().max() > 4.5  # negative twin


def test_a_labeled_row_has_its_label_and_no_log_q(x):
    model, guide = pair()
    y = LABELS["mixed"]
    q = poutine.trace(guide).get_trace(x, y=y)
    q.compute_log_prob()
    labeled = y >= 0
    assert torch.equal(q.nodes["y"]["value"][labeled], y[labeled])
    assert (q.nodes["y"]["log_prob"][labeled] == 0).all()
    close(q.nodes["y"]["log_prob"], torch.where(labeled, 0.0, q.nodes["y"]["log_prob"]))
    p = poutine.trace(poutine.replay(model, trace=q)).get_trace(x, y=y)
    p.compute_log_prob()
    assert (p.nodes["y"]["log_prob"][labeled] == 0).all() and (p.nodes["y"]["log_prob"][~labeled] < 0).all()
    assert (p.nodes["label"]["log_prob"][~labeled] == 0).all() and (p.nodes["label"]["log_prob"][labeled] < 0).all()


def test_sites_plates_and_shapes(x):
    model, guide = pair()
    for y, names in ((None, ["data", "y", "z", "x"]), (LABELS["mixed"], ["data", "label", "y", "z", "x"])):
        found = poutine.trace(model).get_trace(x, y=y)
        assert [n for n, s in found.nodes.items() if s["type"] == "sample"] == names
        assert found.nodes["x"]["fn"].event_shape == (D,)
        assert found.nodes["y"]["value"].shape == (N,)
    q = poutine.trace(guide).get_trace(x, y=y)
    assert q.nodes["z"]["value"].shape == (N, L)
    assert q.nodes["y"]["infer"] == {"enumerate": "parallel"}


def test_images_and_another_prior():
    model = SemiSupervisedVAE(
        ConvDecoder(K + L, (1, 8, 8)),
        num_classes=K,
        latent_dim=L,
        likelihood="bernoulli",
        prior=MixtureOfNormals(L, num_components=2),
    )
    guide = SemiSupervisedGuide(ConvEncoder((1, 8, 8), K), MLP(64 + K, 2 * L), num_classes=K, latent_dim=L)
    x = (torch.rand(N, 1, 8, 8) < 0.5).float()
    assert TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide, x, y=LABELS["mixed"]) > 0


def test_a_mask_hides_entries_even_nan(x):
    model, guide = pair()
    mask = torch.rand(x.shape) < 0.6
    losses = []
    for filler in (torch.nan, 9.0):
        torch.manual_seed(2)
        holes = torch.where(mask, x, filler)
        losses.append(TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide, holes, y=LABELS["mixed"], mask=mask))
    assert losses[0] == losses[1]


# -- the auxiliary term ------------------------------------------------------------------------------------------------


def test_the_auxiliary_term_is_of_labeled_rows_and_no_loss_of_pyros_counts_it(x):
    y = LABELS["mixed"]
    _, guide = pair(auxiliary=10.0)
    site = poutine.trace(guide).get_trace(x, y=y).nodes["classification"]
    exact = 10 * guide.classifier(x).log_softmax(1).gather(1, y.clamp(min=0).unsqueeze(1)).squeeze(1)
    close(site["value"], torch.where(y >= 0, exact, 0.0))
    assert site["infer"]["_auxiliary"] and site["infer"]["_deterministic"]
    assert [frame.name for frame in site["cond_indep_stack"]] == ["data"]
    for enumerate, elbo in ((True, TraceEnum_ELBO(max_plate_nesting=1)), (False, Trace_ELBO())):
        losses = []
        for auxiliary in (0.0, 10.0):
            model, guide = pair(enumerate=enumerate, auxiliary=auxiliary)
            torch.manual_seed(2)
            losses.append(elbo.loss(model, guide, x, y=y))
        assert losses[0] == losses[1]


def test_the_term_alone_teaches_the_classifier_from_labels(x):
    model, guide = pair(auxiliary=1.0)
    y = LABELS["labeled"]
    loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(model, guide, x, y=y)
    assert all((g == 0).all() for g in gradients(loss, guide.classifier))
    term = poutine.trace(guide).get_trace(x, y=y).nodes["classification"]["value"].sum()
    assert all((g != 0).any() for g in gradients(term, guide.classifier))


def test_there_is_no_term_without_a_weight_or_labels(x):
    for guide, y in ((pair()[1], LABELS["mixed"]), (pair(auxiliary=1.0)[1], None)):
        assert "classification" not in poutine.trace(guide).get_trace(x, y=y).nodes


# -- use ---------------------------------------------------------------------------------------------------------------


def test_generation_given_a_class():
    model, _ = pair()
    y = torch.full((20_000,), 1)
    drawn = model(num_samples=len(y), y=y)
    z = torch.randn(20_000, L, dtype=torch.float64)
    expected = model.decode(y, z).sample()
    other = model.decode(torch.full_like(y, 2), z).sample()

    def z_score(a, b):
        return ((a.mean(0) - b.mean(0)) / ((a.var(0) + b.var(0)) / len(y)).sqrt()).abs().max()

    assert z_score(drawn, expected) < 4.5
    assert z_score(drawn, other) > 4.5  # negative twin: another class
    assert model(num_samples=6).shape == (6, D)


def test_classify_and_encode(x):
    _, guide = pair()
    close(guide.classify(x), guide.classifier(x).softmax(1))
    every = guide.encode(x, torch.arange(K).unsqueeze(1))
    assert every.batch_shape == (K, N)
    one = guide.encode(x, torch.full((N,), 2))
    close(every.mean[2], one.mean)


@pytest.mark.parametrize("enumerate", [True, False])
def test_pyros_svi_learns_classes_from_few_labels(enumerate):
    """Three clear clusters, one label each: without the auxiliary term the model has to tell them apart."""
    torch.manual_seed(0)
    label = torch.randint(3, (150,))
    x = 4 * torch.eye(3)[label] + 0.3 * torch.randn(150, 3)
    y = torch.where(torch.arange(150) < 12, label, -1)
    sizes = {"num_classes": 3, "latent_dim": 1}
    model = SemiSupervisedVAE(nn.Linear(4, 3), likelihood="unit-normal", **sizes)
    guide = SemiSupervisedGuide(nn.Linear(3, 3), MLP(6, 2, hidden=(8,)), enumerate=enumerate, **sizes)
    loss = TraceEnum_ELBO(max_plate_nesting=1) if enumerate else Trace_ELBO()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), loss)
    first = svi.evaluate_loss(x, y=y)
    for _ in range(200):
        svi.step(x, y=y)
    accuracy = (guide.classify(x).argmax(1) == label).float().mean()
    assert svi.evaluate_loss(x, y=y) < first
    assert not enumerate or accuracy > 0.95


# -- errors ------------------------------------------------------------------------------------------------------------


def bad(x, y, *, of=0, **kwargs):
    return lambda: poutine.trace(pair(**kwargs)[of]).get_trace(x, y=y)


X = torch.zeros(N, D, dtype=torch.float64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pair()[0](), "SemiSupervisedVAE: x or num_samples is required, got neither"),
        (lambda: pair()[1](), "SemiSupervisedGuide: data x .* is required"),
        (bad(X, torch.full((N,), 3)), r"SemiSupervisedVAE: labels must be -1 \(unlabeled\) or in 0 .. 2, got 3"),
        (bad(X, torch.full((N,), -2)), r"SemiSupervisedVAE: labels must be .* got -2"),
        (bad(X, torch.full((N,), 3), of=1), r"SemiSupervisedGuide: labels must be .* got 3"),
        (bad(X, torch.full((N,), 3), of=1, auxiliary=1.0), r"SemiSupervisedGuide: labels must be .* got 3"),
        (bad(X, torch.zeros(N)), r"SemiSupervisedVAE: y must be \(8,\) long, .* got \(8,\) of torch.float32"),
        (bad(X, torch.zeros(3).long(), of=1), r"SemiSupervisedGuide: y must be \(8,\) long, .* got \(3,\)"),
        (
            lambda: SemiSupervisedVAE(MLP(3, 5), num_classes=1, latent_dim=2, likelihood="normal"),
            "SemiSupervisedVAE: num_classes must be at least 2, got 1",
        ),
        (
            lambda: SemiSupervisedVAE(
                MLP(5, 5), num_classes=3, latent_dim=2, likelihood="normal", class_prior=torch.ones(2)
            ),
            r"SemiSupervisedVAE: class_prior must be \(3,\) positive probabilities",
        ),
        (
            lambda: SemiSupervisedVAE(
                MLP(5, 5),
                num_classes=3,
                latent_dim=2,
                likelihood="normal",
                prior=MixtureOfNormals(3, num_components=2),
            ),
            r"SemiSupervisedVAE: the prior must have batch shape \(\) and event shape \(2,\)",
        ),
        (
            lambda: pair()[0](torch.zeros(N, 6, dtype=torch.float64)),
            r"SemiSupervisedVAE: the decoder must return \(..., 6\) for x of shape \(8, 6\), got \(8, 5\)",
        ),
        (
            lambda: SemiSupervisedGuide(nn.Linear(5, 4), nn.Linear(8, 4), num_classes=3, latent_dim=2)(X.float()),
            r"SemiSupervisedGuide: the classifier must return \(..., 3\) for num_classes=3, got \(8, 4\)",
        ),
        (
            lambda: SemiSupervisedGuide(nn.Linear(5, 3), nn.Linear(8, 5), num_classes=3, latent_dim=2)(X.float()),
            r"SemiSupervisedGuide: the encoder must return \(..., 4\) for latent_dim=2, got \(8, 5\)",
        ),
        (lambda: pair(auxiliary=-1.0), "auxiliary >= 0 are required, got num_classes=3, latent_dim=2, auxiliary=-1.0"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_values_of_labels_are_not_looked_at_without_validation():
    with pyro.validation_enabled(False):
        bad(X, torch.full((N,), 3), auxiliary=1.0)()
        bad(X, torch.full((N,), 3), of=1, auxiliary=1.0)
    assert repr(pair(enumerate=False, auxiliary=2.0)[1]).startswith(
        "SemiSupervisedGuide(\n  num_classes=3, latent_dim=2"
    )


def test_a_fit_on_labels_serves_rows_without():
    """The observed site "label" is there in the fit, and not in what is drawn or judged without labels."""
    model, guide = pair()
    rows = {"x": X, "y": LABELS["mixed"]}
    fit = VariationalEM(model, guide).fit(rows, steps=1, progress=False)
    assert set(fit.observed) == {"label", "x"}
    assert fit.sample(4).shape == (4, D)
    assert fit.reconstruct(X).shape == (N, D)
    assert fit.decode({"y": torch.arange(K), "z": torch.zeros(K, L)}).shape == (K, D)
    assert set(fit.to_inference_data(X, num_samples=3).log_likelihood.data_vars) == {"x"}
    assert set(fit.to_inference_data(rows, num_samples=3).log_likelihood.data_vars) == {"label", "x"}
