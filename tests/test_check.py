"""Faults of params that do parse: each is told, all are told, and sound params have none."""

import functools
import hashlib
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from dvc.repo import Repo

from pipeline import check
from pipeline.core.checksums import write_sums
from pipeline.core.errors import PipelineError
from pipeline.data.datasets import DATASETS, expected_classes
from pipeline.gan.augment import AUGMENTATIONS
from pipeline.gan.checkpoint import export_networks, generator_tensors
from pipeline.gan.flow import FLOW_LOSSES
from pipeline.gan.losses import LOSSES
from pipeline.gan.optimisers import OPTIMISERS
from pipeline.gan.penalties import PENALTIES
from pipeline.gan.step import create_state
from pipeline.gan.warm_start import keep
from pipeline.metrics import EXTRACTORS
from pipeline.models import NETWORKS
from pipeline.params import Params, load
from pipeline.repository import mend_cache, mend_lock, mend_rwlock, require_dvc, require_outputs_whole
from tests.networks import ADVERSARIAL
from tests.recipes import tiny_params

EVERY_LOSS = [*LOSSES, *FLOW_LOSSES]
ROOT = Path(__file__).resolve().parent.parent
WRITTEN = "which the pipeline writes, nor lie in it"
SYSTEM = "is a folder of the operating system: set it to the folder of your images"
SIZES = "must be 4, 5, 6 or 7 times a power of two (16, 28, 32, 48, 64, ...), got"


@pytest.fixture(autouse=True)
def cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same machine everywhere: no CUDA, no MPS."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", functools.cache(lambda: False))  # cached, as torch's is


def params(**changes: Any) -> Params:
    """params.yaml as it should be, all of its GANs compared, with dotted names (`__` for the dot) replaced."""
    models = load(ROOT / "params.yaml").models
    every = [name for name, recipe in models.items() if not NETWORKS[recipe.network].flow]  # see tests/gan/test_flow.py
    sound = {"data.image_size": 16, "data.channels": 1, "generate.weights": "ema", "compare.models": every,
             "compare.seeds": [0], "runtime.device": "cpu"}  # fmt: skip
    recipes = {"norm_d": "spectral", "loss": "hinge", "ema_decay": 0.99, "penalty": "none", "clip": None,
               "label_smoothing": 0.0, "augment": []}  # fmt: skip
    for model in ("dcgan", "sagan", "resnet"):
        sound |= {f"models.{model}.{key}": value for key, value in recipes.items()}
        sound[f"models.{model}.network"] = model
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    return load(ROOT / "params.yaml").override(sound | changes)


def problems(**changes: Any) -> list[str]:
    return list(check.problems(params(**changes)))


def choices(names: Any) -> str:
    return f"Choices: {', '.join(sorted(names))}"


def test_sound_params_have_no_problems() -> None:
    assert problems() == []
    check.validate(params())
    check.validate(load(ROOT / "params.yaml"))


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("data.dataset", "digit", f"unknown name 'digit'; did you mean 'digits'? {choices(DATASETS)}"),
        ("data.dataset", "???", f"unknown name '???'; {choices(DATASETS)}"),
        (
            "metrics.extractor",
            "inceptoin",
            f"unknown name 'inceptoin'; did you mean 'inception'? {choices(EXTRACTORS)}",
        ),
        ("models.resnet.network", "resnt", f"unknown name 'resnt'; did you mean 'resnet'? {choices(NETWORKS)}"),
        (
            "models.sagan.loss",
            "hinqe",
            f"unknown name 'hinqe'; did you mean 'hinge'? {choices(EVERY_LOSS)}",
        ),
        ("models.sagan.penalty", "gradent", f"unknown name 'gradent'; did you mean 'gradient'? {choices(PENALTIES)}"),
        ("models.sagan.optimiser", "adma", f"unknown name 'adma'; did you mean 'adam'? {choices(OPTIMISERS)}"),
    ],
)
def test_unknown_names(name: str, value: str, sentence: str) -> None:
    assert problems(**{name: value}) == [f"{name}: {sentence}"]


def test_unknown_and_repeated_models_and_seeds() -> None:
    assert problems(compare__models=["dcgna"]) == [
        f"compare.models: unknown name 'dcgna'; did you mean 'dcgan'? {choices(params().models)}"
    ]
    assert problems(compare__models=["sagan", "dcgan", "sagan"]) == [
        "compare.models: must not name anything twice, got ['sagan', 'dcgan', 'sagan']"
    ]
    assert problems(compare__seeds=[1, 2, 1]) == ["compare.seeds: must not name anything twice, got [1, 2, 1]"]
    assert problems(compare__seeds=[1, 2, 3], compare__models=["sagan", "dcgan"]) == []


def test_augmentations_are_known_and_named_once() -> None:
    found = problems(models__sagan__augment=["cutout", "color"])
    expected = f"unknown name 'color'; did you mean 'colour'? {choices(AUGMENTATIONS)}"
    assert found == [f"models.sagan.augment: {expected}"]
    found = problems(models__sagan__augment=["cutout", "colour", "cutout"])
    expected = "must not name anything twice, got ['cutout', 'colour', 'cutout']"
    assert found == [f"models.sagan.augment: {expected}"]
    assert problems(models__sagan__augment=["cutout", "translation", "colour"]) == []


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("norm", ["none", "batch", "spectral"])
@pytest.mark.parametrize("penalty", [name for name, entry in PENALTIES.items() if not entry.needs_styles])
@pytest.mark.parametrize("clip", [None, 0.01])
@pytest.mark.slow
def test_what_loss_norm_penalty_and_clip_ask_of_each_other(
    loss: str, norm: str, penalty: str, clip: float | None
) -> None:
    changes = {"loss": loss, "norm_d": norm, "penalty": penalty, "clip": clip}
    found = problems(**{f"models__dcgan__{name}": value for name, value in changes.items()})
    expected = []
    if loss == "wasserstein" and norm != "spectral" and penalty != "gradient" and clip is None:
        expected += [
            "models.dcgan.norm_d: must be spectral (or set penalty: gradient, or clip) with loss wasserstein, which "
            "needs D's gradient bounded"
        ]
    if norm == "batch" and penalty in ("gradient", "dragan", "r1", "r2", "r1_r2"):
        expected += [
            f"models.dcgan.norm_d: must not be batch with penalty {penalty}, which needs logits that depend on their "
            "own image alone: batch norm mixes images; use none or spectral"
        ]
    if norm == "spectral" and clip is not None:
        expected += [
            "models.dcgan.clip: must be null with norm_d: spectral, which divides weights by their norm, clipped or not"
        ]
    assert found == expected


@pytest.mark.parametrize("loss", LOSSES)
def test_label_smoothing_needs_labels(loss: str) -> None:
    rule = f"must be 0 with loss {loss}, which has no labels; losses with labels: bce, bce_saturating"
    found = problems(models__dcgan__loss=loss, models__dcgan__label_smoothing=0.1)
    assert found == ([] if loss in ("bce", "bce_saturating") else [f"models.dcgan.label_smoothing: {rule}"])


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_of_pairs_reuses_no_fakes(loss: str) -> None:
    rule = f"must be false with loss {loss}, which draws new pairs for G's update"
    found = problems(models__dcgan__loss=loss, models__dcgan__reuse_fakes=True)
    assert found == ([f"models.dcgan.reuse_fakes: {rule}"] if loss in ("rpgan", "ragan") else [])


def test_wasserstein_needs_a_bounded_slope() -> None:
    assert [name for name, loss in LOSSES.items() if loss.needs_lipschitz] == ["wasserstein"]


def test_averaged_weights_need_an_average() -> None:
    assert problems(models__sagan__ema_decay=None) == [
        "models.sagan.ema_decay: must be a number with generate.weights: ema; or set generate.weights: raw"
    ]
    assert problems(models__sagan__ema_decay=None, generate__weights="raw") == []
    assert problems(generate__weights="raw") == []


@pytest.mark.parametrize("network", ADVERSARIAL)
def test_batch_norm_in_d(network: str) -> None:
    found = problems(models__dcgan__network=network, models__dcgan__norm_d="batch", metrics__extractor="inception")
    expected = f"models.dcgan.norm_d: the network {network} has no batch norm in D; use spectral or none"
    assert found == ([] if network in ("dcgan", "dcgan_conditional") else [expected])


@pytest.mark.parametrize("size", [17, 9, 4, 7, 30, 33, 1023])
def test_sizes_that_no_network_can_have(size: int) -> None:
    assert problems(data__image_size=size) == [
        f"data.image_size: {SIZES} {size} (the network of models.{model})"
        for model, recipe in params().models.items()
        if recipe.network not in ("mlp", "unet")  # the one can have any, the other is no GAN
    ]


@pytest.mark.parametrize("size", [8, 10, 12, 14])
def test_attention_needs_sixteen_pixels(size: int) -> None:
    assert problems(data__image_size=size) == [
        f"data.image_size: must be at least 16 for a network with attention, got {size} (the network of models.{model})"
        for model in ("sagan", "sagan_conditional", "biggan", "lecam_biggan")
    ]


@pytest.mark.parametrize("size", [16, 20, 24, 28, 32, 48, 64])
def test_sizes_that_every_network_can_have(size: int) -> None:
    assert problems(data__image_size=size, data__channels=3) == []


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:1", "cuda:99", "cuda:300", "cuda:" + "9" * 20, "mps"])
def test_devices_that_are_not_there(device: str) -> None:
    """Refused with a sentence: by the pattern in params, or because it is not there."""
    with pytest.raises(PipelineError) as caught:
        check.validate(params(runtime__device=device))
    assert "runtime.device: " in str(caught.value) and device[:6] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_sentence_of_a_device_that_is_not_there() -> None:
    for device in ("cuda", "cuda:1", "mps"):
        expected = f"runtime.device: {device} is not available on this machine; use auto or cpu"
        assert problems(runtime__device=device) == [expected]


def test_devices_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for device in ("auto", "cpu", "cuda", "cuda:0"):
        assert problems(runtime__device=device) == []
    assert problems(runtime__device="cuda:1") == [
        "runtime.device: cuda:1 is not available on this machine; use auto or cpu"
    ]


def test_devices_that_share_a_training_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    for device in ("cpu", "auto"):
        assert problems(runtime__device=device, runtime__devices=2) == []
        assert problems(runtime__device=device, runtime__devices=[0, 1]) == [
            "runtime.devices: a list names GPUs, but runtime.device is the CPU here: give a number of processes"
        ]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert problems(runtime__device="auto", runtime__devices=[0, 1]) == []
    assert problems(runtime__device="auto", runtime__devices=[0, 2]) == [
        "runtime.devices: [0, 2] was asked for, but 2 GPUs are here"
    ]


def test_a_spread_is_that_of_whole_packs() -> None:
    """Batches of 6 in pairs are 3 packs, which no groups of 2 hold; half of 8 images are 2, and 2 groups of 2 packs."""
    both: dict[str, Any] = {"compare__models": ["dcgan"], "models__dcgan__network": "stylegan2",
                            "models__dcgan__norm_d": "none", "models__dcgan__pack": 2,
                            "models__dcgan__minibatch_std": 2}  # fmt: skip
    assert problems(**both, models__dcgan__batch_size=6) == [
        "models.dcgan.batch_size: must be a multiple of 4, pack times minibatch_std, got 6"
    ]
    assert problems(**both, models__dcgan__batch_size=8, train__accumulate=2) == []
    assert problems(**both, models__dcgan__batch_size=8, runtime__devices=4) == [
        "models.dcgan.batch_size: 8 images in groups of 4 cannot be shared evenly by 4 devices, only by 1, 2"
    ]
    only = {**both, "models__dcgan__network": "projected", "models__dcgan__minibatch_std": 0}
    assert problems(**only, metrics__extractor="inception") == [
        "models.dcgan.pack: must be 1 with the network projected, whose D passes each image through a frozen network"
    ]


def test_every_fault_is_told_one_a_line() -> None:
    with pytest.raises(PipelineError) as caught:
        check.validate(
            params(
                data__dataset="digit",
                compare__models=["nope", "dcgan", "resnet"],
                compare__seeds=[1, 1],
                models__dcgan__loss="wasserstein",
                models__dcgan__norm_d="none",
                models__resnet__ema_decay=None,
                runtime__device="mps",
            )
        )
    lines = str(caught.value).splitlines()
    assert all(line.startswith("params.yaml: ") for line in lines)
    assert [line.split(": ")[1] for line in lines] == [
        "data.dataset",
        "compare.models",
        "compare.seeds",
        "models.dcgan.norm_d",
        "models.resnet.ema_decay",
        "runtime.device",
    ]


def test_a_recipe_outside_the_comparison_matters_only_to_its_own_study() -> None:
    changed = params(compare__models=["dcgan"], models__resnet__loss="hing", models__wgan__norm_d="batch")
    assert list(check.problems(changed)) == []
    assert list(check.problems(changed, tuned="resnet")) == [
        f"models.resnet.loss: unknown name 'hing'; did you mean 'hinge'? {choices(EVERY_LOSS)}"
    ]


# What params.yaml names outside itself.


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setattr("pipeline.metrics.load_extractor", lambda *_: None)
    return tmp_path


@pytest.mark.parametrize(
    ("root", "fault"),
    [
        ("data", f"must neither contain data/prepared, {WRITTEN}, got data"),
        (".", f"must neither contain data/prepared, {WRITTEN}, got ."),
        ("runs/mine", f"must neither contain runs, {WRITTEN}, got runs/mine"),
        ("data/../samples", f"must neither contain samples, {WRITTEN}, got data/../samples"),
        ("nowhere", "nowhere is not a folder: set it to the folder of your images"),
        ("a.png", "a.png is not a folder: set it to the folder of your images"),
        ("a\0b", "must be a path in UTF-8, since DVC reads no other, got 'a\\x00b'"),
        ("\udce9", "must be a path in UTF-8, since DVC reads no other, got '\\udce9'"),
        ("/dev/null", f"/dev/null {SYSTEM}"),
        ("/proc", f"/proc {SYSTEM}"),
        ("/dev/shm/../fd", f"/dev/shm/../fd {SYSTEM}"),
        ("/dev/shm/nowhere", "/dev/shm/nowhere is not a folder: set it to the folder of your images"),
        ("pipe", "pipe is not a folder: set it to the folder of your images"),
        ("loop", "loop is a link to itself: set it to the folder of your images"),
    ],
)
def test_roots_that_dvc_cannot_take(there: Path, root: str, fault: str) -> None:
    (there / "a.png").touch()
    (there / "loop").symlink_to("loop")
    os.mkfifo(there / "pipe")
    changed = params(data__dataset="folder", data__root=root)
    assert list(check.surroundings(changed)) == [f"data.root: {fault}"]


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems hold UTF-8 only")
def test_a_name_that_dvc_cannot_note_is_told_beforehand(there: Path) -> None:
    """DVC says: 'utf-8' codec can't encode character '\\udce9' in position 23."""
    (there / "images/caf\u00e9").mkdir(parents=True)
    given = params(data__dataset="folder", data__root="images")
    assert list(check.surroundings(given)) == []
    (there / "images/caf\u00e9/a\udce9.png").touch()  # in Latin 1
    fault = "the name of images/caf\u00e9/a\\udce9.png is not UTF-8, so DVC cannot record it: rename it"
    assert list(check.surroundings(given)) == [f"data.root: {fault}"]


@pytest.mark.skipif(sys.platform != "linux", reason="looks at its /proc")
@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (os.mkfifo, "is a pipe, a socket or a device, not an image: remove it"),
        (lambda path: path.symlink_to("/dev/zero"), "is a pipe, a socket or a device, not an image: remove it"),
        (lambda path: path.symlink_to("/proc/version"), "is a link to files of the operating system: remove it"),
        (lambda path: path.symlink_to("/proc/self"), "is a link to files of the operating system: remove it"),
        (lambda path: path.symlink_to("x"), "cannot be read (Too many levels of symbolic links): remove it"),
        (lambda path: path.symlink_to("nothing"), "cannot be read (No such file or directory): remove it"),
    ],
)
def test_what_dvc_would_wait_for_or_fail_at_is_told_beforehand(
    there: Path, make: Callable[[Path], None], fault: str
) -> None:
    """DVC opens a pipe, and waits for ever."""
    (there / "images/a").mkdir(parents=True)
    (there / "images/outside").symlink_to(ROOT / "tests")
    (there / "images/loop").symlink_to("..")
    given = params(data__dataset="folder", data__root="images")
    assert list(check.surroundings(given)) == []
    make(there / "images/a/x")
    assert list(check.surroundings(given)) == [f"data.root: images/a/x {fault}"]


def test_a_folder_that_cannot_be_read_is_told_beforehand(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (there / "images/a").mkdir(parents=True)
    scan = os.scandir

    def refusing(path: str) -> Any:  # a mode would not keep root out
        if str(path).endswith("a"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    told = list(check.surroundings(params(data__dataset="folder", data__root="images")))
    assert told == ["data.root: images/a cannot be read (Permission denied): mend or remove it"]


def test_a_home_folder_is_written_out(there: Path) -> None:
    told = list(check.surroundings(params(data__dataset="folder", data__root="~/images")))
    assert told == [f"data.root: DVC does not read ~: write the whole path, {Path.home() / 'images'}"]


def test_a_folder_for_downloads_is_made_and_one_of_images_is_not(there: Path) -> None:
    check.validate_surroundings(params(data__root="data/raw"))
    assert (there / "data/raw").is_dir()
    for name in ("params.yaml", "nowhere"):  # a file, which is not to be moved away, and a link to nothing
        (there / name).touch() if name == "params.yaml" else (there / name).symlink_to("missing")
        with pytest.raises(PipelineError, match=f"data.root: {name} is not a folder: set it to one for downloads"):
            check.validate_surroundings(params(data__root=name))
    with pytest.raises(PipelineError, match="data/images is not a folder"):
        check.validate_surroundings(params(data__dataset="folder", data__root="data/images"))
    assert not (there / "data/images").exists()


def test_a_temporary_copy_links_what_git_ignores(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC runs an experiment of `--temp` or `--queue` in a copy that has only what git tracks."""
    (there / "original/data/raw/images").mkdir(parents=True)
    (there / "original/data/raw/images/1.png").touch()
    (there / "copy/data/raw").mkdir(parents=True)
    (there / "copy/data/raw/.gitkeep").touch()
    monkeypatch.setenv("DVC_ROOT", str(there / "original"))
    monkeypatch.chdir(there / "copy")
    check.validate_surroundings(params(data__dataset="folder", data__root="data/raw/images"))
    assert [path.name for path in Path("data/raw/images").iterdir()] == ["1.png"]
    check.validate_surroundings(params(data__root="data/raw"))
    assert sorted(path.name for path in Path("data/raw").iterdir()) == [".gitkeep", "images"]


def test_weights_that_are_not_there_are_said_before_anything_runs(tmp_path: Path) -> None:
    missing = params(metrics__extractor="inception", metrics__weights=str(tmp_path / "none.pth"))
    (fault,) = check.surroundings(missing)
    assert fault.startswith("metrics.extractor: ") and f"{tmp_path / 'none.pth'} do" in fault


def test_the_check_is_quick_for_huge_networks() -> None:
    """Networks are built narrow to be checked: 4096 channels would take gigabytes."""
    assert problems(models__sagan__width_g=4096, models__sagan__width_d=4096, models__sagan__latent_dim=65536) == []


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(text, encoding="utf-8")
    check.main([])
    assert capsys.readouterr() == ("params.yaml is sound\n", "")
    dataset = load().data.dataset
    Path("params.yaml").write_text(text.replace(f"dataset: {dataset}", "dataset: nope ", 1), encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        check.main([])
    out, error = capsys.readouterr()
    assert (stop.value.code, out) == (2, "")
    assert error == f"error: params.yaml: data.dataset: unknown name 'nope'; {choices(DATASETS)}\n"


# Classes: a conditional network needs them.


def test_a_conditional_network_needs_classes_if_it_is_compared(tmp_path: Path) -> None:
    (tmp_path / "1.png").touch()
    (tmp_path / ".hidden").mkdir()
    flat = params(
        data__dataset="folder", data__root=str(tmp_path), models__dcgan__network="projection",
        compare__models=["dcgan"],
    )  # fmt: skip
    assert list(check.problems(flat)) == [
        "network: projection needs images labelled with at least 2 classes, got 0; label them or choose a network that "
        "needs no labels (the network of models.dcgan)"
    ]
    assert list(check.problems(flat.override({"compare.models": ["sagan"]}))) == []
    (tmp_path / "1.png").unlink()
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
    assert list(check.problems(flat)) == []
    assert list(check.problems(flat.override({"data.root": str(tmp_path / "missing")}))) == []  # `prepare` says that
    assert list(check.problems(flat.override({"data.dataset": "digits"}))) == []


# One class: it must exist, and every compared model must take labels.


def test_one_class_must_be_one_of_the_data() -> None:
    conditional = {"compare__models": ["dcgan_conditional", "projection"], "data__dataset": "digits"}
    for choice in ("data", "balanced", 0, 9):
        assert problems(**conditional, generate__labels=choice) == []
    for choice in (10, 2**31 - 1):
        assert problems(**conditional, generate__labels=choice) == [
            f"generate.labels: must be data, balanced or a class below 10, got {choice}"
        ]


def test_the_classes_of_a_data_set_that_somebody_added_are_not_guessed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(DATASETS, "mine", lambda params: pytest.fail("check must not load a data set"))
    conditional = {"compare__models": ["projection"], "data__dataset": "mine"}
    for choice in ("data", 1, 12):  # of two classes or of twenty
        assert problems(**conditional, generate__labels=choice) == []
    for name in ("digits", "mnist", "fashion_mnist", "cifar10"):
        assert expected_classes(params(data__dataset=name).data) == 10
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(check, "load", lambda: params(**conditional, generate__labels=12))
    check.main([])
    said = "generate.labels: the name of class 12 will be known when mine is prepared"
    assert capsys.readouterr().out == f"{said}\nparams.yaml is sound\n"


def test_the_number_of_a_class_is_never_without_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("10 oaks", "2 elms", "9 \x1bpines"):
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / "1.png").touch()
    conditional = {"compare__models": ["projection"], "data__dataset": "folder"}
    found = problems(**conditional, data__root=str(tmp_path / "images"), generate__labels=3)
    names = r"0 is 2 elms, 1 is 9 \x1bpines, 2 is 10 oaks"
    assert found == [f"generate.labels: must be data, balanced or a class below 3 ({names}), got 3"]
    monkeypatch.chdir(tmp_path)
    asked = params(**conditional, data__root=str(tmp_path / "images"), generate__labels=2)
    monkeypatch.setattr(check, "load", lambda: asked)
    check.main([])
    assert capsys.readouterr().out == "generate.labels: class 2 is 10 oaks\nparams.yaml is sound\n"


def test_one_class_needs_models_that_take_labels() -> None:
    rule = "must be data or balanced, since {} of compare.models takes no labels"
    compared = ["dcgan_conditional", "dcgan", "sagan"]
    assert problems(compare__models=compared, generate__labels=3) == [
        f"generate.labels: {rule.format(name)}" for name in ("dcgan", "sagan")
    ]
    for choice in ("data", "balanced"):
        assert problems(compare__models=compared, generate__labels=choice) == []
    unknown = problems(compare__models=["dcgan_conditional", "nope"], generate__labels=3)
    assert unknown == [f"compare.models: unknown name 'nope'; {choices(params().models)}"]


# The networks that a recipe begins with.


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What init_from must say for networks of the recipe dcgan, for grey images of 16 x 16."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    recipe = params(models__dcgan__width_g=4, models__dcgan__width_d=4).models["dcgan"]
    state = create_state(recipe, params().train, (1, 16, 16), 10, 0, torch.device("cpu"))
    info = {"model": "dcgan", "seed": 0, "steps": 0, "data_sha256": "d" * 64}
    Path("runs/old-0").mkdir(parents=True)
    export_networks(Path("runs/old-0"), state, generator_tensors(state), info)
    write_sums(Path("runs/old-0"))
    return keep("old-0", "kept")


def test_networks_that_a_recipe_can_begin_with(kept: str) -> None:
    narrow = {"models__dcgan__width_g": 4, "models__dcgan__width_d": 4}
    assert problems(models__dcgan__init_from=kept, **narrow) == []
    check.validate(params(models__dcgan__init_from=kept, **narrow))


def test_networks_that_a_recipe_cannot_begin_with(kept: str, tmp_path: Path) -> None:
    folder, narrow = tmp_path / "pretrained/kept", {"models__dcgan__width_g": 4, "models__dcgan__width_d": 4}
    place, found = "models.dcgan.init_from", kept.split("@")[1]
    assert problems(models__dcgan__init_from="kept", **narrow) == [
        f"{place}: it must say which weights, write kept@{found}"
    ]
    assert problems(models__dcgan__init_from=f"kept@{'0' * 16}", **narrow) == [
        f"{place}: the weights in {folder} are kept@{found}; write that, or bring back those of {'0' * 16}"
    ]
    (sentence,) = problems(models__dcgan__init_from=kept, models__dcgan__width_g=8, models__dcgan__width_d=4)
    assert sentence.startswith(f"{place}: {folder}: the generator has (") and "must be those of the origin" in sentence
    (sentence,) = problems(models__dcgan__init_from=kept, data__image_size=32, **narrow)
    assert sentence.startswith(f"{place}: {folder}: the generator has (")


def test_the_networks_of_a_recipe_that_is_not_compared_are_not_looked_at() -> None:
    assert problems(compare__models=["dcgan"], models__resnet__init_from="nothing_here") == []
    (sentence,) = problems(compare__models=["resnet"], models__resnet__init_from="nothing_here")
    assert sentence.startswith("models.resnet.init_from: ") and "pretrained/nothing_here does not exist" in sentence


def test_a_recipe_that_cannot_be_built_is_told_once(kept: str) -> None:
    """Not once more by what it would begin with."""
    found = problems(models__dcgan__init_from=kept, models__dcgan__network="resnt")
    assert found == [f"models.dcgan.network: unknown name 'resnt'; did you mean 'resnet'? {choices(NETWORKS)}"]
    found = problems(models__dcgan__init_from=kept, models__dcgan__optimiser="adma")
    assert found == [f"models.dcgan.optimiser: unknown name 'adma'; did you mean 'adam'? {choices(OPTIMISERS)}"]


@pytest.fixture
def judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was judged in full, in a folder of its own; nothing is found wrong."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    calls: list[str] = []
    monkeypatch.setattr(check, "validate", lambda _: calls.append("params"))
    monkeypatch.setattr(check, "_extractor_problems", lambda _: calls.append("weights") or [])
    return calls


def test_what_was_found_sound_is_judged_again_only_when_it_has_changed(judged: list[str], tmp_path: Path) -> None:
    weights = tmp_path / "torch/hub/checkpoints/inception.pth"
    for given, change, again in [
        (params(), lambda: None, True),
        (params(), lambda: None, False),
        (params(train__steps=7), lambda: None, True),
        (params(), lambda: None, False),
        (params(), lambda: weights.parent.mkdir(parents=True), True),
        (params(), lambda: weights.write_text("a"), True),
        (params(), lambda: None, False),
        (params(), lambda: weights.write_text("ab"), True),
        (params(metrics__weights="mine.pth"), lambda: None, True),
        (params(metrics__weights="mine.pth"), lambda: Path("mine.pth").write_text("a"), True),
        (params(metrics__weights="mine.pth"), lambda: weights.unlink(), False),
        (params(runtime__device="cuda"), lambda: None, True),
        (params(runtime__device="cuda"), lambda: None, True),
        (params(runtime__devices=2), lambda: None, True),
        (params(runtime__devices=2), lambda: None, True),
        (params(models__dcgan__init_from="kept@0123456789abcdef"), lambda: None, True),
        (params(models__dcgan__init_from="kept@0123456789abcdef"), lambda: None, True),
        (params(), lambda: shutil.rmtree(".work"), True),
    ]:
        change()
        judged.clear()
        check.require_sound(given)
        assert judged == (["params", "weights"] if again else [])


def test_what_was_found_wrong_is_judged_again(judged: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "_extractor_problems", lambda _: judged.append("weights") or ["they are not there"])
    for _ in range(2):
        with pytest.raises(PipelineError, match=r"they are not there"):
            check.require_sound(params())
    assert judged == ["params", "weights", "params", "weights"]


def test_the_folder_of_the_data_is_looked_at_every_time(judged: list[str]) -> None:
    Path("images").mkdir()
    given = params(data__dataset="folder", data__root="images")
    check.require_sound(given)
    Path("images").rmdir()
    with pytest.raises(PipelineError, match=r"^params.yaml: data.root: images is not a folder"):
        check.require_sound(given)


@pytest.mark.parametrize("cut", [0, 5, 21, 40, 52, 61, 70])
def test_a_lock_file_that_was_cut_short_is_put_aside(
    cut: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.repository.WRITING", 0.0)
    content = "schema: '2.0'\nstages:\n  prepare:\n    cmd: exec python\n    deps:\n    - path: a\n      size: 1\n"
    mend_lock()
    path = tmp_path / "dvc.lock"
    path.write_text(content)
    mend_lock()
    assert path.read_text() == content and capsys.readouterr().err == ""
    path.write_text(content[:cut])
    sound = mend_lock() is False
    assert sound is (cut == 52)  # a command that was cut short: DVC takes it for another one, and runs the stage
    assert path.exists() is sound and (tmp_path / "dvc.damaged").exists() is not sound
    assert ("dvc.lock was cut short and is now dvc.damaged" in capsys.readouterr().err) is not sound


def test_what_a_kill_left_of_the_list_of_running_commands_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.repository.WRITING", 0.0)
    path = Path(".dvc/tmp/rwlock")
    assert not mend_rwlock()
    path.parent.mkdir(parents=True)
    path.write_text('{"write": {}, "read": {}}')
    assert not mend_rwlock()
    assert path.exists() and capsys.readouterr().err == ""
    for torn in ("", '{"write": {"a": {"pid": 1', "\x00\x00"):
        path.write_text(torn)
        assert mend_rwlock() and not path.exists() and "rwlock was cut short and is removed" in capsys.readouterr().err


def test_the_cache_is_rid_of_damaged_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Repo.init(no_scm=True).close()
    for name in ("kept", "flipped", "folder"):
        digest = hashlib.md5(name.encode()).hexdigest()
        path = tmp_path / ".dvc/cache/files/md5" / digest[:2] / f"{digest[2:]}{'.dir' if name == 'kept' else ''}"
        path.parent.mkdir(parents=True)
        path.mkdir() if name == "folder" else path.write_text(name.replace("flipped", "flippee"))
    mend_cache()
    left = [path.read_text() for path in (tmp_path / ".dvc/cache/files/md5").glob("??/*")]
    assert left == ["kept"]
    assert capsys.readouterr().err.count("was damaged and is removed; `dvc repro` makes again what is missing") == 2
    mend_cache()
    assert capsys.readouterr().err == ""


def test_what_a_damaged_cache_has_handed_out_is_removed_where_nothing_else_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Repo.init(no_scm=True)
    digest = hashlib.md5(b"flipped").hexdigest()
    outs = "".join(
        f"    - path: {path}\n      md5: {digest}\n"
        for path in ("reports/a.csv", "reports/whole.csv", "scores/x/a.json", "gone.csv")
    )
    Path("dvc.lock").write_text(f"schema: '2.0'\nstages:\n  report:\n    cmd: x\n    outs:\n{outs}")
    for name, content in [
        ("reports/a.csv", "flippee"),
        ("reports/whole.csv", "flipped"),
        ("scores/x/a.json", "flippee"),
    ]:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(content)
    write_sums(Path("scores/x"))
    path = tmp_path / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
    path.parent.mkdir(parents=True)
    path.write_text("flippee")
    mend_cache()
    assert not path.exists() and not Path("reports/a.csv").exists()
    assert Path("reports/whole.csv").exists() and Path("scores/x/a.json").exists()  # its sums tell of the latter
    assert "reports/a.csv was damaged, too, and is removed" in capsys.readouterr().err


def test_without_dvc_there_is_no_cache_to_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PipelineError, match=r"DVC's cache cannot be read \(.*: run this in a clone of the repository$"):
        mend_cache()


def test_damaged_outputs_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    require_outputs_whole()
    folder = tmp_path / "samples/gan-0"
    folder.mkdir(parents=True)
    (folder / "labels.npy").write_text("1")
    write_sums(folder)
    require_outputs_whole()
    (folder / "labels.npy").write_text("2")
    with pytest.raises(PipelineError, match=r"^samples/gan-0/labels\.npy is damaged .*: delete samples/gan-0 and run"):
        require_outputs_whole()


def test_a_score_of_an_earlier_run_is_no_damage_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill between train and fid leaves that."""
    monkeypatch.chdir(tmp_path)
    run, scores = Path("runs/gan-0"), Path("scores/gan-0")
    for folder in (run, scores):
        folder.mkdir(parents=True)
        (folder / "a.json").write_text("1")
    write_sums(run, "a.json")
    write_sums(scores, "a.json", "../../runs/gan-0/SHA256SUMS")
    require_outputs_whole()
    (run / "a.json").write_text("2")
    with pytest.raises(PipelineError, match=r"^runs/gan-0/a\.json is damaged"):
        require_outputs_whole()
    write_sums(run, "a.json")
    with pytest.raises(PipelineError) as caught:
        require_outputs_whole()
    assert str(caught.value) == (
        "scores/gan-0 was measured from another runs/gan-0 than is here: delete scores/gan-0 and run `dvc repro`"
    )
    write_sums(scores, "a.json", "../../runs/gan-0/SHA256SUMS")
    require_outputs_whole()


def test_a_folder_instead_of_the_lock_file_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.lock").mkdir()
    mend_lock()
    assert [path.name for path in tmp_path.iterdir()] == ["dvc.damaged"]


# What DVC lacks here is said before DVC starts.


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository that DVC takes for one of its own."""
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text("stages: {}\n")
    Path(".dvc").mkdir()
    Path(".dvc/config").write_text("[core]\nanalytics = false\n")
    subprocess.run(["git", "init", "-q"], check=True)
    return tmp_path


def test_a_repository_without_git_is_said_and_both_remedies_help(repository: Path) -> None:
    require_dvc()
    shutil.rmtree(".git")
    with pytest.raises(PipelineError) as caught:
        require_dvc()
    assert str(caught.value) == (
        f"{repository} is not a git repository, which DVC expects: run `git init`, or, to work without git, "
        "`dvc config core.no_scm true`"
    )
    Path(".git").mkdir()  # not a repository either
    with pytest.raises(PipelineError, match="is not a git repository"):
        require_dvc()
    subprocess.run([sys.executable, "-m", "dvc", "config", "core.no_scm", "true"], check=True, cwd=repository)
    require_dvc()


def test_a_work_tree_of_git_is_a_repository(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one .git is a file, of which DVC is asked; and a folder below a repository belongs to it."""
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    subprocess.run(["git", "worktree", "add", "-q", "tree"], check=True)
    for folder in ("tree", "below"):
        shutil.copytree(".dvc", f"{folder}/.dvc")
        shutil.copy("dvc.yaml", folder)
        with monkeypatch.context() as there:
            there.chdir(folder)
            require_dvc()


def test_a_copy_without_the_hidden_files_is_said(repository: Path) -> None:
    shutil.rmtree(".dvc")
    with pytest.raises(PipelineError, match=r"^there is no \.dvc here: copy the project with its hidden files"):
        require_dvc()
    Path("dvc.yaml").unlink()
    require_dvc()  # no project at all: params alone are checked


def test_a_user_without_home_or_name_is_said(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_: int) -> NoReturn:
        raise KeyError("getpwuid(): uid not found: 12345")

    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(PipelineError, match=r"DVC needs a home folder: give it one, for example `export HOME="):
        require_dvc()
    monkeypatch.setenv("HOME", str(repository))
    with pytest.raises(PipelineError, match=r"DVC needs a name: give it one, for example `export USER=me`"):
        require_dvc()
    monkeypatch.setenv("USER", "me")
    require_dvc()


def test_a_batch_that_devices_cannot_share() -> None:
    found = list(check.problems(tiny_params({"runtime.devices": 3}, dcgan={})))
    assert found == ["models.dcgan.batch_size: 4 images cannot be shared evenly by 3 devices, only by 1, 2, 4"]
    assert not list(check.problems(tiny_params({"runtime.devices": 2}, dcgan={})))


@pytest.mark.parametrize(
    ("name", "dimension", "fault"),
    [
        ("lr_g", {"low": 1e-2, "high": 1e-4}, "lr_g: low must be below high, got low 0.01, high 0.0001"),
        ("lr_g", {"low": 0, "high": 1, "log": True}, "lr_g: low must be above 0 with log: true, got 0"),
        ("n_critic", {"low": 1, "high": 3, "step": 5}, "n_critic: step must be above 0 and at most high - low, got 5"),
        ("n_critic", {"low": 1, "high": 2.5}, "n_critic: takes whole numbers, got low 1, high 2.5, step None"),
        ("beta1", {"choices": []}, "beta1: must have at least two choices, none of them twice"),
        ("flip", {"choices": [0, 1]}, "flip: must be true or false, got 0"),
        ("models.sagan.pack", {"low": 0, "high": 2}, "models.sagan.pack: must be >= 1, got 0"),
        ("models.nono.pack", {"low": 1, "high": 2}, "models.nono.pack: write a field of a recipe, or models."),
        ("models.sagan.lr", {"low": 1, "high": 2}, "models.sagan.lr: unknown field of a recipe; did you mean 'lr_g'?"),
        ("group", {"low": 1, "high": 2}, "group: unknown field of a recipe; Choices: augment, "),
        ("loss", {"choices": ["hinge", "honge"]}, "loss: unknown name 'honge'; did you mean 'hinge'? Choices: "),
        ("clip", {"low": 1, "high": 1e9}, "clip: must be <= 1000000.0, got 1000000000.0"),
        ("a\u202eb", {"low": 1, "high": 2}, "a\\u202eb: unknown field of a recipe; Choices: augment, "),
    ],
)
def test_a_dimension_that_no_recipe_can_have(name: str, dimension: dict[str, Any], fault: str) -> None:
    (told,) = check.problems(params(search__space={name: dimension}))
    assert told.startswith(f"search.space.{fault}")


def test_a_dimension_that_only_some_recipes_can_have() -> None:
    """`clip` is null and `lr_g` a schedule where nothing is said of them, but not in every model that can be tuned."""
    space = {"clip": {"low": 0.01, "high": 0.1}, "lr_g": {"low": 1e-4, "high": 1e-2}}
    schedule = {"start": 2e-3, "end": 1e-4, "shape": "cosine", "until": 0.5}
    given = params(search__space=space, recipe__lr_g=schedule)
    assert given.recipe.clip is None and list(check.problems(given)) == []
