from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces

from gato_lite.spaces import FreeText
from gato_lite.tokenizers.batches import batched, unbatched

SPACE = spaces.Dict(a=spaces.Box(-1, 1, ()), t=spaces.Tuple([spaces.MultiBinary((2, 2)), FreeText()]))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_batches_come_apart_again(count: int) -> None:
    values = [{"a": np.float32(i / 4), "t": (np.full((2, 2), i % 2, np.int8), f"word {i}")} for i in range(count)]
    batch = batched(SPACE, values)
    assert batch["a"].shape == (count,)
    assert batch["a"].dtype == np.float32
    assert batch["t"][0].shape == (count, 2, 2)
    assert batch["t"][1] == tuple(f"word {i}" for i in range(count))
    again = unbatched(SPACE, batch, "")
    assert [value["a"] for value in again] == [i / 4 for i in range(count)]
    assert [value["t"][1] for value in again] == [f"word {i}" for i in range(count)]


def test_a_batch_needs_a_length() -> None:
    with pytest.raises(ValueError, match="^leaf 's': expected a batch of values of Discrete.2., got array.3.$"):
        unbatched(spaces.Discrete(2), np.array(3), "s")
