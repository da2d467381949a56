"""Pictures per second of a whole prediction, against the bare network on the same pictures, and where the rest goes.

Measured: ``production.predict`` from a folder of files to masks on disk: reading, resizing, the network, resizing back,
PNG. Against the limit: the same network in the same precision and batches, on the same pictures, resized and resident.
The parts are also timed alone, one after the other, on one thread: what they add up to beside the network is what
reading ahead and writing behind must hide. The sides take turns in one run.

    python benchmarks/prediction.py --data ../shared/data/voc2012_subset/JPEGImages --size 256x256
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import machine, say, spread, table, versions, write_json

from tunesearch.production.model import Model
from tunesearch.production.prediction.pictures import find_pictures
from tunesearch.production.prediction.predict import predict
from tunesearch.production.prediction.predictor import Predictor
from tunesearch.segmentation.config import DataConfig, Size, TrainConfig
from tunesearch.segmentation.data.images import read_image
from tunesearch.segmentation.data.layouts import VOC_CLASSES, resolve_classes
from tunesearch.segmentation.data.sample import sample_folder, write_sample
from tunesearch.segmentation.data.splits import Split
from tunesearch.segmentation.inference import save_mask
from tunesearch.segmentation.models import build_model


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of pictures; default: the built-in sample's")
    parser.add_argument("--pictures", type=int, default=128, help="how many of them")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--architecture", default="encoder_unet")
    parser.add_argument("--encoder", default="mobilenet_v2")
    parser.add_argument("--size", default="256x256")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = TrainConfig(
        architecture=options.architecture, encoder=options.encoder, size=Size.model_validate(options.size)
    )
    data = DataConfig(classes=VOC_CLASSES)
    classes = resolve_classes(data)
    network = build_model(config, len(classes)).eval()
    model = Model("m", network, config, data, classes, Split(root=Path(), train=(), val=()), Path(), "")
    predictor = Predictor([model])
    folder = options.data or write_sample(sample_folder()) / "JPEGImages"
    chosen = find_pictures(folder)[: options.pictures]
    with tempfile.TemporaryDirectory(prefix="tunesearch-prediction-") as temporary:
        pictures, masks = Path(temporary) / "pictures", Path(temporary) / "masks"
        pictures.mkdir()
        for path in chosen:
            (pictures / path.name).symlink_to(path.resolve())
        images = [read_image(path) for path in chosen]
        prepared = [predictor.prepare(image) for image in images]
        batches = [prepared[first : first + predictor.batch] for first in range(0, len(prepared), predictor.batch)]
        found = [mask for batch in batches for mask in predictor.masks(batch)]

        def bare() -> None:
            with torch.inference_mode():
                for batch in batches:
                    predictor.members[0].whole(batch)

        sides: dict[str, Callable[[], object]] = {
            "the bare network": bare,
            "tunesearch predict, files to files": lambda: predict(predictor, pictures, masks),
            "alone: decoding": lambda: [read_image(path) for path in chosen],
            "alone: resizing": lambda: [predictor.prepare(image) for image in images],
            "alone: network, resizing back, best class": lambda: [list(predictor.masks(batch)) for batch in batches],
            "alone: writing PNG": lambda: [
                save_mask(masks / f"{number}.png", mask, classes) for number, mask in enumerate(found)
            ],
        }
        took: dict[str, list[float]] = {name: [] for name in sides}
        for work in sides.values():
            work()
        for _ in range(options.repeats):
            for name, work in sides.items():
                took[name].append(seconds(work))
    facts = {
        "model": f"{config.architecture}, {config.encoder}, {len(classes)} classes",
        "size, batch": f"{config.size}, {predictor.batch}",
        "pictures": f"{len(chosen)} of {images[0].shape[1]}x{images[0].shape[0]} and the like",
        "precision": str(predictor.members[0].dtype),
        "device": str(predictor.device),
        "threads": options.threads,
        "machine": machine(),
        "versions": versions("torch", "pillow", "opencv-python-headless"),
    }
    say("Prediction", facts)
    limit = statistics.median(took["the bare network"])
    rows = []
    for name, values in took.items():
        middle = statistics.median(values)
        speed = spread([len(chosen) / one for one in values], 1)
        rows.append([name, speed, f"{1000 * middle / len(chosen):.1f}", f"{limit / middle:.2f}"])
    table(["side", "pictures/s: median (range)", "ms per picture", "of the bare network"], rows)
    write_json(options.json, {"facts": facts, "seconds": took})


if __name__ == "__main__":
    main()
