"""An objective: the squared error of the predicted end of the path, x_t - t V, against x_0."""

from __future__ import annotations

from dataclasses import dataclass, field

from selfe.batch import LatentBatch
from selfe.objectives.base import LossOutput, Nets
from selfe.objectives.registry import Method
from selfe.path import add_noise, expand_time, sample_head
from selfe.seeding import SampleRng
from selfe.times import TimeSampler


@dataclass(frozen=True)
class Endpoint:
    """||x_t - t V - x_0||^2 t^(-2 power).

    Attributes:
        power: 1 makes it flow matching, 0 is the plain error.
    """

    times: TimeSampler = field(default_factory=TimeSampler)
    power: float = 1.0

    group_size = 1
    needs_fake_captions = False

    def loss(self, batch: LatentBatch, nets: Nets, step: int, rng: SampleRng) -> LossOutput:
        x_0 = batch.x_0.float()
        t = self.times.primary(rng, batch.num_tokens)
        x_t = add_noise(x_0, rng.normal("eps", x_0.shape[1:]), t)
        error = sample_head(x_t, nets.live(x_t, t, t, batch.condition).float(), t) - x_0
        scaled = error / expand_time(t, x_0) ** self.power
        per_sample = scaled.square().flatten(1).mean(1)
        return LossOutput(per_sample.mean(), per_sample.detach(), t, t)


ENDPOINT = Method(
    "selfe_example.objective:Endpoint",
    "Endpoint",
    prediction="velocity",  # the network is called with s = t alone
    variants={"plain": {"objective": {"power": 0.0}}},
    sampling={"shapes": {"guidance": "linear", "guidance_scale": 3.0}},
)
