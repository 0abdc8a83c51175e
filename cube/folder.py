"""The folder of a build: where its parts lie, and whether it is ours to write in."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from catalog.errors import UsageError

__all__ = ["BuildFolder"]


@dataclass(frozen=True)
class BuildFolder:
    """Paths of the parts of a build."""

    root: Path

    @property
    def config(self) -> Path:
        """The configuration the folder was made with."""
        return self.root / "config.yaml"

    @property
    def sources(self) -> Path:
        """All scans found, as a STAC ItemCollection."""
        return self.root / "sources.json"

    @property
    def completeness(self) -> Path:
        """Scan by channel: what the archive has."""
        return self.root / "completeness.csv"

    @property
    def plan(self) -> Path:
        """One row a tile."""
        return self.root / "plan.parquet"

    @property
    def ledger(self) -> Path:
        """What is done."""
        return self.root / "ledger.jsonl"

    @property
    def index(self) -> Path:
        """Cached references per file."""
        return self.root / "index"

    @property
    def references(self) -> Path:
        """The virtual cube of the scans used."""
        return self.root / "references"

    @property
    def archive(self) -> Path:
        """Files fetched from S3, where no local archive is given."""
        return self.root / "archive"

    @property
    def tiles(self) -> Path:
        """The tile store."""
        return self.root / "tiles.zarr"

    @property
    def previews(self) -> Path:
        """Thumbnails and contact sheet."""
        return self.root / "previews"

    @property
    def errors(self) -> Path:
        """What failed and why; absent when nothing did."""
        return self.root / "errors.csv"

    @property
    def report(self) -> Path:
        """What was asked and what was made."""
        return self.root / "report.md"

    @property
    def catalog(self) -> Path:
        """The STAC catalog."""
        return self.root / "catalog.json"

    def claim(self, described: dict[str, Any], digest: str, *, overwrite: bool) -> None:
        """Make the folder this build's, or continue the build of the same configuration that is in it.

        Raises
        ------
        UsageError
            If it cannot be written, holds a build of another configuration, or holds something else.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if overwrite:
                self._remove_build()
            if self.config.exists():
                self._check_same(described, digest)
                return
            if any(self.root.iterdir()):
                raise UsageError(
                    f"{self.root} is not empty and holds no build ({next(self.root.iterdir()).name} is there); "
                    "choose another --output-dir"
                )
            temporary = self.config.with_suffix(".part")
            made = {
                "created": datetime.now(UTC).replace(tzinfo=None, microsecond=0),
                "digest": digest,
                "build": described,
            }
            temporary.write_text(yaml.safe_dump(made, sort_keys=False))
            temporary.replace(self.config)
        except OSError as error:
            raise UsageError(
                f"output folder {self.root} cannot be written ({error.strerror}); choose another --output-dir"
            ) from error

    def described(self) -> dict[str, Any]:
        """Return the configuration the folder was made with.

        Raises
        ------
        UsageError
            If there is no build in the folder.
        """
        try:
            return dict(yaml.safe_load(self.config.read_text())["build"])
        except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
            raise UsageError(
                f"{self.root} holds no build (no readable config.yaml); give a build's --output-dir"
            ) from error

    def created(self) -> datetime:
        """When the build was begun, naive UTC: the only time that the catalog tells, so that it can be rewritten."""
        created: datetime = yaml.safe_load(self.config.read_text())["created"]
        return created

    def _check_same(self, described: dict[str, Any], digest: str) -> None:
        stored = yaml.safe_load(self.config.read_text())
        if stored["digest"] == digest:
            return
        there = stored["build"]
        differing = [k for k in {**there, **described} if there.get(k) != described.get(k)]
        told = "; ".join(f"{k} is {there.get(k)!r} there and {described.get(k)!r} here" for k in differing[:3])
        raise UsageError(
            f"{self.root} holds a build of another configuration ({told}); "
            "choose another --output-dir or pass --overwrite"
        )

    def _remove_build(self) -> None:
        """Remove a build, and only a build: a folder without our config is never emptied."""
        if not self.config.exists():
            return
        for path in self.root.iterdir():
            if path == self.archive:
                continue  # fetched files are sources, slow to get and valid for any build
            shutil.rmtree(path) if path.is_dir() else path.unlink()
