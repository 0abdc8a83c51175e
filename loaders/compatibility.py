"""Let timm and Lightning import beside a torchvision whose compiled operators do not match this torch.

Both import torchvision for things that are not used here. The wheel on PyPI is built for CUDA: beside a CPU build of
torch its operator library cannot be loaded, and the import ends in ``operator torchvision::nms does not exist``,
because one of its modules describes operators that are not there. Leaving out that module is enough.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch

__all__ = ["make_importable"]

_DESCRIPTIONS = "torchvision._meta_registrations"


def make_importable() -> None:
    """Leave out torchvision's operator descriptions if its operators cannot be loaded; else do nothing."""
    if "torchvision" in sys.modules or _DESCRIPTIONS in sys.modules:
        return
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    library = next(Path(spec.origin).parent.glob("_C*.so"), None)
    if library is None:
        return
    try:
        torch.ops.load_library(library)  # type: ignore[no-untyped-call]
    except OSError:
        sys.modules[_DESCRIPTIONS] = ModuleType(_DESCRIPTIONS)
