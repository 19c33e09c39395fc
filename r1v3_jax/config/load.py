"""Config files by name: Python programs that define `config`, a Run. They are trusted.

Looked for in `configs/` under the working directory, then among those of the program.
"""

import importlib.util
import re
from pathlib import Path

from r1v3_jax.config.run import Run

PACKAGE = Path(__file__).parent.parent
CHECKOUT = PACKAGE.parent
# A checkout has its configs beside the package; an installed wheel has them inside it.
SHIPPED = (CHECKOUT if (CHECKOUT / "setup.py").is_file() else PACKAGE) / "configs"
FOLDERS = (Path("configs"), SHIPPED)


# What configs of before wrote in another way, and how it is written now.
REPLACED = {
    "pipeline": "the order of Run.stages, and --config.stage=NAME for one stage alone",
    "base": 'Run.stages={"base": SFT(...)}',
    "cold_start": 'Run.stages={"cold_start": SFT(...)}',
    "grpo": 'Run.stages={"grpo": GRPO(...)}',
    "connector": 'Run.stages={"connector": SFT(...)}',
    "clip_low": "GRPO.loss=Clipped(low=0.2), --config.grpo.loss.low=0.2",
    "clip_high": "GRPO.loss=Clipped(high=0.28), --config.grpo.loss.high=0.28",
    "importance_cap": "GRPO.correction=Truncated(cap=2.0), --config.grpo.correction.cap=2.0",
    "length_limits": "GRPO.length_limit=Steps(((0, 4096), (0.5, 8192))), by progress from 0 to 1",
    "accuracy_weight": "GRPO.reward=Reward(((0.7, correct), (0.3, well_formed)))",
    "shaping": "terms of GRPO.reward with negative weights, as (-0.5, Repeated(40))",
    "divide_by_std": "GRPO.advantage=GroupRelative() or GroupCentred()",
}


def list_configs() -> list[str]:
    """Returns the names that --config takes."""
    paths = [path for folder in FOLDERS for path in folder.glob("*.py")]
    return sorted({path.stem for path in paths if path.stem != "__init__"})


def load_config(name: str) -> Run:
    """Returns the Run in a config file, found by name or path. ValueError if there is none."""
    path = find_config(name)
    # A module of its own for each file: two configs may be loaded in one process.
    unique = re.sub("[^a-z0-9]", "_", path.stem)
    spec = importlib.util.spec_from_file_location(f"config_{unique}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except TypeError as error:
        # A config of an older version: its words have other names now.
        unexpected = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if not unexpected or unexpected[1] not in REPLACED:
            raise
        raise ValueError(
            f"{path}: {error}; it is now written {REPLACED[unexpected[1]]}"
        ) from error
    if not isinstance(getattr(module, "config", None), Run):
        raise ValueError(f"{path} does not define `config`, a r1v3_jax.config.Run")
    return module.config


def find_config(name: str) -> Path:
    """Returns the file of a config. ValueError with the nearest names if there is none."""
    candidates = [folder / f"{name}.py" for folder in FOLDERS] + [Path(name)]
    for path in candidates:
        if path.is_file():
            return path
    known = list_configs()
    close = [other for other in known if other.startswith(name[:3])]
    if close:
        hint = f"did you mean {', '.join(close)}?"
    else:
        hint = f"there are: {', '.join(known)}"
    raise ValueError(f"no config {name!r}; {hint}")
