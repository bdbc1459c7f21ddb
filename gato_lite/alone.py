"""A document read by itself, without a cache: what it comes to depends on nothing that is read beside it."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gato_lite.attention import attend, attend_last
from gato_lite.model import Gato
from gato_lite.sequence import Tokens


@torch.inference_mode()
def last_hidden(gato: Gato, tokens: Tokens) -> Float[Tensor, "one D"]:
    """(1, D) hidden state after the last of `tokens`, which are one document.

    The same tokens give the same bits on one machine with one number of threads, whatever other documents there are.
    """
    n_token, last = len(tokens), gato.config.n_layer - 1
    offsets = np.array([0, n_token])
    rows = torch.tensor([n_token - 1], device=gato.device)

    def over_document(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return (attend_last if layer == last else attend)(query, key, value, offsets)

    positions = torch.arange(n_token, device=gato.device)
    return gato.hidden(gato.token_tensors(tokens), positions, over_document, rows)
