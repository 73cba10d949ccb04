"""The peers: Pyro's SVI, NumPyro's, PyMC's full-rank ADVI; each a run under a clock."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from posteriors.normal import Normal, in_order
from posteriors.posterior import Data, Posterior
from posteriors.race import Race, Unavailable

Peer = Callable[[Posterior, Data, Race], None]
CHUNK = 100


@contextmanager
def double_precision() -> Iterator[None]:
    """Torch in double precision, with an empty store and no validation, given back as they were."""
    import pyro

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with pyro.get_param_store().scope(), pyro.validation_enabled(False):
            yield
    finally:
        torch.set_default_dtype(before)


def pyro_svi(rate: float, particles: int = 1) -> Peer:
    """SVI with AutoMultivariateNormal and Adam, in double precision and without validation (both to its advantage)."""

    def run(posterior: Posterior, data: Data, race: Race) -> None:
        import pyro
        from pyro.infer import SVI, Trace_ELBO
        from pyro.infer.autoguide import AutoMultivariateNormal

        with double_precision():
            pyro.set_rng_seed(0)
            race.start()
            guide = AutoMultivariateNormal(posterior.model)
            loss = Trace_ELBO(num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=1)
            svi = SVI(posterior.model, guide, pyro.optim.Adam({"lr": rate}), loss)

            def answer() -> Normal:
                with torch.no_grad():
                    factor = guide.scale[..., None] * guide.scale_tril
                    return in_order(posterior, list(guide._unconstrained_shapes), guide.loc.clone(), factor.clone())

            while not race.over:
                svi.step(*data)
                race.look(answer)
            race.look(answer, forced=True)

    return run


def numpyro_svi(rate: float) -> Peer:
    """The same in NumPyro, single precision as is its default where that serves, 100 steps a compiled scan."""

    def run(posterior: Posterior, data: Data, race: Race) -> None:
        require("numpyro")
        import jax
        import jax.numpy as jnp
        import numpy as np
        from numpyro.infer import SVI, Trace_ELBO
        from numpyro.infer.autoguide import AutoMultivariateNormal
        from numpyro.optim import Adam

        from posteriors.numpyro_models import MODELS, precision

        with precision(posterior.name) as dtype:
            race.start()
            arrays = [jnp.asarray(part.numpy(), dtype=dtype) for part in data]
            model = MODELS[posterior.name]
            guide = AutoMultivariateNormal(model)
            svi = SVI(model, guide, Adam(rate), Trace_ELBO())
            state = svi.init(jax.random.PRNGKey(0), *arrays)

            @jax.jit
            def many(state: Any, arrays: Any) -> Any:
                return jax.lax.scan(lambda state, _: svi.update(state, *arrays), state, None, length=CHUNK)[0]

            def answer() -> Normal:
                found = svi.get_params(state)
                loc, tril = (
                    torch.from_numpy(np.array(found[f"auto_{part}"], dtype=np.float64))
                    for part in ("loc", "scale_tril")
                )
                return in_order(posterior, list(guide._init_locs), loc, tril)

            state = jax.block_until_ready(many(state, arrays))
            first = race.now
            race.look(answer)
            before = race.now
            state = jax.block_until_ready(many(state, arrays))
            race.compile_seconds = max(0.0, first - (race.now - before))
            while not race.over:
                race.look(answer)
                state = jax.block_until_ready(many(state, arrays))
            race.look(answer, forced=True)

    return run


def pymc_advi(posterior: Posterior, data: Data, race: Race) -> None:
    """``fullrank_advi`` with PyMC's own optimizer, double precision as is its default."""
    require("pymc")
    import logging

    import numpy as np
    import pymc

    from posteriors.pymc_models import MODELS, site_of

    logging.getLogger("pymc").setLevel(logging.ERROR)
    race.start()
    with MODELS[posterior.name](*(part.numpy() for part in data)):
        advi = pymc.FullRankADVI(random_seed=0)

    def answer() -> Normal:
        group = advi.approx.groups[0]
        mean, packed = (group.params_dict[name].get_value() for name in ("mu", "L_tril"))
        factor = np.zeros((len(mean), len(mean)))
        factor[np.tril_indices(len(mean))] = packed
        np.fill_diagonal(factor, np.logaddexp(0.0, np.diagonal(factor)))
        return in_order(
            posterior,
            [site_of(name) for name in group.ordering],
            torch.from_numpy(mean.copy()),
            torch.from_numpy(factor),
        )

    def after(approx: Any, losses: Any, step: int) -> None:
        if not race.compile_seconds:
            race.compile_seconds = race.now
        race.look(answer)
        if race.over:
            raise StopIteration

    advi.fit(10_000_000, callbacks=[after], progressbar=False)
    race.look(answer, forced=True)


def require(library: str) -> None:
    """Import a library, with all that it looks for beside it; raise :class:`Unavailable` without it.

    The folder of the script is not looked into meanwhile: numba looks for ``coverage``, and would find a benchmark.
    """
    here, path = Path(__file__).parents[1], list(sys.path)
    sys.path[:] = [entry for entry in path if Path(entry or ".").resolve() != here]
    try:
        importlib.import_module(library)
    except ImportError as error:
        raise Unavailable(f"{library} does not import: {error}") from error
    finally:
        sys.path[:] = path


PEERS: Mapping[str, Peer] = {
    "Pyro Adam 0.01": pyro_svi(0.01),
    "Pyro Adam 0.1": pyro_svi(0.1),
    "Pyro Adam 0.1, 10 draws": pyro_svi(0.1, 10),
    "NumPyro Adam 0.01": numpyro_svi(0.01),
    "NumPyro Adam 0.1": numpyro_svi(0.1),
    "PyMC fullrank_advi": pymc_advi,
}
