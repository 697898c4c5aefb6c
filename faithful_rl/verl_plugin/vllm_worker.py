"""Weight updates inside a vLLM worker on CPU.

vLLM's CPU build packs linear weights into a kernel's own layout after loading. verl loads new weights
in place, into parameters that no longer have the checkpoint's shape, and fails on the second load.
vLLM's own layer-wise reload (`model_runner.reload_weights`) restores each layer, loads it and packs it
again; it keeps the module objects, so that the ban on image placeholders stays in force.
"""

from __future__ import annotations

from typing import Any

import torch
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension


def repack_tied_heads(model: torch.nn.Module) -> int:
    """Pack the language-model heads of `model` again from the weights they hold now; return how many.

    A head tied to the embedding holds the embedding's parameter but its own packed copy of it. A reload
    brings the embedding's weights under the embedding's name only, so vLLM processes the embedding and
    leaves the head with the packed copy of the weights before: every log-probability of the rollout is
    then that of a model with an outdated head, without any error.

    Can go when vLLM's layer-wise reload processes layers whose parameters are shared with a loaded layer.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    heads = [module for module in model.modules() if isinstance(module, ParallelLMHead)]
    for head in heads:
        head.quant_method.process_weights_after_loading(head)
    return len(heads)


class CpuColocateWorkerExtension(vLLMColocateWorkerExtension):  # type: ignore[misc]
    """What verl adds to a vLLM worker, with the weight update replaced. Named to vLLM as `worker_extension_cls`."""

    def update_weights_from_ipc(
        self, peft_config: dict[str, Any] | None = None, base_sync_done: bool = False, use_shm: bool = True
    ) -> None:
        """Receive all buckets of one weight synchronisation, then reload the model once.

        The copies double the model's memory for the length of the call. They are needed: the bucket is
        reused by the sender, is closed while views on it would still be alive, and vLLM's reload keeps
        tensors of a layer until the layer is complete.

        Raises:
            NotImplementedError: a LoRA adapter was sent.
        """
        from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightReceiver

        if peft_config:
            raise NotImplementedError("LoRA weight updates are not supported on CPU: set actor_rollout_ref.model.lora_rank=0")
        received: list[tuple[str, torch.Tensor]] = []

        def keep(weights: list[tuple[str, torch.Tensor]], is_last: bool) -> None:
            received.extend((name, tensor.clone()) for name, tensor in weights)

        receiver = BucketedWeightReceiver(zmq_handle=self._get_zmq_handle(), device=torch.device("cpu"), use_shm=use_shm)
        receiver.receive_weights(on_bucket_received=keep)
        self._reload(received)

    def _reload(self, weights: list[tuple[str, torch.Tensor]]) -> None:
        self.model_runner.reload_weights(weights_iterator=iter(weights))
        for model in self._iter_all_models():
            repack_tied_heads(model)
