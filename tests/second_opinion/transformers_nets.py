"""The tiny nets of ``tests/nets/tiny_vits.py`` as classes of Hugging Face's transformers, on torch."""

import json
from pathlib import Path

import numpy as np

from tests.nets import tiny_vits


def answers(name: str, folder: Path, **changed) -> dict[str, np.ndarray]:
    """What transformers' net of this name makes of the tiny images and texts; ``changed`` fields of its config."""
    import torch

    model = loaded(name, folder, **changed)
    x = torch.from_numpy(tiny_vits.pixels(name).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        if name in tiny_vits.DINOV2S:
            return {"image": model(x).last_hidden_state[:, 0].numpy()}
        ids = torch.from_numpy(tiny_vits.texts(name)).long()
        pooled = model.vision_model(x).pooler_output, model.text_model(ids).pooler_output
        return {"image": model.visual_projection(pooled[0]).numpy(), "text": model.text_projection(pooled[1]).numpy()}


def loaded(name: str, folder: Path, **changed):
    """Through files as Hugging Face publishes them, so that names are those of the files; none may be left over."""
    from safetensors.numpy import save_file
    from transformers import CLIPModel, Dinov2Model

    _, tensors = tiny_vits.published(name)
    shape = tiny_vits.CLIPS.get(name) or tiny_vits.DINOV2S[name]
    if name.endswith("offset"):
        tensors["embeddings.position_embeddings"] = stretched(tensors["embeddings.position_embeddings"], shape)
        changed["image_size"] = shape.size
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = (clip_config if name in tiny_vits.CLIPS else dinov2_config)(shape, **changed)
    (folder / "config.json").write_text(json.dumps(config))
    kind = CLIPModel if name in tiny_vits.CLIPS else Dinov2Model
    model, about = kind.from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
    assert not any(about.values()), about
    return model.eval()


def stretched(table: np.ndarray, shape) -> np.ndarray:
    """DINOv2's own interpolation: by a scale factor of which a tenth of a patch is too much."""
    import torch

    side, wanted = shape.table, shape.size // shape.patch
    square = torch.from_numpy(table[:, 1:]).reshape(1, side, side, -1).permute(0, 3, 1, 2)
    factor = (wanted + shape.offset) / side
    found = torch.nn.functional.interpolate(square, scale_factor=(factor, factor), mode="bicubic")
    assert found.shape[2:] == (wanted, wanted)
    flat = found.permute(0, 2, 3, 1).reshape(1, wanted**2, -1)
    return np.concatenate([table[:, :1], flat.numpy()], axis=1)


def clip_config(shape, eos_token_id: int = 2) -> dict:
    image, text = shape.image, shape.text
    vision = _stack(image.stack) | {"image_size": image.size, "patch_size": image.patch}
    words = _stack(text.stack) | {"vocab_size": text.vocabulary, "max_position_embeddings": text.length}
    words |= {"eos_token_id": eos_token_id, "bos_token_id": 0, "pad_token_id": 1}
    for tower in (vision, words):
        tower["intermediate_size"] = 4 * tower["hidden_size"]
    return {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "vision_config": vision | {"model_type": "clip_vision_model"},
        "text_config": words | {"model_type": "clip_text_model"},
        "projection_dim": shape.features,
    }


def dinov2_config(shape, image_size: int | None = None) -> dict:
    about = {"image_size": image_size or shape.table * shape.patch, "patch_size": shape.patch, "mlp_ratio": 4}
    return _stack(shape.stack) | about | {"model_type": "dinov2", "architectures": ["Dinov2Model"]}


def _stack(stack) -> dict:
    return {
        "hidden_size": stack.width,
        "num_hidden_layers": stack.depth,
        "num_attention_heads": stack.heads,
        "hidden_act": stack.activation,
        "layer_norm_eps": stack.eps,
    }
