"""The connection to Ray: to a cluster that runs, or to a small one of our own; and how to tell that it is lost."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import secrets
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from sspruning.errors import MachineError, UsageError
from sspruning.execution.signals import undisturbed

__all__ = ["RaySession", "require_ray"]

log = logging.getLogger(__name__)

ANSWER_WITHIN_S = 5.0
CHECK_EVERY_S = 5.0
LOST_AFTER_S = 15.0  # without an answer of the head; Ray itself ends this process after a minute
OBJECT_STORE_BYTES = 100 << 20  # outcomes are small, and a container may have little shared memory
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_NUM_REDIS_GET_RETRIES": "5",  # tries of one second: how long a head that refuses is asked
}
"""Read by Ray when it is imported; what the user has set counts, but for the first."""
SHOWN_CHARS = 200
TOKEN_FILE = Path(".ray", "auth_token")


def require_ray() -> None:
    """Raise unless the package is there; imports nothing.

    Raises:
        MachineError: with the command that installs it.
    """
    if importlib.util.find_spec("ray") is None:
        raise MachineError("executor 'ray': the package ray is not installed; pip install 'sspruning[ray]'")


class RaySession:
    """A connected Ray, which `close` leaves; one that was started here ends then.

    Where the program has connected to Ray before, that connection is used and left alone.
    """

    def __init__(self, address: str | None, workers: int | None) -> None:
        """Connect. Cost: 3 seconds to start Ray on this machine.

        Args:
            address: HOST:PORT of a head; auto for the cluster that runs on this machine; local for a new one, on this
                machine alone; None for auto if there is one, else local.
            workers: that a new one is to have room for; None for as many as there are cores.

        Raises:
            UsageError: not an address.
            MachineError: nobody answers there, or Ray cannot be used; says what to do.
        """
        require_ray()
        _prepare()
        import ray

        self.ray: Any = ray
        self.ours = not ray.is_initialized()
        if self.ours:
            self._connect(address, workers)
        context = ray.get_runtime_context()
        self._head, self._node = context.gcs_address, context.get_node_id()
        self._checked = time.monotonic()
        self._silent_since: float | None = None

    def _connect(self, address: str | None, workers: int | None) -> None:
        _keep_quiet()
        head = _head(address)
        options: dict[str, Any] = {}
        if head is None:
            options = {"num_cpus": workers, "object_store_memory": OBJECT_STORE_BYTES}
            if not _has_token():  # Ray would make one and leave it in HOME, where others may read it
                os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        else:
            _show_token()
        stopped = False
        try:
            with undisturbed():  # Ray sets a handler of its own
                try:
                    self.ray.init(
                        head or "local",
                        include_dashboard=False,
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                        **options,
                    )
                except SystemExit:  # what that handler does
                    stopped = True
        except Exception as error:
            self.close()  # whatever of it has started
            raise MachineError(_refused(head, error)) from error
        if stopped:
            signal.raise_signal(signal.SIGTERM)

    def check(self, *, now: bool = False) -> None:
        """Look, every few seconds, whether the cluster is still there.

        Args:
            now: look at once.

        Raises:
            MachineError: the head does not answer, or the cluster has lost this machine.
        """
        if time.monotonic() - self._checked < CHECK_EVERY_S and not now:
            return
        self._checked = now_s = time.monotonic()
        if not _answers(self._head):
            self._silent_since = self._silent_since or now_s
            if now_s - self._silent_since >= LOST_AFTER_S:
                raise MachineError(
                    f"Ray's head {self._head} does not answer any more; see that it runs, or use --executor local, "
                    "and run the same command again, it goes on from here"
                )
            return
        self._silent_since = None
        if not any(node["NodeID"] == self._node and node["Alive"] for node in self.ray.nodes()):
            raise MachineError(
                "Ray's process on this machine (raylet) has died, and the workers with it (out of memory?); start it "
                "again, or use --executor local, and run the same command again, it goes on from here"
            )

    def close(self) -> None:
        """Leave."""
        if self.ours:
            with undisturbed():
                self.ray.shutdown()


def _prepare() -> None:
    """Tell Ray, before it is imported, what it only asks the environment."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


def _show_token() -> None:
    """Let Ray show a token that is there: by itself it does so only where it also found the address by itself."""
    with suppress(ImportError, AttributeError):  # of a version without tokens
        setup: Any = importlib.import_module("ray._private.authentication.authentication_token_setup")
        setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def _has_token() -> bool:
    """True if a Ray that is started here would find a token to ask for."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return True
    return (Path("~").expanduser() / TOKEN_FILE).exists()


def _keep_quiet() -> None:
    """Ray prints what becomes of nodes and workers on standard output; outcomes tell it here, and the log."""
    worker: Any = importlib.import_module("ray._private.worker")
    logging.getLogger("ray").setLevel(logging.ERROR)

    def note(data: dict[str, Any], **_: object) -> None:
        log.info("ray: %s", " ".join(map(str, data.get("lines", ()))))

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = note


def _head(address: str | None) -> str | None:
    """HOST:PORT of the head to connect to; None to start a new one."""
    services: Any = importlib.import_module("ray._private.services")
    if address is not None and "://" in address:
        raise UsageError(f"--ray-address {address!r}: expected HOST:PORT of the head, such as 10.0.0.1:6379, or auto")
    try:
        head = services.canonicalize_bootstrap_address(address)
        if head is None or _answers(head):
            return head
    except ValueError as error:
        raise UsageError(f"--ray-address {address!r}: expected HOST:PORT, such as 10.0.0.1:6379, or auto") from error
    except ConnectionError as error:
        raise MachineError(
            "no Ray runs on this machine; start one with `ray start --head`, or leave --ray-address out"
        ) from error
    if address is None and not os.environ.get("RAY_ADDRESS"):
        return None  # Ray's note of a cluster that is gone
    raise MachineError(_refused(head, ConnectionError(f"no answer within {ANSWER_WITHIN_S:.0f} s")))


def _answers(address: str) -> bool:
    """True if somebody listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), ANSWER_WITHIN_S):
            return True
    except OSError:
        return False


def _refused(head: str | None, error: Exception) -> str:
    """Why there is no Ray, and what to do."""
    reasons = [str(found).strip().splitlines() for found in (error, error.__cause__) if found is not None]
    words = "; ".join(lines[-1][:SHOWN_CHARS] for lines in reasons if lines)
    if head is None:
        return f"Ray could not be started on this machine ({words}); use --executor local, or see to that"
    return (
        f"no connection to Ray at {head} ({words}). The head must be reachable, this machine must be one of its nodes "
        f"(`ray start --address={head}`), with the same versions of Ray and Python, and RAY_AUTH_TOKEN or "
        f"~/{TOKEN_FILE} must hold the cluster's token. Or use --executor local"
    )
