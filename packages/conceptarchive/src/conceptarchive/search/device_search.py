"""Exact neighbours on a GPU: maxima of groups of pool rows, then the members that can matter.

Let e bound the error of a product, and let v be the R-th largest group maximum of an anchor. Then
R groups hold a product of at least v each, so that the R nearest rows have exact cosines of at
least v - e, and products of at least v - 2e. Each of them lies in a group whose maximum is at least
v - 2e. So it is enough to score exactly the members at or above v - 2e of the groups at or above
v - 2e, and to order those by cosine, then by row: ties are all among them. If the last group that
was kept is still one of those, there may be more, and the anchor is searched again with more groups
kept; when all are kept, there is no doubt left.
"""

import logging
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from conceptarchive.features.npyfile import RowArray
from conceptarchive.features.rows import Rows
from conceptarchive.search.candidates import Candidates
from conceptarchive.search.ops.group_max import GROUP, group_max
from conceptarchive.search.products import Precision, blocks

log = logging.getLogger(__name__)
IntArray = npt.NDArray[np.int64]

SLACK = 8  # groups kept beyond `count`
WIDEN = 8  # times as many groups for anchors in doubt
ANCHORS, POOL = 16_384, 131_072  # of a call of the kernel; POOL is a multiple of GROUP
PASS_BYTES = 4 << 30  # rows and groups of the anchors that share a pass over the pool
PAIR_BYTES = 1 << 29  # members gathered at a time
SUMMING = 2e-5  # bound on the error of summing a product of unit rows in float32
ROUNDING: dict[torch.dtype, float] = {torch.float16: 2**-11, torch.bfloat16: 2**-8}
FOLD = 16  # maxima looked at together when the largest are chosen


class _Kept(NamedTuple):
    """The groups of largest maxima of some anchors."""

    value: Tensor  # (A, G) maxima, descending
    group: Tensor  # (A, G) int64


class _Hits(NamedTuple):
    """Scored members, in no order."""

    anchor: Tensor  # (h,) int64
    row: Tensor  # (h,) int64
    cosine: Tensor  # (h,) float32


class DeviceSearch:
    """Exact search of one pool, block by block, on a device.

    Rows stored in float16 are multiplied as they are, unless bfloat16 is asked for.

    Args:
        pool: (m, D) unit rows; streamed to the device twice a pass.
        count: rows wanted.
        device: where.
        precision: of products; what it rounds is made up for by a wider margin.
    """

    def __init__(self, pool: Rows, count: int, device: torch.device, precision: Precision) -> None:
        self.pool, self.count, self.device = pool, count, device
        stored_half = pool.dtype == np.float16 and precision == "float32"
        self.dtype = torch.float16 if stored_half else getattr(torch, precision)
        self.groups = -(-len(pool) // GROUP)

    def nearest(self, anchors: Rows, drop: IntArray) -> Candidates:
        """Nearest rows of every anchor, (n, R) exact cosines and rows."""
        found = Candidates.empty(len(anchors), self.count)
        if self.groups:
            doubt, width = np.arange(len(anchors)), self.count + SLACK
            while len(doubt):
                doubt = self._pass(anchors, drop, doubt, min(width, self.groups), found)
                width *= WIDEN
                if len(doubt):
                    log.debug("%d anchors need more than %d groups", len(doubt), width // WIDEN)
        return found

    def _pass(
        self, anchors: Rows, drop: IntArray, which: IntArray, width: int, found: Candidates
    ) -> IntArray:
        """Search some anchors, keeping `width` groups; give back those still in doubt."""
        size = max(1, PASS_BYTES // (4 * self.pool.shape[1] + 24 * width))
        doubtful = []
        for start, stop in blocks(0, len(which), size):
            part = which[start:stop]
            left = self._load(anchors[part])  # (A, D)
            skip = torch.from_numpy(drop[part]).to(self.device)  # (A,)
            kept = self._keep_groups(left, skip, width)
            edge, last = torch.full_like(kept.value[:, 0], -torch.inf), kept.value[:, -1]  # (A,)
            if width >= self.count:
                edge = kept.value[:, self.count - 1] - 2 * self._error(left)
            doubt = (last >= edge) & (last > -torch.inf) & (width < self.groups)
            edge = edge.masked_fill(doubt, torch.inf)  # they are scored when they are sure
            settled = best_hits(self._score(left, skip, kept, edge), len(part), self.count)
            unsettled = doubt.cpu().numpy()
            sure = part[~unsettled]
            found.values[sure] = settled.values[~unsettled]
            found.rows[sure] = settled.rows[~unsettled]
            doubtful.append(part[unsettled])
        return np.concatenate(doubtful)

    def _load(self, rows: RowArray) -> Tensor:
        """Rows on the device, as they are stored."""
        return torch.from_numpy(np.array(rows)).to(self.device)

    def _error(self, left: Tensor) -> float:
        """Bound on the error of a product: of its sum, and of rounding its factors, if at all."""
        lossless = left.dtype == self.dtype and self.pool.dtype == np.float16
        error = SUMMING
        if self.dtype != torch.float32 and not lossless:
            error += 2 * ROUNDING[self.dtype]
        if torch.get_float32_matmul_precision() != "highest":
            error += 2 * ROUNDING[torch.bfloat16]
        return error

    def _keep_groups(self, left: Tensor, skip: Tensor, width: int) -> _Kept:
        """The `width` groups of largest maxima, from one pass over the pool."""
        lines = left.to(self.dtype)
        kept: list[_Kept] = []
        parts = blocks(0, len(left), ANCHORS)
        for start, stop in blocks(0, len(self.pool), POOL):
            right = self._load(self.pool[start:stop]).to(self.dtype)  # (P, D)
            for number, (at, end) in enumerate(parts):
                maxima = group_max(lines[at:end], right, skip[at:end] - start)
                here = largest(maxima, width)
                here = _Kept(here.value, here.group + start // GROUP)
                if start:
                    kept[number] = _join(kept[number], here, width)
                else:
                    kept.append(here)
        return _Kept(*(torch.cat(column) for column in zip(*kept, strict=True)))

    def _score(self, left: Tensor, skip: Tensor, kept: _Kept, edge: Tensor) -> _Hits:
        """Exact cosines of the members that reach the edge, from a second pass over the pool."""
        wanted = kept.value >= edge[:, None]  # (A, G)
        wanted &= kept.value > -torch.inf
        hits = []
        size = max(1, PAIR_BYTES // (4 * GROUP * left.shape[1]))
        for start, stop in blocks(0, len(self.pool), POOL):
            group = kept.group - start // GROUP
            mine = wanted & (group >= 0) & (group < -(-(stop - start) // GROUP))
            anchor, place = mine.nonzero(as_tuple=True)  # (p,) pairs of an anchor and a group
            right = _in_groups(self._load(self.pool[start:stop]))  # (groups, 64, D)
            group = group[anchor, place]
            for at, end in blocks(0, len(anchor), size):
                pair = anchor[at:end], group[at:end]
                hit = _score_pairs(left, right, pair, edge)
                hit = hit._replace(row=hit.row + start)
                allowed = (hit.row != skip[hit.anchor]) & (hit.row < stop)
                hits.append(_Hits(*(column[allowed] for column in hit)))
        if not hits:
            return _Hits(skip[:0], skip[:0], left[:0, 0].float())
        return _Hits(*(torch.cat(column) for column in zip(*hits, strict=True)))


def largest(maxima: Tensor, width: int) -> _Kept:
    """The `width` largest of every line, descending, and where they are.

    By the argument that serves groups of rows, they lie in the `width` runs of FOLD maxima whose
    own maxima are largest, so that the selection reads 1/FOLD of the numbers.

    Args:
        maxima: (A, M).
        width: how many, at most M are given.
    """
    lines, count = maxima.shape
    width = min(width, count)
    runs = -(-count // FOLD)
    if runs <= width:
        return _Kept(*maxima.topk(width, dim=1))
    folded = torch.nn.functional.pad(maxima, (0, runs * FOLD - count), value=-torch.inf)
    folded = folded.view(lines, runs, FOLD)
    run = folded.amax(dim=2).topk(width, dim=1).indices  # (A, width)
    inside = torch.arange(FOLD, device=maxima.device)
    place = (run[:, :, None] * FOLD + inside).flatten(1)  # (A, width * FOLD)
    value = folded.gather(1, run[:, :, None].expand(-1, -1, FOLD)).flatten(1)
    value = value.masked_fill(place >= count, -torch.inf)
    best, at = value.topk(width, dim=1)
    return _Kept(best, place.gather(1, at).clamp(max=count - 1))


def _join(left: _Kept, right: _Kept, width: int) -> _Kept:
    """The `width` largest of two collections."""
    value = torch.cat([left.value, right.value], dim=1)
    best, at = value.topk(min(width, value.shape[1]), dim=1)
    return _Kept(best, torch.cat([left.group, right.group], dim=1).gather(1, at))


def _in_groups(rows: Tensor) -> Tensor:
    """(P, D) rows as (groups, 64, D), filled up with zeros."""
    groups = -(-len(rows) // GROUP)
    padded = torch.nn.functional.pad(rows, (0, 0, 0, groups * GROUP - len(rows)))
    return padded.view(groups, GROUP, rows.shape[1])


def _score_pairs(left: Tensor, right: Tensor, pair: tuple[Tensor, Tensor], edge: Tensor) -> _Hits:
    """Members of the pairs' groups at or above the anchors' edges, with their exact cosines.

    Args:
        left: (A, D) anchors.
        right: (groups, 64, D).
        pair: (p,) anchors and (p,) groups.
        edge: (A,).
    """
    anchor, group = pair
    x = left[anchor].float()[:, :, None]  # (p, D, 1)
    products = torch.bmm(right[group].float(), x)[:, :, 0]  # (p, 64)
    of, member = (products >= edge[anchor][:, None]).nonzero(as_tuple=True)  # (h,)
    anchor, row = anchor[of], group[of] * GROUP + member
    exact = (left[anchor].double() * right.flatten(0, 1)[row].double()).sum(dim=1)
    return _Hits(anchor, row, exact.float())


def best_hits(hits: _Hits, n: int, count: int) -> Candidates:
    """The best `count` hits of each of n anchors, by cosine, then by row."""
    order = hits.row.argsort()
    order = order[hits.cosine[order].argsort(descending=True, stable=True)]
    order = order[hits.anchor[order].argsort(stable=True)]
    anchor = hits.anchor[order]
    first = torch.bincount(anchor, minlength=n).cumsum(0)  # (n,) ends
    first = torch.cat([first.new_zeros(1), first])[:-1]
    rank = torch.arange(len(order), device=order.device) - first[anchor]
    keep = rank < count
    places = (anchor[keep].cpu().numpy(), rank[keep].cpu().numpy())
    found = Candidates.empty(n, count)
    found.values[places] = hits.cosine[order][keep].cpu().numpy()
    found.rows[places] = hits.row[order][keep].cpu().numpy()
    return found
