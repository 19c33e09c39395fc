"""What tests share: eight CPU devices, kept programs, the circles, a table of the faults."""

import gc
import os
import sys
from pathlib import Path

import every_process
import kept_programs
import pytest
from xla_flags import xla_flags

TESTS = Path(__file__).parent

# Before jax is imported: eight devices, and the CPU even where libtpu is installed. Another kind of
# device has to be asked for: TESTS_PLATFORM=cuda, as tools/gpu_check.py does.
PLATFORM = os.environ.get("TESTS_PLATFORM", "cpu")
os.environ["JAX_PLATFORMS"] = PLATFORM
EIGHT_DEVICES = xla_flags(8)
if EIGHT_DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {EIGHT_DEVICES}"
os.environ["HF_HUB_OFFLINE"] = "1"
# Compiling is most of what the suite does, and its programs run for milliseconds.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Compiling leaves millions of small objects that live as long as their programs: Python looks for
# cycles among them again and again.
gc.set_threshold(100_000, 20, 100)
kept_programs.use()
every_process.share_compiled_programs()

# -------------------------------------------------------------------------------------------------
# the circles

# Files that start the launcher or a tool, or compile large programs, and the CPU seconds they take
# with the programs of an earlier run. --quick leaves them out. In a whole run the longest come
# first, so that no process of pytest is left alone with one at the end.
DEAR = {
    "config/test_recipes.py": 340,
    "faults/test_many_stages.py": 230,
    "faults/test_processes.py": 200,
    "faults/test_kills.py": 150,
    "faults/test_in_flight_kills.py": 120,
    "faults/test_numbers.py": 110,
    "pipeline/test_pipeline.py": 95,
    "hf/test_hf.py": 50,
    "faults/test_damage.py": 50,
    "models/test_decode_kernels.py": 45,
    "train/test_shared_prompts.py": 150,
    "stages/test_programs.py": 180,
    "stages/test_reference.py": 80,
    "stages/test_entropy_bonus.py": 20,
    "pipeline/test_text_only.py": 20,
    "stages/test_helpers_of_a_stage.py": 25,
    "stages/test_following.py": 25,
    "stages/test_drafting.py": 150,
    "sampling/test_drafts.py": 100,
    "sampling/test_carry.py": 80,
    "train/test_draft_head.py": 30,
    "faults/test_two_processes.py": 200,
    "stages/test_perceived_films.py": 25,
    "sampling/test_sampling_slots.py": 30,
    "tools/test_bench.py": 30,
    "tpu/test_dry_run.py": 30,
    "tpu/test_dry_run_slices.py": 30,
    "tpu/test_meshes.py": 20,
    "tpu/test_published.py": 10,
    "sampling/test_sampling.py": 25,
    "models/test_models.py": 25,
    "report/test_page_in_browser.py": 25,
    "tools/test_tools.py": 25,
    "tools/test_look.py": 40,
    "tools/test_assemble_tool.py": 20,
    "hf/test_assemble.py": 35,
    "hf/test_real_halves.py": 300,
    "models/test_int8.py": 20,
    "pipeline/test_starts.py": 20,
    "stages/test_lora_stages.py": 120,
    "stages/test_preference.py": 30,
    "train/test_pairs.py": 100,
    "train/test_pairs_against_trl.py": 20,
    "stages/test_reworded_training.py": 15,
    "sampling/test_next_token.py": 20,
    "test_sharding.py": 20,
    "test_slices.py": 40,
    "models/test_model_precision.py": 20,
    "train/test_train.py": 20,
    "tools/test_exported_tokenizers.py": 20,
    "tpu/test_tpu_compile.py": 90,
    "launch/test_launch.py": 10,
    "run/test_trackers.py": 8,
    "run/test_progress.py": 8,
    "tools/test_tool_mistakes.py": 5,
    "tools/test_convert_data.py": 3,
    "tools/test_verify_tool.py": 2,
    "tools/test_doctor.py": 1,
    "tools/test_gpu_check.py": 10,
    "evaluate/test_benchmark_command.py": 15,
    "evaluate/test_benchmark_kills.py": 15,
    "evaluate/test_checkpoint_answers.py": 15,
    "serve/test_serve_command.py": 90,
    "serve/test_two_serving_processes.py": 40,
    "serve/test_signals.py": 10,
    "chat/test_chat_command.py": 15,
    "engine/test_engine_answers.py": 60,
    "sampling/test_row_params.py": 10,
    "engine/test_engine_devices.py": 60,
    "engine/test_engine_faults.py": 30,
}


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="what is not dear")
    parser.addoption("--slow", action="store_true", help="also tests marked slow")
    parser.addoption(
        "--storm", type=int, default=0, help="also kill a run so many times, at random"
    )


def pytest_configure(config):
    is_worker = hasattr(config, "workerinput")
    if is_worker or not config.getoption("numprocesses", None):
        # Of this process: one that only starts pytest's others has torch to leave to them.
        os.environ["PYTHONPATH"] = str(every_process.CHILDREN)
    if not is_worker:
        kept_programs.remove_unused()
    if config.getoption("quick"):
        sys.addaudithook(refuse_dear)


def refuse_dear(event: str, arguments: tuple) -> None:
    """Keeps --quick quick: fails a test that starts a run of the launcher."""
    if event == "subprocess.Popen":
        command = " ".join(map(str, arguments[1] or ()))
        if "r1v3_jax.launch" in command:
            raise RuntimeError(f"not quick, so it belongs into DEAR: {command}")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("slow"):
        skip = pytest.mark.skip(reason="slow: run tests/run.sh --slow")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)
    files = [item.path.relative_to(TESTS).as_posix() for item in items]
    cost = {
        id(item): DEAR.get(file, 0) for item, file in zip(items, files, strict=True)
    }
    if config.getoption("quick"):
        config.hook.pytest_deselected(items=[x for x in items if cost[id(x)]])
        items[:] = [item for item in items if not cost[id(item)]]
    items.sort(key=lambda item: -cost[id(item)])


# -------------------------------------------------------------------------------------------------
# programs that are not needed any more

# Linux gives a process 65,530 memory maps. A compiled program takes a few of them, and JAX keeps
# it as long as its function lives: a process that runs a third of all files would have no map left
# for the next program, and die of it.
MAPS = Path("/proc/self/maps")
MANY_MAPS = 15_000


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Forgets the compiled programs of earlier files, before they are too many."""
    jax = sys.modules.get("jax")
    if jax and MAPS.exists() and MAPS.read_bytes().count(b"\n") > MANY_MAPS:
        jax.clear_caches()
        gc.collect()
    yield


# -------------------------------------------------------------------------------------------------
# other devices than eight CPUs


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    return (yield from skipped_without_devices())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    return (yield from skipped_without_devices())


def skipped_without_devices():
    """Skips what wants a mesh of more devices than there are; among CPUs that is a failure."""
    try:
        return (yield)
    except ValueError as error:
        if PLATFORM != "cpu" and "devices, but there are" in str(error):
            pytest.skip(str(error))
        raise


# -------------------------------------------------------------------------------------------------
# faults

# Every test of a fault says what it measured, what the bar is and whether that passes; all of it is
# printed at the end of the run.
ROWS = []  # in the process that prints


@pytest.fixture
def shows(record_property):
    """shows(what, measured, bar, passed): one row of the table at the end; fails if not passed."""

    def show(what, measured, bar, passed):
        said = f"{what}: {measured} / {bar} / {'pass' if passed else 'FAIL'}"
        record_property("fault", said)
        assert passed, said

    return show


def pytest_runtest_logreport(report):
    if report.when == "call":
        ROWS.extend(said for name, said in report.user_properties if name == "fault")


def pytest_terminal_summary(terminalreporter):
    if ROWS:
        terminalreporter.section("faults: measured / bar / pass")
        for said in sorted(ROWS, key=lambda said: int(said.split()[0].strip(","))):
            terminalreporter.write_line(said)
