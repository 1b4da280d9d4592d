"""What a corpus calls its samples never reaches a terminal as it is: no escapes, no forged lines, no reversed text."""

import re

import pytest
from corpora import END, header, member, pax, picture, tar
from hostile.harness import EMBED

from sspruning.storage.samples import ShardReader

FORGED = "sspruning: all is well"
ODD = [
    f"x\n{FORGED}",
    "\x1b[31mred\x1b]0;title\x07",
    "\x9b31mred",
    "\u202egpj",
    "\u2066a\u2069",
    "\x08\x08\x7fgone",
    "[bold]x[/bold]",
    "[link=http:example]y",
    "<script>alert(1)<|script>",
    "=1+1",
    "\u2028line",
]
KEYS = [key.replace("/", "|") for key in ODD]
SELECT = (
    "select",
    "store",
    "--executor",
    "inline",
    "--set",
    "cluster.name=numpy_kmeans",
    "--set",
    "cluster.n_clusters=2",
)


def assert_plain(result):
    """All that was said can be shown as it is, and no line of it was written by the corpus."""
    for text in (result.out, result.err):
        odd = {character for character in text if not character.isprintable() and character != "\n"}
        assert odd == set(), text
        assert not re.search(rf"^\s*{FORGED}", text, re.MULTILINE), text
    return result


def odd_shard():
    return tar([(f"{key}.jpg", picture(number)) for number, key in enumerate(KEYS)])


@pytest.fixture
def odd(arena):
    """An `Arena` with a shard of odd keys, embedded."""
    (arena.shards / "b.tar").write_bytes(odd_shard())
    arena.look()
    assert "15 of 15 samples" in assert_plain(arena.run(*EMBED)).out
    return arena


def test_the_samples_of_odd_keys_are_kept_like_all_others(odd):
    assert set(odd.ledger()["b"]) == set(KEYS)
    for verb in (("status", "store"), (*SELECT, "--output", "pruned"), ("verify", "pruned"), ("verify", "store")):
        assert assert_plain(odd.run(*verb)).code == 0


def test_odd_keys_in_two_shards_are_named_in_one_line(arena):
    for name in ("b", "d"):
        (arena.shards / f"{name}.tar").write_bytes(odd_shard())
    arena.look()
    result = assert_plain(arena.run(*EMBED))
    assert result.code == 2
    assert len(result.err.splitlines()) == 2
    assert assert_plain(arena.run("inspect", "shards")).code == 3


@pytest.mark.parametrize("again", ["jpg", "txt"])
@pytest.mark.parametrize("key", KEYS)
def test_an_odd_key_in_a_message_about_a_damaged_shard_is_escaped(arena, key, again):
    name = key.encode()
    between = b"" if again == "jpg" else member(b"between.jpg", picture(1))
    blocks = member(name + b".jpg", picture(0)) + between + member(name + b"." + again.encode(), picture(2))
    (arena.shards / "b.tar").write_bytes(blocks + END)
    arena.look()
    assert assert_plain(arena.run(*EMBED)).code == 3
    assert assert_plain(arena.run("status", "store")).code == 3
    assert assert_plain(arena.run("inspect", "shards")).code == 3
    assert assert_plain(arena.run("verify", "store")).code == 0


def test_odd_suffixes_and_records_are_escaped(arena):
    suffixes = [f"a.\x1b[31m\u202e{number}" for number in range(3)]
    (arena.shards / "b.tar").write_bytes(tar([(name, b"x") for name in suffixes]))
    (arena.shards / "d.tar").write_bytes(pax({b"\x1b[31m": b"x"}, b"g") + END)
    (arena.shards / "e.tar").write_bytes(header(b"a.jpg", kind=b"\x1b") + END)
    arena.look()
    assert assert_plain(arena.run("inspect", "shards")).code == 3
    assert assert_plain(arena.run(*EMBED)).code == 3


def test_an_odd_key_in_a_proof_that_fails_is_escaped(odd):
    assert odd.run(*SELECT, "--output", "pruned", "--set", "select.keep_fraction=1.0").code == 0
    path = odd.shards / "b.tar"
    content = bytearray(path.read_bytes())
    with ShardReader(str(path)) as reader:
        for sample in reader.samples():
            content[sample.members[0].start + 100] ^= 1
    path.write_bytes(content)
    odd.look()
    result = assert_plain(odd.run("verify", "pruned"))
    assert result.code == 3
    assert "differs from its copy" in result.err


def test_odd_names_of_shards_are_escaped(arena):
    for name in ("\u202egpj", "[bold]x", "<script>"):
        (arena.shards / f"{name}.tar").write_bytes(b"")
    arena.look()
    assert assert_plain(arena.run(*EMBED)).code == 3
    assert assert_plain(arena.run("status", "store")).code == 3
    assert assert_plain(arena.run("inspect", "shards")).code == 3


def test_odd_arguments_are_escaped(arena):
    name = "\x1b[31m\u202e.tar"
    arena.look()
    for verb in (("inspect", name), ("status", name), ("verify", name), ("run", name), ("embed", name, *EMBED[2:])):
        assert assert_plain(arena.run(*verb)).code in {2, 3}
