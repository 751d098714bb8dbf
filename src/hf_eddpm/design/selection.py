"""A batch from judged candidates: good, uncertain enough to learn from, and not all of a kind."""

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Acquisition = Literal["ucb", "thompson"]


def select_batch(
    draws: NDArray[np.float64],
    num_designs: int,
    exploration: float,
    acquisition: Acquisition,
    weights: NDArray[np.float64] | None,
    noise: float,
    accept: Callable[[int, list[int]], bool],
    rng: np.random.Generator,
) -> list[int]:
    r"""Choose candidates one after another.

    "ucb": the candidate of highest `mean + exploration * std`; then, as if it had been measured, the standard
    deviation of all that covary with it shrinks (GP-BUCB, Desautels et al. 2014, JMLR 15, algorithm 1). With the means
    left out this is the greedy maximisation of the determinant of the batch's covariance, so that what resembles the
    chosen ones loses its bonus. "thompson": the best candidate of one draw of the function after another (Kandasamy et
    al. 2018, arXiv 1705.09236), its deviation from the mean multiplied by `exploration`. Without exploration both take
    the highest means.

    For every compromise between several properties each pick has weights of its own, drawn uniformly from the
    simplex (random scalarisation: Knowles 2006, ParEGO, IEEE Transactions on Evolutionary Computation 10).

    Args:
        draws: Utilities of drawn functions, `(draws, candidates, num_properties)`.
        num_designs: How many to choose at most.
        exploration: At least 0.
        acquisition: "ucb" or "thompson".
        weights: Of the properties, `(num_properties,)`; None for weights drawn for each pick.
        noise: Variance of a measurement around its utility.
        accept: Function from a candidate and those chosen before to whether it may join them.
        rng: Source of the weights.

    Returns:
        Rows of the candidates, best first as chosen; fewer than `num_designs` if no more are accepted.
    """
    num_draws, num_candidates, num_properties = draws.shape
    mean = draws.mean(0)  # (candidates, num_properties)
    factors = (draws - mean).transpose(1, 2, 0) / np.sqrt(max(num_draws - 1, 1))  # covariance = f f^T
    if weights is not None:
        factors = np.einsum("cpd,p->cd", factors, weights)[:, None]
    alive = np.ones(num_candidates, dtype=bool)
    chosen: list[int] = []
    turn = 0
    while len(chosen) < num_designs and alive.any():
        current = rng.dirichlet(np.ones(num_properties)) if weights is None else weights
        factor = np.einsum("cpd,p->cd", factors, current) if weights is None else factors[:, 0]
        value = mean @ current
        if acquisition == "ucb":
            value = value + exploration * np.sqrt(np.square(factor).sum(1))
        else:
            drawn = draws[turn % num_draws] @ current
            value = value + exploration * (drawn - value)
        turn += 1
        for row in np.argsort(-np.where(alive, value, -np.inf), kind="stable"):
            if not alive[row]:
                break
            alive[row] = False
            if accept(int(row), chosen):
                chosen.append(int(row))
                if acquisition == "ucb" and exploration > 0:
                    factors = _observe(factors, factor[row], noise)
                break
    return chosen


def _observe(factors: NDArray[np.float64], seen: NDArray[np.float64], noise: float) -> NDArray[np.float64]:
    """Return the factors of the covariance after a noisy measurement of the function with the factor `seen`, (draws,).

    From F F^T - F s s^T F^T / (s.s + noise) with a symmetric square root of the projection.
    """
    size = float(seen @ seen)
    if size < 1e-12:
        return factors
    shrink = (1 - np.sqrt(noise / (size + noise))) / size
    updated: NDArray[np.float64] = factors - shrink * (factors @ seen)[..., None] * seen
    return updated
