"""Do torch-fidelity, clean-fid and torchmetrics measure what our extractors of their names do? Same PNGs and weights.

They are no dependencies of ours, so this runs in an environment of its own:

    python -m venv fid && fid/bin/pip install . torch-fidelity==0.4.0 clean-fid==0.1.35 torchmetrics==1.9.0
    fid/bin/python -m benchmarks.fid_protocols > docs/fid_protocols.md

Each tool reads the PNGs by its own code, and makes features by its own network with weights that are seeded and never
trained, so the numbers are no FIDs. The distance between its two sets of features is computed by ours in float64: the
tools' own formulas err by more than 1e-4 where there are fewer images than dimensions.
"""

import hashlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from benchmarks.seeded_inception import write_weights
from pipeline.metrics import Gaussian, frechet_distance, load_extractor
from pipeline.metrics.extractors import inception
from pipeline.params import MetricsParams

COUNT, SIZES = 24, (32, 400)
Read = Callable[[list[Path]], np.ndarray]


def pictures(folder: Path, size: int, seed: int) -> list[Path]:
    """PNGs of smooth noise, brighter for a higher seed."""
    folder.mkdir(parents=True)
    source = np.random.default_rng(seed)
    for i in range(COUNT):
        coarse = source.integers(20 * seed, 256, (size // 4, size // 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((size, size), Image.Resampling.BILINEAR).save(folder / f"{i:03d}.png")
    return sorted(folder.glob("*.png"))


def uint8(paths: list[Path]) -> torch.Tensor:
    """(N, 3, H, W)"""
    return torch.stack([torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1) for path in paths])


def ours(name: str, weights: Path) -> Read:
    params = MetricsParams(
        extractor=name, further_extractors=(), weights=str(weights), unknown_weights="refuse", batch_size=8,
        compile=False, bootstrap=0, infinity=False,
    )  # fmt: skip
    extractor = load_extractor(params, torch.device("cpu"))
    return lambda paths: extractor(uint8(paths)).numpy()


def torch_fidelity(weights: Path) -> Read:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    network = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=str(weights)).eval()
    return lambda paths: network(uint8(paths))[0].numpy()


def torchmetrics(weights: Path) -> Read:
    from torchmetrics.image.fid import NoTrainInceptionV3

    network = NoTrainInceptionV3("x", ["2048"], str(weights)).eval()
    return lambda paths: network(uint8(paths)).reshape(len(paths), -1).numpy()


def clean_fid(mode: str, weights: Path) -> Read:
    """clean-fid's network is a file of TorchScript; one with the seeded weights takes its place."""
    from cleanfid.inception_torchscript import InceptionV3W
    from cleanfid.resize import build_resizer

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.jit.trace(
                inception.InceptionFeatures(torch.load(weights, weights_only=True)).eval(), torch.zeros(2, 3, 299, 299)
            )

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.layers(images)

    torch.jit.script(Whole()).save(str(weights.parent / "inception-2015-12-05.pt"))
    network, resize = InceptionV3W(str(weights.parent), download=False), build_resizer(mode)

    def read(paths: list[Path]) -> np.ndarray:
        shown = np.stack([resize(np.array(Image.open(path).convert("RGB"))) for path in paths])
        return network(torch.from_numpy(shown).permute(0, 3, 1, 2).float()).numpy()

    return read


@torch.no_grad()
def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        weights = write_weights(Path(folder) / "weights.pth")
        inception.SHA256 = hashlib.sha256(weights.read_bytes()).hexdigest()  # they pass for the known ones
        pairs = {
            "inception_tf": ("torch-fidelity 0.4.0", torch_fidelity(weights)),
            "inception_clean": ("clean-fid 0.1.35, mode clean", clean_fid("clean", weights)),
            "inception_torchmetrics": ("torchmetrics 1.9.0", torchmetrics(weights)),
        }
        print("# Four FIDs, and the tools that they are named after\n")
        print(
            f"Made by `python -m benchmarks.fid_protocols` with torch {torch.__version__}: {COUNT} PNGs a side, read by"
        )
        print(
            "each tool's own code, and its own network with the same seeded, untrained weights. So these are no FIDs;"
        )
        print("what counts is that ours and theirs agree, and that the extractors do not.\n")
        print("| pixels | extractor | ours | tool | theirs | relative difference |\n|---|---|---|---|---|---|")
        worst = 0.0
        for size in SIZES:
            sides = [pictures(Path(folder) / f"{size}-{seed}", size, seed) for seed in (1, 4)]

            def distance(read: Read, sides: list[list[Path]] = sides) -> float:
                return frechet_distance(*(Gaussian.from_features(read(side)) for side in sides))

            print(f"| {size} | inception | {distance(ours('inception', weights)):.6f} | | | |")
            for name, (tool, read) in pairs.items():
                mine, theirs = distance(ours(name, weights)), distance(read)
                worst = max(worst, gap := abs(mine / theirs - 1))
                print(f"| {size} | {name} | {mine:.6f} | {tool} | {theirs:.6f} | {gap:.0e} |")
    sys.exit(worst > 1e-4)


if __name__ == "__main__":
    main()
