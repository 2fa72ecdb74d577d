"""The generator as an MLflow model."""

import json
from pathlib import Path

import pytest
import torch

from tests.tracking.mlflow_store import client, opened, runs


class Generator(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.labels = torch.nn.Embedding(10, 8)
        self.dense = torch.nn.Linear(24, 64)
        self.norm = torch.nn.BatchNorm2d(1)

    def forward(self, z, y):
        # z.shape[0], not len(z): len makes a plain number of it, and the exported batch size a constant
        hidden = self.dense(torch.cat([z, self.labels(y)], 1))
        return torch.tanh(self.norm(hidden.view(z.shape[0], 1, 8, 8)))


@pytest.mark.slow
def test_the_model_loads_back_and_draws_the_same(root, folder, monkeypatch):
    generator, asked = Generator(), []
    recipe = {"latent_dim": 16, "ema_decay": 0.99, "ema_half_life": None}
    monkeypatch.setattr(
        "pipeline.gan.checkpoint.load_generator", lambda path, which: asked.append(which) or (generator, {})
    )
    (root / "runs").mkdir()
    (root / "runs" / "generator.json").write_text(json.dumps({"recipe": recipe}))
    (root / "runs" / "generator.safetensors").write_bytes(b"weights")
    for _ in range(2):
        with opened(folder) as tracker:
            tracker.model(root / "runs")
    experiment = client().get_experiment_by_name("digits").experiment_id
    (model,) = client().search_logged_models([experiment])
    assert model.name == "generator" and model.status == "READY" and asked == ["ema"]
    assert model.source_run_id == runs()[0].info.run_id
    (version,) = client().search_model_versions("name = 'digits'")
    assert (version.run_id, version.description) == (model.source_run_id, "tiny-0")
    assert client().get_registered_model("digits").aliases == {}, "no run was named the best"

    import mlflow.pytorch

    loaded = mlflow.pytorch.load_model(model.artifact_location)
    z, y = torch.randn(5, 16), torch.tensor([0, 3, 9, 3, 1])
    with torch.no_grad():
        torch.testing.assert_close(loaded(z, y), generator(z, y))
    assert not list(Path(root / "mlruns").rglob("*.pkl")) and list(Path(root / "mlruns").rglob("model.pt2"))
