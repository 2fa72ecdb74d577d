"""The presets: short files, every recipe of the family at published settings; they train; `make compare`."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import check
from pipeline.gan.augment import AUGMENTATIONS
from pipeline.gan.flow import FLOW_LOSSES, loss_of
from pipeline.gan.losses import LOSSES
from pipeline.gan.optimisers import OPTIMISERS
from pipeline.gan.penalties import PENALTIES
from pipeline.gan.step import create_state, require_finite, train
from pipeline.models import NETWORKS, build_gan
from pipeline.models.summary import count_parameters
from pipeline.params import Params, Recipe, load, parse
from pipeline.params.file import preset_text
from pipeline.params.schema import parse_yaml
from tests.params.trees import PRESETS as PATHS
from tests.params.trees import ROOT, TEXT, TREE
from tests.recipes import image_set

PRESETS = {path.stem: load(path) for path in PATHS}
LABELLED = {"dcgan_conditional", "projection", "sagan_conditional"}
CLASSICS = {"gan", "dcgan", "sn_dcgan", "wgan", "wgan_gp", "wgan_gp_resnet", "sngan", "resnet", "sagan", *LABELLED}
MODERN = {"r3gan", "biggan", "lecam_biggan", "pac_dcgan", "stylegan2", "stylegan2_ada", "projected", "flow"}
RECIPES = CLASSICS | MODERN
CLASSES = 10
# FashionMNIST's recipes are those of MNIST.
EVERY = [(preset, recipe) for preset in PRESETS if preset != "fashion_mnist" for recipe in PRESETS[preset].models]

COLUMNS = ("network", "loss", "penalty", "clip", "norm_d", "spectral_norm_g", "width_g", "width_d", "latent_dim",
           "batch_size", "n_critic", "optimiser", "lr_g", "lr_d", "beta1", "beta2", "lr_decay", "flip",
           "dequantise")  # fmt: skip

# One line for each published row, and for each recipe that has none, the row whose settings it takes. The learning rate
# decays, reals are flipped or dequantised only where the row says so.
CIFAR10: dict[str, tuple[Any, ...]] = {
    # MLP GAN (MNIST)
    "gan": ("mlp", "bce", "none", None, "none", False, 128, 512, 100,
            64, 1, "adam", 2e-4, 2e-4, 0.5, 0.999, "none", False, False),
    # DCGAN
    "dcgan": ("dcgan", "bce", "none", None, "batch", False, 128, 64, 100,
              128, 1, "adam", 2e-4, 2e-4, 0.5, 0.9, "linear", True, False),
    "dcgan_conditional": ("dcgan_conditional", "bce", "none", None, "batch", False, 128, 64, 100,
                          128, 1, "adam", 2e-4, 2e-4, 0.5, 0.9, "linear", True, False),
    # WGAN (clip)
    "wgan": ("cnn", "wasserstein", "none", 0.1, "none", False, 64, 64, 100,
             128, 1, "adam", 2e-4, 2e-4, 0.0, 0.9, "none", True, False),
    # WGAN-GP CNN
    "wgan_gp": ("cnn", "wasserstein", "gradient", None, "none", False, 64, 64, 100,
                128, 1, "adam", 2e-4, 2e-4, 0.0, 0.9, "none", True, False),
    # WGAN-GP ResNet
    "wgan_gp_resnet": ("resnet", "wasserstein", "gradient", None, "none", False, 256, 128, 128,
                       64, 5, "adam", 2e-4, 2e-4, 0.0, 0.9, "linear", True, False),
    # SN-DCGAN, which has the plain CNN; its settings also with DCGAN's networks
    "sngan": ("cnn", "hinge", "none", None, "spectral", False, 64, 64, 100,
              128, 1, "adam", 2e-4, 2e-4, 0.0, 0.9, "none", False, True),
    "sn_dcgan": ("dcgan", "hinge", "none", None, "spectral", False, 128, 64, 100,
                 128, 1, "adam", 2e-4, 2e-4, 0.0, 0.9, "none", False, True),
    # SNGAN ResNet
    "resnet": ("resnet", "hinge", "none", None, "spectral", False, 256, 128, 128,
               64, 5, "adam", 2e-4, 2e-4, 0.0, 0.9, "linear", False, True),
    # projection cGAN + SN
    "projection": ("projection", "hinge", "none", None, "spectral", False, 256, 128, 128,
                   64, 5, "adam", 2e-4, 2e-4, 0.5, 0.999, "none", True, False),
    # SAGAN, unconditional and conditional
    "sagan": ("sagan", "hinge", "none", None, "spectral", True, 256, 128, 128,
              64, 5, "adam", 2e-4, 2e-4, 0.5, 0.999, "none", True, False),
    "sagan_conditional": ("sagan_conditional", "hinge", "none", None, "spectral", True, 256, 128, 128,
                          64, 5, "adam", 2e-4, 2e-4, 0.5, 0.999, "none", True, False),
}  # fmt: skip

# Of the methods that came later all that a recipe says. R3GAN's schedules end after 2e7 images, in batches of 512.
R3GAN_RATE = {"start": 2e-4, "end": 5e-5, "shape": "cosine", "until": 2e7 / 512 / 100_000}
BIGGAN = {"network": "biggan", "width_g": 384, "width_d": 192, "latent_dim": 80, "spectral_norm_g": True,
          "init": "orthogonal", "batch_size": 64, "n_critic": 5, "beta2": 0.999, "ema_decay": 0.9999,
          "ema_warmup": True}  # fmt: skip
# StyleGAN2-ADA's configuration for CIFAR-10
STYLEGAN2 = {"network": "stylegan2_conditional", "loss": "bce", "penalty": "r1", "penalty_weight": 0.01,
             "penalty_every": 16, "width_g": 512, "width_d": 512, "latent_dim": 512, "norm_d": "none",
             "minibatch_std": 32, "batch_size": 64, "lr_g": 2.5e-3, "lr_d": 2.5e-3, "beta1": 0.0, "beta2": 0.99,
             "ema_half_life": 5e5, "ema_ramp_up": 0.05, "flip": False}  # fmt: skip
ALL_THREE = ["translation", "colour", "cutout"]
CIFAR10_MODERN: dict[str, dict[str, Any]] = {
    "r3gan": {"network": "r3gan_conditional", "loss": "rpgan", "penalty": "r1_r2",
              "penalty_weight": R3GAN_RATE | {"start": 0.05, "end": 0.005}, "width_g": 768, "width_d": 768,
              "latent_dim": 64, "norm_d": "none", "batch_size": 512, "lr_g": R3GAN_RATE, "lr_d": R3GAN_RATE,
              "beta1": 0.0, "beta2": R3GAN_RATE | {"start": 0.9, "end": 0.99},
              "ema_half_life": R3GAN_RATE | {"start": 0.0, "end": 5e6}, "augment": ["ada_fixed"],
              "augment_strength": R3GAN_RATE | {"start": 0.0, "end": 0.55}},
    "biggan": BIGGAN,
    "lecam_biggan": BIGGAN | {"regularisers": {"lecam": 0.3}, "augment": ALL_THREE},
    "pac_dcgan": {"network": "dcgan", "loss": "bce", "width_g": 128, "norm_d": "batch", "pack": 2,
                  "lr_decay": "linear"},
    "stylegan2": STYLEGAN2,
    "stylegan2_ada": STYLEGAN2 | {"augment": ["ada"]},
    "projected": {"network": "projected", "latent_dim": 64, "batch_size": 64, "beta1": 0.0, "beta2": 0.99,
                  "ema_half_life": 2e4, "ema_ramp_up": 0.05, "augment": ALL_THREE},
    # torchcfm's, which warms up for 5,000 steps
    "flow": {"network": "unet", "loss": "flow_matching", "width_g": 128, "latent_dim": 3072, "norm_d": "none",
             "lr_g": {"start": 2e-4 / 5000, "end": 2e-4, "shape": "linear", "until": 5000 / 100_000}, "beta1": 0.9,
             "beta2": 0.999, "ema_decay": 0.9999, "sampling_steps": 100},
}  # fmt: skip

# Rows of their own elsewhere: MNIST's, and WGAN's by its paper.
MNIST: dict[str, dict[str, Any]] = {
    "gan": {"network": "mlp", "loss": "bce", "lr_g": 2e-4, "lr_d": 2e-4, "beta1": 0.5, "beta2": 0.999, "n_critic": 1,
            "batch_size": 64, "latent_dim": 100, "width_g": 128, "width_d": 512},
    "wgan_gp": {"network": "cnn", "loss": "wasserstein", "penalty": "gradient", "penalty_weight": 10.0, "lr_g": 1e-4,
                "lr_d": 1e-4, "beta1": 0.5, "beta2": 0.9, "n_critic": 5, "batch_size": 50, "latent_dim": 128,
                "width_g": 64, "width_d": 64},
}  # fmt: skip
WGAN_PAPER = {"network": "cnn", "loss": "wasserstein", "penalty": "none", "clip": 0.01, "norm_d": "none", "n_critic": 5,
              "optimiser": "rmsprop", "lr_g": 5e-5, "lr_d": 5e-5, "beta1": 0.0}  # fmt: skip


def differences(first: Recipe, second: Recipe) -> set[str]:
    """The fields in which two recipes differ."""
    return {key for key, value in first.model_dump().items() if value != second.model_dump()[key]}


def shape_of(values: Params) -> tuple[int, int, int]:
    return values.data.channels, values.data.image_size, values.data.image_size


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_holds_the_whole_family(preset: str) -> None:
    values = PRESETS[preset]
    # The extractor of digits is what projected learns from.
    assert set(values.models) == (RECIPES - {"projected"} if preset == "digits" else RECIPES)
    assert values.compare.models == ("dcgan", "sagan", "resnet")
    labelled = (
        LABELLED
        | {"biggan", "lecam_biggan"}
        | (set() if preset == "folder" else {"r3gan", "stylegan2", "stylegan2_ada"})
    )
    assert {name for name, recipe in values.models.items() if NETWORKS[recipe.network].conditional} == labelled
    different = {recipe.model_dump_json() for recipe in values.models.values()}
    assert len(different) == len(values.models), "two recipes are the same"


def test_these_are_the_presets() -> None:
    assert set(PRESETS) == {"digits", "mnist", "fashion_mnist", "cifar10", "folder"}


@pytest.mark.parametrize("preset", PRESETS)
def test_weights_are_averaged_where_averages_are_sampled(preset: str) -> None:
    models = PRESETS[preset].models
    averaged = {name for name in models if models[name].averaged}
    assert averaged == (set(models) if preset == "digits" else MODERN - {"pac_dcgan"})
    assert PRESETS[preset].generate.weights == ("ema" if preset == "digits" else "raw")


# The files.


def test_the_files_are_short_and_none_is_a_copy() -> None:
    texts = {path.stem: path.read_text(encoding="utf-8") for path in PATHS}
    assert len(TEXT.splitlines()) <= 210
    assert sum(len(text.splitlines()) for text in texts.values()) <= 1340
    assert texts["digits"] == TEXT  # so that `use digits` brings back the file of the repository
    assert all(max(map(len, text.splitlines())) <= 120 for text in texts.values())
    bodies = [preset_text(name).partition("\ndata:")[2] for name in texts]
    assert len(set(bodies)) == len(bodies)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_completes_to_a_whole_and_sound_file(preset: str) -> None:
    text = preset_text(preset)
    tree = parse_yaml(text, Path(preset))
    assert parse(tree, preset) == PRESETS[preset]
    assert list(check.problems(PRESETS[preset])) == []
    assert list(tree) == list(TREE)  # the order too, so that a difference reads well
    assert all(list(tree[section]) == list(TREE[section]) for section in set(TREE) - {"models"})
    for name, own in tree["models"].items():
        assert own == PRESETS[preset].differences(name), f"{name} repeats a shared value"
    assert set(tree["compare"]["models"]) <= set(tree["models"])


@pytest.mark.parametrize("preset", PRESETS)
def test_the_comments_list_every_choice(preset: str) -> None:
    text = preset_text(preset).split("\nrecipe:\n")[1].split("\nmodels:\n")[0]
    lines = re.sub(r"\n +# ", " ", text).splitlines()  # a comment may go on in the next line
    told = {line.split(":")[0].strip(): line.partition("# ")[2] for line in lines}
    registries = {"network": NETWORKS, "loss": {**LOSSES, **FLOW_LOSSES}, "penalty": PENALTIES, "optimiser": OPTIMISERS,
                  "augment": AUGMENTATIONS}  # fmt: skip
    end = "_conditional"  # said once of several networks
    for field, registry in registries.items():
        words = set(re.findall(r"\w+", told[field]))
        spelt = {name for name in registry if name in words or {name.removesuffix(end), end} <= words}
        assert spelt == set(registry), field
    assert list(told) == list(Recipe.model_fields)
    assert [field for field in told if not told[field]] == ["batch_size", "lr_g", "lr_d"]  # their names say all


def test_a_toy_recipe_needs_few_lines() -> None:
    toy = """\
  # Hinge loss on the networks of SNGAN with a lazy R1 penalty
  toy:
    network: resnet
    penalty: r1
    penalty_every: 16
    lr_g: {start: 2e-4, end: 5e-5, shape: cosine, until: 0.5}
"""
    assert len(toy.splitlines()) <= 6
    loaded = parse(parse_yaml(TEXT.replace("\nmodels:\n", f"\nmodels:\n{toy}"), Path("toy")), "toy")
    assert list(check.problems(loaded)) == []
    assert set(loaded.differences("toy")) == {"network", "penalty", "penalty_every", "lr_g"}


# Published settings, exactly.


def test_every_recipe_has_a_row() -> None:
    assert (set(CIFAR10), set(CIFAR10_MODERN)) == (CLASSICS, MODERN)


@pytest.mark.parametrize("name", CIFAR10_MODERN)
def test_cifar10_has_the_later_methods_at_published_settings(name: str) -> None:
    assert PRESETS["cifar10"].differences(name) == CIFAR10_MODERN[name]


def test_what_a_later_recipe_adds_to_an_older_one() -> None:
    for values in PRESETS.values():
        models = values.models
        assert differences(models["pac_dcgan"], models["dcgan"]) == {"pack"}
        assert differences(models["lecam_biggan"], models["biggan"]) <= {"regularisers", "augment"}
        assert differences(models["stylegan2_ada"], models["stylegan2"]) == {"augment"}
        assert (models["pac_dcgan"].pack, models["lecam_biggan"].regularisers) == (2, {"lecam": 0.3})


@pytest.mark.parametrize("name", CIFAR10)
def test_cifar10_is_at_the_published_settings(name: str) -> None:
    recipe = PRESETS["cifar10"].models[name]
    told = dict(zip(COLUMNS, CIFAR10[name], strict=True))
    assert {column: getattr(recipe, column) for column in COLUMNS} == told
    assert recipe.penalty_weight == 10.0
    # The initialisation of the networks; nothing is published for the MLP.
    assert recipe.init == ("normal" if recipe.network in ("dcgan", "dcgan_conditional", "cnn") else "xavier")
    # What none of the rows has.
    assert (recipe.label_smoothing, recipe.augment, recipe.instance_noise) == (0.0, (), 0.0)
    assert (recipe.ema_decay, recipe.ema_warmup) == (None, False)


def test_cifar10_trains_as_long_as_was_published() -> None:
    values = PRESETS["cifar10"]
    assert (values.train.steps, values.generate.samples, shape_of(values)) == (100_000, 50_000, (3, 32, 32))


@pytest.mark.parametrize("preset", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("name", MNIST)
def test_mnist_has_rows_of_its_own(preset: str, name: str) -> None:
    recipe = PRESETS[preset].models[name]
    assert {key: getattr(recipe, key) for key in MNIST[name]} == MNIST[name]


@pytest.mark.parametrize("preset", ["mnist", "fashion_mnist", "folder"])
def test_wgan_is_elsewhere_the_papers(preset: str) -> None:
    recipe = PRESETS[preset].models["wgan"]
    assert {key: getattr(recipe, key) for key in WGAN_PAPER} == WGAN_PAPER


@pytest.mark.parametrize("preset", ["mnist", "fashion_mnist", "folder"])
@pytest.mark.parametrize(
    "name", ["sn_dcgan", "wgan_gp_resnet", "sngan", "resnet", "projection", "sagan", "sagan_conditional"]
)
def test_other_data_change_widths_and_flips_alone(preset: str, name: str) -> None:
    changed = differences(PRESETS[preset].models[name], PRESETS["cifar10"].models[name])
    assert changed <= {"width_g", "width_d", "flip"}


@pytest.mark.parametrize("preset", PRESETS)
def test_flips_are_what_the_data_allow(preset: str) -> None:
    flips = {recipe.flip for recipe in PRESETS[preset].models.values()}
    assert flips == {"cifar10": {True, False}, "folder": {True}}.get(preset, {False})


@pytest.mark.parametrize("preset", PRESETS)
def test_a_label_is_all_that_a_conditional_recipe_adds(preset: str) -> None:
    models = PRESETS[preset].models
    assert differences(models["dcgan_conditional"], models["dcgan"]) == {"network"}
    assert differences(models["sagan_conditional"], models["sagan"]) == {"network"}


@pytest.mark.parametrize("preset", ["mnist", "fashion_mnist", "cifar10", "folder"])
def test_sn_dcgan_is_sngan_on_the_networks_of_dcgan(preset: str) -> None:
    models = PRESETS[preset].models
    assert differences(models["sn_dcgan"], models["sngan"]) <= {"network", "width_g", "width_d"}
    assert not {"network", "width_g", "width_d"} & differences(models["sn_dcgan"], models["dcgan"])


@pytest.mark.parametrize("name", sorted(RECIPES - {"projected", "flow"}))
def test_recipes_for_digits_are_small(name: str) -> None:
    recipe = PRESETS["digits"].models[name]
    assert 32 <= recipe.width_g <= 64 and 32 <= recipe.width_d <= 64 and recipe.latent_dim == 64
    assert recipe.n_critic == 1 and 32 <= recipe.batch_size <= 64 and recipe.lr_decay == "linear"


# They are built and they train.


@pytest.mark.parametrize(("preset", "name"), [pair for pair in EVERY if pair[0] in ("digits", "cifar10")])
@pytest.mark.slow
def test_a_recipe_is_built_in_full_width(preset: str, name: str) -> None:
    recipe, count = PRESETS[preset].models[name], 32  # of which some recipes see all at once
    with torch.device("meta"):
        gan = build_gan(recipe, shape_of(PRESETS[preset]), CLASSES, seed=0)
        images = torch.zeros(count, *shape_of(PRESETS[preset]))
        latents, labels = torch.zeros(count, recipe.latent_dim), torch.zeros(count, dtype=torch.int64)
    assert gan.generator(latents, labels).shape == images.shape
    assert gan.discriminator(images, labels).shape == (count // recipe.pack,)


@pytest.mark.parametrize("name", ["resnet", "wgan_gp_resnet"])
def test_the_residual_networks_have_the_published_parameters(name: str) -> None:
    with torch.device("meta"):
        gan = build_gan(PRESETS["cifar10"].models[name], (3, 32, 32), 0, seed=0)
    assert (count_parameters(gan.generator), count_parameters(gan.discriminator)) == (4_276_739, 1_053_825)


@pytest.mark.parametrize(("preset", "name"), EVERY)
@pytest.mark.slow
def test_a_recipe_takes_a_step(preset: str, name: str) -> None:
    values = PRESETS[preset]
    batch = max(4, values.models[name].minibatch_std)
    recipe = values.models[name].model_copy(update={"width_g": 4, "width_d": 4, "batch_size": batch})
    budget = values.train.model_copy(update={"steps": 1, "report_every": 1})
    images = image_set(32, shape_of(values), CLASSES)
    state = create_state(recipe, budget, shape_of(values), CLASSES, 0, torch.device("cpu"))
    before = {key: tensor.clone() for key, tensor in state.tensors().items()}
    (report,) = train(state, images, loss_of(recipe), recipe, budget)
    require_finite(state)
    assert report.losses is not None
    after = state.tensors()
    for network in ("g.",) if name == "flow" else ("g.", "d."):
        assert any(not torch.equal(before[key], after[key]) for key in after if key.startswith(network))


# make compare: the Makefile in a folder of its own, with the tests' interpreter for .venv and a dvc that does nothing.


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("Makefile", "requirements.txt", "params.yaml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "pipeline").symlink_to(ROOT / "pipeline")
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, does in (("python", f'exec "{sys.executable}" "$@"'), ("dvc", 'echo "dvc $*"')):
        (programs / name).write_text(f"#!/bin/sh\n{does}\n")
        (programs / name).chmod(0o755)
    (tmp_path / ".venv" / "installed").touch()
    return tmp_path


def make_compare(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MAKE") and key != "MODELS"}
    command = ["make", "compare", *arguments]
    return subprocess.run(command, cwd=project, env=kept, capture_output=True, text=True)


def told(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What was said by us, without make's own line that a target failed."""
    return [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("make: ***")]


@pytest.mark.parametrize("arguments", [(), ("MODELS=",), ("MODELS=  ",)])
def test_make_compare_without_models(project: Path, arguments: tuple[str, ...]) -> None:
    done = make_compare(project, *arguments)
    usage = 'name recipes of params.yaml, for example make compare MODELS="dcgan sagan"'
    assert (done.returncode, told(done)) == (2, [f"error: MODELS is missing: {usage}"])


@pytest.mark.slow
def test_make_compare(project: Path) -> None:
    done = make_compare(project, "MODELS= dcgan  wgan_gp sagan ")
    assert done.returncode == 0, done.stderr
    assert load(project / "params.yaml").compare.models == ("dcgan", "wgan_gp", "sagan")
    before, after = ((folder / "params.yaml").read_text().splitlines() for folder in (ROOT, project))
    assert len(before) == len(after)
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert changed == [("  models: [dcgan, sagan, resnet]", "  models: [dcgan, wgan_gp, sagan]")]
    said = told(done)
    assert said[:3] == [
        "wrote compare.models=[dcgan,wgan_gp,sagan] to params.yaml",
        "params.yaml is sound",
        "dvc repro",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("models", "sentence"),
    [
        ("dcgan nope", "compare.models: unknown name 'nope'; Choices: "),
        ("DCGAN", "params.yaml: compare.models.0: must match "),
    ],
)
def test_make_compare_refuses_what_is_no_recipe(project: Path, models: str, sentence: str) -> None:
    done = make_compare(project, f"MODELS={models}")
    assert done.returncode == 2
    assert told(done)[0].startswith(f"error: {sentence}")
    assert (project / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()
