"""Counts compilations: one in work that was done before is a recompilation, and a fault."""

import jax

COMPILED = "/jax/core/compile/backend_compile_duration"  # JAX's name of the event

_compiled: list[
    str
] = []  # "jit(update)", ...: all that this process compiled, in order


def _note(event: str, seconds: float, **details) -> None:
    """Takes down the name of a program that JAX has compiled, or read from its cache."""
    if event == COMPILED:
        _compiled.append(str(details.get("fun_name")))


jax.monitoring.register_event_duration_secs_listener(_note)


def compiled_so_far() -> int:
    """Returns how many programs this process has compiled, or read from its cache."""
    return len(_compiled)


class Compiles:
    """Counts what was compiled in work that had been done before."""

    def __init__(self):
        self.start = len(_compiled)  # compilations before this run
        self.counted = self.start  # compilations up to the last call of `after`
        self.done: set[str] = set()
        self.after_warmup = 0

    def after(self, *work: str) -> None:
        """Takes down that `work` was done; what was compiled since the last call belongs to it.

        after("grpo/update") twice: what the second one compiled is counted as a fault.
        """
        if self.done.issuperset(work):
            self.after_warmup += len(_compiled) - self.counted
        self.done.update(work)
        self.counted = len(_compiled)

    def programs(self, names: tuple[str, ...]) -> dict[str, int]:
        """Returns how often each jitted function was compiled; once a shape if all is well."""
        compiled = _compiled[self.start :]
        return {name: compiled.count(f"jit({name})") for name in names}
