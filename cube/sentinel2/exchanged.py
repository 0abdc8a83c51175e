"""Whether two bands of a scene lie in each other's files, by what they show on other dates.

The files of two bands that are exchanged have right names, sizes and places, and no two bands have the same pixels. Of
a scene from an archive a digest tells (``manifest.safe``); without one only other dates do. A pair is taken for
exchanged if all of these hold, whose bounds were set on five dates near Exeter and five of tile 33TWL (B02, B03, B04
and B08):

- ``APART``: the difference of the two bands is nearer to that of other dates turned round than to itself. Haze adds to
  both and does not count. Seen: 0.63 and less, so 1.6 and more of bands that are exchanged.
- ``TURNED``: the correlation of the differences. Seen: 0.18 and more.
- ``NEARER``: each band is nearer to what the other is on other dates than to itself. Seen: 0.99 and less, of bands as
  near to each other as red and blue. Ground that turns green between dates fulfils the others, and has about 1 here.
- from ``SURE`` on nothing on the ground does it, as where near infrared is exchanged with what is seen: 5 and more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

__all__ = ["APART", "NEARER", "SURE", "TURNED", "Exchange", "exchanges_in", "told_exchange"]

APART = 1.25
TURNED = -0.1
NEARER = 1.03
SURE = 2.5

_F = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Exchange:
    """Two bands, by their numbers, that seem to be exchanged."""

    one: int
    two: int
    sure: bool
    """Whether nothing on the ground would look so."""


def exchanges_in(values: _F, usual: _F) -> tuple[Exchange, ...]:
    """Find pairs of bands each of which is what the other is on other dates.

    Parameters
    ----------
    values
        Of one scene, shape (bands, pixels), all known.
    usual
        Median of other dates, of the same shape.
    """
    own = np.abs(values - usual).mean(axis=1)
    found = []
    for one, two in combinations(range(len(values)), 2):
        nearer = (np.abs(values[one] - usual[two]).mean() + np.abs(values[two] - usual[one]).mean()) * NEARER
        if not own[one] + own[two] > nearer:
            continue
        seen, wanted = values[one] - values[two], usual[one] - usual[two]
        if not np.abs(seen - wanted).mean() > APART * np.abs(seen + wanted).mean():
            continue
        seen, wanted = seen - seen.mean(), wanted - wanted.mean()
        if seen @ wanted < TURNED * np.sqrt((seen @ seen) * (wanted @ wanted)):
            found.append(Exchange(one, two, bool(own[one] + own[two] > SURE / NEARER * nearer)))
    return tuple(found)


def told_exchange(cells: Sequence[tuple[Sequence[Exchange], int]]) -> Exchange | None:
    """What all cells tell: a pair that is exchanged in more than half of the pixels compared.

    Parameters
    ----------
    cells
        What each found, and how many pixels it compared.
    """
    pixels: dict[tuple[int, int], int] = defaultdict(int)
    sure: dict[tuple[int, int], int] = defaultdict(int)
    for found, compared in cells:
        for pair in found:
            pixels[pair.one, pair.two] += compared
            sure[pair.one, pair.two] += compared * pair.sure
    if not pixels:
        return None
    (one, two), most = max(pixels.items(), key=lambda item: item[1])
    if 2 * most <= sum(compared for _, compared in cells):
        return None
    return Exchange(one, two, 2 * sure[one, two] > most)
