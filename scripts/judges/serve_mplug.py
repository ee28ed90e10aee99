"""Serves mPLUG, the judge of DPG-Bench, from an environment of its own.

ModelScope's mPLUG does not run with the transformers that this project needs. This file needs
nothing but Python 3.8 and ModelScope, so it is run as a file with that environment's Python; the
page docs/dpg.md has the environment and the protocol.

    PYTHON scripts/judges/serve_mplug.py --port 8001

GET /identity answers {"model", "versions"}; POST /answers takes {"image": PNG in base64,
"questions": [...]} and answers {"answers": [...]}, a word for each question.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import platform
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODEL = "damo/mplug_visual-question-answering_coco_large_en"
PACKAGES = ("modelscope", "transformers", "torch")
MOST_BYTES = 1 << 27


def handler_of(answer, identity):
    """The request handler.

    Args:
        answer: function of a Pillow image and a question that returns a word; never called twice
            at once.
        identity: what GET /identity answers.
    """
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/identity":
                self._send(200, identity)
            else:
                self._send(404, {"error": "no " + self.path})

        def do_POST(self):
            if self.path != "/answers":
                self._send(404, {"error": "no " + self.path})
                return
            size = int(self.headers.get("Content-Length", 0))
            if size > MOST_BYTES:
                self._send(413, {"error": "the request is too large"})
                return
            body = self.rfile.read(size)
            try:
                from PIL import Image

                asked = json.loads(body)
                image = Image.open(io.BytesIO(base64.b64decode(asked["image"]))).convert("RGB")
                questions = [str(text) for text in asked["questions"]]
            except Exception as error:  # whatever was sent
                self._send(400, {"error": f"not a question: {error}"})
                return
            try:
                with lock:
                    words = [str(answer(image, text)) for text in questions]
            except Exception as error:  # of the model: the client says it and stops
                self._send(422, {"error": f"{type(error).__name__}: {error}"})
                return
            self._send(200, {"answers": words})

        def _send(self, code, value):
            body = json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words):
            pass

    return Handler


def main():
    parser = argparse.ArgumentParser(description="Serve mPLUG to selfe-bench on this machine.")
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--model", default=MODEL, help="ModelScope's name, or a folder")
    parser.add_argument("--revision", default="", help="of the model on ModelScope")
    parser.add_argument("--device", default="gpu", help="gpu or cpu")
    chosen = parser.parse_args()

    from importlib.metadata import version

    from modelscope.pipelines import pipeline
    from modelscope.utils.constant import Tasks

    options = {"model_revision": chosen.revision} if chosen.revision else {}
    ask = pipeline(
        Tasks.visual_question_answering, model=chosen.model, device=chosen.device, **options
    )
    name = chosen.model + ("@" + chosen.revision if chosen.revision else "")
    versions = {package: version(package) for package in PACKAGES}
    versions["python"] = platform.python_version()
    handler = handler_of(
        lambda image, question: ask({"image": image, "question": question})["text"],
        {"model": name, "versions": versions},
    )
    server = ThreadingHTTPServer(("127.0.0.1", chosen.port), handler)
    print(f"serving {name} at http://127.0.0.1:{server.server_port} (Ctrl-C stops)")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
