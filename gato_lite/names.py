"""One error text for every unknown name: the closest match first, then what is known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import fields


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for a `name` that is not among the `known` names of that `kind`."""
    names = sorted(known)
    lowered = {candidate.lower(): candidate for candidate in names}
    for candidate in names:  # a name without its folder will do, where no other name is just that
        lowered.setdefault(candidate.lower().rsplit("/", 1)[-1], candidate)
    close = difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)
    hint = f" Did you mean {', '.join(dict.fromkeys(lowered[c] for c in close))}?" if close else ""
    shown = ", ".join(names[:40]) + (f", … ({len(names)} in all)" if len(names) > 40 else "")
    return f"Unknown {kind} '{name}'.{hint} Known: {shown or 'none'}"


def unknown_field(place: str, found: Iterable[str], known: type) -> str | None:
    """The message for a name in JSON that no field of the dataclass `known` has; msgspec passes over those."""
    names = [field.name for field in fields(known)]
    return next((unknown_name(f"field of {place}", name, names) for name in found if name not in names), None)
