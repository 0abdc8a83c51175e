"""The folder of a build: where its parts lie, and whether it is ours to write in."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import yaml

from stratacube.errors import UsageError

__all__ = ["BuildFolder"]


@dataclass(frozen=True)
class BuildFolder:
    """Paths of the parts of a build."""

    root: Path

    PARTS: ClassVar[tuple[str, ...]] = (
        ".publish",
        "catalog.json",
        "completeness.csv",
        "config.part",
        "config.yaml",
        "convection_lifetimes.csv",
        "convection_metadata.csv",
        "errors.csv",
        "index",
        "ledger.jsonl",
        "plan.parquet",
        "plan.part",
        "previews",
        "references",
        "report.md",
        "report.part",
        "sources",
        "sources.json",
        "sources.part",
        "tiles",
        "tiles.zarr",
    )
    """Names that a build may have in its folder: all that overwriting one removes."""

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

        A build that has not got as far as a plan gives way to another configuration.

        Raises
        ------
        UsageError
            If it cannot be written, holds a build of another configuration, or holds something else.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            there = self._stored()
            # Its configuration is the first that a build writes: where it is not, nothing but the archive is a build's.
            begun = self.config.with_suffix(".part").name, self.archive.name
            foreign = [] if there else sorted(p.name for p in self.root.iterdir() if p.name not in begun)
            if foreign:
                raise UsageError(
                    f"{self.root} is not empty and holds no build ({foreign[0]} is there); choose another --output-dir"
                )
            if there is not None and there["digest"] == digest and not overwrite:
                return
            if there is not None and self.plan.exists() and not overwrite:
                raise UsageError(self._difference(there["build"], described))
            self._remove_build()
            made = {
                "created": datetime.now(UTC).replace(tzinfo=None, microsecond=0),
                "digest": digest,
                "build": described,
            }
            temporary = self.config.with_suffix(".part")
            temporary.write_text(yaml.safe_dump(made, sort_keys=False))
            temporary.replace(self.config)
        except OSError as error:
            raise UsageError(
                f"output folder {self.root} cannot be written ({error.strerror}); choose another --output-dir"
            ) from error

    def holds(self, digest: str) -> bool:
        """Whether the build of a configuration is in the folder, begun or done."""
        there = self._stored()
        return there is not None and there["digest"] == digest

    def described(self) -> dict[str, Any]:
        """Return the configuration the folder was made with.

        Raises
        ------
        UsageError
            If there is no build in the folder.
        """
        there = self._stored()
        if there is None:
            raise UsageError(f"{self.root} holds no build (no config.yaml of one); give a build's --output-dir")
        return dict(there["build"])

    def created(self) -> datetime:
        """When the build was begun, naive UTC: the only time that the catalog tells, so that it can be rewritten."""
        created: datetime = yaml.safe_load(self.config.read_text())["created"]
        return created

    def _stored(self) -> dict[str, Any] | None:
        """What ``config.yaml`` says, if it is that of a build."""
        try:
            stored = yaml.safe_load(self.config.read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            return None
        ours = isinstance(stored, dict) and {"created", "digest", "build"} <= stored.keys()
        return stored if ours else None

    def _difference(self, there: dict[str, Any], described: dict[str, Any]) -> str:
        differing = [k for k in {**there, **described} if there.get(k) != described.get(k)]
        told = "; ".join(f"{k} is {there.get(k)!r} there and {described.get(k)!r} here" for k in differing[:3])
        return (
            f"{self.root} holds a build of another configuration ({told}); "
            "choose another --output-dir or pass --overwrite"
        )

    def _remove_build(self) -> None:
        """Remove the parts of a build and nothing else; fetched files stay, being sources. The mark goes last."""
        for name in (*(n for n in self.PARTS if n != self.config.name), self.config.name):
            path = self.root / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
