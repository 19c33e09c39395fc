"""Flags of XLA for CPUs: how many devices, and programs that are compiled in less time."""

import importlib.metadata


def xla_flags(devices: int) -> str:
    """Returns XLA_FLAGS for a process of the tests with so many CPU devices.

    Compiling is most of what the tests cost, and JAX is not imported yet where they are set. Older
    compilers take 2.5 times as long for an update when they make fusions out of MLIR; newer ones
    do not let one choose.
    """
    flags = [f"--xla_force_host_platform_device_count={devices}"]
    major, minor = importlib.metadata.version("jaxlib").split(".")[:2]
    if (int(major), int(minor)) < (0, 11):
        flags.append("--xla_cpu_use_fusion_emitters=false")
    return " ".join(flags)
