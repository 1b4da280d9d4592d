"""A process that has everything loaded and does nothing but fork: each child runs one verb of the command line.

A test process that has used OpenMP or started threads cannot be forked safely; this one never computes anything.
Reads a line of JSON for each request on standard input, and writes one for each answer on standard output.
"""

import contextlib
import gc
import json
import os
import resource
import select
import signal
import sys
import tempfile
import traceback
from pathlib import Path

import faiss
import pyarrow.parquet
import typer
from shim import Shim

import sspruning.api
import sspruning.exchange
import sspruning.stages.embed_shard
import sspruning.stages.report
import sspruning.stages.score
import sspruning.stages.write_shard
from sspruning.cli import app
from sspruning.encoders.pixels import PixelEncoder
from sspruning.execution import worker
from sspruning.filters import FILTERS
from sspruning.metrics import METRICS
from sspruning.policies import POLICIES
from sspruning.progress import ConsoleProgress
from sspruning.trainers import TRAINERS

COMMAND = typer.main.get_command(app)  # making it takes longer than most verbs
DEADLINE_S = 120
LOADED = (faiss, pyarrow.parquet, sspruning.exchange, PixelEncoder, ConsoleProgress)


def work(request, told):
    """Run the verb of a request; its report goes to the file ``told``."""
    code, shim = 70, Shim(request["root"], request["at"], request["fault"], request["lasting"])
    worker.PAUSES_S = (0, 0)
    try:
        os.chdir(request["cwd"])
        if request["file_size"] is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"], resource.RLIM_INFINITY))
        if request["shimmed"]:
            shim.install()
        COMMAND(request["args"], prog_name="sspruning")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:  # noqa: BLE001 - what nobody caught is what the test looks for
        traceback.print_exc()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    report = json.dumps({"calls": shim.calls, "elsewhere": sorted(shim.elsewhere)}).encode()
    while report:
        report = report[os.write(told, report) :]
    os._exit(code)


def child(request, out, told):
    """Number of a new process that works on a request."""
    number = os.fork()
    if number:
        return number
    for descriptor in (1, 2):
        os.dup2(out, descriptor)
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        work(request, told)
    finally:
        os._exit(71)  # never back into the loop of the nursery


def serve(request):
    """What became of a request: exit code (negative: signal; None: it did not end), output, and what the shim saw."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as told:
        number = child(request, out.fileno(), told.fileno())
        ended = os.pidfd_open(number)
        ready, _, _ = select.select([ended], [], [], DEADLINE_S)
        os.close(ended)
        if not ready:
            os.kill(number, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
        out.seek(0)
        told.seek(0)
        report = json.loads(told.read() or '{"calls": null, "elsewhere": null}')
        return {"code": code if ready else None, "output": out.read(), **report}


def main():
    """Answer requests until standard input ends."""
    faiss.omp_set_num_threads(1)
    pyarrow.array(["what pyarrow loads at its first array"])
    for table in (FILTERS, METRICS, POLICIES, TRAINERS):
        for name in table:
            table.resolve(name)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    gc.freeze()
    for line in sys.stdin:
        answers.write(json.dumps(serve(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
