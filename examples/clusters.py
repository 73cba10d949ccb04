"""Clusters of digits that nobody labeled: a VAE whose prior is a mixture, its component summed out exactly.

    p(x) = sum_c π_c ∫ N(z; μ_c, diag(σ_c²)) p(x | z) dz,      p(c | x) ≈ E_q(z|x)[ p(c | z) ]

From a random start the components and the encoder settle on whatever they meet first, so the fit is shown from there,
and from where Jiang et al. ("Variational deep embedding", 2017) begin: a plain VAE, and clusters of its codes. Beside
both stands what scikit-learn finds in the pixels. Labels are looked at once, to judge, and every run is in the table.

    python examples/clusters.py            (two minutes)
    python examples/clusters.py --smoke    (seconds)
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, confusion_matrix
from sklearn.mixture import GaussianMixture
from torch import Tensor

from ppl_vae import Fit, VariationalEM
from ppl_vae.data import load_digits
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE, MixtureVAE
from ppl_vae.nn import MLP
from ppl_vae.plots import images
from ppl_vae.plots.axes import ACCENT, INK, MUTED, SECOND, quiet

CLUSTERS, LATENT = 10, 8
FROM_SCRATCH, FROM_CODES = "MixtureVAE, random start", "MixtureVAE, from these codes"
OURS = (FROM_SCRATCH, FROM_CODES)


def mixture_vae(decoder: MLP) -> MixtureVAE:
    """The model, on a decoder that may have learned something already."""
    return MixtureVAE(decoder, latent_dim=LATENT, num_components=CLUSTERS, likelihood="bernoulli")


def from_scratch(x: Tensor, *, epochs: int, seed: int) -> Fit:
    """Everything at once, from random weights."""
    torch.manual_seed(seed)
    model, guide = mixture_vae(MLP(LATENT, 64)), AmortizedNormal(MLP(64, 2 * LATENT), latent_dim=LATENT)
    return VariationalEM(model, guide).fit(x, epochs=epochs, batch_size=100, seed=seed, progress=False)


def from_codes(x: Tensor, *, epochs: int, seed: int) -> tuple[Fit, np.ndarray]:
    """A plain VAE for half of the epochs, k-means of its codes, then the mixture; the fit and the k-means."""
    torch.manual_seed(seed)
    decoder, guide = MLP(LATENT, 64), AmortizedNormal(MLP(64, 2 * LATENT), latent_dim=LATENT)
    half = {"epochs": max(1, epochs // 2), "batch_size": 100, "seed": seed, "progress": False}
    plain = VariationalEM(VAE(decoder, latent_dim=LATENT, likelihood="bernoulli"), guide).fit(x, **half)
    found = KMeans(CLUSTERS, n_init=10, random_state=seed).fit_predict(plain.encode(x))
    model = mixture_vae(decoder)
    start_at(model, plain.encode(x, sample=True, seed=seed), torch.from_numpy(found).long())
    return VariationalEM(model, guide).fit(x, **half), found


@torch.no_grad()
def start_at(model: MixtureVAE, z: Tensor, clusters: Tensor) -> None:
    """Give each component the share, the mean and the spread of its draws."""
    for k in range(CLUSTERS):
        members = z[clusters == k]
        model.prior.logits[k] = np.log(len(members) / len(z))
        model.prior.loc[k] = members.mean(0)
        model.prior.log_scale[k] = members.std(0, correction=0).clamp(min=0.1).log()


def all_clusters(x: Tensor, *, epochs: int, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Fit]]:
    """What each way makes of the same rows with one seed: (N,) cluster numbers; and our fits."""
    found = {"KMeans of pixels": KMeans(CLUSTERS, n_init=10, random_state=seed).fit_predict(x)}
    for shape in ("full", "spherical"):
        mixture = GaussianMixture(CLUSTERS, covariance_type=shape, n_init=10, random_state=seed)
        found[f"GaussianMixture, {shape}"] = mixture.fit_predict(x)
    started, found["KMeans of a VAE's codes"] = from_codes(x, epochs=epochs, seed=seed)
    fits = {FROM_CODES: started, FROM_SCRATCH: from_scratch(x, epochs=epochs, seed=seed)}
    found |= {name: fits[name].codes(x)[:, 0].numpy() for name in (FROM_CODES, FROM_SCRATCH)}
    return found, fits


def best_matching(clusters: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The digit of each cluster, one to one, by which most rows are right: (CLUSTERS,)."""
    counts = confusion_matrix(labels, clusters, labels=range(CLUSTERS))
    digits, matched = linear_sum_assignment(-counts)
    return digits[np.argsort(matched)]


def scores(clusters: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Accuracy under the best matching, and the adjusted Rand index (0 by chance, 1 at best)."""
    right = best_matching(clusters, labels)[clusters] == labels
    return float(right.mean()), float(adjusted_rand_score(labels, clusters))


def table(judged: dict[str, np.ndarray]) -> None:
    """Mean and standard deviation over the seeds, then each seed."""
    print(f"\n{'':<30}accuracy ± sd    ARI ± sd        accuracy / ARI of each seed")
    for name, each in judged.items():
        (accuracy, ari), (spread, ari_spread) = each.mean(0), each.std(0, ddof=1)
        runs = "  ".join(f"{a:.3f} / {r:.3f}" for a, r in each)
        print(f"{name:<30}{accuracy:.3f} ± {spread:.3f}    {ari:.3f} ± {ari_spread:.3f}   {runs}")


def draw(judged: dict[str, np.ndarray], fit: Fit, x: Tensor, labels: np.ndarray, path: Path) -> None:
    """The adjusted Rand index of every run; the codes by cluster; what each component makes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.6), dpi=130, layout="constrained")
    index, space, made = figure.subplots(1, 3, width_ratios=(1.1, 1.1, 1))
    for height, (name, each) in enumerate(judged.items()):
        color = ACCENT if name in OURS else SECOND
        index.plot(each[:, 1], [height] * len(each), "o", color=color, alpha=0.6, ms=6, lw=0)
        index.plot(each[:, 1].mean(), height, "|", color=INK, ms=18, mew=2)
    index.set_yticks(range(len(judged)), judged)
    index.invert_yaxis()
    index.margins(y=0.15)
    index.set_xlim(0, 1)
    index.grid(axis="x", color=MUTED, alpha=0.3)
    quiet(index, xlabel="adjusted Rand index of each seed, and their mean")
    clusters = fit.codes(x)[:, 0].numpy()
    digits = best_matching(clusters, labels)
    fit.plot.latent(x, color=digits[clusters], ax=space)
    space.set_title("codes by cluster, each with the name of its digit", fontsize=10, color=INK)
    component = torch.from_numpy(np.argsort(digits)).repeat_interleave(CLUSTERS)
    images(fit.simulate(len(component), mean=True, latents={"c": component})["x"], columns=CLUSTERS, ax=made)
    made.set_title("from each component, a row each, in this order", fontsize=10, color=INK)
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
    data = load_digits(binary=True)
    epochs, seeds, num_rows = (1, 2, 200) if options.smoke else (120, 3, len(data.train))
    x, labels = data.train[:num_rows], data.train_labels[:num_rows].numpy()
    runs: dict[str, list[tuple[float, float]]] = {}
    drawn: dict[str, Fit] = {}
    for seed in range(seeds):
        found, fits = all_clusters(x, epochs=epochs, seed=seed)
        drawn = drawn or fits
        for name, clusters in found.items():
            runs.setdefault(name, []).append(scores(clusters, labels))
        for name, fit in fits.items():
            print(
                f"seed {seed}  {name:<30}ELBO of the {len(x)} rows {float(fit.elbo(x).mean()):8.3f}, of test rows "
                f"{float(fit.elbo(data.test).mean()):8.3f} nats; {len(np.unique(found[name]))} clusters in use",
                flush=True,
            )
    judged = {name: np.array(each) for name, each in runs.items()}
    table(judged)
    draw(judged, drawn[FROM_CODES], x, labels, options.out / "clusters.png")


if __name__ == "__main__":
    main()
