"""Writes silero.json: the probabilities of Silero VAD 6.2.3 for a minute of speech made of the LibriVox recordings.

    pip install silero-vad==6.2.3 --no-deps && pip install onnxruntime==1.31.1 numpy==2.4.6 soundfile==0.14.0 torch==2.15.0 safetensors
    DRIFTLINE_DATA=../shared/data python crates/models/tests/goldens/silero.py > crates/models/tests/goldens/silero.json

`onnx` comes from silero_vad.onnx, streamed through onnxruntime. `published` comes from silero_vad_16k.safetensors in the network that
the package defines for it (tinygrad_model.py), in torch: that file holds another training than the ONNX model.
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
import torch
from safetensors.torch import load_file
from torch.nn import functional

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

torch.set_num_threads(1)
weights = load_file(data / "silero_vad_16k.safetensors")
context, h, c = np.zeros(64, dtype=np.float32), torch.zeros(1, 128), torch.zeros(1, 128)
published = []
for chunk in audio.reshape(-1, 512):
    x = functional.pad(torch.tensor(np.concatenate([context, chunk]))[None], (0, 64), "reflect")[:, None]
    context = chunk[-64:]
    x = functional.conv1d(x, weights["stft_conv.weight"], stride=128)
    x = (x[:, :129] ** 2 + x[:, 129:] ** 2).sqrt()
    for name, stride in (("conv1", 1), ("conv2", 2), ("conv3", 2), ("conv4", 1)):
        x = functional.conv1d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=stride, padding=1).relu()
    gates = functional.linear(x[:, :, 0], weights["lstm_cell.weight_ih"], weights["lstm_cell.bias_ih"])
    gates = gates + functional.linear(h, weights["lstm_cell.weight_hh"], weights["lstm_cell.bias_hh"])
    i, f, g, o = gates.chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    logit = h.relu() @ weights["final_conv.weight"].view(128, 1) + weights["final_conv.bias"]
    published.append(round(float(logit.sigmoid()), 7))

difference = np.abs(np.array(probabilities) - np.array(published)).max()
print(f"{len(audio) / 16000:.1f} s, {np.mean(np.array(probabilities) > 0.5):.0%} speech, difference {difference:.2f}", file=sys.stderr)
json.dump({"passes": PASSES, "onnx": probabilities, "published": published}, sys.stdout, separators=(",", ":"))
