"""A dry run of full size with the versions of the image, and no others.

They are those of launch/docker/constraints.txt; `bash tests/newest.sh` installs them.
"""

import importlib.metadata
import json
import re
from pathlib import Path

import commands
import kept_programs
import pytest

ROOT = Path(__file__).parents[2]
CONSTRAINTS = ROOT / "launch" / "docker" / "constraints.txt"
NEEDED = ("jax", "jaxlib", "libtpu", "flax", "numpy")


def other_versions() -> list[str]:
    """Returns what is installed here in another version than the image's, or is missing."""
    listed = dict(re.findall(r"^([\w.-]+)==(\S+)$", CONSTRAINTS.read_text(), re.M))
    differences = []
    for name, wanted in listed.items():
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if name not in NEEDED:  # of the extra "data", which no TPU program needs
                continue
            installed = "none"
        if installed != wanted:
            differences.append(f"{name} {installed} (wanted {wanted})")
    return differences


def test_the_images_versions_compile_the_yardstick_of_the_pod(tmp_path):
    """The update of the 38B on 128 chips, without machine code.

    Bars: 64% of the peak (docs/results/pod.md has the figures), and no flag that this compiler
    refuses.
    """
    if differences := other_versions():
        shown = ", ".join(differences[:3])
        pytest.skip(f"not the image's versions: {shown}; run bash tests/newest.sh")
    out = tmp_path / "out.json"
    environment = commands.environment(
        XDG_CACHE_HOME=str(kept_programs.tpu_programs()),
        JAX_DISABLE_MOST_OPTIMIZATIONS="0",
    )
    process = commands.run(
        *commands.LAUNCHER,
        "--config=tpu_v5p_256_text",
        "--dry_run",
        "--nodry_run_data",
        f"--dry_run_out={out}",
        env=environment,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    print(process.stdout)
    summary = json.loads(out.read_text())
    assert summary["fits"]
    assert summary["mfu"] > 0.64
    update = summary["programs"]["cold_start/update"]
    assert update["peak_gib"] < 60
    # The gathers of weights run behind other work.
    gathers = update["collectives"]["all-gather"]
    assert gathers["exposed"] < gathers["seconds"] / 3
