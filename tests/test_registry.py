import subprocess
import sys

import pytest

from sspruning.clusterers import CLUSTERERS
from sspruning.encoders import ENCODERS
from sspruning.errors import UsageError
from sspruning.execution import EXECUTORS
from sspruning.metrics import METRICS
from sspruning.policies import POLICIES, PRUNED_REASON
from sspruning.registry import Registry

TABLES = {table.family: table for table in (CLUSTERERS, ENCODERS, EXECUTORS, METRICS, POLICIES)}
ENTRIES = [(family, name) for family in sorted(TABLES) for name in sorted(TABLES[family])]
ROOMS = {
    "clusterer": "clusterers",
    "encoder": "encoders",
    "executor": "execution",
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


def test_listing_the_tables_imports_no_heavy_library():
    code = (
        "import sys\n"
        "import sspruning.metrics, sspruning.policies, sspruning.clusterers, sspruning.execution, sspruning.encoders\n"
        "print(sorted({'torch', 'timm', 'faiss', 'pebble', 'h5py', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")
