"""The law of the house: imports point downward, nothing goes in a circle, nothing grows too large.

Room: a folder of the package, or a module that lies directly in it.
"""

import ast
from pathlib import Path

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "r1v3_jax"

# A room may import rooms of the lines above it in this list, and none of its own line.
FLOORS = [
    "files literals sharding types losses",
    "fields",
    "rewards",
    "config checksums slices",
    "models processing",
    "data hf run sampling tasks",
    "benchmarks cli engine rollout",
    "distill evaluate train",
    "report stages",
    "pipeline tpu",
    "arms launch serve",
    "chat",
]
FLOOR = {room: i for i, rooms in enumerate(FLOORS) for room in rooms.split()}

LOOSE_MODULES = 10
LINES_OF_A_FUNCTION = 80
LINES_OF_A_FILE = 550
LINES_OF_A_TEST_FILE = 500


def modules() -> dict[str, ast.Module]:
    """Returns the modules of the package, parsed: {"models.qwen2": tree, "models": tree, ...}."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        if name:
            found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


MODULES = modules()


def imports(module: str) -> set[str]:
    """Returns the modules of the package that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are written whole"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("r1v3_jax."):
                found.add(module_of(name.removeprefix("r1v3_jax.")))
    return found - {module}


def module_of(name: str) -> str:
    """Returns the module that holds a name: "models.qwen2" of "models.qwen2.Qwen2"."""
    while name not in MODULES:
        name, dot, _ = name.rpartition(".")
        assert dot, name
    return name


def room(module: str) -> str:
    return module.partition(".")[0]


def test_every_room_has_a_floor():
    assert {room(module) for module in MODULES} == set(FLOOR)


def test_imports_point_downward():
    wrong = [
        f"{module} may not import {other}"
        for module in MODULES
        for other in imports(module)
        if room(module) != room(other) and FLOOR[room(other)] >= FLOOR[room(module)]
    ]
    assert not wrong, "\n".join(wrong)


def test_no_room_imports_in_a_circle():
    """What can be imported first is taken away, until nothing is left."""
    left = {
        module: {other for other in imports(module) if room(other) == room(module)}
        for module in MODULES
    }
    while ready := {
        module for module, needs in left.items() if not needs & left.keys()
    }:
        left = {module: needs for module, needs in left.items() if module not in ready}
    assert not left, f"these import each other: {sorted(left)}"


def test_few_modules_lie_outside_the_rooms():
    loose = sorted(path.name for path in PACKAGE.glob("*.py"))
    loose.remove("__init__.py")
    assert len(loose) <= LOOSE_MODULES, loose


def test_no_function_is_too_long():
    long = [
        f"{module}.{node.name}: {lines} lines"
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := node.end_lineno - node.lineno + 1) > LINES_OF_A_FUNCTION
    ]
    assert not long, "\n".join(long)


def test_no_file_is_too_long():
    limits = {PACKAGE: LINES_OF_A_FILE, TESTS: LINES_OF_A_TEST_FILE}
    long = [
        f"{path}: {lines} lines"
        for folder, limit in limits.items()
        for path in folder.rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > limit
    ]
    assert not long, "\n".join(long)


def test_torch_is_never_imported_at_run_time():
    for module, tree in MODULES.items():
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            roots = {name.partition(".")[0] for name in names}
            assert not roots & {"torch", "tensorflow"}, module
