"""The model card: README.md of a model folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunesearch.segmentation.epoch import EpochMetrics


def card(content: dict[str, Any], curve: Sequence[EpochMetrics]) -> str:
    """The card of a bundle in Markdown.

    Args:
        content: bundle.json, as far as it is known before the card is: all but the files' hashes.
        curve: every epoch's metrics.
    """
    sections = (_title(content), _score(content, curve), _use(content), _data(content), _training(content))
    return "\n\n".join((*sections, _limits(content), _versions(content))) + "\n"


def _title(content: dict[str, Any]) -> str:
    size, network = content["preprocessing"]["size"], content["network"]
    encoder = f" on the encoder {network['encoder']}" if network["encoder"] else ""
    names = ", ".join(entry["name"] for entry in content["classes"])
    return f"""# {content["name"]}

A network for semantic segmentation: {network["network"]}{encoder}, {network["parameters"]:,} parameters, for images of
{size["width"]}x{size["height"]} pixels (width x height) and {len(content["classes"])} classes: {names}.
{_from(content["origin"])}"""


def _from(origin: dict[str, Any]) -> str:
    if origin.get("search") is None or origin.get("trial") is None:
        return "It was trained and written by tunesearch."
    what = f"trial {origin['trial']} ({origin['outcome']}) of the tunesearch search {origin['search']}"
    if origin.get("confirms") is not None:
        return f"It is {what}, which repeats trial {origin['confirms']} with another seed."
    return f"It is {what}."


def _score(content: dict[str, Any], curve: Sequence[EpochMetrics]) -> str:
    score = content["score"] or {}
    epoch = next((metrics for metrics in curve if metrics.epoch == score.get("epoch")), curve[-1] if curve else None)
    lines = ["## How good it is", ""]
    if score.get("value") is not None:
        where = "the images' own sizes" if score.get("resolution") == "original" else "the network's size"
        lines.append(
            f"{score['objective']} **{score['value']:.4f}** on the validation images at {where}, in epoch "
            f"{score['epoch']} of {score['epochs']}, the best one."
        )
    elif content["on"] == "train+val":
        text = "It was trained on the training and the validation images, so that no validation tells how good it is."
        return "\n".join([*lines, text, "The last epoch's weights are kept."])
    confirmation = content["confirmation"]
    if confirmation:
        lines += ["", f"Its configuration was **repeated over several seeds**: {_verdict(confirmation)}."]
        if content["origin"].get("trial") == confirmation.get("network"):
            lines[-1] += " This is the network of the seed with the best score; the mean is what to expect of another."
        if test := confirmation.get("test"):
            measures = [f"{name} {_spread(test[name])}" for name in ("miou", "miou_no_background", "pixel_accuracy")]
            lines += [
                "",
                f"On the test part, {test['images']} images at their own size that no trial had seen, mean and "
                f"deviation over the seeds of trial {confirmation['leader']}: {', '.join(measures)}.",
            ]
    else:
        lines += [
            "",
            "The score is **unconfirmed**: it is that of one training, chosen by this very score among others, and so "
            "partly luck. A repetition with other seeds would tell, and images that the choice has not seen.",
        ]
    if epoch is not None:
        lines += ["", "| class | colour (RGB) | IoU |", "|---|---|---|"]
        for entry, iou in zip(content["classes"], epoch.val_iou, strict=False):
            value = "absent" if iou is None else f"{iou:.4f}"
            lines.append(f"| {_cell(entry['name'])} | {', '.join(map(str, entry['color']))} | {value} |")
    return "\n".join(lines)


def _spread(measure: dict[str, Any]) -> str:
    deviation = measure.get("deviation")
    return f"{measure['mean']:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")


def _verdict(confirmation: dict[str, Any]) -> str:
    return str(confirmation.get("verdict") or "see bundle.json")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _use(content: dict[str, Any]) -> str:
    return f"""## How to use it

With tunesearch, from the folder above this one, which is called DIR here:

```bash
tunesearch predict DIR IMAGES -o MASKS               # masks at each picture's own size
tunesearch evaluate DIR --data DATA --split val      # IoU per class on a part of the data set at DATA
tunesearch train DIR --data DATA                     # the same training again
```
{_from_imagenet(content)}
{_programs(content)}"""


def _from_imagenet(content: dict[str, Any]) -> str:
    """What training again needs beside this folder."""
    encoder = content["network"]["pretrained"]
    if encoder is None:
        return ""
    return (
        f"\nTraining begins with the ImageNet weights of {encoder}, which are downloaded, or read from a file "
        f"`{encoder}.pth` by `--encoder-weights FOLDER`.\n"
    )


def _programs(content: dict[str, Any]) -> str:
    torch, onnx = (content["programs"].get(name, {}) for name in ("torch", "onnx"))
    parts = []
    if "file" in torch:
        parts.append(f"With torch alone (and Pillow to read a picture), in this folder:\n\n{_python(content)}")
        if content["preprocessing"]["tiles"]:
            parts.append(
                "These lines see the whole image at once. tunesearch sees it in overlapping windows of "
                "`preprocessing.tiles` in bundle.json and blends their scores, which is what the score stands for."
            )
        parts.append(
            "On a GPU: `from torch.export.passes import move_to_device_pass`, then "
            '`move_to_device_pass(torch.export.load("model.pt2"), "cuda").module()`.'
        )
        parts.append(_check("`model.pt2`", torch))
    if "file" in onnx:
        parts.append(
            "`model.onnx` takes `images`, uint8 (N, 3, height, width) in RGB, and gives `logits`, float32 (N, classes, "
            f"height, width); opset {onnx['opset']}. {_check('It', onnx)}"
        )
    for name, program in (("model.pt2", torch), ("model.onnx", onnx)):
        if "left_out" in program:
            parts.append(f"There is no `{name}`: {program['left_out']}.")
    return "\n\n".join(parts)


def _check(what: str, program: dict[str, Any]) -> str:
    if isinstance(program["height"], int):
        takes = f"takes images of {program['width']}x{program['height']} alone (width x height), any number at once"
    else:
        takes = (
            f"takes images of any number, height (from {program['height'][0]}) and width (from {program['width'][0]})"
        )
    return (
        f"{what} {takes}. Its logits differ from the network's by at most {program['largest_difference']:.1g} "
        f"({program['tolerance']:.1g} would have been borne)."
    )


def _python(content: dict[str, Any]) -> str:
    size = content["preprocessing"]["size"]
    return f"""```python
import numpy, torch
from PIL import Image

def shares(old, new):  # by area, as in training where neither side grows; else F.interpolate(..., mode="bilinear")
    edges, pixels = torch.arange(new + 1)[:, None] * old / new, torch.arange(old)
    return (edges[1:].minimum(pixels + 1) - edges[:-1].maximum(pixels)).clamp(min=0) * new / old

program = torch.export.load("model.pt2").module()
image = torch.from_numpy(numpy.array(Image.open("picture.jpg").convert("RGB"))).permute(2, 0, 1)[None]  # 1, 3, H, W
small = shares(image.shape[2], {size["height"]}) @ image.float() @ shares(image.shape[3], {size["width"]}).T
logits = program(small.round().to(torch.uint8))
mask = torch.nn.functional.interpolate(logits, image.shape[2:], mode="bilinear")[0].argmax(0)  # H, W: class indices
Image.fromarray(mask.to(torch.uint8).numpy()).save("mask.png")
```"""


def _data(content: dict[str, Any]) -> str:
    data, before = content["data"], content["preprocessing"]
    tiles = before["tiles"]
    seen = (
        "seen whole"
        if tiles is None
        else f"seen in windows of {tiles['window']['width']}x{tiles['window']['height']} that overlap by "
        f"{tiles['overlap']:.0%} at least"
    )
    return f"""## Data

{data["train"]} training, {data["val"]} validation and {data["test"]} test images; `split.json` has the name and SHA-256
of each image and mask. The split's own hash is `{data["digest"]}`.

Preprocessing: {before["color"]}, uint8, stretched to {before["size"]["width"]}x{before["size"]["height"]} (width x
height) {before["resize"]}, {seen}. The network normalises by mean {_numbers(before["mean"])} and deviation
{_numbers(before["std"])} of values in 0 to 1 itself. Its logits are resized bilinearly before the best class is
chosen."""


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _training(content: dict[str, Any]) -> str:
    return f"""## How it was trained

`config.yaml` is the whole configuration, `effective.json` the same as read back from the built objects, `metrics.json`
every epoch. Seed {content["seed"]}, {content["threads"]} threads, {content["precision"]}, on {content["device"]}: with
the same of all these and the versions below, a training on the CPU gives the same curve again."""


def _limits(content: dict[str, Any]) -> str:
    chosen = ", and the trial among others" if content["origin"].get("trial") is not None else ""
    measured = f"The validation images chose the epoch{chosen}: they are no independent test."
    if content["on"] == "train+val":
        measured = "Nothing has measured it but the images that it was trained on: evaluate it on others."
    own = "\n- The network needs `code/`, which is run when the folder is used: look at it first, if it is not yours."
    return f"""## Limits

- It knows the classes above and gives every pixel one of them, also in pictures of something else.
- A score holds for images like those that it was measured on. How it does on others is not known.
- {measured}{own if content["own_code"] else ""}"""


def _versions(content: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    return f"""## Versions

{versions or "not recorded"}. Sources of tunesearch: SHA-256 `{content["code"]["sha256"]}`."""
