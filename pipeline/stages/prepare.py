"""Stage prepare: the data set as one uint8 array a split."""

from pipeline.core import paths
from pipeline.core.errors import exit_cleanly
from pipeline.data.prepared import prepare
from pipeline.stages import begin, finish, no_options


@exit_cleanly
def main() -> None:
    params = begin()
    description = prepare(params.data, paths.PREPARED)
    shape = "x".join(map(str, description["image_shape"]))
    print(f"{description['name']}: {description['train']} training and {description['test']} test images of {shape}")
    finish(params, "data")


if __name__ == "__main__":
    no_options(__doc__)
    main()
