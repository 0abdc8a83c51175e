"""Blocks one after another, with what the backward pass needs kept or computed again."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

__all__ = ["run_blocks"]

_KEPT = (
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
)
"""What takes nearly all the time of a block and a third of its memory: products of matrices, and attention."""


def run_blocks(blocks: nn.ModuleList, tokens: Tensor, recompute: bool | str) -> Tensor:
    """Pass tokens through blocks.

    Parameters
    ----------
    blocks
        Modules from tokens to tokens.
    tokens
        (batch, tokens, width).
    recompute
        Whether activations are computed again in the backward pass: False, True for all, or ``selective`` for all but
        products of matrices and attention.
    """
    contexts: dict[str, Any] = {}
    if recompute == "selective":
        contexts["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    for block in blocks:
        tokens = checkpoint(block, tokens, use_reentrant=False, **contexts) if recompute else block(tokens)
    return tokens


def _policy(_context: Any, operation: Any, *_arguments: Any, **_named: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE
