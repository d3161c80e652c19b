"""Writes silero.json: the probabilities of Silero's ONNX model, streamed through onnxruntime, for a minute of speech made of the LibriVox recordings.

    pip install silero-vad==6.2.3 --no-deps && pip install onnxruntime==1.31.1 numpy==2.4.6 soundfile==0.14.0
    DRIFTLINE_DATA=../shared/data python crates/models/tests/goldens/silero.py > crates/models/tests/goldens/silero.json

The three recordings are played four times: as they are, quieter, very quiet, and under noise of a linear congruential generator.
"""

import importlib.util
import json
import os
import pathlib
import sys

import numpy as np
import onnxruntime
import soundfile

PASSES = [(1.0, 0.0), (0.2, 0.0), (0.02, 0.0), (0.5, 0.05)]

files = sorted((pathlib.Path(os.environ["DRIFTLINE_DATA"]) / "speech" / "librivox").glob("*.wav"))
speech = np.concatenate([soundfile.read(f, dtype="int16")[0] for f in files]).astype(np.float32) / np.float32(32768)
seed = 1
parts = []
for gain, level in PASSES:
    noise = np.zeros(len(speech), dtype=np.float32)
    if level:
        for i in range(len(speech)):
            seed = (seed * 1664525 + 1013904223) % 2**32
            noise[i] = (seed >> 8) / 2**24 - 0.5
    parts.append(np.float32(gain) * speech + np.float32(level) * noise)
audio = np.concatenate(parts)
audio = audio[: len(audio) // 512 * 512]

data = pathlib.Path(importlib.util.find_spec("silero_vad").origin).parent / "data"
model = onnxruntime.InferenceSession(str(data / "silero_vad.onnx"), providers=["CPUExecutionProvider"])
state, context = np.zeros((2, 1, 128), dtype=np.float32), np.zeros(64, dtype=np.float32)
probabilities = []
for chunk in audio.reshape(-1, 512):
    output, state = model.run(None, {"input": np.concatenate([context, chunk])[None], "state": state, "sr": np.array(16000, dtype=np.int64)})
    context = chunk[-64:]
    probabilities.append(round(float(output[0, 0]), 7))
print(f"{len(audio) / 16000:.1f} s, {np.mean(np.array(probabilities) > 0.5):.0%} speech", file=sys.stderr)
json.dump({"passes": PASSES, "probabilities": probabilities}, sys.stdout, separators=(",", ":"))
