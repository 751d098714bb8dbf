"""What a decoder of images in one pass learns beside its pixels: features that look alike, and a critic it must pass.

A Gaussian likelihood alone makes the mean of all images that a latent may stand for, which is blurred. Autoencoders of
latent diffusion have both terms (Esser et al. 2021, arXiv 2012.09841, section 3; Rombach et al. 2022,
arXiv 2112.10752, appendix G). They are parts of the training, not of the model: no checkpoint needs them to decode.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from ..modalities.image.metrics import fit_classifier, to_tensor
from ..processes import mean_over_processes, share_from_first

logger = logging.get_logger(__name__)

CRITIC_FILE = "critic.pt"
_MAX_ADAPTIVE_WEIGHT = 1e4


class FeatureNetwork(nn.Module):
    """A small convolutional classifier whose layers say what images look like.

    Args:
        num_channels: 1 or 3.
        num_classes: Classes it tells apart.
        width: Channels of its first level, doubled from level to level.
    """

    def __init__(self, num_channels: int, num_classes: int, width: int = 32):
        super().__init__()
        self.num_channels = num_channels
        self.levels = nn.ModuleList()
        channels = num_channels
        for level in range(3):
            wide = width * 2**level
            self.levels.append(
                nn.Sequential(
                    nn.Conv2d(channels, wide, 3, stride=1 if level == 0 else 2, padding=1, bias=False),
                    nn.BatchNorm2d(wide),
                    nn.ReLU(),
                    nn.Conv2d(wide, wide, 3, padding=1, bias=False),
                    nn.BatchNorm2d(wide),
                    nn.ReLU(),
                )
            )
            channels = wide
        self.head = nn.Linear(channels, num_classes)

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Map `(num, channels, height, width)` in [-1, 1] to each level's features, the finest first."""
        if images.shape[1] != self.num_channels:
            images = images.mean(1, keepdim=True).expand(-1, self.num_channels, -1, -1)
        found = []
        for level in self.levels:
            images = level(images)
            found.append(images)
        return found

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits `(num, num_classes)`."""
        return self.head(self.features(images)[-1].mean((2, 3)))


def fit_feature_network(
    images: NDArray[np.uint8],
    labels: NDArray[np.integer] | None,
    seed: int,
    num_steps: int,
    batch_size: int = 128,
    width: int = 32,
    device: torch.device | str = "cpu",
) -> FeatureNetwork:
    """Train a feature network, and freeze it.

    Args:
        images: uint8 `(num, height, width, channels)`, square.
        labels: Their classes `(num,)`; None to tell four rotations apart (Gidaris et al. 2018, arXiv 1803.07728).
        seed: Of initialisation and draws.
        num_steps: Steps, with shifts by up to an eighth of the side.
        batch_size: Images of a step.
        width: Channels of the first level.
        device: Where it trains and stays.
    """
    num_classes = 4 if labels is None else int(labels.max()) + 1
    side = images.shape[1]
    margin = max(1, side // 8)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = FeatureNetwork(images.shape[3], num_classes, width).to(device)

        def draw() -> tuple[torch.Tensor, torch.Tensor]:
            rows = torch.randint(len(images), (batch_size,))
            batch = to_tensor(images[rows.numpy()]).to(device)
            if labels is None:
                turns = torch.randint(4, (batch_size,))
                batch = torch.cat([torch.rot90(batch[turns == turn], turn, (2, 3)) for turn in range(4)])
                targets = turns.sort().values.to(device)
            else:
                targets = torch.from_numpy(np.asarray(labels)[rows.numpy()].astype(np.int64)).to(device)
            padded = nn.functional.pad(batch, [margin] * 4, mode="reflect")
            top, left = torch.randint(2 * margin + 1, (2,)).tolist()
            return padded[:, :, top : top + side, left : left + side], targets

        right = fit_classifier(network, draw, num_steps)
    logger.info(f"The feature network tells {num_classes} classes apart, {right:.2f} right at the end.")
    return network.requires_grad_(False)


class PerceptualDistance(nn.Module):
    """Distance of images in the layers of a frozen network.

    Each position's features are scaled to length 1; the squared differences are summed over channels and averaged over
    positions and levels (Zhang et al. 2018, arXiv 1801.03924, equation 1, with all weights 1).

    Args:
        network: The network, frozen.
    """

    def __init__(self, network: FeatureNetwork):
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
        """Return the distances, `(num,)`, each in [0, 4], of `(num, channels, height, width)` in [-1, 1]."""
        with torch.no_grad():
            wanted = self.network.features(references)
        distances = [
            (_unit_length(one) - _unit_length(other)).square().sum(1).mean((1, 2))
            for one, other in zip(self.network.features(images), wanted, strict=True)
        ]
        return torch.stack(distances).mean(0)


def _unit_length(features: torch.Tensor) -> torch.Tensor:
    return nn.functional.normalize(features.float(), dim=1, eps=1e-6)


class PatchCritic(nn.Sequential):
    """Tells real patches from decoded ones (PatchGAN, Isola et al. 2017, arXiv 1611.07004), spectrally normalised.

    Args:
        num_channels: 1 or 3.
        width: Channels of its first level.
        num_levels: Levels that halve the resolution.
    """

    def __init__(self, num_channels: int, width: int = 64, num_levels: int = 3):
        layers: list[nn.Module] = []
        channels = num_channels
        for level in range(num_levels):
            wide = width * 2 ** min(level, 2)
            layers += [_normed(nn.Conv2d(channels, wide, 4, 2, 1)), nn.LeakyReLU(0.2)]
            channels = wide
        layers += [_normed(nn.Conv2d(channels, channels, 3, 1, 1)), nn.LeakyReLU(0.2)]
        super().__init__(*layers, _normed(nn.Conv2d(channels, 1, 3, 1, 1)))


def _normed(layer: nn.Conv2d) -> nn.Module:
    return nn.utils.parametrizations.spectral_norm(layer)


class ReconstructionLosses:
    """The terms beside the pixels; an `ImageConvDecoder` in training adds them to its loss (its `extra_loss`).

    Several processes teach one critic: it begins as the first one's, and its gradients are averaged.

    Args:
        perceptual: Distance of images, or None.
        perceptual_weight: Its weight beside the mean, over pixel values, of the negative log-likelihood.
        critic: Tells real images from decoded ones, or None.
        critic_weight: Share of the critic's gradient at the decoder's last layer, of the other terms' there (Esser et
            al. 2021, equation 7).
        critic_start: Training batches before the critic takes part.
        critic_learning_rate: Adam's, of the critic.

    Raises:
        ValueError: If a weight is negative, or both parts are missing.
    """

    def __init__(
        self,
        perceptual: PerceptualDistance | None = None,
        perceptual_weight: float = 1.0,
        critic: PatchCritic | None = None,
        critic_weight: float = 0.5,
        critic_start: int = 0,
        critic_learning_rate: float = 2e-4,
    ):
        if perceptual is None and critic is None:
            raise ValueError("`perceptual` or `critic` must be given.")
        for name, value in (("perceptual_weight", perceptual_weight), ("critic_weight", critic_weight)):
            if not value >= 0:
                raise ValueError(f"`{name}` must be at least 0, got {value!r}.")
        self.perceptual, self.perceptual_weight = perceptual, perceptual_weight
        self.critic, self.critic_weight, self.critic_start = critic, critic_weight, critic_start
        self.batches = 0
        self.optimizer = None
        if critic is not None:
            share_from_first(critic.state_dict().values())
            self.optimizer = torch.optim.Adam(critic.parameters(), lr=critic_learning_rate, betas=(0.5, 0.9))

    def __call__(
        self, decoded: torch.Tensor, images: torch.Tensor, nats: torch.Tensor, last_layer: torch.Tensor
    ) -> torch.Tensor:
        """Return what is added to each image's loss, `(batch,)`; the critic learns from the batch at the same time.

        Args:
            decoded: What the decoder says, float32 `(batch, channels, height, width)`.
            images: What it should have said, shaped alike, in [-1, 1].
            nats: The decoder's own loss, `(batch,)`.
            last_layer: Weights of its last layer.
        """
        units = images[0].numel()
        images = images.to(decoded.dtype)
        added = torch.zeros_like(nats)
        if self.perceptual is not None:
            added = added + self.perceptual_weight * units * self.perceptual(decoded, images)
        if self.critic is not None and self.batches >= self.critic_start:
            self._teach_critic(decoded.detach(), images)
            self.critic.requires_grad_(False)
            verdicts = -units * self.critic(decoded).float().mean((1, 2, 3))
            self.critic.requires_grad_(True)
            (others,) = torch.autograd.grad((nats + added).mean(), last_layer, retain_graph=True)
            (wished,) = torch.autograd.grad(verdicts.mean(), last_layer, retain_graph=True)
            others, wished = mean_over_processes(others.float()), mean_over_processes(wished.float())
            share = (others.norm() / wished.norm().clamp(min=1e-8)).clamp(max=_MAX_ADAPTIVE_WEIGHT)
            added = added + self.critic_weight * share.detach() * verdicts
        self.batches += 1
        return added

    def _teach_critic(self, decoded: torch.Tensor, images: torch.Tensor) -> None:
        """One step of the hinge loss (Lim & Ye 2017, arXiv 1705.02894)."""
        assert self.critic is not None and self.optimizer is not None
        real, made = self.critic(images).float(), self.critic(decoded).float()
        loss = 0.5 * (torch.relu(1 - real).mean() + torch.relu(1 + made).mean())
        self.optimizer.zero_grad()
        loss.backward()
        for parameter in self.critic.parameters():
            if parameter.grad is not None:
                parameter.grad = mean_over_processes(parameter.grad)
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs; the frozen network is trained anew from its seed."""
        state: dict[str, Any] = {"batches": self.batches}
        if self.critic is not None and self.optimizer is not None:
            state |= {"critic": self.critic.state_dict(), "optimizer": self.optimizer.state_dict()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.batches = state["batches"]
        if self.critic is not None and self.optimizer is not None:
            self.critic.load_state_dict(state["critic"])
            self.optimizer.load_state_dict(state["optimizer"])


class KeepCritic(TrainerCallback):
    """Writes the losses' state beside each checkpoint, and takes it up where a training resumes.

    Args:
        losses: The losses.
        resumed: Folder of the checkpoint that the training resumes, or None.

    Raises:
        ValueError: When training begins, if that checkpoint has no such state.
    """

    def __init__(self, losses: ReconstructionLosses, resumed: str | None):
        self.losses, self.resumed = losses, resumed

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take up the state."""
        if self.resumed is None:
            return
        path = Path(self.resumed) / CRITIC_FILE
        if not path.is_file():
            raise ValueError(
                f"`resume_from_checkpoint` {self.resumed!r} holds no {CRITIC_FILE}, the state of the losses."
            )
        self.losses.load_state_dict(torch.load(path, map_location=args.device, weights_only=True))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the state."""
        folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        torch.save(self.losses.state_dict(), folder / CRITIC_FILE)
