from __future__ import annotations

import jaxtyping
import numpy as np
import pytest

from gato_lite.tokenizers.continuous import mu_law


def test_a_wrong_array_is_refused_by_its_annotation() -> None:
    with pytest.raises(jaxtyping.TypeCheckError, match="parameter 'x'"):
        mu_law(np.zeros(3, bool))
