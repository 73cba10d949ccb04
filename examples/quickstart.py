"""The first fifteen lines: declare a VAE, fit it to real digits, judge it, keep it, hand it to ArviZ.

As in the README, line by line; what stands alone on a line there (and shows itself in a notebook) is printed here.

    python examples/quickstart.py            (half a minute)
    python examples/quickstart.py --smoke    (seconds)
"""

from __future__ import annotations

import argparse
from pathlib import Path

import arviz as az
import torch

import ppl_vae
from ppl_vae import VariationalEM
from ppl_vae.data import load_digits
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE
from ppl_vae.nn import MLP


def run(out: Path, *, epochs: int, more: int, num_samples: int) -> None:
    torch.manual_seed(0)
    data = load_digits(binary=True)  # real 8x8 digits, inside a dependency; train (1500, 64), test (297, 64)
    model = VAE(MLP(8, 64, hidden=(128, 128)), latent_dim=8, likelihood="bernoulli")
    guide = AmortizedNormal(MLP(64, 16, hidden=(128, 128)), latent_dim=8)
    fit = VariationalEM(model, guide).fit(data.train, epochs=epochs, batch_size=100, seed=0)

    print(fit)  # what was fitted, how it ended, the numbers; a table in a notebook
    print(fit.history.tail(3).to_string(index=False))  # a pandas DataFrame
    print(f"test ELBO               {fit.elbo(data.test).mean():.3f} nats")  # (N,) nats
    print(f"test log-likelihood     {fit.log_evidence(data.test).mean()}")  # value, standard_error, ess, khat
    print(f"samples                 {tuple(fit.sample(16).shape)}")
    print(f"reconstructions         {tuple(fit.reconstruct(data.test[:8]).shape)}")
    print(f"codes                   {tuple(fit.encode(data.test).shape)}")

    fit.resume(epochs=more)  # to the bit where one longer run would have come
    print(f"after {fit.epochs} epochs         {fit.elbo(data.test).mean():.3f} nats")
    fit.save(out / "quickstart-run", overwrite=True)
    fit = ppl_vae.load(out / "quickstart-run", model, guide)
    print(f"loaded                  {fit.elbo(data.test).mean():.3f} nats")

    idata = fit.to_inference_data(data.test, num_samples=num_samples)
    print(az.summary(idata, var_names=["z"], coords={"data": [0]}, kind="stats"))
    draw(fit, data, out / "quickstart.png")


def draw(fit: ppl_vae.Fit, data: ppl_vae.data.Dataset, path: Path) -> None:
    """The fit over epochs, and the latent space of the test digits coloured by class."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    fit.plot.history(ax=left)
    fit.plot.latent(data.test, color=data.test_labels, ax=right)
    figure.savefig(path)
    print(f"drawn: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a run of seconds")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out", help="folder for the results")
    options = parser.parse_args()
    if options.smoke:
        print("a smoke run: it shows that the script runs, and its numbers mean nothing")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.smoke:
        run(options.out, epochs=3, more=1, num_samples=50)
    else:
        run(options.out, epochs=150, more=50, num_samples=1000)


if __name__ == "__main__":
    main()
