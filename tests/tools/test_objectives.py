"""The comparison of objectives: processor time is measured, and a run that fails says where its log is."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "tools" / "prove"))

import objectives


def test_the_time_is_that_of_the_processor_not_of_the_clock(tmp_path):
    burn = "import time\nstart = time.process_time()\nwhile time.process_time() - start < 0.3: pass\ntime.sleep(0.5)"
    seconds = objectives.timed([sys.executable, "-c", burn], tmp_path / "log")

    assert 0.3 <= seconds < 0.75


def test_a_command_that_fails_names_its_log(tmp_path):
    with pytest.raises(SystemExit, match=r"exit 3; see .*the\.log"):
        objectives.timed([sys.executable, "-c", "print('why'); raise SystemExit(3)"], tmp_path / "the.log")
    assert (tmp_path / "the.log").read_text() == "why\n"


def test_the_objectives_are_those_of_the_pretraining_tool():
    text = (Path(__file__).parents[2] / "tools" / "pretrain" / "objectives.py").read_text(encoding="utf-8")
    assert [name for name in objectives.OBJECTIVES if f'"{name}"' not in text] == []
