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


def list_configs() -> list[str]:
    """Names that --config takes."""
    return sorted(
        {
            path.stem
            for folder in FOLDERS
            for path in folder.glob("*.py")
            if path.stem != "__init__"
        }
    )


def load_config(name: str) -> Run:
    """The Run in a config file, by name or path. A config is a Python program: it is trusted."""
    candidates = [folder / f"{name}.py" for folder in FOLDERS] + [Path(name)]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        close = [known for known in list_configs() if known.startswith(name[:3])]
        hint = (
            f"did you mean {', '.join(close)}?"
            if close
            else f"there are: {', '.join(list_configs())}"
        )
        raise ValueError(f"no config {name!r}; {hint}")
    spec = importlib.util.spec_from_file_location(
        f"config_{re.sub('[^a-z0-9]', '_', path.stem)}", path
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not isinstance(getattr(module, "config", None), Run):
        raise ValueError(f"{path} does not define `config`, a r1v3_jax.config.Run")
    return module.config
