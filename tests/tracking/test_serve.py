"""A generator behind MLflow's model server: the samples of `generate`, as PNG files."""

import base64
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.core import paths
from pipeline.core.errors import PipelineError
from pipeline.gan.checkpoint import load_generator
from pipeline.sampling.images import sample
from pipeline.tracking import play, serve

COUNTS = [8, 8, 8]


@pytest.fixture
def run(conditional_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trained run, and the data that it knows."""
    monkeypatch.setattr(serve, "load_description", lambda path: {"class_counts": COUNTS})
    return conditional_run


def pixels(picture: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))))


@pytest.mark.filterwarnings("ignore:.*Any type hint:UserWarning")  # of MLflow's own import
@pytest.mark.slow
def test_it_draws_what_generate_draws(run: Path) -> None:
    import mlflow.pyfunc
    from mlflow.exceptions import MlflowException

    model: Any = mlflow.pyfunc.load_model(str(serve.write_model(run, "generator")))
    (drawn,) = model.predict([{"seed": 5, "count": 3, "label": 2}])
    generator, _ = load_generator(run, "ema")
    expected = torch.cat(list(sample(generator, torch.full((3,), 2), 5, 3, 5))).numpy()[:, 0]
    assert np.array_equal(np.stack([pixels(one) for one in drawn]), expected)
    first, second = model.predict([{}, {"count": 2}])
    assert (len(first), len(second)) == (1, 2) and first[0] == second[0]
    for wrong, said in (({"label": 3}, "no class 3"), ({"count": 257}, "less than or equal to 256"), ({"x": 1}, "x")):
        with pytest.raises(MlflowException, match=said):
            model.predict([wrong])
    assert not list(paths.work_folder("dcgan-0", "serve").rglob("*.pkl"))


@pytest.mark.parametrize("command", [serve.main, play.main])
@pytest.mark.parametrize("name", ["generator.json", "best.safetensors"])
def test_a_damaged_generator_is_told_before_a_server_starts(
    run: Path, name: str, command: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (serve, play):
        monkeypatch.setattr(module, "require_free", lambda port: None)
    content = bytearray((run / name).read_bytes())
    content[-1] ^= 1
    (run / name).write_bytes(content)
    with pytest.raises(SystemExit, match="2"):
        command(["dcgan-0", "--checkpoint", "best"])
    assert f"error: runs/dcgan-0/{name} is damaged (its sha256 is not the one in SHA256SUMS): delete" in (
        capsys.readouterr().err
    )


def test_a_generator_of_other_classes_is_not_served(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "load_description", lambda path: {"class_counts": [8] * 4})
    with pytest.raises(PipelineError, match="runs/dcgan-0 knows 3 classes, the prepared data have 4"):
        serve.write_model(run, "generator")


@pytest.mark.parametrize("name", ["nix-0", "../runs/dcgan-0", "dcgan-0/", "$(touch x)"])
def test_a_wrong_name_is_told(run: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        serve.main([name])
    assert "no such trained generator; " in (said := capsys.readouterr().err) and "Choices: dcgan-0" in said


def test_the_server_listens_on_this_machine_alone(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(serve, "write_model", lambda folder, checkpoint: Path(checkpoint))
    monkeypatch.setattr(serve, "require_free", lambda port: None)
    monkeypatch.setattr("os.execve", lambda *arguments: started.append(arguments))
    serve.main(["dcgan-0", "--port", "5077", "--checkpoint", "best"])
    ((_, command, _),) = started
    assert command[command.index("--host") + 1] == "127.0.0.1" and command[command.index("--port") + 1] == "5077"
    assert command[command.index("--model-uri") + 1] == "best"


def test_the_report_is_shown(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import webbrowser; webbrowser.open = print; import runpy; "
               "runpy.run_module('pipeline.report', run_name='__main__')"]  # fmt: skip
    root = Path(__file__).resolve().parents[2]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(root)}, capture_output=True, text=True)

    absent = run()
    assert absent.returncode == 2 and "report.html does not exist: run `make run`" in absent.stderr
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "report.html").write_text("")
    assert (tmp_path / "reports" / "report.html").as_uri() in run().stdout
