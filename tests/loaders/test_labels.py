"""Classes of several stores, and the first example of the documents."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from loaders.counting import compute_statistics
from loaders.mixture import Mixture
from loaders.tiles import TileDataset, tile_loader
from stratacube.errors import UsageError

ROOT = Path(__file__).parents[2]


def test_classes_of_a_mixture_have_one_number_each(make_store: Callable[..., Path]) -> None:
    sources = [TileDataset(make_store(), labels=("platform", "split")) for _ in range(2)]
    alone = sources[0].classes["split"]
    sources[1].classes["split"] = ["aside", *alone][: len(alone)]  # as a store of other splits names them
    names = [[s.classes["split"][int(code)] for code in s.columns["split"]] for s in sources]
    mixture = Mixture(sources)
    assert mixture.classes["split"] == sorted({name for source in names for name in source})
    codes = mixture.__getitems__(range(len(mixture))).labels["split"].tolist()
    assert [mixture.classes["split"][code] for code in codes] == [*names[0], *names[1]]


def test_labels_of_two_kinds_are_not_mixed(make_store: Callable[..., Path]) -> None:
    one, other = (TileDataset(make_store(), labels=("split",)) for _ in range(2))
    del other.classes["split"]
    with pytest.raises(UsageError, match="label split is text in one source and numbers in another"):
        Mixture([one, other])


@pytest.mark.parametrize("seed", [-1])
def test_seeds_below_zero_are_refused(store: Path, seed: int) -> None:
    with pytest.raises(UsageError, match="`seed` is -1; give 0 or more"):
        tile_loader(store, 2, seed=seed)
    with pytest.raises(UsageError, match="`seed` is -1; give 0 or more"):
        compute_statistics([store], sample=2, seed=seed)


@pytest.mark.slow
def test_the_first_example_runs_as_a_script(make_store: Callable[..., Path], tmp_path: Path) -> None:
    store = make_store(tiles=20, steps=4, size=32)
    compute_statistics([store]).save(tmp_path / "statistics.json")
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "loaders.md").read_text(), re.S)[0]
    here = {'"build/"': repr(str(store)), "steps=7, crop=256": "steps=3, crop=16", "split == 'train' and": ""}
    for given, taken in here.items():
        assert given in code
        code = code.replace(given, taken)
    code = code.replace("batch.pixels, batch.valid ", "print(tuple(batch.pixels.shape)) ")
    (tmp_path / "script.py").write_text(code)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "(8, 3, " in done.stdout
