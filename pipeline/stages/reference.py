"""Stage reference: statistics of the real training images, and the floor that no model can beat."""

from typing import Any

from pipeline.core import paths
from pipeline.core.devices import memory_errors
from pipeline.core.errors import exit_cleanly
from pipeline.core.files import require_space
from pipeline.core.ranks import rank_command
from pipeline.data.prepared import load_description
from pipeline.metrics import Extractor, measure_reference
from pipeline.metrics.shared import shared_extractor
from pipeline.params import Params
from pipeline.stages import agreed, begin, finish, no_options, take


@exit_cleanly
def main() -> None:
    params = begin()
    take(paths.PREPARED)
    description = load_description(paths.PREPARED)
    same = agreed(params, description["sha256"])
    with shared_extractor(params, rank_command(__spec__, []), same) as extractor:
        if extractor is not None:
            _measure(params, description, extractor)
            finish(params, "metrics")


def _measure(params: Params, description: dict[str, Any], extractor: Extractor) -> None:
    require_space(paths.REFERENCE, 4 * extractor.dim * (description["train"] + description["test"] + 2 * extractor.dim))
    with memory_errors("lower metrics.batch_size or data.limit"):
        floor = measure_reference(paths.PREPARED, description, extractor, params.metrics, paths.REFERENCE)
    print(
        f"floor: {floor['metric']} {floor['value']:.2f} between {floor['train_images']} training "
        f"and {floor['test_images']} test images"
    )
    print(f"known floor {floor['self_check']['known_value']}")


if __name__ == "__main__":
    no_options(__doc__)
    main()
