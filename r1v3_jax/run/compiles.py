"""Counts compilations; one too many is a fault."""

_compiled: list[str] = []  # "jit(update)", ...: all this process compiled, in order


def note_compilation(event: str, seconds: float, **details) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        _compiled.append(str(details.get("fun_name")))


class Compiles:
    """Counts compilations; one in work that was done before is a recompilation, and a fault."""

    def __init__(self):
        self.start = self.last = len(_compiled)
        self.done: set[str] = set()
        self.after_warmup = 0

    def after(self, *work: str) -> None:
        """Says that `work` was done; what was compiled since the last call belongs to it."""
        if self.done.issuperset(work):
            self.after_warmup += len(_compiled) - self.last
        self.done.update(work)
        self.last = len(_compiled)

    def programs(self, names: tuple[str, ...]) -> dict[str, int]:
        """How often each of our jitted functions was compiled, once a shape if all is well."""
        compiled = _compiled[self.start :]
        return {name: compiled.count(f"jit({name})") for name in names}
