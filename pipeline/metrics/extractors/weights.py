"""Weights files: loaded only if their sha256 is the known one, unless the user allows others."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.core.errors import PipelineError
from pipeline.core.files import sha256
from pipeline.core.metric_names import distance_name

State = Mapping[str, Tensor]  # a state dict


class WeightsNotFound(PipelineError):
    """There is no file where an extractor's weights should lie."""


@dataclass(frozen=True)
class WeightsFile:
    """Where the weights of an extractor lie, which they must be, and how to come by them.

    remedy: a part of a sentence, such as "fetch it from https://... and put it there".
    """

    extractor: str
    path: Path
    sha256: str
    remedy: str

    def load(self, allow_unknown: bool) -> tuple[State, str]:
        """The tensors, and the sha256 of the file, which is the known one unless others are allowed.

        Raises:
            WeightsNotFound: there is no such file.
            PipelineError: it is another file than the known one, or cannot be read.
        """
        if not os.path.isfile(self.path):
            raise self._wrong("do not exist", kind=WeightsNotFound)
        digest = sha256(self.path)
        if digest != self.sha256 and not allow_unknown:
            shown = f"sha256 {digest[:16]}..., expected {self.sha256[:16]}..."
            fault = f"are not the known ones ({shown})"
            raise self._wrong(fault, "metrics.unknown_weights", "set metrics.unknown_weights: allow")
        try:
            return torch.load(self.path, map_location="cpu", weights_only=True), digest
        except Exception as error:  # torch raises whatever it meets: UnpicklingError, RuntimeError, EOFError ...
            raise self._wrong(f"cannot be read ({_first_line(error)})") from None

    def build(self, network: Callable[[State], nn.Module], weights: State) -> nn.Module:
        """The network with these weights.

        Raises:
            PipelineError: they are not this network's.
        """
        try:
            return network(weights)
        except (RuntimeError, LookupError, TypeError, AttributeError) as error:
            raise self._wrong(f"are not {self.extractor}'s ({_first_line(error)})") from None

    def metric(self, name: str, digest: str) -> str:
        """What the distance under the weights with this sha256 is called: `name` only if they are the known ones."""
        return name if digest == self.sha256 else distance_name(self.extractor, digest)

    def _wrong(
        self,
        fault: str,
        field: str = "metrics.weights",
        otherwise: str = "name another file in metrics.weights",
        kind: type[PipelineError] = PipelineError,
    ) -> PipelineError:
        problem = f"the weights {self.path} {fault}"
        return kind(f"{problem}: {self.remedy}, or {otherwise}", field=field, problem=problem, remedy=self.remedy)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:100]
