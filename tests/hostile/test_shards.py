"""A hostile shard between two good ones: each sample is embedded, skipped for a reason, or in a shard put aside.

The good shards are whole whatever stands between them, nothing is written elsewhere, and nothing runs.
"""

import pytest
from hostile import cases_image, cases_tar, cases_text
from hostile.harness import EMBED, params

CASES = [*cases_tar.CASES, *cases_image.CASES, *cases_text.CASES]


@pytest.mark.parametrize("case", params(CASES))
def test_a_hostile_shard_costs_nothing_but_itself_and_nothing_in_silence(case, arena, monkeypatch):
    arena.build(case)
    if case.patch is not None:
        case.patch(monkeypatch, arena)
    verb, _, *options = EMBED
    settings = [part for setting in case.settings for part in ("--set", setting)]
    result = arena.run(verb, *case.inputs, *options, *settings)
    case.outcome.check(arena, result)
