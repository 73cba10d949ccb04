"""DeterministicVI: draws that grow, seeds, precision, run folders, and what it says of input that it cannot fit."""

from __future__ import annotations

import copy
import itertools
import math
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from normal_pairs import FIT, REFUSED, classes, data, positive
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from schools import DATA as SCHOOLS
from schools import non_centred as schools
from torch import Tensor
from torch.distributions import constraints

import ppl_vae
from ppl_vae import DeterministicVI
from ppl_vae.distributions import Flat
from ppl_vae.storage import StorageError, decode_json, encode_json
from ppl_vae.storage.digest import sha256


def line(x: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(torch.zeros(3), 5.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)


def line_guide(x: Tensor) -> None:
    loc, scale = pyro.param("loc", lambda: torch.zeros(3)), positive("scale", torch.ones(3))
    pyro.sample("mean", dist.Normal(loc, scale).to_event(1))


def bits(fit) -> list[Tensor]:
    return [leaf.detach().clone() for leaf in fit.parameters_by_name().values()]


# draws


def said(fit):
    """The remarks of a certificate but the estimated bound."""
    return [remark for remark in fit.certificate.remarks if not remark.startswith("Estimated bound")]


def test_draws_grow_until_fresh_ones_agree():
    """Few draws flatter a full-rank normal of ten latents; 40 are taken at least, and doubled until they do no more."""
    way = DeterministicVI(schools, AutoMultivariateNormal(schools), num_draws=16, tol=0.05)
    fit = way.fit(SCHOOLS)
    counts = fit.history["num_draws"].tolist()
    assert counts[0] == 40
    assert len(counts) > 1
    assert all(after in (2 * before, 4 * before) for before, after in itertools.pairwise(counts))
    optimism = 8 * (fit.history["objective"] - fit.history["elbo"])
    assert optimism.iloc[0] > 0.1
    assert optimism.iloc[-1] <= 0.05
    assert fit.history["elbo"].is_monotonic_increasing
    numbers = fit.certificate.numbers
    assert numbers["num_draws"] == counts[-1]
    assert numbers["in_sample_elbo"] - numbers["elbo"] + 2 * numbers["elbo_error"] <= 0.05
    assert fit.certificate.converged, fit.certificate


def test_with_too_few_draws_it_is_not_certified():
    way = DeterministicVI(schools, AutoMultivariateNormal(schools), num_draws=40, max_draws=40)
    fit = way.fit(SCHOOLS)
    assert len(fit.history) == 1
    assert not fit.certificate.converged
    assert fit.ended == "not converged"
    assert [line.what for line in fit.certificate.failed if line.about == "optimum"] == ["ELBO on fresh draws"]
    assert "raise max_draws" in fit.certificate.sentence


def test_more_draws_than_four_for_each_parameter_of_a_row():
    """A triangle of 100 latents has rows of up to 100 numbers: 400 draws; a diagonal has rows of one."""

    def wide() -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(100), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(z.sum(-1), 1.0), obs=torch.tensor(1.0))

    full = DeterministicVI(wide, AutoMultivariateNormal(wide), num_draws=256).fit(None)
    assert full.history["num_draws"].tolist() == [400]
    exact = -0.5 * math.log(2 * math.pi * 101) - 0.5 / 101
    assert full.certificate.converged, full.certificate
    assert full.certificate.numbers["elbo"] == pytest.approx(exact, abs=0.02)
    narrow = DeterministicVI(line, line_guide, num_draws=2).fit(data())
    assert narrow.history["num_draws"].tolist()[0] == 4


def test_an_odd_number_of_draws_is_made_even():
    fit = DeterministicVI(line, line_guide, num_draws=33).fit(data())
    assert fit.history["num_draws"].tolist() == [34]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_draws": 0}, "num_draws must be at least 1, got 0"),
        ({"num_starts": -1}, "num_starts must be at least 1, got -1"),
        ({"max_iter": 0}, "max_iter must be at least 1, got 0"),
        ({"tol": 0.0}, "tol, in nats, must be positive, got 0.0"),
        ({"tol": math.nan}, "tol, in nats, must be positive, got nan"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=f"DeterministicVI: {message}"):
        DeterministicVI(line, line_guide, **options)


# seeds


def test_a_seed_is_the_same_bits_and_another_is_other_draws():
    one, same, other = (
        DeterministicVI(schools, AutoMultivariateNormal(schools), max_draws=256).fit(SCHOOLS, seed=seed)
        for seed in (3, 3, 4)
    )
    assert all(map(torch.equal, bits(one), bits(same)))
    assert one.certificate.numbers == pytest.approx(same.certificate.numbers, rel=1e-9)
    assert not any(map(torch.equal, bits(one), bits(other)))
    assert one.certificate.numbers["elbo"] == pytest.approx(other.certificate.numbers["elbo"], abs=0.3)


def test_the_generator_of_the_caller_is_left_alone():
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    DeterministicVI(line, line_guide).fit(data())
    assert torch.equal(torch.randn(3), expected)


def test_fitting_again_begins_at_the_same_answer():
    way = DeterministicVI(line, line_guide)
    first = way.fit(data()).certificate.numbers["elbo"]
    assert way.fit(data()).certificate.numbers["elbo"] == pytest.approx(first, abs=1e-9)


def test_a_start_of_the_callers():
    """Of two modes the one that is named, when it is the only place that is looked at."""

    def two() -> None:
        z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 10.0))
        pyro.sample("y", dist.Normal(z.abs(), 0.1), obs=torch.tensor(4.0))

    fit = DeterministicVI(two, AutoNormal(two)).fit(None, start={"z": 4.2})
    assert not fit.certificate.given  # half of the mass is elsewhere
    assert fit.certificate.numbers["elsewhere"] == pytest.approx(0.5, abs=0.01)


# kinds of pairs


@pytest.mark.parametrize("name", [name for name in FIT if name != "weights"])  # evaluations leave weights out
def test_every_kind_of_pair_is_fitted(name):
    """Until no direction of the parameters raises the ELBO; which it states as the pair's own evaluations do."""
    fit = DeterministicVI(*FIT[name](), max_draws=256).fit(data())
    decrement = fit.certificate.numbers["newton_decrement"]
    assert decrement is not None
    assert decrement <= 0.01, fit.certificate
    if fit.pair.vectorizes(fit.pair.rows(data()).batch()):
        elbo = fit.elbo(data(), num_samples=4000, seed=7)
        assert float(elbo.sum()) == pytest.approx(fit.certificate.numbers["elbo"], abs=0.5)
    assert len(fit.certificate.lines) >= 5


def test_summed_classes_are_summed():
    """Two classes of one datum: log Z against quadrature over the location."""

    def one(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 3.0))
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(loc + 2.0 * c, 1.0), obs=x[:, 0])

    fit = DeterministicVI(one, AutoNormal(pyro.poutine.block(one, hide=["c"]))).fit(data())
    grid = torch.linspace(-15, 15, 20_001, dtype=torch.float64).unsqueeze(1)
    x = data()[:, 0]
    terms = [math.log(p) + dist.Normal(grid + c, 1.0).log_prob(x) for p, c in ((0.7, 0.0), (0.3, 2.0))]
    joint = torch.stack(terms).logsumexp(0).sum(1) + dist.Normal(0.0, 3.0).log_prob(grid[:, 0])
    exact = float(joint.logsumexp(0)) + math.log(30 / 20_000)
    numbers = fit.certificate.numbers
    assert numbers["log_evidence"] == pytest.approx(exact, abs=4 * numbers["log_evidence_error"] + 1e-4)
    assert numbers["elbo"] <= exact
    assert classes.__doc__  # the pair of the table is of the same form


@pytest.mark.filterwarnings("ignore:Pair. the guide draws 'means', which is no latent")
@pytest.mark.parametrize("name", REFUSED)
def test_every_other_kind_is_refused_with_the_way_out(name):
    make, reason = REFUSED[name]
    with pytest.raises(ValueError) as caught:
        DeterministicVI(*make()).fit(data())
    message = str(caught.value)
    assert message.startswith("DeterministicVI: noise that can be fixed is required, but ")
    assert reason in message
    assert message.endswith("; fit this pair by VariationalEM")


# precision


X32, Y32 = data(12).float()[:, :2], data(12).float()[:, 2]


def closure() -> None:
    """Numbers of its own in 32 bits, in a product of matrices, which takes one precision only."""
    b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(b @ X32.T, 0.5).to_event(1), obs=Y32)


def from_data(x: Tensor, y: Tensor) -> None:
    b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ b, 0.5), obs=y)


def test_a_closure_in_32_bits_is_fitted_in_its_own_precision_and_it_is_said():
    way = DeterministicVI(closure, AutoMultivariateNormal(closure))
    fit = way.fit(None)
    assert fit.config["dtype"] == "float32"
    assert fit.certificate.converged, fit.certificate
    (remark,) = said(fit)
    assert remark.startswith("The fit was made in float32: the pair does not run in float64")
    assert remark in repr(fit.certificate)
    same = DeterministicVI(from_data, AutoMultivariateNormal(from_data)).fit((X32, Y32))
    assert same.config["dtype"] == "float64"
    assert said(same) == []
    assert fit.certificate.numbers["elbo"] == pytest.approx(same.certificate.numbers["elbo"], abs=1e-3)
    assert said(way.fit(None)) == [remark]


def test_a_precision_that_is_asked_for_is_kept():
    fit = DeterministicVI(from_data, AutoMultivariateNormal(from_data), dtype=torch.float32).fit((X32, Y32))
    assert fit.config["dtype"] == "float32"
    assert said(fit) == []
    with pytest.raises(RuntimeError, match="same dtype"):
        DeterministicVI(closure, AutoMultivariateNormal(closure), dtype=torch.float64).fit(None)


def test_an_error_that_has_nothing_to_do_with_it_passes():
    def broken(x: Tensor) -> None:
        raise RuntimeError("mine alone")

    with pytest.raises(RuntimeError, match="mine alone"):
        DeterministicVI(broken, line_guide).fit(data())


# run folders


@pytest.fixture(scope="module")
def fitted():
    torch.manual_seed(0)
    return DeterministicVI(line, line_guide).fit(data())


def test_a_run_folder_keeps_all_of_it(fitted, tmp_path):
    loaded = ppl_vae.load(fitted.save(tmp_path / "run"), model=line, guide=line_guide)
    assert loaded.certificate == fitted.certificate
    assert repr(loaded.certificate) == repr(fitted.certificate)
    assert repr(loaded) == repr(fitted)
    assert "evaluations of the ELBO" in repr(loaded)
    assert fitted.certificate.sentence in repr(loaded)
    assert loaded.history.equals(fitted.history)
    assert all(map(torch.equal, bits(loaded), bits(fitted)))
    assert float(loaded.elbo(data()).sum()) == float(fitted.elbo(data()).sum())


def test_copies_keep_it_too(fitted):
    for other in (copy.deepcopy(fitted), pickle.loads(pickle.dumps(fitted))):
        assert other.certificate == fitted.certificate
        assert other.history.equals(fitted.history)
        assert all(map(torch.equal, bits(other), bits(fitted)))


def test_what_is_not_known_is_null_on_disk(tmp_path):
    """JSON knows no infinity: an unbounded decrement comes back as not known, and its line as it was."""

    def improper(x: Tensor) -> None:
        pyro.sample("mean", Flat(constraints.real))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(torch.zeros(3), 1.0).to_event(1), obs=x)

    fit = DeterministicVI(improper, AutoNormal(improper), max_draws=256).fit(data())
    loaded = ppl_vae.load(fit.save(tmp_path / "run"), model=improper, guide=AutoNormal(improper))
    assert loaded.certificate == fit.certificate
    assert loaded.certificate.numbers["newton_decrement"] is None


def test_what_a_later_version_has_put_beside_is_passed_over(fitted, tmp_path):
    folder = tampered(fitted, tmp_path, lambda c: c["lines"][0].update(colour="red"))
    assert ppl_vae.load(folder, model=line, guide=line_guide).certificate == fitted.certificate


def tampered(fit, tmp_path, change):
    """A run folder whose certificate has been changed, and its manifest with it."""
    folder = fit.save(tmp_path / "run")
    config = decode_json((folder / "config.json").read_bytes())
    change(config["fit"]["certificate"])
    raw = encode_json(config)
    (folder / "config.json").write_bytes(raw)
    manifest = decode_json((folder / "manifest.json").read_bytes())
    manifest["files"]["config.json"] = {"sha256": sha256(raw), "size": len(raw)}
    (folder / "manifest.json").write_bytes(encode_json(manifest))
    return folder


TAMPERED = {
    "a line is lacking a key": lambda c: c["lines"][0].pop("found"),
    "an unknown kind": lambda c: c["lines"][0].update(about="luck"),
    "a number for a word": lambda c: c["lines"][0].update(what=3),
    "a word for a flag": lambda c: c["lines"][0].update(holds="yes"),
    "a word for a number": lambda c: c["numbers"].update(elbo="high"),
    "no lines": lambda c: c.pop("lines"),
    "a remark that is none": lambda c: c.update(remarks=[1]),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_certificate_that_was_tampered_with_is_refused_by_file_and_key(name, fitted, tmp_path):
    folder = tampered(fitted, tmp_path, TAMPERED[name])
    with pytest.raises(StorageError, match=r"config\.json.*certificate"):
        ppl_vae.load(folder, model=line, guide=line_guide)


def test_there_are_no_steps_to_go_on_from(fitted):
    assert not fitted.has_run
    with pytest.raises(
        RuntimeError, match=r"DeterministicVI made this fit, and it makes no steps .* call Deterministic"
    ):
        fitted.resume(steps=10)


# input that cannot be fitted


@pytest.mark.parametrize("kind", [AutoNormal, AutoMultivariateNormal])
def test_an_improper_posterior_is_never_certified(kind):
    """b has a flat prior and no data: the ELBO grows with the log of its scale."""

    def model(x: Tensor) -> None:
        a, _ = pyro.sample("a", Flat(constraints.real)), pyro.sample("b", Flat(constraints.real))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(a, 1.0), obs=x[:, 0])

    fit = DeterministicVI(model, kind(model), max_draws=256).fit(data())
    assert not fit.certificate.given
    assert not fit.certificate.converged
    assert fit.certificate.remarks == (
        "The prior of 'a', 'b' is improper: where the data do not bound it there is no posterior, and the ELBO has no "
        "maximum.",
    )
    decrement = next(line for line in fit.certificate.lines if line.what == "Newton decrement")
    assert decrement.holds is False


def test_a_flat_prior_that_the_data_bound_is_no_matter():
    def model(x: Tensor) -> None:
        a = pyro.sample("a", Flat(constraints.real))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(a, 1.0), obs=x[:, 0])

    fit = DeterministicVI(model, AutoNormal(model)).fit(data())
    assert fit.certificate.given, fit.certificate
    assert said(fit) == []
    x = data()[:, 0]
    exact = -3.0 * math.log(2 * math.pi) - 0.5 * math.log(7) - 0.5 * float((x - x.mean()).square().sum())
    assert fit.certificate.numbers["elbo"] == pytest.approx(exact, abs=1e-6)


def test_a_density_that_is_nowhere_finite_is_an_error_with_the_way_out():
    def impossible(x: Tensor) -> None:
        line(x)
        pyro.factor("never", torch.tensor(-torch.inf))

    with pytest.raises(ValueError, match=r"log p\(x, z\) is not finite at any of \d+ starts .* give start="):
        DeterministicVI(impossible, line_guide).fit(data())


def test_data_with_holes_are_refused_by_row():
    x = data()
    x[3, 1] = torch.nan
    with pytest.raises(ValueError, match="no NaN is allowed, found one at row 3"):
        DeterministicVI(line, line_guide).fit(x)


def test_a_density_that_ends_where_the_guide_does_not_is_not_certified():
    """A latent on the line whose density is 0 below 0: every normal has draws there, so its ELBO is minus infinity."""

    def model(x: Tensor) -> None:
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.factor("inside", torch.where(a > 0, 0.0, -torch.inf))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(a, 1.0), obs=x[:, 0])

    fit = DeterministicVI(model, AutoNormal(model), max_draws=256).fit(data())
    assert not fit.certificate.converged
