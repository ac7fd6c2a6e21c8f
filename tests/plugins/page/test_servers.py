"""The page in front of llama_cpp.server and of `transformers serve`."""

import pytest

pytest.importorskip("fastapi", reason="needs llama_cpp.server: the extra serve brings it")

from emoguard_asgi import EmoGuardMiddleware
from emoguard_llamacpp import server
from emoguard_page import Page, Traffic
from emoguard_page.completion import Completion

import emoguard
from emoguard import Guard, Policy
from emoguard.policy.policy import RequestPolicy
from emoguard.runtime.attach import find, shipped
from emoguard.testing import make_probe, measure_calibration
from tests.plugins.page.test_page import ANSWER, LIVE, OPERATOR, Served
from tests.support import models, tiny_folder, tiny_gguf
from tests.support.wire import CHAT, call

POLICY = Policy(requests=RequestPolicy(plan=True))
ASKED = {"max_tokens": 12, "temperature": 0, "seed": 1}


def tiny(folder):
    """Return llama_cpp.server's app around a tiny random model, and a guard of it."""
    path = tiny_gguf.write(folder / "tiny.gguf", "llama")
    served = opened(path)
    plugin, inner = find(served.model)
    door = plugin.open_residuals(inner)
    probe = make_probe(door, ("happy", "sad"), (1, 2))
    return served, (probe, [measure_calibration(door, probe)])


def real(_folder):
    """Return the same around SmolLM2, with its shipped probe."""
    served = opened(models.smollm2_gguf())
    plugin, inner = find(served.model)
    guard = shipped(plugin.open_residuals(inner))
    return served, (guard.probe, guard.calibrations)


def opened(path):
    settings, model = server.read_model(str(path), n_ctx=512, n_threads=1)
    settings.api_key = None
    return server.open_app(settings, model)


def one_by_one(folder, batch=None):
    """Return the app of `transformers serve` around a tiny random model, and a guard of it."""
    serve = pytest.importorskip(
        "emoguard_transformers.server", reason="needs the extra serve-transformers"
    )
    path = tiny_folder.write(folder / "tiny")
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
    (path / "chat_template.jinja").write_text(template)
    batch = batch and serve.batching(**batch)
    served = serve.open_app(path, device="cpu", dtype="float32", batch=batch)
    plugin, model = find(served.model)
    door = plugin.open_residuals(model, **served.options)
    probe = make_probe(door, ("happy", "sad"))
    return served, (probe, [measure_calibration(door, probe)])


def in_a_batch(folder):
    """Return the same with continuous batching."""
    return one_by_one(folder, {"num_blocks": 64, "max_batch_tokens": 64})


SERVERS = {
    "llama.cpp": tiny,
    "SmolLM2": real,
    "transformers": one_by_one,
    "transformers, in a batch": in_a_batch,
}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(make, marks=[pytest.mark.real] if make is real else [], id=name)
        for name, make in SERVERS.items()
    ],
)
def served(request, tmp_path_factory):
    app, measured = request.param(tmp_path_factory.mktemp("page"))
    traffic = Traffic()
    guard = Guard(*measured, POLICY, [traffic])
    watch = emoguard.attach(app.model, guard, **app.options)
    served = Served(app.app, watch, traffic)
    served.page = Page(EmoGuardMiddleware(app.app, watch), watch)
    yield served
    watch.detach()
    guard.close()
    app.stop()  # a batch has a thread that would keep the process
    if hasattr(app.model, "close"):
        app.model.close()


def test_every_token_of_an_answer_has_its_reading_and_the_text_is_the_servers(served):
    spans, end = served.say("Tell me about a bicycle.", **ASKED)
    report = served.watch.reports[-1]
    read = [span for span in spans if len(span) > 1]
    assert end["error"] is None
    assert len(read) == report.completion_tokens == end["report"]["completion_tokens"]
    for (_, z, _), token in zip(read, report.tokens, strict=True):
        assert z == (None if token.attention_sink else pytest.approx(token.z, abs=0.001))
    content = {"messages": [{"role": "user", "content": "Tell me about a bicycle."}]}
    headers = [(b"content-type", b"application/json")]
    completion = Completion()
    asked = content | ASKED | {"stream": True}
    for message in call(served.page, asked, path=CHAT, headers=headers).sent:
        completion.take(message)
    assert "".join(text for text, *_ in spans) == completion.text


def test_a_plan_is_bounded_and_has_its_receipt(served):
    label = served.watch.site.read[0]
    _, end = served.say("Hi", **ASKED, emoguard={"plan": {"add": {label: 0.05}}})
    receipt = end["report"]["receipt"]
    assert receipt["applied"] > 0
    assert 0 < receipt["dose_max"] <= receipt["bound"]


def test_the_operators_view_has_the_answers(served):
    served.say("Hi", **ASKED)
    assert served.watch.guard.flush()
    events = dict(served.events(LIVE, query=OPERATOR, leave_after=8))
    assert events["responses"][-1]["id"] == served.watch.reports[-1].id


def test_an_error_of_the_server_is_said(served):
    end = served.events(ANSWER, {"messages": "no list", "max_tokens": 2})[-1][1]
    assert end["error"]
    assert end["report"] is None
