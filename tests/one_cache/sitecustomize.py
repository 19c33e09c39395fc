"""On PYTHONPATH of the tests' launchers: the processes of a run share their compiled programs.

JAX finds a compiled program by, among other things, a fingerprint of the devices. On CPUs that is
another one in every process, and only process 0 writes what it compiles: the others would compile
each program again in every run, 20 seconds of a core. The fingerprint is left out of the key here;
the programs are the same.

They also start without torch, as on a user's machine that has none: transformers would import it.
"""

import sys

if "r1v3_jax.launch" in sys.orig_argv:
    sys.modules["torch"] = None
    from jax._src import cache_key

    cache_key._hash_accelerator_config = lambda hashed, devices: None
