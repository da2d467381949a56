"""What only the five student reports used that this project grew from: their networks and their augmentation.

Every search can use them by name, but nothing else is built on them; docs/systems.md says which system needs which.

    networks             the tables: names to networks
    upsampling           report B: five steps up behind an encoder
    conv_stack           report C, model 0
    encoder_decoder      report C, models 1 and 2
    deep_unet            report C, final network
    deconvolution        report D: the baseline, and its decoder behind an encoder
    unpooling            report D, own network
    fcn, residual_unet   report E
    augmentation         the pipelines of reports C and D
"""
