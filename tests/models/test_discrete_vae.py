"""The discrete VAE as a plain Pyro model: densities, enumeration, plates, masks, errors."""

from __future__ import annotations

from typing import ClassVar

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

from ppl_vae.distributions import Codes
from ppl_vae.distributions.codes import with_relaxation
from ppl_vae.models import DiscreteVAE
from ppl_vae.models.likelihoods import Categorical, DecodedNormal
from ppl_vae.models.priors import Learned, Uniform
from ppl_vae.nn import MLP, ConvDecoder

M, K, N = 3, 4, 7


class Parts(nn.Module):
    """A decoder that factorizes: a layer of its own for each latent, (B, M, E) to (B, M, *part)."""

    def __init__(self, part=(2,), size=K):
        super().__init__()
        self.part = part
        width = torch.Size(part).numel()
        self.weight = nn.Parameter(torch.randn(M, size, width))
        self.bias = nn.Parameter(torch.randn(M, width))

    def forward(self, codes):
        return (torch.einsum("bmk,mkd->bmd", codes, self.weight) + self.bias).unflatten(-1, self.part)


def make(decoder, **kwargs):
    return DiscreteVAE(decoder, **{"num_latents": M, "num_classes": K, "likelihood": "normal"} | kwargs)


# name: (model, event shape of x)
MODELS = {
    "one-hot": (lambda: make(MLP(M * K, 5)), (5,)),
    "embedding": (lambda: make(MLP(M * 2, 5), embedding=2), (5,)),
    "learned prior": (lambda: make(MLP(M * K, 5), prior=Learned(), likelihood="bernoulli"), (5,)),
    "own prior": (lambda: make(MLP(M * K, 5), prior=Learned(M, K)), (5,)),
    "one latent": (lambda: make(nn.Linear(9, 5), num_latents=1, num_classes=9), (5,)),
    "images": (lambda: make(ConvDecoder(M * K, (1, 8, 8)), likelihood="bernoulli"), (1, 8, 8)),
    "categorical": (lambda: make(MLP(M * K, (5, 3)), likelihood=Categorical(3)), (5,)),
}
FACTORIZED = {
    "parts": (lambda: make(Parts(), factorized=True), (M, 2)),
    "embedded parts": (lambda: make(Parts(size=2), factorized=True, embedding=2, prior=Learned()), (M, 2)),
    "parts with scales": (lambda: make(Parts((5, 2)), factorized=True, likelihood=DecodedNormal()), (M, 5)),
    "square parts": (lambda: make(Parts((N, M)), factorized=True, likelihood="bernoulli"), (M, N, M)),
}


@pytest.fixture(autouse=True)
def own_param_store():
    """Give Pyro's parameter store back as it was."""
    with pyro.get_param_store().scope():
        yield


def built(entry):
    torch.manual_seed(0)
    make, event = entry
    model = make().double()
    for parameter in model.prior.parameters():
        nn.init.normal_(parameter)
    return model, model(num_samples=N).detach(), event


@pytest.fixture(params=MODELS)
def case(request):
    return built(MODELS[request.param])


@pytest.fixture(params=FACTORIZED)
def parts(request):
    return built(FACTORIZED[request.param])


@pytest.fixture(params=[*MODELS, *FACTORIZED])
def either(request):
    return built((MODELS | FACTORIZED)[request.param])


def trace(model, x, c=None, **kwargs):
    conditioned = model if c is None else poutine.condition(model, data={"c": c})
    found = poutine.trace(conditioned).get_trace(x, **kwargs)
    found.compute_log_prob()
    return found


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_sites_plate_and_shapes(case):
    model, x, event = case
    found = trace(model, x)
    assert found.nodes["c"]["value"].shape == (N, model.num_latents)
    assert found.nodes["c"]["value"].dtype == torch.long
    assert found.nodes["x"]["fn"].event_shape == event and x.shape == (N, *event)
    for site in ("c", "x"):
        (frame,) = found.nodes[site]["cond_indep_stack"]
        assert (frame.name, frame.dim, frame.size) == ("data", -1, N)
        assert found.nodes[site]["log_prob"].shape == (N,)


def test_sites_of_a_factorized_model_stand_in_two_plates(parts):
    model, x, event = parts
    found = trace(model, x)
    assert found.nodes["c"]["value"].shape == (M, N)
    assert found.nodes["x"]["fn"].event_shape == event[1:] and x.shape == (N, *event)
    close(found.nodes["_RETURN"]["value"], x)
    for site in ("c", "x"):
        frames = found.nodes[site]["cond_indep_stack"]
        assert [(f.name, f.dim, f.size) for f in frames] == [("data", -1, N), ("latents", -2, M)]
        assert found.nodes[site]["log_prob"].shape == (M, N)


def test_the_joint_is_prior_plus_likelihood(case):
    model, x, _ = case
    c = Codes(torch.zeros(N, model.num_latents, model.num_classes)).sample()
    found = trace(model, x, c)
    close(found.nodes["c"]["log_prob"], model.prior().log_prob(c))
    close(found.nodes["x"]["log_prob"], model.decode(c).log_prob(x))


def test_a_factorized_joint_is_the_sum_over_its_latents(parts):
    """The same decoder, called with whole codes, datum by datum."""
    model, x, _ = parts
    c = torch.randint(K, (M, N))
    found = trace(model, x, c)
    close(found.nodes["c"]["log_prob"].sum(0), model.prior().log_prob(c.T))
    for n in range(N):
        inputs = torch.nn.functional.one_hot(c[:, n], K).double().unsqueeze(0)
        if model.table is not None:
            inputs = torch.stack([model.table[m, c[m, n]] for m in range(M)]).unsqueeze(0)
        output = model.decoder(inputs)
        whole = model.likelihood.distribution(output, model.likelihood.event_shape(output.shape[1:]))
        close(found.nodes["x"]["log_prob"].sum(0)[n], whole.log_prob(x[n])[0])


def test_the_decoder_sees_one_hot_codes_or_embeddings():
    seen = []

    class Watching(nn.Linear):
        def forward(self, inputs):
            seen.append(inputs)
            return super().forward(inputs)

    c = torch.randint(K, (N, M))
    make(Watching(M * K, 5)).decode(c)
    assert torch.equal(seen.pop(), torch.nn.functional.one_hot(c, K).float().flatten(1))
    model = make(Watching(M * 2, 5), embedding=2)
    model.decode(c)
    torch.testing.assert_close(seen.pop(), torch.cat([model.table[m, c[:, m]] for m in range(M)], 1))
    relaxed = torch.rand(N, M, K).softmax(-1)
    make(Watching(M * K, 5)).decode(with_relaxation(c, relaxed))
    assert torch.equal(seen.pop(), relaxed.flatten(1))


class Counting(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net, self.rows = net, []

    def forward(self, inputs):
        self.rows.append(len(inputs))
        return self.net(inputs)


def enumerated(model, x, nesting):
    marked = poutine.infer_config(model, lambda site: {"enumerate": "parallel"} if site["name"] == "c" else {})
    found = poutine.trace(poutine.enum(marked, first_available_dim=-1 - nesting)).get_trace(x)
    found.compute_log_prob()
    return found


def test_enumerated_the_decoder_is_called_once_on_the_codes(case):
    model, x, _ = case
    model.decoder = counting = Counting(model.decoder)
    count = model.num_classes**model.num_latents
    found = enumerated(model, x, 1)
    assert counting.rows == [count]
    c = found.nodes["c"]["value"]
    assert c.shape == (count, 1, model.num_latents)
    assert found.nodes["x"]["log_prob"].shape == (count, N)
    for row in (0, 1, count - 1):
        one = trace(model, x, c[row].expand(N, -1))
        close(found.nodes["x"]["log_prob"][row], one.nodes["x"]["log_prob"])
        close(found.nodes["c"]["log_prob"][row].expand(N), one.nodes["c"]["log_prob"])


def test_enumerated_a_factorized_decoder_is_called_once_on_the_classes(parts):
    model, x, _ = parts
    model.decode(torch.zeros(M, N).long())  # the look at the decoder
    model.decoder = counting = Counting(model.decoder)
    found = enumerated(model, x, 2)
    assert counting.rows == [K]
    assert found.nodes["c"]["value"].shape == (K, 1, 1)
    assert found.nodes["x"]["log_prob"].shape == (K, M, N)
    for k in range(K):
        one = trace(model, x, torch.full((M, N), k))
        for site in ("c", "x"):
            close(found.nodes[site]["log_prob"][k].expand(M, N), one.nodes[site]["log_prob"])


def test_particles_are_separate_calls(either):
    model, x, _ = either
    shape = (M, N) if model.factorized else (N, model.num_latents)
    c = torch.randint(model.num_classes, (3, *shape))

    def plated(x):
        with pyro.plate("particles", 3, dim=-3):
            return model(x)

    inside = c if model.factorized else c.unsqueeze(1)
    found = trace(plated, x, inside)
    for site in ("c", "x"):
        assert found.nodes[site]["log_prob"].shape == (3, *((M, N) if model.factorized else (1, N)))
        for s in range(3):
            one = trace(model, x, c[s]).nodes[site]["log_prob"]
            close(found.nodes[site]["log_prob"][s].reshape(one.shape), one)


def test_drawing_under_particles(either):
    model, _, event = either
    with pyro.plate("particles", 2, dim=-3):
        drawn = model(num_samples=N)
    assert drawn.shape == ((2, N, *event) if model.factorized else (2, 1, N, *event))


def test_observing_and_drawing_are_the_same_model(either):
    model, _, _ = either
    drawn = poutine.trace(model).get_trace(num_samples=N)
    drawn.compute_log_prob()
    scored = trace(model, drawn.nodes["_RETURN"]["value"], drawn.nodes["c"]["value"])
    for site in ("c", "x"):
        close(scored.nodes[site]["log_prob"], drawn.nodes[site]["log_prob"])


def test_a_mask_hides_entries_from_the_density_even_nan(either):
    model, x, _ = either
    mask = torch.rand(x.shape) < 0.6
    c = trace(model, x).nodes["c"]["value"]
    found = trace(model, torch.where(mask, x, torch.nan), c, mask=mask).nodes["x"]["log_prob"]
    p_x = model.decode(c)
    entries, given, kept = p_x.base_dist, x, mask
    if model.factorized:
        given, kept = x.movedim(1, 0), mask.movedim(1, 0)
    expected = (entries.log_prob(given) * kept).flatten(len(p_x.batch_shape)).sum(-1)
    close(found, expected)
    assert not torch.allclose(found, p_x.log_prob(given))  # negative twin: the mask matters


def test_gradients_reach_every_parameter(either):
    model, x, _ = either
    trace(model, x).log_prob_sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_two_models_share_no_prior():
    one, two = make(MLP(M * K, 5), prior=Learned()), make(MLP(M * K, 5))
    assert not set(one.parameters()) & set(two.parameters())
    prior = Learned(M, K)
    assert make(MLP(M * K, 5), prior=prior).prior is prior


def test_any_module_is_a_prior():
    class Dependent(nn.Module):
        """c_0 uniform, c_1 the same or the next: no Codes, scored by hand."""

        def forward(self):
            return Chained()

    class Chained(dist.TorchDistribution):
        arg_constraints: ClassVar = {}
        has_rsample = False

        def __init__(self, batch=()):
            super().__init__(torch.Size(batch), torch.Size([2]), validate_args=False)

        def expand(self, batch_shape, _instance=None):
            return Chained(batch_shape)

        def sample(self, sample_shape=()):
            first = torch.randint(K, (*sample_shape, *self.batch_shape))
            return torch.stack([first, (first + torch.randint(2, first.shape)) % K], -1)

        def log_prob(self, c):
            return torch.where((c[..., 1] - c[..., 0]) % K < 2, torch.tensor(1 / (2 * K)).log(), -torch.inf)

    model = make(MLP(2 * K, 5), num_latents=2, prior=Dependent())
    x = model(num_samples=N).detach()
    assert trace(model, x).nodes["c"]["log_prob"].exp().tolist() == pytest.approx([1 / (2 * K)] * N)
    with pytest.raises(ValueError, match=r"factorized=True the prior must have independent latents .* got Chained"):
        make(Parts(), num_latents=2, prior=Dependent(), factorized=True)


def test_the_look_at_a_decoder_changes_nothing():
    class Stateful(Parts):
        def __init__(self):
            super().__init__()
            self.norm, self.drop = nn.BatchNorm1d(M), nn.Dropout(0.5)

        def forward(self, codes):
            return self.drop(self.norm(super().forward(codes)))

    model = make(Stateful(), factorized=True)
    model.decoder.drop.eval()
    torch.manual_seed(5)
    noise = torch.get_rng_state()
    model._check_factorized()
    assert torch.equal(torch.get_rng_state(), noise)
    assert model.decoder.norm.num_batches_tracked == 0
    assert (model.decoder.training, model.decoder.norm.training, model.decoder.drop.training) == (True, True, False)


def mixed(codes):
    """Output m sees latent m - 1 too."""
    return codes + 0.01 * codes.roll(1, 1)


class Module(nn.Module):
    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, inputs):
        return self.fn(inputs)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make(MLP(M * K, 5))(), "DiscreteVAE: x or num_samples is required, got neither"),
        (lambda: make(MLP(M * K, 5), num_classes=1), "num_classes >= 2 .* got num_latents=3, num_classes=1"),
        (lambda: make(MLP(M * K, 5), num_latents=0), "got num_latents=0"),
        (lambda: make(MLP(M * K, 5), embedding=0), "embedding=0"),
        (
            lambda: make(MLP(M * K, 5), prior=Uniform(2, K)),
            r"DiscreteVAE: the prior must have batch shape \(\) and event shape \(3,\), got \(\) and \(2,\)",
        ),
        (
            lambda: make(MLP(M * K, 63))(torch.zeros(N, 64)),
            r"DiscreteVAE: the decoder must return \(..., 64\) for x of shape \(7, 64\), got \(7, 63\)",
        ),
        (
            lambda: enumerated(make(Module(lambda h: h.reshape(N, -1))), torch.zeros(N, 12), 1),
            r"must map \(B, 12\) to \(B, ...\), and that for any number of rows B .* it failed for B=64: shape",
        ),
        (
            lambda: enumerated(make(Module(lambda h: h.new_zeros(N, 5))), torch.zeros(N, 5), 1),
            r"apply_batched: Module must return \(64, ...\) for an input \(64, 12\), got \(7, 5\)",
        ),
        (lambda: make(nn.Linear(9, 5))(num_samples=N), r"must map \(B, 12\) to .* failed for B=7: mat1"),
        (
            lambda: make(Module(mixed), factorized=True)(num_samples=N),
            "output m of the decoder must depend on latent m alone, but output 1 moves with latent 0",
        ),
        (
            lambda: make(Module(lambda h: h.flatten(1)), factorized=True)(num_samples=N),
            r"with factorized=True the decoder must return \(B, 3, ...\), .* got \(4, 12\) for B=4",
        ),
        (
            lambda: make(Parts(), factorized=True)(torch.zeros(N, 5, 2)),
            r"with factorized=True the data must be \(N, 3, \*part\), got \(7, 5, 2\)",
        ),
        (
            lambda: make(Parts(), factorized=True)(torch.zeros(N, M, 5)),
            r"the decoder must return \(..., 5\) for x of shape \(7, 5\)",
        ),
        (
            lambda: make(MLP(M * K, 5)).decode(torch.zeros(N, M + 1).long()),
            r"DiscreteVAE: codes must be \(..., 3\) for num_latents=3, factorized=False, got \(7, 4\); the guide must",
        ),
        (
            lambda: make(MLP(M * K, 5)).decode(torch.zeros(M, N).long()),  # those of a factorized guide
            r"codes must be \(..., 3\) for num_latents=3, factorized=False, got \(3, 7\)",
        ),
        (
            lambda: make(Parts(), factorized=True).decode(torch.zeros(N, M).long()),
            r"codes must be \(..., 3, N\) for num_latents=3, factorized=True, got \(7, 3\)",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_other_errors_of_a_decoder_are_not_dressed_up():
    class Trouble(RuntimeError):
        pass

    def fail(inputs):
        raise Trouble

    with pytest.raises(Trouble):
        make(Module(fail))(num_samples=N)


def test_repr_says_what_it_is():
    text = repr(make(Parts(size=2), factorized=True, embedding=2, prior=Learned()))
    assert "num_latents=3, num_classes=4, embedding=2, factorized=True" in text
    assert "(prior): Learned(3, 4)" in text
