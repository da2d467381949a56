"""A network as a program that runs without tunesearch: ``torch.export`` (model.pt2) and ONNX (model.onnx).

Both take uint8 images (N, 3, H, W) in RGB and give float32 logits (N, C, H, W). Each is compared with the network
before it counts as written.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from tunesearch.segmentation.config import Size
from tunesearch.segmentation.models import SegmentationModel

TORCH, ONNX = "model.pt2", "model.onnx"
TOLERANCE = 1e-4
"""Largest difference between logits of a program and of its network that is borne, as a share of the largest logit."""
_LARGEST = 2**15
"""Up to which height and width a program is declared; torch wants some end."""


class ProgramError(Exception):
    """A network cannot be made into a program; the message says why."""


class _Program(nn.Module):
    """A SegmentationModel without Python integers in its padding, which would freeze height and width.

    Its own forward pads and crops by views, whose memory layout torch.export would fix with the size of its example;
    rows and columns that are picked by index have none.
    """

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        model = self.model
        height, width = images.shape[-2:]
        x = (images.to(model.mean.dtype) - model.mean) / model.std
        if model.multiple == model.smallest == 1:
            logits: Tensor = model.network(x)
            return logits
        x = x.index_select(2, self._padded(height, x)).index_select(3, self._padded(width, x))
        logits = model.network(x)
        rows, columns = (torch.arange(side, device=x.device) for side in (height, width))
        return logits.index_select(2, rows).index_select(3, columns)

    def _padded(self, length: int, x: Tensor) -> Tensor:
        """Row or column for each of the padded image: its own, then the last one again and again."""
        enough = max(length, self.model.smallest)
        multiple = self.model.multiple
        return torch.arange((enough + multiple - 1) // multiple * multiple, device=x.device).clamp(max=length - 1)


def write_programs(
    model: SegmentationModel,
    folder: Path,
    size: Size,
    *,
    formats: Sequence[str],
    on_message: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Write the programs of a network into a folder.

    Args:
        model: on the CPU, in evaluation mode.
        size: that it was trained at.
        formats: ``torch``, ``onnx``.
        on_message: told what is left out and why.

    Returns:
        Per program its file's name and ``height`` and ``width`` (one number, or [smallest, largest]), ``checked``
        sizes [height, width], the ``largest_difference`` and the ``tolerance`` that it was held to; for one that is
        left out only ``left_out``, the reason.
    """
    programs: dict[str, Any] = {}
    if not formats:
        return programs
    writers = {"torch": _write_torch, "onnx": _write_onnx}
    with _quiet():
        try:
            program, sides = export_program(model, size)
        except ProgramError as error:
            return {name: _leave_out(name, str(error), on_message) for name in formats}
        for name in formats:
            try:
                programs[name] = writers[name](program, folder, model, size, sides)
            except ProgramError as error:
                if isinstance(sides["height"], int):
                    programs[name] = _leave_out(name, str(error), on_message)
                    continue
                try:  # a runtime may know a network's layers at a known size only
                    programs[name] = writers[name](_fixed(model, size), folder, model, size, _sides(size))
                except ProgramError as fixed:
                    programs[name] = _leave_out(name, str(fixed), on_message)
    return programs


def _leave_out(name: str, reason: str, on_message: Callable[[str], None]) -> dict[str, str]:
    on_message(f"note: the {'torch' if name == 'torch' else 'ONNX'} program is left out: {reason}")
    return {"left_out": reason}


def export_program(model: SegmentationModel, size: Size) -> tuple[ExportedProgram, dict[str, Any]]:
    """The network as a program of any batch, and of any height and width from some smallest on where that is possible.

    Where it is not, because the network decides by its features' size, height and width are those of ``size``.

    Returns:
        The program, and its ``height`` and ``width`` as in :func:`write_programs`.

    Raises:
        ProgramError: torch.export cannot follow the network.
    """
    step = max(model.multiple, model.smallest)
    least = min(size.height, size.width)
    # Features of one pixel are a special case to torch.export, so that a program begins at sizes with two of them.
    for lowest in sorted({max(step + 1, 2), 2 * step + 1, least}):
        if lowest > least or lowest <= model.smallest > 1:
            continue
        side = Dim.AUTO(min=lowest, max=_LARGEST)
        sides = {"height": [lowest, _LARGEST], "width": [lowest, _LARGEST]}
        # Sizes that are no multiples and not equal to each other: what holds of them by chance would become a rule.
        example = (3 * lowest - 4 if lowest > 2 else 75, 4 * lowest - 3 if lowest > 2 else 90)
        with contextlib.suppress(Exception):  # the next one may do
            program = _exported(model, example, {0: Dim.AUTO(min=1, max=_LARGEST), 2: side, 3: side})
            if _is_general(program, model, [(lowest, lowest), (lowest + 1, 2 * lowest), (size.height, size.width)]):
                return program, sides
    return _fixed(model, size), _sides(size)


def _sides(size: Size) -> dict[str, Any]:
    return {"height": size.height, "width": size.width}


def _fixed(model: SegmentationModel, size: Size) -> ExportedProgram:
    """The network as a program of any batch at one size."""
    try:
        return _exported(model, (size.height, size.width), {0: Dim.AUTO(min=1, max=_LARGEST)})
    except Exception as error:  # torch.export has no one error for what it cannot follow
        raise ProgramError(f"torch.export cannot follow the network: {_first_line(error)}") from error


def _exported(model: SegmentationModel, example: tuple[int, int], dynamic: dict[int, Any]) -> ExportedProgram:
    images = torch.zeros(2, 3, *example, dtype=torch.uint8)
    with torch.no_grad():
        program = torch.export.export(_Program(model).eval(), (images,), dynamic_shapes=(dynamic,), strict=False)
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # names the files of this machine
    return program


def _is_general(program: ExportedProgram, model: SegmentationModel, sizes: list[tuple[int, int]]) -> bool:
    """Whether a program takes images of all these sizes, alone and in twos."""
    run = program.module()
    for count, (height, width) in enumerate(sizes):
        images = torch.zeros(1 + count % 2, 3, height, width, dtype=torch.uint8)
        with torch.no_grad():
            if run(images).shape[-2:] != (height, width):
                return False
    return True


def _compare(
    run: Callable[[Tensor], Tensor], model: SegmentationModel, size: Size, sides: dict[str, Any]
) -> dict[str, Any]:
    """Hold a program to its network: one image of its size, and two of another where it takes them.

    Raises:
        ProgramError: it computes something else.
    """
    sizes = [(size.height, size.width)]
    if isinstance(sides["height"], list):
        sizes.append((sides["height"][0] + 10, size.width + 13))
    largest = 0.0
    tolerance = 0.0
    generator = torch.Generator().manual_seed(0)
    for count, (height, width) in enumerate(sizes, start=1):
        images = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)
        try:
            with torch.no_grad():
                wanted, found = model(images), run(images)
        except Exception as error:  # whatever a runtime says of a program that it cannot run
            raise ProgramError(f"it does not run: {' '.join(str(error).split())[:200]}") from error
        borne = TOLERANCE * max(1.0, float(wanted.abs().max()))
        difference = float((wanted - found).abs().max())
        if not difference <= borne:
            raise ProgramError(f"its logits differ from the network's by {difference:.2g} at {height}x{width}")
        largest, tolerance = max(largest, difference), max(tolerance, borne)
    return {"checked": [list(pair) for pair in sizes], "largest_difference": largest, "tolerance": tolerance}


def _write_torch(
    program: ExportedProgram, folder: Path, model: SegmentationModel, size: Size, sides: dict[str, Any]
) -> dict[str, Any]:
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    checked = _compare(torch.export.load(file).module(), model, size, sides)
    (folder / TORCH).write_bytes(file.getbuffer())
    return {"file": TORCH, **sides, "torch": torch.__version__, **checked}


def _write_onnx(
    program: ExportedProgram, folder: Path, model: SegmentationModel, size: Size, sides: dict[str, Any]
) -> dict[str, Any]:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  what torch.onnx is built on
    except ImportError as error:
        raise ProgramError(f"{error.name} is not installed (pip install 'tunesearch[onnx]')") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its errors are raised, too
    try:
        written = torch.onnx.export(
            program, input_names=["images"], output_names=["logits"], dynamo=True, verbose=False
        )
        assert written is not None
        proto = written.model_proto
        for node in (*proto.graph.node, *(node for function in proto.functions for node in function.node)):
            del node.metadata_props[:]  # where in the sources of this machine it comes from
        onnx.checker.check_model(proto)
        content = proto.SerializeToString()
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the exporter, the checker and the runtime have errors of many kinds
        raise ProgramError(f"torch.onnx cannot write the network: {_first_line(error)}") from error
    checked = _compare(
        lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0]), model, size, sides
    )
    (folder / ONNX).write_bytes(content)
    opset = max(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    return {"file": ONNX, **sides, "opset": opset, "onnxruntime": onnxruntime.__version__, **checked}


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch.export and torch.onnx say about their own insides."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.export", "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
