"""Workers of the stages that come to grief at one of their tasks. Imported by name in worker processes.

The environment says what happens: FAULTY is JSON with ``stage``; ``task``, the shard that brings it about; ``do``, the
name of a function here; ``times``, how often; and ``mark``, a file that gets a letter each time.
"""

import importlib
import json
import os
import signal
import time
from pathlib import Path

from sspruning.stages.embed_shard import EmbedWorker
from sspruning.stages.score import AssignWorker
from sspruning.stages.write_shard import ShardWriter
from sspruning.storage import atomic

FOREVER_S = 600


def die():
    """The process ends in the middle of a task."""
    os.kill(os.getpid(), signal.SIGKILL)


def hang():
    """The task never ends."""
    time.sleep(FOREVER_S)


def wait():
    """The task waits until its mark is removed."""
    while Path(plan()["mark"]).exists():
        time.sleep(0.01)


def die_while_writing():
    """The process ends when half of a file is written."""
    _write_half_then(die)


def hang_while_writing():
    """Half of a file is written, and then nothing more happens."""
    _write_half_then(hang)


def _write_half_then(act):
    def write_half(descriptor, data):
        os.write(descriptor, memoryview(data)[: len(data) // 2])
        Path(plan()["mark"] + ".half").touch()
        act()

    atomic._write_all = write_half


def plan():
    """What FAULTY says."""
    return json.loads(os.environ["FAULTY"])


def use_faulty_workers(stage, put=setattr):
    """Let a stage have its workers from here; ``put`` is how."""
    put(importlib.import_module(f"sspruning.stages.{stage}"), "WORKER", f"faults.faulty_workers:{stage}")


def _faulty(real):
    def build(**kwargs):
        worker = real(**kwargs)

        def work(payload):
            given = plan()
            shard = {payload.get("shard_id"), payload.get("name"), payload.get("shard", {}).get("shard_id")}
            if given["task"] in shard:
                mark = Path(given["mark"])
                with mark.open("a") as stream:
                    stream.write("x")
                if len(mark.read_text()) <= given["times"]:
                    globals()[given["do"]]()
            return worker(payload)

        return work

    return build


embed, score, write = _faulty(EmbedWorker), _faulty(AssignWorker), _faulty(ShardWriter)
