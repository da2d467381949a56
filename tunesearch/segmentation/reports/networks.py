"""The tables of the reports' networks, by the names that a configuration has for them."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.reports.conv_stack import ConvStack
from tunesearch.segmentation.reports.deconvolution import ConvDeconv, EncoderDeconv
from tunesearch.segmentation.reports.deep_unet import DeepUNet
from tunesearch.segmentation.reports.encoder_decoder import EncoderDecoder
from tunesearch.segmentation.reports.fcn import FCN
from tunesearch.segmentation.reports.residual_unet import ResidualUNet
from tunesearch.segmentation.reports.unpooling import MaxUnpooling
from tunesearch.segmentation.reports.upsampling import UpsamplingDecoder


def _encoder_decoder(config: TrainConfig, classes: int) -> EncoderDecoder:
    return EncoderDecoder(
        classes,
        depth=config.depth,
        width=config.width,
        upsampling="bilinear" if config.upsampling == "default" else config.upsampling,
        double_conv=config.double_conv,
        batch_norm=config.batch_norm,
        skip_connections=config.skip_connections,
        residual=config.residual,
        dropout=config.dropout,
        dropout_places=config.dropout_places,
    )


NETWORKS: dict[str, Callable[[TrainConfig, int], nn.Module]] = {
    "unet_deep": lambda config, classes: DeepUNet(classes, config.dropout),
    "resunet": lambda config, classes: ResidualUNet(classes, config.dropout),
    "fcn": lambda config, classes: FCN(classes, config.dropout),
    "conv_stack": lambda config, classes: ConvStack(
        classes, depth=config.depth, width=config.width, dropout=config.dropout
    ),
    "encoder_decoder": _encoder_decoder,
    "conv_deconv": lambda config, classes: ConvDeconv(classes, config.dropout),
    "max_unpooling": lambda config, classes: MaxUnpooling(classes, config.dropout),
}
"""Networks without an encoder by name: (configuration, number of classes) -> network, with random weights."""

DECODERS: dict[str, Callable[[TrainConfig, int, nn.Module], nn.Module]] = {
    "upsampling_decoder": lambda config, classes, encoder: UpsamplingDecoder(
        encoder, classes, width=config.decoder_width, dropout=config.dropout
    ),
    "deconv_decoder": lambda config, classes, encoder: EncoderDeconv(encoder, classes, config.dropout),
}
"""Networks on an encoder: (configuration, number of classes, encoder of segmentation-models-pytorch) -> network."""
