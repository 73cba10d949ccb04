"""Laws of recipes, over all of them: they build, they are rebuilt from plain fields, and those fields run no
code.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from ppl_vae.recipes import RECIPES, Facts, Settings, get_recipe, rebuild, record

FACTS = {
    "binary": Facts((6,), binary=True),
    "real": Facts((6,), binary=False),
    "images": Facts((1, 4, 4), binary=True),
}


@pytest.mark.parametrize("facts", FACTS)
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_a_pair_that_runs(name: str, facts: str) -> None:
    from ppl_vae import Pair

    model, guide = get_recipe(name).build(FACTS[facts], Settings(latent_dim=2, hidden=(5,)))
    x = torch.ones(7, *FACTS[facts].event_shape)
    draws = Pair(model, guide).draw(x, 3)
    assert draws.log_weight.shape == (3, 7)
    assert draws.log_weight.isfinite().all()


@pytest.mark.parametrize("facts", FACTS)
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_rebuilt_from_plain_fields(name: str, facts: str) -> None:
    recipe = get_recipe(name)
    settings = Settings(latent_dim=3, hidden=(4, 5))
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
            "'latent_dim' must be a int, got '8'",
        ),
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
