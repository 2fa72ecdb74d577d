"""Stage reference: statistics of the real training images, and the floor that no model can beat."""

from pipeline import layout
from pipeline.checksums import require_whole
from pipeline.data import load_description
from pipeline.devices import choose_device, memory_errors
from pipeline.errors import exit_cleanly
from pipeline.files import require_space
from pipeline.metrics import load_extractor, measure_reference
from pipeline.stages import begin, finish


@exit_cleanly
def main() -> None:
    params = begin()
    require_whole(layout.PREPARED)
    extractor = load_extractor(params.metrics, choose_device(params.runtime.device))
    description = load_description(layout.PREPARED)
    require_space(
        layout.REFERENCE, 4 * extractor.dim * (description["train"] + description["test"] + 2 * extractor.dim)
    )
    with memory_errors("lower metrics.batch_size or data.limit"):
        floor = measure_reference(layout.PREPARED, description, extractor, params.metrics, layout.REFERENCE)
    print(
        f"floor: {floor['metric']} {floor['value']:.2f} between {floor['train_images']} training "
        f"and {floor['test_images']} test images"
    )
    print(f"known floor {floor['self_check']['anchor']}")
    finish(params, "metrics")


if __name__ == "__main__":
    main()
