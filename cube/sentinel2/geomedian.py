"""Geometric median: the spectrum from which those observed lie nearest in sum, so that bands stay of one kind.

Roberts, Mueller and McIntyre 2017, "High-dimensional pixel composites from Earth observation time series". Weiszfeld's
iteration goes there by ever smaller steps; here they are extrapolated by Anderson's method of depth one (Walker and Ni
2011), over all pixels of a block at once, and the few pixels that are still moving are ended by Newton's.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from cube.sentinel2.reduce import Reducer

__all__ = ["GEOMEDIAN", "geometric_median"]

_F = npt.NDArray[np.float32]
_D = npt.NDArray[np.float64]

_PIXELS = 2048
"""Pixels that are solved at once: their votes in one band stay in the processor's cache."""

_GATHERED = 8
"""Blocks that are sorted by their number of votes together, so that those of one block have about as many."""

_STEP, _FORCE = 0.2, 0.05
"""Numbers, a ten thousandth of reflectance each, below which the extrapolated step and Weiszfeld's own end a pixel."""

_ERROR = 0.5
"""Numbers that a pixel may be off where it ends."""

_BESIDE = 1.0
"""Nearer to a vote than this the sum of distances is no smooth bowl."""

_SLOW = 8
"""Steps that an extrapolation may span: it is less sure where Weiszfeld's steps shrink more slowly."""

_SWEEPS = 12
_NEWTON_SWEEPS = 40
_ENDED = 1 << 19
"""Votes in all bands of the pixels that are ended together: eight arrays of so many doubles take 34 MB."""

_NEWTON_STEP = 1e-2
_HALVINGS = 20
_NEAR = np.float32(1e-2)
"""Square of the least distance: a vote on which the median lies weighs much, not infinitely."""

_HEAVY = 0.5
"""Where one vote weighs more than all others together the median may be that vote: float32 does not tell."""


def geometric_median(stack: _F) -> _F:
    """Geometric median of the votes that are seen in all bands.

    Of one vote it is that vote, of two the mean of both, between which any point would do.

    Parameters
    ----------
    stack
        Harmonised numbers, shape (bands, votes, rows, cols); NaN where not seen.

    Returns
    -------
    numpy.ndarray
        Shape (bands, rows, cols), within 1 of the exact solution; NaN where no vote is seen in all bands.
    """
    bands, votes = stack.shape[:2]
    flat = stack.reshape(bands, votes, math.prod(stack.shape[2:]))
    out = np.full((bands, flat.shape[2]), np.nan, "f4")
    for start in range(0, flat.shape[2] if votes else 0, _PIXELS * _GATHERED):
        part = flat[:, :, start : start + _PIXELS * _GATHERED]
        seen = ~np.isnan(part).any(axis=0)
        count = seen.sum(axis=0)
        first = np.argsort(~seen, axis=0, kind="stable")
        order = np.argsort(count, kind="stable")
        order = order[np.searchsorted(count[order], 1) :]
        for block in range(0, len(order), _PIXELS):
            pixels = order[block : block + _PIXELS]
            number = count[pixels]
            given = part[:, first[: number[-1], pixels], pixels]
            out[:, start + pixels] = _solve(given, number)
    return out.reshape(bands, *stack.shape[2:])


def _solve(votes: _F, count: npt.NDArray[np.int64]) -> _F:
    """Solve some pixels: votes of shape (bands, votes, pixels), of which the first so many count."""
    absent = np.arange(votes.shape[1])[:, None] >= count
    np.copyto(votes, np.float32(0), where=absent)
    centre = np.add.reduce(votes, axis=1) / count.astype("f4")
    votes -= centre[:, None]  # so that float32 has digits to spare
    np.copyto(votes, np.float32(0), where=absent)
    there = (~absent).astype("f4")
    out = np.zeros_like(centre)
    left = np.flatnonzero(count > 2)
    several = left.size == len(count)
    if not several:
        votes, there = votes[:, :, left], there[:, left]
    out[:, left], moving = _sweep(votes, there)
    tail = moving | _unsure(votes, there, out[:, left])
    ended, size = np.flatnonzero(tail), max(1, _ENDED // math.prod(votes.shape[:2]))
    for start in range(0, len(ended), size):
        part = ended[start : start + size]
        out[:, left[part]] = _end(votes[:, :, part], there[:, part], out[:, left[part]])
    return np.asarray(out + centre)


def _sweep(votes: _F, there: _F) -> tuple[_F, npt.NDArray[np.bool_]]:
    """Go from 0 by extrapolated steps; where each pixel came, and those that Newton's method has to end."""
    bands, _, pixels = votes.shape
    out, where = np.zeros((bands, pixels), "f4"), np.arange(pixels)
    squares = np.einsum("bvp,bvp->vp", votes, votes)
    place, ended, hard = out.copy(), np.zeros(pixels, bool), np.zeros(pixels, bool)
    before: tuple[_F, _F] | None = None
    slow: list[npt.NDArray[np.intp]] = []
    for _ in range(_SWEEPS if pixels else 0):
        force, share = _force(votes, squares, there, place)
        step, hard = force, share > _HEAVY
        if before is not None:
            change = force - before[1]
            ratio = _dot(force, change) / np.maximum(_dot(change, change), np.float32(1e-12))
            hard = hard | (ratio < -_SLOW)
            step = np.asarray(force - np.clip(ratio, -_SLOW, 0.5) * (place - before[0] + change), "f4")
        before = place, force
        place = np.where(ended, place, place + step)
        ended |= (_dot(step, step) < _STEP**2) & (_dot(force, force) < _FORCE**2)
        if ended.sum() > 0.4 * len(ended):  # the rest goes on alone
            out[:, where] = place
            slow.append(where[ended & hard])
            keep = ~ended
            where, votes, place = where[keep], np.compress(keep, votes, axis=2), place[:, keep]
            there, squares, hard = there[:, keep], squares[:, keep], hard[keep]
            before, ended = (before[0][:, keep], before[1][:, keep]), np.zeros(len(where), bool)
            if not len(where):
                break
    out[:, where] = place
    moving = np.zeros(pixels, bool)
    moving[np.concatenate([*slow, where[~ended | hard]])] = True
    return out, moving


def _unsure(votes: _F, there: _F, place: _F) -> npt.NDArray[np.bool_]:
    """Tell where Weiszfeld's step is short and the median may still be far, as between votes that lie on a line.

    Newton's step is the inverse of I - M times Weiszfeld's, M the mean of the outer products of the votes' directions,
    each weighed as there; no eigenvalue of M is larger than the root of the sum of its squares.
    """
    toward = votes.transpose(2, 1, 0) - place.T[:, None]
    away = np.sqrt(np.maximum(np.einsum("pvb,pvb->pv", toward, toward), _NEAR))
    on_a_vote = (away < _BESIDE).any(axis=1, where=there.T > 0)
    weight = there.T / away
    weight /= weight.sum(axis=1, keepdims=True)
    force = np.einsum("pvb,pv->pb", toward, weight)
    toward *= (np.sqrt(weight) / away)[..., None]
    turned = toward.transpose(0, 2, 1)
    product = toward @ turned if votes.shape[1] < votes.shape[0] else turned @ toward
    largest = np.sqrt(np.einsum("pij,pij->p", product, product))
    return np.asarray(on_a_vote | (np.sqrt(np.einsum("pb,pb->p", force, force)) > _ERROR * (1 - largest)))


def _dot(a: _F, b: _F) -> _F:
    return np.einsum("bp,bp->p", a, b)  # type: ignore[no-any-return]


def _force(votes: _F, squares: _F, there: _F, place: _F) -> tuple[_F, _F]:
    """Weiszfeld's step: to the mean of the votes, each weighed by its nearness; and the largest share of one."""
    away = np.einsum("bvp,bp->vp", votes, place)
    away *= -2
    away += squares
    away += _dot(place, place)
    weight = np.divide(there, np.sqrt(np.maximum(away, _NEAR, out=away), out=away), out=away)
    total = weight.sum(axis=0)
    force = np.einsum("bvp,vp->bp", votes, weight)
    force /= total
    force -= place
    return force, weight.max(axis=0) / total


def _end(votes: _F, there: _F, place: _F) -> _F:
    """End the pixels that Weiszfeld's steps bring forward slowly: the median is one of their votes, or close to one."""
    x, seen, y = votes.transpose(2, 1, 0).astype("f8"), there.T > 0, place.T.astype("f8")
    pixel = np.arange(len(x))
    # From one vote after the other: all at once they would be the square of their number.
    far = np.stack([(_distances(x, x[:, v]) * seen).sum(axis=1) for v in range(x.shape[1])], axis=1)
    total = np.where(seen, far, np.inf)
    best = x[pixel, total.argmin(axis=1)]
    # A vote is the median where the others pull at it with no more than its own weight (Kuhn 1973).
    away = _distances(x, best)
    same = (away < 1e-6) & seen
    pull = ((x - best[:, None]) * np.where(seen & ~same, 1 / np.maximum(away, 1e-9), 0)[..., None]).sum(axis=1)
    is_vote = np.hypot.reduce(pull, axis=1) <= same.sum(axis=1)
    out = np.where(is_vote[:, None], best, y)
    left = np.flatnonzero(~is_vote)
    strength = np.hypot.reduce(pull[left], axis=1)
    rest = np.where(seen & ~same, 1 / np.maximum(away, 1e-9), 0)[left].sum(axis=1)
    reach = (1 - same[left].sum(axis=1) / strength) / rest
    # Below every vote (Vardi and Zhang 2000), so that a step that only leads down comes to none of them again.
    below = best[left] + pull[left] * reach[:, None]
    out[left] = _newton(x[left], seen[left], below, y[left])
    return out.T.astype("f4")


def _newton(x: _D, seen: npt.NDArray[np.bool_], y: _D, other: _D) -> _D:
    """Go down by Newton's steps from the lower of two places, each step halved until it leads down."""

    def cost(place: _D, which: npt.NDArray[np.intp] | slice = slice(None)) -> _D:
        return np.asarray((_distances(x[which], place) * seen[which]).sum(axis=1))

    lower = cost(other) < cost(y)
    y = np.where(lower[:, None], other, y)
    out, where = y.copy(), np.arange(len(x))
    reached = cost(y)
    for _ in range(_NEWTON_SWEEPS):
        if not len(where):
            break
        away = np.maximum(_distances(x, y), 1e-6)
        weight, toward = seen / away, x - y[:, None]
        slope, total = (toward * weight[..., None]).sum(axis=1), weight.sum(axis=1)
        half = toward * (np.sqrt(weight) / away)[..., None]
        bend = total[:, None, None] * (1 + 1e-9) * np.eye(x.shape[2]) - half.transpose(0, 2, 1) @ half
        step = np.linalg.solve(bend, slope[..., None])[..., 0]
        moving = np.hypot.reduce(step, axis=1) > _NEWTON_STEP
        up = np.arange(len(x))
        for _ in range(_HALVINGS):
            new = y[up] + step[up]
            there = cost(new, up)
            down = there <= reached[up]
            y[up[down]], reached[up[down]] = new[down], there[down]
            up = up[~down]
            if not len(up):
                break
            step[up] /= 2
        moving[up] = False  # no step of any length leads down: what is left is rounding
        out[where] = y
        where, x, seen, y, reached = where[moving], x[moving], seen[moving], y[moving], reached[moving]
    return out


def _distances(x: _D, y: _D) -> _D:
    """From each vote to a place, shape (pixels, votes)."""
    apart = x - y[:, None]
    return np.asarray(np.sqrt((apart * apart).sum(axis=2)))


GEOMEDIAN = Reducer("geomedian", True, geometric_median)
