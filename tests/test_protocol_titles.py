"""Two protocols in one report never have one title."""

from __future__ import annotations

from typing import Any

from evals.base import ProtocolFacts
from evals.report.page import telling_apart
from evals.results import protocol_key

PLAIN = ProtocolFacts(
    suite="shapes@1",
    split="heldout",
    prompts_sha256="0" * 64,
    num_prompts=6,
    images_per_prompt=4,
    detector="d@1",
    color_classifier="c@1",
    rules={"threshold": 0.3, "max_objects": 16},
)


_UPDATES: tuple[tuple[dict[str, Any], str, str], ...] = (
    ({"inference": "paper"}, "inference paper", "drawn as each run says"),
    ({"signal": 0.25}, "latents times 0.25", "latents times 1"),
    ({"detector": "e@1"}, "detector e@1", "detector d@1"),
    ({"color_classifier": "e@1"}, "color classifier e@1", "color classifier c@1"),
    ({"prompts_sha256": "1" * 64}, "prompts 111111", "prompts 000000"),
    ({"crop_black_borders": True}, "crop black borders True", "crop black borders False"),
    ({"rules": {"threshold": 0.5, "max_objects": 16}}, "threshold 0.5", "threshold 0.3"),
)


def titles(*protocols: ProtocolFacts) -> list[str]:
    found = telling_apart(protocols)
    return [found[protocol_key(protocol)] for protocol in protocols]


def test_a_protocol_alone_needs_no_words() -> None:
    assert titles(PLAIN) == [""]
    assert titles(PLAIN, PLAIN.model_copy(update={"num_prompts": 7})) == ["", ""]


def test_every_field_tells_protocols_apart() -> None:
    for update, there, here in _UPDATES:
        assert titles(PLAIN.model_copy(update=update), PLAIN) == [there, here]
    named = {name for update, *_ in _UPDATES for name in update}
    size = {"suite", "split", "num_prompts", "images_per_prompt"}
    assert named | size == set(ProtocolFacts.model_fields)
