"""River's drift detectors over numbers from standard input; JSON in, JSON out.

Started by the experiments (benches/src/bin/experiments); versions are in requirements-river.txt.
"""

import json
import sys

import numpy as np
from river import drift

KSWIN_WINDOWS = 20_000


def alarms(detector, values) -> int:
    """Returns how often the detector says that something changed."""
    count = 0
    for value in values:
        detector.update(value)
        count += detector.drift_detected
    return count


def window_means(question: dict) -> dict:
    means = question["means"]
    short = means[:KSWIN_WINDOWS]
    return {
        "adwin": alarms(drift.ADWIN(), means),
        "adwin_windows": len(means),
        "kswin": alarms(drift.KSWIN(seed=1), short),
        "kswin_windows": len(short),
    }


def run_length(make, values) -> float:
    """Returns the records between alarms where nothing changes; all of them if there is none."""
    return len(values) / max(1, alarms(make(), values))


def delay(make, before, after) -> float:
    """Returns the records from the change to the alarm, NaN if there was none."""
    detector = make()
    for value in before:
        detector.update(value)
    for at, value in enumerate(after):
        detector.update(value)
        if detector.drift_detected:
            return at + 1
    return float("nan")


def delays(question: dict) -> list[dict]:
    """Tunes each detector to the run length wanted, then measures its delays."""
    random = np.random.default_rng(5)
    quiet = random.standard_normal(question["quiet"]).tolist()
    answers = []
    families = {
        "ADWIN": [lambda delta=delta: drift.ADWIN(delta=delta) for delta in (0.5, 0.2, 0.05, 0.01, 0.002)],
        "KSWIN": [lambda alpha=alpha: drift.KSWIN(alpha=alpha, seed=1) for alpha in (1e-4, 1e-5, 1e-6, 1e-7, 1e-8)],
    }
    for name, makers in families.items():
        values = quiet if name == "ADWIN" else quiet[: question["quiet_kswin"]]
        for make in makers:
            length = run_length(make, values)
            if length >= question["run_length"] or (length == len(values)):
                break
        setting = f"δ = {make().delta:g}" if name == "ADWIN" else f"α = {make().alpha:g}"
        found = {"detector": name, "setting": setting, "run_length": length, "delays": {}}
        for change in question["changes"]:
            repeats = question["repeats"] if name == "ADWIN" else max(5, question["repeats"] // 10)
            limit = question["limit"] if name == "ADWIN" else question["limit"] // 4
            runs = []
            for _ in range(repeats):
                before = random.standard_normal(question["before"]).tolist()
                after = (change["mean"] + change["deviation"] * random.standard_normal(limit)).tolist()
                runs.append(delay(make, before, after))
            found["delays"][change["name"]] = [None if np.isnan(run) else run for run in runs]
        answers.append(found)
    return answers


question = json.load(sys.stdin)
json.dump({"window_means": window_means, "delays": delays}[question["task"]](question), sys.stdout)
