"""What every test runs under: shapes and types checked, one thread, properties drawn the same each time."""

from __future__ import annotations

import os

from hypothesis import settings
from jaxtyping import install_import_hook

os.environ.setdefault("OMP_NUM_THREADS", "1")  # models here are tiny, and so are the machines

# Every function and dataclass of ours checks its annotations, array shapes included; an int will do for a float. This
# comes before their import.
install_import_hook("gato_lite", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")
