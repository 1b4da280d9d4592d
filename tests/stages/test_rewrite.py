"""Samples under new rules: exactly the expected keys, suffixes and payloads, for webdataset and for our own scanner."""

import tarfile
import warnings

import pytest
import webdataset
from corpora import member, pax, tar
from hypothesis import given
from hypothesis import strategies as st

from sspruning.config import WriteConfig
from sspruning.errors import UsageError
from sspruning.stages.rewrite import Rewriting, SourceSample, rewritten
from sspruning.storage.samples import ShardReader
from sspruning.storage.tar_scan import archive_end

IMAGES = ("jpg", "png")
SHARD_ID = "a+train.v2-000"


def rule_of(*, prefixed=False, **settings):
    return Rewriting.of(WriteConfig(**settings), IMAGES, prefixed=prefixed)


def written(path, archive, rule, *, image="jpg"):
    """The archive that becomes of another one; the number of a sample stands for its prototype."""
    path.write_bytes(archive)
    blocks = b""
    with ShardReader(str(path)) as reader:
        for number, sample in enumerate(reader.samples()):
            source = SourceSample(
                path="in.tar",
                shard_id=SHARD_ID,
                start=sample.block_start,
                end=sample.block_end,
                image=sample.find([image]).start,
                centroid=number,
            )
            for piece in rewritten(rule, reader.read, source):
                blocks += piece if isinstance(piece, bytes) else reader.read(piece[0], piece[1] - piece[0])
    return blocks + archive_end(len(blocks))


def by_our_scanner(path):
    with ShardReader(str(path)) as reader:
        found = [(s.key, {m.suffix: reader.read(m.start, m.size) for m in s.members}) for s in reader.samples()]
        assert not reader.ignored
    return found


def by_webdataset(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False)
        return [(s["__key__"], {suffix: v for suffix, v in s.items() if not suffix.startswith("__")}) for s in data]


def expected(samples, *, prefixed, cls="keep", rename_suffix=None, members=None, index=None):
    """What the rules say, in the plainest words."""
    found = []
    for number, (key, payloads) in enumerate(samples):
        own = {}
        for suffix, payload in payloads.items():
            new = (rename_suffix or {}).get(suffix.lower(), suffix.lower())
            if (members is None or new in members) and (new != "cls" or cls == "keep"):
                own[new] = payload
        if cls in {"cluster", "zero"}:
            own["cls"] = b"%d" % (number if cls == "cluster" else 0)
        found.append((f"{SHARD_ID}/{key}" if prefixed else key, own))
    return found


STEM = st.text(st.sampled_from("abXY_-é日 "), min_size=1, max_size=6) | st.just("long" * 30)
FOLDER = st.text(st.sampled_from("ab._é"), min_size=1, max_size=4) | st.just("folder" * 20)
KEY = st.tuples(st.lists(FOLDER, max_size=2), STEM).map(lambda pair: "/".join([*pair[0], pair[1]]))
EXTRAS = st.lists(st.sampled_from(["txt", "JSON", "cls", "seg.PNG", "npy", "É"]), max_size=4, unique=True)


@st.composite
def samples(draw):
    """(key, {suffix: payload}) of a shard: an image and other members, in any order."""
    found = []
    for key in draw(st.lists(KEY, min_size=1, max_size=4, unique=True)):
        suffixes = draw(EXTRAS.flatmap(lambda extras: st.permutations(["jpg", *extras])))
        found.append((key, {suffix: draw(st.binary(max_size=600)) for suffix in suffixes}))
    return found


RULES = st.fixed_dictionaries(
    {
        "cls": st.sampled_from(["keep", "cluster", "zero", "none"]),
        "rename_suffix": st.sampled_from(
            [{}, {"jpg": "jpeg"}, {"txt": "caption.txt", "json": "meta"}, {"txt": "npy", "npy": "txt"}, {"txt": "cls"}]
        ),
        "members": st.sampled_from([None, ["jpg", "jpeg"], ["jpg", "jpeg", "txt", "meta", "cls"]]),
    }
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One path for all shards: Hypothesis writes there again and again."""
    return tmp_path_factory.mktemp("rewrite") / "shard.tar"


@given(samples(), RULES, st.booleans(), st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_any_shard_becomes_what_the_rules_say(place, content, settings, prefixed, form):
    if settings["rename_suffix"] == {"txt": "cls"}:  # without the class that is there already
        content = [(key, {s: v for s, v in own.items() if s != "cls" or "txt" not in own}) for key, own in content]
    archive = tar([(f"{key}.{suffix}", v) for key, own in content for suffix, v in own.items()], form)
    place.write_bytes(written(place, archive, rule_of(prefixed=prefixed, **settings)))
    wanted = expected(content, prefixed=prefixed, **settings)
    assert by_our_scanner(place) == wanted
    assert by_webdataset(place) == wanted


def test_without_rules_nothing_is_needed_and_nothing_changes(place):
    archive = tar([("a.jpg", b"x"), ("a.txt", b"y"), ("b.jpg", b"z")])
    assert not rule_of().needed
    assert written(place, archive, rule_of()) == archive
    for settings in ({"cls": "zero"}, {"rename_suffix": {"a": "b"}}, {"members": ["jpg"]}, {"prefixed": True}):
        assert rule_of(**settings).needed


def test_members_whose_name_stays_keep_their_headers_bit_for_bit(place):
    blocks = pax({b"mtime": b"1600000000.5"}) + member(b"a.JPG", b"x", magic=b"ustar  \0") + member(b"a.txt", b"y")
    archive = written(place, blocks + archive_end(len(blocks)), rule_of(cls="none"))
    assert archive == blocks + archive_end(len(blocks))


def test_a_class_comes_last_with_a_fixed_header(place):
    archive = written(place, tar([("a.cls", b"7"), ("a.jpg", b"x"), ("b.jpg", b"y")]), rule_of(cls="cluster"))
    place.write_bytes(archive)
    with tarfile.open(place) as found:
        names = found.getnames()
        classes = [(i.mtime, i.mode, i.uid, i.uname) for i in found if i.name.endswith(".cls")]
    assert names == ["a.jpg", "a.cls", "b.jpg", "b.cls"]
    assert classes == [(0, 0o644, 0, "")] * 2


def test_what_no_reader_sees_is_left_out(place):
    folder = tarfile.TarInfo("a.d")
    folder.type = tarfile.DIRTYPE
    archive = tar([("a.jpg", b"x"), folder, ("__private__/a.txt", b"z"), ("a.txt", b"y")])
    place.write_bytes(written(place, archive, rule_of(cls="zero")))
    assert by_our_scanner(place) == [("a", {"jpg": b"x", "txt": b"y", "cls": b"0"})]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rename_suffix": {"txt": "json"}}, "sample 'd/a' would get two members .json by --rename-suffix txt=json"),
        ({"rename_suffix": {"txt": "x", "json": "x"}}, "two members .x by --rename-suffix json=x and txt=x"),
        ({"members": ["txt"]}, "sample 'd/a' would be left without the image"),
        ({"members": ["png"]}, "sample 'd/a' would be left without the image"),
        ({"rename_suffix": {"jpg": "cls"}, "cls": "none"}, "would be left without the image"),
        ({"rename_suffix": {"jpg": "png", "png": "jpg"}}, None),
    ],
)
def test_a_rule_that_loses_something_is_refused_and_names_the_sample(place, settings, words):
    archive = tar([("d/a.png", b"p"), ("d/a.jpg", b"x"), ("d/a.txt", b"y"), ("d/a.json", b"{}")])
    if words is None:
        assert written(place, archive, rule_of(**settings))
        return
    with pytest.raises(UsageError) as caught:
        written(place, archive, rule_of(**settings))
    assert words in str(caught.value)
    assert "in.tar" in str(caught.value)


def test_another_member_that_would_be_taken_for_the_image_is_refused(place):
    archive = tar([("a.png", b"p"), ("a.thumb", b"t")])
    with pytest.raises(UsageError, match=r"'a.thumb' would be taken for its image"):
        written(place, archive, rule_of(rename_suffix={"thumb": "jpg"}), image="png")


def test_the_image_key_of_the_output_follows_the_renaming():
    assert rule_of(rename_suffix={"jpg": "png"}).image_key == ("png",)
    assert rule_of(rename_suffix={"png": "webp"}).image_key == ("jpg", "webp")
