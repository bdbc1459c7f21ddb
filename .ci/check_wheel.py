"""check_wheel.py WHEEL SOURCE: the wheel holds every module and data file of SOURCE once, and nothing else."""

import sys
import zipfile
from collections import Counter
from pathlib import Path

wheel, source = Path(sys.argv[1]), Path(sys.argv[2])
folders = {
    "gato_lite": "gato_lite",
    "envs": "gato_lite/envs",
    "tokenizers": "gato_lite/tokenizers",
    "train": "gato_lite/train",
}
expected = {
    f"{target}/{path.relative_to(source / folder).as_posix()}"
    for folder, target in folders.items()
    for path in (source / folder).rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}
with zipfile.ZipFile(wheel) as archive:
    entries = [entry for entry in archive.infolist() if ".dist-info/" not in entry.filename]
links = [entry.filename for entry in entries if entry.external_attr >> 16 & 0o170000 == 0o120000]
counts = Counter(entry.filename for entry in entries)
problems = {
    "missing": sorted(expected - counts.keys()),
    "not in the sources": sorted(counts.keys() - expected),
    "more than once": sorted(name for name, count in counts.items() if count > 1),
    "symlinks": links,
}
for what, names in problems.items():
    if names:
        print(f"{wheel.name}: {what}: {', '.join(names)}", file=sys.stderr)
if any(problems.values()):
    sys.exit(1)
print(f"{wheel.name}: {len(expected)} files, {wheel.stat().st_size / 1e6:.1f} MB")
