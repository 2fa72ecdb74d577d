"""The summary of a network: layers, shapes, parameters and multiply-adds by hand; the command that prints it."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.models import __main__, build_gan
from pipeline.models.summary import COUNTED, Row, count_parameters, describe, inputs_of, summarise
from pipeline.params import Params
from tests.networks import ADVERSARIAL
from tests.recipes import tiny_params, tiny_recipe

PARAMS = tiny_params(dcgan={}, sagan={"network": "sagan", "loss": "hinge"}, projection={"network": "projection"})


def rows_of(shape: tuple[int, int, int], **changes: object) -> tuple[list[Row], list[Row]]:
    recipe = tiny_recipe(**changes)
    pair, (to_g, to_d) = build_gan(recipe, shape, 10, 0), inputs_of(recipe, shape)
    return summarise(pair.generator, to_g), summarise(pair.discriminator, to_d)


@pytest.mark.parametrize("norm", ["none", "spectral"])
def test_dcgan_at_64_pixels_by_hand(norm: str) -> None:
    mark = " (SN)" if norm == "spectral" else ""
    # A transposed convolution multiplies every input by its whole kernel: inputs x outputs x 4 x 4 x input positions.
    g, _ = rows_of((1, 64, 64), width_g=64, latent_dim=100, spectral_norm_g=norm == "spectral")
    kind = f"ConvTranspose2d{mark}"
    assert [row for row in g if row.kind == kind] == [
        Row("layers.0", kind, (512, 4, 4), 100 * 512 * 16, 100 * 512 * 16),
        Row("layers.3", kind, (256, 8, 8), 512 * 256 * 16, 512 * 256 * 16 * 4 * 4),
        Row("layers.6", kind, (128, 16, 16), 256 * 128 * 16, 256 * 128 * 16 * 8 * 8),
        Row("layers.9", kind, (64, 32, 32), 128 * 64 * 16, 128 * 64 * 16 * 16 * 16),
        Row("layers.12", kind, (1, 64, 64), 64 * 16, 64 * 16 * 32 * 32),
    ]
    assert g[1:3] == [Row("layers.1", "BatchNorm2d", (512, 4, 4), 1024, 0), Row("layers.2", "ReLU", (512, 4, 4), 0, 0)]
    assert g[-1] == Row("layers.13", "Tanh", (1, 64, 64), 0, 0)
    assert len(g) == 14
    assert sum(row.parameters for row in g) == 3_574_656
    assert sum(row.multiply_adds for row in g) == 102_531_072
    # A convolution: inputs x 4 x 4 for each value of the output.
    _, d = rows_of((3, 64, 64), width_d=64, norm_d=norm)
    kind = f"Conv2d{mark}"
    assert [row for row in d if row.kind == kind] == [
        Row("layers.0", kind, (64, 32, 32), 3 * 64 * 16, 3 * 16 * 64 * 32 * 32),
        Row("layers.2", kind, (128, 16, 16), 64 * 128 * 16, 64 * 16 * 128 * 16 * 16),
        Row("layers.4", kind, (256, 8, 8), 128 * 256 * 16, 128 * 16 * 256 * 8 * 8),
        Row("layers.6", kind, (512, 4, 4), 256 * 512 * 16, 256 * 16 * 512 * 4 * 4),
        Row("layers.8", kind, (1, 1, 1), 512 * 16, 512 * 16),
    ]
    assert len(d) == 9
    assert sum(row.parameters for row in d) == 2_763_776
    assert sum(row.multiply_adds for row in d) == 103_817_216


def test_attention_by_hand() -> None:
    g, d = rows_of((3, 32, 32), network="sagan", width_g=32, width_d=16)
    found = {row.name: row for row in g}["layers.3"]
    # 16x16 = 256 positions, keys and values pooled to 64; query.key over 4 channels, the weighted sum over 16
    assert found == Row("layers.3", "SelfAttention", (32, 16, 16), 1, 256 * 64 * 4 + 256 * 64 * 16)
    (found,) = [row for row in d if row.kind == "SelfAttention"]
    assert (found.parameters, found.multiply_adds) == (1, 256 * 64 * 2 + 256 * 64 * 8)
    pools = [row.shape for row in d if row.kind == "AvgPool2d"]
    assert pools == [(3, 16, 16), (16, 8, 8)]  # the shortcuts'; the residuals' are part of their convolutions


def test_labels_and_their_layers_are_listed() -> None:
    g, d = rows_of((1, 16, 16), network="projection", width_g=8, width_d=8, norm_d="spectral")
    norms = [row for row in g if row.kind == "ConditionalBatchNorm"]
    assert [row.parameters for row in norms] == [2 * 10 * 8] * 4
    assert [row.shape for row in norms] == [(8, 4, 4), (8, 8, 8), (8, 8, 8), (8, 16, 16)]
    (embedding,) = [row for row in d if row.kind == "Embedding (SN)"]
    assert (embedding.shape, embedding.parameters, embedding.multiply_adds) == ((8,), 80, 0)


@pytest.mark.parametrize("norm", ["none", "spectral"])
@pytest.mark.parametrize("network", ADVERSARIAL)
def test_rows_add_up_to_the_network(network: str, norm: str) -> None:
    recipe = tiny_recipe(network=network, width_g=8, width_d=8, norm_d=norm, spectral_norm_g=norm == "spectral")
    pair = build_gan(recipe, (3, 16, 16), 10, 0)
    expected = count_parameters(pair.generator), count_parameters(pair.discriminator)
    macs = []
    for part, inputs, count in zip(
        (pair.generator, pair.discriminator), inputs_of(recipe, (3, 16, 16)), expected, strict=True
    ):
        rows = summarise(part, inputs)
        assert sum(row.parameters for row in rows) == count > 0
        assert len({row.name for row in rows}) == len(rows)
        macs.append(sum(row.multiply_adds for row in rows))
    plain = rows_of((3, 16, 16), network=network, width_g=8, width_d=8, norm_d="none", spectral_norm_g=False)
    assert macs == [sum(row.multiply_adds for row in rows) for rows in plain]  # normalising costs no multiply-add here


class _Twice(nn.Module):
    """Calls one layer twice, and multiplies by a matrix of its own between the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.matrix = nn.Parameter(torch.zeros(3, 3))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.layer(self.layer(x) @ self.matrix)


def test_a_layer_called_twice_and_a_network_with_a_matrix_of_its_own() -> None:
    labels = torch.zeros(1, dtype=torch.int64, device="meta")
    rows = summarise(_Twice(), (torch.empty(1, 3, device="meta"), labels))
    assert rows == [Row("layer", "Linear", (3,), 12, 18), Row("", "_Twice", (3,), 9, 9)]
    text = describe(_Twice(), (torch.empty(1, 3, device="meta"), labels)).splitlines()
    assert [line.split() for line in text] == [
        ["layer", "kind", "output", "parameters", "multiply-adds"],
        ["layer", "Linear", "3", "12", "18"],
        ["itself", "_Twice", "3", "9", "9"],
        ["total", "21", "27"],
    ]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a params.yaml of three tiny recipes and nothing else."""
    (tmp_path / "params.yaml").write_text(json.dumps(PARAMS.sparse()))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def counts(params: Params, name: str, n_classes: int = 10) -> list[str]:
    shape = (params.data.channels, params.data.image_size, params.data.image_size)
    pair = build_gan(params.models[name], shape, n_classes, 0)
    return [f"{count_parameters(part):,}" for part in (pair.generator, pair.discriminator)]


def test_the_command_lists_recipes(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    __main__.main([])
    heading, empty, columns, *lines = capsys.readouterr().out.splitlines()
    assert heading == "params.yaml: 1x16x16, 10 classes" and empty == ""
    assert columns.split() == ["recipe", "network", "loss", "parameters", "of", "G", "of", "D"]
    recipes = PARAMS.models.items()
    assert [line.split() for line in lines] == [[n, r.network, r.loss, *counts(PARAMS, n)] for n, r in recipes]


def test_the_command_reads_another_params_file(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other, path = (
        tiny_params({"data.image_size": 32, "data.channels": 3}, toy={"network": "resnet"}),
        project / "o.yaml",
    )
    path.write_text(json.dumps(other.sparse()))
    __main__.main(["--params", str(path)])
    out = capsys.readouterr().out
    assert out.startswith(f"{path}: 3x32x32, 10 classes\n")
    assert out.splitlines()[-1].split() == ["toy", "resnet", "bce", *counts(other, "toy")]


def test_the_command_prints_a_summary(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    __main__.main(["dcgan"])
    lines = capsys.readouterr().out.splitlines()
    recipe = PARAMS.models["dcgan"]
    assert lines[0] == f"dcgan: network dcgan, loss {recipe.loss}, 1x16x16, 10 classes"
    assert [lines.index(part) for part in ("G", "D")] == [2, lines.index("D")]
    totals = [line.split() for line in lines if line.startswith("total")]
    g, d = rows_of((1, 16, 16))
    assert [total[1] for total in totals] == counts(PARAMS, "dcgan")
    assert [total[2] for total in totals] == [f"{sum(row.multiply_adds for row in rows):,}" for rows in (g, d)]
    assert "\n".join(lines).endswith(COUNTED)


@pytest.mark.parametrize(("name", "classes", "told"), [("digits", 3, 3), ("cifar10", 3, 10), ("digits", 0, 0)])
def test_classes_are_those_of_the_prepared_data(
    name: str, classes: int, told: int, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = project / "data" / "prepared"
    folder.mkdir(parents=True)
    description = {"name": name, "train": 2, "test": 2, "image_shape": [1, 16, 16], "source_size": {}, "skipped": {}}
    description |= {"classes": [str(label) for label in range(classes)], "class_counts": [1] * classes, "sha256": ""}
    (folder / "dataset.json").write_text(json.dumps(description))
    __main__.main([])
    assert capsys.readouterr().out.startswith(f"params.yaml: 1x16x16, {told} classes\n")


def test_faults_are_said_in_a_sentence(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        __main__.main(["dcgna"])
    told = capsys.readouterr()
    assert (stop.value.code, told.out) == (2, "")
    assert told.err.startswith("error: dcgna: no such recipe; did you mean 'dcgan'? Choices: ")
    (project / "params.yaml").unlink()
    with pytest.raises(SystemExit) as stop:
        __main__.main([])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: params.yaml cannot be read")
