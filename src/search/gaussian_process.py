"""Gaussian-process regression of a score on a point.

Rasmussen and Williams: "Gaussian Processes for Machine Learning", MIT Press 2006: the prediction is
Algorithm 2.1, the kernel Matérn's with ν = 5/2 (equation 4.17) and a length scale for each
direction; length scales and noise maximize the marginal likelihood (equations 5.8 and 5.9) times
a log-normal prior. Beside it lies a straight line along the last direction (section 2.7).
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize, stats
from scipy.spatial import distance

Array = NDArray[np.float64]

PRIOR_MEAN = math.log(0.5)
"""Of the logarithm of a length scale, where the ends of a range are 1 apart."""

NOISE_MEAN = math.log(0.2)
"""Of the logarithm of the noise's variance, where all of the score has variance 1."""

_PRIOR_SD = 1.0

CONSTANT, SLOPE = 1.0, 3.0
"""Prior variances of the line: of its height and of its slope."""

_JITTER = 1e-6


class GaussianProcess:
    """A posterior over functions.

    Args:
        points: (N, D), not much farther apart than in the unit cube.
        scores: (N,), of about mean 0 and variance 1.
    """

    def __init__(self, points: Array, scores: Array) -> None:
        self._points = points
        means = np.append(np.full(points.shape[1], PRIOR_MEAN), NOISE_MEAN)
        squares = (points[:, None, :] - points[None, :, :]) ** 2
        line = _line(points, points)
        found: Any = optimize.minimize(
            loss, means, (squares, line, scores, means), jac=True, method="L-BFGS-B",
            bounds=[(mean - 4, mean + 4) for mean in means], options={"maxiter": 30},
        )  # fmt: skip
        self.scales = np.exp(found.x[:-1])
        self.noise = math.exp(found.x[-1]) + _JITTER
        self.condition(points, scores)

    def condition(self, points: Array, scores: Array) -> None:
        """Learn from these instead, with the same length scales and noise."""
        self._points = points
        kernel = self._kernel(points) + self.noise * np.eye(len(points))
        self._factor = linalg.cholesky(kernel, lower=True)
        self._weights = linalg.cho_solve((self._factor, True), scores)

    def predict(self, points: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation, (M,) each, without the noise, at points (M, D)."""
        kernel = self._kernel(points)
        solved = linalg.solve_triangular(self._factor, kernel.T, lower=True)
        before = 1 + CONSTANT + SLOPE * points[:, -1] ** 2
        variance = np.maximum(before - (solved**2).sum(axis=0), 1e-12)
        return kernel @ self._weights, np.sqrt(variance)

    def _kernel(self, points: Array) -> Array:
        scaled, known = points / self.scales, self._points / self.scales
        matern, _ = _matern(distance.cdist(scaled, known, "sqeuclidean"))
        return matern + _line(points, self._points)


def _line(points: Array, others: Array) -> Array:
    return CONSTANT + SLOPE * np.outer(points[:, -1], others[:, -1])


def _matern(squares: Array) -> tuple[Array, Array]:
    """Return the kernel, and minus twice its derivative by the squared distance."""
    length = np.sqrt(5 * squares)
    falling = np.exp(-length)
    return (1 + length + length**2 / 3) * falling, 5 / 3 * (1 + length) * falling


def loss(
    logs: Array, squares: Array, line: Array, scores: Array, means: Array
) -> tuple[float, Array]:
    """Return minus the logarithm of the posterior of scales and noise, and its gradient."""
    by_scale = np.exp(-2 * logs[:-1])
    kernel, slope = _matern(squares @ by_scale)
    noise = math.exp(logs[-1])
    kernel += line
    kernel[np.diag_indices_from(kernel)] += noise + _JITTER
    factor = linalg.cholesky(kernel, lower=True)
    weights = linalg.cho_solve((factor, True), scores)
    inverse, _ = linalg.lapack.dpotri(factor, lower=True)  # its lower triangle
    inner = np.outer(weights, weights) - inverse - np.tril(inverse, -1).T
    # The derivative of the kernel by the logarithm of a scale is slope · squares · by_scale.
    by_logs = np.tensordot(inner * slope, squares) * by_scale
    gradient = -0.5 * np.append(by_logs, noise * np.trace(inner))
    away = (logs - means) / _PRIOR_SD
    value = 0.5 * scores @ weights + np.log(np.diag(factor)).sum() + 0.5 * away @ away
    return float(value), gradient + away / _PRIOR_SD


def expected_improvement(mean: Array, deviation: Array, best: float) -> Array:
    """Return by how much a score is expected to exceed the best one (Jones et al. 1998, eq. 15)."""
    z = (mean - best) / deviation
    return np.asarray(deviation * (z * stats.norm.cdf(z) + stats.norm.pdf(z)))
