"""The model card: its numbers are those of the records, and foreign names stand in it letter by letter."""

from typing import Any

from pipeline.evaluate.model_card import model_card
from tests.recipes import tiny_params

INFO: dict[str, Any] = {
    "model": "dcgan", "seed": 3, "parameters_g": 12345, "steps": 4, "images_seen": 16, "fingerprint": "f00d",
    "curve": {"metric": "fd_toy"},
}  # fmt: skip
RECORD: dict[str, Any] = {
    "fd_toy": 12.34567, "copies": 0.25, "nearest_ratio": 0.5, "recall": 0.75, "floor": 2.5, "collapsed": ["recall 0.1"],
    "sampling_error": {"fd_toy": 0.125}, "best": {"fd_toy": 11.0, "recall": 0.5},
    "protocol": {"real_split": "train", "generated_images": 100},
}  # fmt: skip
DESCRIPTION: dict[str, Any] = {
    "name": "my <b>set</b>", "image_shape": [3, 16, 16], "train": 1200, "test": 300, "sha256": "abc",
    "classes": ["cat", "x](http://evil)|", "`code`\n# title"], "skipped": {},
}  # fmt: skip


def card(**changes: Any) -> str:
    params = tiny_params(dcgan={"network": "cnn", "lr_g": 0.25})
    info = {**INFO, "recipe": params.models["dcgan"].model_dump(mode="json")}
    return model_card(info, {**RECORD, **changes}, DESCRIPTION)


def test_the_numbers_are_those_of_the_records() -> None:
    lines = card().splitlines()
    assert lines[0] == "# dcgan-3" and "12,345 parameters" in lines[2] and "`runs/dcgan-3/" in lines[2]
    assert "- `lr_g` 0.25" in lines and "- `network` cnn" in lines
    rows = [line for line in lines if line.startswith("| ")]
    assert rows[1:3] == ["| `fd_toy` | 12.35 | 0.125 | 11 |", "| `copies` | 0.25 | n/a | n/a |"]
    assert "| `recall` | 0.75 | n/a | 0.5 |" in rows and not any("floor" in row for row in rows)
    assert "training images, is 2.5." in card() and "- `generated_images` 100" in lines
    assert any("repeat training images: `copies` 0.25, `nearest_ratio` 0.5." in line for line in lines)
    assert any("collapsed or learnt next to nothing: recall 0.1." in line for line in lines)
    assert "collapsed" not in card(collapsed=[])


def test_foreign_names_stand_letter_by_letter() -> None:
    found = card()
    assert (
        "my \\<b\\>set\\</b\\>: 1,200 training and 300 held-out images, 3 classes (cat, x\\](http://evil)\\|, " in found
    )
    assert "\\`code\\`\\\\n\\# title" in found and "\n# title" not in found
