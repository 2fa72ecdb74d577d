"""Small vision transformers of seeded weights, by the names and in the kinds of file of DINOv2's and CLIP's.

    python -m benchmarks.seeded_transformers

prints features of two images by those who wrote the networks, and how far ours are from them. Their packages are no
dependencies of ours, so this runs in an environment of its own:

    python -m venv vit && vit/bin/pip install . transformers==5.24.0 && vit/bin/pip install --no-deps dinov2==0.0.1.dev2
    vit/bin/python -m benchmarks.seeded_transformers

tests/metrics/test_transformers.py holds the numbers.
"""

import tempfile
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.core.files import sha256
from pipeline.core.randomness import stable_hash
from pipeline.metrics.extractors import clip_vitl14_336, dinov2
from pipeline.metrics.extractors.vit import VisionTransformer

WIDTH, LAYERS, DIM = 128, 2, 64  # 2 heads of 64 dimensions; DIM: of CLIP's embedding
PATCH, GRID, CLIP_GRID = 14, 37, 24


def seeded(name: str, *shape: int) -> Tensor:
    """Random numbers that hang on the name alone; no version of numpy changes them. Of norms, around 1."""
    values = np.random.RandomState(stable_hash(name) % 2**32).standard_normal(shape)
    norm = ("norm" in name or ".ln_" in name) and name.endswith("weight")
    return torch.from_numpy(values * (0.3 if len(shape) == 1 else 0.05) + norm).float()


def dinov2_state() -> dict[str, Tensor]:
    """As dinov2_*_pretrain.pth names them; with LayerScale, and the positions of 37 x 37 patches."""
    wide = 4 * WIDTH
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, WIDTH), "pos_embed": (1, 1 + GRID**2, WIDTH), "mask_token": (1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH), "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,), "norm.bias": (WIDTH,),
    }  # fmt: skip
    for n in range(LAYERS):
        own: dict[str, tuple[int, ...]] = {
            "norm1.weight": (WIDTH,), "norm1.bias": (WIDTH,), "attn.qkv.weight": (3 * WIDTH, WIDTH),
            "attn.qkv.bias": (3 * WIDTH,), "attn.proj.weight": (WIDTH, WIDTH), "attn.proj.bias": (WIDTH,),
            "ls1.gamma": (WIDTH,), "norm2.weight": (WIDTH,), "norm2.bias": (WIDTH,), "mlp.fc1.weight": (wide, WIDTH),
            "mlp.fc1.bias": (wide,), "mlp.fc2.weight": (WIDTH, wide), "mlp.fc2.bias": (WIDTH,), "ls2.gamma": (WIDTH,),
        }  # fmt: skip
        shapes |= {f"blocks.{n}.{name}": shape for name, shape in own.items()}
    return {name: seeded(name, *shape) for name, shape in shapes.items()}


def clip_state() -> dict[str, Tensor]:
    """As OpenAI's files name them; a few of the text side's, too."""
    wide = 4 * WIDTH
    shapes: dict[str, tuple[int, ...]] = {
        "visual.class_embedding": (WIDTH,), "visual.positional_embedding": (1 + CLIP_GRID**2, WIDTH),
        "visual.proj": (WIDTH, DIM), "visual.conv1.weight": (WIDTH, 3, PATCH, PATCH),
        "visual.ln_pre.weight": (WIDTH,), "visual.ln_pre.bias": (WIDTH,),
        "visual.ln_post.weight": (WIDTH,), "visual.ln_post.bias": (WIDTH,),
        "positional_embedding": (7, WIDTH), "transformer.resblocks.0.ln_1.weight": (WIDTH,),
    }  # fmt: skip
    for n in range(LAYERS):
        own: dict[str, tuple[int, ...]] = {
            "attn.in_proj_weight": (3 * WIDTH, WIDTH), "attn.in_proj_bias": (3 * WIDTH,),
            "attn.out_proj.weight": (WIDTH, WIDTH), "attn.out_proj.bias": (WIDTH,), "ln_1.weight": (WIDTH,),
            "ln_1.bias": (WIDTH,), "mlp.c_fc.weight": (wide, WIDTH), "mlp.c_fc.bias": (wide,),
            "mlp.c_proj.weight": (WIDTH, wide), "mlp.c_proj.bias": (WIDTH,), "ln_2.weight": (WIDTH,),
            "ln_2.bias": (WIDTH,),
        }  # fmt: skip
        shapes |= {f"visual.transformer.resblocks.{n}.{name}": shape for name, shape in own.items()}
    return {name: seeded(name, *shape).half() for name, shape in shapes.items()}


def write_dinov2(path: Path) -> Path:
    """Write the weights to `path` as DINOv2's are, and return the path."""
    torch.save(dinov2_state(), path)
    return path


def write_clip(path: Path) -> Path:
    """Write the weights to `path` as OpenAI's are, a TorchScript archive, and return the path."""
    root = nn.Module()
    for name, value in clip_state().items():
        *parents, own = name.split(".")
        module = root
        for parent in parents:
            if parent not in dict(module.named_children()):
                module.add_module(parent, nn.Module())
            module = module.get_submodule(parent)
        module.register_parameter(own, nn.Parameter(value, requires_grad=False))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated
        torch.jit.script(root).save(str(path))
    return path


def pictures() -> np.ndarray:
    """Two images uint8 (2, 40, 48, 3), not square, of smooth noise."""
    coarse = np.random.RandomState(0).randint(0, 256, (2, 5, 6, 3)).astype(np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((48, 40), Image.Resampling.BILINEAR)) for one in coarse])


def theirs_dinov2() -> Tensor:
    """By DINOv2's own network, and dgm-eval's own transform."""
    from dinov2.layers import MemEffAttention, NestedTensorBlock
    from dinov2.models.vision_transformer import DinoVisionTransformer
    from torchvision import transforms

    network = DinoVisionTransformer(
        img_size=PATCH * GRID, patch_size=PATCH, embed_dim=WIDTH, depth=LAYERS, num_heads=2, init_values=1.0,
        block_fn=partial(NestedTensorBlock, attn_class=MemEffAttention), block_chunks=0,
    ).eval()  # fmt: skip
    network.load_state_dict(dinov2_state())
    steps = [
        transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC),
        transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
    found: Tensor = network(torch.stack([transforms.Compose(steps)(Image.fromarray(one)) for one in pictures()]))
    return found


def theirs_clip() -> Tensor:
    """By transformers' network, which CMMD's authors and cmmd-pytorch take, and Pillow."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    visual = {name: value.float() for name, value in clip_state().items() if name.startswith("visual.")}
    state = {name.removeprefix("visual."): value for name, value in visual.items()}
    config = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=4 * WIDTH, projection_dim=DIM, num_hidden_layers=LAYERS,
        num_attention_heads=2, image_size=PATCH * CLIP_GRID, patch_size=PATCH,
    )  # fmt: skip
    network = CLIPVisionModelWithProjection(config).eval()
    named = {
        "embeddings.class_embedding": state["class_embedding"],
        "embeddings.patch_embedding.weight": state["conv1.weight"],
        "embeddings.position_embedding.weight": state["positional_embedding"],
        "visual_projection.weight": state["proj"].T,
    }
    for part in ("weight", "bias"):
        named |= {f"pre_layrnorm.{part}": state[f"ln_pre.{part}"], f"post_layernorm.{part}": state[f"ln_post.{part}"]}
        for n in range(LAYERS):
            old, new = f"transformer.resblocks.{n}", f"encoder.layers.{n}"
            for name, value in zip("qkv", state[f"{old}.attn.in_proj_{part}"].chunk(3), strict=True):
                named[f"{new}.self_attn.{name}_proj.{part}"] = value
            names = {"self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2"}
            names |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
            named |= {f"{new}.{one}.{part}": state[f"{old}.{other}.{part}"] for one, other in names.items()}
    whole = {name: named[name.removeprefix("vision_model.")] for name in network.state_dict()}
    network.load_state_dict(whole)
    squares = [Image.fromarray(one).crop((4, 0, 44, 40)) for one in pictures()]
    values = np.stack([np.asarray(one.resize((336, 336), Image.Resampling.BICUBIC)) for one in squares]) / 255
    values = (values - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711]
    found: Tensor = network(pixel_values=torch.from_numpy(values).permute(0, 3, 1, 2).float()).image_embeds
    return found / found.norm(dim=1, keepdim=True)


def ours(name: str) -> Tensor:
    """By ours."""
    images = torch.from_numpy(pictures()).permute(0, 3, 1, 2).float()
    if name == "dinov2":
        shown = dinov2.normalised(dinov2.pillow_bicubic(images, dinov2.SIZE), dinov2.MEAN, dinov2.DEVIATION)
        found: Tensor = VisionTransformer(dinov2.translated(dinov2_state()), dinov2.gelu, dinov2.EPS).eval()(shown)
        return found
    with tempfile.TemporaryDirectory() as folder:
        path = write_clip(Path(folder) / "clip.pt")
        weights, _ = clip_vitl14_336.ClipFile("clip", path, sha256(path), "").load(allow_unknown=False)
    clip_vitl14_336.WIDTH, clip_vitl14_336.LAYERS = WIDTH, LAYERS
    embedding: Tensor = clip_vitl14_336.ClipEmbedding(weights).eval()(clip_vitl14_336.resized(images))
    return embedding


@torch.no_grad()
def main() -> None:
    for name, theirs in (("dinov2", theirs_dinov2()), ("clip", theirs_clip())):
        print(name, theirs[:, :5].tolist())
        print(f"largest {theirs.abs().max():.4f}; ours differ by up to {(ours(name) - theirs).abs().max():.1e}")


if __name__ == "__main__":
    main()
