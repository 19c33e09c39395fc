"""Imports point downward: this list is the law, and its documentation."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "r1v3_jax"

# A module may import modules of the layers above it in this list, and none of its own layer.
LAYERS = [
    "hlo tpu fields",
    "estimate",
    "sharding losses metrics report",
    "model_config",
    "config",
    "health verifiers.verdict verifiers.spelling",
    "verifiers.units",
    "verifiers.boxes verifiers.strings verifiers.choice verifiers.grids verifiers.detection",
    "verifiers.expressions verifiers.custom",
    "verifiers.mathematics verifiers.numbers",
    "verifiers.sets",
    "verifiers.routing",
    "verifiers.worker verifiers.model",
    "verifiers.pool",
    "types presets hf_config config_files",
    "hf_files checksums",
    "models.layers",
    "models.decode_kernels models.int8",
    "models.internvit models.qwen2",
    "models.r1v3",
    "hf_weights tokens images rewards checkpoint sampler",
    "hf layouts downloads",
    "rows shards",
    "stores",
    "digits data train sources mixtures",
    "feed",
    "rollout bench_shapes samples",
    "evaluate distill",
    "stages.context",
    "stages.sft stages.grpo",
    "programs pipeline bench",
    "dry_run",
    "cli",
    "launch",
]
LAYER = {name: i for i, names in enumerate(LAYERS) for name in names.split()}


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "r1v3_jax"
        ):
            base = node.module.removeprefix("r1v3_jax").lstrip(".")
            for alias in node.names:
                name = f"{base}.{alias.name}".lstrip(".")
                found.add(name if name in LAYER else base)
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.removeprefix("r1v3_jax.")
                for alias in node.names
                if alias.name.startswith("r1v3_jax.")
            }
    return found


def modules() -> dict[str, Path]:
    files = [path for path in PACKAGE.rglob("*.py") if path.stem != "__init__"]
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
        for path in files
    }


def test_every_module_has_a_layer():
    assert set(modules()) == set(LAYER)


def test_imports_point_downward():
    wrong = [
        f"{name} (layer {LAYER[name]}) may not import {other} (layer {LAYER.get(other)})"
        for name, path in modules().items()
        for other in imports(path)
        if LAYER.get(other, 99) >= LAYER[name]
    ]
    assert not wrong, "\n".join(wrong)


def test_torch_is_never_imported_at_run_time():
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(
                name.split(".")[0] in ("torch", "tensorflow") for name in names
            ), path
