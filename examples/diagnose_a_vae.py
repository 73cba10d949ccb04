"""Diagnose a VAE of real 8x8 digits: everything that can be asked of it, in lines and on one page.

Two of the test digits are noise, as if a scanner had failed: they are found by name. The guide is judged twice: as it
was fitted, and with its spread cut to a third, as a bug might do. In data that the model itself makes, where the answer
is known, the fitted one is too sure as well: independent normals, as in most VAEs, are not the posterior. The
pages need no network and no script; open them in any browser, also on a phone.

    python examples/diagnose_a_vae.py            (half a minute)
    python examples/diagnose_a_vae.py --smoke    (seconds)
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

import torch
from matplotlib.patches import Rectangle

from ppl_vae import Fit, Pair, VariationalEM, diagnose
from ppl_vae.data import Dataset, load_digits
from ppl_vae.diagnostics import Diagnosis
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE
from ppl_vae.nn import MLP
from ppl_vae.plots.axes import INK

LATENT = 8
SPOILT = (40, 200)
"""Test digits that are replaced by noise."""
COLORS = {"good": "#00664A", "doubtful": "#8A5A00", "bad": "#A3131E", "not asked": "#777777"}


class Narrow(torch.nn.Module):
    """An encoder whose standard deviations come out a third of what they were."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x):
        """The location, and softplus^-1 of a third of the scale."""
        loc, raw = self.encoder(x).chunk(2, -1)
        scale = torch.nn.functional.softplus(raw) / 3
        return torch.cat([loc, scale.expm1().log()], -1)


def fitted(data: Dataset, epochs: int) -> tuple[Fit, VAE, torch.nn.Module]:
    """A VAE by variational EM, its model and its encoder."""
    torch.manual_seed(0)
    model = VAE(MLP(LATENT, 64, hidden=(128, 128)), latent_dim=LATENT, likelihood="bernoulli")
    encoder = MLP(64, 2 * LATENT, hidden=(128, 128))
    guide = AmortizedNormal(encoder, latent_dim=LATENT)
    fit = VariationalEM(model, guide).fit(data.train, epochs=epochs, batch_size=100, seed=0, progress=False)
    return fit, model, encoder


def spoilt(data: Dataset) -> torch.Tensor:
    """The test digits, two of them noise."""
    test = data.test.clone()
    noise = torch.rand(len(SPOILT), 64, generator=torch.Generator().manual_seed(0)) < 0.5
    test[list(SPOILT)] = noise.to(test)
    return test


def told(name: str, found: Diagnosis, path: Path) -> None:
    """The lines, and where the page is."""
    print(f"\nasked of {name}: {found.headline}")
    for finding in found.findings:
        if finding.status != "not asked":
            line = f"  {finding.status:<10}{finding.name:<19}{finding.sentence}"
            print(textwrap.fill(line, 118, subsequent_indent=" " * 31))
    print(f"a page of it: {found.save(path)}")


def draw(found: dict[str, Diagnosis], path: Path) -> None:
    """Left all findings of both, beside them what is behind two of them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 6.4), dpi=110, layout="constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=[1.25, 1.1, 1.1])
    tiles(figure.add_subplot(grid[:, 0]), found)
    for row, (name, one) in enumerate(found.items()):
        calibration, odd = (figure.add_subplot(grid[row, column]) for column in (1, 2))
        if one["calibration"].pictures:
            one["calibration"].pictures[1].draw(ax=calibration)
        one["odd rows"].plot(ax=odd)
        calibration.set_title(f"{name}: regions of the guide on simulated digits", fontsize=11, color=INK)
        odd.set_title(f"{name}: the oddest test digits", fontsize=11, color=INK)
    figure.savefig(path)
    print(f"drawn: {path}")


def tiles(ax, found: dict[str, Diagnosis]) -> None:
    """A row a finding, a column a fit, in colour and in words."""
    names = [finding.name for finding in next(iter(found.values())).findings]
    for column, (title, one) in enumerate(found.items()):
        ax.text(column + 0.5, -0.5, title, ha="center", va="bottom", fontsize=13, color=INK)
        for row, name in enumerate(names):
            status = one[name].status
            ax.add_patch(Rectangle((column + 0.03, row - 0.42), 0.94, 0.84, color=COLORS[status], alpha=0.9))
            ax.text(column + 0.5, row, status, ha="center", va="center", fontsize=11, color="white")
    ax.set_yticks(range(len(names)), names, fontsize=12, color=INK)
    ax.set_xticks([])
    ax.set(xlim=(0, len(found)), ylim=(len(names) - 0.4, -1.0))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a run of seconds")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out", help="folder of what is made")
    options = parser.parse_args()
    if options.smoke:
        print("a smoke run: it shows that the script runs, and its numbers mean nothing")
    options.out.mkdir(parents=True, exist_ok=True)
    data = load_digits(binary=True)
    fit, model, encoder = fitted(data, epochs=3 if options.smoke else 200)
    rows, train = (spoilt(data)[:60], data.train[:200]) if options.smoke else (spoilt(data), data.train)
    words = {"noun": "test digits", "columns": "pixels", "image_shape": (8, 8), "train": train}
    words |= {"seconds": 2.0} if options.smoke else {}
    narrow = Pair(model, AmortizedNormal(Narrow(encoder), latent_dim=LATENT))
    found = {"as fitted": diagnose(fit, rows, **words), "narrowed": diagnose(narrow, rows, **words)}
    for name, one in found.items():
        told(f"the guide {name}", one, options.out / f"{name.replace(' ', '_')}.html")
    draw(found, options.out / "diagnose_a_vae.png")


if __name__ == "__main__":
    main()
