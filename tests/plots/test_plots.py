"""Laws of every figure, over a table of figures; then what each one of them says."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from ppl_vae import plots
from ppl_vae.diagnostics import CodeUsage, GradientReport, PredictiveCheck, Reference, Surgery
from ppl_vae.diagnostics.gradients import Projected
from ppl_vae.diagnostics.reference.beside import Beside, ChainMoments
from ppl_vae.evidence import Evidence, InferenceGap, Sandwich
from ppl_vae.plots import axes


def curve(num: int = 60) -> pd.DataFrame:
    epoch = np.arange(1, num + 1)
    elbo = -17 - 300 * np.exp(-epoch / 2)
    val = np.where(epoch % 5 == 0, elbo - 1, np.nan)
    return pd.DataFrame({"epoch": epoch, "elbo": elbo, "val_elbo": val, "kl": 5 + 0 * elbo})


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def usage(latents: int) -> CodeUsage:
    return CodeUsage.of(noise(20, latents, 5).double().softmax(-1))


def report() -> GradientReport:
    flat = torch.ones(3, dtype=torch.float64)
    found = {
        "exact": Projected(0 * flat, 0 * flat, 0.0, 0.0, 1.0, 1e-3),
        "noisy": Projected(0.1 * flat, flat, 0.0, 40.0, 1.0, 2e-3),
        "wrong": Projected(9 * flat, flat, 9.0, 4.0, 1.0, 1e-3),
    }
    return GradientReport({name: {"phi": p} for name, p in found.items()}, 100, dict.fromkeys(found, "enumeration"))


def far_out() -> torch.Tensor:
    """Codes of which the first is a hundred times as far out as the rest."""
    codes = noise(32, 4)
    codes[0] = 100.0
    return codes


def kinds() -> torch.Tensor:
    """Columns of zeros and ones, whole numbers, one value, a few fractions, and any numbers with one far out."""
    rows = torch.arange(60.0)
    any_number = noise(60)
    any_number[7] = 1e4
    return torch.stack([rows % 2, rows % 37, 0 * rows, rows % 3 / 4, any_number], 1)


def shares(*names: str) -> dict[str, np.ndarray]:
    return {name: np.linspace(0.1, 0.9, 9) ** (1.0 + 0.3 * i) for i, name in enumerate(names)}


def calibrated(curves: dict, ax: Axes | None = None, **options: object) -> Axes:
    z = np.linspace(0.1, 0.9, 9)
    return plots.calibration_curves(z, curves, (z - 0.05, z + 0.05), ax=ax, **options)


def operated(sites: bool) -> Surgery:
    """A surgery of three dimensions, of which one is idle; or of a code without dimensions of its own."""
    terms = {"reconstruction": -12.0, "mutual_information": 2.5, "marginal_kl": 0.5, "elbo": -15.0}
    told, off = torch.tensor([0.5, 2.1, 0.0]), torch.tensor([0.3, 0.1, -1e-3])
    by_site = {"information": {"z": told}, "marginal": {"z": off}} if sites else {}
    errors = dict.fromkeys(terms, 0.01)
    return Surgery(**terms, standard_error=errors, num_data=100, num_samples=8, num_dimensions=3, **by_site)


def split(num: int) -> InferenceGap:
    """Gaps of 3, 1, 2, 3, 1, ... nats, of which a quarter is of the family."""
    gap = torch.tensor([3.0, 1.0, 2.0]).repeat(num)[:num].double()
    flat = torch.zeros_like(gap)
    evidence = Evidence(flat, flat, flat + 9, flat, "lower", "ImportanceWeighted(9)")
    return InferenceGap(gap / 4, 3 * gap / 4, -gap, -gap / 4, evidence, {}, "independent normals", 0.0)


def both_sides(num: int) -> Sandwich:
    """Evidence from below, and from above by 0.2 nats more."""
    value, error = torch.linspace(-20, -10, num).double(), torch.full((num,), 0.05).double()
    sides = [Evidence(value + x, error, error, error, bound, "") for x, bound in ((0.0, "lower"), (0.2, "upper"))]
    return Sandwich(*sides)


def beside_nuts(num: int, *, weighted: bool = True) -> Reference:
    """Chains of standard normals, a guide that is too low and too narrow in the first number, and weighted draws."""
    draws = noise(2 * 50 * num).reshape(2, 50, num).double()
    chains, every = ChainMoments.of(draws), draws.flatten(0, 1)
    guide = every.clone()
    guide[:, 0] = 0.3 * guide[:, 0] - 2
    sides = [Beside.of(values, None, chains.moments, every, seed=0) for values in (guide, every)]
    names, flat = tuple(f"z[{i}]" for i in range(num)), torch.zeros(num)
    diverging = torch.zeros(2, 50, dtype=torch.bool)
    return Reference(
        names, chains, sides[0], sides[1] if weighted else None, flat == 0, flat, {"z": draws}, diverging, 100
    )


def checked(num: int) -> PredictiveCheck:
    """Quantities of replicated data, of which the first is far off, and the last is a count."""
    made = noise(200 * num).reshape(200, num).double()
    made[:, -1] = (2 * made[:, -1]).round()
    observed = torch.zeros(num).double()
    observed[0] = 9.0
    names = tuple(f"T{i}" for i in range(num))
    flags = {"num_rows": 5, "seen": True, "conditioned": False, "fitted": True}
    return PredictiveCheck(names, made, observed, "posterior", {}, {}, **flags)


FIGURES = {
    "reference_intervals": lambda ax: plots.reference_intervals(beside_nuts(4), ax=ax),
    "reference_intervals, a point": lambda ax: plots.reference_intervals(beside_nuts(2, weighted=False), ax=ax),
    "reference_intervals, many": lambda ax: plots.reference_intervals(beside_nuts(40), ax=ax),
    "check_histograms": lambda ax: plots.check_histograms(checked(3), ax=ax),
    "check_histograms, one": lambda ax: plots.check_histograms(checked(1), ax=ax),
    "check_histograms, many": lambda ax: plots.check_histograms(checked(20), ax=ax),
    "sandwich_points": lambda ax: plots.sandwich_points(both_sides(20), ax=ax),
    "sandwich_points, one": lambda ax: plots.sandwich_points(both_sides(1), ax=ax),
    "calibration_curves": lambda ax: calibrated(shares("a", "b", "c"), outside=["b", "c"], ax=ax),
    "calibration_curves, regions": lambda ax: calibrated(shares("HPD"), regions=True, ax=ax),
    "gap_bars": lambda ax: plots.gap_bars(split(3), ax=ax),
    "gap_bars, many": lambda ax: plots.gap_bars(split(300), ax=ax),
    "aggregate_posterior": lambda ax: plots.aggregate_posterior(noise(50, 3) + 4, noise(50, 3), ax=ax),
    "surgery_bars": lambda ax: plots.surgery_bars(operated(sites=True), ax=ax),
    "surgery_bars, no dimensions": lambda ax: plots.surgery_bars(operated(sites=False), ax=ax),
    "history": lambda ax: plots.history(curve(), ax=ax),
    "history of one step": lambda ax: plots.history(curve(1), ax=ax),
    "images, flat": lambda ax: plots.images(noise(10, 64), ax=ax),
    "images, grey": lambda ax: plots.images(noise(10, 1, 8, 6), columns=3, ax=ax),
    "images, colour": lambda ax: plots.images(noise(4, 3, 8, 6), ax=ax),
    "images, constant": lambda ax: plots.images(torch.zeros(3, 4, 4), ax=ax),
    "reconstructions": lambda ax: plots.reconstructions(noise(7, 64), noise(7, 64), columns=5, ax=ax),
    "latent, 1": lambda ax: plots.latent(noise(30, 1), color=torch.arange(30) % 3, ax=ax),
    "latent, 2": lambda ax: plots.latent(noise(30, 2), ax=ax),
    "latent, 5": lambda ax: plots.latent(noise(30, 5), color=noise(30), ax=ax),
    "latent, a code far out": lambda ax: plots.latent(far_out(), color=[9] + [0, 1] * 15 + [1], ax=ax),
    "latent, long names": lambda ax: plots.latent(noise(4, 2), color=["setosa", "", "virginica", "setosa"], ax=ax),
    "columns": lambda ax: plots.columns(noise(30, 3), noise(40, 3), names=["a", "b", "c"], ax=ax),
    "columns, of all kinds": lambda ax: plots.columns(kinds(), kinds() + 0.1, ax=ax),
    "log_p_points": lambda ax: plots.log_p_points(noise(30), ax=ax),
    "log_p_points, far below": lambda ax: plots.log_p_points([-1e6, -math.inf, *range(30)], ax=ax),
    "kl_bars": lambda ax: plots.kl_bars([2.0, 0.001, 3.0], ax=ax),
    "code_bars, one latent": lambda ax: plots.code_bars(usage(1), ax=ax),
    "code_bars, four latents": lambda ax: plots.code_bars(usage(4), ax=ax),
    "gradient_noise": lambda ax: plots.gradient_noise(report(), ax=ax),
    "khat_points": lambda ax: plots.khat_points([0.1, 0.9, math.inf, math.nan], ax=ax),
    "difference_bars": lambda ax: plots.difference_bars([0.0, -1.0, -9.0], [0.0, 2.0, math.nan], names="abc", ax=ax),
}


@pytest.fixture
def given() -> Axes:
    return Figure().add_subplot()


@pytest.mark.parametrize("name", FIGURES)
def test_the_axes_given_are_the_axes_returned(name, given):
    assert FIGURES[name](given) is given


@pytest.mark.parametrize("name", FIGURES)
def test_a_new_figure_is_drawn_and_pyplot_never_knows(name, tmp_path):
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    found = FIGURES[name](None)
    found.figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 500
    assert plt.get_fignums() == before


@pytest.mark.parametrize("name", FIGURES)
def test_all_that_is_drawn_is_finite(name):
    found = FIGURES[name](None)
    assert np.isfinite([*found.get_xlim(), *found.get_ylim()]).all()


MISTAKES = {
    "calibration_curves": (lambda: calibrated({}), ValueError, "at least one curve is required"),
    "history": (
        lambda: plots.history(curve(), column="loss"),
        KeyError,
        "no column 'loss'; there are epoch, elbo",
    ),
    "images, flat": (lambda: plots.images(noise(3, 60)), ValueError, "60 pixels are no square; give shape="),
    "images, channels": (
        lambda: plots.images(noise(3, 2, 4, 4)),
        ValueError,
        r"C = 1 or 3 is required, got \(3, 2, 4, 4\)",
    ),
    "reconstructions": (
        lambda: plots.reconstructions(noise(3, 64), noise(4, 64)),
        ValueError,
        r"must have one shape, got \(3, 8, 8, 1\) and \(4, 8, 8, 1\)",
    ),
    "latent": (
        lambda: plots.latent(noise(4)),
        ValueError,
        r"codes of shape \(N, L\) are required, got \(4,\)",
    ),
    "latent, color": (
        lambda: plots.latent(noise(4, 2), color=[1]),
        ValueError,
        "each of the 4 codes is required, got 1",
    ),
    "columns": (
        lambda: plots.columns(noise(4, 2), noise(4, 3)),
        ValueError,
        r"two tables of the same columns are required, got \(4, 2\) and \(4, 3\)",
    ),
    "log_p_points": (
        lambda: plots.log_p_points([1.0, 2.0], names=["a"]),
        ValueError,
        "a name for each of 2 data is required, got 1",
    ),
    "kl_bars": (
        lambda: plots.kl_bars([1.0], active=[True, False]),
        ValueError,
        "one flag for each of 1 dimensions, got 2",
    ),
    "khat_points": (
        lambda: plots.khat_points([math.nan]),
        ValueError,
        "at least one k-hat is required, got none",
    ),
    "difference_bars": (
        lambda: plots.difference_bars([0.0, -1.0], [0.0], names=["a", "b"]),
        ValueError,
        "got 2 differences, 1 errors, 2 names",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name):
    call, error, words = MISTAKES[name]
    with pytest.raises(error, match=words):
        call()


def test_history_draws_train_and_validation_in_nats(given):
    plots.history(curve(), ax=given)
    assert [line.get_label() for line in given.lines] == ["train", "validation"]
    assert len(given.lines[1].get_xdata()) == 12  # validated every fifth epoch
    assert (given.get_xlabel(), given.get_ylabel()) == ("epoch", "ELBO (nats per datum)")


def test_history_frames_what_the_fit_reached(given):
    frame = curve()
    plots.history(frame, ax=given)
    low, high = given.get_ylim()
    assert low > frame["elbo"].min() + 100
    assert high > frame["elbo"].max()
    assert low < frame["elbo"].iloc[6]


def test_history_of_another_column(given):
    plots.history(curve(), column="kl", ax=given)
    assert given.get_ylabel() == "KL (nats per datum)"
    assert len(given.lines) == 1


def test_images_stand_in_reading_order(given):
    tiles = torch.arange(1.0, 6.0)[:, None, None].expand(5, 2, 2)
    plots.images(tiles, columns=3, limits=(0, 5), ax=given)
    sheet = np.asarray(given.images[0].get_array())
    assert sheet.shape == (5, 8, 4)
    np.testing.assert_allclose(sheet[0, [0, 3, 6], 0], [0.2, 0.4, 0.6])
    np.testing.assert_allclose(sheet[3, [0, 3], 0], [0.8, 1.0])
    assert sheet[3, 6, 3] == sheet[2, 0, 3] == 0  # an empty place and a gap show the background


def test_reconstructions_stand_below_their_originals(given):
    plots.reconstructions(torch.zeros(3, 4, 4), torch.ones(3, 4, 4), limits=(0, 1), columns=2, ax=given)
    sheet = np.asarray(given.images[0].get_array())[..., 0]
    assert [sheet[row, 0] for row in (0, 5, 10, 15)] == [0, 1, 0, 1]
    assert [text.get_text() for text in given.texts] == ["data", "reconstructed"] * 2


def test_latent_says_which_two_dimensions(given):
    plots.latent(noise(50, 2), ax=given)
    assert (given.get_xlabel(), given.get_ylabel()) == ("z[0]", "z[1]")
    codes = noise(200, 3) * torch.tensor([3.0, 0.1, 1.0])
    ax = plots.latent(codes)
    assert ax.get_xlabel() == "principal component 1 of 3 (89 % of the variance)"
    points = np.asarray(ax.collections[0].get_offsets())
    assert abs(np.corrcoef(points[:, 0], codes[:, 0])[0, 1]) > 0.99


@pytest.mark.parametrize("labels", [torch.arange(30) % 3, np.array(["a", "b", "c"] * 10), torch.arange(30).float() % 3])
def test_latent_names_each_class_where_it_lies(given, labels):
    plots.latent(noise(30, 2), color=labels, ax=given)
    assert len(given.collections) == 3
    assert len({to_hex(dots.get_facecolor()[0]) for dots in given.collections}) == 3
    assert len([text.get_text() for text in given.texts]) == 3


def test_kl_bars_are_sorted_and_the_collapsed_are_grey(given):
    plots.kl_bars([2.0, 0.001, 3.0], ax=given)
    assert [bar.get_height() for bar in given.patches] == [3.0, 2.0, 0.001]
    assert [label.get_text() for label in given.get_xticklabels()] == ["2", "0", "1"]
    assert to_hex(given.patches[2].get_facecolor()) == axes.MUTED.lower()
    assert given.texts[0].get_text() == "2 of 3 active"


def test_khat_points_marks_what_is_above_the_limit(given):
    plots.khat_points([0.1, 0.2, 0.9, math.inf, math.nan], ax=given)
    good, bad = given.collections
    assert (len(good.get_offsets()), len(bad.get_offsets())) == (2, 2)
    assert {line.get_ydata()[0] for line in given.lines} == {0.7}


def test_khat_points_have_the_limit_that_fewer_draws_allow(given):
    plots.khat_points([0.1, 0.6, 0.65], limit=0.62, ax=given)
    good, bad = given.collections
    assert (len(good.get_offsets()), len(bad.get_offsets())) == (2, 1)
    assert {line.get_ydata()[0] for line in given.lines} == {0.62}


def test_difference_bars_have_the_best_on_top_and_two_errors_to_either_side(given):
    plots.difference_bars([0.0, -1.0, -9.0], [0.0, 2.0, 1.5], names=["a", "b", "c"], ax=given)
    assert [tick.get_text() for tick in given.get_yticklabels()] == ["a", "b", "c"]
    assert list(given.get_yticks()) == [2, 1, 0]
    near, clear = given.containers
    (bars,) = near[2]
    assert [tuple(segment[:, 0]) for segment in bars.get_segments()] == [(0.0, 0.0), (-5.0, 3.0)]
    assert list(clear[0].get_xdata()) == [-9.0]


def test_no_two_classes_share_a_colour():
    assert len({*axes.CLASSES}) == len(axes.CLASSES) == 10


def test_train_and_validation_differ_without_colour_too(given):
    plots.history(curve(), ax=given)
    assert len({line.get_linestyle() for line in given.lines}) == 2


def test_a_code_far_out_squashes_neither_the_frame_nor_the_components(given):
    plots.latent(far_out(), ax=given)
    low, high = given.get_xlim()
    assert high - low < 12
    assert "1 outside" in [text.get_text() for text in given.texts]


def test_columns_are_those_that_differ_most_and_count_what_is_far_out(given):
    data, draws = noise(50, 20), noise(50, 20)
    draws[:, [3, 17]] += 4
    data[0, 3] = 1e5
    plots.columns(data, draws, names=[f"c{i}" for i in range(20)], most=2, ax=given)
    insets = given.child_axes
    assert [inset.get_title() for inset in insets] == ["c3", "c17"]
    assert [text.get_text() for text in insets[0].texts] == ["1 outside"]
    assert insets[0].get_xlim()[1] < 10
    assert "2 of 20 columns, where they differ most" in given.get_title()


def test_a_column_of_whole_numbers_has_a_bar_for_each(given):
    counts = torch.tensor([0.0, 1.0, 1.0, 3.0])[:, None] * (1 + 1e-7)  # as standardizing leaves them
    plots.columns(counts, counts, ax=given)
    (bars, _) = given.child_axes[0].patches
    values, edges, _ = bars.get_data()
    assert edges.tolist() == [-0.5, 0.5, 1.5, 2.5, 3.5]
    assert values.tolist() == [0.25, 0.5, 0.0, 0.25]


def test_the_least_log_p_are_named_and_those_far_below_are_no_part_of_the_frame(given):
    values = torch.linspace(-10, -5, 40)
    values[11], values[30] = -3e4, -13.0
    plots.log_p_points(values, names=[f"row {i}" for i in range(40)], named=2, ax=given)
    (text,) = given.texts
    assert text.get_text().splitlines() == ["the least  (1 below the frame)", "row 11  -30,000", "row 30  -13.0"]
    assert given.get_ylim()[0] > -40


def test_robust_limits_keep_a_normal_sample_whole():
    values = noise(1000).double().numpy()
    assert axes.robust_limits(values) == (values.min(), values.max(), 0)
    assert axes.robust_limits(np.array([0.0, 0.0, 0.0, 5.0])) == (0.0, 5.0, 0)
    assert axes.robust_limits(np.array([2.0, 2.0])) == (1.5, 2.5, 0)


def test_calibration_curves_name_those_outside_and_end_at_zero():
    ax = calibrated(shares(*"abcdefgh"), outside=["b", "h"])
    assert {text.get_text() for text in ax.texts} == {"b", "h", "2 of 8 outside the band"}
    lines = [line for line in ax.get_lines() if len(line.get_xdata()) == 11]
    assert len(lines) == 8
    colors = [to_hex(line.get_color()) for line in lines]
    assert colors.count(axes.SECOND.lower()) == 2 and colors.count(axes.ACCENT.lower()) == 6
    for line in lines:
        assert (line.get_ydata()[0], line.get_ydata()[-1]) == (0.0, 0.0)
    assert lines[0].get_ydata() == pytest.approx(np.zeros(11))  # the first is uniform itself


def test_few_calibration_curves_inside_are_named():
    ax = calibrated(shares("a", "b"))
    assert {text.get_text() for text in ax.texts} == {"a", "b", "0 of 2 outside the band"}
    assert len(calibrated(shares(*"abcdefgh")).texts) == 1


def test_the_bars_of_a_surgery_stand_in_order_and_add_up():
    found = plots.surgery_bars(operated(sites=True))
    told, off = found.containers
    assert [bar.get_height() for bar in told] == pytest.approx([2.1, 0.5, 0.0])
    assert [bar.get_y() for bar in off] == pytest.approx([2.1, 0.5, 0.0])
    assert [bar.get_height() for bar in off] == pytest.approx([0.1, 0.3, 0.0])
    assert [label.get_text() for label in found.get_xticklabels()] == ["z[1]", "z[0]", "z[2]"]
    assert "2.50 of 4.61 nats" in found.get_title() and "healthy, 1 of 3 dimensions idle" in found.get_title()


def test_an_aggregate_posterior_that_has_left_the_prior_is_in_the_frame():
    found = plots.aggregate_posterior(noise(500, 1) + 9, noise(500, 1))
    low, high = found.child_axes[0].get_xlim()
    assert low < 9 < high
    assert found.get_title() == "aggregate posterior (grey) and prior (blue)"


def test_the_bars_of_a_gap_stand_in_order_and_add_up():
    found = plots.gap_bars(split(3))
    family, network = found.containers
    assert [bar.get_height() for bar in family] == pytest.approx([0.75, 0.5, 0.25])
    assert [bar.get_y() + bar.get_height() for bar in network] == pytest.approx([3.0, 2.0, 1.0])
    assert [text.get_text() for text in found.get_legend().get_texts()] == [
        "family: 0.50 nats",
        "amortization: 1.50 nats",
    ]


def test_reference_intervals_name_the_farthest_first_and_those_that_are_off_in_red():
    labels = plots.reference_intervals(beside_nuts(4)).get_yticklabels()
    assert labels[0].get_text() == "z[0]" and len(labels) == 4
    assert [text.get_color() for text in labels] == [axes.SECOND] + 3 * [axes.INK]
    many = plots.reference_intervals(beside_nuts(40))
    assert len(many.get_yticklabels()) == 25 and many.get_xlabel().endswith("; 15 more")


def test_check_histograms_keep_the_most_extreme_of_many():
    inner = plots.check_histograms(checked(20)).child_axes
    assert len(inner) == 12 and inner[0].get_title().startswith("T0 ")
    assert inner[0].lines[0].get_color() == axes.SECOND and inner[1].lines[0].get_color() == axes.INK
