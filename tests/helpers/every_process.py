"""What every process of the tests does first: pytest's own, and each that a test starts.

Those that a test starts find it through `children/sitecustomize.py`. It imports nothing heavy: most
of these processes never need JAX.
"""

import importlib.abc
import importlib.util
import os
import sys
from pathlib import Path

CHILDREN = Path(__file__).parent / "children"  # to be on the PYTHONPATH of children


def share_compiled_programs() -> None:
    """Lets all processes of the tests read each other's compiled programs from JAX's cache.

    JAX finds a program by, among other things, a fingerprint of the devices. On CPUs that is
    another one in every process, so it is left out of the key; number and order of the devices are
    in it anyway. And JAX writes a program into its file in place: a process that a test kills there
    would leave half a program for all runs to come, so files are written beside and renamed.
    """
    if "jax" in sys.modules:
        _patch()
    else:
        sys.meta_path.insert(0, _AfterImport("jax._src.compilation_cache", _patch))


def hide_torch() -> None:
    """Tells transformers that there is no torch, as on most users' machines: it imports it."""
    find_spec = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *more: (
        None if name == "torch" else find_spec(name, *more)
    )


def _patch() -> None:
    from jax._src import cache_key, lru_cache

    def put(self, key: str, value: bytes) -> None:
        path = Path(self.path) / f"{key}{lru_cache._CACHE_SUFFIX}"
        if not path.exists():
            partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
            partial.write_bytes(value)
            partial.replace(path)

    hash_devices = cache_key._hash_accelerator_config

    def hash_other_devices(hashed, devices) -> None:
        if devices.flat[0].platform != "cpu":  # a chip to compile for
            hash_devices(hashed, devices)

    cache_key._hash_accelerator_config = hash_other_devices
    lru_cache.LRUCache.put = put


class _AfterImport(importlib.abc.MetaPathFinder):
    """Calls a function once a module was imported."""

    def __init__(self, module: str, call):
        self.module = module
        self.call = call

    def find_spec(self, name, path=None, target=None):
        if name != self.module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            self.call()

        spec.loader.exec_module = exec_module
        return spec
