"""The options of the TPU compiler: which a chip gets with which compiler, and what is refused."""

import os
import types

import jax
import pytest

from r1v3_jax.config.topology import KINDS
from r1v3_jax.engine.programs import run
from r1v3_jax.run import tpu_flags
from r1v3_jax.sampling.loop import decode

FILE = """
# A comment.
xla_everywhere = true for v5p v5e v6e
xla_small = 7 for v5e
xla_old = false for v5p v6e, libtpu <= 0.0.42.1  # with a remark
xla_new = auto for v5p, libtpu >= 0.0.43
xla_everywhere = false for v5p of decode
xla_small = 8 for v5p v5e of decode, libtpu >= 0.0.43
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Puts other lines in place of the program's, and takes what the environment has away."""
    path = tmp_path / "tpu_flags.txt"
    path.write_text(FILE)
    monkeypatch.setattr(tpu_flags, "FLAGS", path)
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "")  # and afterwards as it was
    return path


@pytest.mark.parametrize(
    "kind, libtpu, options",
    [
        ("v5p", "0.0.42.1", {"xla_everywhere": "true", "xla_old": "false"}),
        ("v5p", "0.0.50.1", {"xla_everywhere": "true", "xla_new": "auto"}),
        ("v5p", "0.0.43.dev2", {"xla_everywhere": "true", "xla_new": "auto"}),
        ("v6e", "0.0.42", {"xla_everywhere": "true", "xla_old": "false"}),
        ("v6e", "0.0.42.2", {"xla_everywhere": "true"}),
        ("v5e", "0.0.50.1", {"xla_everywhere": "true", "xla_small": "7"}),
        ("", "0.0.50.1", {}),  # a machine that does not say which chips it has
    ],
)
def test_chip_and_compiler_choose_the_options(file, kind, libtpu, options):
    assert tpu_flags.options(kind, libtpu) == options


@pytest.mark.parametrize(
    "kind, libtpu, options",
    [
        ("v5p", "0.0.42.1", {"xla_everywhere": "false", "xla_old": "false"}),
        (
            "v5p",
            "0.0.50.1",
            {"xla_everywhere": "false", "xla_new": "auto", "xla_small": "8"},
        ),
        ("v5e", "0.0.50.1", {"xla_everywhere": "true", "xla_small": "8"}),
        ("v6e", "0.0.42.2", {"xla_everywhere": "true"}),
    ],
)
def test_a_programs_own_value_stands_in_place_of_the_one_for_all(
    file, kind, libtpu, options
):
    assert tpu_flags.options(kind, libtpu, program="decode") == options
    of_another = tpu_flags.options(kind, libtpu, program="update")
    assert of_another == tpu_flags.options(kind, libtpu)


def test_a_library_of_unknown_version_counts_as_the_newest(file, tmp_path, monkeypatch):
    library = tmp_path / "libtpu.so"
    library.touch()
    monkeypatch.setenv("TPU_LIBRARY_PATH", str(library))
    assert tpu_flags.options("v5p") == {"xla_everywhere": "true", "xla_new": "auto"}


@pytest.mark.parametrize(
    "line",
    [
        "xla_a = true",
        "xla_a=true for v5p",
        "xla_a = true for v4",
        "xla_a = true for v5p, libtpu < 0.0.43",
        "xla_a = true for v5p of",
        "xla_a = true of decode",
        "a = true for v5p",
    ],
)
def test_a_line_of_another_form_is_named(file, line):
    file.write_text(f"# one\n{line}\n")
    with pytest.raises(ValueError, match=r"tpu_flags.txt, line 2: .*NAME = VALUE for"):
        tpu_flags.read_flags()


# --- the program's own file ----------------------------------------------------------------------


def test_every_flag_has_a_reason_and_no_chip_gets_it_twice():
    lines = tpu_flags.FLAGS.read_text().splitlines()
    for previous, line in zip(lines, lines[1:], strict=False):
        if line.startswith("xla"):
            # In front of it is a comment, or another flag with the same reason.
            assert previous.startswith(("#", "xla")), line
    for kind in KINDS:
        for libtpu in (tpu_flags.OLDEST_LIBTPU, None):
            flags = [f for f in tpu_flags.read_flags() if f.is_for(kind, libtpu)]
            names = [(flag.name, flag.program) for flag in flags]
            assert len(names) == len(set(names)) > 5


def test_every_program_with_options_of_its_own_is_one_that_asks_for_them():
    programs = {flag.program for flag in tpu_flags.read_flags() if flag.program}
    assert programs <= {decode.__name__, run.__name__}


def test_no_chip_gets_a_flag_that_its_compiler_calls_a_risk_of_wrong_results():
    """libtpu 0.0.50.1 says so of continuation fusion on every chip except v5e.

    The chips are the same with an older compiler, which only does not say it.
    """
    for flag in tpu_flags.read_flags():
        if flag.name == "xla_tpu_enable_async_collective_fusion":
            assert flag.chips == ("v5e",) or flag.value == "false"


# --- how they reach the runtime ------------------------------------------------------------------


def test_flags_reach_the_runtime_and_the_users_win(monkeypatch):
    name, value = next(iter(tpu_flags.options("v5p").items()))
    everything = len(tpu_flags.options("v5p"))
    decodes = tpu_flags.options("v5p", program="decode")
    monkeypatch.setenv("LIBTPU_INIT_ARGS", f"--{name}=mine")
    assert name not in tpu_flags.options("v5p")  # nor does a dry run change it
    tpu_flags.set_init_args("v5p")
    options = os.environ["LIBTPU_INIT_ARGS"].split()
    assert f"--{name}=mine" in options
    assert f"--{name}={value}" not in options
    assert len(options) == everything
    tpu_flags.set_init_args("v5p")  # once more changes nothing
    assert os.environ["LIBTPU_INIT_ARGS"].split() == options
    # What it has set is not taken for the user's.
    del decodes[name]
    assert tpu_flags.options("v5p", program="decode") == decodes


CHIP = types.SimpleNamespace(device_kind="TPU v5")


def test_a_programs_own_options_reach_its_compilation_and_the_users_win(
    file, monkeypatch
):
    monkeypatch.setattr(tpu_flags, "installed_libtpu", lambda: "0.0.50.1")
    monkeypatch.setattr(tpu_flags, "_check_names", lambda flags, kind: None)
    own = {"xla_everywhere": "false", "xla_small": "8"}
    assert tpu_flags.own_options("decode", CHIP) == own
    assert tpu_flags.own_options("update", CHIP) == {}
    tpu_flags.set_init_args("v5p")
    assert os.environ["LIBTPU_INIT_ARGS"] == "--xla_everywhere=true --xla_new=auto"
    assert tpu_flags.own_options("decode", CHIP) == own
    # The user's own values, of an option for all and of one of this program alone.
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_everywhere=maybe --xla_small=9")
    tpu_flags.set_init_args("v5p")
    assert tpu_flags.own_options("decode", CHIP) == {}
    assert tpu_flags.options("v5p", program="decode") == {"xla_new": "auto"}


def test_only_a_tpu_has_options():
    assert tpu_flags.own_options("decode", jax.devices()[0]) == {}


@pytest.mark.parametrize(
    "accelerator, kind",
    [("v5litepod-8", "v5e"), ("v5p-256", "v5p"), ("v6e-8", "v6e"), ("v4-8", "")],
)
def test_the_environment_names_the_chip(monkeypatch, accelerator, kind):
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", accelerator)
    assert tpu_flags.kind_of_this_machine() == kind


def test_a_name_that_the_library_does_not_have_is_refused_with_its_line(
    file, tmp_path, monkeypatch
):
    library = tmp_path / "libtpu.so"
    library.write_bytes(b"\x7fELF..xla_everywhere\0xla_small\0xla_new_and_longer\0")
    monkeypatch.setenv("TPU_LIBRARY_PATH", str(library))
    with pytest.raises(ValueError, match="tpu_flags.txt, line 6: xla_new = auto is"):
        tpu_flags.set_init_args("v5p")
    library.write_bytes(b"\x7fELF..xla_everywhere\0and xla_new\0")
    with pytest.raises(ValueError, match="line 8: xla_small = 8 is"):  # of a program
        tpu_flags.set_init_args("v5p")
    library.write_bytes(b"\x7fELF..xla_everywhere\0xla_small\0and xla_new\0")
    tpu_flags.set_init_args("v5p")


def test_a_library_that_is_not_there_is_passed_over(tmp_path, monkeypatch):
    expected = tpu_flags.installed_libtpu()
    monkeypatch.setenv("TPU_LIBRARY_PATH", str(tmp_path / "libtpu.so"))
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "")
    tpu_flags.set_init_args("v5p")
    assert tpu_flags.installed_libtpu() == expected


def test_a_compiler_that_is_too_old_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0.17.1")
    with pytest.raises(ValueError, match="libtpu 0.0.17.1 is too old, 0.0.42.1 is"):
        tpu_flags.options("v5p")


REFUSALS = [  # what compilers say, and the line of FILE that it is about
    ("INVALID_ARGUMENT: No such compile option: 'xla_new'", 6),
    (
        "INVALID_ARGUMENT: Failed to parse 'auto' into flag xla_new: Valid options ...",
        6,
    ),
    (
        "FAILED_PRECONDITION: ... is enabled on platform viperfish ... not supported on platforms "
        "other than TPU v5e. Please set xla_everywhere=false",
        3,
    ),
]


@pytest.mark.parametrize("message, line", REFUSALS)
def test_what_a_compiler_refuses_is_named_with_its_line(
    file, monkeypatch, message, line
):
    monkeypatch.setattr(tpu_flags, "installed_libtpu", lambda: "0.0.50.1")
    log = f"Traceback ...\njax.errors.JaxRuntimeError: {message}\n"
    sentence = tpu_flags.refused_flag(log, "v5p")
    assert f"tpu_flags.txt, line {line}: xla_" in sentence
    assert message in sentence
    assert "\n" not in sentence
    # Line 7 has another value of the option of line 3, for decode.
    if line == 3:
        assert "line 7" in tpu_flags.refused_flag(log, "v5p", "decode")
    assert tpu_flags.refused_flag("RESOURCE_EXHAUSTED: ... xla_new", "v5p") is None
