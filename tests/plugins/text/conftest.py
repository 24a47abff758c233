"""Tiny random text encoders of each family, with a tokenizer of a few words."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = ["a", "small", "large", "red", "blue", "cube", "cone", "sphere", "left", "of", "the"]
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>"]


def save_tokenizer(folder: Path) -> None:
    numbers = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=16,
    ).save_pretrained(folder)


def save_tiny(kind: str, folder: Path) -> torch.nn.Module:
    """Saves a tiny random model with its tokenizer and returns the plain transformers text encoder."""
    torch.manual_seed(0)
    common = {
        "vocab_size": len(SPECIAL) + len(WORDS),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 16,
    }
    model: transformers.PreTrainedModel
    if kind == "clip":
        vision = {**common, "image_size": 8, "patch_size": 4}
        del vision["vocab_size"], vision["max_position_embeddings"]
        text = {**common, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
        model = transformers.CLIPModel(
            transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
        )
        encoder = model.text_model
    elif kind == "clip_text":
        config = transformers.CLIPTextConfig(**common, bos_token_id=2, eos_token_id=3, pad_token_id=0)
        model = encoder = transformers.CLIPTextModel(config)
    elif kind == "t5":
        model = transformers.T5ForConditionalGeneration(
            transformers.T5Config(
                vocab_size=common["vocab_size"], d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4
            )
        )
        encoder = model.encoder
    else:
        model = transformers.BertForMaskedLM(transformers.BertConfig(**common))
        encoder = model.bert
    # Random norms, so that leaving the final one out would show.
    for name, parameter in model.named_parameters():
        if "norm" in name.lower():
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return encoder.eval()


@pytest.fixture
def tiny() -> Callable[[str, Path], torch.nn.Module]:
    """`tiny(kind, folder)` saves a model of that kind; see `save_tiny`."""
    return save_tiny
