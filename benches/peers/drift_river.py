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


def delay(detector, before, after) -> float:
    """Returns the records from the change to the alarm, NaN if there was none."""
    for value in before:
        detector.update(value)
    for at, value in enumerate(after):
        detector.update(value)
        if detector.drift_detected:
            return at + 1
    return float("nan")


def adwin(question: dict, quiet: list) -> tuple:
    """Returns the boldest ADWIN whose run length is as long as asked for, its setting, and the run length."""
    for delta in (0.5, 0.1, 0.02, 0.01, 0.005, 0.004, 0.003, 0.002):
        length = len(quiet) / max(1, alarms(drift.ADWIN(delta=delta), quiet))
        print(f"ADWIN, δ = {delta}: an alarm in {length:.0f} records", file=sys.stderr, flush=True)
        if length >= question["run_length"]:
            break
    return lambda: drift.ADWIN(delta=delta), f"δ = {delta:g}", length


def kswin(question: dict, quiet: list) -> tuple:
    """The same of KSWIN, whose level decides nothing but which of its p-values are an alarm: so one pass shows all levels."""
    detector = drift.KSWIN(alpha=0, seed=1)
    levels = []
    for value in quiet:
        detector.update(value)
        levels.append(detector.p_value if detector.n >= detector.window_size else 1.0)
    levels = np.array(levels)
    refill = detector.window_size - detector.stat_size
    for alpha in np.unique(levels)[::-1]:
        count, at = 0, 0
        for found in np.flatnonzero(levels <= alpha):
            if found >= at:
                count, at = count + 1, found + refill
        length = len(quiet) / max(1, count)
        if length >= question["run_length"]:
            break
    print(f"KSWIN, α = {alpha}: an alarm in {length:.0f} records", file=sys.stderr, flush=True)
    return lambda: drift.KSWIN(alpha=float(alpha), seed=1), f"α = {alpha:.2g}", length


def delays(question: dict) -> list[dict]:
    """Tunes each detector to the run length wanted, then measures its delays."""
    random = np.random.default_rng(5)
    quiet = random.standard_normal(question["quiet"]).tolist()
    few, many = question["before"]
    # Four times fewer changes after the long run-up; KSWIN takes hundreds of times as long as ADWIN over a record.
    repeats, limit = question["repeats"], question["limit"]
    families = [
        ("ADWIN (River)", adwin, quiet, {few: repeats, many: repeats // 4}, limit),
        ("KSWIN (River)", kswin, quiet[: len(quiet) // 30], {few: repeats // 20}, limit // 6),
    ]
    answers = []
    for name, tune, healthy, befores, limit in families:
        make, setting, length = tune(question, healthy)
        for before, repeats in befores.items():
            found = {"detector": name, "setting": f"{setting}, {before} records before", "run_length": length, "delays": {}}
            for change in question["changes"]:
                runs = []
                for _ in range(max(5, repeats)):
                    records = random.standard_normal(before).tolist()
                    after = (change["mean"] + change["deviation"] * random.standard_normal(limit)).tolist()
                    # Of what KSWIN saw earlier than its window nothing is left in it.
                    runs.append(delay(make(), records[-1_000:] if tune is kswin else records, after))
                found["delays"][change["name"]] = [None if np.isnan(run) else run for run in runs]
                print(f"{name}, {found['setting']}, {change['name']}: {np.nanmean(runs):.0f} records", file=sys.stderr, flush=True)
            answers.append(found)
    return answers


question = json.load(sys.stdin)
json.dump({"window_means": window_means, "delays": delays}[question["task"]](question), sys.stdout)
