"""The code of the model that `gan serve` gives to MLflow's server, which imports this file. No pickle is involved."""

import base64
import io
from pathlib import Path
from typing import Any

import mlflow
import pydantic
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModel

from pipeline.core.files import read_json
from pipeline.gan.checkpoint import load_generator
from pipeline.models import NETWORKS
from pipeline.sampling.images import labels, sample
from pipeline.sampling.pictures import picture

MOST = 256  # samples of one request


class Request(pydantic.BaseModel):
    """Samples 0 to count - 1 of a seed, as `generate` draws them; label: the class of all, by its number, or null."""

    model_config = pydantic.ConfigDict(extra="forbid")

    # MLflow knows plain types alone, so no Annotated here.
    seed: int = pydantic.Field(0, ge=0, lt=2**31)
    count: int = pydantic.Field(1, ge=1, le=MOST)
    label: int | None = pydantic.Field(None, ge=0)


class ServedGenerator(PythonModel):
    """Answers each request with PNG files in base64, one for each sample."""

    def load_context(self, context: Any) -> None:
        """Load what chosen.json names: a folder of `runs/`, a checkpoint and its weights."""
        chosen = read_json(Path(context.artifacts["chosen"]))
        folder = Path(chosen["folder"])
        self.generator, info = load_generator(folder, chosen["weights"], chosen["checkpoint"])
        self.latent_dim, self.classes = info["recipe"]["latent_dim"], chosen["class_counts"]
        self.conditional = NETWORKS[info["recipe"]["network"]].conditional

    def predict(self, model_input: list[Request]) -> list[list[str]]:  # type: ignore[override]
        """PNG files in base64, for each request a list."""
        return [self._pictures(request) for request in model_input]

    def _pictures(self, request: Request) -> list[str]:
        if request.label is not None and not (self.conditional and request.label < len(self.classes)):
            raise MlflowException.invalid_parameter_value(f"label: this generator has no class {request.label}")
        wanted = labels("data" if request.label is None else request.label, self.classes, request.count)
        found = []
        for images in sample(self.generator, wanted, request.seed, min(request.count, 64), self.latent_dim):
            for image in images:
                file = io.BytesIO()
                picture(image).save(file, format="PNG")
                found.append(base64.b64encode(file.getvalue()).decode())
        return found


mlflow.models.set_model(ServedGenerator())
