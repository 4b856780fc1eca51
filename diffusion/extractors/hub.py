"""Where weights lie that are published on Hugging Face."""

from diffusion.weight_files import WeightFile


def on_hub(model: str) -> WeightFile:
    """Of a model id ("openai/clip-vit-base-patch32"): its folder, or a file that was given the model's name.

    Its authors pin no hash, and the file is called ``model.safetensors`` as all others: the list of keys decides.
    """
    name = model.split("/")[1]
    names = tuple(f"{name}{suffix}" for suffix in ("", ".safetensors", ".bin"))
    return WeightFile(names, urls=(f"https://huggingface.co/{model}",), hub=model)
