"""A model card for a generator: what it was trained on, how, what was measured, and what it is not good for.

The sections are those of Mitchell et al. 2019 (arXiv:1810.03993), section 4, as far as a stage can fill them in.
"""

import re
from typing import Any

from pipeline.core.errors import printable
from pipeline.params import Recipe

CLASSES = 20  # that are named
COPYING = ("copies", "nearest_ratio")  # what says whether training images are repeated


def model_card(info: dict[str, Any], record: dict[str, Any], description: dict[str, Any]) -> str:
    """The card in Markdown.

    Args:
        info: generator.json; record: record.json; description: the prepared data's dataset.json.
    """
    recipe, shape, metric = info["recipe"], description["image_shape"], info["curve"]["metric"]
    name = f"{info['model']}-{info['seed']}"
    channels, height, width = shape
    effective = Recipe.of_file(recipe).effective()
    classes = [_plain(one) for one in description["classes"][:CLASSES]]
    named = f" ({', '.join(classes)}{', ...' if len(description['classes']) > CLASSES else ''})" if classes else ""
    lines = [
        f"# {name}",
        "",
        f"A generator of images of {width} x {height} pixels in {channels} channel{'s' if channels > 1 else ''}, "
        f"{info['parameters_g']:,} parameters, from latents N(0, 1) of {recipe['latent_dim']} numbers. "
        f"{_sampler(record['protocol'])}"
        f"Its weights: `runs/{name}/generator.safetensors`; all of its recipe: `generator.json` beside them.",
        "",
        "## Data",
        "",
        f"- {_plain(description['name'])}: {description['train']:,} training and {description['test']:,} held-out "
        f"images, {len(description['classes'])} classes{named}",
        f"- sha256 `{description['sha256']}`",
        "- Whose images these are, and what they may be used for, is not known here: add it before you pass this on.",
        "",
        "## Training",
        "",
        f"- {info['steps']:,} steps, {info['images_seen']:,} images seen, seed {info['seed']}, "
        f"fingerprint `{info['fingerprint']}`",
        *(f"- `{key}` {_plain(value)}" for key, value in sorted(effective.items())),
        "",
        "## Measured",
        "",
        "| metric | final | +- of sampling | best checkpoint |",
        "|---|---|---|---|",
        *_rows(record, metric),
        "",
        f"The floor, the distance of held-out real images to the training images, is {_number(record.get('floor'))}.",
        "Two values are comparable only if all of this agrees:",
        "",
        *(f"- `{key}` {_plain(value)}" for key, value in sorted(record["protocol"].items())),
        "",
        "## Limits",
        "",
        *(f"- {one}" for one in _limits(record, description)),
        "",
    ]
    return "\n".join(lines)


def _sampler(protocol: dict[str, Any]) -> str:
    if "sampler" not in protocol:
        return ""
    return f"An image takes {protocol['network_evaluations']} evaluations of the network ({protocol['sampler']}). "


def _rows(record: dict[str, Any], metric: str) -> list[str]:
    numbers = [key for key, value in record.items() if isinstance(value, float) and key != "floor"]
    errors, best = record["sampling_error"], record["best"]
    return [
        f"| `{key}` | {_number(record[key])} | {_number(errors.get(key))} | {_number(best.get(key))} |"
        for key in sorted(numbers, key=lambda key: (key != metric, key))
    ]


def _limits(record: dict[str, Any], description: dict[str, Any]) -> list[str]:
    found = ["It makes images like its training images, with their gaps and biases."]
    if record["collapsed"]:
        found.append(f"It has collapsed or learnt next to nothing: {_plain(', '.join(record['collapsed']))}.")
    seen = [f"`{key}` {_number(record[key])}" for key in COPYING if key in record]
    if seen:
        found.append(
            f"Samples can repeat training images: {', '.join(seen)}. Real images have a nearest ratio of about 1 "
            "and copies of about 0.01; the check sees exact and near copies, not changed ones."
        )
    skipped = description.get("skipped")
    if skipped:
        found.append(f"Images that were skipped when the data were prepared: {_plain(skipped)}.")
    found.append("One training run with one seed: another seed gives other numbers.")
    return found


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "n/a"


def _plain(value: Any) -> str:
    r"""Foreign text as Markdown shows it letter by letter.

    >>> _plain("<b>*x*")
    '\\<b\\>\\*x\\*'
    """
    return re.sub(r"([\\`*_{}\[\]<>#|&!~])", r"\\\1", printable(str(value), 200))
