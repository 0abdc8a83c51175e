"""Several sources as one, by weight."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from loaders.batch import PackedBatch, join
from loaders.labels import share_classes
from loaders.loader import Source
from loaders.order import Pick
from stratacube.errors import UsageError

__all__ = ["Mixture"]


class Mixture(Dataset[PackedBatch]):
    """Samples of several sources in one order, such as the stores of several years, or of two instruments.

    Classes of text labels are numbered alike in all sources, by :attr:`classes`.

    Parameters
    ----------
    sources
        Tile datasets, cube datasets.
    shares
        Of each in an epoch, relative; None gives every sample once. A source with a share beyond its size is seen
        several times an epoch, one with less goes on in the next epoch where this one ended.
    """

    def __init__(self, sources: Sequence[Source], shares: Sequence[float] | None = None) -> None:
        if not sources:
            raise UsageError("a mixture needs at least one source")
        if shares is not None and len(shares) != len(sources):
            raise UsageError(f"{len(sources)} sources need as many shares, not {list(shares)}")
        self.sources = tuple(sources)
        self.sizes: tuple[int, ...] = tuple(sum(s.sizes) for s in sources)
        self.shares: tuple[float, ...] = tuple(float(s) for s in shares or ())
        self.fingerprint = hashlib.sha256(repr([s.fingerprint for s in sources]).encode()).hexdigest()[:16]
        self.classes: dict[str, list[str]] = self.number_classes()
        self._starts = np.concatenate([[0], np.cumsum(self.sizes)])

    def number_classes(self) -> dict[str, list[str]]:
        """Number classes alike in all sources, and return their names by label."""
        labelled: list[Any] = [s for s in self.sources if hasattr(s, "classes")]
        labels = dict.fromkeys(label for s in labelled for label in s.classes)
        return {label: share_classes(labelled, label) for label in labels}

    def __len__(self) -> int:
        return sum(self.sizes)

    def sample_weights(self) -> tuple[Any, ...]:
        """Weights of the samples of each source."""
        return tuple(w for s in self.sources for w in s.sample_weights())

    def share_memory(self) -> None:
        """See :meth:`loaders.tiles.TileDataset.share_memory`."""
        for source in self.sources:
            source.share_memory()

    def __getitem__(self, index: int | Pick) -> PackedBatch:
        """Read one sample."""
        return self.__getitems__([index])

    def renumber(self, label: str, classes: Sequence[str]) -> None:
        """See :meth:`loaders.tiles.TileDataset.renumber`."""
        for source in self.sources:
            source.renumber(label, classes)  # type: ignore[attr-defined]
        self.classes[label] = list(classes)

    def __getitems__(self, draws: Sequence[int | Pick]) -> PackedBatch:
        """Read a batch: the samples of each source together, those of the first source first."""
        parts = []
        for k, chosen in self.by_source(draws).items():
            part = self.sources[k].__getitems__([draw for _, draw in chosen])
            parts.append(replace(part, meta=part.meta | {"source": torch.full((len(part),), k)}))
        return join(parts)

    def by_source(self, draws: Sequence[int | Pick]) -> dict[int, list[tuple[int, int | Pick]]]:
        """Deal draws to the sources they are of: by source, places among the draws, and draws as that source counts."""
        found: dict[int, list[tuple[int, int | Pick]]] = {}
        for place, draw in enumerate(draws):
            number = draw.sample if isinstance(draw, Pick) else int(draw)
            source = int(np.searchsorted(self._starts, number, side="right")) - 1
            if not 0 <= source < len(self.sources):
                raise IndexError(f"sample {number} of {len(self)}")
            local = number - int(self._starts[source])
            own = draw._replace(sample=local) if isinstance(draw, Pick) else local
            found.setdefault(source, []).append((place, own))
        return dict(sorted(found.items()))
