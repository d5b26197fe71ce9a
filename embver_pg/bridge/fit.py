"""An affine ridge regression from one model's vectors to another's; closed form, numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embver_pg.errors import InvalidArgument

Matrix = npt.NDArray[np.floating]
_Double = npt.NDArray[np.float64]

PENALTIES = tuple(float(penalty) for penalty in np.logspace(-3, 2, 11))
LEAST_PAIRS = 64  # with fewer, a fifth held out says nothing
_HELD_OUT = 0.2
_FLAT = 1e-12  # variance, summed over the dimensions, under which all vectors are the same


@dataclass(frozen=True)
class Fit:
    """The map g(x) = (x - x_mean) weights + y_mean, to be followed by L2 normalisation.

    Attributes:
        weights: W, ``[d_old, d_new] float32``.
        x_mean: ``[d_old] float32``, mean of the old vectors.
        y_mean: ``[d_new] float32``, mean of the new unit vectors.
        penalty: The ridge penalty, lambda.
        pairs: Documents it was fitted on.
        cosine: Mean cosine of image and new vector over pairs held out of a fit with this penalty.
        cosine_low: The 5 % quantile of the same cosines.
    """

    weights: npt.NDArray[np.float32]
    x_mean: npt.NDArray[np.float32]
    y_mean: npt.NDArray[np.float32]
    penalty: float
    pairs: int
    cosine: float
    cosine_low: float


def fit(old: Matrix, new: Matrix, *, seed: int = 0) -> Fit:
    """Fit the map; the penalty is the one with the best held-out mean cosine.

    ``W = (XcᵀXc + λI)⁻¹ XcᵀYc`` with X and Y centred, λ out of :data:`PENALTIES`, chosen on a
    random fifth that is held out, then fitted again on all pairs. The form and its comparison with
    others: Drift-Adapter, arXiv 2509.23471.

    Args:
        old: ``[n, d_old]``, as they are stored: the map is applied to those.
        new: ``[n, d_new]``, the same documents in the same order; their length does not matter.
        seed: Draws the pairs held out.

    Raises:
        InvalidArgument: Too few pairs, other shapes, vectors that are not finite, zero new
            vectors, or vectors that are all the same.
    """
    x, y = _checked(old, new)
    order = np.random.default_rng(seed).permutation(len(x))
    held_out, kept = np.split(order, [round(_HELD_OUT * len(x))])
    penalty, cosines = _best_penalty(x[kept], y[kept], x[held_out], y[held_out])
    ridge = _Ridge.of(x, y)
    return Fit(
        weights=ridge.weights(penalty).astype(np.float32),
        x_mean=ridge.x_mean.astype(np.float32),
        y_mean=ridge.y_mean.astype(np.float32),
        penalty=penalty,
        pairs=len(x),
        cosine=float(cosines.mean()),
        cosine_low=float(np.quantile(cosines, 0.05)),
    )


def image(fitted: Fit, old: Matrix) -> npt.NDArray[np.float32]:
    """The images of old vectors, before normalisation: ``[n, d_old]`` to ``[n, d_new] float32``."""
    centred = np.asarray(old, np.float32) - fitted.x_mean
    return np.asarray(centred @ fitted.weights + fitted.y_mean, np.float32)


def norms(fitted: Fit, old: Matrix) -> npt.NDArray[np.float32]:
    """The lengths of the images of old vectors, by which their scores are divided: ``[n]``."""
    lengths = np.linalg.norm(image(fitted, old), axis=1)
    return np.asarray(lengths, np.float32)


@dataclass(frozen=True)
class _Ridge:
    """The decomposition that gives W for any penalty: XcᵀXc = V diag(s) Vᵀ, and VᵀXcᵀYc."""

    x_mean: _Double
    y_mean: _Double
    basis: _Double
    spectrum: _Double
    target: _Double

    @classmethod
    def of(cls, x: _Double, y: _Double) -> _Ridge:
        x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
        centred = x - x_mean
        spectrum, basis = np.linalg.eigh(centred.T @ centred)
        # Rounding makes the smallest ones negative.
        spectrum = np.maximum(spectrum, 0)
        return cls(x_mean, y_mean, basis, spectrum, basis.T @ (centred.T @ (y - y_mean)))

    def shrunk(self, penalty: float) -> _Double:
        """VᵀW."""
        result: _Double = self.target / (self.spectrum + penalty)[:, None]
        return result

    def weights(self, penalty: float) -> _Double:
        """W."""
        result: _Double = self.basis @ self.shrunk(penalty)
        return result


def _best_penalty(x: _Double, y: _Double, x_out: _Double, y_out: _Double) -> tuple[float, _Double]:
    """The penalty, and the cosines of the pairs held out with it."""
    ridge = _Ridge.of(x, y)
    turned = (x_out - ridge.x_mean) @ ridge.basis
    found: list[tuple[float, _Double]] = []
    for penalty in PENALTIES:
        images = turned @ ridge.shrunk(penalty) + ridge.y_mean
        lengths = np.linalg.norm(images, axis=1)
        products = np.einsum("ij,ij->i", images, y_out)
        found.append((penalty, products / np.maximum(lengths, np.finfo(np.float64).tiny)))
    # Of equals the largest: the smoothest map.
    return max(found, key=lambda one: (float(one[1].mean()), one[0]))


def _checked(old: Matrix, new: Matrix) -> tuple[_Double, _Double]:
    """Both as float64, the new ones of unit length."""
    x, y = np.asarray(old, np.float64), np.asarray(new, np.float64)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise _refusal("the pairs do not fit together", old=list(x.shape), new=list(y.shape))
    if len(x) < LEAST_PAIRS:
        raise _refusal(
            f"{len(x)} pairs are too few", pairs=len(x), least=LEAST_PAIRS, hint="wait for more"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise _refusal("a vector is not finite")
    lengths = np.linalg.norm(y, axis=1, keepdims=True)
    if not (lengths > 0).all():
        raise _refusal("a new vector is zero")
    y = y / lengths
    for which, vectors in (("old", x), ("new", y)):
        if vectors.var(axis=0).sum() < _FLAT:
            raise _refusal(f"the {which} vectors are all the same")
    return x, y


def _refusal(reason: str, hint: str | None = None, **detail: object) -> InvalidArgument:
    return InvalidArgument(
        f"No bridge can be fitted: {reason}.", detail={"reason": reason, **detail}, hint=hint
    )
