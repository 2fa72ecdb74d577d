"""Stage reference: statistics of the real training images, and the floor that no model can beat."""

from typing import Any

from pipeline.core import paths
from pipeline.core.devices import memory_errors
from pipeline.core.errors import exit_cleanly
from pipeline.core.files import require_space
from pipeline.core.ranks import find_place, open_world, rank_command
from pipeline.core.world import FEATURES
from pipeline.data.prepared import load_description
from pipeline.metrics import Extractor, load_extractor, measure_reference
from pipeline.metrics.shared import follow_features, share_among
from pipeline.params import Params
from pipeline.stages import agreed, begin, finish, take


@exit_cleanly
def main() -> None:
    params = begin()
    take(paths.PREPARED)
    description = load_description(paths.PREPARED)
    place, command = find_place(params.runtime.device, params.runtime.devices), rank_command(__spec__, [])
    with open_world(place, command, [], agreed(params, description["sha256"])) as world:
        if world.rank:
            world.follow({FEATURES: follow_features(world, params.metrics, place.device)})
        else:
            _measure(params, description, share_among(world, load_extractor(params.metrics, place.device)))
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
    main()
