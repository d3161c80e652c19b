"""Turns the network's quantised convolutions into those of floats that they stand for, which a CPU computes in half the time.

    python float_convolutions.py int8.onnx kokoro.onnx
"""

import sys

import numpy as np
import onnx
from onnx import helper, numpy_helper


def convert(model: onnx.ModelProto) -> None:
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    maker = {name: node for node in graph.node for name in node.output}
    users = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)

    def value(name):
        return numpy_helper.to_array(constants[name]).astype(np.float32)

    def biases(name, channels):
        """The float biases that a quantised one is computed of: one."""
        if name in constants:
            tensor = constants[name]
            return [name] if list(tensor.dims) == [channels] and tensor.data_type == onnx.TensorProto.FLOAT else []
        node = maker.get(name)
        if node is None or node.op_type == "DynamicQuantizeLinear":
            return []
        return [found for name in node.input for found in biases(name, channels)]

    replaced, dropped = {}, set()
    for node in graph.node:
        if node.op_type != "ConvInteger":
            continue
        # ConvInteger → (+ quantised bias) → Cast → × (input's scale × weights' scale)
        (following,) = users[node.output[0]]
        bias = []
        if following.op_type == "Add":
            dropped.add(following.output[0])
            channels = constants[node.input[1]].dims[0]
            bias = sorted({b for name in following.input if name != node.output[0] for b in biases(name, channels)})
            assert len(bias) == 1, node.name
            (following,) = users[following.output[0]]
        (product,) = users[following.output[0]]
        assert (following.op_type, product.op_type) == ("Cast", "Mul"), node.name
        (scales,) = (maker[name] for name in product.input if name != following.output[0])
        (scale,) = (name for name in scales.input if name in constants)
        weight = value(node.input[1])
        shape = (-1,) + (1,) * (weight.ndim - 1)
        weight = (weight - value(node.input[3]).reshape(shape)) * value(scale).reshape(shape)
        graph.initializer.append(numpy_helper.from_array(weight, f"{node.name}_weight"))
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        inputs = [maker[node.input[0]].input[0], f"{node.name}_weight", *bias]
        replaced[product.output[0]] = helper.make_node("Conv", inputs, list(product.output), **attributes)
        dropped |= {node.output[0], following.output[0]}
    nodes = [replaced.get(node.output[0], node) for node in graph.node if node.output[0] not in dropped]
    while True:
        used = {name for node in nodes for name in node.input} | {output.name for output in graph.output}
        kept = [node for node in nodes if any(name in used for name in node.output)]
        if len(kept) == len(nodes):
            break
        nodes = kept
    weights = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(weights)


if __name__ == "__main__":
    network = onnx.load(sys.argv[1])
    convert(network)
    onnx.save(network, sys.argv[2])
