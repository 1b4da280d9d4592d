import subprocess
import sys
from types import ModuleType

import pytest

from sspruning.clusterers import CLUSTERERS
from sspruning.encoders import ENCODERS
from sspruning.errors import UsageError
from sspruning.execution import EXECUTORS
from sspruning.filters import FILTERS
from sspruning.metrics import METRICS
from sspruning.policies import POLICIES, PRUNED_REASON
from sspruning.registry import Registry

TABLES = {table.family: table for table in (CLUSTERERS, ENCODERS, EXECUTORS, FILTERS, METRICS, POLICIES)}
ENTRIES = [(family, name) for family in sorted(TABLES) for name in sorted(TABLES[family])]
ROOMS = {
    "clusterer": "clusterers",
    "encoder": "encoders",
    "executor": "execution",
    "filter": "filters",
    "metric": "metrics",
    "policy": "policies",
}


@pytest.mark.parametrize(("family", "name"), ENTRIES)
def test_every_entry_of_every_table_leads_to_something_that_can_be_called(family, name):
    assert callable(TABLES[family].resolve(name))


@pytest.mark.parametrize(("family", "name"), ENTRIES)
def test_every_implementation_stands_in_a_file_of_its_own_room(family, name):
    module, _, attribute = TABLES[family][name].partition(":")
    assert module.startswith(f"sspruning.{ROOMS[family]}.")
    assert attribute


def test_every_policy_names_the_reason_of_what_it_drops():
    assert set(PRUNED_REASON) == set(POLICIES)


@pytest.mark.parametrize(
    ("wrong", "meant"), [("colour", "color"), ("Color", "color"), ("siez", "size"), ("xyzzy", None), ("", None)]
)
def test_an_unknown_name_is_refused_with_the_nearest_and_all_known(wrong, meant):
    table = Registry("fruit property", {"size": "m:size", "color": "m:color"})
    with pytest.raises(UsageError) as caught:
        table.resolve(wrong)
    hint = f" Did you mean {meant!r}?" if meant else ""
    assert str(caught.value) == f"unknown fruit property {wrong!r}.{hint} Known: color, size."


def test_a_table_can_be_listed_and_resolves_only_what_is_asked_for():
    table = Registry("number", {"pi": "math:pi", "gone": "no_such_module:x"})
    assert (sorted(table), len(table), table["pi"], "pi" in table) == (["gone", "pi"], 2, "math:pi", True)
    assert 3 < table.resolve("pi") < 4
    with pytest.raises(ModuleNotFoundError):
        table.resolve("gone")


@pytest.fixture
def fruits(monkeypatch):
    """A table with one entry that has options and one that has none."""

    def apple(tree, *, ripeness=0.5, seeds=5, color="red", peeled=False, origin=None):
        pass

    def pear(tree):
        pass

    module = ModuleType("an_orchard")
    module.apple, module.pear = apple, pear
    monkeypatch.setitem(sys.modules, "an_orchard", module)
    return Registry("fruit", {"apple": "an_orchard:apple", "pear": "an_orchard:pear"})


def test_options_are_the_arguments_that_have_a_default(fruits):
    assert fruits.options("apple") == {"ripeness": 0.5, "seeds": 5, "color": "red", "peeled": False, "origin": None}
    assert fruits.options("pear") == {}


def test_options_of_an_unknown_name_are_refused(fruits):
    for ask in (fruits.options, lambda name: fruits.check_options(name, {})):
        with pytest.raises(UsageError, match=r"unknown fruit 'aple'\. Did you mean 'apple'\?"):
            ask("aple")


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"ripeness": 0.9, "seeds": 0, "color": "", "peeled": True},
        {"ripeness": 1},
        {"origin": None},
        {"origin": "here"},
        {"origin": 3},
    ],
    ids=str,
)
def test_known_options_of_the_right_type_pass(fruits, given):
    fruits.check_options("apple", given)


@pytest.mark.parametrize(
    ("given", "kind", "default"),
    [
        ({"ripeness": "0.9"}, "float", "0.5"),
        ({"ripeness": None}, "float", "0.5"),
        ({"ripeness": True}, "float", "0.5"),
        ({"seeds": 5.0}, "int", "5"),
        ({"seeds": True}, "int", "5"),
        ({"seeds": [5]}, "int", "5"),
        ({"color": 1}, "str", "'red'"),
        ({"peeled": 1}, "bool", "False"),
        ({"peeled": "no"}, "bool", "False"),
    ],
    ids=str,
)
def test_an_option_of_another_type_is_refused_with_the_type_and_an_example(fruits, given, kind, default):
    ((option, value),) = given.items()
    with pytest.raises(UsageError) as caught:
        fruits.check_options("apple", {"origin": "here", **given})
    assert str(caught.value) == f"fruit 'apple': option {option!r} is a {kind} such as {default}; got {value!r}"


@pytest.mark.parametrize(("wrong", "meant"), [("ripenes", "ripeness"), ("colour", "color"), ("xyzzy", None)])
def test_an_unknown_option_is_refused_with_the_nearest_and_all_known(fruits, wrong, meant):
    with pytest.raises(UsageError) as caught:
        fruits.check_options("apple", {"seeds": 3, wrong: 1})
    hint = f" Did you mean {meant!r}?" if meant else ""
    known = "ripeness=0.5, seeds=5, color=red, peeled=False, origin=None"
    assert str(caught.value) == f"fruit 'apple' has no option {wrong!r}.{hint} Known, with defaults: {known}."


def test_an_implementation_without_options_says_so(fruits):
    with pytest.raises(UsageError, match=r"'pear' has no option 'seeds'\. Known, with defaults: none\."):
        fruits.check_options("pear", {"seeds": 3})


def test_listing_the_tables_imports_no_heavy_library():
    code = (
        "import sys\n"
        "import sspruning.metrics, sspruning.policies, sspruning.clusterers, sspruning.execution, sspruning.encoders\n"
        "print(sorted({'torch', 'timm', 'faiss', 'pebble', 'h5py', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")
