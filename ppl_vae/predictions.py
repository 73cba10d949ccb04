"""What a fit says of latents and of data: codes, reconstructions, new data, what is predicted, what is missing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ppl_vae.evidence import PredictiveDensity, WeightedDraws, log_predictive, weighted_draws
from ppl_vae.pair import Pair, imputing, predictive
from ppl_vae.pair.centers import encode, lines

if TYPE_CHECKING:
    from ppl_vae.diagnostics import LeaveOneOut


class Predictions(ABC):
    """The part of a :class:`~ppl_vae.result.Fit` that goes from data to latents and back."""

    pair: Pair

    @abstractmethod
    def rows_of_fit(self, fitted_to: Any = None) -> Any:
        """The rows of the fit, if they are given or at hand; else None."""

    def encode(self, data: Any, *, sample: bool = False, seed: int = 0) -> Any:
        """The posterior mean of each datum's latent, or a draw: (N, ...), a dictionary if there are several latents.

        A discrete latent gives its most probable value. Where the guide draws a latent given others, or has no mean in
        closed form, 256 draws are averaged.

        Args:
            data: N rows.
            sample: draw from q(z | x) instead.
            seed: of the draws.
        """
        rows = self.pair.rows(data)
        self.pair.require_whole_rows(rows)
        return _single(encode(self.pair, rows, sample=sample, seed=seed))

    def weighted_draws(self, data: Any = None, num_samples: int = 4000, *, seed: int = 0) -> WeightedDraws:
        """Draws with the weights that lead them to the posterior; see ``evidence.weighted_draws``.

        Args:
            data: N rows; by default those of the fit.
            num_samples: draws of a datum, or of the latents that all data share.
            seed: of the draws.
        """
        rows = self.rows_of_fit() if data is None else data
        return weighted_draws(self.pair, rows, num_samples, seed=seed)

    def log_predictive(self, data: Any, **options: Any) -> PredictiveDensity:
        """Log p(x_n | rows of the fit) of each of N new rows, with its error; see ``evidence.log_predictive``.

        The average over the posterior of the latents that all data share; without such, ask ``log_evidence``.
        """
        return log_predictive(self, data, **options)

    def loo(self, data: Any = None, **options: Any) -> LeaveOneOut:
        """Log p(x_n | all other rows) of each row of the fit, with k-hats; see ``diagnostics.loo``.

        Args:
            data: the rows of the fit; by default those at hand.
        """
        from ppl_vae.diagnostics import loo

        return loo(self, data, **options)

    def codes(self, data: Any, site: str | None = None, *, seed: int = 0) -> Tensor:
        """The most probable class of each discrete latent: (N, M) long; see ``diagnostics.codes``.

        Of a latent that the model sums out, the class that Bayes' rule gives.

        Args:
            data: N rows.
            site: its name, where there are several discrete latents.
            seed: of the draws that are averaged where the classes depend on other latents.
        """
        from ppl_vae.diagnostics import codes

        return codes(self.pair, data, site, seed=seed)

    def decode(self, latents: Any, *, mean: bool = True, seed: int = 0, fitted_to: Any = None) -> Any:
        """The data that latents stand for: the mean of p(x | z) or a draw; (n, ...) by observed site.

        Latents that all data share and that are not given are the guide's: their center, or for ``mean=False`` a draw.

        Args:
            latents: by site, (n, ...) in the data plate; a tensor if there is one latent.
            mean, seed: the mean of the data, or a draw.
            fitted_to: as in :meth:`sample`.
        """
        given = self.pair.as_values(latents)
        if unknown := sorted(set(given) - set(self.pair.latents)):
            raise ValueError(f"decode: the latent sites are {sorted(self.pair.latents)}, got {unknown}")
        sizes = [len(v) for name, v in given.items() if self.pair.latents[name].is_local]
        given = predictive.with_shared(
            self.pair, given, self.rows_of_fit(fitted_to), None, mean=mean, seed=seed, who="decode"
        )
        found = self.pair.simulate(sizes[0] if sizes else 1, seed=seed, mean=mean, latents=given)
        return _single({name: found[name] for name in self.pair.observed if name in found})

    def sample(self, n: int, *, mean: bool = False, seed: int = 0, fitted_to: Any = None) -> Any:
        """N new data from the posterior predictive: (n, ...) by observed site.

        Latents that all data share are drawn from the guide, anew for each datum: each is a draw of what one more datum
        would be. A datum's own latents are drawn from the model, and x given all (``mean=True``: the mean of x given
        them). Without shared latents the guide is not touched. What else the model looks at (covariates) is that of the
        rows that it was first run on, in turn; :meth:`posterior_predictive` takes rows of your own. Data from the prior
        of all latents: ``simulate``.

        Args:
            n: how many data.
            mean: the mean of each observed site (of classes, the mode) instead of a draw.
            seed: of the draws.
            fitted_to: the rows of the fit, for a fit that was loaded or released, where the guide of a shared latent
                looks at them, or the model sums one out.

        Raises:
            ValueError: such rows are required and were not given.
        """
        if n >= 1 and self.pair.observed and predictive.shared_latents(self.pair):
            return _single(predictive.new_data(self.pair, n, self.rows_of_fit(fitted_to), mean=mean, seed=seed))
        found = self.pair.simulate(n, seed=seed, mean=mean)
        return _single({name: found[name] for name in self.pair.observed if name in found})

    def posterior_predictive(
        self, new_rows: Any, *, num_samples: int = 100, mean: bool = False, seed: int = 0, fitted_to: Any = None
    ) -> dict[str, Tensor]:
        """The observed sites of given rows drawn anew from the posterior predictive: (num_samples, N, ...) by site.

        Rows may come without what is to be predicted: for ``model(x, y=None)`` the x alone. Latents that all data share
        are drawn from the guide as it was fitted. A row's own latents are drawn from the guide if the rows hold what
        the model observes (replicates, for posterior predictive checks), else from the model.

        Args:
            new_rows: N rows.
            num_samples: S, draws of all latents; those of one are the same for all rows.
            mean: the mean of each observed site (of classes, the mode) given the latents instead of a draw.
            seed: of the draws.
            fitted_to: as in :meth:`sample`.

        Raises:
            ValueError: rows of the fit are required and not at hand; the guide has no posterior for these rows.
        """
        rows, known = self.pair.rows(new_rows), self.rows_of_fit(fitted_to)
        return predictive.posterior_predictive(self.pair, rows, known, num_samples=num_samples, mean=mean, seed=seed)

    def predict(
        self, data: Any, values: Any, *, seed: int = 0, mean: bool = False, num_samples: int = 1
    ) -> dict[str, Tensor]:
        """The observed sites drawn anew at given latents: (S, N, ...) by site; see ``Pair.predict``.

        Latents that all data share and that are not given are drawn from the guide.
        """
        given = self.pair.as_values(values)
        size = len(next(iter(given.values()))) if given else num_samples
        given = predictive.with_shared(self.pair, given, self.rows_of_fit(), size, mean=mean, seed=seed, who="predict")
        return self.pair.predict(data, given, seed=seed, mean=mean, num_samples=size)

    def impute(
        self,
        data: Any,
        mask: Any = None,
        *,
        mean: bool = True,
        num_samples: int = 1000,
        weighted: bool = True,
        seed: int = 0,
    ) -> Any:
        r"""Fill the holes of data: entries that were not observed, given those of the same row that were.

        .. math:: E[x_{miss} \mid x_{seen}] \approx \sum_k w_k E[x_{miss} \mid z_k], \quad
            w_k \propto p(x_{seen}, z_k) / q(z_k \mid x_{seen}), \quad z_k \sim q

        For models with an argument ``mask`` (all of ``ppl_vae.models``), and for sites with Pyro's ``obs_mask=``.

        Args:
            data: N rows, as ``{"x": X, "mask": seen}``; or X alone, whose holes are NaN or False in ``mask``. For
                ``obs_mask=``, the arguments of the model.
            mask: boolean, of the shape of X, True where an entry was observed, where ``data`` do not hold it.
            mean: the conditional mean of each hole (of classes, the mode), else draws.
            num_samples: S, draws of the latents a datum.
            weighted: weigh the draws by the true posterior; else the guide is taken for it. Not done where latents are
                shared by all data, or the guide is a point.
            seed: of the draws.

        Returns:
            (N, ...) with what was seen kept as it is; (S, N, ...) for ``mean=False``. By site, if there are several.

        Raises:
            ValueError: the model has no way to hold holes, or it is not said where they are; the message says how.

        Pierre-Alexandre Mattei, Jes Frellsen: "MIWAE: deep generative modelling and imputation of incomplete data
        sets", 2019.
        """
        rows = imputing.rows_with_holes(self.pair, data, mask)
        options: Any = {"num_samples": num_samples, "mean": mean, "weighted": weighted, "seed": seed}
        return _single(imputing.impute(self.pair, rows, **options))

    def reconstruct(self, data: Any, *, mean: bool = True, seed: int = 0) -> Any:
        """Encode and decode each datum through the posterior mean: (N, ...)."""
        codes = self.encode(data)
        values = codes if isinstance(codes, dict) else {next(iter(self.pair.latents)): codes}
        draws = {name: value.unsqueeze(0) for name, value in values.items()}
        found = self.pair.predict(data, draws, mean=mean, seed=seed)
        return _single({name: value[0] for name, value in found.items()})

    def interpolate(self, first: Any, second: Any, steps: int = 8) -> Any:
        """Decode the straight line between the codes of two sets of N data: (N, steps, ...)."""
        self.pair.sites.require_local("interpolate")
        decoded = self.decode(lines(self.encode(first), self.encode(second), steps).flatten(0, 1))
        if isinstance(decoded, dict):
            return {name: value.unflatten(0, (-1, steps)) for name, value in decoded.items()}
        return decoded.unflatten(0, (-1, steps))


def _single(values: dict[str, Any]) -> Any:
    """The value itself where there is one site."""
    return next(iter(values.values())) if len(values) == 1 else values
