"""What the model generates and reconstructs at each evaluation: in a file, and in the trackers of `report_to`."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from ..modalities.image.processing import plot_grid
from ..pipeline_eddpm import EDDPMPipeline
from .trackers import report_image, report_text

logger = logging.get_logger(__name__)

PREVIEW_STEPS = 20  # of each chain, for images
_PREVIEW_SIDE = 64  # images smaller than this are enlarged


class Preview(TrainerCallback):
    """Shows what the model generates and reconstructs at each evaluation.

    Images go to `output_dir/previews/step-N.png`: samples above, data and their reconstructions below. All else goes
    to the log and to `output_dir/previews.jsonl`, one line for each evaluation.

    Args:
        build_pipeline: Function that returns a pipeline around the model as it is.
        data: Raw data that are reconstructed.
        num_samples: Samples that are generated; 0 for none, as of a model without a latent chain.
        callbacks: Function that returns the trainer's callbacks, among which the trackers are.
    """

    def __init__(
        self,
        build_pipeline: Callable[[], EDDPMPipeline],
        data: list[Any],
        num_samples: int,
        callbacks: Callable[[], Sequence[TrainerCallback]] = tuple,
    ):
        self.build_pipeline = build_pipeline
        self.data = data
        self.num_samples = num_samples
        self.callbacks = callbacks

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write, log and report the preview."""
        if not state.is_world_process_zero:
            return
        pipe = self.build_pipeline()
        pipe.set_progress_bar_config(disable=True)
        if pipe.model.config.modality == "image":
            picture = self._picture(pipe, args.seed)
            path = Path(args.output_dir) / "previews" / f"step-{state.global_step}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
            report_image(self.callbacks(), "previews", picture, state.global_step)
            return
        preview = {"step": state.global_step, **self._data(pipe, args.seed)}
        path = Path(args.output_dir) / "previews.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(preview, default=str) + "\n")
        lines = [f"generated      {sample}" for sample in preview["samples"]]
        for original, reconstruction in zip(preview["originals"], preview["reconstructions"], strict=True):
            lines += [f"original       {original}", f"reconstructed  {reconstruction}"]
        logger.info("\n  ".join([f"step {state.global_step}", *lines]))
        report_text(self.callbacks(), "previews", lines, state.global_step)

    def _data(self, pipe: EDDPMPipeline, seed: int) -> dict[str, list[Any]]:
        generator = torch.Generator().manual_seed(seed)
        samples: list[Any] = []
        if self.num_samples:
            samples = pipe(num_samples=self.num_samples, generator=generator, return_dict=False)[0]
        return {"samples": samples, "originals": self.data, "reconstructions": pipe.reconstruct(self.data)}

    def _picture(self, pipe: EDDPMPipeline, seed: int) -> Image.Image:
        steps: dict[str, Any] = {} if pipe.decoder_scheduler is None else {"num_decoder_steps": PREVIEW_STEPS}
        rows = []
        if self.num_samples:
            generator = torch.Generator().manual_seed(seed)
            out: Any = pipe(self.num_samples, num_inference_steps=PREVIEW_STEPS, generator=generator, **steps)
            rows.append(out.samples)
        generator = torch.Generator().manual_seed(seed)
        drawn: dict[str, Any] = {} if pipe.decoder_scheduler is None else {"generator": generator}
        originals = pipe.processor.postprocess(pipe.processor(self.data)["pixel_values"])
        rows += [originals, pipe.reconstruct(self.data, **steps, **drawn)]
        return plot_grid(rows, scale=max(1, _PREVIEW_SIDE // pipe.processor.image_size))
