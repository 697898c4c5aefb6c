"""The plugin as a worker of a CPU run has it: the platform is chosen before verl is imported."""

import os

os.environ.setdefault("VERL_PLATFORM", "cpu")

import faithful_rl.verl_plugin.plugin  # noqa: F401
