"""Stage prepare: the data set as one uint8 array a split."""

from pipeline import layout
from pipeline.data import prepare
from pipeline.errors import exit_cleanly
from pipeline.stages import begin, finish


@exit_cleanly
def main() -> None:
    params = begin()
    description = prepare(params.data, layout.PREPARED)
    shape = "x".join(map(str, description["image_shape"]))
    print(f"{description['name']}: {description['train']} training and {description['test']} test images of {shape}")
    finish(params, "data")


if __name__ == "__main__":
    main()
