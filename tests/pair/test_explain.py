"""Errors out of a person's model and guide: said with the row, the argument, the site that has made them."""

from __future__ import annotations

import re

import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch.distributions import constraints
from torch.utils.data import DataLoader, Dataset, TensorDataset

from ppl_vae import Pair, VariationalEM
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE
from ppl_vae.pair.outside import OutsideSupportError
from ppl_vae.training import NonFiniteError

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))


def networks(likelihood="normal"):
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = VAE(nn.Linear(2, 3), latent_dim=2, likelihood=likelihood)
        return model, AmortizedNormal(nn.Linear(3, 4), latent_dim=2)


def no_guide(x, y=None):
    pass


def fit(pair, data, **options):
    return VariationalEM(*pair).fit(data, **{"steps": 2, "progress": False, **options})


# numbers that are infinite


def broken():
    x = X.clone()
    x[5, 1] = torch.inf
    return x


@pytest.mark.parametrize(
    ("make", "place"),
    [
        (lambda: broken(), r"data\[0\] holds inf at row 5, column 1"),
        (lambda: -broken(), r"data\[0\] holds -inf at row 5, column 1"),
        (lambda: pd.DataFrame(broken().numpy()), r"data\[0\] holds inf at row 5, column 1"),
        (lambda: {"x": broken()}, r"data\['x'\] holds inf at row 5, column 1"),
    ],
)
def test_an_infinite_number_is_named_by_row_and_column(make, place):
    with pytest.raises(ValueError, match=f"^Pair: {place}"):
        fit(networks(), make())
    good = fit(networks(), X)
    with pytest.raises(ValueError, match=place):
        good.elbo(make())


def test_an_infinite_number_in_a_later_batch_is_named_by_its_row_in_the_whole():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.param("m", torch.zeros(3)), 1.0).to_event(1), obs=x)

    seed = next(s for s in range(20) if 5 not in first_rows(s))
    with pytest.raises(NonFiniteError, match=r"the data \(part 0\) hold .* inf at row 5, column 1"):
        fit((model, no_guide), broken(), batch_size=10, steps=4, seed=seed)


def first_rows(seed):
    from ppl_vae._random import generator

    return torch.randperm(40, generator=generator(seed, "permutation", 0))[:10].tolist()


class Items(Dataset):
    """Rows one by one, all of which from number 30 on hold an infinity."""

    def __init__(self, bad=torch.inf):
        self.x = X.clone()
        self.x[30:, 1] = bad

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i]


def row_in(error):
    return int(re.search(r" row (\d+)", str(error.value)).group(1))


def normal(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(pyro.param("m", torch.zeros(3)), 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("networked", [True, False])
def test_a_row_of_a_data_set_is_named_by_its_number_in_the_whole(seed, networked):
    pair = networks() if networked else (normal, no_guide)
    with pytest.raises((ValueError, NonFiniteError), match="holds inf at row") as error:
        fit(pair, Items(), batch_size=5, steps=8, seed=seed)
    assert row_in(error) >= 30


@pytest.mark.parametrize("data", [Items(), Items().x])
def test_a_row_of_a_measurement_in_pieces_is_named_by_its_number_in_the_whole(data):
    fitter = VariationalEM(*networks())
    fitter.pair.initialize(X)
    with pytest.raises(ValueError, match="holds inf at row 30, column 1"):
        fitter.evaluate(data, batch_size=8)


def test_a_row_of_a_data_loader_is_a_row_of_a_batch():
    unknown = r"holds inf at row \d of a batch \(a DataLoader does not tell its number\), column 1"
    for pair in (networks(), (normal, no_guide)):
        with pytest.raises((ValueError, NonFiniteError), match=unknown):
            fit(pair, DataLoader(Items(), batch_size=8), steps=5)
    with pytest.raises(ValueError, match="batch 3 of the DataLoader, data: no NaN is allowed, found one at row 6"):
        fit(networks(), DataLoader(Items(torch.nan), batch_size=8), steps=5)


def test_what_is_masked_out_may_be_infinite():
    x = broken()
    assert fit(networks(), {"x": x, "mask": x.isfinite()}).ended == "completed"


# kinds of numbers


@pytest.mark.parametrize(
    ("data", "kind"),
    [(X > 0, "bool"), ((3 * X).long(), "int64"), ((3 * X).abs().byte(), "uint8"), ((X > 0).numpy(), "bool")],
)
def test_numbers_that_a_network_does_not_take_are_named_with_the_way_out(data, kind):
    with pytest.raises(ValueError, match=rf"other numbers: x \({kind}\); give x.float\(\)"):
        fit(networks("bernoulli"), data)
    good = fit(networks("bernoulli"), (X > 0).float())
    with pytest.raises(ValueError, match=rf"x \({kind}\); give x.float\(\)"):
        good.log_evidence(data)


def test_labels_and_counts_stay_whole_where_the_model_takes_them():
    def model(x):
        with pyro.plate("data", len(x)):
            rate = pyro.param("rate", torch.ones(()), constraint=constraints.positive)
            pyro.sample("x", dist.Poisson(rate), obs=x)

    assert fit((model, no_guide), torch.tensor([0, 1, 4])).ended == "completed"


def test_fractions_where_a_model_asks_for_numbers_of_classes():
    table = nn.Embedding(3, 1)

    def model(x):
        pyro.module("table", table)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(table(x)[:, 0], 1.0), obs=torch.zeros(len(x)))

    with pytest.raises(ValueError, match=r"asks for whole numbers .*x \(float32\); give data.long\(\)"):
        fit((model, no_guide), torch.tensor([0.0, 1.0]))


# values outside of a support


def beta(x):
    a = pyro.param("a", torch.ones(()), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Beta(a, 1.0), obs=x)


def shares():
    x = torch.linspace(0.1, 0.9, 40)
    x[7] = 1.5
    return x


@pytest.mark.parametrize("batch_size", [None, 5])
def test_a_value_outside_of_a_support_is_named_by_site_row_and_value(batch_size):
    with pytest.raises(OutsideSupportError, match=r"observed site 'x' at row 7 is 1.5, outside .*Interval") as caught:
        fit((beta, no_guide), shares(), epochs=1, steps=None, batch_size=batch_size)
    assert caught.value.site == "x"


def test_the_entry_of_an_event_and_of_a_plate_within():
    def model(x):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("pixels", 3, dim=-1):
            pyro.sample("x", dist.Bernoulli(logits=pyro.param("l", torch.zeros(3))), obs=x)

    x = torch.zeros(40, 3)
    x[9, 2] = 2.0
    with pytest.raises(OutsideSupportError, match="at row 9, entry 2 is 2, outside of its support Boolean"):
        fit((model, no_guide), x)
    with pytest.raises(ValueError, match="got 2 at row 9 of the 40 in this call, column 2"):  # the likelihood is first
        fit(networks("bernoulli"), x)


def test_a_class_too_many_and_an_evaluation_on_other_rows():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Categorical(logits=pyro.param("l", torch.zeros(3))), obs=x)

    good = fit((model, no_guide), torch.tensor([0, 1, 2, 2]))
    with pytest.raises(OutsideSupportError, match="'x' at row 2 is 3, outside of .*IntegerInterval"):
        good.elbo(torch.tensor([0, 1, 3]))


def test_a_guide_that_draws_off_the_models_support():
    def model(x):
        z = pyro.sample("z", dist.Gamma(1.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        pyro.sample("z", dist.Delta(torch.tensor(-2.0)))

    with pytest.raises(OutsideSupportError, match="latent site 'z' outside the data plate is -2, outside of"):
        fit((model, guide), X[:, 0])


# what is called with what


def by_index(x, index):
    w = pyro.param("w", torch.zeros(40))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(w[index], 1.0), obs=x)


def index_guide(x, index):
    pass


def test_a_required_index_that_nobody_knows():
    pair = (by_index, index_guide)
    assert fit(pair, X[:, 0], batch_size=10).ended == "completed"
    with pytest.raises(ValueError, match="the guide asks for `index`.*give fit the whole data and batch_size="):
        fit(pair, DataLoader(TensorDataset(X[:, 0]), batch_size=10))
    with pytest.raises(ValueError, match="nor do rows given by hand"):
        VariationalEM(*pair).step(X[:, 0])
    own = DataLoader(TensorDataset(X[:, 0], torch.arange(40)), batch_size=10)  # as the message says
    assert fit((lambda x, row: by_index(x, row), no_guide), own).ended == "completed"


def weighted(x, *, weights=None):
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(pyro.param("m", torch.zeros(())), 1.0), obs=x)


def weighted_guide(x, *, weights=None):
    pass


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"X": X[:, 0]}, r"the guide takes x, weights, got the key 'X'; did you mean 'x'\?"),
        ({"x": X[:, 0], "weight": X[:, 0]}, r"got the key 'weight'; did you mean 'weights'\?"),
        ({"x": X[:, 0], "quite_other": X[:, 0]}, "got the key 'quite_other'$"),
        ({"weights": X[:, 0]}, "got the parts 'weights' .*'x'.*; a tuple fills its arguments in order"),
        ((X[:, 0], X[:, 0], X[:, 0]), "the guide takes x, weights, got the parts 3 in order .*too many"),
    ],
)
def test_a_key_or_a_number_of_parts_that_does_not_fit(data, message):
    with pytest.raises(ValueError, match=f"^data: .*{message}"):
        fit((weighted, weighted_guide), data)


def test_a_wrong_key_under_an_autoguide():
    def model(x):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(m, 1.0), obs=x)

    with pytest.raises(ValueError, match=r"the model takes x, got the key 'xs'; did you mean 'x'\?"):
        fit((model, AutoNormal(model)), {"xs": X[:, 0]})


def test_a_type_error_of_the_models_own_passes_as_it_is():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(None + 1, 1.0), obs=x)

    with pytest.raises(TypeError, match="unsupported operand"):
        fit((model, no_guide), X)


# plates


def fixed(x):
    m = pyro.param("m", torch.zeros(()))
    with pyro.plate("data", 40):
        pyro.sample("x", dist.Normal(m, 1.0), obs=x)


def test_a_plate_of_a_fixed_size():
    with pytest.raises(ValueError, match="if the plate 'data' has a fixed size, make it `pyro.plate"):
        fit((fixed, no_guide), X[:, 0], batch_size=10)
    good = fit((fixed, no_guide), X[:, 0])
    with pytest.raises(ValueError, match=r"in a run on 5 rows the site 'x' has .* shape \(5,\).*\(40,\); a plate"):
        good.elbo(X[:5, 0])


def test_plates_made_for_an_autoguide_that_are_not_the_models():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(size):
        return AutoNormal(model, create_plates=lambda x: pyro.plate("data", 40, subsample_size=size))

    assert fit((model, guide(40)), X[:, 0]).ended == "completed"
    with pytest.raises(ValueError, match="the plates of create_plates= are not the model's"):
        fit((model, guide(10)), X[:, 0])
    own = AutoNormal(model, create_plates=lambda x: pyro.plate("data", len(x)))
    with pytest.raises(ValueError, match="AutoNormal: it keeps one posterior of 'z' per row"):
        fit((model, own), X[:, 0], batch_size=10)


def test_an_improper_uniform_prior_is_named_with_the_way_out():
    def model(x):
        m = pyro.sample("m", dist.ImproperUniform(constraints.real, (), ()))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(m, 1.0), obs=x)

    with pytest.raises(ValueError, match=r"the prior of 'm' is an ImproperUniform.*distributions.Flat\(support"):
        Pair(model, AutoNormal(model)).initialize(X[:, 0])
