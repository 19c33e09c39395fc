"""What a run refuses before it touches a device, and what the package never does."""

import dataclasses
import json
import random
import re
import shutil
import sys
import time
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_dict, config_flags

from r1v3_jax import files, launch
from r1v3_jax.config import Run, load_config
from r1v3_jax.fields import flatten_fields
from r1v3_jax.files import write_json
from r1v3_jax.losses import Truncated
from r1v3_jax.pipeline import preflight, start
from r1v3_jax.run import checkpoints

PACKAGE = Path(__file__).parent.parent.parent / "r1v3_jax"
replace = dataclasses.replace


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """The workdir of a digits run whose GRPO was begun."""
    workdir = tmp_path_factory.mktemp("guards") / "run"
    config = load_config("digits_smoke")
    (workdir / "tokenizer").mkdir(parents=True)
    start.write_tokenizer(config, workdir / "tokenizer")
    (workdir / "grpo").mkdir()
    write_json(workdir / "run.json", preflight.identity(config, workdir))
    return workdir


def text(config: Run, **changes) -> Run:
    return replace(
        config, model=replace(config.model, text=replace(config.model.text, **changes))
    )


def grpo(config: Run, **changes) -> Run:
    return config.with_stages(grpo=replace(config.stages["grpo"], **changes))


OTHERS = {
    "vocabulary": (
        lambda c: text(c, vocab_size=124),
        "model.text.vocab_size is 123 there and 124",
    ),
    "layers": (lambda c: text(c, layers=4), "model.text.layers is 3 there and 4"),
    "width": (lambda c: text(c, embed=256), "model.text.embed is 128 there and 256"),
    "rope": (
        lambda c: text(c, rope_theta=1e6),
        "model.text.rope_theta is 10000.0 there",
    ),
    "image token": (
        lambda c: replace(c, model=replace(c.model, image_token_id=9)),
        r"model.image_token_id is \d+ there and 9",
    ),
    "dtype": (
        lambda c: replace(c, compute=replace(c.compute, dtype="bfloat16")),
        "compute.dtype is 'float32' there and 'bfloat16'",
    ),
    "stored dtype": (
        lambda c: replace(c, compute=replace(c.compute, param_dtype="bfloat16")),
        "compute.param_dtype is 'float32' there and 'bfloat16'",
    ),
    "seed": (lambda c: replace(c, seed=7), "seed is 0 there and 7"),
    "what learns": (
        lambda c: grpo(c, trainable="connector"),
        "grpo.trainable is 'all' there",
    ),
    "learning rate": (
        lambda c: grpo(c, optimizer=replace(c.stages["grpo"].optimizer, lr=1e-3)),
        "grpo.optimizer.lr is 0.0002 there and 0.001",
    ),
    "group size": (lambda c: grpo(c, group_size=8), "grpo.group_size is 4 there and 8"),
}


def test_another_run_is_refused_by_its_fields(begun, tmp_path, shows):
    config = load_config("digits_smoke")
    preflight.check_workdir(config, begun)  # the same one goes on
    preflight.check_workdir(
        grpo(config, checkpoint_every=7, accumulate=2, slots=8), begun
    )
    preflight.check_workdir(replace(config, mesh=(2, 1, 1)), begun)
    refused = 0
    for name, (change, message) in OTHERS.items():
        with pytest.raises(ValueError, match=message) as raised:
            preflight.check_workdir(change(config), begun)
        assert str(raised.value).count(" there and ") == 1, (name, str(raised.value))
        refused += 1
    finished = tmp_path / "finished"
    shutil.copytree(begun, finished)
    (finished / "grpo" / "done").mkdir()
    evaluate = replace(config.evaluate, probe_questions=4)
    preflight.check_workdir(
        replace(grpo(config, prompts=8, tiles=8), evaluate=evaluate), finished
    )
    with pytest.raises(
        ValueError, match="grpo.evaluate.probe_questions is 8 there and 4 here"
    ):
        preflight.check_workdir(replace(config, evaluate=evaluate), begun)
    older = tmp_path / "older"  # of a version that wrote algorithms by name
    shutil.copytree(begun, older)
    fields = json.loads((older / "run.json").read_text())
    fields = {k: v for k, v in fields.items() if not k.startswith("grpo.aggregation")}
    fields |= {"grpo.aggregation": "'token'", "grpo.clip_high": "0.28"}
    (older / "run.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="started by an older version"):
        preflight.check_workdir(config, older)
    other = tmp_path / "run"
    shutil.copytree(begun, other)
    settings = files.read_json(other / "tokenizer" / "tokenizer.json")
    files.write_json(
        other / "tokenizer" / "tokenizer.json", {**settings, "version": "9"}
    )
    with pytest.raises(
        ValueError, match="tokenizer is [0-9a-f]+ there and [0-9a-f]+ here"
    ):
        preflight.check_workdir(config, other)
    renamed = files.read_json(begun / "run.json")
    renamed["grpo.group_count"] = renamed.pop("grpo.group_size")
    with pytest.raises(
        ValueError, match="grpo.group_count is 4 there and missing here"
    ):
        checkpoints.check_same("run.json", renamed, preflight.identity(config, begun))
    shows("12 mismatches refused by field", refused + 2, 13, refused + 2 == 13)


def test_how_often_it_saves_may_change_unless_rollouts_are_begun_ahead():
    """None is begun across a save, so a save more is another run."""
    config = load_config("digits_smoke")
    ahead = grpo(config, off_policy_steps=1, correction=Truncated(2.0))
    found = ["grpo.checkpoint_every" in run.identity("grpo") for run in (config, ahead)]
    assert found == [False, True]


def fields(config) -> list[tuple[str, str]]:
    return [(name, value) for name, value in flatten_fields(config, "config").items()]


def mutations(chance: random.Random, count: int):
    """(argument, the key it is about) of overrides that nobody should get away with."""
    named = fields(load_config("digits"))
    numbers = [n for n, v in named if re.fullmatch(r"-?[0-9.e+-]+", v)]
    numbers = [
        n for n in numbers if n[-2:] not in ("b1", "b2", "lr")
    ]  # too short to be told apart
    choices = [
        n for n, v in named if v[0] == "'" and n.endswith(("schedule", "remat", "norm"))
    ]
    positive = [n for n in numbers if n.endswith((".steps", ".embed", ".layers"))]
    for _ in range(count):
        kind = chance.choice(["typo", "typo", "type", "range", "choice", "mesh"])
        if kind == "typo":
            name = chance.choice(numbers)
            at = chance.randrange(name.rindex(".") + 1, len(name))
            broken = name[:at] + chance.choice("qxz") + name[at + chance.randrange(2) :]
            yield f"--{broken}=1", name.rpartition(".")[2]
        elif kind == "type":
            name = chance.choice(numbers)
            yield f"--{name}={chance.choice(['many', 'None', '[1]', '1..5'])}", name
        elif kind == "range":
            name = chance.choice(positive)
            yield f"--{name}={chance.choice(['-1', '-7'])}", name.rpartition(".")[2]
        elif kind == "choice":
            name = chance.choice(choices)
            yield f"--{name}=sometimes", name.rpartition(".")[2]
        else:
            shape = chance.choice(
                ["(0, 1, 1)", "(7, 1, 1)", "(1, 5, 1)", "(1, 1, 3)", "(1, 1)"]
            )
            yield f"--config.mesh={shape}", "mesh"


def refusal(base: Run, argument: str) -> str:
    """Returns what the launcher's own parts say of an override of `base`; "" if nothing."""
    values = flags.FlagValues()
    try:
        launch.check_names(base, [argument])
        flag = config_flags.DEFINE_config_dict(
            "config", launch.thaw(base), flag_values=values
        )
        values(["launch", argument])
        config = launch.freeze(base, flag.value)
        preflight.check(config)
    except (ValueError, OSError, AttributeError, flags.Error) as error:
        return " ".join(str(error).split())
    return ""


def test_mutated_overrides_are_refused(shows, monkeypatch):
    # A flag writes its default down as text, in 40 ms; it is the same text every time.
    monkeypatch.setattr(config_dict.ConfigDict, "__str__", lambda self: "the config")
    base = load_config("digits")
    accepted, unnamed, slowest = [], [], 0.0
    for argument, key in mutations(random.Random(0), 1000):
        monkeypatch.setattr(
            sys, "argv", ["launch", argument]
        )  # read when the flag is defined
        began = time.monotonic()
        said = refusal(base, argument)
        slowest = max(slowest, time.monotonic() - began)
        if not said:
            accepted.append(argument)
        elif key not in said:
            unnamed.append((argument, said))
    shows("30 1,000 bad overrides: accepted", accepted[:5], [], not accepted)
    shows(
        "30 ... that do not name the key or the nearest", unnamed[:3], [], not unnamed
    )
    shows("30 ... slowest, s", f"{slowest:.2f}", 5, slowest < 5)


FORBIDDEN = r"""
pickle\.load | (?<![.\w])eval\( | (?<![.\w])exec\( | yaml\.load\( | trust_remote_code\s*=\s*True |
shell\s*=\s*True | allow_pickle\s*=\s*True | \bparse_expr\b | \bsympify\b | os\.system |
marshal\.load | \bdill\b
"""


def test_the_package_executes_nothing_it_reads(shows):
    pattern = re.compile("".join(FORBIDDEN.split()))
    assert pattern.search("x = eval(text)") and pattern.search(
        "load(trust_remote_code = True)"
    )
    found = [
        f"{path.name}:{number}: {line.strip()}"
        for folder in (PACKAGE, PACKAGE.parent / "configs", PACKAGE.parent / "tools")
        for path in sorted(folder.rglob("*.py"))
        if "peers" not in path.parts
        for number, line in enumerate(
            path.read_text(encoding="utf-8").splitlines(), start=1
        )
        if pattern.search(line)
    ]
    shows(
        "29 pickle, eval, exec, shell, remote code in the package", found, [], not found
    )


def test_the_environment_is_never_printed_or_written():
    """Tokens live there."""
    for path in PACKAGE.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert not re.search(
            r"(print|log\w*\.\w+|write_json)\([^)]*os\.environ\b", source
        ), path
        assert "HF_TOKEN" not in source, path
