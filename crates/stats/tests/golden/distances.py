"""Writes distances.json: what SciPy says of random counts. SciPy 1.17.1, NumPy 2.4.6.

    python crates/stats/tests/golden/distances.py > crates/stats/tests/golden/distances.json
"""

import json

import numpy as np
import scipy
from scipy.spatial.distance import euclidean, jensenshannon
from scipy.stats import entropy, wasserstein_distance

random = np.random.default_rng(20260101)
cases = []
for slots, n, m, shift in [
    (2, 5, 7, 0.5), (10, 100, 100, 0.0), (34, 1000, 400, 0.3), (34, 10**6, 10**6, 0.01),
    (66, 10**9, 10**5, 1.0), (34, 50, 50, 4.0),
]:
    grid = np.linspace(-2, 2, slots)
    law = lambda mean: np.exp(-((grid - mean) ** 2)) / np.exp(-((grid - mean) ** 2)).sum()
    left, right = random.multinomial(n, law(0.0)), random.multinomial(m, law(shift))
    p, q = left / left.sum(), right / right.sum()
    used = (left > 0) | (right > 0)
    a, b = left[used] + 0.5, right[used] + 0.5
    u = np.arange(slots) / (slots - 1)
    cases.append({
        "left": left.tolist(),
        "right": right.tolist(),
        "psi": float(entropy(a, b) + entropy(b, a)),
        "jensen_shannon": float(jensenshannon(p, q, base=2) ** 2),
        "hellinger": float(euclidean(np.sqrt(p), np.sqrt(q)) / np.sqrt(2)),
        "wasserstein": float(wasserstein_distance(u, u, p, q)),
    })

values = random.lognormal(0.5, 0.8, 2000)
edges = np.geomspace(0.01, 100.0, 33)
print(json.dumps({
    "versions": {"scipy": scipy.__version__, "numpy": np.__version__},
    "distances": cases,
    "moments": {
        "values": values.tolist(), "lo": 0.01, "hi": 100.0,
        "mean": float(values.mean()), "std": float(values.std()), "min": float(values.min()), "max": float(values.max()),
        "quantiles": {str(rank): float(np.quantile(values, rank)) for rank in (0.05, 0.5, 0.95)},
        "histogram": np.histogram(values, bins=edges)[0].tolist(),
    },
}))
