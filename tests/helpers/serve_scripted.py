"""A server of scripted answers as a process: what signals and failures make of it.

serve_scripted.py [SECONDS]: after so many seconds the engine fails.
"""

import sys
import threading

from scripted_engine import ScriptedEngine, words

from r1v3_jax.serve import running
from r1v3_jax.serve.app import App
from r1v3_jax.serve.fields import Limits


def main() -> int:
    """Answers max_tokens words, 50 a second."""
    engine = ScriptedEngine(
        lambda request: words("word " * request.settings.max_tokens),
        pace=0.02,
        max_tokens=10_000,
    )
    if len(sys.argv) > 1:
        failure = RuntimeError("the device is gone")
        threading.Timer(
            float(sys.argv[1]), setattr, (engine, "fail_with", failure)
        ).start()
    limits = Limits(max_tokens=10_000, slots=4, queue=64, vocab_size=300)
    opened = running.open_port("127.0.0.1", 0)
    print(f"loading: http://127.0.0.1:{opened.getsockname()[1]},", flush=True)
    return running.run(App(engine, ("r1v3",), limits), opened)


if __name__ == "__main__":
    sys.exit(main())
