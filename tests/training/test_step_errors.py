"""An error out of a person's model in the middle of a fit: which step, which rows, and what to do."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ppl_vae import VariationalEM
from ppl_vae.cli import main
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE

X = torch.randn(33, 3, generator=torch.Generator().manual_seed(0))


def network(inner, outer):
    return nn.Sequential(nn.Linear(inner, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, outer))


def em():
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = VAE(network(2, 3), latent_dim=2, likelihood="normal")
        return VariationalEM(model, AmortizedNormal(network(3, 4), latent_dim=2))


def test_a_batch_of_one_row_under_batch_normalization():
    said = r"^step 1: the batch has 1 row \(of 33 in all\), and BatchNorm1d 'guide.encoder.1' needs .*last_batch='even'"
    with pytest.raises(ValueError, match=said) as caught:
        em().fit(X, epochs=1, batch_size=32, progress=False)
    assert "Expected more than 1 value per channel" in str(caught.value.__cause__)
    with pytest.raises(ValueError, match="drop_last=True of a DataLoader"):
        em().fit(DataLoader(TensorDataset(X), batch_size=32), epochs=1, progress=False)
    with pytest.raises(ValueError, match="step 0: the batch has 1 row"):
        em().step(X[:1])


@pytest.mark.parametrize("last_batch", ["even", "drop"])
def test_the_way_out_is_one(last_batch):
    assert em().fit(X, epochs=2, batch_size=32, progress=False, last_batch=last_batch).ended == "completed"


class Breaks(nn.Module):
    """Raises at a smaller batch."""

    def __init__(self, error):
        super().__init__()
        self.net, self.error = nn.Linear(3, 3), error

    def forward(self, x):
        if len(x) < 10:
            raise self.error("a small batch")
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.net(x), 1.0).to_event(1), obs=x)


def no_guide(x):
    pass


@pytest.mark.parametrize("error", [KeyError, ZeroDivisionError, ValueError, RuntimeError, TypeError, AssertionError])
def test_an_error_keeps_its_kind_and_gets_a_note(error):
    with pytest.raises(error, match="a small batch") as caught:
        VariationalEM(Breaks(error), no_guide).fit(X, epochs=1, batch_size=15, progress=False)
    assert caught.value.__notes__ == ["This was in step 2 of the fit, on 3 rows (data[0]: (3, 3) float32)."]


FILE = """
import pyro
import pyro.distributions as dist
def pair(data):
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.param("m", x.new_zeros(4)), 1.0).to_event(1), obs=x)
            {}
    def guide(x):
        pass
    return model, guide
"""


def test_the_command_says_the_line_of_the_file(tmp_path):
    (tmp_path / "mine.py").write_text(FILE.format("x.nothing"))
    target, out = f"{tmp_path / 'mine.py'}:pair", str(tmp_path / "run")
    result = CliRunner().invoke(main, ["fit", target, "--data", "iris", "--epochs", "1", "--out", out])
    assert result.exit_code == 2
    assert "AttributeError: 'Tensor' object has no attribute 'nothing' (line 8)" in " ".join(result.output.split())
