"""Two random halves that transformers made: a DINOv2 and a language model with its tokenizer."""

import tokenizers_for_tests
import torch_reference as reference
import transformers
from transformers.convert_slow_tokenizer import bytes_to_unicode

TOKENS = 268  # of the tiny tokenizer without image tokens
ROWS = 280  # of the language model's embedding: 12 are padding
TILE = 28


def write_language(directory, *, qwen3=False, tie=False, layers=2):
    """A random language model of 32 channels with the tiny tokenizer."""
    changes = dict(vocab_size=ROWS, num_hidden_layers=layers, tie_word_embeddings=tie)
    ids = dict(eos_token_id=267, pad_token_id=265)
    model = reference.language_model(qwen3=qwen3, **changes, **ids)
    reference.save_hf(model, directory)
    tokenizers_for_tests.write_tiny_tokenizer(directory, images=False)
    return model


def write_dinov2(directory, *, seed=0, **changes):
    """A random DINOv2 of 48 channels, trained on 5 x 5 patches of 7 pixels."""
    values = dict(
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        mlp_ratio=2,
        image_size=35,
        patch_size=7,
    )
    config = transformers.Dinov2Config(**values | changes)
    model = reference.randomize(transformers.Dinov2Model(config), seed)
    reference.save_hf(model, directory)
    return model


def write_plain_tokenizer(directory):
    """257 tokens without turns: the bytes, <|endoftext|>, and a chat template of its own."""
    alphabet = [*bytes_to_unicode().values(), "<|endoftext|>"]
    vocab = {character: i for i, character in enumerate(alphabet)}
    plain = transformers.Qwen2Tokenizer(vocab=vocab, merges=[])
    plain.chat_template = "{{ messages[0].content }} =>"
    plain.save_pretrained(directory)
