"""Private memory that each further concurrent trial adds by reading the data set.

Measured: 1, 2 and 3 processes at once, each opening the same decoded cache entry as a trial does (memory-mapped) and
reading all of it through train_loader once, without augmentation. Against the usual way: each process loads the same
arrays into its memory with np.load and reads them through the same loader. Private memory (USS) is Private_Clean +
Private_Dirty of /proc/PID/smaps_rollup, taken before and after reading while all processes are alive. Target: a
further process adds at most 10 % of the set's bytes.

A page of a file that a single process maps counts as that process's private memory, so one process alone shows the
whole set, though it is page cache that the system can take back; from the second on it is shared. PSS, which gives
every process its share of what is shared, is told beside: its sum over the processes is what the machine holds.

    python benchmarks/memory.py --json memory.json
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import numpy as np
from common import machine, say, table, target, versions, write_json
from PIL import Image

from tunesearch.segmentation.config import DataConfig, Size, TrainConfig
from tunesearch.segmentation.data.cache import DecodedPart, decoded
from tunesearch.segmentation.data.splits import freeze_split

SIDES = {"mapped": "tunesearch: memory-mapped cache", "loaded": "usual: np.load in every process"}
MIB = 2**20


def write_set(root: Path, count: int, size: Size) -> None:
    """``count`` pairs in VOC layout, of smooth noise: JPEGs like photographs in size, masks of four classes."""
    folders = {name: root / name for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation")}
    for folder in folders.values():
        folder.mkdir(parents=True)

    def one(number: int) -> None:
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(0, 256, (size.height // 8, size.width // 8, 3), np.uint8))
        labels = Image.fromarray(rng.integers(0, 4, (4, 4), np.uint8))
        extent = (size.width, size.height)
        coarse.resize(extent, Image.Resampling.BILINEAR).save(folders["JPEGImages"] / f"{number:05d}.jpg")
        labels.resize(extent, Image.Resampling.NEAREST).save(folders["SegmentationClass"] / f"{number:05d}.png")

    with ThreadPoolExecutor() as pool:
        list(pool.map(one, range(count + 1)))
    lists = folders["ImageSets/Segmentation"]
    (lists / "train.txt").write_text("".join(f"{number:05d}\n" for number in range(count)), encoding="utf-8")
    (lists / "val.txt").write_text(f"{count:05d}\n", encoding="utf-8")


def memory_of_this_process() -> dict[str, int]:
    """USS, the part of it that only this process can hold (not page cache), and PSS, in bytes."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # what was freed but kept for later holds nothing of the set
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]
    values = {name: int(amount.split()[0]) * 1024 for name, _, amount in (line.partition(":") for line in lines)}
    dirty = values["Private_Dirty"]
    return {"uss": values["Private_Clean"] + dirty, "dirty": dirty, "pss": values["Pss"]}


def read_everything(part: DecodedPart, batch: int) -> int:
    """One epoch of train_loader, every byte of it looked at; gives how many images there were."""
    from tunesearch.segmentation.data.loader import train_loader

    loader = train_loader(part, TrainConfig(batch_size=batch, augmentation_strength=0.0))
    images = 0
    for pictures, masks in loader.epoch(1):
        assert int(pictures.max()) >= int(pictures.min())  # no copy, as a sum of bytes would make
        assert int(masks.max()) >= int(masks.min())
        images += len(masks)
    loader.stop_workers()
    return images


def touch(part: DecodedPart) -> int:
    """Look at one byte of every page."""
    return int(sum(array.reshape(-1)[::4096].sum() for array in (part.images, part.masks)))


def trial(side: str, part: DecodedPart, batch: int, barrier: Any, answers: Any) -> None:
    """One process: waits for the others before and after it reads, so that all hold the set at the same time."""
    # Everything that reading imports and allocates for itself is there before the first measurement.
    shape = (4 * batch, *part.masks.shape[1:])
    made_up = DecodedPart(np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8), tuple(map(str, range(shape[0]))))
    read_everything(made_up, batch)
    del made_up
    barrier.wait()
    before = memory_of_this_process()
    barrier.wait()
    if side == "loaded":
        assert part.folder is not None
        part = DecodedPart(np.load(part.folder / "images.npy"), np.load(part.folder / "masks.npy"), part.ids)
    images = read_everything(part, batch)
    barrier.wait()
    touch(part)  # a busy system unmaps pages that were not used for a while; the next reader would hold them alone
    barrier.wait()
    after = memory_of_this_process()
    barrier.wait()
    answers.put({"images": images, **{name: after[name] - before[name] for name in after}})


def growth(side: str, processes: int, part: DecodedPart, batch: int) -> list[dict[str, int]]:
    """What reading the set added to each of so many processes."""
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(processes), context.Queue()
    # A DecodedPart that is sent to another process arrives there as a mapping of the same files.
    crew = [context.Process(target=trial, args=(side, part, batch, barrier, answers)) for _ in range(processes)]
    for process in crew:
        process.start()
    found = [answers.get(timeout=600) for _ in crew]
    for process in crew:
        process.join()
    assert all(answer["images"] == len(part) for answer in found), "a process did not read everything"
    return found


def further(runs: dict[int, Sequence[list[dict[str, int]]]]) -> float:
    """Bytes of private memory that a process added beside others: the worst of the medians over the counts above 1."""
    added = {n: [float(answer["uss"]) for run in repeats for answer in run] for n, repeats in runs.items() if n > 1}
    return max(statistics.median(values) for values in added.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--size", default="256x256")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--processes", type=int, default=3, help="the most at once")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    if not Path("/proc/self/smaps_rollup").is_file():
        print("this system has no /proc/PID/smaps_rollup: nothing measured")
        sys.exit(0)
    size = Size.model_validate(options.size)
    with tempfile.TemporaryDirectory(prefix="tunesearch-memory-") as temporary:
        folder = Path(temporary)
        write_set(folder / "voc", options.images, size)
        data = DataConfig(layout="voc", root=folder / "voc")
        start = time.perf_counter()
        part = decoded(data, freeze_split(data), "train", size, folder=folder / "cache")
        set_bytes = part.images.nbytes + part.masks.nbytes
        facts = {
            "decoded set": f"{len(part)} images of {size}, {set_bytes / 1e6:.0f} MB, made in "
            f"{time.perf_counter() - start:.1f} s",
            "batch": options.batch,
            "repeats": f"{options.repeats}, interleaved",
            "machine": machine(),
            "versions": versions("numpy", "torch"),
        }
        say("Private memory per concurrent trial", facts)
        counts = range(1, options.processes + 1)
        runs: dict[str, dict[int, list[list[dict[str, int]]]]] = {side: {n: [] for n in counts} for side in SIDES}
        for _ in range(options.repeats):
            for count in counts:
                for side in SIDES:
                    runs[side][count].append(growth(side, count, part, options.batch))

    rows = []
    for side, name in SIDES.items():
        for count in counts:
            uss = statistics.median(answer["uss"] for run in runs[side][count] for answer in run)
            total = statistics.median(sum(answer["pss"] for answer in run) for run in runs[side][count])
            dirty = statistics.median(answer["dirty"] for run in runs[side][count] for answer in run)
            cells = [f"{uss / MIB:.1f}", f"{100 * uss / set_bytes:.1f} %", f"{dirty / MIB:.1f}", f"{total / MIB:.0f}"]
            rows.append([name, count, *cells])
    header = ["side", "processes", "private MiB added per process", "of the set", "dirty MiB", "PSS added in all, MiB"]
    table(header, rows)
    targets = []
    if options.processes > 1:
        share = {side: further(runs[side]) / set_bytes for side in SIDES}
        print(f"A further process adds {share['loaded']:.1%} of the set the usual way.")
        met = share["mapped"] <= 0.10
        targets.append(target("of the set, privately per further process", share["mapped"], "<= 0.10", met=met))
    write_json(options.json, {"facts": facts, "set_bytes": set_bytes, "runs": runs, "targets": targets})


if __name__ == "__main__":
    main()
