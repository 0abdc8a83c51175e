"""One rank of a test: reads an epoch, and its second half again by a state from rank 0."""

from __future__ import annotations

import sys
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from loaders.tiles import tile_loader


def main(store: str, folder: str) -> None:
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    loader = tile_loader(store, 2, seed=8, workers=2)
    stream = iter(loader)
    first = next(stream).meta["tile"].tolist()
    state: list[Any] = [loader.state_dict()]
    rest = [b.meta["tile"].tolist() for b in stream]
    torch.distributed.broadcast_object_list(state, src=0)
    resumed = tile_loader(store, 2, seed=8, workers=2)
    resumed.load_state_dict(state[0])
    again = [b.meta["tile"].tolist() for b in resumed]
    torch.save(
        {"tiles": first + list(chain.from_iterable(rest)), "rest": rest, "resumed": again}, Path(folder) / f"{rank}.pt"
    )
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
