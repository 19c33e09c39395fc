"""Serves a checkpoint over HTTP, as the OpenAI API has it.

python -m r1v3_jax.serve --checkpoint=DIR [--port=8000 --slots=32]
curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \
    -d '{"messages": [{"role": "user", "content": "What is 6 x 7?"}]}'

Whatever is wrong with the flags is said before weights are read. The port answers from then on:
/health says 503 until every program is compiled. SIGTERM lets running requests end. See
docs/serving.md.
"""

import os
import signal
import stat
import sys
import typing
from pathlib import Path

import jax
from absl import flags

from r1v3_jax import cli
from r1v3_jax.config import ModelConfig
from r1v3_jax.engine.sizes import EngineSettings
from r1v3_jax.run import processes
from r1v3_jax.serve import opening
from r1v3_jax.serve.fields import Limits
from r1v3_jax.serve.messages import Placement

ENGINE = opening.define_engine(slots=32)
HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen at; 0.0.0.0: all.")
PORT = flags.DEFINE_integer("port", 8000, "0: a free one.", 0, 65535)
API_KEY_FILE = flags.DEFINE_string(
    "api_key_file", None, "A file with the key that requests must have."
)
NAME = flags.DEFINE_string("name", "r1v3", "Of the model, in requests.")
ALIAS = flags.DEFINE_list("alias", [], "Further names, as gpt-4o-mini,judge.")
THINKING = flags.DEFINE_enum(
    "thinking",
    "slow",
    ["slow", "no_think"],
    "As the template says, or without <think>, where a request does not say.",
)
SPLIT_THINKING = flags.DEFINE_bool(
    "split_thinking", False, "Thoughts in `reasoning`, where a request does not say."
)
PLACEMENT = flags.DEFINE_enum(
    "placement",
    "front",
    list(typing.get_args(Placement)),
    "Where images go without a marker: in front, or in the order of the parts.",
)
QUEUE = flags.DEFINE_integer("queue", 256, "Requests that may wait; more get 429.", 1)
PROCESSES = processes.define_processes()
TOPOLOGY = flags.DEFINE_string("topology", "", "The TPU slice, as v5p:2x2x1.")
DRY_RUN = flags.DEFINE_bool(
    "dry_run",
    False,
    "Say how many slots fit onto the slice, and how long a token takes, by the TPU compiler.",
)


def main() -> None:
    """Checks everything, opens the port, and serves until a signal or a failure."""
    # 1. Whatever can be wrong.
    names = (NAME.value, *ALIAS.value)
    if not all(names) or len(set(names)) < len(names):
        raise ValueError(f"--name and --alias are {names}; wanted different names")
    key = read_api_key(API_KEY_FILE.value) if API_KEY_FILE.value else ""
    source = opening.open_source(ENGINE)
    settings = opening.settings_of(ENGINE, source, QUEUE.value)
    if DRY_RUN.value:
        dry_run(source.config, settings)
        return
    # Imported here: without the extra the message is one line.
    try:
        from r1v3_jax.serve import running
        from r1v3_jax.serve.app import App
    except ImportError as error:
        raise ImportError(f"{error}; pip install 'r1v3_jax[serve]'") from None
    processes.start_processes(PROCESSES, TOPOLOGY.value)
    opened = (
        running.open_port(HOST.value, PORT.value) if jax.process_index() == 0 else None
    )
    engine = opening.make_engine(ENGINE, source, settings)

    # 2. Other processes of a slice do what the first one does, until it stops. A signal to all of
    #    them is the first one's matter: without the others no answer would end.
    if opened is None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        engine.follow()
        cli.end(0)

    # 3. Serve.
    limits = Limits(
        max_tokens=settings.max_tokens,
        slots=settings.slots,
        queue=settings.queue,
        vocab_size=source.config.text.vocab_size,
        thinking=THINKING.value == "slow",
        split_thinking=SPLIT_THINKING.value,
        placement=PLACEMENT.value,
    )
    address = running.address_of(opened)
    print(
        f"loading: http://{address}, {settings.slots} slots of "
        f"{settings.max_prompt_tokens} + {settings.max_tokens} tokens",
        flush=True,
    )
    if not key and not is_local(opened.getsockname()[0]):
        print(
            f"note: whoever reaches {address} may use it; see --api_key_file",
            flush=True,
        )
    code = running.run(App(engine, names, limits, key), opened)
    # At once: threads of libraries may not end by themselves.
    cli.end(code)


def dry_run(config: ModelConfig, settings: EngineSettings) -> None:
    """See `tpu.serving`. Exit code 1 if the slots do not fit."""
    if not TOPOLOGY.value:
        raise ValueError(
            "--dry_run compiles for a TPU slice; give one, as --topology=v5p:2x2x1"
        )
    # Imported here: only a dry run needs the TPU's compiler.
    from r1v3_jax.tpu import serving

    mesh = cli.mesh_shape(ENGINE["mesh"])
    figures = serving.dry_run(config, settings, TOPOLOGY.value, mesh)
    # Empty in a process that compiles one program for another.
    if figures and not figures["fits"]:
        sys.exit("error: not every slot fits into a chip's memory; see above")


def read_api_key(path: str) -> str:
    """Reads the key that requests must have. ValueError if it is none, or others can read it."""
    flag = f"--api_key_file={path}"
    try:
        mode = os.stat(path).st_mode
        text = Path(path).read_text(encoding="ascii").strip()
    except UnicodeDecodeError:
        raise ValueError(f"{flag}: wanted a key of ASCII characters") from None
    except OSError as error:
        raise ValueError(f"{flag}: it cannot be read ({error.strerror})") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ValueError(
            f"{flag}: others can read it, its mode is {stat.S_IMODE(mode):o}; run chmod 600 {path}"
        )
    if len(text.split()) != 1:
        raise ValueError(f"{flag}: it has {len(text.split())} words, wanted one key")
    return text


def is_local(host: str) -> bool:
    """Whether only this machine reaches an address."""
    return host.startswith("127.") or host == "::1"


if __name__ == "__main__":
    cli.run(main)
