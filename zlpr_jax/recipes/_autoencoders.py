"""Train EAEs and VAEs on the same images and measure what they generate."""

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from zlpr_jax._errors import InputError
from zlpr_jax._typing import PyTree
from zlpr_jax.data.images import ImageData
from zlpr_jax.estimators import gaussian_knn_entropy, gaussian_radius
from zlpr_jax.models.eae import AutoencoderConfig
from zlpr_jax.recipes._autoencoder_results import (
    best,
    draw,
    print_models,
    ratios,
)
from zlpr_jax.recipes._frechet import CHUNK, Frechet, generate, train_classifier
from zlpr_jax.recipes._optimizer import make_optimizer
from zlpr_jax.recipes._session import Session, open_session
from zlpr_jax.recipes._settings import to_json
from zlpr_jax.recipes.eae import Config
from zlpr_jax.tasks.image import ImageModel, make_eae, make_vae
from zlpr_jax.training import evaluate
from zlpr_jax.training._mesh import fetch
from zlpr_jax.training._run import CONFIG

# Which images validate and test, and what is generated, never depends on a seed.
SPLIT_SEED, SAMPLE_SEED = 0, 1
VALIDATION_IMAGES = 5_000
# Estimates that the entropy of independent Gaussians is the mean of.
ESTIMATES = 4
# Images in each row and column of the picture.
PICTURE = 8


class Splits(NamedTuple):
    """Images by what they are for."""

    fitting: ImageData
    validation: ImageData
    test: ImageData


class Reference(NamedTuple):
    """Real images to measure generated ones against.

    Attributes:
        images: The images.
        features: What the classifier sees in them; `None` without one.
        codes: Standard Gaussians `[N, d]`, one for each image.
        entropy: The estimate for such codes.
    """

    images: ImageData
    features: npt.NDArray[np.float64] | None
    codes: npt.NDArray[np.float32]
    entropy: float


def run_autoencoders(
    name: str,
    config: Config,
    images: ImageData,
    test: ImageData | None,
    *,
    resume: bool = False,
) -> dict[str, Any] | None:
    """Train everything, print the table and write the run folder.

    Args:
        name: Names the default run folder.
        config: The settings.
        images: Training images; a part of them validates.
        test: Test images; `None` takes a part of `images`.
        resume: Whether to go on with the run in `config.run`.

    Returns:
        What `results.json` holds; `None` if Ctrl-C or SIGTERM came before the end.

    Raises:
        InputError: If the images or the settings do not allow it, or training fails.
    """
    splits = split(config, images, test)
    network = AutoencoderConfig(
        image_shape=images.image_shape,
        latent=config.latent,
        hidden=config.hidden,
        channels=config.channels,
    )
    data = f"the images of {images.path}"
    files = {
        CONFIG: {
            "recipe": name,
            "data": images.path,
            "sha256": _digest(images, test),
            "images": {part: len(rows) for part, rows in splits._asdict().items()},
            "network": dataclasses.asdict(network),
            "settings": to_json(config, absolute=True),
        }
    }
    with open_session(name, config, files, data=data, resume=resume) as session:
        trained = session.train(lambda: _train_all(session, config, network, splits))
        if trained is None:
            return None
        results, kept = trained
        if (folder := session.folder) is not None:
            params, state = kept
            folder.write_tree("params.safetensors", {"params": params, "state": state})
            with folder.writing("samples.png") as picture:
                model = make_eae(network, entropy_weight=results["chosen"]["eae"])
                draw(picture, results, *_shown(model, kept, splits.test))
        session.complete(results)
    print_models(session.console, results)
    session.say_paths("samples.png")
    return results


def split(config: Config, images: ImageData, test: ImageData | None) -> Splits:
    """Split images at random, always the same way.

    Raises:
        InputError: If a part would have too few images.
    """
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    if test is None:
        count = round(config.test_share * len(images))
        test, order = images.take(np.sort(order[:count])), order[count:]
    count = config.validation
    if count is None:
        count = min(VALIDATION_IMAGES, len(order) // 5)
    parts = Splits(
        images.take(np.sort(order[count:])), images.take(np.sort(order[:count])), test
    )
    for name, part in parts._asdict().items():
        if len(part) <= config.k + 1:
            raise InputError(
                f"{images.path}: {len(part)} images are left for {name} of "
                f"{len(images)}: give more images, or another --validation or "
                "--test-share."
            )
    return parts


def _train_all(
    session: Session, config: Config, network: AutoencoderConfig, splits: Splits
) -> tuple[dict[str, Any], tuple[PyTree, PyTree]]:
    """Train every model and seed; return results, and the chosen EAE of seed 0."""
    frechet, floor = None, None
    if splits.fitting.labels is not None and splits.test.labels is not None:
        frechet = train_classifier(
            session, splits.fitting, splits.test, config.classifier_steps
        )
    parts = {
        name: _measured_against(images, config, frechet)
        for name, images in (("validation", splits.validation), ("test", splits.test))
    }
    if frechet is not None:
        rng, images = np.random.default_rng(SAMPLE_SEED), splits.fitting.images
        seen = rng.permutation(len(images))[: len(splits.test)]
        floor = frechet.distance(images[np.sort(seen)], _features(parts["test"]))
    models = [("eae", weight) for weight in config.entropy_weights]
    models += [("vae", beta) for beta in config.vae_betas]
    tx = make_optimizer(config.optimizer, config.steps)
    measured: list[dict[str, Any]] = []
    kept: dict[float, tuple[PyTree, PyTree]] = {}
    for kind, weight in models:
        if kind == "eae":
            model = make_eae(network, entropy_weight=weight, k=config.k)
        else:
            model = make_vae(network, beta=weight)
        seeds = []
        for seed in range(config.seeds):
            name, task = f"{kind.upper()} {weight:g}, seed {seed}", model.task
            log = session.log.bind(model=f"{kind}-{weight:g}", seed=seed)
            session.bar.start(name, headline=task.headline)
            fitted = session.fit(
                name,
                task,
                tx,
                splits.fitting,
                dataclasses.replace(session.settings, seed=seed),
                checkpoints=f"{kind}-{weight:g}-{seed}",
                log=log,
                validation=splits.validation,
            )
            trained = fetch((fitted.params, fitted.state))
            scores: dict[str, Any] = {
                part: _measure(model, trained, against, frechet)
                for part, against in parts.items()
            }
            # the last batches, which the optimizer has worked on
            tail = [row["train"] for row in log.rows() if "train" in row][-4:]
            if kind == "eae":
                scores["batch_entropy"] = float(
                    np.mean([row["batch_entropy"] for row in tail])
                )
            log.write({"step": fitted.step, "test": scores["test"]})
            session.bar.finish(f"kept step {fitted.step} of {config.steps}")
            seeds.append(scores)
            if kind == "eae" and seed == 0:
                kept[weight] = trained
        measured.append({"model": kind, "weight": weight, "seeds": seeds})
    chosen = best(measured)
    radius = gaussian_radius(config.latent)
    results = {
        "classifier": frechet
        and {"accuracy": frechet.accuracy, "sha256": frechet.digest, "floor": floor},
        "gaussian": {
            "batch_entropy": _gaussian_entropy(
                min(config.batch_size, len(splits.fitting)), config
            ),
            "validation_entropy": parts["validation"].entropy,
            "test_entropy": parts["test"].entropy,
            "radius_mean": radius.mean,
            "radius_std": radius.std,
        },
        "chosen": chosen,
        "ratios": ratios(measured, chosen),
        "models": measured,
    }
    return results, kept[chosen["eae"]]


def _measured_against(
    images: ImageData, config: Config, frechet: Frechet | None
) -> Reference:
    codes = np.random.default_rng(SAMPLE_SEED).normal(size=(len(images), config.latent))
    return Reference(
        images,
        None if frechet is None else frechet.features(images.images),
        codes.astype(np.float32),
        _gaussian_entropy(len(images), config),
    )


def _gaussian_entropy(count: int, config: Config) -> float:
    estimates = gaussian_knn_entropy(
        count,
        config.latent,
        config.k,
        key=jax.random.key(SAMPLE_SEED),
        repeats=ESTIMATES,
    )
    return float(estimates.mean())


def _measure(
    model: ImageModel,
    trained: tuple[PyTree, PyTree],
    against: Reference,
    frechet: Frechet | None,
) -> dict[str, float]:
    """All scores of one trained model on one split."""
    scores, rows = evaluate(model.task, *trained, against.images, CHUNK)
    if frechet is not None:
        features = _features(against)
        samples = generate(model, *trained, against.codes)
        again = generate(model, *trained, np.stack([row.code for row in rows]))
        scores["frechet"] = frechet.distance(samples, features)
        scores["frechet_reconstruction"] = frechet.distance(again, features)
    return scores


def _features(reference: Reference) -> npt.NDArray[np.float64]:
    assert reference.features is not None
    return reference.features


def _shown(
    model: ImageModel, trained: tuple[PyTree, PyTree], test: ImageData
) -> Sequence[npt.NDArray[np.uint8]]:
    """Samples, and test images alternating with their reconstructions by rows."""
    rng = np.random.default_rng(SAMPLE_SEED)
    originals = test.images[rng.permutation(len(test))[: PICTURE**2 // 2]]
    seen = np.asarray(model.encode(*trained, jnp.asarray(originals)))
    codes = rng.normal(size=(PICTURE**2, seen.shape[1])).astype(np.float32)
    again = generate(model, *trained, seen)
    rows = range(0, len(originals), PICTURE)
    pairs = [(originals[i : i + PICTURE], again[i : i + PICTURE]) for i in rows]
    return generate(model, *trained, codes), np.concatenate([*itertools.chain(*pairs)])


def _digest(images: ImageData, test: ImageData | None) -> Mapping[str, str]:
    def of(data: ImageData) -> str:
        digest = hashlib.sha256(repr((data.images.shape, data.label_names)).encode())
        digest.update(data.images.tobytes())
        if data.labels is not None:
            digest.update(data.labels.tobytes())
        return digest.hexdigest()

    return {"train": of(images), **({} if test is None else {"test": of(test)})}
