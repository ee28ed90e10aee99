"""Judges: a tiny vision-language model, a server on the loopback address, an answering pipeline."""

from __future__ import annotations

import ast
import base64
import io
import json
import math
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from evals.judges import loopback
from evals.judges.base import Question
from evals.judges.http import HttpJudge
from evals.judges.mplug import MplugJudge
from evals.judges.vlm import VlmJudge
from evals.registry import JUDGES, open_judge
from scripts.judges import serve_mplug
from tests.helpers.tiny_vlm import save_tiny_vlm

YES = ("yes", "Yes", " yes", " Yes")
QUESTIONS = [
    [Question("Is it red?", YES, "Answer in one word."), Question("How many?", ("2", "two"))],
    [],
    [Question("Are there any dogs in the image?", YES, "Answer in one word.")],
]


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (16, 24, 3), dtype=np.uint8) for _ in range(3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_vlm(tmp_path_factory.mktemp("vlm"))


@pytest.fixture(scope="module")
def judge(folder: Path) -> VlmJudge:
    return VlmJudge.from_hub(model=str(folder))


def test_probabilities_are_those_of_one_greedy_token(judge: VlmJudge) -> None:
    """The published way: generate one token, softmax its scores, add the first tokens up."""
    found = judge.ask(images(), QUESTIONS)
    assert [len(answers) for answers in found] == [2, 0, 1]
    for image, asked, answers in zip(images(), QUESTIONS, found, strict=True):
        for question, answer in zip(asked, answers, strict=True):
            content = [
                {"type": "image", "image": Image.fromarray(image)},
                {"type": "text", "text": question.message},
            ]
            inputs = judge.processor.apply_chat_template(
                [{"role": "user", "content": content}],
                tokenize=True,
                add_generation_prompt=True,
                return_dict=True,
                return_tensors="pt",
            )
            generated = judge.model.generate(
                **inputs,
                max_new_tokens=1,
                do_sample=False,
                output_scores=True,
                return_dict_in_generate=True,
            )
            probabilities = generated.scores[0].softmax(dim=-1)[0]
            first = {judge.processor.tokenizer.encode(text)[0] for text in question.accepted}
            assert answer == pytest.approx(float(sum(probabilities[i] for i in first)), rel=1e-4)


def test_answers_do_not_depend_on_the_batch(judge: VlmJudge) -> None:
    together = judge.ask(images(), QUESTIONS)
    judge.batch_size = 1
    alone = judge.ask(images(), QUESTIONS)
    judge.batch_size = 8
    for a, b in zip(together, alone, strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_spellings_that_begin_alike_are_counted_once(judge: VlmJudge) -> None:
    image, once, twice = (
        images()[:1],
        Question("Is it?", ("yes",)),
        Question("Is it?", ("yes",) * 2),
    )
    assert judge.ask(image, [[once]]) == judge.ask(image, [[twice]])


def test_identity_and_settings_name_what_decides(judge: VlmJudge, folder: Path) -> None:
    assert judge.identity.startswith("vlm:sha256:") and judge.settings["dtype"] == "float32"
    half = VlmJudge.from_hub(model=str(folder), dtype="bfloat16")
    assert half.settings["dtype"] == "bfloat16" and half.model.dtype == torch.bfloat16


@pytest.mark.parametrize("change", ["lacks", "unknown"])
def test_weights_that_do_not_fit_are_refused(folder: Path, tmp_path: Path, change: str) -> None:
    other = tmp_path / "model"
    shutil.copytree(folder, other)
    state = load_file(other / "model.safetensors")
    key = next(k for k in state if "mlp" in k)
    if change == "lacks":
        del state[key]
    else:
        state["extra.weight"] = torch.zeros(1)
    save_file(state, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"do not fit.*{change}"):
        VlmJudge.from_hub(model=str(other))


def test_what_cannot_be_opened_is_said() -> None:
    with pytest.raises(ValueError, match="needs a model"):
        open_judge("vlm")
    with pytest.raises(ValueError, match="hf download Qwen/Qwen3-VL-8B-Instruct"):
        open_judge("qwen3-vl-8b")
    with pytest.raises(ValueError, match="does not take this"):
        open_judge("vllm", colour="red")
    with pytest.raises(ValueError, match="unknown judge 'qwen'"):
        open_judge("qwen")
    assert JUDGES.names() == ["qwen3-vl-8b", "vlm", "vllm", "mplug"]


class Server(BaseHTTPRequestHandler):
    """The part of the chat API that the judge uses: answers from the picture's first pixel."""

    fail_first = 0
    logprobs = True
    candidates = True
    asked: list[dict[str, Any]] = []

    def _send(self, code: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self._send(200, {"data": [{"id": "tiny"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if type(self).fail_first > 0:
            type(self).fail_first -= 1
            self._send(503, {"error": "busy"})
            return
        if body["model"] != "tiny":
            self._send(404, {"error": f"no model {body['model']}"})
            return
        type(self).asked.append(body)
        image, text = body["messages"][0]["content"]
        png = base64.b64decode(image["image_url"]["url"].split(",")[1])
        share = Image.open(io.BytesIO(png)).getpixel((0, 0))[0] / 300
        top = [("Yes", share), (" yes", 0.05), ("No", 0.95 - share), (text["text"][:1], 1e-3)]
        entries = [{"token": t, "logprob": math.log(p)} for t, p in top if p > 0]
        given = entries if type(self).candidates else []
        content = [{"token": "Yes", "top_logprobs": given}] if type(self).logprobs else None
        self._send(200, {"choices": [{"logprobs": {"content": content}}]})

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(loopback, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(Server, "fail_first", 0)
    monkeypatch.setattr(Server, "logprobs", True)
    monkeypatch.setattr(Server, "candidates", True)
    monkeypatch.setattr(Server, "asked", [])
    # a proxy must not matter: the address is this machine's
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}/v1"
    httpd.shutdown()
    httpd.server_close()


def test_a_server_answers_over_the_chat_api(server: str) -> None:
    judge = open_judge("vllm", url=server, revision="abc", parallel=2, top_logprobs=5)
    assert judge.identity == "http:tiny@abc" and judge.settings["top_logprobs"] == 5
    assert judge.notes == ()
    (note,) = open_judge("vllm", url=server).notes
    assert "which version of tiny" in note and "--judge-arg revision=COMMIT" in note
    pictures = [np.full((4, 4, 3), level, np.uint8) for level in (0, 90, 240)]
    asked = [[Question("Is it?", YES, "Answer in one word.")]] * 3
    found = judge.ask(pictures, asked)
    assert [a for (a,) in found] == pytest.approx([0.05, 0.35, 0.85])
    body = Server.asked[0]
    assert body["max_tokens"] == 1 and body["temperature"] == 0 and body["top_logprobs"] == 5
    assert body["messages"][0]["content"][1]["text"] == "Is it? Answer in one word."


def test_a_busy_server_is_asked_again(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Server, "fail_first", 2)
    judge = HttpJudge(server, "tiny", parallel=1)
    assert judge.ask(images()[:1], [[Question("Is it?", YES)]])[0][0] > 0


def test_faults_of_a_server_are_sentences(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    question = [[Question("Is it?", YES)]]
    with pytest.raises(ValueError, match="serves tiny: choose one"):
        open_judge("vllm", url=server, model="other")
    with pytest.raises(ValueError, match=r"refused the request \(404\).*no model other"):
        HttpJudge(server, "other").ask(images()[:1], question)
    for lacking in ("candidates", "logprobs"):
        monkeypatch.setattr(Server, lacking, False)
        with pytest.raises(ValueError, match="--max-logprobs"):
            HttpJudge(server, "tiny").ask(images()[:1], question)
    monkeypatch.setattr(Server, "fail_first", 99)
    with pytest.raises(ValueError, match=r"no answer.*503.*start the server"):
        HttpJudge(server, "tiny").ask(images()[:1], question)


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1/v1", "https://127.0.0.1/v1", "http://example.com/v1", "127.0.0.1:80"]
)
def test_images_are_sent_to_this_machine_only(url: str) -> None:
    with pytest.raises(ValueError, match="never sent elsewhere"):
        HttpJudge(url, "tiny")


def test_mplug_counts_the_accepted_word_to_the_letter() -> None:
    said = {"Is it a cow?": "yes", "Is it a toy?": "Yes", "Is it red?": "no"}
    judge = MplugJudge(lambda asked: {"text": said[asked["question"]]}, "mplug")
    asked = [Question(text, YES, "Answer yes or no.") for text in said]
    assert judge.ask(images()[:1], [asked]) == [[1.0, 0.0, 0.0]]


def test_mplug_says_that_it_needs_an_older_transformers() -> None:
    with pytest.raises(ValueError, match=r"transformers 4 at most, and 5\..* --judge"):
        open_judge("mplug")


@pytest.fixture
def served_mplug(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The script's own server, with a model that answers from the picture's first pixel."""
    monkeypatch.setattr(loopback, "_FIRST_PAUSE_S", 0.01)

    def answer(image: Image.Image, question: str) -> str:
        if question == "Is it broken?":
            raise RuntimeError("out of memory")
        level = image.getpixel((0, 0))
        assert isinstance(level, tuple)
        return {"Is it red?": "yes" if level[0] > 100 else "no"}.get(question, "Yes")

    identity = {"model": "damo/mplug@v1", "versions": {"modelscope": "1.14"}}
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), serve_mplug.handler_of(answer, identity))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


def test_mplug_is_asked_in_an_environment_of_its_own(served_mplug: str) -> None:
    judge = open_judge("mplug", url=served_mplug)
    assert judge.identity == "modelscope:damo/mplug@v1"
    assert judge.settings["versions"] == {"modelscope": "1.14"}
    pictures = [np.full((4, 4, 3), level, np.uint8) for level in (0, 0, 240)]
    asked = [[Question(text, YES, "Answer yes or no.") for text in ("Is it red?", "Is it so?")]]
    assert judge.ask(pictures, [*asked, [], *asked]) == [[0.0, 0.0], [], [1.0, 0.0]]
    with pytest.raises(ValueError, match=r"refused.*RuntimeError: out of memory"):
        judge.ask(pictures[:1], [[Question("Is it broken?", YES)]])


def test_faults_of_mplugs_server_are_sentences(served_mplug: str, server: str) -> None:
    with pytest.raises(ValueError, match="no server of mPLUG: start scripts"):
        open_judge("mplug", url=server)
    with pytest.raises(ValueError, match="never sent elsewhere"):
        open_judge("mplug", url="http://10.0.0.1:8001")
    with pytest.raises(ValueError, match=r"refused the request \(400\).*not a question"):
        loopback.LoopbackServer(served_mplug).call("answers", {"image": "", "questions": []})


def test_mplugs_server_is_python_3_8_and_imports_nothing_of_ours() -> None:
    """It runs where this project is not installed."""
    text = Path(serve_mplug.__file__).read_text()
    tree = ast.parse(text, feature_version=(3, 8))
    modules = {
        name
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
        )
    }
    ours = {name.split(".")[0] for name in modules if name} & {"selfe", "evals", "baselines"}
    assert not ours and "modelscope.pipelines" in modules


def test_mplug_says_which_extra_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evals.judges.mplug.version", lambda package: "4.57.0")
    monkeypatch.setitem(__import__("sys").modules, "modelscope", None)
    with pytest.raises(ValueError, match=r"selfe-bench\[dpg\]"):
        open_judge("mplug")
