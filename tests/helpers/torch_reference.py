"""Random checkpoints made and run by transformers, the reference that the model is compared with.

Every parameter is random: norm weights, biases, layer scales, position embeddings. Ones and zeros
hide bugs.
"""

import copy

import numpy as np
import torch
import transformers
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

IMAGE_TOKEN = 9
END_TOKEN = 2
PAD_TOKEN = 0
VOCAB = 331


def text_config(*, qwen3: bool = False, **changes):
    values = dict(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=8,
        max_position_embeddings=512,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=END_TOKEN,
        pad_token_id=PAD_TOKEN,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    kind = Qwen3Config if qwen3 else Qwen2Config
    return kind(**values | changes)


def rms_vision(**changes):
    """The 6B tower in miniature: RMSNorm, no qkv bias, qk-norm, an odd number of heads."""
    values = dict(
        hidden_size=40,
        num_hidden_layers=2,
        num_attention_heads=5,
        intermediate_size=80,
        image_size=28,
        patch_size=7,
        norm_type="rms_norm",
        use_qk_norm=True,
        attention_bias=False,
    )
    return InternVLVisionConfig(**values | changes)


def layer_norm_vision():
    """The 300M tower in miniature: LayerNorm, qkv bias, no qk-norm."""
    return rms_vision(
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=96,
        norm_type="layer_norm",
        use_qk_norm=False,
        attention_bias=True,
    )


def internvl(text, vision, *, seed: int = 0, tie: bool = False):
    config = InternVLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=IMAGE_TOKEN,
        image_seq_length=4,
        downsample_ratio=0.5,
        tie_word_embeddings=tie,
    )
    return randomize(InternVLForConditionalGeneration(config), seed)


def language_model(*, qwen3: bool = False, seed: int = 0, **changes):
    config = text_config(qwen3=qwen3, **changes)
    kind = Qwen3ForCausalLM if qwen3 else Qwen2ForCausalLM
    return randomize(kind(config), seed)


def randomize(model, seed: int):
    """Random numbers of a useful size in every parameter: norms around 1, the rest around 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            is_norm = "norm" in name and name.endswith("weight")
            scale = 0.5 if "lambda" in name else 0.2
            weight.copy_(1 + 0.3 * noise if is_norm else scale * noise)
    return model.eval().to(torch.float32)


def save_hf(model, directory):
    """Writes the hub's layout: names as transformers writes them to disk."""
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(directory)


def rng_tiles(count: int, size: int = 28, seed: int = 0) -> np.ndarray:
    tiles = np.random.default_rng(seed).normal(size=(count, size, size, 3))
    return tiles.astype(np.float32)


def to_pixel_values(tiles: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(tiles.transpose(0, 3, 1, 2)))


def captured(model, names, **inputs) -> tuple[dict, dict]:
    """Runs the model once; the first input and the first output of its modules `names`, by name."""
    module_inputs: dict[str, np.ndarray] = {}
    module_outputs: dict[str, np.ndarray] = {}

    def record(name):
        def hook(module, args, kwargs, output):
            values = [*args, *kwargs.values()]
            output = output if torch.is_tensor(output) else output[0]
            module_inputs[name] = values[0].numpy()
            module_outputs[name] = output.numpy()

        return hook

    modules = dict(model.named_modules())
    handles = []
    for name in names:
        hook = record(name)
        handles.append(modules[name].register_forward_hook(hook, with_kwargs=True))
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return module_inputs, module_outputs


def gradients(model, loss) -> torch.nn.Module:
    """A copy of the model in which every weight is the gradient of `loss(model)`."""
    model.zero_grad()
    loss(model).backward()
    copied = copy.deepcopy(model)
    pairs = zip(model.parameters(), copied.parameters(), strict=True)
    with torch.no_grad():
        for weight, copy_of_weight in pairs:
            copy_of_weight.copy_(weight.grad)
    model.zero_grad()
    return copied


class ImageProcessorOnly(transformers.InternVLProcessor):
    """InternVL's processor without its video half, which is the part that needs torchvision."""

    @classmethod
    def get_attributes(cls):
        return ["image_processor", "tokenizer"]
