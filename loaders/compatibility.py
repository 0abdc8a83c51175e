"""Let timm and Lightning import beside a torchvision whose compiled operators do not match this torch.

Both import torchvision for things that are not used here. The wheel on PyPI is built for CUDA: beside a CPU build of
torch its operator library cannot be loaded, and the import ends in ``operator torchvision::nms does not exist``,
because one of its modules describes operators that are not there. Leaving out that module is enough.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

__all__ = ["make_importable"]

_DESCRIPTIONS = "torchvision._meta_registrations"


class _BeforeTorchvision(MetaPathFinder):
    """Acts when torchvision is first imported: torch, which that needs, takes seconds to import for nothing else."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            _leave_out_descriptions()
        return None


def make_importable() -> None:
    """Leave out torchvision's operator descriptions if its operators cannot be loaded, once it is imported."""
    if "torchvision" not in sys.modules and not any(isinstance(f, _BeforeTorchvision) for f in sys.meta_path):
        sys.meta_path.insert(0, _BeforeTorchvision())


def _leave_out_descriptions() -> None:
    import torch  # noqa: PLC0415

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
