"""What a model is measured on: a part of its own frozen split, another data set, or folders of images and masks."""

from __future__ import annotations

from pathlib import Path

from tunesearch.errors import InputError, Problem
from tunesearch.production.model import Model
from tunesearch.segmentation.config import DataConfig
from tunesearch.segmentation.data.layouts import PARTS, Pair, every_pair, find_pairs, resolve_classes
from tunesearch.segmentation.data.splits import Split


def frozen_pairs(model: Model, part: str, root: Path | None = None) -> tuple[list[Pair], DataConfig]:
    """The pairs of a part of the split that the model's training froze, every file compared with its hash.

    Args:
        part: train, val or test.
        root: where the data set lies now; None: where it lay then.

    Raises:
        InputError: the model knows no split, the part is empty, nobody says where the data set lies.
        DataError: files that changed or are missing.
    """
    if part not in PARTS:
        raise InputError(Problem("--split", f"must be one of {', '.join(PARTS)}", value=part))
    if not model.split.items(part):
        hint = "data: {test: 0.2} sets some images aside when a search starts" if part == "test" else ""
        raise InputError(Problem("--split", f"must be a part that {model.name} has images in", value=part, hint=hint))
    data, split = model.data, model.split
    if root is not None:
        if not root.is_dir():
            raise InputError(Problem("--data", "must be an existing folder", value=str(root)))
        data, split = data.model_copy(update={"root": root}), split.moved_to(root)
    elif data.layout == "sample":
        from tunesearch.segmentation.data.sample import sample_folder

        find_pairs(data)  # makes it again where the cache was emptied
        split = split.moved_to(data.root or sample_folder())
    elif not split.root.is_absolute():
        hint = "--data ROOT"
        raise InputError(Problem(model.name, "does not know where its data set lies on this machine", hint=hint))
    Split(root=split.root, **{name: split.items(name) if name == part else () for name in PARTS}).verify()
    return split.pairs(part), data


def pairs_below(model: Model, root: Path) -> tuple[list[Pair], DataConfig]:
    """Every pair of a data set that lies as the model's own does, in whatever part it is.

    Raises:
        DataError: missing folders or partners.
    """
    data = model.data.model_copy(update={"root": root})
    if data.layout == "sample":  # it lies as VOC does, and looking for it by its name would make it
        data = data.model_copy(update={"layout": "voc", "classes": model.classes})
    return every_pair(data), data


def pairs_in(model: Model, images: Path, masks: Path, mask_suffix: str | None = None) -> tuple[list[Pair], DataConfig]:
    """The pairs of a folder of images and a folder of masks, by name; masks are read as the model's own.

    Args:
        mask_suffix: what the masks' names end in behind the image's; None: what it was in the model's own data set.

    Raises:
        DataError: missing folders or partners.
    """
    for flag, folder in (("--images", images), ("--masks", masks)):
        if not folder.is_dir():
            raise InputError(Problem(flag, "must be an existing folder", value=str(folder)))
    own = model.data
    if mask_suffix is None:
        mask_suffix = own.mask_suffix if own.layout == "folders" else ""
    if images.resolve() == masks.resolve() and not mask_suffix:
        hint = "--mask-suffix tells them apart by their names"
        raise InputError(Problem("--masks", "must be another folder than --images", value=str(masks), hint=hint))
    data = DataConfig(
        layout="folders",
        root=images,
        images=str(images.absolute()),
        masks=str(masks.absolute()),
        mask_suffix=mask_suffix,
        mask_format=own.mask_format,
        classes=model.classes,
        background=own.background,
        ignore_index=own.ignore_index,
        ignore_colors=own.ignore_colors,
    )
    resolve_classes(data)
    return every_pair(data), data
