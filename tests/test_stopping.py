"""A signal ends a run wherever it is: also where Python drops exceptions, and where stopping itself hangs."""

import os
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer by signal")

VERB = """
import sys, time
from sspruning import stopping, terminal
stopping.ASK_AGAIN_S = 0.1

def dropping():  # as a callback of the garbage collector does with whatever is raised in it
    sys.unraisablehook = lambda _: None
    class Deaf:
        def __del__(self):
            print("ready", flush=True)
            time.sleep(60)
    Deaf()
    time.sleep(60)

def busy():
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        time.sleep(0.5)  # a stop that is on its way is not disturbed by another
        print("tidied", flush=True)

def swallowing():
    stopping.STOP_WITHIN_S = 0.5
    while True:
        try:
            print("ready", flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            pass

def twisting():  # as the import of a module in C may do
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        raise AttributeError("partially initialized module") from None

def hanging():
    stopping.STOP_WITHIN_S = 0.5
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        time.sleep(60)

def late():
    import atexit
    stopping.STOP_WITHIN_S = 1.5
    atexit.register(time.sleep, 60)
    busy()

def early():
    import sspruning.cli
    from sspruning.__main__ import main
    sspruning.cli.main = busy
    main()

if sys.argv[1] == "early":
    early()
terminal.settings.last = True
try:
    terminal.verb(globals()[sys.argv[1]])()
except terminal.typer.Exit as end:
    sys.exit(end.exit_code)
"""


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("busy", signal.SIGINT),
        ("busy", signal.SIGTERM),
        ("dropping", signal.SIGINT),
        ("swallowing", signal.SIGTERM),
        ("hanging", signal.SIGTERM),
        ("late", signal.SIGINT),
        ("twisting", signal.SIGTERM),
        ("early", signal.SIGINT),
    ],
)
def test_a_signal_ends_a_verb_with_the_code_that_says_run_again(name, number):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(
        [sys.executable, "-c", VERB, name], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, said = process.communicate(timeout=40)
    assert process.returncode == 4, said
    assert "run the same command again" in said
    if name in {"busy", "late"}:
        assert out == "tidied\n"


def test_handlers_are_as_before_after_a_block_that_is_not_the_last():
    from sspruning.stopping import Stopped, stoppable

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Stopped), stoppable(last=False):
        signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.getitimer(signal.ITIMER_REAL)[1] == 0
