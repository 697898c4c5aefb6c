"""What vLLM's own processes need on a CPU, as an entry point of the group `vllm.platform_plugins`.

vLLM starts its engine and its workers as fresh Python processes. verl, and with it our verl plugin, is
imported there too late: vLLM's modules have imported torchcodec and looked for torchvision by then.
Platform plugins are the earliest code that vLLM runs in each process.
"""

from __future__ import annotations

import torch

from faithful_rl.verl_plugin.guards import torchcodec, torchvision_schema, vllm_distribution


def install_guards() -> tuple[str, ...]:
    """Install the guards on the packaging of a CPU stack in this process, beside a CPU build of torch.

    Returns:
        Names of the guards that had something to do; empty beside a torch built for an accelerator.
    """
    if torch.version.cuda is not None or torch.version.hip is not None:
        return ()
    vllm_distribution.apply()
    installed = ["vllm_distribution"]
    if torchvision_schema.apply():
        installed.append("torchvision_schema")
    if torchcodec.apply():
        installed.append("torchcodec")
    return tuple(installed)


def offer_platform() -> None:
    """The entry point: install the guards, offer no platform (None leaves the choice to vLLM)."""
    install_guards()
