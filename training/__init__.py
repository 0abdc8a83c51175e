"""SatMAE pre-training on tile stores: models, trainer, evaluation, publishing."""

from __future__ import annotations

from loaders.compatibility import make_importable

make_importable()
