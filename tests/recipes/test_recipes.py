"""Laws of recipes, over all of them: they build, they are rebuilt from plain fields, and those fields run no
code.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

from ppl_vae.data import Dataset
from ppl_vae.recipes import RECIPES, Facts, Settings, get_recipe, rebuild, record
from ppl_vae.recipes.base import steps_per_unit
from ppl_vae.recipes.discrete_vae import MOST_CODES
from ppl_vae.recipes.ss_vae import keep_labels

FACTS = {
    "binary": Facts((6,), binary=True, num_classes=3, steps_per_unit=1),
    "real": Facts((6,), binary=False, num_classes=2),
    "images": Facts((1, 4, 4), binary=True, num_classes=3, steps_per_unit=1),
    "real images": Facts((1, 4, 4), binary=False, num_classes=3),
}
SIZES = {
    "vae": {"latent_dim": 2},
    "discrete-vae": {"num_latents": 2, "num_classes": 3},
    "ss-vae": {"latent_dim": 2, "num_labels": 6},
    "mixture-vae": {"latent_dim": 2, "num_components": 3},
    "vae-flow": {"latent_dim": 2, "num_layers": 2},
    "flow": {"num_layers": 2},
    "survae": {"num_layers": 2},
}
# A density wants real numbers, and a probability levels.
REFUSED = {"flow": ("binary", "images"), "survae": ("real", "real images")}
BUILT = [(name, facts) for name in RECIPES for facts in FACTS if facts not in REFUSED.get(name, ())]


def settings_of(name: str, hidden: tuple[int, ...] = (5,)) -> Any:
    return replace(get_recipe(name).settings, hidden=hidden, **SIZES[name])


def dataset_of(facts: Facts) -> Dataset:
    labels = torch.arange(12) % (facts.num_classes or 1)
    return Dataset("toys", torch.ones(12, *facts.event_shape), train_labels=labels)


def test_every_recipe_has_its_sizes_in_the_table() -> None:
    assert {name: set(recipe.sizes) for name, recipe in RECIPES.items()} == {k: set(v) for k, v in SIZES.items()}


@pytest.mark.parametrize(("name", "facts"), BUILT)
def test_a_recipe_is_a_pair_that_runs(name: str, facts: str) -> None:
    from ppl_vae import Pair

    recipe, settings, dataset = get_recipe(name), settings_of(name), dataset_of(FACTS[facts])
    pair = Pair(*recipe.build(FACTS[facts], settings))
    for rows in (dataset.train, recipe.rows(dataset, settings, 0)):
        draws = pair.draw(rows, 3)
        assert draws.log_weight.shape == (3, 12)
        assert draws.log_weight.isfinite().all()


@pytest.mark.parametrize(("name", "facts"), BUILT)
def test_a_recipe_is_rebuilt_from_plain_fields(name: str, facts: str) -> None:
    recipe = get_recipe(name)
    settings = settings_of(name, hidden=(4, 5))
    fields = json.loads(json.dumps(record(recipe, FACTS[facts], settings)))
    for built, again in zip(recipe.build(FACTS[facts], settings), rebuild(fields), strict=True):
        assert repr(built) == repr(again)
        shapes = {key: value.shape for key, value in built.state_dict().items()}
        assert shapes == {key: value.shape for key, value in again.state_dict().items()}


@pytest.mark.parametrize("name", RECIPES)
def test_the_registry_and_the_recipe_agree(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.name == name
    assert "\n" not in recipe.description
    assert recipe.training.epochs > 0
    assert not recipe.note(recipe.settings).endswith(".")


@pytest.mark.parametrize("typo", ["vea", "VAE", "vae "])
def test_an_unknown_name_is_refused_with_the_nearest(typo: str) -> None:
    with pytest.raises(ValueError, match=rf"unknown recipe '{typo}'; did you mean vae\?"):
        get_recipe(typo)


GOOD = record(RECIPES["vae"], FACTS["real"], Settings())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "the field 'name' must be a str, got None"),
        ([], "the field 'name' must be a str, got None"),
        ({**GOOD, "name": "os.system"}, "unknown recipe 'os.system'"),
        ({**GOOD, "facts": None}, "the field 'facts' must be a Mapping, got None"),
        ({**GOOD, "facts": {**GOOD["facts"], "binary": "yes"}}, "'binary' must be a bool, got 'yes'"),
        (
            {**GOOD, "facts": {**GOOD["facts"], "event_shape": [-1]}},
            "'event_shape' must be a list of positive",
        ),
        ({**GOOD, "settings": {**GOOD["settings"], "hidden": [True]}}, "'hidden' must be a list of positive"),
        (
            {**GOOD, "settings": {**GOOD["settings"], "latent_dim": "8"}},
            "'latent_dim' must be a positive whole number, got '8'",
        ),
        (
            {**GOOD, "facts": {**GOOD["facts"], "num_classes": "3"}},
            "'num_classes' must be a positive whole number, got '3'",
        ),
        ({**GOOD, "name": "mixture-vae"}, "'num_components' must be a positive whole number, got None"),
        ({**GOOD, "name": "discrete-vae"}, "'num_latents' must be a positive whole number, got None"),
    ],
)
def test_fields_of_another_form_are_refused(fields: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rebuild(fields)


def test_the_registry_imports_nothing_heavy() -> None:
    heavy = ("torch", "pyro", "numpy", "pandas")
    code = f"import sys, ppl_vae.recipes; print(*(m for m in {heavy!r} if m in sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_a_record_without_later_fields_is_rebuilt() -> None:
    """As the first version wrote it."""
    old = {
        "name": "vae",
        "facts": {"event_shape": [6], "binary": True},
        "settings": {"latent_dim": 2, "hidden": [5]},
    }
    model, _ = rebuild(old)
    assert model.latent_dim == 2


# codes


@pytest.mark.parametrize(
    ("num_latents", "num_classes", "guide", "objective"),
    [
        (1, MOST_CODES, "EnumeratedCategorical", None),
        (12, 2, "EnumeratedCategorical", None),
        (1, MOST_CODES + 1, "SampledCategorical", "RLOO(4)"),
        (20, 10, "SampledCategorical", "RLOO(4)"),
    ],
)
def test_codes_are_summed_out_as_long_as_they_are_few(
    num_latents: int, num_classes: int, guide: str, objective: str | None
) -> None:
    recipe = get_recipe("discrete-vae")
    settings = replace(recipe.settings, num_latents=num_latents, num_classes=num_classes, hidden=())
    assert type(recipe.build(FACTS["binary"], settings)[1]).__name__ == guide
    found, note = recipe.objective(settings), recipe.note(settings)
    assert (found if found is None else repr(found)) == objective
    assert note.startswith(f"{num_classes}^{num_latents} joint codes are too many") == (objective is not None)


# labels


@pytest.mark.parametrize(
    ("num_labels", "kept"), [(3, (1, 1, 1)), (4, (2, 1, 1)), (6, (3, 2, 1)), (7, (4, 2, 1)), (99, (5, 2, 1))]
)
def test_labels_are_kept_with_the_classes_in_turn(num_labels: int, kept: tuple[int, ...]) -> None:
    labels = torch.tensor([0, 1, 0, 2, 0, -1, 0, 1, 0, -1])
    counts = set()
    for seed in range(20):
        found = keep_labels(labels, num_labels, seed=seed)
        assert ((found == labels) | (found == -1)).all()
        counts.add(tuple(int((found == k).sum()) for k in range(3)))
    assert all(sum(count) == sum(kept) for count in counts)
    assert kept in counts
    assert all(max(count) - min(count) <= 1 for count in counts) or num_labels > 4


def test_which_labels_are_kept_is_a_matter_of_the_seed() -> None:
    labels = torch.arange(60) % 3
    first, again, other = (keep_labels(labels, 6, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    chance = torch.stack([keep_labels(labels, 6, seed=seed) >= 0 for seed in range(500)]).double().mean(0)
    assert ((chance - 0.1).abs() < 4.5 * (0.09 / 500) ** 0.5).all()


@pytest.mark.parametrize(
    ("facts", "num_labels", "message"),
    [
        (Facts((6,), binary=True), 100, "data with labels of two classes or more are required, got no labels"),
        (Facts((6,), binary=True, num_classes=1), 100, "two classes or more are required, got 1"),
        (Facts((6,), binary=True, num_classes=5), 4, "num_labels must be at least 5, one a class, got 4"),
    ],
)
def test_labels_that_do_not_serve_are_refused(facts: Facts, num_labels: int, message: str) -> None:
    recipe = get_recipe("ss-vae")
    with pytest.raises(ValueError, match=message):
        recipe.build(facts, replace(recipe.settings, num_labels=num_labels))


# flows


@pytest.mark.parametrize(("name", "facts"), [(name, facts) for name, refused in REFUSED.items() for facts in refused])
def test_a_flow_says_which_recipe_the_data_want(name: str, facts: str) -> None:
    other = {"flow": "survae", "survae": "flow"}[name]
    with pytest.raises(ValueError, match=rf"^{name}: .* are required.*; take the recipe {other}$"):
        get_recipe(name).build(FACTS[facts], settings_of(name))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (torch.tensor([[0.0, 1.0]]), 1),
        (torch.arange(256.0).view(-1, 2), 1),
        (torch.arange(17.0) / 16, 16),
        (torch.arange(256.0) / 255, 255),
        (torch.tensor([5.1, 3.5, 1.4, 0.2]), 10),
        (torch.tensor([0.5, 1 / 3]), 6),
        (torch.tensor([0.1415927, 0.7182818]), None),
        (torch.cat([torch.zeros(2000), torch.tensor([0.7182818])]), None),
        (torch.cat([torch.zeros(2000), torch.tensor([0.25])]), 4),
    ],
)
def test_levels_are_found(rows: torch.Tensor, expected: int | None) -> None:
    """Also where the first thousand entries do not show them."""
    assert steps_per_unit(rows) == expected


def test_a_flow_is_exact_and_its_elbo_the_density_of_its_parts() -> None:
    from ppl_vae import Pair
    from ppl_vae.evidence import decomposition

    torch.manual_seed(0)
    model, guide = (part.double().eval() for part in get_recipe("flow").build(FACTS["real"], settings_of("flow")))
    pair, x = Pair(model, guide), torch.randn(12, 6, dtype=torch.float64)
    found = decomposition(pair, x, num_samples=2)
    jacobian = torch.autograd.functional.jacobian(lambda rows: model.flow.encode(rows)[0].sum(0), x).transpose(0, 1)
    z = model.flow.encode(x)[0]
    expected = torch.distributions.Normal(z.new_zeros(()), 1.0).log_prob(z).sum(-1) + jacobian.slogdet()[1]
    assert found.evidence.bound == "exact"
    assert torch.allclose(found.elbo, expected.detach(), rtol=0, atol=1e-10)
    assert pair.counts_volume


def test_survae_bounds_a_probability() -> None:
    """Of two numbers on levels: over all of them the estimates of P(x) add up to 1, and the ELBOs to less."""
    from ppl_vae import Pair
    from ppl_vae.evidence import decomposition

    torch.manual_seed(0)
    x = torch.cartesian_prod(torch.arange(-6.0, 6.0), torch.arange(-6.0, 6.0)) / 10
    pair = Pair(*get_recipe("survae").build(Facts((2,), False, None, 10), settings_of("survae")))
    pair.initialize(x)
    found = decomposition(pair, x, num_samples=5000)
    assert found.evidence.bound == "lower"
    total, weighted = (float(values.exp().sum()) for values in (found.elbo, found.evidence.value))
    assert abs(weighted - 1) < 0.01
    assert 0.7 < total < 0.99


def test_couplings_want_two_numbers() -> None:
    with pytest.raises(ValueError, match="at least 2 are required, got 1"):
        get_recipe("flow").build(Facts((1,), binary=False), settings_of("flow"))


def test_a_recipe_sums_over_so_many_codes_as_evaluations_do():
    from ppl_vae.pair.table import FEW_CODES
    from ppl_vae.recipes.discrete_vae import MOST_CODES

    assert MOST_CODES == FEW_CODES
