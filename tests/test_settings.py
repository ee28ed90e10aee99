"""What `ls settings` says of every setting, and that nothing is left unsaid."""

from __future__ import annotations

import json

import pytest

from selfe.config.describe import attribute_docs, list_settings
from selfe.config.resolve import resolve
from selfe.objectives.registry import METHODS, objective_class
from tests.helpers.command_line import selfe_bench


def settings_of(method, recipe="shapes", *assignments):
    config = resolve(recipe, method, assignments=assignments)
    return {each.key: each for each in list_settings(config, objective_class(method))}


@pytest.mark.parametrize("method", METHODS)
def test_every_setting_is_explained(method):
    for key, setting in settings_of(method).items():
        assert setting.about and setting.takes, key


def test_values_are_the_resolved_ones_and_can_be_set():
    changed = ["optim.lr=0.5", "objective.classifier_share=0.25", "train.compile=true"]
    found = settings_of("selfe", "0.5b", *changed)
    assert {key: found[key].value for key in (c.partition("=")[0] for c in changed)} == {
        "optim.lr": 0.5, "objective.classifier_share": 0.25, "train.compile": True,
    }  # fmt: skip
    again = [f"{key}={json.dumps(each.value)}" for key, each in found.items()]
    assert resolve("0.5b", "selfe", assignments=again) == resolve(
        "0.5b", "selfe", assignments=changed
    )


def test_ranges_are_in_words():
    found = settings_of("imm")
    assert found["optim.lr"].takes == "a number, above 0"
    assert found["optim.ema_decay"].takes == "a number, at least 0, below 1"
    assert found["sampling.update"].takes == "one of ancestral, minfm"
    assert found["train.micro_batch_size"].takes == "an integer or null, at least 1"
    assert (
        found["objective.weight_a"].about == found["objective.weight_b"].about == "a and b of w(t)."
    )
    assert not any(key.startswith(("objective.times", "recipe")) for key in found)


def test_attributes_of_a_docstring():
    class Documented:
        """Words.

        Attributes:
            one: first,
                continued.
            two, three: both: with a colon.

        Not an attribute: this.
        """

    both = "both: with a colon."
    assert attribute_docs(Documented) == {"one": "first, continued.", "two": both, "three": both}
    assert attribute_docs(int) == {}


def test_ls_settings():
    code, text, _ = selfe_bench("ls", "settings", "--recipe", "shapes-quick", "--json")
    rows = {row["key"]: row for row in json.loads(text)}
    assert code == 0 and rows["optim.lr"]["value"] == 8e-3
    code, _, error = selfe_bench("ls", "settings", "--method", "selve")
    assert code == 2 and "did you mean 'selfe'" in error
