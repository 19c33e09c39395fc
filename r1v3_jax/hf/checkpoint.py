"""A Hugging Face checkpoint directory, looked through: its files, headers and tensors by name.

    checkpoint = Checkpoint.open("InternVL3-38B-hf")      # config.json and headers, no weights

Knows files, no devices. Which tensor is which parameter is in `weights.py`, `config.json` in
`read_config.py`; `load.py` places the weights.
"""

import collections
import dataclasses
import os
import re
from collections.abc import Collection
from pathlib import Path

import numpy as np
from absl import logging
from safetensors import SafetensorError, safe_open

from r1v3_jax.config import ModelConfig
from r1v3_jax.files import read_json, why_unreadable
from r1v3_jax.hf.read_config import raise_problems, try_read_config
from r1v3_jax.hf.weights import NOT_WEIGHTS, Piece, name_in_layout, pieces

# safetensors' names -> numpy's
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
INDEX = "model.safetensors.index.json"
HEAD = "language_model.lm_head.weight"
EMBEDDING = "language_model.model.embed_tokens.weight"

# What torch.compile and FSDP put into a name, wherever they wrapped a module.
WRAPPED_PART = re.compile(
    r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
# What DistributedDataParallel and PEFT put in front of all names.
WRAPPED_FRONT = ("module.", "base_model.model.")


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor as the header of its file describes it."""

    path: Path
    name: str  # in the file, with what a wrapper put into it
    shape: tuple[int, ...]
    dtype: str  # "F32", "BF16", ...

    def read(self) -> np.ndarray:
        """Reads the numbers, in the dtype and the axes of the file."""
        # The file is opened anew each time: an open mapping keeps the pages of all that was read.
        with safe_open(self.path, framework="np") as file:
            return file.get_tensor(self.name)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint directory whose config and headers have been read and are right."""

    directory: Path
    config: ModelConfig
    layout: str  # of the names, see `weights.py`
    pieces: list[Piece]  # all of the model's
    tensors: dict[
        str, Tensor
    ]  # by their names in the files, without what a wrapper put in

    @classmethod
    def open(cls, directory) -> "Checkpoint":
        """Reads config.json and the headers, no weights.

        FileNotFoundError if there is no such directory, ValueError with every problem in it.
        """
        directory = Path(directory)
        if not directory.is_dir():
            raise FileNotFoundError(
                f"{directory}: no such directory; give a Hugging Face checkpoint directory"
            )
        _refuse_adapter(directory)
        problems: list[str] = []
        config = try_read_config(directory, problems)
        tensors, lost = unwrapped(*read_headers(directory, problems))
        _refuse_lora(directory, tensors)
        # Without a config nothing is known of the tensors that should be there.
        if config is None:
            raise_problems(directory, problems)
        layout = _layout({*tensors, *(lost or ())}, config)
        if not problems:
            config = _resolve_tie(config, tensors, layout)
        expected = list(pieces(config, layout))
        # The head of a tied embedding may stand in the file: it is the embedding.
        tied_head = {name_in_layout(HEAD, layout)} if config.text.tie_embeddings else ()
        compare(expected, tensors, lost, tied_head, problems)
        raise_problems(directory, problems)
        return cls(directory, config, layout, expected, tensors)

    def read(self, name: str) -> np.ndarray:
        """Reads one tensor, in the dtype and the axes of its file."""
        return self.tensors[name].read()

    def dtype(self) -> str:
        """Returns what the weights are stored in; ValueError if the model cannot compute in it."""
        dtypes = sorted({self.tensors[piece.name].dtype for piece in self.pieces})
        if dtypes in (["F32"], ["BF16"]):
            return DTYPES[dtypes[0]]
        raise ValueError(
            f"{self.directory}: its tensors are {' and '.join(dtypes)}; say which dtype you want, "
            "float32 or bfloat16"
        )


def read_headers(
    directory: Path, problems: list[str]
) -> tuple[dict[str, Tensor], set[str] | None]:
    """Reads the headers of all files: (name -> tensor, names in files that cannot be read).

    The second are known from the index alone: None if a file cannot be read and there is no index.
    """
    file_problems: list[str] = []
    paths, index = _weight_files(directory, file_problems)
    tensors: dict[str, Tensor] = {}
    readable = set()
    for path in paths:
        header = _read_header(path, file_problems)
        if header is None:
            continue
        readable.add(path.name)
        for name, tensor in header.items():
            if name in tensors:
                problems.append(
                    f"{name} is in both {tensors[name].path.name} and {path.name}"
                )
            tensors[name] = tensor
    problems += file_problems
    if file_problems and not index:
        return tensors, None
    return tensors, {name for name, file in index.items() if file not in readable}


def _weight_files(
    directory: Path, problems: list[str]
) -> tuple[list[Path], dict[str, str]]:
    """Returns the safetensors files of a checkpoint and its index, tensor -> file name.

    The index is empty if the checkpoint has none.
    """
    path = directory / INDEX
    # A dangling link is an index that was to be there: reading it makes the problem known.
    if not os.path.lexists(path):
        return _files_without_index(directory, problems), {}
    try:
        index = read_json(path).get("weight_map")
    except (ValueError, OSError) as error:
        problems.append(str(error).removeprefix(f"{directory}/"))
        return [], {}
    if not isinstance(index, dict) or not index:
        problems.append(f"{INDEX}: no weight_map")
        return [], {}
    index = {name: str(file) for name, file in index.items()}
    return _files_of_index(directory, index, problems), index


def _files_without_index(directory: Path, problems: list[str]) -> list[Path]:
    paths = sorted(directory.glob("*.safetensors"))
    if not paths:
        pickle_paths = (*directory.glob("*.bin"), *directory.glob("*.pt*"))
        pickles = sorted(path.name for path in pickle_paths)
        hint = ""
        if pickles:
            hint = f"; {pickles[0]} is a pickle, which is never read: convert it"
        problems.append(f"no *.safetensors file{hint}")
    return paths


def _files_of_index(
    directory: Path, index: dict[str, str], problems: list[str]
) -> list[Path]:
    paths = []
    tensors_in = collections.Counter(index.values())
    for name, tensors in sorted(tensors_in.items()):
        # An index comes from elsewhere: it must not point at other files of this machine.
        if Path(name).name != name:
            problems.append(f"{INDEX}: {name!r} lies outside the directory")
        elif not name.endswith(".safetensors"):
            problems.append(
                f"{INDEX}: {name!r} is not a *.safetensors file; convert it"
            )
        elif not os.path.lexists(directory / name):
            problems.append(
                f"{name} is missing; the index places {tensors} tensors in it"
            )
        else:
            paths.append(directory / name)
    return paths


def _read_header(path: Path, problems: list[str]) -> dict[str, Tensor] | None:
    """Returns {name: tensor} of the weights in a file; None, and a problem, if it is damaged."""
    if reason := why_unreadable(path):
        problems.append(f"{path.name}: {reason}; download it again")
        return None
    if path.stat().st_size == 0:
        problems.append(f"{path.name} is empty (0 bytes); download it again")
        return None
    tensors = {}
    try:
        with safe_open(path, framework="np") as file:
            for name in file.keys():
                if NOT_WEIGHTS.search(name):
                    continue
                header = file.get_slice(name)
                shape = tuple(header.get_shape())
                tensors[name] = Tensor(path, name, shape, header.get_dtype())
    except (SafetensorError, OSError) as error:
        problems.append(
            f"{path.name} is cut short or damaged ({error}); download it again"
        )
        return None
    return tensors


def unwrapped(
    tensors: dict[str, Tensor], lost: set[str] | None
) -> tuple[dict[str, Tensor], set[str] | None]:
    """Takes out of all names what a wrapper of the training program put there, and logs it.

    base_model.model.language_model.lm_head.weight -> language_model.lm_head.weight;
    _orig_mod.mlp1.0._orig_mod.weight -> mlp1.0.weight
    """
    names = {*tensors, *(lost or ())}
    plain = {name: WRAPPED_PART.sub("", name) for name in names}
    # One wrapper may be inside the other: module.base_model.model.
    front = ""
    while wrapper := _shared_wrapper(front, plain.values()):
        front += wrapper
    plain = {name: short.removeprefix(front) for name, short in plain.items()}
    renamed = sorted(name for name in names if plain[name] != name)
    # Two names that become one were no wrapped names.
    if not renamed or len(set(plain.values())) < len(names):
        return tensors, lost
    logging.warning(
        "%d names hold what a wrapper put there; %s is read as %s",
        len(renamed),
        renamed[0],
        plain[renamed[0]],
    )
    tensors = {plain[name]: tensor for name, tensor in tensors.items()}
    return tensors, lost and {plain[name] for name in lost}


def _shared_wrapper(front: str, names) -> str:
    """Returns the wrapper that follows `front` in all the names; empty if there is none."""
    for wrapper in WRAPPED_FRONT:
        if names and all(name.startswith(front + wrapper) for name in names):
            return wrapper
    return ""


def _refuse_adapter(directory: Path) -> None:
    """ValueError if a directory holds an adapter (LoRA and the like) and no model."""
    settings = directory / "adapter_config.json"
    if not settings.is_file() or (directory / "config.json").exists():
        return
    base = read_json(settings).get("base_model_name_or_path") or "its base model"
    raise ValueError(
        f"{directory} holds an adapter of {base} and no model; merge the two first, with peft: "
        "PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(directory)"
    )


def _refuse_lora(directory: Path, tensors: dict[str, Tensor]) -> None:
    """ValueError if the weights of low-rank adapters stand among a model's."""
    names = sorted(name for name in tensors if ".lora_" in name)
    if names:
        raise ValueError(
            f"{directory} holds low-rank adapters that are not merged ({shortened(names, 1)}); "
            "merge them first, with peft: model.merge_and_unload().save_pretrained(directory)"
        )


def _layout(names: set[str], config: ModelConfig) -> str:
    """Returns the layout that the tensors' names have, see `weights.py`."""
    if config.vision is None:
        return "text"
    if any(name.startswith(("vision_model.", "mlp1.")) for name in names):
        return "original"
    if any(name.startswith("model.") for name in names):
        return "memory"
    return "hf"


def _resolve_tie(
    config: ModelConfig, tensors: dict[str, Tensor], layout: str
) -> ModelConfig:
    """Returns `config` with tie_embeddings as the files have it.

    InternVLConfig says true by default, also of files with a head that differs from the embedding:
    transformers then keeps both, and so does this.
    """
    head = name_in_layout(HEAD, layout)
    embedding = name_in_layout(EMBEDDING, layout)
    both_stored = embedding in tensors and head in tensors
    if not config.text.tie_embeddings or not both_stored:
        return config
    if _equal(tensors, embedding, head):
        return config
    logging.warning(
        "tie_word_embeddings is true, but %s differs from %s; keeping both",
        head,
        embedding,
    )
    text = dataclasses.replace(config.text, tie_embeddings=False)
    return dataclasses.replace(config, text=text)


def _equal(tensors: dict[str, Tensor], a: str, b: str, step: int = 4096) -> bool:
    """Whether two tensors hold the same bytes, compared `step` rows at a time."""
    if (tensors[a].shape, tensors[a].dtype) != (tensors[b].shape, tensors[b].dtype):
        return False
    with (
        safe_open(tensors[a].path, framework="np") as file_a,
        safe_open(tensors[b].path, framework="np") as file_b,
    ):
        slice_a = file_a.get_slice(tensors[a].name)
        slice_b = file_b.get_slice(tensors[b].name)
        rows = tensors[a].shape[0]
        for start in range(0, rows, step):
            part = slice(start, min(start + step, rows))
            if slice_a[part].tobytes() != slice_b[part].tobytes():
                return False
    return True


def compare(
    expected: list[Piece],
    tensors: dict[str, Tensor],
    lost: set[str] | None,
    known: Collection[str],
    problems: list[str],
) -> None:
    """Adds the tensors that are missing, wrong or unknown to `problems`.

    What a file that cannot be read may hold (`lost`, see `read_headers`) is not listed as missing:
    the file is listed already. `known`: other tensors that may be there.
    """
    # 1. The tensors of the model.
    shapes = {piece.name: piece.shape for piece in expected}
    for name, shape in shapes.items():
        if name not in tensors:
            if lost is not None and name not in lost:
                problems.append(f"{name} {list(shape)} is missing")
            continue
        tensor = tensors[name]
        if tensor.shape != shape:
            problems.append(
                f"{tensor.path.name}: {name} has shape {list(tensor.shape)}; "
                f"config.json makes it {list(shape)}"
            )
        if tensor.dtype not in DTYPES:
            problems.append(
                f"{tensor.path.name}: {name} is {tensor.dtype}; wanted {', '.join(DTYPES)}"
            )

    # 2. Other tensors.
    for name in sorted(set(tensors) - set(shapes) - set(known)):
        problems.append(
            f"{tensors[name].path.name}: {name} is not a weight of this model"
        )


def shortened(names: list[str], limit: int = 5) -> str:
    """Returns the first names, and how many more there are: "a, b and 3 more"."""
    more = len(names) - limit
    text = ", ".join(names[:limit])
    return f"{text} and {more} more" if more > 0 else text
