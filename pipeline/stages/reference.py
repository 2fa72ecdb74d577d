"""Stage reference: statistics of the real training images, and the floor that no model can beat."""

from pipeline.core import paths
from pipeline.core.devices import choose_device, memory_errors
from pipeline.core.errors import exit_cleanly
from pipeline.core.files import require_space
from pipeline.data.prepared import load_description
from pipeline.metrics import load_extractor, measure_reference
from pipeline.stages import begin, finish, take


@exit_cleanly
def main() -> None:
    params = begin()
    take(paths.PREPARED)
    extractor = load_extractor(params.metrics, choose_device(params.runtime.device))
    description = load_description(paths.PREPARED)
    require_space(paths.REFERENCE, 4 * extractor.dim * (description["train"] + description["test"] + 2 * extractor.dim))
    with memory_errors("lower metrics.batch_size or data.limit"):
        floor = measure_reference(paths.PREPARED, description, extractor, params.metrics, paths.REFERENCE)
    print(
        f"floor: {floor['metric']} {floor['value']:.2f} between {floor['train_images']} training "
        f"and {floor['test_images']} test images"
    )
    print(f"known floor {floor['self_check']['known_value']}")
    finish(params, "metrics")


if __name__ == "__main__":
    main()
