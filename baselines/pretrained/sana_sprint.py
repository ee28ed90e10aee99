"""SANA-Sprint: continuous-time consistency distillation of SANA, guidance a network input."""

from __future__ import annotations

from typing import Any, ClassVar

from baselines.pretrained.sana import SanaModel

INTERMEDIATE = 1.3
"""The second of two timesteps, in TrigFlow's angle; the scheduler takes it at two steps only."""


class SanaSprintModel(SanaModel):
    pipeline_class: ClassVar[str] = "SanaSprintPipeline"

    def nfe(self, num_steps: int) -> int:
        """One call a step; the scheduler's last timestep is 0 and costs none."""
        self.check_steps(num_steps)
        return num_steps

    def call_arguments(self, num_steps: int) -> dict[str, Any]:
        arguments = super().call_arguments(num_steps)
        del arguments["negative_prompt"]  # there is no second, unconditional call
        return {
            **arguments,
            "intermediate_timesteps": INTERMEDIATE if num_steps == 2 else None,
        }

    def sampling_facts(self) -> dict[str, Any]:
        facts = {**super().sampling_facts(), "intermediate_timestep": INTERMEDIATE}
        del facts["negative_prompt"]
        return facts
