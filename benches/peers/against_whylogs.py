"""Profiles the same values with whylogs and with Driftline, and prints CPU and bytes of both.

    python3.11 -m venv whylogs && whylogs/bin/pip install whylogs==1.6.4 "numpy<2" "pandas<2.2"
    whylogs/bin/python benches/peers/against_whylogs.py

Both are measured twice: with a whole column at once (a pandas column for whylogs, its fastest way in; of numbers, the profile of
a signal for Driftline, which of words has no faster way than records), and with one record at a time, as a stream has them (for
Driftline with the visit of its signals). CPU is user and system time; Driftline's excludes reading the file, as it is the
difference of two runs.
"""

import functools
import json
import pathlib
import resource
import subprocess
import tempfile
import time

import numpy as np
import pandas as pd
import whylogs
from whylogs.core import DatasetProfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
VALUES = 200_000
REPEATS = 200
ROWS = 20_000


def whylogs_cost(column: pd.Series, rows: int | None) -> tuple[float, int]:
    """Returns nanoseconds a value, the best of three, and bytes of the profile; by column, or by `rows` single records."""
    best, size = float("inf"), 0
    frame = pd.DataFrame({column.name: column})
    records = [{column.name: value} for value in column.head(rows or 0).tolist()]
    for _ in range(3):
        profile = DatasetProfile()
        started = time.process_time()
        if rows is None:
            profile.track(pandas=frame)
        else:
            for record in records:
                profile.track(record)
        best = min(best, (time.process_time() - started) / (rows or VALUES) * 1e9)
        size = len(profile.view().serialize())
    return best, size


def driftline_cost(kind: str, path: str) -> tuple[float, int]:
    """Returns nanoseconds a value, the best of three, and bytes of the profile."""

    command = [binary(), kind, path]

    def run(repeats: int) -> tuple[float, int]:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([*command, str(repeats)], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, int(done.stdout)

    runs = []
    for _ in range(3):
        base, _ = run(1)
        whole, size = run(1 + REPEATS)
        runs.append(((whole - base) / REPEATS / VALUES * 1e9, size))
    return min(runs)


@functools.cache
def binary() -> str:
    """Builds the example and returns its path."""
    build = ["cargo", "build", "--release", "--quiet", "-p", "driftline-stats", "--example", "cost"]
    subprocess.run(build, check=True, cwd=ROOT)
    metadata = subprocess.run(["cargo", "metadata", "--format-version", "1", "--no-deps"], check=True, cwd=ROOT, capture_output=True)
    return str(pathlib.Path(json.loads(metadata.stdout)["target_directory"]) / "release" / "examples" / "cost")


random = np.random.default_rng(1)
numbers = pd.Series(random.lognormal(0.8, 0.7, VALUES), name="number")
words = pd.Series([f"query {rank}" for rank in random.zipf(1.5, VALUES)], name="word")
print(f"whylogs {whylogs.__version__}, {VALUES} values a profile")
for kind, column in [("numbers", numbers), ("words", words)]:
    with tempfile.NamedTemporaryFile() as file:
        file.write(column.to_numpy().astype("<f8").tobytes() if kind == "numbers" else "\n".join(column).encode())
        file.flush()
        ours = driftline_cost(kind, file.name)
        ours_by_column = driftline_cost("column", file.name) if kind == "numbers" else ours
    batch, single = whylogs_cost(column, None), whylogs_cost(column, ROWS)
    for way, mine, theirs in [("by column", ours_by_column, batch), ("by record", ours, single)]:
        print(f"{kind} {way}: Driftline {mine[0]:.1f}, whylogs {theirs[0]:.0f} ns a value: {theirs[0] / mine[0]:.0f} x")
    print(f"{kind}: Driftline {ours[1]}, whylogs {batch[1]} bytes: {batch[1] / ours[1]:.0f} x")
