"""Sources of different kinds in one order, such as tiles of an imager and windows of composites.

Their samples cannot be put one after another: bands, frames and sizes differ. A batch keeps those of each source apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from loaders.batch import Batch, PackedBatch
from loaders.loader import Source
from loaders.mixture import Mixture
from loaders.order import Pick
from loaders.travel import Tensors

__all__ = ["Apart", "DecodeParts", "PackedParts", "Parts"]


@dataclass(frozen=True)
class PackedParts(Tensors):
    """A batch as stored."""

    parts: dict[str, PackedBatch]
    """By name of the source; those of which the batch has samples."""
    places: dict[str, tuple[int, ...]]
    """Of the samples of each, in the order in which the batch was drawn."""

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))

    @property
    def meta(self) -> dict[str, Tensor]:
        """What all parts tell alike: ``failed`` samples, if some source reads such."""
        failed = [part.meta["failed"] for part in self.parts.values() if "failed" in part.meta]
        return {"failed": torch.cat(failed)} if failed else {}


@dataclass(frozen=True)
class Parts(Tensors):
    """A batch ready for a model; see :class:`PackedParts`."""

    parts: dict[str, Batch]
    places: dict[str, tuple[int, ...]]

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))


class Apart(Mixture):
    """Samples of several sources in one order, kept apart within each batch.

    Parameters
    ----------
    sources
        By name.
    shares
        Of each in an epoch, in the same order; see :class:`loaders.mixture.Mixture`.
    """

    def __init__(self, sources: Mapping[str, Source], shares: Sequence[float] | None = None) -> None:
        super().__init__(list(sources.values()), shares)
        self.names = tuple(sources)

    def number_classes(self) -> dict[str, list[str]]:
        """Leave classes as each source numbers them: they are labels of different things."""
        return {}

    def __getitems__(self, draws: Sequence[int | Pick]) -> PackedParts:  # type: ignore[override]
        """Read a batch: the samples of each source together."""
        parts: dict[str, PackedBatch] = {}
        places: dict[str, tuple[int, ...]] = {}
        for source, chosen in self.by_source(draws).items():
            name = self.names[source]
            part = self.sources[source].__getitems__([draw for _, draw in chosen])
            parts[name] = replace(part, meta=part.meta | {"source": torch.full((len(part),), source)})
            places[name] = tuple(place for place, _ in chosen)
        return PackedParts(parts, places)


class DecodeParts(nn.Module):
    """Decodes the samples of each source by its own decoder.

    Parameters
    ----------
    decoders
        By name of the source.
    """

    def __init__(self, decoders: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.decoders = nn.ModuleDict(decoders)

    def forward(self, packed: PackedParts) -> Parts:
        """Decode a batch."""
        decoded: dict[str, Any] = {name: self.decoders[name](part) for name, part in packed.parts.items()}
        return Parts(decoded, packed.places)
