"""What README and docs name is there: commands, flags, configs, fields, links, paths, code.

A path is the project's, and has to exist, if it begins with a folder of the repository, if it is a
module of a room as ROOM/FILE.py, or if it is the bare name of a Python file or shell script. Any
other path (runs/, checkpoints/, WORKDIR/, ...) is on a reader's machine; so is a Python file that a
block of code gives a name to in its first line, `# mine.py`.
"""

import ast
import functools
import importlib.util
import json
import re
import shlex
import subprocess

import pages
import pytest

from r1v3_jax.config import Run, list_configs, load_arms, load_config
from r1v3_jax.config.load import split_arm
from r1v3_jax.data import records, schemas
from r1v3_jax.launch import check_names
from r1v3_jax.rewards.verifiers.boxes import unboxed
from r1v3_jax.rewards.verify import check_gold, verify

ROOT = pages.ROOT
PAGES = {page.name: page for page in map(pages.read, pages.PAGES)}
PYTHON = [
    (f"{name}:{block.line}", block)
    for name, page in PAGES.items()
    for block in page.blocks
    if block.language == "python"
]
COMMANDS = sorted(
    {(name, line) for name, page in PAGES.items() for line in page.commands}
)
THEIRS = {  # Python files that a reader writes
    match[1]
    for _, block in PYTHON
    if (match := re.match(r"# ([\w./]+\.py)", block.text))
}
PLACEHOLDERS = {
    "NAME": "digits",
    **dict.fromkeys(THEIRS, "tpu_v5e_8"),
}  # configs by another name
FOLDERS = ("r1v3_jax", "configs", "launch", "tools", "tests", "docs")
# Columns of tables whose names are not the project's, or not any more.
FOREIGN = ("old", "theirs", "TRL", "verl", "EasyR1")
SECTIONS = (
    "grpo",
    "cold_start",
    "connector",
    "evaluate",
    "verify",
    "checkpoints",
    "health",
    "data",
)


# Commands


@functools.cache
def flags_of(path) -> dict[str, list[str] | None]:
    """{flag: its choices, or None} of a Python program, read from its text.

    A program in a folder has the flags of all modules there that are not programs themselves.
    """
    if path.name == "__main__.py":
        modules = [module for module in path.parent.glob("*.py") if module != path]
        texts = {module: module.read_text(encoding="utf-8") for module in modules}
        parts = [
            flags_of(module)
            for module, text in texts.items()
            if "if __name__" not in text
        ]
    else:
        parts = []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {name: choices for part in parts for name, choices in part.items()}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        function = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        if function.startswith("DEFINE_") and isinstance(call.args[0], ast.Constant):
            name, choices = call.args[0].value, None
            if function == "DEFINE_enum" and isinstance(call.args[2], ast.List):
                choices = [element.value for element in call.args[2].elts]
            found[name] = choices
            if function == "DEFINE_bool":
                found[f"no{name}"] = None
        elif function == "add_argument":
            found[call.args[0].value.lstrip("-")] = None
        elif function.startswith("define_"):
            found |= shared_flags()[function]
    return found


@functools.cache
def shared_flags() -> dict[str, dict]:
    """The flags that functions `define_*` of the package make for several commands."""
    out = {}
    for path in (ROOT / "r1v3_jax").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "def define_" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("define_"):
                calls = [c for c in ast.walk(node) if isinstance(c, ast.Call)]
                names = [
                    c
                    for c in calls
                    if getattr(c.func, "attr", "").startswith("DEFINE_")
                ]
                out[node.name] = {c.args[0].value: None for c in names}
    return out


def program(words: list[str]):
    """(the file that a command `python ...` runs, its arguments)."""
    if words[1] == "-m":
        spec = importlib.util.find_spec(words[2])
        assert spec is not None, f"no module {words[2]}"
        if spec.submodule_search_locations:
            spec = importlib.util.find_spec(f"{words[2]}.__main__")
            assert spec is not None, f"{words[2]} cannot be run"
        return pages.Path(spec.origin), words[3:]
    path = ROOT / words[1]
    path = path / "__main__.py" if path.is_dir() else path
    assert path.is_file(), f"no program {words[1]}"
    return path, words[2:]


def check_python(words: list[str]) -> None:
    """The program, its flags, its config and the fields of that config exist."""
    path, arguments = program(words)
    known, given = flags_of(path), [word for word in arguments if word.startswith("--")]
    config = next(
        (word.partition("=")[2] for word in given if word.startswith("--config=")), None
    )
    if config is not None:
        file, arm = split_arm(config)
        assert file in PLACEHOLDERS or file in list_configs(), f"no config {file}"
        assert not arm or arm in load_arms(file), f"{file} has no arm {arm}"
    for word in given:
        name, _, value = word[2:].partition("=")
        if name.startswith("config."):
            base = load_config(PLACEHOLDERS.get(config, config or "digits"))
            check_names(base, [word])
        elif name != "config" or "launch" not in path.name:
            assert name in known, f"{path.name} has no flag --{name}"
            choices = known[name]
            assert choices is None or value in choices, (
                f"--{name}={value}: it has {choices}"
            )


def check_bash(words: list[str]) -> None:
    """The script exists and names its options."""
    path = ROOT / words[1]
    assert path.is_file(), f"no script {words[1]}"
    text = path.read_text(encoding="utf-8")
    if path.name == "run.sh" and path.parent.name == "tests":
        text += (ROOT / "tests/conftest.py").read_text(encoding="utf-8")
        options = [word for word in words[2:] if word.startswith("--")]
        assert all(
            ROOT.joinpath(w).exists() for w in words[2:] if w.startswith("tests/")
        )
    elif path.name in ("local.sh", "two_process.sh"):
        check_python(["python", "-m", "r1v3_jax.launch", *with_config(words[2:])])
        return
    else:
        text += (ROOT / "launch/arguments.sh").read_text(encoding="utf-8")
        options = words[2 : words.index("--") if "--" in words else None]
        options = [word for word in options if word.startswith("--")]
    for option in options:
        name = option.partition("=")[0]
        assert name in text or name[2:] in re.split(r"\W+", text), (
            f"{words[1]} has no {name}"
        )


def with_config(words: list[str]) -> list[str]:
    words = [word for word in words if word.startswith("--")]
    return (
        words
        if any(w.startswith("--config=") for w in words)
        else ["--config=digits", *words]
    )


@pytest.mark.parametrize("page, line", COMMANDS, ids=lambda text: text[:60])
def test_a_command_can_be_typed(page, line):
    """Proves: its program, flags, configs, fields and files exist."""
    words = [
        word for word in shlex.split(line, comments=True) if word not in ("...,", "...")
    ]
    while re.match(r"[A-Z_]+=", words[0]):
        del words[0]
    if words[0] == "python":
        check_python(words)
    elif words[0] == "bash":
        check_bash(words)
    elif words[0] == "source":
        assert words[1].startswith(".venv/") or (ROOT / words[1]).is_file()
    elif words[:2] == ["pip", "install"]:
        extras = re.findall(r"\[(\w+)\]", line)
        assert all(
            f'"{extra}": ' in (ROOT / "setup.py").read_text() for extra in extras
        )


@pytest.mark.parametrize("name", PAGES)
def test_a_block_of_commands_is_bash(name):
    """Proves: bash reads every block of commands of a page."""
    for block in PAGES[name].blocks:
        if block.is_commands:
            result = subprocess.run(
                ["bash", "-n"], input=block.text, capture_output=True, text=True
            )
            assert result.returncode == 0, f"{name}:{block.line}: {result.stderr}"


@pytest.mark.parametrize("name", PAGES)
def test_fields_of_a_config_exist(name):
    """Proves: each `--config.a.b=...` and each `grpo.field` in the text is a field."""
    field = rf"({'|'.join(SECTIONS)}|compute)(\.[a-z_]+)+(=[\w.]+)?"
    for code in set(PAGES[name].inline) - old_cells(PAGES[name]):
        words = [word for word in code.split() if word.startswith("--config.")]
        if re.fullmatch(field, code) and not code.endswith(".py"):
            words.append(f"--config.{code}")
        for word in words:
            if word == "--config.a.b":  # stands for any
                continue
            rows = ".path" in word or ".schema" in word  # of a source that reads files
            check_names(load_config("tpu_v5e_8" if rows else "digits"), [word])


def old_cells(page) -> set[str]:
    """What tables have in columns of old or foreign names: it need not be there."""
    cells = {
        cell
        for table in pages.tables(page)
        for row in table
        for header, cell in zip(table[0], row, strict=True)
        if header in FOREIGN
    }
    return {code for cell in cells for code in re.findall(r"`([^`]+)`", cell)}


@functools.cache
def all_flags() -> set[str]:
    """Flags of every program of the project, and what its scripts read."""
    commands = [ROOT / "r1v3_jax/launch.py"]
    commands += [
        ROOT / f"r1v3_jax/{x}/__main__.py" for x in ("evaluate", "serve", "chat")
    ]
    programs = [*(ROOT / "tools").rglob("*.py"), *commands]
    found = {name for path in programs for name in flags_of(path)}
    for path in (ROOT / "tests/run.sh", ROOT / "tests/conftest.py"):
        found |= set(re.findall(r"--([a-z_]+)", path.read_text(encoding="utf-8")))
    return found


@pytest.mark.parametrize("name", [n for n in PAGES if not n.startswith("launch/")])
def test_flags_in_the_text_exist(name):
    """Proves: a flag named by itself between backticks is one of some program of ours."""
    for code in PAGES[name].inline:
        for flag in re.findall(r"^--([a-z_]+)(?![\w.])", code):
            assert flag in {"config", *all_flags()}, f"{name}: --{flag}"


# Code


@pytest.mark.parametrize(
    "block", [b for _, b in PYTHON], ids=[name for name, _ in PYTHON]
)
def test_python_runs(block, monkeypatch, tmp_path):
    """Proves: imports, attributes and calls of a block of Python exist; each is cheap."""
    monkeypatch.chdir(tmp_path)
    for module in imported(block.text):
        assert importlib.util.find_spec(module) is not None, module
    variables = {"__name__": "docs"}
    monkeypatch.chdir(ROOT)  # configs are found from here
    exec(compile(block.text, "docs", "exec"), variables)
    if "--config=mine.py" in block.text:
        assert isinstance(variables["config"], Run)


def imported(text: str) -> list[str]:
    nodes = ast.walk(ast.parse(text))
    return [
        node.module
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module
    ]


def test_attributes_that_python_blocks_name_are_there():
    """Proves: `hf.load` and the like exist, also inside functions that are not called."""
    for name, block in PYTHON:
        tree = ast.parse(block.text)
        modules = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "r1v3_jax":
                for alias in node.names:
                    modules[alias.name] = importlib.import_module(
                        f"r1v3_jax.{alias.name}"
                    )
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.value.id in modules:
                    assert hasattr(modules[node.value.id], node.attr), (
                        f"{name}: {node.attr}"
                    )


def test_json_is_json():
    """Proves: every row of data in the pages can be read."""
    for page in PAGES.values():
        for block in page.blocks:
            if block.language == "json":
                assert all(json.loads(line) for line in block.text.splitlines())


def test_rows_of_each_schema_are_recognised():
    """Proves: the row that docs/own_data.md shows for a schema is a good row of that schema."""
    text = (ROOT / "docs/own_data.md").read_text(encoding="utf-8")
    shown = dict(
        re.findall(r"\*\*`(\w+)`\*\*[^\n]*\n(?:[^\n]+\n)*\n```json\n(.+)\n```", text)
    )
    assert shown.keys() == schemas.SCHEMAS.keys()
    for schema, line in shown.items():
        record = json.loads(line)
        assert schemas.recognise(record) == schema
        records.check(records.canonical(record))


def test_verifiers_accept_and_refuse_what_the_tables_say():
    """Proves: each row of the tables of answers in docs/rewards.md, by the verifier itself."""
    rows = []
    for table in pages.tables(PAGES["docs/rewards.md"]):
        if table[0] == ["verifier", "reference", "accepted", "refused"]:
            rows += table[1:]
    assert len(rows) > 25
    for row in rows:
        verifier, answer, accepted, refused = (cell.strip("`") for cell in row)
        for text, verdict in ((accepted, "right"), (refused, "wrong")):
            # Several boxes are written out.
            summary = text if r"\boxed" in text else rf"\boxed{{{text}}}"
            check = verify(f"so\n</think>\n{summary}", answer, verifier=verifier)
            got = check.verdict.value
            assert got == verdict, (verifier, answer, text, check.reason)


def test_reference_answers_are_what_the_table_says():
    """Proves: each row of the table of references in docs/rewards.md."""
    [rows] = (
        table[1:]
        for table in pages.tables(PAGES["docs/rewards.md"])
        if table[0] == ["verifier", "answer", "reference"]
    )
    for row in rows:
        verifier, answer, reference = (cell.strip("`") for cell in row)
        gold = unboxed(answer, verifier)
        if reference == "left out":
            assert check_gold(gold, verifier), answer
        else:
            assert gold == reference and check_gold(gold, verifier) is None, answer


# Links and paths


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    """Proves: the file of each link and picture exists, and so does its heading."""
    page = PAGES[name]
    for target in page.links:
        path, _, anchor = target.partition("#")
        file = (page.path.parent / path).resolve() if path else page.path
        assert file.exists(), f"{name}: {target}"
        if anchor:
            assert anchor in pages.read(file).anchors, f"{name}: {target}"


@pytest.mark.parametrize("name", PAGES)
def test_paths_exist(name):
    """Proves: each path of the project between backticks is there."""
    files = {path.name for folder in FOLDERS for path in (ROOT / folder).rglob("*.*")}
    files |= {path.name for path in ROOT.iterdir()}
    rooms = {path.name for path in (ROOT / "r1v3_jax").iterdir() if path.is_dir()}
    old = old_cells(PAGES[name])
    for code in PAGES[name].inline:
        word = code.split()[0]
        if word in old or word in THEIRS or not re.fullmatch(r"[\w./-]+", word):
            continue
        first = word.partition("/")[0]
        if "/" in word and first in FOLDERS and not re.search(r"[A-Z]{3}", word):
            assert (ROOT / word).exists(), f"{name}: {word}"
        elif "/" in word and first in rooms and word.endswith(".py"):
            assert (ROOT / "r1v3_jax" / word).exists(), f"{name}: {word}"
        elif re.fullmatch(r"\w+\.(py|sh)", word):
            assert word in files, f"{name}: {word}"


def test_modules_in_drawings_exist():
    """Proves: a module that a drawing of docs/architecture.md names is there."""
    text = "".join(block.text for block in PAGES["docs/architecture.md"].blocks)
    named = set(re.findall(r"\w+/\w+\.py", text))
    assert named and all((ROOT / "r1v3_jax" / name).is_file() for name in named)


def test_tree_of_the_readme_is_the_tree():
    """Proves: the rooms that the README lists are those of the package, no more and no fewer."""
    block = next(
        b for b in PAGES["README.md"].blocks if b.text.startswith("r1v3_jax/\n")
    )
    listed = set(re.findall(r"^  (?:[\w]+\.py )*(\w+)/ ", block.text, re.MULTILINE))
    rooms = {path.parent.name for path in (ROOT / "r1v3_jax").glob("*/*.py")}
    assert listed == rooms
    for file in re.findall(r"^  (.+\.py)", block.text, re.MULTILINE):
        assert all(
            (ROOT / "r1v3_jax" / part).is_file()
            for part in file.split()
            if ".py" in part
        )


def test_floors_of_the_docs_are_the_law():
    """Proves: docs/architecture.md shows the list that tests/test_imports.py holds."""
    tree = ast.parse((ROOT / "tests/test_imports.py").read_text(encoding="utf-8"))
    assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
    floors = next(node for node in assigned if node.targets[0].id == "FLOORS")
    shown = next(
        b for b in PAGES["docs/architecture.md"].blocks if "sharding types" in b.text
    )
    assert shown.text.splitlines() == ast.literal_eval(floors.value)


def test_readme_has_its_limits():
    """Proves: the README stays a README; the rest is in docs."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 220
    assert len(text.split()) <= 2500
    assert any(line.startswith("![") for line in text.splitlines()[:10])


def test_readme_links_every_page():
    """Proves: no page of docs is lost."""
    linked = {target.partition("#")[0] for target in PAGES["README.md"].links}
    assert {
        str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")
    } <= linked


def test_figures_of_results_have_their_command():
    """Proves: each page of results has a date and a command beside its figures."""
    for name, page in PAGES.items():
        if name.startswith("docs/results/"):
            assert re.search(r"2026-\d\d-\d\d", page.prose), name
            assert page.commands, name
