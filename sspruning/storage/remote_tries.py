"""Questions to a remote store, asked again as long as that may help, and what its errors mean.

What may pass by itself (a cut connection, a timeout, HTTP 408, 429 and 5xx) is tried again after growing pauses. What a
server says is not repeated in messages: it may quote what it was sent.
"""

from __future__ import annotations

import errno
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, TypeVar

from sspruning.errors import MachineError, UsageError
from sspruning.storage.urls import HTTP, PACKAGES, shown

__all__ = ["NoAnswerError", "answer"]

Answer = TypeVar("Answer")

PAUSES_S = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # between tries, each longer or shorter by up to a half
CONNECT_S, SILENCE_S = 10, 30  # until a server is reached, and between two pieces of an answer
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # HTTP statuses that another try may not meet
PASSING_ERRORS = frozenset(
    {
        "ClientConnectionError",
        "ClientPayloadError",
        "HTTPClientError",
        "ConnectionError",
        "FSTimeoutError",
        "TimeoutError",
        "IncompleteRead",
        "IncompleteReadError",
        "ResponseParserError",
        "Timeout",
        "ChunkedEncodingError",
        "TransportError",
        "RemoteProtocolError",
    }
)
REFUSED_ERRORS = frozenset(
    {
        "NoCredentialsError",
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "TokenRetrievalError",
        "SSOTokenLoadError",
        "UnauthorizedSSOTokenError",
        "ProfileNotFound",
        "DefaultCredentialsError",
        "RefreshError",
        "GatedRepoError",
    }
)
LOST_UPLOAD = "NoSuchUpload"


class NoAnswerError(MachineError):
    """No use in another try. ``problem`` says why, without the URL; ``status`` is that of HTTP, or 0."""

    def __init__(self, url: str, problem: str, status: int = 0) -> None:
        super().__init__(f"{shown(url)}: {problem}; see to the network, then run the same command again")
        self.url, self.problem, self.status = url, problem, status

    def __reduce__(self) -> tuple[type[NoAnswerError], tuple[str, str, int]]:
        """Keep all three parts when the error crosses a process boundary."""
        return type(self), (self.url, self.problem, self.status)


def answer(url: str, ask: Callable[[Any, str], Answer], *, writes: bool = False) -> Answer:
    """What ``ask(filesystem, path)`` returns, tried again as long as that may help.

    Raises:
        FileNotFoundError: there is no such object.
        MachineError: access is refused, no answer, or a package is missing.
    """
    scheme = url.partition("://")[0]
    fs = _filesystem(scheme, writes, os.getpid())
    path = url if scheme in HTTP else fs._strip_protocol(url)
    for tried, pause in enumerate([*PAUSES_S, None], 1):
        try:
            return ask(fs, path)
        except (UsageError, MachineError):
            raise
        except Exception as error:  # each backend raises what its own libraries do
            problem = _judged(url, error, tried, last=pause is None)
            if problem is not None:
                raise problem from error
        time.sleep((pause or 0) * random.uniform(0.5, 1.5))  # noqa: S311 - so that workers do not ask in step
    raise AssertionError  # the last try returns or raises


def _judged(url: str, error: Exception, tried: int, *, last: bool) -> Exception | None:
    """The error to raise for a failed try; None if there is to be another one."""
    status = next((status for one in _chain(error) if (status := _status(one))), 0)
    kinds = {kind.__name__ for one in _chain(error) for kind in type(one).__mro__}
    if status in {401, 403} or kinds & REFUSED_ERRORS or (isinstance(error, PermissionError) and not status):
        return MachineError(
            f"{shown(url)}: access refused ({_reason(error, status)}); check the credentials in the environment and "
            "what they allow (some stores say the same of an object that does not exist)"
        )
    lost = LOST_UPLOAD in kinds  # its last answer was, or it took too long; the object may be there or not
    if (status in {404, 410} and not lost) or (
        isinstance(error, FileNotFoundError) and not status and not lost and not kinds & PASSING_ERRORS
    ):
        return FileNotFoundError(errno.ENOENT, "no such object", shown(url))
    passing = lost or status in PASSING or bool(kinds & PASSING_ERRORS)
    if passing and not last:
        return None
    tries = f" in {tried} tries" if passing else ""
    return NoAnswerError(url, f"no answer{tries}: {_reason(error, status)}", status)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it was made from."""
    one: BaseException | None = error
    for _ in range(10):
        if one is None:
            return
        yield one
        one = one.__cause__ or one.__context__


def _status(error: BaseException) -> int:
    """HTTP status that an error of aiohttp, botocore, gcsfs or huggingface_hub carries; 0 if none."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    own = "code" if type(error).__module__.startswith("gcsfs") else "status"
    value = getattr(error, own, None) or getattr(response, "status_code", None)
    return int(value) if isinstance(value, int | str) and re.fullmatch(r"[1-5]\d\d", str(value)) else 0


def _reason(error: BaseException, status: int) -> str:
    """A failure in words that hold no part of an answer, a header or a URL."""
    return f"HTTP {status}" if status else type(error).__name__


@lru_cache(maxsize=16)
def _filesystem(scheme: str, writes: bool, pid: int) -> Any:  # noqa: ARG001, FBT001 - pid: not to be shared after a fork
    """The backend of a scheme; one for reading, where `answer` alone tries again, and one for writing in parts."""
    try:
        import fsspec

        made = fsspec.get_filesystem_class(scheme)
        options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
        if scheme in HTTP:
            import aiohttp

            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
            options["client_kwargs"] = {"timeout": timeout, "trust_env": True}
            options["headers"] = {"Accept-Encoding": "identity"}
        fs = made(**options)
    except ImportError as error:
        raise MachineError(f"{scheme}:// needs another package: pip install {PACKAGES[scheme]}") from error
    if scheme == "s3" and not writes:
        fs.retries = 1
        fs.config_kwargs = {**fs.config_kwargs, "retries": {"total_max_attempts": 1, "mode": "standard"}}
    return fs
