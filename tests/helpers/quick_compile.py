"""Compiles the small programs of the tests in less time: they run once, compiling is the most."""

import functools

import jax

OPTIONS = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 11):  # a newer jax may not have this option; 0.12 has not
    OPTIONS["xla_cpu_use_fusion_emitters"] = False
quick_jit = functools.partial(jax.jit, compiler_options=OPTIONS)
