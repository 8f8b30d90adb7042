"""`zlpr-jax train eae`, `sample` and `interpolate`, on tiny images."""

import io
import json
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zlpr_jax import training
from zlpr_jax._errors import InputError
from zlpr_jax.data.images import read_images
from zlpr_jax.recipes import _autoencoder_results as shown
from zlpr_jax.recipes import _frechet, eae
from zlpr_jax.recipes._optimizer import make_optimizer

MNIST = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "img_mnist"

SETTINGS = (
    *("--entropy-weights", "0", "1", "--vae-betas", "0.5", "--latent", "2"),
    *("--hidden", "--steps", "8", "--batch-size", "8", "--eval-every", "4"),
    *("--report-every", "2", "--save-every", "4", "--classifier-steps", "8"),
    "--no-tensorboard",
)
FILES = {
    *("config.json", "metrics.jsonl", "params.safetensors"),
    *("results.json", "samples.png"),
}


def squares(path, rows=60, size=(6, 8), labels=True, seed=0):
    """Bright squares at the left or at the right."""
    rng = np.random.default_rng(seed)
    side = rng.integers(0, 2, rows)
    images = rng.integers(0, 60, (rows, *size), dtype=np.uint8)
    for image, right in zip(images, side, strict=True):
        image[1:5, 4 * right + 1 : 4 * right + 3] += 180
    np.savez(path, images=images, **({"labels": side} if labels else {}))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return squares(tmp_path_factory.mktemp("images") / "squares.npz")


@pytest.fixture(scope="module")
def trained(run, data, tmp_path_factory):
    """A run that nothing happened to, and what it printed."""
    folder = tmp_path_factory.mktemp("eae") / "run"
    result = run("train", "eae", "--data", data, "--run", folder, *SETTINGS)
    assert (result[0], result[2]) == (0, "")
    return folder, result[1]


def size_of(path):
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        assert image.format == "PNG"
        return image.size


def test_a_run(trained):
    folder, out = trained
    assert {path.name for path in folder.iterdir()} == FILES
    results = json.loads((folder / "results.json").read_text())
    models = [(row["model"], row["weight"]) for row in results["models"]]
    assert models == [("eae", 0.0), ("eae", 1.0), ("vae", 0.5)]
    assert results["chosen"] == {"eae": 1.0, "vae": 0.5}
    digest = results["classifier"]["sha256"]
    assert f"classifier {digest[:12]}, accuracy" in out
    test = results["models"][1]["seeds"][0]["test"]
    vae = results["models"][2]["seeds"][0]["test"]
    ratio = results["ratios"]["eae/vae"]
    np.testing.assert_allclose(ratio["mean"], test["frechet"] / vae["frechet"])
    assert f"test FD, eae/vae: {ratio['mean']:.3f}" in out
    assert f"{test['frechet']:.1f}" in out
    config = json.loads((folder / "config.json").read_text())
    assert config["images"] == {"fitting": 39, "validation": 9, "test": 12}
    assert size_of(folder / "samples.png")[0] > 1000


def test_interrupted_and_resumed_is_never_interrupted(
    run, stop, data, trained, tmp_path, monkeypatch
):
    """In an EAE, and then between two trainings."""
    folder = tmp_path / "run"
    command = ("train", "eae", "--data", data, "--run", folder, *SETTINGS)
    for fit, step, place in (
        (3, 4, "step [4-7] of EAE 1, seed 0"),
        (4, 0, "step 1 of VAE 0.5, seed 0"),
    ):
        with monkeypatch.context() as patch:
            stop(patch, fit=fit, step=step, how=signal.SIGTERM)
            status, out, err = run(*command)
        assert (status, err) == (0, "")
        assert re.search(f"^interrupted at {place}; ", out.splitlines()[-1])
        status, out, err = run("sample", folder)
        assert (status, out) == (2, "")
        assert "the run is not complete" in err
        command = ("resume", folder)
    status, out, err = run(*command)
    assert (status, err) == (0, "")
    for name in FILES - {"config.json", "samples.png"}:
        expected = (trained[0] / name).read_bytes()
        assert (folder / name).read_bytes() == expected, name


def test_without_labels_nothing_measures_samples(run, tmp_path):
    images = squares(tmp_path / "squares.npz", labels=False)
    flags = ("--data", images, "--run", tmp_path / "run", *SETTINGS, "--vae-betas")
    status, out, err = run("train", "eae", *flags, "--entropy-weights", "1")
    assert (status, err) == (0, "")
    assert "FD" not in out
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["classifier"] is None
    assert results["chosen"] == {"eae": 1.0}
    assert "frechet" not in results["models"][0]["seeds"][0]["test"]


def test_sample(run, trained, tmp_path):
    folder, _ = trained
    status, out, err = run("sample", folder, "--n", 5, "--out", tmp_path / "a.png")
    assert (status, err) == (0, "")
    assert out == f"{tmp_path / 'a.png'}: 5 samples\n"
    # two columns, three rows, of 8 x 6 with gaps of 2
    assert size_of(tmp_path / "a.png") == (22, 26)
    for name, seed in (("b.png", 0), ("c.png", 1)):
        run("sample", folder, "--n", 5, "--out", tmp_path / name, "--seed", seed)
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_interpolate(run, trained, data, tmp_path):
    folder, _ = trained
    for name, flags in (("a.png", ()), ("b.png", ("--data", data))):
        out = tmp_path / name
        flags = ("--n", 2, "--steps", 4, "--out", out, *flags)
        status, text, err = run("interpolate", folder, *flags)
        assert (status, err) == (0, "")
        assert text == f"{out}: 2 paths of 4 images\n"
        assert size_of(out) == (42, 18)
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sample", "RUN", "--n", "0"), "--n must be in [1, 10000], got 0"),
        (("sample", "RUN", "--seed", "-1"), "--seed must be in [0, 4294967295]"),
        (("sample", "RUN", "--out", "a.gif"), "a.gif: pictures are written as .png"),
        (("sample", "RUN", "--out", "RUN/samples.png"), "exists: name another file"),
        (("sample", "RUN", "--out", "absent/a.png"), "cannot be written: No such file"),
        (("sample", "RUN", "--out", "WIDE/a.png"), "a.png: cannot be written: Not a"),
        (("sample", "absent"), "absent: no such run folder"),
        (("interpolate", "RUN", "--steps", "1"), "--steps must be in [2, 100], got 1"),
        (("interpolate", "RUN", "--data", "WIDE"), "are 6 x 9 grey, those of the"),
        (("evaluate", "RUN"), "a run of the recipe 'eae'"),
        (("predict", "RUN", "--data", "x.csv"), "for it there is `zlpr-jax sa"),
    ],
)
def test_bad_arguments(run, trained, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    names = {
        "RUN": trained[0],
        "RUN/samples.png": trained[0] / "samples.png",
        "WIDE": squares(tmp_path / "wide.npz", size=(6, 9)),
        "WIDE/a.png": tmp_path / "wide.npz" / "a.png",
    }
    status, out, err = run(*(names.get(argument, argument) for argument in arguments))
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["wide.npz"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--entropy-weights", "0"), "entropy_weights must have one above 0"),
        (("--entropy-weights", "1", "1"), "entropy_weights must differ"),
        (("--entropy-weights=-1",), "entropy_weights must be >= 0"),
        (("--vae-betas", "0"), "vae_betas must be > 0"),
        (("--batch-size", "3", "--k", "3"), "batch_size must be above k = 3, got 3"),
        (("--validation", "47"), "1 images are left for fitting of 60"),
        (("--ema", "0.9"), "ema would average the parameters"),
        (("--data", "absent"), "absent"),
    ],
)
def test_bad_settings(run, data, tmp_path, flags, message):
    folder = tmp_path / "run"
    flags = ("--data", data, "--run", folder, *SETTINGS, *flags)
    status, _, err = run("train", "eae", *flags)
    assert status == 2
    assert message in err
    assert not folder.exists()


def test_tiny_images_can_be_classified(run, stop, tmp_path, monkeypatch):
    """They are not moved by as many pixels as they have."""
    images, folder = squares(tmp_path / "tiny.npz", size=(2, 2)), tmp_path / "run"
    stop(monkeypatch, fit=1, how=InputError("the classifier begins"))
    status, _, err = run("train", "eae", "--data", images, "--run", folder, *SETTINGS)
    assert (status, err) == (2, "zlpr-jax: error: the classifier begins\n")


def test_other_images_are_no_resume(run, stop, tmp_path, monkeypatch):
    images, folder = squares(tmp_path / "squares.npz"), tmp_path / "run"
    with monkeypatch.context() as patch:
        stop(patch, fit=1, step=4)
        run("train", "eae", "--data", images, "--run", folder, *SETTINGS)
    squares(images, seed=1)
    status, _, err = run("resume", folder)
    assert status == 2
    assert f"the images of {images} are not those that the run began with" in err


# -- the measure


@pytest.mark.slow
@pytest.mark.skipif(not MNIST.is_dir(), reason=f"MNIST is not at {MNIST}")
def test_the_classifier_names_digits_rightly():
    """Distances in the features of one that does not would mean little."""
    train, test = read_images(MNIST)
    task, steps = _frechet.classifier_task(train), eae.Config().classifier_steps
    settings = training.FitConfig(steps=steps, batch_size=_frechet.BATCH_SIZE)
    tx = make_optimizer(_frechet.OPTIMIZER, steps)
    fitted = training.fit(task, tx, train, settings)
    trained = fitted.params, fitted.state
    scores, _ = training.evaluate(task, *trained, test, _frechet.CHUNK)
    assert scores["accuracy"] >= 0.98


# -- the choice


def model(kind, weight, held_out, test, entropy=1.0, batch=1.0):
    seeds = [
        {
            "validation": {"frechet": float(a), "entropy": entropy},
            "test": {"frechet": float(b)},
            "batch_entropy": batch,
        }
        for a, b in zip(held_out, test, strict=True)
    ]
    return {"model": kind, "weight": weight, "seeds": seeds}


def test_held_out_images_choose_and_test_images_do_not():
    models = [
        model("eae", 0.0, [1, 1], [8, 4]),
        model("eae", 0.5, [5, 7], [3, 3]),
        model("eae", 2.0, [6, 5], [6, 3]),
        model("vae", 0.1, [9, 9], [6, 6]),
        model("vae", 0.2, [9, 10], [1, 1]),
    ]
    chosen = shown.best(models)
    assert chosen == {"eae": 2.0, "vae": 0.1}, "weight 0 is no EAE"
    ratios = shown.ratios(models, chosen)
    assert ratios["eae/weight 0"] == {"mean": 0.75, "values": [0.75, 0.75]}
    assert ratios["eae/vae"] == {"mean": 0.75, "values": [1.0, 0.5]}


def test_estimates_of_batches_alone_are_gamed():
    gaussian = {"batch_entropy": 23.4, "validation_entropy": 22.9}
    for entropy, batch, gamed in (
        (20.9, 23.5, True),
        (20.9, 23.1, False),
        (22.9, 23.5, False),
    ):
        row = model("eae", 3.0, [1], [1], entropy, batch)
        assert shown.is_gamed(row, gaussian) is gamed
        for other in ({"model": "vae"}, {"weight": 0.0}):
            assert not shown.is_gamed({**row, **other}, gaussian)
