"""A small corpus whose keys, captions and file names try to become markup, code or hidden text."""

import runpy
from pathlib import Path
from types import SimpleNamespace

from sspruning.config import load_config

SMALL = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "e2e" / "small_corpora.py")))
KEYS = [
    "<img src=x onerror=alert(1)>",
    'a" onmouseover="alert(2)" x="',
    "b</button></ul><script>window.pwned=1</script>",
    "c'--><svg onload=alert(3)>",
    "d\u202egpj\u2066exe",
    "e\x07\x1b[31m",
    "f{{7*7}}{%x%}",
    "g&lt;b&gt;",
    "h\u200bi",
    "z" + "\u0301" * 30,
    "long" * 120,
    "عربي",
    "new\nline",
]
CAPTION = '<script>window.pwned=1</script> "quoted" & \u202ereversed'


def quick(*overrides):
    """Return a configuration that takes no time: pixels for embeddings, four prototypes, one process."""
    given = ["encoder.name=pixels", "cluster.n_clusters=4", "execution.executor=inline", "select.keep_fraction=0.7"]
    return load_config(None, [*given, *overrides])


def hostile_corpus(folder, count=40):
    """Write two shards with hostile keys, captions, a copy of an image and samples that cannot be read."""
    content = SMALL.samples(1, count)
    ordinary = list(content.values())
    for number, members in enumerate(ordinary):
        if number % 2:
            members["txt"] = CAPTION.encode()
        else:
            members["json"] = b'{"caption": "</li><b>bold</b> %d"}' % number
            del members["txt"]
    keys = [*KEYS, *list(content)[len(KEYS) :]]
    first = dict(zip(keys, ordinary, strict=True))
    again = {
        "copy<1>": dict(ordinary[20]),
        "copy<2>": dict(ordinary[20]),
        "bad<b>": {"jpg": b"no"},
        "none": {"txt": b"t"},
    }
    SMALL.shard(folder / '<b onclick=alert(9)>"x.tar', first)
    SMALL.shard(folder / "second.tar", {**SMALL.samples(2, 20), **again})
    return folder
