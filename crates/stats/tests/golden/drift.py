"""Writes drift.json: payments, label shift and shares as SciPy, NumPy and DoWhy compute them. SciPy 1.15.3, NumPy 2.4.6,
DoWhy 0.14.

    benches/peers/install.sh
    benches/peers/environments/dowhy/bin/python crates/stats/tests/golden/drift.py > crates/stats/tests/golden/drift.json
"""

import contextlib
import json
import sys

import dowhy
import numpy as np
import scipy
from dowhy.gcm.shapley import ShapleyApproximationMethods, ShapleyConfig, estimate_shapley_values
from scipy.linalg import solve_toeplitz
from scipy.spatial.distance import jensenshannon
from scipy.stats import norm

random = np.random.default_rng(20260101)
DELTAS = np.array([0.5, 1.0, 2.0, 3.0])


def bets(size: int) -> np.ndarray:
    """Returns the payments of every rank without margin, a row a rank."""
    edges = norm.cdf(norm.ppf(np.arange(size + 2) / (size + 1))[:, None] - DELTAS)
    return (size + 1) * np.diff(edges, axis=0)


def margin(size: int) -> np.ndarray:
    return 1 + 1.5 * np.sqrt(((bets(size) ** 2).mean(axis=0) - 1) / size)


def payment(size: int, below: int, table: int) -> list[float]:
    every = bets(size)
    high, low = every[below] / margin(table), every[size - below] / margin(table)
    return [*high.tolist(), *low.tolist()]


def shares() -> dict:
    """A chain of a source and three stages over six cells, of which all but the second stage changed."""
    tables = [random.dirichlet(np.ones(6) * 3, size=1)] + [random.dirichlet(np.ones(6), size=6) for _ in range(3)]
    changed = [random.dirichlet(np.ones(table.shape[1]) * 3, size=len(table)) for table in tables]
    changed[2] = tables[2]
    counts = [[np.rint(table * 1e8).astype(int) for table in side] for side in (tables, changed)]
    laws = [[table / table.sum(axis=1, keepdims=True) for table in side] for side in counts]

    def law(members):
        out = np.ones((1, 1))
        for node, member in enumerate(members):
            out = out @ laws[int(member)][node]
        return out[0]

    worth = lambda members: jensenshannon(law(members), law([0] * 4), base=2) ** 2
    config = ShapleyConfig(approximation_method=ShapleyApproximationMethods.EXACT, n_jobs=1)
    with contextlib.redirect_stdout(sys.stderr):
        values = estimate_shapley_values(worth, 4, config)
    return {
        "counts": [[table.ravel().tolist() for table in side] for side in counts],
        "divergence": float(worth([1] * 4)),
        "shares": (values / values.sum()).tolist(),
    }


def labels() -> dict:
    confusion = random.multinomial(20_000, random.dirichlet(np.ones(16))).reshape(4, 4) + np.diag([4_000] * 4)
    law = random.dirichlet(np.ones(4) * 5)
    predictions = np.rint(100_000 * (confusion / confusion.sum(axis=0)) @ law).astype(int)
    solved = np.linalg.solve(confusion / confusion.sum(axis=0), predictions / predictions.sum())
    return {"confusion": confusion.ravel().tolist(), "predictions": predictions.tolist(), "shares": (solved / solved.sum()).tolist()}


def autoregression() -> dict:
    series = np.zeros(5_000)
    shocks = random.standard_normal(5_000)
    for t in range(3, 5_000):
        series[t] = 0.4 * series[t - 1] - 0.2 * series[t - 2] + 0.1 * series[t - 3] + 0.8 * shocks[t]
    series = series.round(6).clip(-4, 4)
    padded = np.concatenate([np.zeros(3), series])
    # Means over the first 4,096 windows, the last time that coefficients are solved before old windows fade.
    used = 4_096
    covariances = [float((padded[3 : 3 + used] * padded[3 - lag : 3 - lag + used]).mean()) for lag in range(4)]
    drawn = np.array([1] + [used / (used + 32)] * 3)
    found = solve_toeplitz((drawn * covariances)[:3], (drawn * covariances)[1:])
    return {"series": series[:used].tolist(), "coefficients": found.tolist()}


json.dump({
    "versions": {"scipy": scipy.__version__, "numpy": np.__version__, "dowhy": dowhy.__version__},
    "payments": [{"size": size, "below": below, "expected": payment(size, below, table)}
                 for size, table in [(64, 64), (200, 128), (1024, 1024)] for below in (0, size // 2, size)],
    "shares": shares(),
    "labels": labels(),
    "autoregression": autoregression(),
}, sys.stdout)
