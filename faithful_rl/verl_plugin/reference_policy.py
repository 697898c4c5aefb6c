"""Where the reference policy of the KL penalty lives: inside the actor's workers, or in a worker group with a pool of its own."""

from __future__ import annotations

import logging
from typing import Any

import ray
from omegaconf import DictConfig, open_dict
from verl.single_controller.ray import RayClassWithInitArgs, RayWorkerGroup, create_colocated_worker_cls
from verl.trainer.ppo.utils import Role, need_reference_policy
from verl.workers.engine_workers import ActorRolloutRefWorker

logger = logging.getLogger(__name__)

POOL = "reference_pool"


def drop_unused_reference(config: DictConfig) -> bool:
    """Turn the KL loss off where its coefficient is 0, so that no reference policy is built or run; True if it was."""
    actor = config.actor_rollout_ref.actor
    if actor.use_kl_loss and float(actor.kl_loss_coef) == 0.0:
        with open_dict(config):
            actor.use_kl_loss = False
        logger.info("actor.kl_loss_coef is 0: the reference policy is left out")
        return True
    return False


def wants_own_pool(config: DictConfig) -> bool:
    """Whether a reference policy is needed and shall have its own workers."""
    return str(config.faithful_rl.reference_policy.placement) == "own_pool" and need_reference_policy(config)


def plan_own_pool(trainer: Any) -> None:
    """Change verl's resource plan, after verl made it and before pools exist: the actor's workers carry no reference policy, and
    a pool of `faithful_rl.reference_policy.{n_gpus_per_node, nnodes}` is added."""
    own = trainer.config.faithful_rl.reference_policy
    roles, mapping = trainer.role_worker_mapping, trainer.mapping
    if Role.ActorRolloutRef in roles:
        roles[Role.ActorRollout] = roles.pop(Role.ActorRolloutRef)
        mapping[Role.ActorRollout] = mapping.pop(Role.ActorRolloutRef)
    roles.setdefault(Role.RefPolicy, ray.remote(ActorRolloutRefWorker))
    mapping[Role.RefPolicy] = POOL
    trainer.resource_pool_manager.resource_pool_spec[POOL] = [int(own.n_gpus_per_node)] * int(own.nnodes)


def start_own_group(trainer: Any) -> None:
    """Start the reference policy's worker group, after verl's set-up: verl itself starts one only beside a role "actor"."""
    pool = trainer.resource_pool_manager.get_resource_pool(Role.RefPolicy)
    role = str(Role.RefPolicy)
    worker = RayClassWithInitArgs(cls=trainer.role_worker_mapping[Role.RefPolicy], config=trainer.config.actor_rollout_ref, role=role)
    group = RayWorkerGroup(
        resource_pool=pool,
        ray_cls_with_init=create_colocated_worker_cls(class_dict={role: worker}),
        device_name=trainer.config.trainer.device,
    )
    trainer.ref_policy_wg = group.spawn(prefix_set={role})[role]
    trainer.ref_policy_wg.init_model()
    logger.info("the reference policy runs in its own pool of %s workers", trainer.resource_pool_manager.resource_pool_spec[POOL])
