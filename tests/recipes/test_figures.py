"""The figures of a run: each panel has the title of what it shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from ppl_vae import VariationalEM
from ppl_vae.data import Dataset
from ppl_vae.recipes import Facts, Settings, get_recipe
from ppl_vae.recipes.figures import Judged, _of_table, _panels

BITS = torch.rand(24, 12, generator=torch.Generator().manual_seed(0)).round()
IMAGES = Dataset("bits", BITS, image_shape=(1, 4, 3))
LABELS = torch.arange(24) % 2


def titles(dataset: Dataset, own: dict[str, Callable]) -> dict[str, str]:
    torch.manual_seed(0)
    pair = get_recipe("vae").build(Facts.of(dataset), Settings(latent_dim=2, hidden=(5,)))
    fit = VariationalEM(*pair).fit(dataset.train, epochs=1, progress=False)
    judged = Judged(torch.arange(24.0), range(24))
    panels = _panels(fit, dataset, own) | _of_table(fit, dataset, judged)
    return {name: draw(None).get_title() for name, draw in panels.items()}


OF_IMAGES = {
    "elbo": "ELBO",
    "samples": "samples from the prior",
    "reconstructions": "originals and reconstructions",
    "latent": "latent space",
    "kl": "KL of each latent dimension",
}


def test_every_panel_of_images_has_its_title() -> None:
    assert titles(IMAGES, {}) == OF_IMAGES


def test_classes_change_the_title_of_the_latent_space_alone() -> None:
    labelled = replace(IMAGES, train_labels=LABELS, label_names=("a", "b"))
    assert titles(labelled, {}) == OF_IMAGES | {"latent": "latent space by class"}


def test_every_panel_of_a_table_has_its_title() -> None:
    found = titles(Dataset("table", BITS + 0.25 * BITS.roll(1, 0)), {})
    assert found == {
        "columns": "data (grey) and draws of the model (blue)",
        "elbo": "ELBO",
        "latent": "latent space",
        "kl": "KL of each latent dimension",
        "log_p": "log p(x) by row",
    }
