"""The page in headless Chromium: what is seen, by eye, hand, keyboard and screen reader.

Needs Debian's Chromium and the npm packages of `tests/clients`; without one the tests are skipped.
"""

import json
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="needs uvicorn: the extra page brings it")

from emoguard.policy.policy import Policy
from tests.clients.serving import serving
from tests.plugins.page import scripted
from tests.plugins.page.test_page import Served
from tests.support.wire import body, call, start

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
PACKAGES = HERE.parents[1] / "clients" / "node_modules"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def command():
    """Return the command that drives the page, without its last arguments."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed: the page's tests in a browser need version 20 or later")
    missing = [name for name in ("playwright-core", "axe-core") if not (PACKAGES / name).is_dir()]
    if missing:
        pytest.skip(f"{missing[0]} is not installed: npm ci in tests/clients")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    return ["node", str(HERE / "browser.mjs"), path]


class Server:
    """A scripted server on one port, which can be stopped and started again."""

    def __init__(self, policy=scripted.CURVES, wrap=lambda page: page, **options):
        self._policy, self._wrap, self._options = policy, wrap, options
        self.port = 0
        self.start()

    def start(self):
        self.app, self.watch, self.traffic = scripted.watched(self._policy)
        self._closing = threading.Event()
        is_open = lambda: not self._closing.is_set()  # noqa: E731
        page = scripted.page(self.app, self.watch, is_open=is_open, **self._options)
        self._serving = serving(self._wrap(page), self.port)
        self._up = self._serving.__enter__()
        self.port = self._up.port

    def stop(self):
        self._closing.set()
        self.app.go.set()
        self._serving.__exit__(None, None, None)
        self.watch.detach()
        self.watch.guard.close()

    def kill(self):
        """Stop as a process that dies does: no stream is told."""
        self._up.drop()
        self.stop()

    # What a scenario may ask for.

    def traffic_comes(self):
        """Answer twelve requests of clients."""
        page = Served(self.app, self.watch, self.traffic).page
        for n in range(12):
            content = {"messages": [{"role": "user", "content": f"the secret of {n}"}]}
            call(page, content | {"stream": True})
        assert self.watch.guard.flush()

    def begin(self):
        """Let a client's answer begin, and go no further."""
        page = Served(self.app, self.watch, self.traffic).page
        content = {"messages": [{"role": "user", "content": "hold"}], "stream": True}
        self._client = threading.Thread(target=call, args=(page, content))
        self._client.start()

    def finish(self):
        self.app.go.set()
        self._client.join(60)

    def settled(self):
        """Check that the answer which was stopped is closed."""
        self.app.go.set()
        self.app.idle.acquire(timeout=60)
        assert self.watch.sessions.now() == []


@pytest.fixture
def drive(command):
    """Return a function that runs a scenario on a server and returns what was found."""
    servers = []

    def run(scenario, folder="", **options):
        server = Server(**options)
        servers.append(server)
        url = f"http://127.0.0.1:{server.port}/emoguard/"
        wishes = {
            "traffic": server.traffic_comes,
            "begin": server.begin,
            "finish": server.finish,
            "kill": server.kill,
            "start": server.start,
            "settled": server.settled,
        }
        actual = converse([*command, url, scenario, str(folder)], wishes)
        assert actual.pop("errors") == []
        assert actual.pop("hosts") == [f"http://127.0.0.1:{server.port}"]
        return actual

    yield run
    for server in servers:
        server.stop()


def converse(command, wishes):
    """Run a driver, do what it asks for, and return what it found."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    results, timer = {}, threading.Timer(300, process.kill)
    timer.start()
    try:
        for line in process.stdout:
            data = json.loads(line)
            if "ask" in data:
                wishes[data["ask"]]()
                process.stdin.write("done\n")
                process.stdin.flush()
            else:
                results[data["name"]] = data["value"]
        assert process.wait(30) == 0, process.stderr.read()[-4000:]
    finally:
        timer.cancel()
        process.kill()
        process.communicate()
    return results


def test_an_answer_is_seen_heard_and_explored(drive):
    page = drive("chat")
    assert page["text"] == scripted.STORY
    assert page["shaded"] > 10
    assert "It is not a feeling" in page["welcome"]
    assert "You are not communicating with a human" in page["notice"]
    assert "start, eu_art50" in page["notice"]
    assert page["label"] != "valence"
    assert page["other shades"]
    assert "above" in page["detail"]
    assert "of neutral answers" in page["detail"]
    assert "▲" in page["crossed"]
    assert all(label in page["card"].replace("\n", " ") for label in scripted.LABELS[:3])
    assert page["card hides"]
    assert page["card by key"]
    assert page["announced"].startswith("down: sad ")
    assert page["numbers"] > 40
    assert page["axe"] == []
    assert page["fresh"] == 0


def test_sliders_steer_and_the_receipt_says_how_far(drive):
    page = drive("steering")
    assert page["asked"] == "happy +6 %"
    assert page["excess"] == "16 % of 10 % asked for: the policy refuses more, lower a slider"
    receipt = page["receipt"].replace("\n", " ")
    for words in (
        "happy +6 %",
        "4 % of the state",
        "the bound is 10 %",
        "clipped 6 tokens",
    ):
        assert words in receipt
    assert "Software adjusted the emotional tone" in page["notice"]
    assert page["headings"] == ["Steered: happy +6 %", "The same, unsteered"]
    assert page["compared"] == 1
    assert page["axe"] == page["axe after"] == []


def test_texts_of_others_are_shown_as_plain_text(drive):
    page = drive("attack")
    assert page["text"].startswith("<script>alert(1)</script><b>bold</b> ␛[31m")
    assert page["text"].endswith("\ufffdgnihton␀ end")
    assert page["made"] == page["operator made"] == 0
    assert page["label"].startswith(scripted.HOSTILE)
    assert "<i>few</i> texts" in page["caution"]


def test_the_operator_sees_numbers_and_no_text(drive):
    page = drive("operator")
    assert "responses 12" in page["tiles"].replace("\n", " ")
    assert "notices given 12" in page["tiles"].replace("\n", " ")
    assert page["labels"] == ["happy", "sad", scripted.HOSTILE, "valence"]
    assert page["marks"] == "12 responses, 12 of them crossed the threshold"
    assert page["evidence"].startswith("rate evidence for happy: 0.")
    assert "warning: rate, sad" in page["alert"]
    assert "EmoGuardRateExceeded" in page["alert"]
    assert "could not be loaded (status 503)" in page["no runbook"]
    assert "What it means." in page["runbook"]
    assert "arl_responses" in page["runbook"]
    assert "secret" not in page["page text"]
    assert "10 tokens so far" in page["open"]
    assert page["axe"] == page["axe in runbook"] == []


def test_scores_of_other_peoples_open_answers_want_the_policys_word(drive):
    page = drive("operator", policy=scripted.POLICY)
    assert "The policy keeps scores of other people" in page["open"]


def test_after_a_restart_the_page_explains_and_reconnects(drive):
    page = drive("reconnect")
    assert page["broken"].startswith("The connection broke before the answer was complete")
    assert scripted.STORY.startswith(page["kept"].strip())
    assert page["back"].strip() == "the server was restarted; connected again"
    assert page["answers"] == 3


def test_stopping_ends_the_answer_on_the_server_too(drive):
    page = drive("stop")
    assert page["stopped"] == "Stopped."
    assert page["again"]


def test_a_new_conversation_has_nothing_of_the_answer_that_was_running(drive):
    assert drive("fresh")["messages"] == [{"role": "user", "content": "Hi"}]


def test_two_viewers_see_the_same_and_one_may_leave(drive):
    assert drive("two")["rows"] == 1


def test_a_thousand_tokens_are_all_there(drive):
    page = drive("long")
    assert page["tokens"] == 1000
    assert page["text"] > 4000


def test_the_key_is_asked_for_until_it_is_right(drive):
    page = drive("key", api_key="secret")
    assert page["wrong"] == "The server did not take that key."
    assert page["text"] == scripted.STORY
    assert page["axe"] == []


def test_light_dark_and_a_phone_are_readable(drive, tmp_path):
    page = drive("looks", folder=tmp_path)["found"]
    assert len(page) == 8
    assert [each for each in page if each[1:] != [[], False]] == []
    assert len(list(tmp_path.glob("*.png"))) == 8


def held_back(page):
    """Put a proxy in front that hands on an answer of five seconds in one piece."""

    async def app(scope, receive, send):
        if scope["path"] != "/emoguard/answer":
            await page(scope, receive, send)
            return
        frames = [{"at": 0, "spans": [["Hel"]]}, {"at": 5000, "spans": [["lo"]]}]
        end = {"report": None, "notice": None, "error": None, "finish": "stop"}
        events = [*(("frame", frame) for frame in frames), ("end", end)]
        text = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events)
        await send(start())
        await send(body(text.encode()))

    return app


def test_a_proxy_that_buffers_is_named_and_a_policy_without_plans(drive):
    page = drive("refused", policy=Policy(), wrap=held_back)
    assert "the policy does not let requests steer (requests.plan)" in page["steering"]
    (words,) = page["held back"]
    assert "took 5.0 s and arrived all at once: a proxy" in words
    assert page["empty"] == "There is nothing to answer yet: write something first."
