"""Did it collapse? Three VAEs of real 8x8 digits, the same networks from the same start, with three objectives.

One is healthy. In the second the KL weighs eight times as much, as in a beta-VAE: its codes tell nothing of the digits,
and the decoder has learned to do without. Nothing of this shows in a loss that falls and flattens, nor in the aggregate
posterior, which is the prior to perfection; it shows in the mutual information of digit and code. ``CollapseWatch``
says so after some epochs, and names what helps; the third is the second with one of these, a floor under the KL.

    python examples/did_it_collapse.py            (half a minute)
    python examples/did_it_collapse.py --smoke    (seconds)
"""

from __future__ import annotations

import argparse
import textwrap
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from ppl_vae import ELBO, Fit, VariationalEM
from ppl_vae.data import Dataset, load_digits
from ppl_vae.diagnostics import CollapseWarning, CollapseWatch, Surgery, active_units, surgery
from ppl_vae.evidence import inference_gap
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE
from ppl_vae.nn import MLP
from ppl_vae.plots import images, latent, surgery_bars
from ppl_vae.plots.axes import ACCENT, INK, MUTED, SECOND, quiet

LATENT, HEAVY = 8, 8.0
HEALTHY, COLLAPSED, RESCUED = "ELBO()", f"ELBO(beta={HEAVY:g})", f"ELBO(beta={HEAVY:g}, free_bits=0.25)"
OBJECTIVES = {
    HEALTHY: ELBO(),
    COLLAPSED: ELBO(beta=HEAVY),
    RESCUED: ELBO(beta=HEAVY, free_bits=0.25),
}
COLORS = {HEALTHY: ACCENT, COLLAPSED: SECOND, RESCUED: "#009E73"}


@dataclass
class Patient:
    """A fit, what its surgery found, and the epoch in which the watch gave its warning."""

    fit: Fit
    surgery: Surgery
    warned: int | None


class Noting(CollapseWatch):
    """The watch, which notes the epoch of its warning."""

    epoch: int | None = None

    def on_epoch(self, run, row) -> None:
        """Called by the run after every epoch."""
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            super().on_epoch(run, row)
        for warning in said:
            if warning.category is CollapseWarning:
                self.epoch = run.epoch
                print(textwrap.fill(f"CollapseWarning: {warning.message}", 110, subsequent_indent="    "))


def fitted(name: str, data: Dataset, *, epochs: int, rows: int) -> Patient:
    """The same networks and the same start; only the objective differs."""
    torch.manual_seed(0)
    model = VAE(MLP(LATENT, 64, hidden=(128,)), latent_dim=LATENT, likelihood="bernoulli")
    guide = AmortizedNormal(MLP(64, 2 * LATENT, hidden=(128,)), latent_dim=LATENT)
    watch = Noting(data.train)
    em = VariationalEM(model, guide, objective=OBJECTIVES[name], lr=2e-3)
    fit = em.fit(data.train, epochs=epochs, batch_size=100, callbacks=[watch], progress=False)
    return Patient(fit, surgery(fit, data.train[:rows]), watch.epoch)


def report(patients: dict[str, Patient], data: Dataset) -> None:
    """A row a fit."""
    heads = f"{'ELBO':>9}{'reconstr.':>11}{'code tells':>12}{'off prior':>11}{'active':>8}  verdict"
    print(f"\n{'nats per digit':<32}{heads}")
    for name, patient in patients.items():
        found, units = patient.surgery, active_units(patient.fit, data.train)
        print(
            f"{name:<32}{found.elbo:9.2f}{found.reconstruction:11.2f}{found.mutual_information:12.3f}"
            f"{found.marginal_kl:11.3f}{f'{units.count} of {units.total}':>8}  {found.verdict}"
        )
    print(f"the code can tell at most log {found.num_data} = {found.ceiling:.2f} nats")


def draw(patients: dict[str, Patient], data: Dataset, path: Path) -> None:
    """Left what the codes tell, epoch by epoch; right the two at the end: digits, codes, dimensions."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 7.6), dpi=120, layout="constrained")
    grid = figure.add_gridspec(2, 4, width_ratios=[1.35, 1.0, 1.0, 1.15])
    draw_path(figure.add_subplot(grid[:, 0]), patients)
    for row, name in enumerate((HEALTHY, COLLAPSED)):
        patient = patients[name]
        digits, plane, bars = (figure.add_subplot(grid[row, column]) for column in (1, 2, 3))
        draw_digits(digits, patient, data)
        digits.set_ylabel(name, color=COLORS[name], fontsize=15, fontweight="bold")
        latent(patient.fit.encode(data.test), color=data.test_labels, ax=plane)
        plane.set_aspect("equal", adjustable="box")
        plane.set(xlim=(-3, 3), ylim=(-3, 3))  # where the prior is
        plane.set_xlabel("first principal component")
        plane.set_ylabel("second")
        plane.set_title("codes of test digits, by class", fontsize=13, color=INK)
        surgery_bars(patient.surgery, ax=bars)
        words = "collapsed" if patient.surgery.collapsed else patient.surgery.verdict
        told, most = patient.surgery.mutual_information, patient.surgery.ceiling
        bars.set_title(f"{words}: {told:.2f} of {most:.2f} nats", fontsize=13, color=INK)
        bars.get_legend().remove() if row else bars.legend(frameon=False, fontsize=11, labelcolor=INK)
        bars.set_ylim(0, 1.1 * max(1.0, float(patients[HEALTHY].surgery.dimensions()["kl"].max())))
    figure.savefig(path)
    print(f"drawn: {path}")


def draw_digits(ax, patient: Patient, data: Dataset) -> None:
    """Test digits, each above what the decoder makes of its code."""
    seen = data.test[:8]
    again = patient.fit.reconstruct(seen)
    rows = torch.cat([seen[:4], again[:4], seen[4:], again[4:]])
    images(rows, columns=4, shape=(8, 8), ax=ax)
    ax.set_axis_on()
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    ax.set_title("digits, and from their codes", fontsize=13, color=INK)


def draw_path(ax, patients: dict[str, Patient]) -> None:
    """The mutual information over the epochs, as the watch has seen it."""
    for name, patient in patients.items():
        told = patient.fit.history["mutual_information"]
        epochs = range(1, len(told) + 1)
        ax.plot(epochs, told, color=COLORS[name], lw=3, label=name)
        if patient.warned is not None:
            ax.plot(patient.warned, told.iloc[patient.warned - 1], marker="o", ms=12, color=COLORS[name])
            ax.annotate(f"CollapseWatch warns\nafter epoch {patient.warned}", (patient.warned, 0.1), (0, 22),
                        textcoords="offset points", fontsize=13, color=COLORS[name])  # fmt: skip
    ax.axhline(0, color=MUTED, lw=1)
    ax.set_ylim(bottom=-0.1)
    quiet(ax, xlabel="epoch", ylabel="what a code tells of which of 256 digits it is of (nats)")
    ax.set_title("Did it collapse?", fontsize=18, color=INK, loc="left")
    ax.legend(frameon=False, fontsize=12, labelcolor=INK, loc="center right")
    ax.tick_params(labelsize=12)
    ax.xaxis.label.set_size(13)
    ax.yaxis.label.set_size(13)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a run of seconds")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out", help="folder for the plot")
    options = parser.parse_args()
    if options.smoke:
        print("a smoke run: it shows that the script runs, and its numbers mean nothing")
    options.out.mkdir(parents=True, exist_ok=True)
    data = load_digits(binary=True)
    epochs, rows = (3, 100) if options.smoke else (60, len(data.train))
    patients = {name: fitted(name, data, epochs=epochs, rows=rows) for name in OBJECTIVES}
    report(patients, data)
    test = data.test[:40] if options.smoke else data.test
    gap = inference_gap(patients[HEALTHY].fit, test, num_samples=100 if options.smoke else 1000)
    print(textwrap.fill(f"{HEALTHY}, test digits: {gap}", 110))
    draw(patients, data, options.out / "did_it_collapse.png")


if __name__ == "__main__":
    main()
