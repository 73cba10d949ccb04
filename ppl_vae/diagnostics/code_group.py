"""The codes as a group for ArviZ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ppl_vae.diagnostics.posterior_table import posterior_table
from ppl_vae.diagnostics.usage import CodeUsage, class_probabilities, discrete_sites
from ppl_vae.pair.table import few_codes

if TYPE_CHECKING:
    from ppl_vae.data.source import Source
    from ppl_vae.pair import Pair

Variable = tuple[list[str], np.ndarray]


def code_group(pair: Pair, rows: Source, *, datum: str, seed: int, max_elements: int) -> dict[str, Variable]:
    """Every variable of the group, as (names of its dimensions, values); ``datum`` is that of the rows."""
    found: dict[str, Variable] = {}
    for name in discrete_sites(pair):
        probs = class_probabilities(pair, rows, name, seed=seed, max_elements=max_elements)
        usage, latent, kind = CodeUsage.of(probs), f"{name}_latent", f"{name}_class"
        found[f"{name}_probs"] = ([datum, latent, kind], probs.numpy())
        found[f"{name}_usage"] = ([latent, kind], usage.usage.numpy())
        for column, values in usage.to_dataframe().items():
            found[f"{name}_{column}"] = ([latent], values.to_numpy())
    return found | _table(pair, rows, datum, max_elements)


def _table(pair: Pair, rows: Source, datum: str, max_elements: int) -> dict[str, Variable]:
    if few_codes(pair) is None or any(site.plate_dims for site in pair.latents.values()):
        return {}
    table = posterior_table(pair, rows, max_elements=max_elements)
    values = {
        f"{name}_value": (["code", *(f"{name}_value_dim_{i}" for i in range(v.dim() - 1))], v.numpy())
        for name, v in table.values.items()
    }
    return {
        "posterior": ([datum, "code"], table.exact.numpy()),
        "guide": ([datum, "code"], table.guide.numpy()),
        "kl": ([datum], table.kl.numpy()),
        **values,
    }
