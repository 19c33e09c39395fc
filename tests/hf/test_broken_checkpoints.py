"""What is refused of a directory: every problem by name, before a device is touched."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints_for_tests import (
    cannot_be_loaded,
    change_json,
    refusal,
    vision_language,
    write_checkpoint,
)
from flax import nnx
from safetensors.torch import load_file, save_file

from r1v3_jax import hf
from r1v3_jax.files import read_json
from r1v3_jax.hf.checkpoint import INDEX
from r1v3_jax.hf.load import flatten_state
from r1v3_jax.hf.weights import name_in_layout

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A checkpoint of two shards in the hf layout, to be copied and broken."""
    directory = tmp_path_factory.mktemp("good") / "checkpoint"
    return write_checkpoint(
        directory, vision_language("rms-qwen2"), "hf", "float32", shards=2
    )


SHARD = "model-00001-of-00002.safetensors"
LOST = "model-00002-of-00002.safetensors"


def change_tensors(directory: Path, change) -> None:
    """Rewrites the first shard after `change(tensors)`."""
    tensors = load_file(directory / SHARD)
    change(tensors)
    save_file(tensors, directory / SHARD)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def remove_shards(directory: Path) -> None:
    for path in directory.glob("model*"):
        path.unlink()


def only_a_pickle(directory: Path) -> None:
    remove_shards(directory)
    (directory / "pytorch_model.bin").write_bytes(b"\x80\x04")


def store_twice(directory: Path) -> None:
    (directory / INDEX).unlink()
    shutil.copyfile(directory / SHARD, directory / "copy.safetensors")


def point_outside(directory: Path, file: str) -> None:
    shutil.copyfile(directory / LOST, directory.parent / "stolen.safetensors")
    change_json(
        directory / INDEX,
        lambda index: index["weight_map"].update({"mlp1.weight": file}),
    )


def in_place_of(path: Path, make) -> None:
    path.unlink()
    make(path)


def directory_alone(directory: Path) -> None:
    remove_shards(directory)
    (directory / "model.safetensors").mkdir()


def only_an_adapter(directory: Path) -> None:
    remove_shards(directory)
    (directory / "config.json").unlink()
    (directory / "adapter_model.safetensors").write_bytes(b"")
    (directory / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "base_model_name_or_path": "OpenGVLab/InternVL3-1B"}'
    )


def add_lora(directory: Path) -> None:
    """PEFT's own names, as a model has them that was saved without merging."""
    change_tensors(
        directory,
        lambda t: t.update(
            {"base_model.model.model.layers.0.q_proj.lora_A.weight": torch.ones(2, 4)}
        ),
    )


NORM = "language_model.model.layers.0.input_layernorm.weight"  # in the first shard
K = "language_model.model.layers.0.self_attn.k_proj.weight"


BROKEN = {
    "no-directory": (
        shutil.rmtree,
        "no-directory: no such directory; give a Hugging Face",
    ),
    "lost-shard": (
        lambda d: (d / LOST).unlink(),
        f"{LOST} is missing; the index places 33 tensors in it",
    ),
    "cut-shard": (lambda d: truncate(d / SHARD), f"{SHARD} is cut short or damaged"),
    "no-shard": (lambda d: (d / SHARD).write_bytes(b""), f"{SHARD} is empty (0 bytes)"),
    "noise": (
        lambda d: (d / SHARD).write_bytes(b"x" * 999),
        f"{SHARD} is cut short or damaged",
    ),
    "shape": (
        lambda d: change_tensors(d, lambda t: t.update({NORM: torch.ones(31)})),
        f"{SHARD}: {NORM} has shape [31]; config.json makes it [32]",
    ),
    "transposed": (
        lambda d: change_tensors(d, lambda t: t.update({K: torch.ones(4, 256)})),
        f"{SHARD}: {K} has shape [4, 256]; config.json makes it [32, 32]",
    ),
    "integers": (
        lambda d: change_tensors(
            d, lambda t: t.update({NORM: torch.ones(32, dtype=torch.int8)})
        ),
        f"{SHARD}: {NORM} is I8; wanted F32, BF16, F16",
    ),
    "float8": (
        lambda d: change_tensors(
            d, lambda t: t.update({NORM: t[NORM].to(torch.float8_e4m3fn)})
        ),
        f"{SHARD}: {NORM} is F8_E4M3; wanted F32, BF16, F16",
    ),
    "lost-tensor": (
        lambda d: change_tensors(d, lambda t: t.pop(NORM)),
        f"{NORM} [32] is missing",
    ),
    "unknown-tensor": (
        lambda d: change_tensors(d, lambda t: t.update({"lora.weight": torch.ones(2)})),
        f"{SHARD}: lora.weight is not a weight of this model",
    ),
    "adapter-alone": (
        only_an_adapter,
        "holds an adapter of OpenGVLab/InternVL3-1B and no model; merge the two first",
    ),
    "adapter-not-merged": (
        add_lora,
        "holds low-rank adapters that are not merged (base_model.model.model.layers.0",
    ),
    "twice": (store_twice, f"{NORM} is in both copy.safetensors and {SHARD}"),
    "outside": (
        lambda d: point_outside(d, "../stolen.safetensors"),
        f"{INDEX}: '../stolen.safetensors' lies outside the directory",
    ),
    "absolute": (
        lambda d: point_outside(d, "/etc/passwd"),
        f"{INDEX}: '/etc/passwd' lies outside the directory",
    ),
    "empty-index": (lambda d: (d / INDEX).write_text("{}"), f"{INDEX}: no weight_map"),
    "bad-index": (lambda d: (d / INDEX).write_text("{"), f"{INDEX}: not JSON"),
    "no-weights": (remove_shards, "no *.safetensors file"),
    "pickle": (only_a_pickle, "pytorch_model.bin is a pickle, which is never read"),
    "no-config": (
        lambda d: (d / "config.json").unlink(),
        "config.json: no such file",
    ),
    "bad-config": (
        lambda d: (d / "config.json").write_text("{'a': 1}"),
        "config.json: not JSON",
    ),
    "empty-config": (
        lambda d: (d / "config.json").write_text(""),
        "config.json: not JSON",
    ),
    "binary-config": (
        lambda d: (d / "config.json").write_bytes(b"\xff\xfe\x00"),
        "config.json: not JSON",
    ),
    "list-config": (
        lambda d: (d / "config.json").write_text("[]"),
        "config.json: a JSON object was wanted, got list",
    ),
    "directory-for-a-config": (
        lambda d: in_place_of(d / "config.json", Path.mkdir),
        "config.json: not a file",
    ),
    "directory-for-a-shard": (
        lambda d: in_place_of(d / SHARD, Path.mkdir),
        f"{SHARD}: not a file; download it again",
    ),
    "dangling-link": (
        lambda d: in_place_of(d / SHARD, lambda path: path.symlink_to("blobs/1")),
        f"{SHARD}: a link to blobs/1, which does not exist; download it again",
    ),
    "directory-alone": (
        directory_alone,
        "model.safetensors: not a file; download it again",
    ),
    "dangling-index": (
        lambda d: in_place_of(d / INDEX, lambda path: path.symlink_to("blobs/2")),
        f"{INDEX}: a link to blobs/2, which does not exist",
    ),
    "index-of-a-pickle": (
        lambda d: point_outside(d, "pytorch_model.bin"),
        f"{INDEX}: 'pytorch_model.bin' is not a *.safetensors file; convert it",
    ),
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_a_broken_checkpoint_is_refused_by_name(tmp_path, good, name):
    damage, message = BROKEN[name]
    directory = tmp_path / name
    shutil.copytree(good, directory)
    damage(directory)
    with pytest.raises(
        (ValueError, FileNotFoundError), match=re.escape(message)
    ) as raised:
        hf.load(directory)
    assert str(directory) in str(raised.value)


def test_refusals_need_no_device(tmp_path, good):
    """Every refusal comes before JAX has so much as looked for a device."""
    for name, (damage, _) in BROKEN.items():
        shutil.copytree(good, tmp_path / name)
        damage(tmp_path / name)
    program = (
        "import sys; from pathlib import Path\n"
        "from jax._src.xla_bridge import backends_are_initialized\n"
        "from r1v3_jax import hf\n"
        "for name in sys.argv[2:]:\n"
        "    try: hf.load(Path(sys.argv[1]) / name)\n"
        "    except (ValueError, FileNotFoundError): pass\n"
        "    else: sys.exit(f'{name} was loaded')\n"
        "assert not backends_are_initialized()\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", program, tmp_path, *BROKEN],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert process.returncode == 0, process.stderr


def test_all_problems_come_in_one_error(tmp_path, good):
    directory = tmp_path / "bad"
    shutil.copytree(good, directory)

    def spoil(tensors):
        tensors[NORM] = torch.ones(31)
        tensors["extra"] = torch.ones(1)
        del tensors[K]

    change_tensors(directory, spoil)
    assert refusal(lambda: hf.load(directory)) == cannot_be_loaded(
        directory,
        f"{K} [32, 32] is missing",
        f"{SHARD}: {NORM} has shape [31]; config.json makes it [32]",
        f"{SHARD}: extra is not a weight of this model",
    )
    change_json(
        directory / "config.json", lambda raw: raw["text_config"].update(hidden_size=48)
    )
    with pytest.raises(
        ValueError, match=r"problem\(s\):\n(  .+\n){20}  \.\.\. and \d+ more$"
    ):
        hf.load(directory)


def test_a_bad_config_does_not_hide_bad_files(tmp_path, good):
    directory = tmp_path / "bad"
    shutil.copytree(good, directory)
    change_json(
        directory / "config.json", lambda raw: raw.update(downsample_ratio=0.25)
    )
    change_json(
        directory / INDEX, lambda index: index["weight_map"].update({"a": "b.bin"})
    )
    (directory / SHARD).write_bytes(b"")
    (directory / LOST).unlink()
    assert refusal(lambda: hf.load(directory)) == cannot_be_loaded(
        directory,
        "config.json: downsample_ratio is 0.25; only 0.5 is supported",
        f"{INDEX}: 'b.bin' is not a *.safetensors file; convert it",
        f"{LOST} is missing; the index places 33 tensors in it",
        f"{SHARD} is empty (0 bytes); download it again",
    )
    (directory / "config.json").unlink()
    assert (
        refusal(lambda: hf.load(directory)).splitlines()[1]
        == "  config.json: no such file"
    )


@pytest.mark.parametrize("layout", ["hf", "original", "memory"])
def test_a_missing_shard_does_not_hide_what_is_wrong_in_the_others(tmp_path, layout):
    """Tensors of the missing shard are not listed; those that are in no file are."""
    directory = tmp_path / "in"
    write_checkpoint(
        directory, vision_language("rms-qwen2"), layout, "float32", shards=2
    )
    index = read_json(directory / INDEX)["weight_map"]
    norm = name_in_layout(NORM, layout)
    shard = index[norm]
    (lost,) = set(index.values()) - {shard}
    gone = next(
        n for n in sorted(index) if index[n] == shard and n.endswith("_proj.weight")
    )
    tensors = load_file(directory / shard)
    tensors[norm] = torch.ones(31)
    shape = list(tensors.pop(gone).shape)
    save_file(tensors, directory / shard)
    (directory / lost).unlink()
    placed = sum(file == lost for file in index.values())
    message = refusal(lambda: hf.load(directory)).splitlines()
    assert message[0].endswith("3 problem(s):")
    assert sorted(message[1:]) == sorted(
        [
            f"  {lost} is missing; the index places {placed} tensors in it",
            f"  {shard}: {norm} has shape [31]; config.json makes it [32]",
            f"  {gone} {shape} is missing",
        ]
    )
    # Without an index nobody knows what the other file held.
    (directory / INDEX).unlink()
    (directory / "other.safetensors").write_bytes(b"")
    assert refusal(lambda: hf.load(directory)) == cannot_be_loaded(
        directory,
        "other.safetensors is empty (0 bytes); download it again",
        f"{shard}: {norm} has shape [31]; config.json makes it [32]",
    )


def test_above_a_tied_embedding_only_the_head_may_be_left_over(tmp_path):
    directory = tmp_path / "in"
    write_checkpoint(directory, vision_language("rms-qwen2", tie=True), "hf", "float32")
    tensors = load_file(directory / "model.safetensors")
    save_file(
        {**tensors, "draft.lm_head.weight": torch.ones(1)},
        directory / "model.safetensors",
    )
    assert refusal(lambda: hf.load(directory)) == cannot_be_loaded(
        directory,
        "model.safetensors: draft.lm_head.weight is not a weight of this model",
    )


# -------------------------------------------------------------------------------------------------
# wrapped names


WRAPPERS = {
    "DistributedDataParallel": lambda name: f"module.{name}",
    "PEFT, merged": lambda name: f"base_model.model.{name}",
    "both": lambda name: f"module.base_model.model.{name}",
    "torch.compile": lambda name: f"_orig_mod.{name}",
    "torch.compile of each layer": lambda name: re.sub(
        r"(layers?\.\d+)\.", r"\1._orig_mod.", name
    ),
    "FSDP": lambda name: f"_fsdp_wrapped_module.{name}".replace(
        "layers.0.", "layers.0._fsdp_wrapped_module._checkpoint_wrapped_module."
    ),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("layout", ["hf", "original", "memory"])
def test_names_of_a_wrapper_are_read(tmp_path, wrapper, layout, caplog):
    plain = write_checkpoint(
        tmp_path / "plain", vision_language("rms-qwen2"), layout, "float32", shards=2
    )
    wrapped = shutil.copytree(plain, tmp_path / "wrapped")
    rename = WRAPPERS[wrapper]
    for path in wrapped.glob("*.safetensors"):
        tensors = load_file(path)
        save_file({rename(name): x for name, x in tensors.items()}, path)
    change_json(
        wrapped / INDEX,
        lambda index: index.update(
            weight_map={rename(n): f for n, f in index["weight_map"].items()}
        ),
    )
    expected = flatten_state(nnx.state(hf.load(plain)))
    with caplog.at_level("WARNING"):
        ours = flatten_state(nnx.state(hf.load(wrapped)))
    assert "hold what a wrapper put there" in caplog.text
    assert ours.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)


def test_a_prefix_that_not_all_names_have_is_no_wrapper(tmp_path, good):
    directory = shutil.copytree(good, tmp_path / "half")
    change_tensors(directory, lambda t: t.update({f"module.{NORM}": t.pop(NORM)}))
    (directory / INDEX).unlink()
    message = refusal(lambda: hf.load(directory))
    assert f"module.{NORM} is not a weight of this model" in message


# -------------------------------------------------------------------------------------------------
# numbers that are not finite


UP = "language_model.model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_refused_by_name(tmp_path, value):
    directory = tmp_path / "in"
    write_checkpoint(directory, vision_language("rms-qwen2"), "hf", "float32")
    path = directory / "model.safetensors"
    tensors = load_file(path)
    tensors[UP][3, 2] = value
    save_file(tensors, path)

    # 1. In: refused, unless one wants to look.
    message = refusal(lambda: hf.load(directory))
    assert f"{directory}: nan or inf in {UP};" in message
    model = hf.load(directory, allow_nonfinite=True)

    # 2. Out: the same.
    out = tmp_path / "out"
    message = refusal(lambda: hf.save(model, out))
    assert message.startswith(f"nan or inf in {UP};")
    assert not list(tmp_path.glob("out*"))
    hf.save(model, out, allow_nonfinite=True)
    again = load_file(out / "model.safetensors")[UP]
    assert torch.equal(again.isfinite(), tensors[UP].isfinite())


def test_a_number_too_large_for_the_dtype_is_refused(tmp_path):
    """3.4e38 is finite in float32; bfloat16 rounds it up to infinity."""
    directory = tmp_path / "in"
    write_checkpoint(directory, vision_language("rms-qwen2"), "hf", "float32")
    path = directory / "model.safetensors"
    tensors = load_file(path)
    tensors[NORM][0] = 3.4028e38
    save_file(tensors, path)
    hf.load(directory)
    assert f"nan or inf in {NORM};" in refusal(lambda: hf.load(directory, "bfloat16"))


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_an_export_can_be_read_by_whom_the_umask_lets(tmp_path, good, umask):
    model = hf.load(good)
    old = os.umask(umask)
    try:
        hf.save(model, tmp_path / "out")
    finally:
        os.umask(old)
    modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "out").iterdir()}
    assert "model.safetensors" in modes
    assert set(modes.values()) == {0o666 & ~umask}
