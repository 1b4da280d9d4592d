"""Which URLs may name a shard, and how they are shown."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from sspruning.errors import UsageError

__all__ = ["HTTP", "PACKAGES", "check_url", "is_url", "shown"]

PACKAGES = {
    "s3": "'sspruning[remote]'",
    "https": "'sspruning[remote]'",
    "http": "'sspruning[remote]'",
    "gs": "'sspruning[remote]' gcsfs",
    "gcs": "'sspruning[remote]' gcsfs",
    "hf": "'sspruning[remote]' huggingface_hub",
}
"""What pip installs, by scheme."""
HTTP = ("http", "https")
LOCAL_HOSTS = ("localhost", "127.0.0.1")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def is_url(text: str) -> bool:
    """True if ``text`` names something behind a URL rather than a path; ``file://`` is a path."""
    found = _SCHEME.match(text)
    return found is not None and found[1].lower() != "file"


def shown(url: str) -> str:
    """``url`` as it may be shown: without user, password and query string."""
    scheme, separator, rest = url.partition("://")
    if scheme.lower() in HTTP:
        rest = rest.partition("?")[0]
    return f"{scheme}{separator}{rest.rpartition('@')[2] if _has_credentials(rest) else rest}"


def _has_credentials(rest: str) -> bool:
    """True if what follows ``://`` begins with credentials. A password may have slashes in it; a port is a number."""
    host = rest.partition("/")[0]
    return "@" in host or (":" in host and not host.partition(":")[2].isdigit())


def check_url(url: str) -> None:
    """Make sure that ``url`` may be used at all. Nothing is asked for yet.

    Raises:
        UsageError: another scheme, plain HTTP to another machine, credentials or a query string in it, or no name.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in PACKAGES:
        allowed = ", ".join(f"{name}://" for name in PACKAGES if name != "http")
        raise UsageError(f"{shown(url)}: {scheme}:// is not read; use {allowed} or a local path")
    if _has_credentials(rest):
        raise UsageError(
            f"{shown(url)}: the URL has credentials in it, which would end up in every artefact; "
            "take them out and set them in the environment"
        )
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError as error:
        raise UsageError(f"{shown(url)}: is no URL; brackets belong behind the bucket") from error
    if scheme in HTTP and (parts.query or parts.fragment):
        raise UsageError(
            f"{shown(url)}: a query string (a signed URL?) would end up in every artefact, and expires before later "
            "steps read the shard again; use s3://, gs:// or hf:// with credentials in the environment"
        )
    if scheme == "http" and host not in LOCAL_HOSTS:
        raise UsageError(f"{url}: http:// can be changed on its way and is read from this machine only; use https://")
    if not parts.netloc:
        raise UsageError(f"{url}: names no {'server' if scheme in HTTP else 'bucket'}")
