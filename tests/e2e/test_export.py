"""Pruned samples go out to trainers that read no tar, from the command line."""

from pathlib import Path


def test_kept_images_become_files_and_a_list_of_them(work, corpus, call):
    call("-q", "embed", "shards", "--store", "store", "--encoder", "pixels", "--executor", "inline")
    call("-q", "select", "store", "--keep-fraction", "0.5", "--output", "pruned", "--executor", "inline")
    folder = ("export", "pruned", "--to", "folder", "-o", "images", "--option", "members=image")
    said = call(*folder).stdout
    assert "30 samples" in said
    assert "files: 30, 30 of them written now" in said
    assert (
        "30, 0 of them"
        in call("export", "pruned", "--to", "folder", "-o", "images", "--option", "members=image").stdout
    )
    call("export", "store", "--to", "filelist", "-o", "list.txt", "--option", "root=images")

    paths = [Path(line) for line in (work / "list.txt").read_text().splitlines()]
    assert len(paths) == 30
    for path in paths:
        key, _, suffix = str(path.relative_to(work / "images")).rpartition(".")
        assert path.read_bytes() == corpus[key][suffix]
    assert "Known: atlas" in call("export", "pruned", "--to", "foldr", "-o", "x", code=2).output
    assert "no finished pruned shards" in call("export", "store", "--to", "mds", "-o", "x", code=2).output
