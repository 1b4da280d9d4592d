"""Configuration is strict: what is not understood is refused, with the key's name and the cure."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sspruning.config import Config, EncoderConfig, load_config, override
from sspruning.errors import ConfigError


@pytest.fixture
def read(tmp_path):
    """Reads YAML text as a configuration."""

    def read_text(text, overrides=None):
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(path, overrides)

    return read_text


def problem(read, text, overrides=None):
    with pytest.raises(ConfigError) as caught:
        read(text, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_an_empty_file_and_no_file_are_the_defaults(read):
    assert read("") == read("# nothing\n") == load_config(None) == Config()


def test_values_of_a_file_are_read(read):
    config = read("name: demo\ncorpus: {input: [a.tar, b.tar]}\nselect:\n  keep: easy\n  keep_fraction: 0.7\n")
    assert (config.name, config.corpus.input) == ("demo", ["a.tar", "b.tar"])
    assert (config.select.keep, config.select.keep_fraction) == ("easy", 0.7)


def test_a_single_input_needs_no_list(read):
    assert read("corpus: {input: 'd/s-{000000..000099}.tar'}").corpus.input == ["d/s-{000000..000099}.tar"]


@pytest.mark.parametrize(
    ("text", "key", "meant"),
    [
        ("select: {keep_fractoin: 0.5}", "select.keep_fractoin", "keep_fraction"),
        ("cluster: {n_cluster: 5}", "cluster.n_cluster", "n_clusters"),
        ("selct: {}", "selct", "select"),
        ("encoder: {batchsize: 5}", "encoder.batchsize", "batch_size"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_one(read, text, key, meant):
    message = problem(read, text)
    assert f"unknown key {key!r}" in message
    assert f"Did you mean {meant!r}?" in message
    assert "recipe.yaml" in message


def test_an_unknown_key_that_resembles_nothing_lists_the_known_ones(read):
    message = problem(read, "write: {zzz: 1}")
    assert "Did you mean" not in message
    assert "Known here: samples_per_shard, num_shards, " in message


def test_all_problems_of_a_file_are_told_at_once(read):
    message = problem(read, "select: {keep_fraction: 2}\nwrite: {samples_per_shard: 0}\nxyz: 1\n")
    assert len(message.splitlines()) == 3


@pytest.mark.parametrize(
    "text", ["select: {seed: 1, seed: 2}", "select:\n  seed: 1\n  seed: 2\n", "name: a\nname: b\n", "a: [{b: 1, b: 2}]"]
)
def test_a_repeated_key_is_refused_with_its_place(read, text):
    message = problem(read, text)
    assert "occurs twice" in message
    assert "recipe.yaml: line " in message


@pytest.mark.parametrize(
    "text",
    [
        "name: &n demo\nselect: {keep: *n}\n",
        "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        "base: &base {seed: 1}\nselect:\n  <<: *base\n",
    ],
)
def test_references_are_refused(read, text):
    message = problem(read, text)
    assert "references" in message
    assert "recipe.yaml: line " in message


@pytest.mark.parametrize(
    "text",
    [
        "name: !!python/object/apply:os.system ['echo pwned > pwned']",
        "name: !!python/object:sspruning.config.Config {}",
        "name: !!python/name:os.system",
        "name: !!python/tuple [a]",
        "name: !unknown x",
    ],
)
def test_tags_that_build_objects_are_refused_and_build_nothing(read, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "not readable as YAML" in problem(read, text)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "text",
    [
        "select: [",
        "a: b: c",
        "\tname: x",
        "name: 2024-13-45",
        "cluster: {n_clusters: " + "9" * 5000 + "}",
        "? [a, b]\n: c",
        "name: \x01",
        "[" * 3000,
        "- " * 3000 + "x",
        "--- a\n--- b\n",
    ],
    ids=lambda text: text[:20],
)
def test_text_that_is_no_yaml_is_a_configuration_error_not_a_traceback(read, text):
    assert "recipe.yaml" in problem(read, text)


@pytest.mark.parametrize(
    "value", ["0x" + "f" * 6000, "2147483648", "[" + "1," * 5000 + "]"], ids=["hex", "31 bits", "list"]
)
def test_a_huge_value_is_refused_in_a_short_message(read, value):
    message = problem(read, f"cluster: {{n_clusters: {value}}}")
    assert "cluster.n_clusters" in message
    assert len(message) < 1000


@pytest.mark.parametrize("text", ["[1, 2]", "just words", "5"])
def test_a_file_without_sections_is_refused(read, text):
    assert "expected sections" in problem(read, text)


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    (tmp_path / "large.yaml").write_bytes(b"#" * ((1 << 20) + 1))
    for name, words in [
        ("gone.yaml", "cannot be read"),
        ("latin.yaml", "UTF-8"),
        ("large.yaml", "larger"),
        (".", "read"),
    ]:
        with pytest.raises(ConfigError, match=words) as caught:
            load_config(tmp_path / name)
        assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("key", ["select.keep_fraction", "select.balance"])
@pytest.mark.parametrize(
    ("written", "value"),
    [("1e-4", 1e-4), ("1E-4", 1e-4), ("5e-1", 0.5), ("1.0e-4", 1e-4), ("'0.25'", 0.25), ("1", 1.0), (".5", 0.5)],
)
def test_numbers_are_read_as_people_write_them(read, key, written, value):
    section, name = key.split(".")
    assert getattr(getattr(read(f"{section}: {{{name}: {written}}}"), section), name) == value
    assert getattr(getattr(load_config(None, [f"{key}={written}"]), section), name) == value


@pytest.mark.parametrize(
    "written", ["0", "-0.5", ".nan", "nan", "NaN", "1.5", "1e309", ".inf", "-.inf", "'much'", "[0.5]"]
)
def test_a_fraction_outside_its_range_is_refused_by_name(read, written):
    message = problem(read, f"select: {{keep_fraction: {written}}}")
    assert "recipe.yaml: select.keep_fraction: " in message
    assert "got" in message


def test_balance_may_be_off_and_full_and_nothing_beyond(read):
    assert read("select: {balance: 0}").select.balance == 0
    assert read("select: {balance: 1}").select.balance == 1
    for written in ("-0.01", "1.01", ".nan"):
        assert "select.balance" in problem(read, f"select: {{balance: {written}}}")


@pytest.mark.parametrize(
    "text",
    [
        "name: ../elsewhere",
        "name: ''",
        "cluster: {n_clusters: 0}",
        "cluster: {niter: 0}",
        "cluster: {full_rounds: -1}",
        "cluster: {seed: -1}",
        "cluster: {seed: 2147483648}",
        "cluster: {init: kmeans}",
        "cluster: {n_clusters: 2.5}",
        "score: {distance: manhattan}",
        "select: {floor: none}",
        "write: {samples_per_shard: 0}",
        "write: {order: random}",
        "encoder: {device: 'gpu'}",
        "encoder: {batch_size: 0}",
        "encoder: {image_size: 4}",
        "execution: {workers: 0}",
        "execution: {timeout_s: 0}",
        "execution: {timeout_s: .nan}",
        "corpus: {max_pixels: 0}",
        "corpus: {input: 5}",
        "select: 0.5",
    ],
)
def test_a_value_outside_its_range_is_refused_by_name(read, text):
    key = next(iter(yaml.safe_load(text)))
    assert f"recipe.yaml: {key}" in problem(read, text)


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("select.keep_fraction=0.7", lambda c: c.select.keep_fraction == 0.7),
        ("cluster.n_clusters=100", lambda c: c.cluster.n_clusters == 100),
        ("cluster.n_clusters=null", lambda c: c.cluster.n_clusters is None),
        ("cluster.n_clusters=", lambda c: c.cluster.n_clusters is None),
        ("cluster.spherical=false", lambda c: c.cluster.spherical is False),
        ("corpus.input=[a.tar, b.tar]", lambda c: c.corpus.input == ["a.tar", "b.tar"]),
        ("corpus.input=a.tar", lambda c: c.corpus.input == ["a.tar"]),
        ("corpus.image_key='jpg;png'", lambda c: c.corpus.suffixes == ("jpg", "png")),
        ("name=demo", lambda c: c.name == "demo"),
        ("select={keep: easy, seed: 3}", lambda c: (c.select.keep, c.select.seed) == ("easy", 3)),
        (" select.keep =easy", lambda c: c.select.keep == "easy"),
        ("paths.output=runs/a=b", lambda c: c.paths.output == "runs/a=b"),
    ],
)
def test_settings_replace_single_values(setting, found):
    assert found(load_config(None, [setting]))


def test_later_settings_win_and_leave_the_rest_of_the_file(read):
    config = read("select: {keep: easy, seed: 9}", ["select.seed=1", "select.seed=2"])
    assert (config.select.keep, config.select.seed) == ("easy", 2)


def test_settings_go_on_top_of_a_base():
    base = load_config(None, ["select.keep=easy"])
    config = load_config(None, ["select.seed=4"], base=base)
    assert (config.select.keep, config.select.seed, base.select.seed) == ("easy", 4, 0)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("select.keep", "expected section.key=value"),
        ("=5", "expected section.key=value"),
        ("name.first=x", "is a value, not a section"),
        ("select.kep=hard", "Did you mean 'keep'"),
        ("selct.keep=hard", "Did you mean 'select'"),
        ("select.keep=[", "not readable as YAML"),
        ("select={seed: 1, seed: 2}", "occurs twice"),
        ("select.keep_fraction=1.5", "select.keep_fraction"),
        ("a.b.c.d=1", "unknown key 'a'"),
        ("name=2024-13-45", "not readable as YAML"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(read, setting, words):
    assert words in problem(read, "name: demo\n", [setting])


def test_override_leaves_what_is_not_given(read):
    config = override(read("select: {keep: easy, seed: 9}"), "select", keep_fraction=0.5, keep=None)
    assert (config.select.keep, config.select.seed, config.select.keep_fraction) == ("easy", 9, 0.5)
    with pytest.raises(ConfigError, match=r"command line: select\.keep_fraction"):
        override(config, "select", keep_fraction=1.5)


def test_a_configuration_cannot_be_changed():
    config = Config()
    with pytest.raises(ValidationError):
        config.name = "other"
    with pytest.raises(ValidationError):
        config.select.keep = "easy"


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)


@given(
    fraction=st.floats(1e-300, 1),
    balance=st.floats(0, 1),
    paths=st.lists(texts, max_size=3),
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True),
    timeout=st.none() | st.floats(1e-300, 1e300),
    output=st.none() | texts,
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_yaml_text_reads_back_as_the_same_configuration(
    tmp_path_factory, fraction, balance, paths, name, timeout, output
):
    content = Config().as_json()
    content["name"] = name
    content["corpus"]["input"] = paths
    content["select"] |= {"keep_fraction": fraction, "balance": balance}
    content["execution"]["timeout_s"] = timeout
    content["paths"]["output"] = output
    config = Config.model_validate(content)
    path = tmp_path_factory.getbasetemp() / "round-trip.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    assert load_config(path) == config


def test_the_recipe_leaves_out_where_and_how_it_runs(read):
    config = read("execution: {workers: 3}\npaths: {output: x}\nselect: {seed: 5}")
    assert config.recipe() == read("select: {seed: 5}").recipe()
    assert config.recipe() != Config().recipe()
    assert read(config.to_yaml(recipe_only=True)) == read("select: {seed: 5}")


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "shipped"),
        ({"model": "resnet50"}, "timm"),
        ({"factory": "a.b:c"}, "custom"),
        ({"name": "pixels"}, "pixels"),
    ],
)
def test_the_encoder_follows_from_what_is_given(fields, name):
    assert EncoderConfig(**fields).spec().name == name


def test_an_empty_section_is_the_default(read):
    assert read("select:\nname: mine\n") == Config(name="mine")


def test_names_of_the_section_write_come_in_one_form(read):
    written = read("write: {index: 'dino; timm', members: 'TXT,.jpg', rename_suffix: {.JPEG: Jpg}}").write
    assert written.index == ["timm", "dino"]
    assert written.members == ["jpg", "txt"]
    assert written.rename_suffix == {"jpeg": "jpg"}
    assert read("write: {index: none, members: all}").write.index == []
    assert read("write: {members: all}").write.members is None
    assert {"timm", "hf"} < set(read("write: {index: all}").write.index)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("write: {index: [tim]}", "Did you mean 'timm'?"),
        ("write: {members: []}", "the suffix of the image at least"),
        ("write: {members: ['']}", "is no suffix of a member"),
        ("write: {rename_suffix: {jpg: __key__}}", "is no suffix of a member"),
        ("write: {num_shards: 2, min_shards: 3}", "min_shards asks for at least 3"),
    ],
)
def test_names_that_mean_nothing_to_the_writer_are_refused(read, text, words):
    assert words in problem(read, text)
