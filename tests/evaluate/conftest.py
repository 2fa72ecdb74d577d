"""What tests of the command and of the doctor share."""

from tests.metrics.conftest import metrics_params

__all__ = ["metrics_params"]
