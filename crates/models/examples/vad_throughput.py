"""Sets the throughput of the voice-activity detectors against Silero's ONNX model, streamed chunk by chunk through onnxruntime on one thread.

    pip install silero-vad==6.2.3 --no-deps && pip install onnxruntime==1.31.1 numpy==2.4.6
    cargo build --release -p driftline-models --examples
    python crates/models/examples/vad_throughput.py

Rounds of both alternate, and of each the fastest counts.
"""

import importlib.util
import os
import pathlib
import subprocess
import time

import numpy as np
import onnxruntime

CHUNKS = 250
ROUNDS = 8

data = pathlib.Path(importlib.util.find_spec("silero_vad").origin).parent / "data"
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
model = onnxruntime.InferenceSession(str(data / "silero_vad.onnx"), options, providers=["CPUExecutionProvider"])
sound = (0.1 * np.random.default_rng(1).standard_normal((CHUNKS, 1, 576))).astype(np.float32)
rate = np.array(16000, dtype=np.int64)


def onnx():
    """Chunks a second of one streamed session."""
    state = np.zeros((2, 1, 128), dtype=np.float32)
    start = time.perf_counter()
    for chunk in sound:
        _, state = model.run(None, {"input": chunk, "state": state, "sr": rate})
    return CHUNKS / (time.perf_counter() - start)


target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", pathlib.Path(__file__).parents[3] / "target"))
binary = target / "release" / "examples" / "vad_throughput"


def driftline(threads, sessions, *weights):
    """Chunks a second of all sessions together."""
    output = subprocess.run([binary, str(sessions), *weights], env={**os.environ, "RAYON_NUM_THREADS": str(threads)}, capture_output=True, check=True, text=True)
    return float(output.stdout)


silero = [str(data / "silero_vad_16k.safetensors")]
settings = [(name, weights, threads, sessions) for threads in (1, 2) for sessions in (64, 8, 1) for name, weights in (("Silero", silero), ("built-in", []))]
best = [0.0] * len(settings)
reference = 0.0
for _ in range(ROUNDS):
    reference = max(reference, *(onnx() for _ in range(4)))
    best = [max(was, driftline(threads, sessions, *weights)) for was, (_, weights, threads, sessions) in zip(best, settings)]

print("| network | threads | sessions | chunks/s | µs a chunk | × onnxruntime |")
print("|---|---|---|---|---|---|")
print(f"| Silero ONNX, onnxruntime {onnxruntime.__version__} | 1 | 1 | {reference:,.0f} | {1e6 / reference:.1f} | 1 |")
for (name, _, threads, sessions), chunks in zip(settings, best):
    print(f"| {name} | {threads} | {sessions} | {chunks:,.0f} | {1e6 / chunks:.1f} | {chunks / reference:.1f} |")
