"""Alibi Detect's online Cramér–von Mises detector over the changes from standard input; JSON in, JSON out.

Its threshold is simulated, and a run length of R needs more than R simulations, which must fit in memory: R = 10³ is
what is practical, a thousand times shorter than the others'. Versions are in requirements-alibi.txt.
"""

import contextlib
import json
import os
import sys

import numpy as np

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
from alibi_detect.cd import CVMDriftOnline  # noqa: E402

question = json.load(sys.stdin)
random = np.random.default_rng(5)
np.random.seed(5)
ERT, WINDOWS = 1_000, [50, 200]
with contextlib.redirect_stdout(sys.stderr):
    detector = CVMDriftOnline(random.standard_normal(5_000), ert=ERT, window_sizes=WINDOWS, n_bootstraps=2_500, verbose=False)


def delay(change: dict, limit: int):
    """Returns the records from the change to the alarm."""
    detector.reset_state()
    before = random.standard_normal(max(WINDOWS))
    for value in before:
        detector.predict(value)
    for at in range(limit):
        if detector.predict(change["mean"] + change["deviation"] * random.standard_normal())["data"]["is_drift"]:
            return at + 1
    return None


repeats = max(5, question["repeats"] // 10)
delays = {change["name"]: [delay(change, question["limit"] // 10) for _ in range(repeats)] for change in question["changes"]}
quiet = [delay({"mean": 0.0, "deviation": 1.0}, question["limit"] // 10) for _ in range(repeats)]
seen = sum(one is not None for one in quiet)
length = sum(one or question["limit"] // 10 for one in quiet) / max(1, seen)
answer = {"detector": "CVM online (Alibi Detect)", "setting": f"ert = {ERT}", "run_length": length, "delays": delays}
json.dump([answer], sys.stdout)
