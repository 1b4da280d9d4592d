"""The documents tell the truth: what exists is named, what is named exists, and links lead somewhere."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
import yaml
from pydantic import BaseModel

import sspruning
from sspruning.cli import app
from sspruning.clusterers import CLUSTERERS
from sspruning.config import Config, load_config
from sspruning.encoders import ENCODERS, PRESETS
from sspruning.encoders.images import REASONS
from sspruning.execution import EXECUTORS
from sspruning.metrics import METRICS
from sspruning.policies import POLICIES, PRUNED_REASON
from sspruning.storage.artifacts import ASSIGNMENT_DTYPE
from sspruning.storage.parts import PartData, encode_part

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
FORMAT = ROOT / "sspruning" / "storage" / "FORMAT.md"
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.yaml") if not path.name.startswith("pretrain-"))
GENERATED = {"build", "dist", "node_modules", "pruned", "runs", "sspruning-demo", "venv"}
COMMAND = typer.main.get_command(app)


def documents():
    """Return every Markdown file of the repository."""
    found = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in GENERATED]
        found += [Path(folder) / name for name in files if name.endswith(".md")]
    return sorted(found)


def code(text):
    """Return all that stands in code blocks and code spans of a Markdown text."""
    blocks = re.findall(r"^```.*?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return "\n".join([*blocks, *re.findall(r"`([^`]+)`", rest)])


def names(word, text):
    """Return whether ``word`` stands in ``text`` as a whole word."""
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text) is not None


# README and CI


@pytest.mark.parametrize("verb", sorted(COMMAND.commands))
def test_the_readme_shows_every_verb_at_work(verb):
    assert f"sspruning {verb}" in code(README.read_text())


@pytest.mark.parametrize("verb", sorted(COMMAND.commands))
def test_every_verb_and_every_option_has_a_help_text(verb):
    command = COMMAND.commands[verb]

    assert command.help
    assert [p.name for p in command.params if not getattr(p, "help", None)] == []


@pytest.mark.parametrize(
    ("family", "name"),
    [(t.family, name) for t in (ENCODERS, METRICS, POLICIES, EXECUTORS) for name in sorted(t)],
)
def test_the_readme_names_every_table_entry(family, name):
    assert names(name, code(README.read_text())), f"the {family} {name} is in no code span of the README"


@pytest.mark.parametrize("name", sorted(CLUSTERERS))
def test_the_quickstart_or_the_readme_names_every_clusterer(name):
    assert names(name, quickstart_section("cluster")) or names(name, code(README.read_text()))


@pytest.mark.parametrize("family", sorted({name.split("-")[0] for name in PRESETS}))
def test_the_readme_names_every_family_of_presets(family):
    wanted = re.sub(r"[^a-z0-9]", "", family)

    assert wanted in re.sub(r"[^a-z0-9\n]", "", README.read_text().lower())


@pytest.mark.parametrize("block", ["demo", "test"])
def test_the_readme_has_the_command_that_ci_runs(block):
    found = re.findall(rf"^<!-- {block} -->\n```\w*\n(.+?)\n```\n<!-- /{block} -->$", README.read_text(), re.M | re.S)

    assert len(found) == 1
    assert "pip install" in found[0]
    assert f"$(readme_block {block})" in (ROOT / ".ci" / "run").read_text()


def test_the_makefile_keeps_what_contributing_promises():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)

    assert {
        "install",
        "trainers",
        "browser",
        "remote",
        "check",
        "test",
        "slow",
        "faults",
        "hostile",
        "fuzz",
        "bench",
        "demo",
        "ci",
    } == set(targets)
    for target in re.findall(r"\bmake ((?:[a-z]+ ?)+)", code((ROOT / "CONTRIBUTING.md").read_text())):
        assert set(target.split()) <= set(targets)


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\(([^)\s]+)[^)]*\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    relative = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:|#", link)]

    assert [link for link in relative if not (path.parent / link).exists()] == []


# configuration


def keys():
    """Return (section, key) of every setting; the section is empty for those at the top."""
    found = []
    for name, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += [(name, key) for key in field.annotation.model_fields]
        else:
            found.append(("", name))
    return found


def quickstart_section(section):
    """Return the text of one section of the quickstart, its comments included."""
    text = (ROOT / "configs" / "quickstart.yaml").read_text()
    if not section:
        return text
    found = re.search(rf"^(?:# ?)?{section}:.*\n((?:(?: |#  ).*\n|\n)*)", text, re.MULTILINE)
    return found[1] if found else ""


@pytest.mark.parametrize(("section", "key"), keys(), ids=lambda value: value or "top")
def test_every_setting_is_in_the_quickstart_or_in_the_readme(section, key):
    full = f"{section}.{key}".lstrip(".")

    assert names(key, quickstart_section(section)) or names(full, README.read_text()), full


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_recipe_loads_and_says_what_it_is(path):
    config = load_config(path)

    assert config.name == path.stem
    assert path.read_text().startswith("#")


def test_the_quickstart_shows_the_defaults():
    shown = yaml.safe_load((ROOT / "configs" / "quickstart.yaml").read_text())
    defaults = Config().as_json()
    differing = [
        f"{section}.{key}"
        for section, content in shown.items()
        if isinstance(content, dict)
        for key, value in content.items()
        if defaults[section][key] != value
    ]

    assert differing == ["corpus.input"]


# FORMAT.md


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return a folder with a run over a small corpus with two samples that must be skipped, and its pruned shards."""
    folder = tmp_path_factory.mktemp("written")
    tool = [sys.executable, str(ROOT / "tools" / "make_corpus.py")]
    subprocess.run([*tool, str(folder / "in"), "--samples", "20", "--shards", "2", "--size-px", "16"], check=True)
    shard = folder / "in" / "shapes-000001.tar"
    content = shard.read_bytes()
    for name in (b"00000011.jpg", b"00000012.jpg"):  # without their images, two samples are skipped as no_image
        at = content.index(name)
        header = bytearray(content[at : at + 512])
        header[: len(name)] = name[:-3] + b"dat"
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        content = content[:at] + bytes(header) + content[at + 512 :]
    shard.write_bytes(content)
    config = load_config(
        None,
        [
            f"corpus.input={folder / 'in'}",
            "encoder.name=pixels",
            "encoder.device=cpu",
            "cluster.name=numpy_kmeans",
            "cluster.n_clusters=2",
            "execution.executor=inline",
            f"paths.run_dir={folder / 'run'}",
            f"paths.output={folder / 'pruned'}",
        ],
    )
    result = sspruning.prune(config)
    assert (result.embedded.n_embedded, result.embedded.skipped) == (18, {"no_image": 2})
    return folder


@pytest.fixture(scope="module")
def specification():
    return FORMAT.read_text()


def section(text, title):
    """Return the text under one heading of FORMAT.md."""
    found = re.search(rf"^(#+) {re.escape(title)}.*?\n(.*?)(?=^#|\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, f"FORMAT.md has no section {title}"
    return found[2]


def table(text):
    """Return the rows of the first Markdown table in ``text``, cells without backticks."""
    lines = re.search(r"((?:^\|.*\n)+)", text, re.MULTILINE)[1].splitlines()
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines[2:]]


def json_keys(value):
    """Return all keys of nested JSON; keys that are data (file names, reasons) must be left out by the caller."""
    if isinstance(value, dict):
        return set(value).union(*map(json_keys, value.values()))
    return set().union(*map(json_keys, value)) if isinstance(value, list) else set()


def filters(dataset):
    """Return a dataset's filters as FORMAT.md writes them."""
    found = ["shuffle"] if dataset.shuffle else []
    found += [f"{dataset.compression} {dataset.compression_opts}"] if dataset.compression else []
    return ", ".join([*found, "fletcher32"] if dataset.fletcher32 else found)


def stored_type(dataset):
    """Return a dataset's type as FORMAT.md writes it."""
    return "UTF-8, fixed width" if h5py.check_string_dtype(dataset.dtype) else str(dataset.dtype)


def test_format_describes_every_dataset_of_a_part(written, specification):
    described = {row[0].lstrip("/"): row[1:5] for row in table(section(specification, "2.1"))}
    part = next((written / "run/store/parts").glob("shapes-000001.*.h5"))
    found = {}
    with h5py.File(part, "r") as file:
        d = file["embedding"].shape[1]
        shapes = {(8, d): "(n, d)", (8,): "(n,)", (8, 16): "(n, 16)", (2,): "(m,)"}

        def take(name, node):
            if isinstance(node, h5py.Dataset):
                found[name] = (stored_type(node), shapes[node.shape], node.chunks[0], filters(node))

        file.visititems(take)

    assert set(described) == set(found)
    for name, (kind, shape, chunk_rows, used) in found.items():
        asked = 262144 // (2 * d) if name == "embedding" else int(described[name][2])
        rows = 2 if shape == "(m,)" else 8
        assert [kind, shape, used] == [described[name][i] for i in (0, 1, 3)], name
        assert chunk_rows == min(asked, rows), name


def test_format_names_the_chunks_of_a_large_part(specification):
    n, d = 70_000, 4
    numbers = np.arange(n)
    image = encode_part(
        PartData(
            embedding=np.zeros((n, d), np.float16),
            norm=numbers.astype(np.float32),
            key=list(map(str, numbers)),
            key_hash=numbers.astype(np.uint64),
            row=numbers,
            block_start=numbers.astype(np.uint64),
            block_end=numbers.astype(np.uint64),
            digest=np.zeros((n, 16), np.uint8),
            image_start=numbers.astype(np.uint64),
            image_size=numbers,
            content=np.zeros((n, 16), np.uint8),
            defects=np.zeros(n, np.uint8),
            skipped_row=numbers,
            skipped_key=list(map(str, numbers)),
            skipped_reason=["no_image"] * n,
            attributes={},
        )
    )
    with h5py.File(io.BytesIO(image), "r") as file:
        for name, *_, rows, _, _ in table(section(specification, "2.1")):
            expected = 262144 // (2 * d) if name == "/embedding" else int(rows)
            assert file[name].chunks[0] == expected, name


def test_format_names_every_attribute_of_a_part(written, specification):
    text = section(specification, "2.1")
    part = next((written / "run/store/parts").glob("shapes-000001.*.h5"))
    with h5py.File(part, "r") as file:
        attributes, inner = dict(file.attrs), dict(file["skipped"].attrs)
    listed = re.search(r"Root attributes:(.*?)\. The group", text, re.DOTALL)[1]

    assert set(re.findall(r"`(\w+)`", listed)) == set(attributes)
    assert set(inner) == {"reasons"}
    assert json.loads(inner["reasons"]) == ["no_image"]


def test_format_names_every_reason_to_skip(specification):
    reasons = table(section(specification, "2.1").split("`reasons`, a JSON list")[1])
    listed = {reason for row in reasons for reason in row[0].split(", ")}
    names = ("stages/decode_watch.py", "stages/embed_shard.py", "stages/import_shard.py", "storage/samples.py")
    sources = [ROOT / "sspruning" / name for name in names]
    text = "\n".join(path.read_text() for path in sources)

    assert set(REASONS) <= listed
    assert [reason for reason in listed - set(REASONS) if f'"{reason}"' not in text] == []


@pytest.mark.parametrize(
    ("path", "title"),
    [
        ("run/store/store.json", "2. Store"),
        ("run/store/request.json", "2. Store"),
        ("run/store/corpus.json", "2. Store"),
        ("run/store/parts/shapes-000000.json", "2.2"),
        ("pruned/_info.json", "4. Output"),
        ("pruned/shardindex.json", "4. Output"),
        ("pruned/.sspruning/manifest.json", "4. Output"),
        ("pruned/.sspruning/sources.json", "4. Output"),
    ],
)
def test_format_names_every_key_of_a_json_file(written, specification, path, title):
    content = json.loads((written / path).read_text())
    text = section(specification, title)
    if path.endswith("manifest.json"):
        del content["settings"], content["write"]  # the selection's, and the section of the configuration
        for shard in content["shards"]:
            del shard["suffixes"]
    if path.endswith(("request.json", "store.json")):
        content.pop("limits", None)  # the settings by the same names
        content["encoder"] = sorted(content.get("encoder") or content["settings"].pop("encoder"))

    assert {key for key in json_keys(content) if not names(key, code(text))} == set()


def test_format_names_every_key_of_an_encoders_identity(written, specification):
    settings = json.loads((written / "run/store/store.json").read_text())["settings"]

    assert {key for key in settings["encoder"] if not names(key, code(section(specification, "2. Store")))} == set()


def test_format_describes_prototypes_assignments_and_scores(written, specification):
    text = section(specification, "3. Prototypes")
    with h5py.File(written / "run/prototypes.h5", "r") as file:
        stored = {f"/{name}" for name in file}
        assert {name for name in [*file.attrs, *stored] if f"`{name}`" not in text} == set()
        assert stored == set(re.findall(r"dataset `(/\w+)`", text))
    assignments = [np.load(path) for path in (written / "run/scores/assignment").glob("*.npy")]
    scores = [np.load(path) for path in (written / "run/scores").glob("prototype_distance.*/*.npy")]

    assert {array.dtype for array in assignments} == {ASSIGNMENT_DTYPE}
    assert [name for name in ASSIGNMENT_DTYPE.names if f"`{name}`" not in text] == []
    assert sorted((str(array.dtype), array.shape) for array in scores) == [("float32", (8,)), ("float32", (10,))]


def test_format_describes_the_selection(written, specification):
    text = section(specification, "3. Prototypes")
    file = pq.ParquetFile(written / "run/selection.parquet")
    schema = file.schema_arrow
    words = {"dictionary": "dictionary of strings", "float": "float32"}
    found = [[field.name, words.get(str(field.type).split("<")[0], str(field.type))] for field in schema]
    metadata = json.loads(schema.metadata[b"sspruning"])

    assert [row[:2] for row in table(text)] == found
    assert [name for name in (*PRUNED_REASON.values(), "kept", "pruned") if f"`{name}`" not in text] == []
    assert [key for key in metadata if f"`{key}`" not in text] == []
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [10, 8]
    extra = {"metric", "distance", "n_clusters", "content", "dropped", "nested"}
    assert set(metadata["settings"]) == {*Config().select.as_json(), *extra}


def test_format_names_every_file_and_folder(written, specification):
    tree = specification.split("```")[1]
    found = {path.relative_to(written) for top in ("run", "pruned") for path in (written / top).rglob("*")}
    places = {"parts", "quarantine", "logs", "assignment"}
    named = {path.name for path in found if not places & set(path.parent.parts) and path.parent.parent.name != "scores"}
    known = {*re.findall(r"[\w.-]+", tree), "assignment"}

    assert {name for name in named if name not in known and not name.startswith("prototype_distance.")} == set()


def test_the_ledger_of_a_written_run_holds(written):
    selection = pq.read_table(written / "run/selection.parquet")
    records = [json.loads(path.read_text()) for path in (written / "run/store/parts").glob("*.json")]
    manifest = json.loads((written / "pruned/.sspruning/manifest.json").read_text())
    sizes = json.loads((written / "pruned/sizes.json").read_text())

    for record in records:
        assert record["n_samples"] == record["n_rows"] + sum(record["skipped"].values())
    assert sum(record["n_rows"] for record in records) == selection.num_rows == manifest["n_embedded"]
    assert round(0.8 * selection.num_rows) == sum(selection.column("kept").to_pylist()) == manifest["n_kept"]
    assert sum(shard["n_samples"] for shard in manifest["shards"]) == sum(sizes.values()) == manifest["n_kept"]
    for shard in manifest["shards"]:
        assert (written / "pruned" / shard["name"]).stat().st_size == shard["size"]
        assert shard["size"] % 10_240 == 0
