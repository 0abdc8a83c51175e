"""Which scenes of a build are used: their files verified, their pixels held against their neighbours in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from catalog.sentinel2.places import wanted_keys
from cube.sentinel2.acquisitions import Acquisition
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.digests import Check, checks_of
from cube.sentinel2.folder import Sentinel2Folder
from cube.sentinel2.plan import PlannedCell
from cube.sentinel2.plausible import Evidence, Verdict, evidence_of, judge
from cube.sentinel2.record import SEVERITY, SceneRecord
from cube.sentinel2.sampling import read_samples
from cube.sentinel2.scenes import SceneResult

__all__ = ["Judging"]

_CLOUDY = (8, 9, 11)
"""Scene classes of clouds and snow that have to be masked for dates to be compared."""


class Judging:
    """Decides, and remembers what it decided.

    Parameters
    ----------
    config
        The build.
    folder
        Its folder.
    record
        Where it is remembered.
    """

    def __init__(self, config: Sentinel2Config, folder: Sentinel2Folder, record: SceneRecord) -> None:
        self.config, self.folder, self.record = config, folder, record
        self._remarks: dict[str, list[str]] = {}
        self._told: dict[str, Verdict] = {}

    def checks(self, acquisition: Acquisition) -> tuple[Check, ...]:
        """Return the files of an acquisition that were not verified yet."""
        if self.config.verify_digests == "never":
            return ()
        bands = [key for _, key in self.config.asset_keys()]
        return tuple(
            check
            for product in acquisition.products
            for check in checks_of(product, wanted_keys(product, bands), self.record.is_verified)
        )

    def note(self, result: SceneResult) -> None:
        """Remember what a scene told when it was read."""
        self.record.verified(result.verified)
        for product, text in result.remarks:
            self._remarks.setdefault(product, []).append(text)
        for product, _, reason in result.dropped:
            self._decide(product, Verdict("refused", reason))

    def refusals(
        self, cells: Sequence[PlannedCell], acquisitions: Mapping[str, Acquisition], lost: Mapping[str, set[str]]
    ) -> dict[str, str]:
        """Judge the acquisitions that reach some cells, and return those to leave out, with the reason.

        Parameters
        ----------
        cells
            Cells whose scenes are made.
        acquisitions
            All of the plan.
        lost
            By acquisition, its products that could not be read.
        """
        evidence: dict[str, list[Evidence]] = {}
        for cell in cells:
            found = {key: read_samples(self.folder.scenes / key, cell.cell.id) for key in cell.acquisitions}
            seen = {key: samples for key, samples in found.items() if samples is not None}
            for key, told in zip(seen, evidence_of(np.stack(list(seen.values()))) if seen else (), strict=True):
                evidence.setdefault(key, []).append(told)
        clear = set(_CLOUDY) <= set(self.config.mask_classes)
        refused = {}
        for key, verdict in judge(evidence, self.config.bands, clear=clear).items():
            if verdict.decision == "refused" and self.config.odd_scenes == "mark":
                verdict = Verdict("marked", verdict.reason)  # noqa: PLW2901
            if verdict.decision == "refused":
                refused[key] = verdict.reason
            for product in acquisitions[key].products:
                if product.id not in lost.get(key, ()):
                    self._decide(product.id, verdict)
        return refused

    def _decide(self, product: str, verdict: Verdict) -> None:
        """Remember the gravest of what is told of a product in a run; remarks make one odd that is used."""
        remarks = dict.fromkeys(self._remarks.get(product, ()))
        if remarks and verdict.decision != "refused":
            odd = (verdict.reason,) if verdict.decision == "marked" else ()
            verdict = Verdict("marked", "; ".join((*odd, *remarks)))
        before = self._told.get(product)
        if before is None or SEVERITY[verdict.decision] > SEVERITY[before.decision]:
            self._told[product] = verdict
            self.record.decided(product, verdict)
