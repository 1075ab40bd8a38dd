"""The encoder as a scikit-learn transformer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from joblib import Parallel, delayed, effective_n_jobs
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from bids_semantoks.api import Embedding, Encoder, Series, load_encoder
from bids_semantoks.config import EmbeddingConfig
from bids_semantoks.errors import InputError, ModelError

_USUAL = EmbeddingConfig()


class Embedder(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Transform parcel series into mean embeddings, one row per run: n series -> (n, dims).

    Nothing is learnt from the data, so it may be applied before any cross-validation; inside one, the pipeline's
    `memory` avoids encoding each series again in every fold.

    Parameters
    ----------
    model : str, Path or Encoder, optional
        As in `load_encoder`.
    repetition_time : float, optional
        In seconds, for all series; required for arrays.
    parcels : str or sequence of str, optional
        Names of the columns, or an order shipped with this package, as in `Encoder.encode`.
    pooling : str, optional
        ``cls_avg`` (mean of tokens, then class token), ``cls``, ``avg`` or ``networks``.
    n_windows : int, optional
        Number of equally spaced windows per series.
    min_kept : float or None, optional
        Windows with a smaller share of kept data are excluded if there are better ones; None weights all equally.
    device : str, optional
        As in `load_encoder`.
    n_jobs : int, optional
        Number of processes, as in joblib; each loads the encoder.

    Attributes
    ----------
    n_features_out_ : int
        Length of an embedding.
    sha256_ : str
        Checksum of the weights.
    """

    def __init__(  # noqa: PLR0913 - scikit-learn finds the parameters of an estimator in its signature
        self,
        model: str | Path | Encoder = _USUAL.model,
        *,
        repetition_time: float | None = None,
        parcels: str | Sequence[str] | None = None,
        pooling: str = _USUAL.pooling[0],
        n_windows: int = _USUAL.n_windows,
        min_kept: float | None = _USUAL.min_kept,
        device: str = "auto",
        n_jobs: int | None = None,
    ) -> None:
        self.model = model
        self.repetition_time = repetition_time
        self.parcels = parcels
        self.pooling = pooling
        self.n_windows = n_windows
        self.min_kept = min_kept
        self.device = device
        self.n_jobs = n_jobs

    def fit(self, X: Sequence[Series], y: object = None) -> Self:  # noqa: ARG002 - as all transformers
        """Load the encoder and encode the first series to check that the series match it.

        Parameters
        ----------
        X : sequence of n arrays (T, P), DataFrames, paths or ParcelSeries
            One series per run; runs may differ in length.
        y : object, optional
            Ignored.

        Returns
        -------
        Embedder
            The fitted transformer.
        """
        series = _list_series(X)
        self._encoder = self._load()
        self.sha256_ = self._encoder.sha256
        self.n_features_out_ = len(self._encode(series[0]))
        return self

    def transform(self, X: Sequence[Series]) -> NDArray[np.float64]:
        """Encode each series and average its windows, weighted by their kept data.

        Parameters
        ----------
        X : sequence of n arrays (T, P), DataFrames, paths or ParcelSeries
            One series per run.

        Returns
        -------
        array of shape (n, dims)
            The values of the command line's ``phenotype/`` table, for participants with one run.
        """
        check_is_fitted(self, "sha256_")
        series = _list_series(X)
        n_jobs = min(effective_n_jobs(self.n_jobs), len(series))
        if n_jobs == 1:
            return np.stack([self._encode(one) for one in series])
        # In parts, so that each process loads the encoder once.
        parts = [series[start::n_jobs] for start in range(n_jobs)]
        rows = np.empty((len(series), self.n_features_out_))
        for start, part in enumerate(Parallel(n_jobs=n_jobs)(delayed(_encode_part)(self, part) for part in parts)):
            rows[start::n_jobs] = part
        return rows

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:  # noqa: ARG002
        """Return the names of the dimensions, as in the tables of the command line.

        Parameters
        ----------
        input_features : object, optional
            Ignored: dimensions do not come from single parcels.

        Returns
        -------
        array of shape (dims,)
            ``dim0001`` and so on.
        """
        check_is_fitted(self, "n_features_out_")
        return np.array([f"dim{number:04d}" for number in range(1, self.n_features_out_ + 1)], dtype=object)

    def _load(self) -> Encoder:
        return self.model if isinstance(self.model, Encoder) else load_encoder(self.model, device=self.device)

    def _encode(self, series: Series) -> NDArray[np.float64]:
        if not hasattr(self, "_encoder"):
            self._encoder = self._load()
            if self._encoder.sha256 != self.sha256_:
                raise ModelError(
                    f"The weights of {self.model} have changed since this Embedder was fitted: SHA-256 "
                    f"{self._encoder.sha256[:12]}, expected {self.sha256_[:12]}.",
                    hint="Fit it again, or restore the weights.",
                )
        asked = {
            name: getattr(self, name) for name in ("repetition_time", "parcels", "pooling", "n_windows", "min_kept")
        }
        embedding: Embedding = self._encoder.encode(series, **asked)
        return embedding.pooled

    def __getstate__(self) -> dict[str, Any]:
        # Weights are reloaded where needed instead of being part of each pickle.
        return {name: value for name, value in super().__getstate__().items() if name != "_encoder"}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.no_validation = True
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.allow_nan = True
        return tags


def _encode_part(embedder: Embedder, series: Sequence[Series]) -> NDArray[np.float64]:
    return np.stack([embedder._encode(one) for one in series])


def _list_series(found: Any) -> list[Series]:
    """List the series of n runs; InputError for a single series, and for none."""
    if isinstance(found, str | Path) or (hasattr(found, "iloc") and found.ndim == 2):
        raise InputError("Found a single series; expected a list of series.", hint="Use [series].")
    series = list(found)
    if not series:
        raise InputError("The list of series is empty.")
    if getattr(found, "ndim", 3) == 2 and isinstance(found, np.ndarray) and found.dtype != object:
        raise InputError(
            f"Found an array of shape {found.shape}; expected a list of series (T, P), or one array (n, T, P).",
            hint="Use [series].",
        )
    return series
