"""Writes the weights of Silero's ONNX model as safetensors, under the names of the published file: silero_weights.py OUT.

    pip install silero-vad==6.2.3 --no-deps && pip install onnx numpy safetensors
    python crates/models/tests/goldens/silero_weights.py silero_vad_16k_onnx.safetensors

silero_vad_16k.safetensors of the same package holds another training of the same network: on the minute of speech of silero.py
its probabilities differ from the ONNX model's by up to 0.69, in any implementation.
"""

import importlib.util
import pathlib
import sys

import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

data = pathlib.Path(importlib.util.find_spec("silero_vad").origin).parent / "data"
names = {
    "stft.forward_basis_buffer": "stft_conv.weight",
    "decoder.decoder.2.weight": "final_conv.weight",
    "decoder.decoder.2.bias": "final_conv.bias",
}
for kind in ("weight", "bias"):
    names |= {f"encoder.{i}.reparam_conv.{kind}": f"conv{i + 1}.{kind}" for i in range(4)}
    names |= {f"decoder.rnn.{kind}_{side}": f"lstm_cell.{kind}_{side}" for side in ("ih", "hh")}
graph = onnx.load(str(data / "silero_vad_16k_op15.onnx")).graph
weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
save_file({ours: weights[f"model.{theirs}"].astype("float32").copy() for theirs, ours in names.items()}, sys.argv[1])
