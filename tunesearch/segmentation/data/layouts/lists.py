"""Which images belong to which part: lists of names, and seeded shares."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tunesearch.errors import Problem, nearest
from tunesearch.segmentation.config import DataConfig

VOC_LISTS = Path("ImageSets") / "Segmentation"


def read_list(root: Path, source: str, problems: list[Problem]) -> list[str]:
    """Ids of the list ``source``: its name in ImageSets/Segmentation, or a text file relative to the root."""
    named = root / VOC_LISTS / f"{source}.txt"
    path = named if named.is_file() else root / Path(source).expanduser()
    if not path.is_file():
        valid = sorted(item.stem for item in (root / VOC_LISTS).glob("*.txt")) or sorted(
            item.name for item in root.glob("*.txt")
        )
        problems.append(
            Problem(str(named if named.parent.is_dir() else path), "no such list", hint=nearest(source, valid))
        )
        return []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problems.append(Problem(str(path), f"the list cannot be read: {error}"))
        return []
    names: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        name = line.strip()
        if not name:
            continue
        if name in names:
            problems.append(Problem(f"{path}:{number}", "each name may be listed once", value=f"{name!r} again"))
        names.setdefault(name, number)
    return list(names)


def known_ids(names: list[str], everything: Iterable[str], path: Path, problems: list[Problem]) -> list[str]:
    """Replace names of a list in folders, which may be whole ids or stems that occur once, by ids."""
    ids = set(everything)
    by_stem: dict[str, list[str]] = {}
    for item in ids:
        by_stem.setdefault(item.rpartition("/")[2], []).append(item)
    known = []
    for name in names:
        matches = [name] if name in ids else by_stem.get(name, [])
        if len(matches) == 1:
            known.append(matches[0])
        elif matches:
            problems.append(Problem(str(path), f"{name!r} is ambiguous", hint="write " + " or ".join(sorted(matches))))
        else:
            problems.append(Problem(str(path), f"there is no image {name!r}", hint=nearest(name, sorted(ids))))
    return known


def shares_of(data: DataConfig, val_source: str | float) -> dict[str, float]:
    """The parts that are drawn, each with its share of the pool."""
    sources: dict[str, str | float | None] = {"test": data.test, "val": val_source}
    return {part: source for part, source in sources.items() if isinstance(source, float)}


def draw(pool: Sequence[str], shares: Mapping[str, float], seed: int) -> dict[str, list[str]]:
    """Seeded disjoint shares of ``pool``, each of at least one image, in the pool's own order."""
    order = sorted(pool, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    drawn: dict[str, list[str]] = {}
    start = 0
    for part, share in shares.items():
        stop = start + max(1, round(share * len(pool)))
        chosen = set(order[start:stop])
        drawn[part] = [name for name in pool if name in chosen]
        start = stop
    return drawn
