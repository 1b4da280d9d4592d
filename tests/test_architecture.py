"""Who may import whom, how long a file may be, and what an import costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sspruning"
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(path.relative_to(PACKAGE)) for path in FILES]

FAMILIES = {"encoders", "clusterers", "metrics", "filters", "policies", "trainers"}
NOUNS = {"errors", "records"}
MAY_IMPORT = {
    "errors": set(),
    "records": {"errors"},
    "registry": {"errors"},
    "recipes": set(),
    "strict_yaml": {"errors"},
    "sections": NOUNS | {"recipes", "trainers"},
    "config": NOUNS | {"sections", "strict_yaml", "execution"},
    "fingerprint": NOUNS,
    "progress": NOUNS,
    "trackers": {"errors", "progress"},
    "stopping": {"errors"},
    "execution": NOUNS | {"registry"},
    **{family: NOUNS | {"registry"} for family in FAMILIES},
    "filters": NOUNS | {"registry", "clusterers", "metrics"},
    "policies": NOUNS | {"registry", "clusterers", "metrics"},
    "storage": NOUNS | {"fingerprint"},
    "loading": NOUNS | {"storage"},
    "loader": NOUNS | {"storage", "loading"},
    "reporting": NOUNS,
    "stages": NOUNS | FAMILIES | {"registry", "config", "fingerprint", "progress", "execution", "storage", "reporting"},
}
TERMINAL = {"options", "terminal", "terminal_json", "terminal_tables"}
VERBS = {"cli_choose", "cli_exchange", "cli_report", "cli_trainers"}
ABOVE = {"api", "exchange", "cli", "__init__", "__main__"} | VERBS | TERMINAL
MAY_IMPORT_CLI = {"__main__"}


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def room(path):
    """The part of the package that a file belongs to: a folder's name, or the file's own."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imported_rooms(path):
    """Rooms of sspruning that a file imports, at the top, inside functions and for type checkers alike."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import in line {node.lineno}"
            below = [f"sspruning.{alias.name}" for alias in node.names]
            modules = below if node.module == "sspruning" else [node.module]
        else:
            continue
        found |= {module.split(".")[1] for module in modules if module.startswith("sspruning.")}
    return found


def functions(path):
    """(name, first line, number of lines) of every function of a file, decorators apart."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree(path)):
        if isinstance(node, kinds):
            yield node.name, node.lineno, node.end_lineno - node.lineno + 1


def test_every_file_belongs_to_a_room_with_rules():
    assert {room(path) for path in FILES} == set(MAY_IMPORT) | ABOVE


@pytest.mark.parametrize("path", [path for path in FILES if room(path) in MAY_IMPORT], ids=str)
def test_rooms_import_only_what_lies_below_them(path):
    own = room(path)
    assert imported_rooms(path) - MAY_IMPORT[own] - {own} == set()


def test_nothing_imports_the_command_line():
    importers = {room(path) for path in FILES if "cli" in imported_rooms(path)}
    assert importers <= MAY_IMPORT_CLI
    assert {room(path) for path in FILES if VERBS & imported_rooms(path)} <= {"cli"}


def test_only_the_command_line_knows_its_options_and_its_terminal():
    importers = {room(path) for path in FILES if TERMINAL & imported_rooms(path)}
    assert importers <= {"cli"} | VERBS | TERMINAL


def test_no_rule_allows_a_circle():
    done = set()
    while pending := set(MAY_IMPORT) - done:
        free = {name for name in pending if MAY_IMPORT[name] <= done}
        assert free, pending
        done |= free


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_file_is_short_enough_to_be_read(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_function_is_short_enough_to_be_read(path):
    assert [f"{name} (line {line}): {length}" for name, line, length in functions(path) if length > 60] == []


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_file_says_what_it_is_for(path):
    assert ast.get_docstring(tree(path))


@pytest.mark.parametrize("path", [path for path in FILES if path.name != "__main__.py"], ids=str)
def test_a_module_lists_its_public_names_and_has_them(path):
    if path.name == "__init__.py" and all(isinstance(node, ast.Expr) for node in tree(path).body):
        return  # a folder's docstring and nothing else
    names = [
        ast.literal_eval(node.value)
        for node in tree(path).body
        if isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == ["__all__"]
    ]
    assert len(names) == 1, "one __all__ with literal names"
    assert len(set(names[0])) == len(names[0])
    if room(path) == "__init__":
        return  # these are loaded on demand
    defined = {getattr(node, "name", None) for node in tree(path).body}
    for node in tree(path).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            defined |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            defined |= {alias.asname or alias.name for alias in node.names}
    assert set(names[0]) <= defined


@pytest.mark.parametrize("path", [path for path in FILES if room(path) not in {"cli", *TERMINAL}], ids=str)
def test_the_library_prints_nothing(path):
    calls = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
    assert [call.lineno for call in calls if getattr(call.func, "id", "") == "print"] == []


def loaded_by(code):
    """Names of the top-level packages that running ``code`` in a new interpreter loads."""
    show = "import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\n{show}"], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    return set(result.stdout.split())


HEAVY = {"torch", "torchvision", "timm", "faiss", "h5py", "pyarrow", "webdataset", "matplotlib", "PIL", "numpy"}


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_by("import sspruning") & (HEAVY | {"pydantic", "yaml", "typer", "rich"}) == set()


def test_listing_the_tables_loads_no_implementation():
    code = (
        "import sspruning.encoders, sspruning.clusterers, sspruning.metrics, sspruning.policies, sspruning.execution\n"
        "names = [*sspruning.encoders.ENCODERS, *sspruning.clusterers.CLUSTERERS, *sspruning.metrics.METRICS]"
    )
    assert loaded_by(code) & {"torch", "timm", "faiss", "h5py", "pyarrow", "PIL", "pebble"} == set()


def test_the_command_line_starts_without_the_heavy_packages():
    assert loaded_by("import sspruning.cli") & {"torch", "timm", "faiss", "h5py", "pyarrow", "matplotlib"} == set()
