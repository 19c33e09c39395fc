"""Config files by name: Python programs that define `config`, a Run. They are trusted.

Looked for in `configs/` under the working directory, then among those of the program. A recipe
(`configs/recipes/NAME.py`) also defines `arms`, {name: Run}: runs to be compared. `recipes/NAME` is
its `config`, `recipes/NAME:ARM` one of its arms.
"""

import ast
import importlib.util
import re
from pathlib import Path
from types import ModuleType

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
    names = set()
    for folder in FOLDERS:
        for path in folder.rglob("*.py"):
            if path.stem != "__init__":
                # configs/recipes/othink.py is "recipes/othink".
                names.add(path.relative_to(folder).with_suffix("").as_posix())
    return sorted(names)


def load_config(name: str) -> Run:
    """Returns the Run in a config file, found by name or path. ValueError if there is none.

    name: digits, recipes/othink, path/of/a/config.py, or one of these with an arm behind it, as
    recipes/othink:constant.
    """
    file, arm = split_arm(name)
    if not arm:
        return load_module(find_config(file)).config
    arms = load_arms(file)
    if arm not in arms:
        raise ValueError(
            f"{file} has no arm {arm!r}; it has {', '.join(arms)}, as "
            f"{file}:{next(iter(arms))}"
        )
    return arms[arm]


def load_arms(name: str) -> dict[str, Run]:
    """Returns the arms of a recipe, in its order. ValueError if the config has none."""
    path = find_config(name)
    arms = getattr(load_module(path), "arms", None)
    is_table = isinstance(arms, dict) and len(arms) > 1
    if not is_table or not all(isinstance(run, Run) for run in arms.values()):
        raise ValueError(
            f"{path} does not define `arms`, two or more runs by name, as "
            '{"none": config, "some": config.with_stages(grpo=...)}'
        )
    for arm in arms:
        # Arms are names of directories and words of a command line.
        if not isinstance(arm, str) or not re.fullmatch(r"[A-Za-z0-9_]+", arm):
            raise ValueError(
                f"{path}: the arm {arm!r} must have letters, digits and _ alone, as 'no_kl'"
            )
    return arms


def split_arm(name: str) -> tuple[str, str]:
    """Splits recipes/othink:constant into the config's name and the arm's, "" if there is none."""
    if Path(name).is_file() or ":" not in name:
        return name, ""
    file, _, arm = name.rpartition(":")
    return file, arm


def load_module(path: Path) -> ModuleType:
    """Runs a config file and returns what it defines. ValueError unless `config` is a Run."""
    check_tables(path)
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
    return module


def check_tables(path: Path) -> None:
    """Raises ValueError for a name that stands twice in one table of a config file.

    Python keeps the last of {"grpo": first, "grpo": second} without a word: a stage would be lost.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if not isinstance(node, ast.Dict):
            continue
        seen = set()
        for key in node.keys:
            if not isinstance(key, ast.Constant):
                continue
            if key.value in seen:
                raise ValueError(
                    f"{path}, line {key.lineno}: {key.value!r} stands twice in one table; give "
                    f"the second one another name, as {str(key.value) + '_2'!r}"
                )
            seen.add(key.value)


def find_config(name: str) -> Path:
    """Returns the file of a config. ValueError with the nearest names if there is none."""
    candidates = [folder / f"{name}.py" for folder in FOLDERS] + [Path(name)]
    for path in candidates:
        if path.is_file():
            return path
    known = list_configs()
    start = name.rpartition("/")[2][:3]
    close = [other for other in known if other.rpartition("/")[2].startswith(start)]
    if close:
        hint = f"did you mean {', '.join(close)}?"
    else:
        hint = f"there are: {', '.join(known)}"
    raise ValueError(f"no config {name!r}; {hint}")
