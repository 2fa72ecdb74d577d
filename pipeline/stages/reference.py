"""Stage reference: statistics of the real training images, and the floor that no model can beat."""

from pipeline import layout
from pipeline.data import load_description
from pipeline.devices import choose_device
from pipeline.errors import exit_cleanly
from pipeline.files import read_json
from pipeline.metrics import load_extractor, measure_reference
from pipeline.stages import begin


@exit_cleanly
def main() -> None:
    params = begin()
    extractor = load_extractor(params.metrics, choose_device(params.runtime.device))
    description = load_description(layout.PREPARED)
    measure_reference(layout.PREPARED, description, extractor, params.metrics.batch_size, layout.REFERENCE)
    floor = read_json(layout.REFERENCE / "floor.json")
    print(
        f"floor: {floor['metric']} {floor['value']:.2f} between {floor['train_images']} training "
        f"and {floor['test_images']} test images"
    )


if __name__ == "__main__":
    main()
