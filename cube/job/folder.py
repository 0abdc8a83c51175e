"""The folder of a build: where its parts lie, whether it is ours to write in, and that one run at a time does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import yaml

from cube.job.ledger import Entry, Ledger
from cube.job.listing import Listing
from cube.job.parts import SHARDS, refuse_living_parts
from cube.plug import imported_of_plug
from cube.registry import SOURCES
from stratacube.choices import many
from stratacube.claim import CLAIM, Fence, claimed
from stratacube.errors import StratacubeError, UsageError
from stratacube.files import Written, digest_of, is_stray, recorded, remove, remove_strays, write_text
from stratacube.plain_yaml import parse_yaml

__all__ = ["FORMAT", "RULES", "BuildFolder"]

FORMAT = 3
"""Of folders and stores. 1 (0.1.0, which wrote no number) recorded no digests; stores of 2 told of no instrument, and
held every band on the grid."""

_UNKNOWN = "unknown"
_GROWING = "growing"
"""Key of the ledger: the configuration that a build grows to, told before the one that is there is replaced."""
_RENAMED = {"abi": "geostationary"}
"""Sources that had another name, by that."""

RULES = 3
"""Version of the rules by which a plan is drawn. 2: no two tiles of the same pixels and times. 3: random places by the
seed and their rank, whatever can be read."""


@dataclass(frozen=True)
class BuildFolder:
    """Paths of the parts of a build."""

    root: Path

    PARTS: ClassVar[tuple[str, ...]] = (
        "catalog.json",
        "config.yaml",
        "errors.csv",
        "ledger.jsonl",
        "logs",
        "plan.parquet",
        "report.html",
        "report.md",
        SHARDS,
    )
    """Names that every build may have in its folder."""
    PARAMETER: ClassVar[str] = "output_dir"
    """What the folder is called among the parameters of the build."""
    FORMERLY: ClassVar[Mapping[str, Any]] = {}
    """What builds did that do not tell a key: see :func:`stratacube.settings.formerly`."""
    FOREMOST: ClassVar[tuple[str, ...]] = ()
    """Keys that say what a build is of, which are told first where two builds differ."""
    SOURCE: ClassVar[str] = ""
    """Name of the source whose builds lie in such folders."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Names that a build may have in its folder: all that overwriting one removes."""
        return self.PARTS

    @property
    def config(self) -> Path:
        """The configuration the folder was made with."""
        return self.root / "config.yaml"

    @property
    def plan(self) -> Path:
        """One row a product."""
        return self.root / "plan.parquet"

    @property
    def ledger(self) -> Path:
        """What is done."""
        return self.root / "ledger.jsonl"

    @property
    def archive(self) -> Path:
        """Files fetched, where no local archive is given: sources, kept when a build is removed."""
        return self.root / "archive"

    @property
    def errors(self) -> Path:
        """What failed and why; absent when nothing did."""
        return self.root / "errors.csv"

    @property
    def report(self) -> Path:
        """What was asked and what was made."""
        return self.root / "report.md"

    @property
    def page(self) -> Path:
        """The same with pictures, as one page that opens from disk."""
        return self.root / "report.html"

    @property
    def log(self) -> Path:
        """What the runs said."""
        return self.root / "logs" / "pipeline.log"

    @property
    def catalog(self) -> Path:
        """The STAC catalog."""
        return self.root / "catalog.json"

    @contextmanager
    def opened(self, described: Mapping[str, Any], digest: str, *, overwrite: bool) -> Iterator[Fence]:
        """Own the folder within the block, as this build's: begun now, or gone on with.

        A build that has not got as far as a plan gives way to another configuration.

        Raises
        ------
        ClaimedError
            If another run is at work in it, or a job at a part of it.
        ClaimLostError
            If another run has taken it over within the block.
        UsageError
            If it cannot be written, holds a build of another configuration, or holds something else.
        """
        try:
            self.refuse_foreign()
            self.root.mkdir(parents=True, exist_ok=True)
            with claimed(self.root) as fence:
                refuse_living_parts(self.root)
                self.refuse_foreign()  # another run may have begun, and ended, since
                self._begin(described, digest, overwrite=overwrite)
                try:
                    yield fence
                except Exception:
                    fence.check()  # whatever it stumbled on may be the work of who has taken the folder over
                    raise
        except StratacubeError:
            raise
        except OSError as error:
            if error.filename is None or not Path(str(error.filename)).is_relative_to(self.root):
                raise
            if isinstance(error, IsADirectoryError):
                there = error.filename2 or error.filename  # of a rename, what was to be replaced
                raise UsageError(
                    f"{there} is a folder where a file belongs; remove it and run the same command again"
                ) from error
            raise UsageError(
                f"output folder {self.root} cannot be written ({error.strerror}); choose another `{self.PARAMETER}`"
            ) from error

    def refuse_foreign(self) -> None:
        """Refuse a folder that holds something, and no build.

        Raises
        ------
        UsageError
            If it does.
        """
        if not self.root.exists() or self._stored() or self._recorded():
            return
        # The configuration is the first that a build writes: where it is not, only these can be a build's.
        ours = {*self.beside(), CLAIM, "config.part"}
        foreign = sorted(
            p.name
            for p in self.root.iterdir()
            if p.name not in ours and not (is_stray(p.name) and p.name.startswith(f".{self.config.name}."))
        )
        if foreign:
            raise UsageError(
                f"{self.root} is not empty and holds no build ({foreign[0]} is there); "
                f"choose another `{self.PARAMETER}`"
            )

    def beside(self) -> frozenset[str]:
        """Names in the folder that may be there before a build is: those of its sources."""
        return frozenset({self.archive.name})

    def refuse_other(self, described: Mapping[str, Any], digest: str) -> None:
        """Refuse a folder with the build of another configuration, once that is planned.

        Raises
        ------
        UsageError
            If it holds one.
        """
        there = self._stored()
        if there is not None:
            self._refuse_newer(there)
            planned = self.plan.exists() or "plan" in Ledger(self.ledger).entries
            if there["digest"] != digest and planned and not self._grows(there, described):
                raise UsageError(self._difference(there["build"], described))

    def may_grow(self, before: Mapping[str, Any], described: Mapping[str, Any]) -> bool:
        """Whether a build of one configuration can be gone on with as one of another, which makes more of the same."""
        return False

    def _grows(self, there: Mapping[str, Any], described: Mapping[str, Any]) -> bool:
        """Whether what is there can become what is asked for; what other rules drew is not a part of a larger draw."""
        alike = there.get("format") == FORMAT and there.get("rules") == RULES
        before, now = {**self.FORMERLY, **there["build"]}, {**self.FORMERLY, **described}
        return alike and self.may_grow(before, now)

    def _begin(self, described: Mapping[str, Any], digest: str, *, overwrite: bool) -> None:
        there, recorded_as = self._stored(), self._recorded()
        remove_strays(self.root, deep=False)  # those deeper down go when their part is listed
        remove(self.root / "config.part")
        if recorded_as is not None and not overwrite and not self._is_as_written():
            growing = Ledger(self.ledger).entries.get(_GROWING)
            if growing is not None and growing.facts.get("digest") == digest:  # a run was killed as it grew
                self._renew(described, digest, datetime.fromisoformat(recorded_as.facts["created"]))
            else:
                self._restore(recorded_as, described, digest)
            return
        if there is not None and not overwrite:
            self.refuse_other(described, digest)
            if there["digest"] == digest:
                if recorded_as is None and there.get("format") == FORMAT:  # the ledger was lost: it is to know it again
                    self._record(there["created"], digest, [self._written()])
                return
            if self._grows(there, described) and (self.plan.exists() or "plan" in Ledger(self.ledger).entries):
                Ledger(self.ledger).record(Entry(_GROWING, "done", facts={"digest": digest}))
                self._renew(described, digest, there["created"])
                return
        self._remove_build()
        self._renew(described, digest, datetime.now(UTC).replace(tzinfo=None, microsecond=0))

    def _renew(self, described: Mapping[str, Any], digest: str, created: datetime) -> None:
        """Write the configuration, and let the ledger know it."""
        with recorded(self.root) as written:
            self._write(described, digest, created)
        self._record(created, digest, written)

    def _record(self, created: datetime, digest: str, written: Sequence[Written]) -> None:
        facts = {"created": created.isoformat(), "digest": digest}
        Ledger(self.ledger).record(Entry("config", "done", facts=facts, files=tuple(written)))

    def _written(self) -> Written:
        return Written(self.config.name, self.config.stat().st_size, digest_of(self.config))

    def _write(self, described: Mapping[str, Any], digest: str, created: datetime) -> None:
        made = {
            "format": FORMAT,
            "rules": RULES,
            "source": self.SOURCE,
            "created": created,
            "digest": digest,
            "build": dict(described),
        }
        write_text(self.config, yaml.safe_dump(made, sort_keys=False))

    def _restore(self, entry: Entry, described: Mapping[str, Any], digest: str) -> None:
        """Write a configuration that was lost or altered once more: the ledger knows which it was, and of when."""
        if entry.facts["digest"] != digest:
            raise UsageError(
                f"{self.config} is missing or damaged, and was of another configuration "
                f"({entry.facts['digest']} there, {digest} here); restore it, pass `overwrite`, "
                f"or choose another `{self.PARAMETER}`"
            )
        self._write(described, digest, datetime.fromisoformat(entry.facts["created"]))

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
            remedy = "run its command again, which writes it anew" if self._recorded() else "give the folder of a build"
            raise UsageError(f"{self.root} holds no build (no config.yaml of one); {remedy}")
        self._refuse_newer(there)
        return dict(there["build"])

    def source(self) -> str:
        """Name of the source of the build in the folder; of 0.1.0, which did not write it, by what only one has.

        Raises
        ------
        UsageError
            If there is no build in the folder.
        """
        described = self.described()
        there = self._stored() or {}
        own = {"stratification": "geostationary", "reducer": "sentinel2"}
        name = there.get("source") or next((name for key, name in own.items() if key in described), _UNKNOWN)
        return _RENAMED.get(str(name), str(name))

    def created(self) -> datetime:
        """When the build was begun, naive UTC: the only time that the catalog tells, so that it can be rewritten."""
        created = (self._stored() or {}).get("created")
        if not isinstance(created, datetime):
            raise UsageError(
                f"{self.config} is damaged (it was created at {str(created)[:40]!r}); restore it from a copy, or build "
                "anew with `overwrite`"
            )
        return created

    def _stored(self) -> dict[str, Any] | None:
        """What ``config.yaml`` says, if it is that of a build."""
        try:
            stored = _parsed(self.config.read_text(), str(self.config))
        except (OSError, UnicodeDecodeError, UsageError):
            return None
        ours = isinstance(stored, dict) and {"created", "digest", "build"} <= stored.keys()
        return stored if ours else None

    def _recorded(self) -> Entry | None:
        """What the ledger says of the configuration, if it is that of a build."""
        try:
            entry = Ledger(self.ledger).entries.get("config")
        except OSError:
            return None
        if entry is None or not {"created", "digest"} <= entry.facts.keys():
            return None
        with suppress(ValueError):  # no time: it is not ours
            datetime.fromisoformat(entry.facts["created"])
            return entry
        return None

    def _is_as_written(self) -> bool:
        """Whether the configuration is the one that was written, byte by byte."""
        listing = Listing(self.root)
        return all(listing.holds(files or ()) for _, files in Ledger(self.ledger).files_of(["config"]))

    def _refuse_newer(self, there: Mapping[str, Any]) -> None:
        if not isinstance(there.get("format", 1), int) or not isinstance(there["build"], dict):
            raise UsageError(
                f"{self.config} is damaged (its format is {there.get('format', 1)!r}, its build "
                f"{type(there['build']).__name__}); restore it from a copy, or build anew with `overwrite`"
            )
        if there.get("format", 1) > FORMAT:
            raise UsageError(
                f"{self.root} has format {there['format']} and this version knows formats up to {FORMAT}; "
                "use the version that made it, or a newer one"
            )

    def _difference(self, there: Mapping[str, Any], described: Mapping[str, Any]) -> str:
        before, now = {**self.FORMERLY, **there}, {**self.FORMERLY, **described}
        # What a build is of comes first; what old versions did without, and so decides little, comes last.
        differing = sorted(
            (k for k in {**before, **now} if before.get(k) != now.get(k)),
            key=lambda k: (k not in self.FOREMOST, k in self.FORMERLY),
        )
        told = "; ".join(f"{k} is {before.get(k)!r} there and {now.get(k)!r} here" for k in differing[:3])
        told += f"; and {many(len(differing) - 3, 'more key')}" if len(differing) > 3 else ""
        remedy = f"choose another `{self.PARAMETER}` or pass `overwrite`"
        if all(k in self.FORMERLY and k not in there for k in differing):
            given = " ".join(f"`{k}={before[k]}`" for k in differing)
            remedy = f"go on with it by {given}, {remedy}"
        return f"{self.root} holds a build of another configuration ({told}); {remedy}"

    def _remove_build(self) -> None:
        """Remove the parts of a build and nothing else; fetched files stay, being sources. The mark goes last."""
        parts = {*self.parts, *(self._parts_there() if self._stored() else ())} - {self.config.name}
        for name in (*sorted(parts), self.config.name):
            remove(self.root / name)

    def _parts_there(self) -> tuple[str, ...]:
        """Names that the build in the folder may have there, which may be of another source."""
        source = self.source()
        if source in (self.SOURCE, _UNKNOWN):
            return ()
        if source not in SOURCES.names():
            raise UsageError(
                f"{self.root} holds a build of the source {source!r}, which is not known here, so that its parts are"
                f" not either; remove it, or choose another `{self.PARAMETER}`"
            )
        of: type[BuildFolder] = imported_of_plug(SOURCES.load(source).inspection).folder
        return of(self.root).parts


def _parsed(text: str, name: str) -> Any:
    """Parse the configuration, which a run asks for again and again; what is returned is the caller's own."""
    return deepcopy(_parsed_once(text, name))


_parsed_once = lru_cache(8)(parse_yaml)
