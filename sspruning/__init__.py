"""sspruning: prune unlabeled image corpora before pretraining.

Shards in, smaller shards out: embed, cluster, score, select, write. Importing this package loads neither torch nor
faiss; names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sspruning.api import (
        advise,
        cluster,
        embed,
        inspect,
        load,
        pack,
        plan,
        prune,
        score,
        select,
        status,
        verify,
        write,
    )
    from sspruning.config import Config
    from sspruning.storage.store import Store

__version__ = "0.1.0"

__all__ = [
    "Config",
    "Store",
    "__version__",
    "advise",
    "cluster",
    "embed",
    "inspect",
    "load",
    "pack",
    "plan",
    "prune",
    "score",
    "select",
    "status",
    "verify",
    "write",
]

_HOME = {"Config": "sspruning.config", "Store": "sspruning.storage.store"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'sspruning' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME.get(name, "sspruning.api")), name)
