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
        choose_k,
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
        sweep,
        verify,
        write,
    )
    from sspruning.config import Config
    from sspruning.exchange import decontaminate, export, import_embeddings
    from sspruning.loader import filtered
    from sspruning.loading.pruned import webdataset
    from sspruning.stages.report import report
    from sspruning.stages.show import show
    from sspruning.storage.store import Store

__version__ = "0.1.0"

__all__ = [
    "Config",
    "Store",
    "__version__",
    "advise",
    "choose_k",
    "cluster",
    "decontaminate",
    "embed",
    "export",
    "filtered",
    "import_embeddings",
    "inspect",
    "load",
    "pack",
    "plan",
    "prune",
    "report",
    "score",
    "select",
    "show",
    "status",
    "sweep",
    "verify",
    "webdataset",
    "write",
]

_HOME = {
    "Config": "sspruning.config",
    "Store": "sspruning.storage.store",
    "decontaminate": "sspruning.exchange",
    "export": "sspruning.exchange",
    "import_embeddings": "sspruning.exchange",
    "filtered": "sspruning.loader",
    "report": "sspruning.stages.report",
    "show": "sspruning.stages.show",
    "webdataset": "sspruning.loading.pruned",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'sspruning' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME.get(name, "sspruning.api")), name)
