"""Vision backbones, frozen or with adapters, and latents that agree with a frozen encoder."""

import numpy as np
import pytest
import torch
from conftest import SENTENCES, tiny_model
from images import (
    CONV_DECODER,
    DINO_ENCODER,
    RESNET_ENCODER,
    VIT_ENCODER,
    make_image_pipe,
    random_images,
    tiny_image_model,
)
from transformers import AutoConfig, AutoModel, TrainingArguments

from hf_eddpm import EDDPMPipeline, EDDPMTrainer
from hf_eddpm.hub.lora import add_lora
from hf_eddpm.modalities.image.encoder import ImageEncoder
from hf_eddpm.training.feature_alignment import (
    FeatureAlignedTrainer,
    FeatureAlignment,
    encoder_features,
    sentence_features,
)

BACKBONES = {"vit": VIT_ENCODER, "dinov2": DINO_ENCODER, "resnet": RESNET_ENCODER}
IMAGES = [np.asarray(image) for image in random_images(16)]


def arguments(folder, **values):
    defaults = {"max_steps": 3, "per_device_train_batch_size": 4, "learning_rate": 0.01, "report_to": "none"}
    return TrainingArguments(
        str(folder), use_cpu=True, disable_tqdm=True, **{"save_strategy": "no", **defaults, **values}
    )


def train(model, folder, pipe, trainer_class=EDDPMTrainer, alignment=(), **values):
    resume = values.pop("resume", None)
    trainer = trainer_class(
        *alignment, model=model, args=arguments(folder, **values), processor=pipe.processor, train_dataset=IMAGES
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def frozen_encoder(seed=0):
    model = tiny_image_model(seed, encoder=VIT_ENCODER, decoder=CONV_DECODER)
    return model.encoder


@pytest.mark.parametrize("name", BACKBONES)
def test_a_frozen_vision_backbone_stays_and_the_rest_learns_and_comes_back(name, tmp_path):
    model = tiny_image_model(encoder=BACKBONES[name], decoder=CONV_DECODER)
    pipe = make_image_pipe(model)
    model.encoder.backbone.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    pipe = train(model, tmp_path / "run", pipe).build_pipeline()
    for key, value in model.state_dict().items():
        # Batch normalisation, as ResNet has, counts on in training: its statistics are no weights.
        if key.startswith("encoder.backbone") and "running" not in key and "num_batches" not in key:
            assert torch.equal(value, before[key]), key
    assert not torch.equal(model.decoder.projection.weight, before["decoder.projection.weight"])
    assert not torch.equal(model.bottleneck.projection[0].weight, before["bottleneck.projection.0.weight"])
    pipe.save_pretrained(tmp_path / "pipe")
    again = EDDPMPipeline.from_pretrained(tmp_path / "pipe")
    torch.testing.assert_close(again.encode(IMAGES).latents, pipe.encode(IMAGES).latents)
    assert torch.equal(
        again.decode(pipe.encode(IMAGES).latents, output_type="pt"), pipe.reconstruct(IMAGES, output_type="pt")
    )


@pytest.mark.parametrize("name, targets", [("vit", ["q_proj", "v_proj"]), ("dinov2", ["query", "value"])])
def test_adapters_of_a_vision_backbone_train_and_are_all_that_is_saved_of_it(name, targets, tmp_path):
    torch.manual_seed(0)
    backbone = AutoModel.from_config(AutoConfig.for_model(**BACKBONES[name]))
    backbone.save_pretrained(tmp_path / "backbone")
    backbone = AutoModel.from_pretrained(tmp_path / "backbone")
    values = {key: value for key, value in BACKBONES[name].items()}
    model = tiny_image_model(encoder=values, decoder=CONV_DECODER)
    model.encoder = ImageEncoder(model.config, backbone)
    model.config.encoder = backbone.config
    layers = {
        key.rsplit(".", 1)[-1] for key, module in backbone.named_modules() if isinstance(module, torch.nn.Linear)
    }
    adapted = add_lora(model, target_modules=[each for each in targets if each in layers] or sorted(layers)[:1])
    pipe = make_image_pipe(adapted.get_base_model())
    kept = {key: value.clone() for key, value in model.state_dict().items() if "base_layer" in key}
    pipe = train(adapted, tmp_path / "run", pipe).build_pipeline()
    assert kept and all(torch.equal(model.state_dict()[key], value) for key, value in kept.items())
    expected = pipe.encode(IMAGES).latents
    pipe.save_pretrained(tmp_path / "pipe")
    assert (tmp_path / "pipe" / "adapter").is_dir()
    again = EDDPMPipeline.from_pretrained(tmp_path / "pipe")
    torch.testing.assert_close(again.encode(IMAGES).latents, expected)


def test_aligned_latents_come_nearer_to_the_features(tmp_path):
    features = encoder_features(frozen_encoder(seed=5))
    losses = {}
    for weight in (1e-6, 5.0):
        model = tiny_image_model(decoder=CONV_DECODER)
        values = {"max_steps": 40, "logging_steps": 10, "per_device_train_batch_size": 8}
        trainer = train(
            model,
            tmp_path / str(weight),
            make_image_pipe(model),
            FeatureAlignedTrainer,
            [FeatureAlignment(features, weight)],
            **values,
        )
        losses[weight] = [entry["feature_loss"] for entry in trainer.state.log_history if "feature_loss" in entry]
        assert not any("head" in name for name in model.state_dict())
    assert len(losses[5.0]) == 4 and losses[5.0][-1] < losses[5.0][0]
    assert losses[5.0][-1] < losses[1e-6][-1]


def test_the_weight_reaches_the_encoder_and_nothing_else_changes_the_draws(tmp_path):
    features = encoder_features(frozen_encoder(seed=5))
    weights = []
    for weight in (None, 1e-9):
        model = tiny_image_model(decoder=CONV_DECODER)
        chosen = (
            (EDDPMTrainer, []) if weight is None else (FeatureAlignedTrainer, [FeatureAlignment(features, weight)])
        )
        train(model, tmp_path / str(weight), make_image_pipe(model), *chosen)
        weights.append(model.encoder.backbone.conv_in.weight)
    torch.testing.assert_close(*weights, atol=1e-5, rtol=1e-4)


def test_a_resumed_run_goes_on_with_its_head(tmp_path):
    features = encoder_features(frozen_encoder(seed=5))
    results = []
    for way in ("whole", "halves"):
        model = tiny_image_model(decoder=CONV_DECODER)
        pipe, folder = make_image_pipe(model), tmp_path / way
        alignment = [FeatureAlignment(features, 1.0)]
        values = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "lr_scheduler_type": "constant"}
        if way == "whole":
            trainer = train(model, folder, pipe, FeatureAlignedTrainer, alignment, **values)
        else:
            resume = str(tmp_path / "whole" / "checkpoint-2")
            trainer = train(model, folder, pipe, FeatureAlignedTrainer, alignment, resume=resume, **values)
        results.append((trainer.head.weight.clone(), model.encoder.backbone.conv_in.weight.clone()))
    torch.testing.assert_close(*results)
    model = tiny_image_model(decoder=CONV_DECODER)
    (tmp_path / "whole" / "checkpoint-2" / "feature_head.safetensors").unlink()
    with pytest.raises(ValueError, match="has no feature_head"):
        train(model, tmp_path / "third", make_image_pipe(model), FeatureAlignedTrainer, alignment, resume=resume)


@pytest.mark.parametrize(
    "features, message",
    [
        (lambda inputs: inputs["pixel_values"], "one vector a datum"),
        (lambda inputs: torch.full((len(inputs["pixel_values"]), 3), float("nan")), "finite"),
        (lambda inputs: torch.zeros(1, 3), "one vector a datum"),
    ],
)
def test_bad_features_are_named(features, message, tmp_path):
    model = tiny_image_model(decoder=CONV_DECODER)
    with pytest.raises(ValueError, match=message):
        train(model, tmp_path, make_image_pipe(model), FeatureAlignedTrainer, [FeatureAlignment(features)])
    with pytest.raises(ValueError, match="`weight` must be a finite number above 0"):
        FeatureAlignment(features, 0)


def test_text_aligns_with_a_sentence_encoder_that_has_its_own_tokenizer(pipe, tokenizer, tmp_path):
    backbone = tiny_model(seed=7).encoder.backbone
    trainer = FeatureAlignedTrainer(
        FeatureAlignment(sentence_features(backbone, tokenizer, pipe.processor), weight=2.0),
        model=pipe.model,
        args=arguments(tmp_path, max_steps=30, logging_steps=10),
        processor=pipe.processor,
        train_dataset=SENTENCES,
    )
    trainer.train()
    losses = [entry["feature_loss"] for entry in trainer.state.log_history if "feature_loss" in entry]
    assert losses[-1] < losses[0]
