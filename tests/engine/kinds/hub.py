"""Models that no one here wrote: of the transformers library, from configuration, with random weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from tests.engine.kinds.entry import SAMPLES, Entry, normal
from torch import Tensor, nn

EMBEDDINGS = {r".*(embed|embedding|wte|wpe|shared|relative_attention_bias).*": "no format for (Whisper|Embedding)"}
VOCABULARY = 40


def made(kind: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    """A model of the library from a configuration; nothing is downloaded."""

    def build() -> nn.Module:
        os.environ["HF_HUB_OFFLINE"] = "1"
        import transformers

        transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        model: nn.Module = getattr(transformers, kind)(getattr(transformers, config)(**options))
        return model

    return build


def pixels(size: int) -> Callable[[], dict[str, Tensor]]:
    return lambda: {"pixel_values": normal(3, size, size)()}


def words(**lengths: int) -> Callable[[], dict[str, Tensor]]:
    return lambda: {name: torch.randint(3, VOCABULARY, (SAMPLES, length)) for name, length in lengths.items()}


def sentences() -> dict[str, Tensor]:
    """With padding at the end of some."""
    mask = (torch.arange(7) < torch.tensor([[7], [5], [7], [3]])).long()
    return {"input_ids": torch.randint(3, VOCABULARY, (SAMPLES, 7)), "attention_mask": mask}


def speech() -> dict[str, Tensor]:
    return {"input_features": normal(8, 20)(), "decoder_input_ids": torch.randint(3, VOCABULARY, (SAMPLES, 5))}


def hub(
    name: str, model: Callable[[], nn.Module], inputs: Callable[[], Any], found: int, dense: Mapping[str, str]
) -> Entry:
    return Entry(name, model, inputs, found, dense, hooks_itself=True)


TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SHARED = "it shares weights with another module"

ENTRIES = (
    hub(
        "transformers ViT",
        made(
            "ViTForImageClassification",
            "ViTConfig",
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=48,
            image_size=16,
            patch_size=4,
            num_labels=5,
        ),
        pixels(16),
        14,
        {r"vit\.embeddings": "no format for ViTEmbeddings"},
    ),
    hub(
        "transformers Swin",
        made(
            "SwinForImageClassification",
            "SwinConfig",
            image_size=32,
            patch_size=4,
            embed_dim=12,
            depths=[1, 2],
            num_heads=[2, 2],
            window_size=4,
            num_labels=5,
        ),
        pixels(32),
        21,
        {r".*\.relative_position_bias": "no format for SwinRelativePositionBias"},
    ),
    hub(
        "transformers ConvNeXt",
        made(
            "ConvNextForImageClassification",
            "ConvNextConfig",
            hidden_sizes=[8, 16],
            depths=[1, 2],
            num_stages=2,
            num_labels=5,
        ),
        pixels(32),
        12,
        {r".*\.layers\.\d": "no format for ConvNextLayer"},
    ),
    hub(
        "transformers ResNet",
        made(
            "ResNetForImageClassification",
            "ResNetConfig",
            embedding_size=8,
            hidden_sizes=[16, 32],
            depths=[1, 2],
            num_labels=5,
        ),
        pixels(32),
        13,
        {},
    ),
    hub(
        "transformers RegNet",
        made(
            "RegNetForImageClassification",
            "RegNetConfig",
            embedding_size=8,
            hidden_sizes=[16, 32],
            depths=[1, 2],
            groups_width=8,
            num_labels=5,
        ),
        pixels(32),
        19,
        {},
    ),
    hub(
        "transformers MobileNetV2",
        made(
            "MobileNetV2ForImageClassification", "MobileNetV2Config", depth_multiplier=0.25, image_size=32, num_labels=5
        ),
        pixels(32),
        53,
        {},
    ),
    hub(
        "transformers SegFormer",
        made(
            "SegformerForSemanticSegmentation",
            "SegformerConfig",
            num_encoder_blocks=2,
            depths=[1, 1],
            sr_ratios=[4, 1],
            hidden_sizes=[8, 16],
            patch_sizes=[7, 3],
            strides=[4, 2],
            num_attention_heads=[1, 2],
            mlp_ratios=[2, 2],
            decoder_hidden_size=16,
            num_labels=5,
        ),
        pixels(32),
        21,
        {},
    ),
    hub(
        "transformers BERT",
        made(
            "BertForSequenceClassification",
            "BertConfig",
            vocab_size=VOCABULARY,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
            num_labels=5,
        ),
        sentences,
        14,
        EMBEDDINGS,
    ),
    hub(
        "transformers GPT-2",
        made(
            "GPT2LMHeadModel",
            "GPT2Config",
            vocab_size=VOCABULARY,
            n_positions=16,
            n_embd=16,
            n_layer=2,
            n_head=2,
            **TOKENS,
        ),
        words(input_ids=7),
        8,
        EMBEDDINGS | {"lm_head": SHARED},
    ),
    hub(
        "transformers Whisper",
        made(
            "WhisperForConditionalGeneration",
            "WhisperConfig",
            vocab_size=VOCABULARY,
            num_mel_bins=8,
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            max_source_positions=10,
            max_target_positions=12,
            decoder_start_token_id=1,
            **TOKENS,
        ),
        speech,
        18,
        EMBEDDINGS | {"proj_out": SHARED},
    ),
    hub(
        "transformers T5",
        made(
            "T5ForConditionalGeneration",
            "T5Config",
            vocab_size=VOCABULARY,
            d_model=16,
            d_kv=8,
            d_ff=32,
            num_layers=2,
            num_heads=2,
            decoder_start_token_id=0,
        ),
        words(input_ids=7, decoder_input_ids=5),
        32,
        EMBEDDINGS | {"lm_head": SHARED, r".*layer_norm": "no format for T5LayerNorm"},
    ),
    hub(
        "transformers Llama",
        made(
            "LlamaForCausalLM",
            "LlamaConfig",
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=16,
            **TOKENS,
        ),
        words(input_ids=7),
        15,
        EMBEDDINGS | {r".*norm": "no format for LlamaRMSNorm"},
    ),
)
