"""Where the artefacts of a store lie, and the settings that were last used on it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from sspruning.config import Config, load_config
from sspruning.errors import UsageError
from sspruning.storage.atomic import sweep, write_bytes
from sspruning.storage.digests import drop_damaged, list_files
from sspruning.storage.lock import alone_in

__all__ = ["Workspace"]

ARTEFACTS = (
    "config.yaml",
    "prototypes.h5",
    "selection.parquet",
    "selection-[0-9]*.parquet",
    "contaminated.parquet",
)
"""Files of a workspace for which no other file vouches."""
CONFIG_HEADER = "# Settings last used here, written by sspruning.\n"


def _is_ours(path: Path) -> bool:
    """True if a configuration was written by `Workspace.save_config`, not by a person; an empty one is damaged."""
    try:
        with path.open(encoding="utf-8") as stream:
            return stream.readline() in {CONFIG_HEADER, ""}
    except (OSError, UnicodeDecodeError):
        return False


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where the artefacts of one store lie: in the run folder around it, or inside the store when it stands alone."""

    root: Path
    store: Path

    @classmethod
    def of(cls, folder: Path) -> Workspace:
        """The workspace of a store, or of a run folder that holds one."""
        if (folder / "store" / "store.json").exists():
            return cls(folder, folder / "store")
        if folder.name == "store" and _is_ours(folder.parent / "config.yaml"):
            return cls(folder.parent, folder)
        return cls(folder, folder)

    @property
    def config(self) -> Path:
        """The settings that were last used, stage by stage."""
        return self.root / "config.yaml"

    @property
    def prototypes(self) -> Path:
        """The clustering."""
        return self.root / "prototypes.h5"

    @property
    def rounds(self) -> Path:
        """Work folder of a clustering over all embeddings; gone when that is done."""
        return self.root / "rounds"

    @property
    def scores(self) -> Path:
        """Folder of assignments and scores."""
        return self.root / "scores"

    @property
    def selection(self) -> Path:
        """The last selection."""
        return self.root / "selection.parquet"

    def selection_of(self, fraction: float) -> Path:
        """One of several selections, by the fraction that it keeps."""
        return self.root / f"selection-{fraction:g}.parquet"

    @property
    def events(self) -> Path:
        """Log for machines."""
        return self.root / "events.jsonl"

    def alone(self, task: tuple[int, int] | None = None) -> AbstractContextManager[None]:
        """A block in which no other run works here; beside a ``task`` of an array the others of that array do.

        Raises:
            MachineError: one does.
        """
        return alone_in(self.root, task)

    def sweep_scores(self) -> None:
        """Remove what dead processes left unfinished among the scores."""
        for folder in (self.scores, *self.scores.glob("*")):
            sweep(folder)

    def has_files(self) -> bool:
        """True if there is anything that ``digests.json`` has to list."""
        found = {path for pattern in ARTEFACTS for path in self.root.glob(pattern)}
        return bool(found - {self.config}) or (self.config.exists() and _is_ours(self.config))

    def drop_damaged(self) -> list[Path]:
        """Files removed because they are not what their digest says, all of which are made again by whoever needs them.

        Not the settings, which a person may have changed.
        """
        return [*drop_damaged(self.root, keep=[self.config]), *drop_damaged(self.scores)]

    def list_files(self, *made: Path) -> None:
        """Bring ``digests.json`` up to date after the files ``made`` were made, and only those."""
        drop_damaged(self.root, keep=[self.config, *made])
        list_files(self.root, [path for pattern in ARTEFACTS for path in self.root.glob(pattern)])

    def worked_in(self) -> list[Path]:
        """Folders that workers write into."""
        return [self.store / "parts", self.rounds, self.scores / "assignment"]

    def load_config(self, overrides: list[str] | None = None) -> Config:
        """Settings last used here, with overrides on top; the defaults where there are none."""
        return load_config(self.config if self.config.exists() else None, overrides)

    def save_config(self, config: Config) -> None:
        """Keep the settings, so that later verbs go on with them. An unchanged file is left alone.

        Raises:
            UsageError: a person's own file stands there.
        """
        if self.config.exists() and not _is_ours(self.config):
            raise UsageError(f"{self.config}: not written by sspruning, so it is left alone; name another folder")
        text = CONFIG_HEADER + config.to_yaml()
        if not self.config.exists() or self.config.read_text(encoding="utf-8") != text:
            write_bytes(self.config, text.encode())
        self.list_files()
