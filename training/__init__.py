"""SatMAE pre-training on tile stores: models, trainer, evaluation, publishing."""

from __future__ import annotations

from training.compatibility import make_importable

make_importable()
