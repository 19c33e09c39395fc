"""Which process of a run this one is, on a pod or by flags."""

import os

import jax
from absl import flags

from r1v3_jax.config.topology import parse
from r1v3_jax.run import tpu_flags


def define_processes() -> dict[str, flags.FlagHolder]:
    """Defines the flags that name a process of a run, for `start_processes`."""
    return {
        "coordinator": flags.DEFINE_string(
            "coordinator", None, "host:port of process 0; not needed on Cloud TPU."
        ),
        "num_processes": flags.DEFINE_integer("num_processes", None, "Of the run.", 1),
        "process_id": flags.DEFINE_integer(
            "process_id", None, "Of this one, from 0.", 0
        ),
        "heartbeat_s": flags.DEFINE_integer(
            "heartbeat_s",
            100,
            "The others end when one has not been heard of for so long.",
            1,
        ),
        "coordinator_port": flags.DEFINE_integer(
            "coordinator_port",
            None,
            "Port of process 0 on Cloud TPU, where jax takes 8482; default firewall rules leave "
            "8476 open.",
        ),
    }


def start_processes(holders: dict[str, flags.FlagHolder], topology: str) -> None:
    """Makes this process one of its run, before any device is touched.

    topology: of the config; empty where a run has one process unless the flags say otherwise.
    ValueError if the flags do not go together, or if the TPU of the config is not there.
    """
    values = {name: holder.value for name, holder in holders.items()}
    explicit = [values[name] for name in ("coordinator", "num_processes", "process_id")]
    if topology:
        tpu_flags.set_init_args(parse(topology).kind)

    # 1. By flags, on any machine.
    if any(value is not None for value in explicit):
        if None in explicit:
            raise ValueError(
                "--coordinator, --num_processes and --process_id go together; give all three"
            )
        address, count, number = explicit
        if number >= count:
            raise ValueError(
                f"--process_id={number} of --num_processes={count}; they count from 0"
            )
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            address, count, number, heartbeat_timeout_seconds=values["heartbeat_s"]
        )
        return

    # 2. By the metadata of a TPU pod. Without a topology there is one process: nothing to do.
    if not topology:
        return
    if values["coordinator_port"] is not None:
        os.environ["JAX_COORDINATOR_PORT"] = str(values["coordinator_port"])
    try:
        jax.distributed.initialize(heartbeat_timeout_seconds=values["heartbeat_s"])
    except ValueError as error:  # JAX finds no cluster here
        raise ValueError(
            f"this config runs on the TPU slice {topology}, and no TPU was found ({error}); "
            "--dry_run compiles it anywhere"
        ) from error
