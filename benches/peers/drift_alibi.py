"""Alibi Detect's online Cramér–von Mises detector over the changes from standard input; JSON in, JSON out.

Its thresholds are simulated, and a run length of R needs some times R simulations, each of which compares all records of
reference and windows in pairs: R = 10³ is what is practical. So they are simulated for that, and then all multiplied
by what leads to the run length asked for in records without a change; their statistic has an exponential tail, so the
multiple is read off a straight line through how often lower ones are exceeded. Versions are in requirements-alibi.txt.
"""

import contextlib
import json
import os
import sys

import numpy as np

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["NUMBA_NUM_THREADS"] = "1"
from alibi_detect.cd import CVMDriftOnline  # noqa: E402

question = json.load(sys.stdin)
random = np.random.default_rng(5)
np.random.seed(5)
REFERENCE, ERT, WINDOWS = 1_000, 1_000, [50, 200]
with contextlib.redirect_stdout(sys.stderr):
    detector = CVMDriftOnline(
        random.standard_normal(REFERENCE), ert=ERT, window_sizes=WINDOWS, n_bootstraps=10 * ERT, batch_size=16, verbose=False
    )
print("thresholds are simulated", file=sys.stderr)


def ratio(value: float) -> float:
    """Returns the statistic of the windows that end with a record, in units of its threshold; above 1 is an alarm."""
    statistic = detector.score(np.array([value]))
    # It keeps every record that it has seen, and copies them with each new one.
    detector.xs = detector.xs[-max(WINDOWS) :]
    full = statistic[np.isfinite(statistic)]
    return float(full.max() / detector.get_threshold(detector.t - 1).max()) if full.size else -np.inf


def exceeded(ratios: np.ndarray, multiple: float) -> int:
    """Returns how many alarms there would have been, with windows that fill anew after each."""
    count, at = 0, 0
    for found in np.flatnonzero(ratios > multiple):
        if found >= at:
            count, at = count + 1, found + max(WINDOWS)
    return count


def matched(ratios: np.ndarray) -> float:
    """Returns the multiple of the thresholds at which the run length is what is asked for."""
    multiples = np.arange(0.5, ratios.max(), 0.02)
    counts = np.array([exceeded(ratios, multiple) for multiple in multiples])
    tail = (counts >= 5) & (counts <= len(ratios) // ERT)
    slope, start = np.polyfit(multiples[tail], np.log(counts[tail]), 1)
    return float((np.log(len(ratios) / question["run_length"]) - start) / slope)


def delay(change: dict, multiple: float, limit: int):
    """Returns the records from the change to the alarm."""
    detector.reset_state()
    for value in random.standard_normal(2 * max(WINDOWS)):
        ratio(value)
    for at in range(limit):
        if ratio(change["mean"] + change["deviation"] * random.standard_normal()) > multiple:
            return at + 1
    return None


quiet = question["quiet"] // 6
ratios = np.array([ratio(value) for value in random.standard_normal(quiet)])
promised = len(ratios) / max(1, exceeded(ratios, 1.0))
multiple = matched(ratios)
seen = exceeded(ratios, multiple)
print(f"an alarm in {promised:.0f} records, asked for were {ERT}; at {multiple:.2f} thresholds {seen} in {quiet}", file=sys.stderr)
repeats, limit = max(5, question["repeats"] // 5), question["limit"] // 4
delays = {change["name"]: [delay(change, multiple, limit) for _ in range(repeats)] for change in question["changes"]}
setting = f"windows of {WINDOWS}, {multiple:.2f} × the thresholds for {ERT}, at which there were {promised:.0f}"
answer = {"detector": "CVM online (Alibi Detect)", "setting": setting, "run_length": quiet / max(1, seen), "delays": delays}
json.dump([answer], sys.stdout)
