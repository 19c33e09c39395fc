"""On PYTHONPATH of the tests' launchers: the processes of a run share their compiled programs.

JAX finds a compiled program by, among other things, a fingerprint of the devices. On CPUs that is
another one in every process, and only process 0 writes what it compiles: the others would compile
each program again in every run, 20 seconds of a core. The fingerprint is left out of the key here;
the programs are the same.

transformers is told that there is no torch, as on most users' machines: it would import it.
"""

import sys

if "r1v3_jax.launch" in sys.orig_argv:
    import importlib.util

    from jax._src import cache_key

    find_spec = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *more: (
        None if name == "torch" else find_spec(name, *more)
    )
    cache_key._hash_accelerator_config = lambda hashed, devices: None
