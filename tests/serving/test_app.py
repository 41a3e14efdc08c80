"""The server answers what predict answers, and refuses in one sentence what would harm it."""

from __future__ import annotations

import base64
import io
import json
import socket
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from hf_finetune.data.image_list import GivenImages, NamedImage
from hf_finetune.jobs.classifier import Classifier
from hf_finetune.jobs.explain import Explainer, ExplainSettings
from hf_finetune.jobs.predict import Classification
from hf_finetune.jobs.prediction_settings import PredictionSettings
from hf_finetune.serving.limits import Limits
from tests.helpers.served import NAMES, Served, served, small_classifier


def encoded(width: int, height: int, kind: str = "PNG", seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return small_classifier()


@pytest.fixture(scope="module")
def server(classifier: Classifier):
    limits = Limits(batch_size=4, max_megabytes=1, max_pixels=1_000_000, max_images=3, timeout=1)
    with served(classifier, limits) as running:
        yield running


def of_predict(classifier: Classifier, contents: list[bytes], top_k: int) -> list[dict[str, float]]:
    images = GivenImages([NamedImage(row, {"bytes": content, "path": None}) for row, content in enumerate(contents)])
    settings = PredictionSettings(top_k=top_k, num_workers=0)
    return [dict(prediction.classes) for prediction in Classification(classifier, settings).all_of(images)]


def classes(image: dict) -> dict[str, float]:
    return {item["label"]: item["score"] for item in image["predictions"]}


def test_forms_and_json_give_what_predict_gives(server: Served, classifier):
    contents = [encoded(20, 30), encoded(16, 16, "JPEG"), encoded(40, 17, "WEBP")]
    expected = of_predict(classifier, contents, 6)
    form = server.send(*((f"{row}.png", content) for row, content in enumerate(contents)), top_k="6")
    body = json.dumps({"images": [base64.b64encode(content).decode() for content in contents], "top_k": 6})
    in_json = server.ask("POST", "/v1/classify", body, Content_Type="application/json")
    assert [image["name"] for image in form.json["images"]] == ["0.png", "1.png", "2.png"]
    assert [image["name"] for image in in_json.json["images"]] == ["image 0", "image 1", "image 2"]
    for response in (form, in_json):
        assert response.status == 200
        for image, own in zip(response.json["images"], expected, strict=True):
            assert classes(image) == pytest.approx(own, abs=1e-6) and list(classes(image)) == list(own)
    assert len(server.send(("a.png", contents[0])).json["images"][0]["predictions"]) == 5


def test_heat_maps_are_those_of_explain(server: Served, classifier):
    content = encoded(20, 30)
    answer = server.send(("a.png", content), ("b.png", content), path="/v1/explain")
    assert answer.status == 200, answer.body
    first, second = answer.json["images"]
    assert (first["name"], second["name"]) == ("a.png", "b.png") and second["label"] == first["label"]
    assert first["method"] == "gradcam" and first["layer"] == "resnet.encoder.stages.0"
    images = GivenImages([NamedImage(0, {"bytes": content, "path": None})])
    (own,) = Explainer(classifier, ExplainSettings()).all_of(images)
    assert (first["label"], first["score"]) == (own.label, pytest.approx(own.score, abs=1e-6))
    with PIL.Image.open(io.BytesIO(base64.b64decode(first["overlay"]))) as shown:
        expected = np.asarray(own.overlay(line=False), np.int16)[:, -224:]
        assert np.abs(np.asarray(shown.convert("RGB"), np.int16) - expected).max() <= 2
    body = json.dumps({"images": [base64.b64encode(content).decode()]})
    (in_json,) = server.ask("POST", "/v1/explain", body, Content_Type="application/json").json["images"]
    assert in_json["name"] == "image 0" and in_json["score"] == pytest.approx(own.score, abs=1e-6)
    assert server.send(("a.png", b"no image"), path="/v1/explain").status == 422
    assert server.send(*[("a.png", content)] * 4, path="/v1/explain").status == 413


def test_a_model_without_gradients_has_no_heat_maps(classifier):
    with served(replace(classifier, network=None), Limits()) as without:
        answer = without.send(("a.png", encoded(16, 16)), path="/v1/explain")
        assert answer.status == 501 and answer.json["error"].startswith("A heat map needs the gradients of a network")
        assert list(without.ask("GET", "/openapi.json").json["paths"]) == ["/v1/classify", "/healthz"]


def test_many_clients_at_once_get_their_own_answers(server: Served, classifier):
    contents = [encoded(16, 16, seed=seed) for seed in range(24)]
    expected = of_predict(classifier, contents, 6)
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda content: server.send(("a.png", content), top_k="6"), contents))
    for answer, own in zip(answers, expected, strict=True):
        assert answer.status == 200 and classes(answer.json["images"][0]) == pytest.approx(own, abs=1e-6)
    shown = server.ask("GET", "/metrics").body.decode()
    batches = next(line for line in shown.splitlines() if line.startswith("hf_finetune_batch_images_count"))
    images = next(line for line in shown.splitlines() if line.startswith("hf_finetune_images_total"))
    assert float(batches.split()[1]) < float(images.split()[1]) and 'requests_total{status="200"}' in shown


@pytest.mark.parametrize(
    ("status", "words", "content"),
    [
        (422, "a.png is no JPEG, PNG, WebP, GIF, BMP or TIFF file.", b"no image"),
        (422, "a.png is no JPEG", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        (422, "a.png is no JPEG", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        (422, "a.png is no JPEG", b""),
        (422, "a.png cannot be read as an image: ", encoded(64, 64, "JPEG")[:-900]),
        (422, "a.png cannot be read as an image: ", b"\x89PNG\r\n\x1a\n" + bytes(range(50))),
        (422, "a.png is 10,000 x 1 pixels, longer than 100 times its short side.", encoded(10_000, 1)),
        (413, "a.png has 1,100 x 1,000 pixels; send an image of at most 1,000,000.", b"large"),
        (413, "The request is larger than 1 MB.", b"\x89PNG" + bytes(1_000_000)),
    ],
)
def test_an_image_that_is_none_or_too_much(server: Served, status, words, content):
    if content == b"large":
        file = io.BytesIO()
        PIL.Image.new("RGB", (1100, 1000)).save(file, "PNG")
        content = file.getvalue()
    answer = server.send(("a.png", content))
    assert answer.status == status and answer.json["error"].startswith(words)
    assert list(answer.json) == ["error"] and "\n" not in answer.json["error"]
    assert server.send(("a.png", encoded(16, 16))).status == 200


def test_a_bomb_is_refused_by_its_header(server: Served):
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    answer = server.send(("bomb.png", bomb + struct.pack(">I", 9) + b"IDAT" + bytes(13)))
    assert answer.status == 422 and "pixels" in answer.json["error"]


@pytest.mark.parametrize(
    ("status", "words", "kind", "body"),
    [
        (422, "The content type is neither", "text/plain", b"x"),
        (422, "The content type is neither", "", b"x"),
        (422, "The form is not understood", "multipart/form-data", b"x"),
        (422, "There is no image", "multipart/form-data; boundary=x", b"--x--\r\n"),
        (422, "The body is no JSON", "application/json", b"{"),
        (422, "The body is no JSON", "application/json", b"[" * 100_000),
        (422, 'The body is not {"images"', "application/json", b'{"images": "/etc/passwd"}'),
        (422, "An image is not encoded as base64", "application/json", b'{"images": ["/etc/passwd"]}'),
        (422, "An image is not encoded as base64", "application/json", b'{"images": ["http://127.0.0.1/"]}'),
        (422, "top_k is no number", "application/json", b'{"images": ["AAAA"], "top_k": 0}'),
        (422, "top_k is no number", "application/json", b'{"images": ["AAAA"], "top_k": [1]}'),
        (413, "There are 4 images; send at most 3 at a time.", "application/json", b'{"images": ["", "", "", ""]}'),
    ],
)
def test_a_request_that_is_none(server: Served, status, words, kind, body):
    answer = server.ask("POST", "/v1/classify", body, **({"Content_Type": kind} if kind else {}))
    assert answer.status == status and answer.json["error"].startswith(words)


def test_too_many_files_of_a_form(server: Served):
    answer = server.send(*((f"{row}.png", b"") for row in range(9)))
    assert answer.status == 413 and "Too many files" in answer.json["error"]


def test_who_sends_too_much_without_a_length_gets_the_answer_too(server: Served):
    chunks = iter([bytes(100_000)] * 80)
    answer = server.ask("POST", "/v1/classify", chunks, Transfer_Encoding="chunked", Content_Type="application/json")
    assert answer.status == 413


def test_what_never_ends_is_cut_off(server: Served, monkeypatch):
    monkeypatch.setattr("hf_finetune.serving.app._MOST_DISCARDED", 1_000_000)
    chunks = iter([bytes(100_000)] * 400)
    with pytest.raises(OSError):  # the server has answered and closed while the client still sends
        server.ask("POST", "/v1/classify", chunks, Transfer_Encoding="chunked", Content_Type="application/json")


@pytest.mark.slow
def test_a_slow_client_is_sent_away(server: Served):
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\nabc")
        slow.settimeout(60)
        assert b" 408 " in slow.recv(4096).split(b"\r\n")[0]


def test_requests_beyond_the_queue_are_told_to_come_again(classifier):
    with served(classifier, Limits(max_queue=1, timeout=20)) as small:
        with socket.create_connection(("127.0.0.1", small.port)) as first:
            first.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\nabc")
            answer = small.send(("a.png", encoded(700, 700)))  # longer than what sockets hold
            while answer.status == 200:  # the first has not arrived yet
                time.sleep(0.01)
                answer = small.send(("a.png", encoded(700, 700)))
        assert answer.status == 429 and answer.headers["retry-after"] == "1"


def test_a_model_that_fails_loses_one_batch_and_not_the_server(classifier, monkeypatch):
    with served(classifier, Limits()) as running:
        with monkeypatch.context() as patch:
            patch.setattr(Classifier, "probabilities", lambda *_: 1 / 0)
            answer = running.send(("a.png", encoded(16, 16)))
        assert answer.status == 503 and answer.json["error"].startswith("The model failed")
        assert running.send(("a.png", encoded(16, 16))).status == 200


@pytest.mark.slow
def test_a_slow_model_is_answered_for(classifier, monkeypatch):
    own = Classifier.probabilities
    with served(classifier, Limits(timeout=1)) as running:
        with monkeypatch.context() as patch:
            patch.setattr(Classifier, "probabilities", lambda *words: time.sleep(1.5) or own(*words))
            answer = running.send(("a.png", encoded(16, 16)))
        assert answer.status == 503 and "took longer than 1 s" in answer.json["error"]


def test_the_page_loads_nothing_from_elsewhere_and_no_other_file_is_served(server: Served):
    page = server.ask("GET", "/")
    assert page.status == 200 and b"http" not in page.body
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    for name in ("page.css", "page.js", "icon.svg"):
        assert server.ask("GET", f"/static/{name}").status == 200
    for path in ("/static/page.html", "/static/..%2fapp.py", "/static/../../app.py", "//etc/passwd", "/docs", "/redoc"):
        answer = server.ask("GET", path)
        assert answer.status == 404 and answer.json == {"error": "Not Found."}
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert server.ask("GET", "/healthz").json == {"status": "ok"}
    assert server.ask("GET", "/", Host="evil.example").status == 400
    described = server.ask("GET", "/openapi.json").json["paths"]["/v1/classify"]["post"]
    assert set(described["responses"]) == {"200", "408", "413", "422", "429", "503"}
    assert set(described["requestBody"]["content"]) == {"multipart/form-data", "application/json"}


def test_names_of_classes_are_those_of_the_model(server: Served):
    answer = server.send(("<i>a</i>.png", encoded(16, 16)), top_k="99")
    assert set(classes(answer.json["images"][0])) == set(NAMES)
