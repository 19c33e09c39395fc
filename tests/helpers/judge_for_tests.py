"""The stand-in judge of tools/ on a free port, for as long as a test needs it."""

import contextlib
import importlib.util
import threading
from collections.abc import Iterator
from pathlib import Path

PATH = Path(__file__).parents[2] / "tools" / "judge_stand_in.py"
SPEC = importlib.util.spec_from_file_location("judge_stand_in", PATH)
stand_in = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(stand_in)


@contextlib.contextmanager
def judge(unclear: float = 0.0) -> Iterator[str]:
    """Yields the address of a stand-in judge, as `Verify.model_url` wants it."""
    server = stand_in.serve(0, unclear)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
