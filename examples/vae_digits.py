"""A convolutional VAE of real 8x8 digits, with what a careful fit has: warm-up, validation, the best epoch, a verdict.

The last 200 training rows choose the epoch; the test rows are looked at once, at the end.

    python examples/vae_digits.py            (a minute)
    python examples/vae_digits.py --smoke    (seconds)
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ppl_vae import ELBO, Fit, KeepBest, VariationalEM
from ppl_vae.data import Dataset, load_digits
from ppl_vae.diagnostics import Verdict, active_units, kl_per_dimension
from ppl_vae.evidence import decomposition
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE
from ppl_vae.nn import ConvDecoder, ConvEncoder
from ppl_vae.objectives import LinearWarmup

LATENT, HELD_OUT = 8, 200


def fit_digits(data: Dataset, *, epochs: int) -> Fit:
    """Fit with a KL whose weight rises from 0 to 1 over the first tenth, and keep the best epoch on validation rows."""
    torch.manual_seed(0)
    shape = data.image_shape
    model = VAE(ConvDecoder(LATENT, shape, channels=(32, 64)), latent_dim=LATENT, likelihood="bernoulli")
    guide = AmortizedNormal(ConvEncoder(shape, 2 * LATENT, channels=(32, 64)), latent_dim=LATENT)
    train, validation = data.train[:-HELD_OUT], data.train[-HELD_OUT:]
    warmup = LinearWarmup(max(1, epochs * len(train) // 100 // 10))
    em = VariationalEM(model, guide, objective=ELBO(beta=warmup), lr=1e-3, clip_norm=50.0)
    # val_elbo has beta = 1 throughout, so epochs of the warm-up are judged as the others are
    best = KeepBest(metric="val_elbo")
    fit = em.fit(train, epochs=epochs, batch_size=100, validation=validation, callbacks=[best], seed=0)
    print(fit)
    print(f"best epoch {best.best_epoch + 1}, validation ELBO {best.best:.3f} nats")
    return fit


def judge(fit: Fit, test: torch.Tensor, *, num_samples: int) -> None:
    """The one equation, taken apart on the test rows: evidence = reconstruction - KL + gap."""
    pieces = decomposition(fit, test, num_samples=num_samples)
    means, evidence = pieces.mean(), pieces.evidence.mean()
    print(f"reconstruction            {means['reconstruction']:9.3f} nats a digit")
    print(f"KL(q(z|x) || p(z))        {means['kl']:9.3f}")
    print(f"ELBO                      {means['elbo']:9.3f}")
    print(f"gap KL(q(z|x) || p(z|x))  {means['gap']:9.3f}")
    error = evidence.error_in_words(".3f")
    print(f"log p(x), K = {num_samples:<12}{means['evidence']:9.3f} ± {error}")
    print(f"KL by dimension           {[round(v, 2) for v in kl_per_dimension(fit, test)['z'].tolist()]}")
    print(Verdict.of(pieces, active_units(fit, test), noun="test digits"))


def draw(fit: Fit, data: Dataset, path: Path) -> None:
    """The fit, what it dreams, what it makes of digits it has not seen, and where it puts them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 8), dpi=150, layout="constrained")
    (history, samples), (copies, latent) = figure.subplots(2, 2)
    fit.plot.history(ax=history)
    fit.plot.samples(64, ax=samples)
    samples.set_title("from the prior", fontsize=10)
    fit.plot.reconstructions(data.test[:24], columns=8, ax=copies)
    fit.plot.latent(data.test, color=data.test_labels, ax=latent)
    figure.savefig(path)
    print(f"drawn: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a run of seconds")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out", help="folder for the plot")
    options = parser.parse_args()
    if options.smoke:
        print("a smoke run: it shows that the script runs, and its numbers mean nothing")
    options.out.mkdir(parents=True, exist_ok=True)
    epochs, num_samples = (2, 50) if options.smoke else (150, 5000)
    data = load_digits(binary=True).as_images()  # (N, 1, 8, 8)
    fit = fit_digits(data, epochs=epochs)
    judge(fit, data.test, num_samples=num_samples)
    draw(fit, data, options.out / "vae_digits.png")


if __name__ == "__main__":
    main()
