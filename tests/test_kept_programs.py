"""What the tests keep between runs: found by every process, and deleted when nobody reads it."""

import os
import subprocess
import sys

import commands
import kept_programs

COMPILE = """
import jax
import jax.numpy as jnp

events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
jax.jit(lambda x: jnp.sin(x) + 1)(jnp.arange(7.0)).block_until_ready()
print(len(jax.devices()), *(name.rpartition("/")[2] for name in events))
"""


def test_a_program_is_compiled_by_one_process_for_all(tmp_path):
    found = []
    for _ in range(2):
        environment = commands.environment(JAX_COMPILATION_CACHE_DIR=str(tmp_path))
        done = subprocess.run(
            [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found.append(done.stdout.split())
    assert "cache_misses" in found[0] and "cache_hits" not in found[0]
    assert "cache_hits" in found[1] and "cache_misses" not in found[1]
    assert not list(tmp_path.glob("*.partial"))


def test_what_was_not_read_for_two_weeks_is_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_programs, "root", lambda: tmp_path)
    now = 1e9
    ages = {"new": 0, "read": 13, "old": 15}
    (tmp_path / "cpu").mkdir()
    for name, days in ages.items():
        path = tmp_path / "cpu" / name
        path.touch()
        os.utime(path, (now - days * kept_programs.DAY, now - 100 * kept_programs.DAY))
    kept_programs.remove_unused(now)
    assert sorted(path.name for path in (tmp_path / "cpu").iterdir()) == ["new", "read"]
    # It looks once a day.
    kept_programs.remove_unused(now + kept_programs.DAY / 2)
    assert (tmp_path / "cpu" / "read").exists()
    kept_programs.remove_unused(now + 2 * kept_programs.DAY)
    assert not (tmp_path / "cpu" / "read").exists()
