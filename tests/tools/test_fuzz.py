"""The fuzz targets hold for their own seeds, and a broken promise stops them; atheris itself is not needed here."""

import sys
import types
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "tools" / "fuzz"


class NoInstruments:
    """In place of atheris' import hook."""

    def __enter__(self):
        return self

    def __exit__(self, *details):
        return None


@pytest.fixture
def target(monkeypatch):
    """Return ``target(name)``: a target as a module, with a stand-in for atheris."""
    fake = types.ModuleType("atheris")
    fake.instrument_imports = lambda include: NoInstruments()
    fake.Mutate = lambda data, size: bytes(reversed(data))[:size]
    monkeypatch.setitem(sys.modules, "atheris", fake)
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("seeds", "fuzz_tar_scan", "fuzz_store"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return __import__


def test_sound_archives_are_samples_and_changed_ones_errors_or_samples(target):
    fuzz, seeds = target("fuzz_tar_scan"), target("seeds")
    for seed in seeds.archives():
        assert fuzz.check(seed) == "samples"
        assert fuzz.check(seed[:-1024]) == "error"
        changed = bytearray(seed)
        changed[100] = ord("7")  # the mode, which decides nothing; but the checksum is wrong now
        if len(seed) > 1024:
            assert (fuzz.check(bytes(changed)), fuzz.check(fuzz.mended(bytes(changed)))) == ("error", "samples")
        fuzz.both(bytes(changed))


def test_sound_parts_are_columns_and_changed_ones_errors_or_columns(target):
    fuzz, seeds = target("fuzz_store"), target("seeds")
    for seed in seeds.parts():
        assert fuzz.check(seed) == "columns"
        assert fuzz.check(seed[:-1]) == "error"
    assert {fuzz.check(fuzz.rebuilt(b"", 1 << 20, number)) for number in range(60)} == {"columns", "error"}


def test_a_promise_that_is_broken_stops_the_fuzzer(target, monkeypatch):
    fuzz = target("fuzz_tar_scan")
    monkeypatch.setattr(fuzz, "ShardError", KeyError)
    monkeypatch.setattr(fuzz.ShardReader, "samples", lambda self: iter(()))
    with pytest.raises(AssertionError, match="every byte was seen once"):
        fuzz.check(b"x" * 600)
