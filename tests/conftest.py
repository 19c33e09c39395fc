"""What tests share: eight CPU devices, a torch reference with random numbers in every weight."""

import os
import tempfile

# Before jax is imported: eight devices, and the CPU even where libtpu is installed.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ["HF_HUB_OFFLINE"] = "1"
# Compiling is most of what the suite does, and its programs run for milliseconds.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# Programs that several tests compile are compiled once; those of their child processes too.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.TemporaryDirectory(
        prefix="r1v3_tests_"
    )  # of this process: gone with it
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run tests marked slow")
    parser.addoption(
        "--storm", action="store_true", help="kill a run 200 times, not 20"
    )


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        skip = pytest.mark.skip(reason="slow: run tests/run.sh --slow")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)


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
