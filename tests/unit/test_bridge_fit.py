"""The fit of a bridge: finds a planted map, equals an oracle, and says what it cannot do."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import Ridge

from embver_pg.bridge.fit import LEAST_PAIRS, PENALTIES, fit, image, norms
from embver_pg.errors import InvalidArgument

Matrix = npt.NDArray[np.float64]


def unit(vectors: Matrix) -> Matrix:
    result: Matrix = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return result


def spaces(count: int, noise: float = 0.0, seed: int = 3) -> tuple[Matrix, Matrix]:
    """Old vectors [count, 12] and an affine image of them [count, 20], of unit length."""
    draw = np.random.default_rng(seed)
    old = unit(draw.normal(size=(count, 12)))
    new = old @ draw.normal(size=(12, 20)) + draw.normal(size=20)
    return old, unit(new + noise * draw.normal(size=new.shape))


def test_a_planted_map_is_found() -> None:
    old, new = spaces(600)
    fitted = fit(old[:500], new[:500])
    assert fitted.weights.shape == (12, 20)
    assert fitted.weights.dtype == np.dtype(np.float32)
    assert (fitted.pairs, fitted.penalty in PENALTIES) == (500, True)
    cosines = np.einsum("ij,ij->i", unit(image(fitted, old[500:]).astype(float)), new[500:])
    # The planted map is affine before its normalisation only, so the fit is close, not exact.
    assert cosines.mean() > 0.97
    assert fitted.cosine == pytest.approx(cosines.mean(), abs=0.01)
    assert fitted.cosine_low <= fitted.cosine
    lengths = np.linalg.norm(image(fitted, old[500:]), axis=1)
    np.testing.assert_allclose(norms(fitted, old[500:]), lengths, rtol=1e-6)


def test_an_exact_affine_map_is_recovered() -> None:
    # A rotation about the origin keeps the unit length: affine in full.
    draw = np.random.default_rng(5)
    rotation, _ = np.linalg.qr(draw.normal(size=(12, 12)))
    old = unit(draw.normal(size=(2000, 12)))
    fitted = fit(old, old @ rotation)
    assert fitted.penalty == PENALTIES[0]
    np.testing.assert_allclose(fitted.weights, rotation, atol=1e-4)
    assert fitted.cosine_low > 0.9999


@pytest.mark.parametrize("noise", [0.1, 2.0])
def test_it_equals_scikit_learn(noise: float) -> None:
    old, new = spaces(400, noise)
    fitted = fit(old, new)
    oracle = Ridge(alpha=fitted.penalty, fit_intercept=True, solver="cholesky").fit(old, new)
    np.testing.assert_allclose(fitted.weights, oracle.coef_.T, atol=1e-5)
    np.testing.assert_allclose(image(fitted, old), oracle.predict(old), atol=1e-5)


def test_the_penalty_is_the_best_of_the_pairs_held_out() -> None:
    old, new = spaces(100, noise=3.0)
    fitted = fit(old, new, seed=9)
    order = np.random.default_rng(9).permutation(100)
    held_out, kept = order[:20], order[20:]
    means = {}
    for penalty in PENALTIES:
        oracle = Ridge(alpha=penalty, solver="cholesky").fit(old[kept], new[kept])
        images = unit(oracle.predict(old[held_out]))
        means[penalty] = float(np.einsum("ij,ij->i", images, new[held_out]).mean())
    assert fitted.penalty == max(PENALTIES, key=lambda penalty: means[penalty])
    assert fitted.cosine == pytest.approx(means[fitted.penalty], abs=1e-9)


def test_unrelated_spaces_show_in_the_figure() -> None:
    draw = np.random.default_rng(1)
    fitted = fit(unit(draw.normal(size=(500, 12))), unit(draw.normal(size=(500, 20))))
    assert abs(fitted.cosine) < 0.15


def test_the_length_of_new_vectors_does_not_matter_and_draws_repeat() -> None:
    old, new = spaces(200, noise=0.5)
    lengths = np.random.default_rng(2).uniform(0.5, 9, size=(200, 1))
    one, other = fit(old, new), fit(old, new * lengths)
    np.testing.assert_allclose(one.weights, other.weights, atol=1e-6)
    assert one.cosine == pytest.approx(other.cosine)
    np.testing.assert_array_equal(fit(old, new).weights, one.weights)


def test_more_dimensions_than_pairs() -> None:
    draw = np.random.default_rng(4)
    fitted = fit(draw.normal(size=(LEAST_PAIRS, 200)), draw.normal(size=(LEAST_PAIRS, 8)))
    assert np.isfinite(fitted.weights).all()


def test_what_cannot_be_fitted_is_refused() -> None:
    old, new = spaces(100)
    hole = old.copy()
    hole[3, 2] = np.nan
    endless = new.copy()
    endless[3, 2] = np.inf
    zero = new.copy()
    zero[5] = 0
    for x, y, reason in (
        (old[: LEAST_PAIRS - 1], new[: LEAST_PAIRS - 1], "too few"),
        (old, new[:99], "fit together"),
        (old[0], new[0], "fit together"),
        (hole, new, "not finite"),
        (old, endless, "not finite"),
        (old, zero, "zero"),
        (np.ones_like(old), new, "old vectors are all the same"),
        (old, np.ones_like(new), "new vectors are all the same"),
    ):
        with pytest.raises(InvalidArgument, match=reason) as refusal:
            fit(x, y)
        assert reason in str(refusal.value.detail)
