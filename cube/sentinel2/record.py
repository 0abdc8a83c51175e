"""What a build knows of its scenes, in its ledger: which files were verified, and what was decided on each product."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from catalog.sentinel2.items import Product
from catalog.sentinel2.lists import Told
from catalog.sentinel2.tiles import size_remark
from catalog.sentinel2.transfers import Transfers
from cube.job.ledger import Entry, Ledger
from cube.sentinel2.digests import NO_DIGEST, fingerprint, kind_of, listed
from cube.sentinel2.plausible import Verdict
from stratacube.errors import SourceError

__all__ = ["SEVERITY", "SceneRecord", "joined_scene"]

_log = logging.getLogger(__name__)

_DIGESTS, _VERDICT = "digests ", "verdict "

SEVERITY = {"used": 0, "marked": 1, "refused": 2}
"""Decisions on a scene, the gravest last."""


def joined_scene(there: Entry, new: Entry) -> Entry:
    """Join what two jobs tell of one scene, or of the files of one folder; of anything else the new stands."""
    if new.key.startswith(_DIGESTS):
        return replace(new, facts={**there.facts, **new.facts})
    if not new.key.startswith(_VERDICT):
        return new
    decided = [str(entry.facts.get("decision")) for entry in (there, new)]
    if "refused" in decided and decided[0] != decided[1]:
        product, other = new.key.removeprefix(_VERDICT), next(d for d in decided if d != "refused")
        _log.warning("%s was refused for some cells and %s for others; their items tell which", product, other)
    return there if SEVERITY.get(decided[0], -1) > SEVERITY.get(decided[1], -1) else new


class SceneRecord:
    """Reads and writes it.

    Parameters
    ----------
    ledger
        Of the build.
    archive
        Folder that files are fetched into; what was verified when it was fetched is not verified again.
    """

    def __init__(self, ledger: Ledger, archive: Path) -> None:
        self.ledger = ledger
        self._transfers = Transfers(archive)
        self._listed: dict[str, Mapping[str, str | None]] = {}

    def is_verified(self, path: Path, digest: str) -> bool:
        """Whether a file was found to have a digest, and is as it was then."""
        try:
            told = fingerprint(path, digest)
            return self._of(path).get(str(path)) == told or self._transfers.is_good(path, digest)
        except OSError:
            return False

    def _of(self, path: Path) -> Mapping[str, str]:
        entry = self.ledger.entries.get(_DIGESTS + str(path.parent))
        return entry.facts if entry is not None else {}

    def verified(self, files: Sequence[tuple[str, str]]) -> None:
        """Remember files that have their digests, one entry a folder."""
        folders: dict[str, dict[str, str]] = {}
        for path, told in files:
            folders.setdefault(str(Path(path).parent), dict(self._of(Path(path))))[path] = told
        for folder, facts in folders.items():
            self.ledger.record(Entry(_DIGESTS + folder, "done", facts=facts))

    def decided(self, product: str, verdict: Verdict) -> None:
        """Remember what was decided on a product."""
        facts = {"decision": verdict.decision, "reason": verdict.reason}
        known = self.ledger.entries.get(_VERDICT + product)
        if known is None or dict(known.facts) != facts:
            self.ledger.record(Entry(_VERDICT + product, "done", facts=facts))

    def verdict(self, product: str) -> Verdict | None:
        """What was decided; None where nothing was yet."""
        entry = self.ledger.entries.get(_VERDICT + product)
        if entry is None or entry.facts.get("decision") not in ("used", "marked", "refused"):
            return None
        return Verdict(entry.facts["decision"], entry.facts.get("reason", ""))  # type: ignore[arg-type]

    def marked(self) -> dict[str, str]:
        """Products that are used though something is odd about them, and what."""
        names = [key.removeprefix(_VERDICT) for key in self.ledger.entries if key.startswith(_VERDICT)]
        verdicts = {name: self.verdict(name) for name in names}
        return {name: v.reason for name, v in verdicts.items() if v is not None and v.decision == "marked"}

    def told(self, product: Product, key: str, path: str) -> Told:
        """How a file was verified, what was decided on its product, and why: for the lists of scenes and files."""
        verdict, asset = self.verdict(product.id), product.assets[key]
        decision, reason = (verdict.decision, verdict.reason) if verdict is not None else ("", "")
        part = size_remark(asset.shape, asset.transform)
        return Told(self._verified(product, key, path), decision, "; ".join(filter(None, (reason, part))))

    def _verified(self, product: Product, key: str, path: str) -> str:
        if product.id not in self._listed:
            try:
                self._listed[product.id] = listed(product)
            except SourceError as error:
                return f"not verified: {error}"
        known = self._listed[product.id]
        digest = known.get(path) or product.assets[key].checksum
        if digest is None:
            return NO_DIGEST
        return kind_of(digest) if self.is_verified(Path(path), digest) else "not verified yet"
