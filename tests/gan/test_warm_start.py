"""Warm start: kept networks come back bit for bit, what does not fit changes nothing, and results say whence."""

import hashlib
import io
import json
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline import experiment as experiments
from pipeline.core.checksums import write_sums
from pipeline.core.errors import PipelineError
from pipeline.evaluate import scoring
from pipeline.experiment import Experiment
from pipeline.gan.checkpoint import export_networks, generator_tensors
from pipeline.gan.losses import LOSSES
from pipeline.gan.step import TrainState, create_state, train
from pipeline.gan.warm_start import keep, main, origin, warm_start
from pipeline.metrics import Extractor
from pipeline.models import NETWORKS
from pipeline.params import Params, Recipe
from pipeline.training import trainer
from pipeline.training.monitor import TrainingMonitor
from pipeline.training.trainer import Interrupted, train_experiment, write_run
from tests.gan.states import bits, equal
from tests.networks import ADVERSARIAL, CONDITIONAL
from tests.recipes import CLASSES, SHAPE, image_set, tiny_params

IMAGES = image_set(20)
FILES = ["discriminator.safetensors", "generator.json", "generator.safetensors"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


def values(**changes: Any) -> Params:
    """The tiny params with one model `dcgan`, of which `changes` replace fields."""
    own = {"loss": "hinge", "norm_d": "spectral", "spectral_norm_g": True, "n_critic": 2}
    if "network" in changes and not NETWORKS[changes["network"]].spectral:
        own |= {"norm_d": "none", "spectral_norm_g": False}
    budget = {"train.steps": 7, "train.channels_last": True, "train.grid_every": 3, "train.score_every": 3}
    return tiny_params(budget | {"train.score_samples": 6}, dcgan=own | changes)


def recipe_of(**changes: Any) -> Recipe:
    return values(**changes).models["dcgan"]


def start(recipe: Recipe, seed: int = 9, shape: tuple[int, int, int] = SHAPE, classes: int = CLASSES) -> TrainState:
    return create_state(recipe, values().train, shape, classes, seed, torch.device("cpu"))


def make_run(name: str = "old-0", seed: int = 0, **changes: Any) -> TrainState:
    """Write runs/<name>, trained for three steps, as the train stage does."""
    recipe = recipe_of(**changes)
    state = start(recipe, seed)
    for _ in zip(range(3), train(state, IMAGES, LOSSES[recipe.loss], recipe, values().train), strict=False):
        pass
    info = {"model": name[:-2], "seed": seed, "steps": state.step, "data_sha256": "d" * 64, "init_from": None}
    folder = Path("runs") / name
    folder.mkdir(parents=True)
    export_networks(folder, state, generator_tensors(state), info)
    write_sums(folder)
    return state


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(PipelineError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Round trips.


@pytest.mark.parametrize("network", ADVERSARIAL)
def test_every_tensor_comes_back(network: str) -> None:
    recipe, old = recipe_of(network=network), bits(make_run(network=network))
    state, fresh = start(recipe), bits(start(recipe))
    layouts = {name: tensor.stride() for name, tensor in state.tensors().items()}
    for prefix in ("g.", "d.", "ema."):
        assert not equal(part(old, prefix), part(fresh, prefix))
    assert not equal(part(old, "g."), part(old, "ema."))  # so that the one cannot pass for the other
    warm_start(state, keep("old-0", "kept"))
    found = bits(state)
    for prefix in ("g.", "d.", "ema."):
        assert len(part(found, prefix)) >= 5
        assert equal(part(found, prefix), part(old, prefix)), prefix
    rest = {name for name in found if name.split(".")[0] not in ("g", "d", "ema")}
    assert len(rest) > 20
    assert equal({name: found[name] for name in rest}, {name: fresh[name] for name in rest})  # fresh optimisers
    assert state.step == 0
    assert {name: tensor.stride() for name, tensor in state.tensors().items()} == layouts
    live = [*state.gan.generator.parameters(), *state.gan.discriminator.parameters()]
    assert all(parameter.requires_grad for parameter in live)


def test_an_average_that_is_lacking_starts_from_the_raw_weights() -> None:
    old, state = bits(make_run(ema_decay=None)), start(recipe_of())
    assert not part(old, "ema.")
    warm_start(state, keep("old-0", "kept"))
    assert equal(part(bits(state), "g."), part(old, "g."))
    assert equal(part(bits(state), "ema."), part(old, "g."))


def test_an_average_that_is_not_wanted_is_left_out() -> None:
    old, state = bits(make_run()), start(recipe_of(ema_decay=None))
    warm_start(state, keep("old-0", "kept"))
    assert state.ema is None
    assert equal(part(bits(state), "g."), part(old, "g."))


def test_another_recipe_may_take_the_networks() -> None:
    """Loss, penalty, optimiser, rates and batch size are no part of the weights."""
    make_run()
    init_from = keep("old-0", "kept")
    other = recipe_of(loss="bce", penalty="r1", optimiser="rmsprop", beta1=0.0, lr_g=1e-5, batch_size=8, init="xavier")
    state = start(other)
    warm_start(state, init_from)
    assert equal(part(bits(state), "d."), load_file("pretrained/kept/discriminator.safetensors"))


def test_what_keep_writes_and_origin_reads() -> None:
    make_run()
    content = {name: (Path("runs/old-0") / name).read_bytes() for name in FILES}
    digest = hashlib.sha256(content["generator.safetensors"] + content["discriminator.safetensors"]).hexdigest()[:16]
    assert keep("old-0", "kept_1") == f"kept_1@{digest}"
    folder = Path("pretrained/kept_1")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == content
    told = {"model": "old", "seed": 0, "steps": 3, "data_sha256": "d" * 64}
    assert origin(f"kept_1@{digest}") == {"name": "kept_1", "sha256": digest, **told}
    shutil.rmtree("runs")  # as DVC does
    assert origin(f"kept_1@{digest}") == {"name": "kept_1", "sha256": digest, **told}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_run_is_not_kept(name: str) -> None:
    make_run()
    path = Path("runs/old-0") / name
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(PipelineError, match=rf"runs/old-0/{re.escape(name)} is damaged \(its sha256 is not"):
        keep("old-0", "kept_1")
    assert not Path("pretrained").exists()


def test_networks_are_kept_at_the_repositorys_root(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC runs an experiment in a copy: what is kept there would be lost, and what was kept before would be missing."""
    copy, root = elsewhere / "copy", elsewhere / "root"
    copy.mkdir()
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_ROOT", str(root))
    make_run()
    init_from = keep("old-0", "kept")
    assert sorted(path.name for path in (root / "pretrained/kept").iterdir()) == FILES
    assert [path.name for path in copy.iterdir()] == ["runs"]
    assert origin(init_from)["model"] == "old"


def test_the_command_prints_the_line_for_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    make_run()
    main(["old-0", "kept"])
    line = capsys.readouterr().out
    read = YAML(typ="safe", pure=True).load(line)
    assert read == {"init_from": keep("old-0", "kept")}
    assert recipe_of(**read).init_from == read["init_from"]
    with pytest.raises(SystemExit) as stop:
        main(["old-1", "kept"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: runs/old-1 holds no ")


# What cannot be taken: one sentence with its remedy, and a state of which no tensor has changed.


@pytest.fixture
def kept() -> str:
    make_run()
    return keep("old-0", "kept")


def refused_start(init_from: str, state: TrainState | None = None) -> str:
    state = state or start(recipe_of())
    before = bits(state)
    sentence = refusal(lambda: warm_start(state, init_from))
    assert equal(bits(state), before), "something was copied"
    assert state.step == 0
    return sentence


def test_the_hash_is_asked_for_and_checked(kept: str) -> None:
    found = kept.split("@")[1]
    folder = Path.cwd() / "pretrained/kept"
    assert refused_start("kept") == f"it must say which weights, write kept@{found}"
    wrong = "0" * 16
    expected = f"the weights in {folder} are kept@{found}; write that, or bring back those of {wrong}"
    assert refused_start(f"kept@{wrong}") == expected
    assert refusal(lambda: origin(f"kept@{wrong}")) == expected


def test_a_name_that_nothing_is_kept_under(kept: str) -> None:
    folder = Path.cwd() / "pretrained/other"
    remedy = "python -m pipeline.warm_start RUN other keeps a run there"
    assert refused_start(kept.replace("kept", "other")) == f"{folder} does not exist: {remedy}"


@pytest.mark.parametrize("name", ["generator.safetensors", "discriminator.safetensors"])
def test_other_weights_in_the_folder_are_found_out(name: str, kept: str) -> None:
    path = Path("pretrained/kept") / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert refused_start(kept).endswith(f"write that, or bring back those of {kept.split('@')[1]}")


def rehashed() -> str:
    """What init_from must say for pretrained/kept as it is now."""
    content = [(Path("pretrained/kept") / name).read_bytes() for name in (FILES[2], FILES[0])]
    return "kept@" + hashlib.sha256(b"".join(content)).hexdigest()[:16]


@pytest.mark.parametrize("name", ["generator.safetensors", "discriminator.safetensors"])
@pytest.mark.parametrize(
    "damage", [lambda content: content[: len(content) // 2], lambda _: b"", lambda content: bytes(len(content))]
)
def test_a_damaged_file(name: str, damage: Callable[[bytes], bytes], kept: str) -> None:
    path = Path.cwd() / "pretrained/kept" / name
    path.write_bytes(damage(path.read_bytes()))
    sentence = refused_start(rehashed())
    assert sentence.startswith(f"{path} is damaged (") and sentence.endswith("): keep the run again")


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("name", ["generator.safetensors", "discriminator.safetensors"])
@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_pickle_is_never_executed(name: str, kind: str, kept: str, elsewhere: Path) -> None:
    target, buffer = elsewhere / "executed", io.BytesIO()
    pickle.loads(pickle.dumps(Bomb(target)))
    assert target.exists()  # the bomb works
    target.unlink()
    torch.save({"g": Bomb(target)}, buffer)
    content = pickle.dumps(Bomb(target)) if kind == "pickle" else buffer.getvalue()
    (Path("pretrained/kept") / name).write_bytes(content)
    assert "is damaged" in refused_start(rehashed())
    assert not target.exists()


@pytest.mark.parametrize("name", ["generator.safetensors", "discriminator.safetensors"])
def test_a_missing_network(name: str, kept: str) -> None:
    path = Path.cwd() / "pretrained/kept" / name
    path.unlink()
    assert refused_start(kept) == f"{path} cannot be read (No such file or directory): keep the run again"
    taken = refusal(lambda: keep("old-0", "kept"))  # what is left may be the only copy
    assert taken == f"{path.parent} holds other weights already: choose another name, or delete it"
    shutil.rmtree(path.parent)
    assert keep("old-0", "kept") == kept == rehashed()


@pytest.mark.parametrize("content", [None, b"{", b"\xff", b"[]", b"{}", b'{"model": "old", "seed": 0, "steps": 3}'])
def test_a_generator_json_that_does_not_say_whence(content: bytes | None, kept: str) -> None:
    path = Path.cwd() / "pretrained/kept/generator.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert refused_start(kept) == f"{path} is not of this pipeline: keep the run again"
    assert keep("old-0", "kept") == kept  # and that does mend it
    warm_start(start(recipe_of()), kept)


@pytest.mark.parametrize(
    ("changes", "shape", "classes", "which"),
    [
        ({"width_g": 8}, SHAPE, 3, "generator"),
        ({"width_d": 8}, SHAPE, 3, "discriminator"),
        ({"norm_d": "none"}, SHAPE, 3, "discriminator"),
        ({"norm_d": "batch"}, SHAPE, 3, "discriminator"),
        ({"spectral_norm_g": False}, SHAPE, 3, "generator"),
        ({"latent_dim": 6}, SHAPE, 3, "generator"),
        ({"network": "resnet"}, SHAPE, 3, "generator"),
        ({}, (3, 16, 16), 3, "generator"),
        ({}, (1, 32, 32), 3, "generator"),
        ({}, (1, 28, 28), 3, "generator"),
        ({"network": "dcgan_conditional"}, SHAPE, 3, "generator"),
    ],
)
def test_networks_that_do_not_fit(
    changes: dict[str, Any], shape: tuple[int, int, int], classes: int, which: str, kept: str
) -> None:
    assert_misfit(kept, start(recipe_of(**changes), 9, shape, classes), which)


@pytest.mark.parametrize("network", CONDITIONAL)
def test_other_classes_do_not_fit_a_conditional_network(network: str) -> None:
    make_run(network=network)
    assert_misfit(keep("old-0", "kept"), start(recipe_of(network=network), classes=4), "generator")


def test_other_classes_fit_a_network_that_takes_none(kept: str) -> None:
    warm_start(start(recipe_of(), classes=10), kept)


def assert_misfit(kept: str, state: TrainState, which: str) -> None:
    """The sentence says which network, a tensor that differs, its two shapes, and what must agree."""
    before, remedy = refused_start(kept, state).split(": network, widths, latent_dim, ")
    assert remedy == "norm, image size and classes must be those of the origin"
    folder, told = before.split(": the ")
    assert folder == str(Path.cwd() / "pretrained/kept")
    network, there, name, here = told.replace(" has ", "|").replace(" as ", "|").replace(
        ", the recipe builds ", "|").split("|")  # fmt: skip
    assert network == which
    saved = load_file(f"pretrained/kept/{which}.safetensors")
    live = getattr(state.gan, which).state_dict()
    key = f"raw.{name}" if which == "generator" else name
    assert there == (str(tuple(saved[key].shape)) if key in saved else "nothing")
    assert here == (str(tuple(live[name].shape)) if name in live else "nothing")
    assert here != there


def test_a_discriminator_that_lacks_a_tensor(kept: str) -> None:
    path = Path("pretrained/kept/discriminator.safetensors")
    tensors = load_file(path)
    last = sorted(tensors)[-1]
    shape = tuple(tensors.pop(last).shape)
    save_file(tensors, path)
    assert f"the discriminator has nothing as {last}, the recipe builds {shape}: " in refused_start(rehashed())


# What keep refuses.


@pytest.mark.parametrize(
    "name", ["..", ".", "", "/tmp/x", "a/b", "../a", "A", "aB", "-a", "_a", "a b", "a@b", "a" * 65]
)
def test_names_that_are_not_fit(name: str, elsewhere: Path) -> None:
    make_run()
    before = sorted(elsewhere.rglob("*"))
    rule = "a name has up to 64 small letters, digits and underscores"
    assert refusal(lambda: keep("old-0", name)) == f"{name}: {rule}"
    assert sorted(elsewhere.rglob("*")) == before


def test_a_run_that_is_not_there() -> None:
    rule = "holds no trained generator and discriminator; there are:"
    assert refusal(lambda: keep("old-0", "kept")) == f"runs/old-0 {rule} none"
    make_run("b-1")
    make_run("a-0")
    (Path("runs") / "empty-0").mkdir()
    for missing in FILES:  # as of a run that was trained before D was written
        make_run(f"without_{missing}-0")
        (Path("runs") / f"without_{missing}-0" / missing).unlink()
    for run in ("a-1", "empty-0", *(f"without_{missing}-0" for missing in FILES)):
        assert refusal(lambda run=run: keep(run, "kept")) == f"runs/{run} {rule} a-0, b-1"
    assert not Path("pretrained").exists()


def test_a_name_stays_with_its_weights(kept: str) -> None:
    make_run("other-0", seed=1)
    folder = Path.cwd() / "pretrained/kept"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    sentence = refusal(lambda: keep("other-0", "kept"))
    assert sentence == f"{folder} holds other weights already: choose another name, or delete it"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert keep("old-0", "kept") == kept  # the same once more is no harm
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert keep("other-0", "other").split("@")[1] != kept.split("@")[1]


# An experiment that begins with kept networks.


class Mean(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


def experiment_of(init_from: str | None, **changes: Any) -> Experiment:
    description = {"name": "toy", "image_shape": list(SHAPE), "classes": ["a", "b", "c"], "class_counts": [7, 7, 6],
                   "sha256": "e" * 64, "train": 20}  # fmt: skip
    return Experiment(values(init_from=init_from, **changes), "dcgan", 4, description)


def trained(
    experiment: Experiment, out: Path, should_stop: Callable[[], bool] = lambda: False
) -> tuple[dict[str, Tensor], dict[str, bytes]]:
    """Every bit of the state, and the files of the run but for timing.csv."""
    extractor = Extractor("mean", "fd_mean", 3, Mean(), torch.device("cpu"), {})
    reference: Any = SimpleNamespace(distance=lambda features: float(features.std()))
    with experiment.open_tracker() as tracker:
        monitor = TrainingMonitor(experiment, extractor, reference, tracker, experiment.work_folder() / "grids")
        state, progress = train_experiment(experiment, IMAGES, monitor, should_stop)
        write_run(experiment, state, progress, monitor, out)
    files = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    del files["timing.csv"]
    return bits(state), files


def stop_at(call: int, error: type[BaseException] | None = None) -> Callable[[], bool]:
    """Asks to stop, or dies, after so many steps."""
    calls = iter(range(1, 100))

    def should_stop() -> bool:
        now = next(calls) == call
        if now and error:
            raise error
        return now

    return should_stop


class Killed(BaseException):
    pass


@pytest.mark.parametrize("network", ["dcgan", pytest.param("sagan_conditional", marks=pytest.mark.slow)])
def test_a_run_that_was_killed_ends_as_if_it_had_not_been(network: str, elsewhere: Path) -> None:
    make_run(network=network)
    experiment = experiment_of(keep("old-0", "kept"), network=network)
    state, files = trained(experiment, elsewhere / "whole")
    assert {"generator.json", "generator.safetensors", "discriminator.safetensors", "grids/00000007.png"} <= set(files)
    for call, error in [(1, None), (4, None), (1, Killed), (3, Killed), (6, Killed)]:  # checkpoints at 2, 4, 6
        shutil.rmtree(".work")
        with pytest.raises(error or Interrupted):
            trained(experiment, elsewhere / "cut", stop_at(call, error))
        assert not (elsewhere / "cut").exists()
        again, found = trained(experiment, elsewhere / "cut")
        assert equal(again, state), (call, error)
        assert found == files, (call, error)
        shutil.rmtree(elsewhere / "cut")


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Tensor]]]:
    """The state with which each training loop began."""
    seen: list[dict[str, Tensor]] = []

    def spied(state: TrainState, *rest: Any) -> Any:
        seen.append(bits(state))
        return train(state, *rest)

    monkeypatch.setattr(trainer, "train", spied)
    yield seen


def test_training_begins_with_the_origin_and_goes_on_from_its_own_checkpoint(
    begun: list[dict[str, Tensor]], elsewhere: Path
) -> None:
    old = bits(make_run())
    experiment = experiment_of(keep("old-0", "kept"))
    with pytest.raises(Interrupted):
        trained(experiment, elsewhere / "out", stop_at(2))
    trained(experiment, elsewhere / "out")
    trained(experiment_of(None), elsewhere / "cold")
    for prefix in ("g.", "d.", "ema."):
        first, second, cold = (part(state, prefix) for state in begun)
        assert equal(first, part(old, prefix))
        assert not equal(second, first)
        assert not equal(cold, first)
    assert begun[1]["optimiser_g.0.step"].item() == 2
    assert begun[0]["optimiser_g.0.step"].item() == 0


def test_the_fingerprint_knows_the_origin() -> None:
    make_run()
    make_run("other-0", seed=1)
    found = [
        experiment_of(init_from).fingerprint
        for init_from in (None, keep("old-0", "kept"), keep("other-0", "other"), keep("old-0", "again"))
    ]
    assert len(set(found)) == 4
    assert experiment_of(keep("old-0", "kept")).fingerprint == found[1]


def test_an_origin_that_is_not_there_names_the_model(kept: str) -> None:
    sentence = refusal(lambda: experiment_of("kept").fingerprint)
    assert sentence == f"models.dcgan.init_from: it must say which weights, write {kept}"


def test_generator_json_says_whence(kept: str, elsewhere: Path) -> None:
    _, files = trained(experiment_of(kept), elsewhere / "warm")
    assert json.loads(files["generator.json"])["init_from"] == origin(kept)
    _, files = trained(experiment_of(None), elsewhere / "cold")
    assert json.loads(files["generator.json"])["init_from"] is None


def test_a_warm_run_can_be_kept_in_its_turn(kept: str) -> None:
    state, _ = trained(experiment_of(kept), Path("runs/dcgan-4"))
    init_from = keep("dcgan-4", "second")
    told = {"model": "dcgan", "seed": 4, "steps": 7, "data_sha256": "e" * 64}
    assert origin(init_from) == {"name": "second", "sha256": init_from.split("@")[1], **told}
    third = start(recipe_of())
    warm_start(third, init_from)
    assert equal(part(bits(third), "ema."), part(state, "ema."))


def test_mlflow_is_told_whence(kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert experiment_of(None).tags()["initialised_from"] == "nothing"
    assert json.loads(experiment_of(kept).tags()["initialised_from"]) == origin(kept)
    page = str(Path.cwd() / "reports/report.html")
    assert experiment_of(None).tags()["report"] == page and f"`{page}`" in experiment_of(None).note()
    opened: list[tuple[Path, str]] = []
    told: list[dict[str, str]] = []

    class Spy:
        def __init__(self, folder: Path, group: str, name: str, enabled: bool, quiet: bool) -> None:
            opened.append((folder, group))

        def params(self, values: dict[str, Any]) -> None:
            pass

        def tags(self, values: dict[str, str]) -> None:
            told.append(values)

        def dataset(self, *values: Any) -> None:
            pass

    monkeypatch.setattr(experiments, "Tracker", Spy)
    for experiment in (experiment_of(None), experiment_of(kept)):
        experiment.open_tracker()
        assert told.pop() == experiment.tags()
    for choice in ("balanced", 1):
        changed = experiment_of(kept)
        asked = changed.params.override({"generate.labels": choice})
        Experiment(asked, "dcgan", 4, changed.description).open_tracker()
    assert len({folder for folder, _ in opened}) == 4
    assert len({group for _, group in opened}) == 4  # runs that are listed side by side are comparable


def test_the_protocol_says_whence_and_which_labels(kept: str) -> None:
    extractor = Extractor("mean", "fd_mean", 3, Mean(), torch.device("cpu"), {"extractor": "mean"}, version="1")
    reference: Any = SimpleNamespace(train=[0] * 5, test=[0] * 3, floor={"data_sha256": "e" * 64})

    def protocol(init_from: dict[str, Any] | None, choice: str | int) -> dict[str, Any]:
        asked = values().override({"generate.labels": choice})
        return scoring.protocol(extractor, reference, asked, {"init_from": init_from}, 9)

    assert protocol(None, "data")["initialised_from"] == "nothing"
    assert protocol(origin(kept), "data")["initialised_from"] == kept
    assert [protocol(None, choice)["labels"] for choice in ("data", "balanced", 0, 7)] == [
        "data", "balanced", "class 0", "class 7"]  # fmt: skip
