"""The plan of the house: floors, no cycles, no drawers, one place for autograd Functions, public words documented."""

import ast
import enum
import importlib
import inspect
import runpy
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]

# A module imports from lower floors, or from its own floor as long as no cycle arises.
FLOORS = {
    "types": 0,
    "_tree": 0,
    "_records": 0,
    "errors": 0,
    "_capture": 0,
    "modes": 0,
    "compiled": 0,
    "graph": 0,
    "problem": 1,
    "solution": 1,
    "causes": 1,
    "failures": 1,
    "residuals": 1,
    "operators": 2,
    "linear": 3,
    "solvers": 4,
    "implicit": 5,
    "forward": 5,
    "linearise": 5,
    "unsolved": 5,
    "tape": 5,
    "on_demand": 5,
    "eager": 6,
    "truncated": 6,
    "transformed": 6,
    "unrolled": 6,
    "adjoints": 6,
    "layer": 7,
    "layers": 8,
    "verify": 9,
}
ROOF = max(FLOORS.values()) + 1  # implayer/__init__.py, which shows the public words

# The only packages that may be imported inside a function: slow to import, or of an extra that may be absent.
LAZY = {
    "implayer": {"hypothesis", "scipy", "cvxpy", "clarabel", "scs", "daqp", "trimesh"},
    "applications": {"matplotlib", "PIL", "skimage", "sklearn", "soundfile", "av", "trimesh"}
    | {
        "kaolin",
        "torchdeq",
        "torchopt",
        "jax",
        "jaxopt",
        "optimistix",
        "xitorch",
        "qpth",
        "proxsuite",
        "cvxpy",
        "cvxpylayers",
    },
}
DRAWERS = {"utils", "util", "misc", "registry", "settings", "helpers", "common"}
MAX_LINES = 400


def sources(package: str) -> list[Path]:
    """All Python files of a package."""
    return sorted((ROOT / package).rglob("*.py"))


def dotted(path: Path) -> str:
    """The name under which a file is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def resolve(node: ast.Import | ast.ImportFrom, path: Path) -> Iterator[str]:
    """Absolute dotted names that an import statement names; `from a import b` gives a.b where that is a module."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        package = dotted(path).split(".")
        package = package if path.name == "__init__.py" else package[:-1]
        package = package[: len(package) - node.level + 1]
        base = ".".join([*package, base] if base else package)
    for alias in node.names:
        inner = f"{base}.{alias.name}"
        yield inner if is_module(inner) else base


def is_module(name: str) -> bool:
    """Whether a dotted name is a file or folder of ours."""
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def imports(path: Path) -> Iterator[str]:
    """Every import of a file, wherever it stands, except those for type checkers alone."""
    skipped = {
        inner
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import | ast.ImportFrom) and node not in skipped:
            yield from resolve(node, path)


def floor(module: str) -> int:
    """Floor of a module of implayer."""
    parts = module.split(".")
    if len(parts) == 1:
        return ROOF
    assert parts[1] in FLOORS, f"`{module}` has no floor: give it one in tests/test_architecture.py"
    return FLOORS[parts[1]]


def graph() -> dict[str, set[str]]:
    """Who imports whom inside implayer."""
    return {
        dotted(path): {name for name in imports(path) if name.split(".")[0] == "implayer"} - {dotted(path)}
        for path in sources("implayer")
    }


def test_imports_point_down():
    upward = [
        f"{module} (floor {floor(module)}) imports {name} (floor {floor(name)})"
        for module, names in graph().items()
        for name in names
        if floor(name) > floor(module)
    ]
    assert not upward, "\n".join(upward)


def test_no_import_cycle():
    edges = graph()
    state: dict[str, int] = {}

    def visit(module: str, trail: list[str]) -> None:
        state[module] = 1
        for name in sorted(edges.get(module, ())):
            assert state.get(name) != 1, "import cycle: " + " -> ".join([*trail, module, name])
            if name not in state:
                visit(name, [*trail, module])
        state[module] = 2

    for module in sorted(edges):
        if module not in state:
            visit(module, [])


@pytest.mark.parametrize("package", ["implayer", "applications"])
def test_no_import_inside_a_function(package: str):
    found = []
    for path in sources(package):
        if path.parent == ROOT / "applications":  # the command line imports a command only when it is called
            continue
        for function in ast.walk(parsed(path)):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    names = [name for name in resolve(node, path) if name.split(".")[0] not in LAZY[package]]
                    found += [f"{dotted(path)}:{node.lineno} imports {name} in `{function.name}`" for name in names]
    assert not found, "\n".join(found)


def test_implayer_does_not_know_the_applications():
    guilty = [dotted(path) for path in sources("implayer") for name in imports(path) if name.startswith("applications")]
    assert not guilty


def test_applications_do_not_import_each_other():
    found = []
    for path in sources("applications"):
        parts = path.relative_to(ROOT).parts
        if len(parts) == 2:  # applications/__main__.py and its neighbours bring the applications together
            continue
        if parts[1] == "bench":  # it measures them
            continue
        allowed = {"shared", parts[1]}
        for name in imports(path):
            other = name.split(".")
            if other[0] == "applications" and len(other) > 1 and other[1] not in allowed:
                found.append(f"{dotted(path)} imports {name}")
    assert not found, "\n".join(found)


def test_no_drawers():
    drawers = [
        str(path.relative_to(ROOT))
        for package in ("implayer", "applications", "tests")
        for path in sources(package)
        if path.stem.strip("_") in DRAWERS or DRAWERS & set(path.relative_to(ROOT).parts)
    ]
    assert not drawers


def test_autograd_functions_live_in_one_file():
    found = set()
    for path in [*sources("implayer"), *sources("applications")]:
        aliases = {
            alias.asname or alias.name
            for node in ast.walk(parsed(path))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch.autograd")
            for alias in node.names
            if alias.name in ("Function", "InplaceFunction")
        }
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ClassDef):
                bases = [ast.unparse(base) for base in node.bases]
                if any(
                    base in aliases or base.endswith(("autograd.Function", "autograd.function.Function"))
                    for base in bases
                ):
                    found.add(dotted(path))
    assert found <= {"implayer.implicit", "applications.bench.systems"}, sorted(
        found
    )  # the latter: what ours is timed beside


def test_files_are_short():
    long = [
        f"{path.relative_to(ROOT)}: {count} lines"
        for package in ("implayer", "applications")
        for path in sources(package)
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > MAX_LINES
    ]
    assert not long, "\n".join(long)


def test_no_postponed_annotations():
    """Postponed annotations would hide the shapes from the test run."""
    guilty = [dotted(path) for path in sources("implayer") if "__future__" in imports(path)]
    assert not guilty


@pytest.fixture(scope="module")
def reference() -> dict:
    """The module that writes docs/reference."""
    return runpy.run_path(str(ROOT / "docs" / "_ext" / "reference_pages.py"))


def test_public_words_exist():
    implayer = importlib.import_module("implayer")
    assert implayer.__all__, "`implayer.__all__` is empty"
    assert len(set(implayer.__all__)) == len(implayer.__all__)
    missing = [name for name in implayer.__all__ if not hasattr(implayer, name)]
    assert not missing


def test_public_words_have_a_docstring(reference: dict):
    bare = []
    for name, word in reference["words"]().items():
        text = word.__doc__ or ""
        made_by_dataclass = inspect.isclass(word) and text.startswith(f"{word.__name__}(")
        made_by_enum = inspect.isclass(word) and issubclass(word, enum.Enum) and text == enum.Enum.__doc__
        if not text.strip() or made_by_dataclass or made_by_enum:
            bare.append(name)
    assert not bare


def test_public_words_are_in_the_reference(reference: dict):
    pages = "\n".join(reference["pages"]().values())
    implayer = importlib.import_module("implayer")
    missing = [
        name
        for name in implayer.__all__
        if not isinstance(getattr(implayer, name), ModuleType) and f"## {name}\n" not in pages
    ]
    assert not missing


def test_reference_leaves_no_address(reference: dict):
    """A memory address in a signature would change with every build."""
    assert " at 0x" not in "\n".join(reference["pages"]().values())


def test_import_is_light():
    """`import implayer` brings in neither Hypothesis nor CVXPY nor anything of the applications."""
    heavy = ("hypothesis", "cvxpy", "matplotlib", "applications")
    code = f"import sys, implayer; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
