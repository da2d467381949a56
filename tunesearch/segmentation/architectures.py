"""What the architectures are, in words. Imports no torch, so that they can be listed at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Description:
    """One architecture in words.

    Attributes:
        what: the network.
        source: the report (by its letter in docs/systems.md) or the paper that it is from.
        options: fields of TrainConfig that govern its form, besides encoder, dropout and initialization.
    """

    what: str
    source: str
    options: tuple[str, ...] = ()


DESCRIPTIONS: dict[str, Description] = {
    "unet": Description("U-Net 64-128-256-512-1024, batch norm in the encoder only", "report E"),
    "unet_medium": Description("U-Net 64-128-256-512, batch norm in the encoder only", "report E"),
    "unet_small": Description("U-Net 64-128-512, batch norm in the encoder only", "report E"),
    "unet_bn": Description("U-Net 64-128-256-512-1024, batch norm throughout", "report D"),
    "unet_deep": Description("stem of 10 channels, six levels 32..1024, skip connections", "report C, final network"),
    "resunet": Description("U-Net of residual units 64-128-256-512", "report E; Zhang et al. 2018"),
    "fcn": Description("VGG16's blocks 1-4, 7x7 and 1x1 convolutions, one step up by 16", "report E; Long et al. 2015"),
    "conv_stack": Description("3x3 convolutions at full resolution", "report C, model 0", ("depth", "width")),
    "encoder_decoder": Description(
        "poolings and as many steps up, with every option of report C",
        "report C, models 1 and 2",
        (
            "depth",
            "width",
            "upsampling",
            "double_conv",
            "batch_norm",
            "skip_connections",
            "residual",
            "dropout_places",
        ),
    ),
    "conv_deconv": Description("five strided convolutions and five transposed ones", "report D, baseline"),
    "max_unpooling": Description("strided convolutions, max-pooling undone by its indices", "report D, own network"),
    "encoder_unet": Description(
        "U-Net on an encoder",
        "report A; Ronneberger et al. 2015",
        ("encoder_depth", "decoder_width", "upsampling"),
    ),
    "unetplusplus": Description(
        "U-Net with nested skip connections",
        "Zhou et al. 2018",
        ("encoder_depth", "decoder_width", "upsampling"),
    ),
    "linknet": Description("encoder features added, not concatenated", "Chaurasia and Culurciello 2017"),
    "manet": Description("U-Net with attention over places and scales", "Fan et al. 2020"),
    "fpn": Description("feature pyramid", "Lin et al. 2017"),
    "pspnet": Description("pyramid of pooled features at 1/8", "report E; Zhao et al. 2017"),
    "deeplabv3": Description("dilated convolutions in parallel, at 1/8", "Chen et al. 2017"),
    "deeplabv3plus": Description("dilated convolutions in parallel, and a decoder", "Chen et al. 2018"),
    "pan": Description("pyramid attention", "Li et al. 2018"),
    "upernet": Description("feature pyramid on pooled features", "Xiao et al. 2018"),
    "segformer": Description("one linear map per scale, joined", "Xie et al. 2021"),
    "upsampling_decoder": Description(
        "bilinear steps up and convolutions, no skip connections", "report B", ("decoder_width",)
    ),
    "deconv_decoder": Description("five transposed convolutions, no skip connections", "report D, ResNet-18"),
}
"""Every architecture of the table, in its order. Those on an encoder that come from a paper are implemented by
segmentation-models-pytorch."""
