"""The recipes of params.yaml as networks: what they consist of and what they cost. Nothing is trained or written.

python -m pipeline.models            lists the recipes: network, loss, parameters of G and D
python -m pipeline.models dcgan      the layers of one recipe: output shapes, parameters, multiply-adds

Images have the size and channels of params.yaml. Conditional networks are built for the classes of the prepared data;
before data are prepared, for 10 classes.
"""

import argparse
from pathlib import Path

import torch

from pipeline.core import paths
from pipeline.core.errors import PipelineError, exit_cleanly, suggest
from pipeline.core.tables import table
from pipeline.data.prepared import load_description
from pipeline.models import GAN, NETWORKS, build_gan
from pipeline.models.summary import COUNTED, count_parameters, describe, inputs_of
from pipeline.params import PARAMS_FILE, DataParams, Params, Recipe, load

ASSUMED_CLASSES = 10  # of MNIST, FashionMNIST, CIFAR-10 and digits


def _classes(data: DataParams) -> int:
    """The number of classes of the prepared data, if it is of the data set of params.yaml."""
    if not (paths.PREPARED / "dataset.json").exists():
        return ASSUMED_CLASSES
    description = load_description(paths.PREPARED)
    return len(description["classes"]) if description["name"] == data.dataset else ASSUMED_CLASSES


def _build(recipe: Recipe, data: DataParams, n_classes: int) -> GAN:
    with torch.device("meta"):  # shapes are all that is asked for
        return build_gan(recipe, (data.channels, data.image_size, data.image_size), n_classes, seed=0)


def _list(params: Params, n_classes: int) -> str:
    rows: list[tuple[object, ...]] = [("recipe", "network", "loss", "parameters of G", "of D")]
    for name, recipe in params.models.items():
        sizes: tuple[object, object] = ("needs classes", "")
        if n_classes >= 2 or not NETWORKS[recipe.network].conditional:
            gan = _build(recipe, params.data, n_classes)
            sizes = count_parameters(gan.generator), count_parameters(gan.discriminator)
        rows.append((name, recipe.network, recipe.loss, *sizes))
    return table(rows)


def _summary(recipe: Recipe, data: DataParams, n_classes: int) -> str:
    gan = _build(recipe, data, n_classes)
    to_g, to_d = inputs_of(recipe, (data.channels, data.image_size, data.image_size))
    return f"G\n{describe(gan.generator, to_g)}\n\nD\n{describe(gan.discriminator, to_d)}\n\n{COUNTED}"


@exit_cleanly
def main(arguments: list[str] | None = None, prog: str = "python -m pipeline.models") -> None:
    description = (__doc__ or "").replace("python -m pipeline.models", prog)
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=prog, description=description, formatter_class=formatter)
    parser.add_argument("recipe", nargs="?", help="an entry under models:")
    parser.add_argument("--params", type=Path, default=PARAMS_FILE, help="another params file, such as a preset")
    options = parser.parse_args(arguments)
    params = load(options.params)
    n_classes, size = _classes(params.data), params.data.image_size
    images = f"{params.data.channels}x{size}x{size}, {n_classes} classes"
    if options.recipe is None:
        print(f"{options.params}: {images}\n\n{_list(params, n_classes)}")
        return
    if options.recipe not in params.models:
        raise PipelineError(f"{options.recipe}: no such recipe; {suggest(options.recipe, params.models)}")
    recipe = params.models[options.recipe]
    heading = f"{options.recipe}: network {recipe.network}, loss {recipe.loss}, {images}"
    print(f"{heading}\n\n{_summary(recipe, params.data, n_classes)}")


if __name__ == "__main__":
    main()
