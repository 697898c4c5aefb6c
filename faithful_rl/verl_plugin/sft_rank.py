"""One rank of verl's SFT trainer: `torchrun ... -m faithful_rl.verl_plugin.sft_rank CONFIG.yaml`.

verl's own command composes its configuration with Hydra; here the composed recipe is read from a file. One thing is added: the order
of the data follows the recipe's seed (verl leaves torch's sampler at 0).
"""

from __future__ import annotations

import sys
from typing import Any

import verl  # noqa: F401  (loads our plugin before anything asks for the platform)
from omegaconf import OmegaConf
from verl.trainer.sft_trainer import SFTTrainer
from verl.utils import distributed
from verl.utils.device import get_device_name

JOIN_SECONDS = 3600  # also the deadline of every collective operation


class FaithfulSFTTrainer(SFTTrainer):  # type: ignore[misc]
    """verl's SFT trainer with `trainer.seed` as the seed of the data order."""

    def _build_dataloader(self) -> None:
        super()._build_dataloader()
        self.train_sampler.seed = int(self.config.trainer.seed)


def join() -> None:
    """Join the other ranks. verl's own function for this asks for gloo twice where the device is the CPU, and torch refuses; its sister
    for Ray workers, which our guard has mended, reads the same variables of torchrun."""
    if get_device_name() == "cpu":
        distributed.initialize_global_process_group_ray(timeout_second=JOIN_SECONDS)
    else:
        distributed.initialize_global_process_group(timeout_second=JOIN_SECONDS)


def main(arguments: list[str]) -> None:
    config: Any = OmegaConf.load(arguments[0])
    join()
    FaithfulSFTTrainer(config=config).fit()
    distributed.destroy_global_process_group()


if __name__ == "__main__":
    main(sys.argv[1:])
