"""A watched server without a model: scripted tokens and readings, through the real watch and sinks.

Run as a program it serves the page on a free port, for a browser:
`python -m tests.plugins.page.scripted`.
"""

import asyncio
import json
import math
import re
import sys
import threading
from dataclasses import replace

import numpy as np
from emoguard_asgi import EmoGuardMiddleware
from emoguard_page import Page, Traffic
from emoguard_rate import RateMonitor

from emoguard import Guard, Policy
from emoguard.notices.policy import NoticePolicy
from emoguard.policy.policy import PagePolicy, RequestPolicy
from emoguard.records import Request
from emoguard.runtime.session import REQUEST
from emoguard.runtime.watch import Watch
from emoguard.sinks.policy import AlarmPolicy
from emoguard.testing import (
    FAKE_IDENTITY,
    FakeJoint,
    FakeModel,
    FakeResiduals,
    make_calibration,
    make_probe,
)
from tests.clients.serving import prompt_of, serving
from tests.support.wire import body, chunk, event, start

HOSTILE = "<img src=x onerror=alert(1)>"
LABELS = ("happy", "sad", "calm", HOSTILE, "valence")
POLICY = Policy(
    alarms=AlarmPolicy(window_tokens=16),
    requests=RequestPolicy(plan=True, conversation=True),
    notices=NoticePolicy(profiles=("eu_art50",)),
)
CURVES = replace(POLICY, page=PagePolicy(curves=True))

STORY = (
    "I am so sorry. Losing a friend who shared your home for years leaves a quiet place in every "
    "room, and nothing has to be decided today. When you are ready, tell somebody who knew the cat "
    "one small thing that you will miss.\nWould you like to write it down together?"
)
ATTACK = [
    "<script>", "alert(1)", "</script>", "<b>bold</b>", " \x1b[31m", "\u202egnihton", "\x00", " end"
]  # fmt: skip

TELLING = re.findall(r"\s?\S+", STORY)
VOCABULARY = list(dict.fromkeys([*TELLING, *ATTACK]))


class Scripted:
    """An OpenAI-compatible app that commits scripted rows to a watch, a token at a time.

    What is said depends on the prompt: `long` has 1,000 tokens, `hold` waits after 10 for `go`,
    `break` ends without an end, `attack` says what a page must not take for HTML, anything else is
    a story in which `sad` rises over its threshold.
    """

    def __init__(self):
        self.watch = None
        self.go = threading.Event()
        self.idle = threading.Semaphore(0)
        """Counts the answers whose generation has ended."""
        self.asked = []

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        if scope["path"].endswith("/models"):
            await send(start("application/json"))
            await send(body(b'{"data": [{"id": "scripted"}]}'))
            return
        asked = json.loads((await receive())["body"])
        self.asked.append(asked)
        loop, queue = asyncio.get_running_loop(), asyncio.Queue()
        script = prompt_of(asked)
        request = REQUEST.get() or Request()

        def put(piece):
            loop.call_soon_threadsafe(queue.put_nowait, piece)

        thread = threading.Thread(target=self._generate, args=(request, script, put))
        thread.start()
        await send(start())
        while (piece := await queue.get()) is not None:
            await send(body(event(chunk(piece)), more=True))
        thread.join()
        if script != "break":
            await send(body(event(chunk(finish="stop")), more=True))
            await send(body(event("[DONE]")))

    def _generate(self, request, script, put):
        pieces = pieces_of(script)
        sessions = self.watch.sessions
        try:
            session = sessions.open(request, [len(VOCABULARY)])
            with sessions.closing(session, "stop"):
                for number, piece in enumerate(pieces):
                    if script == "hold" and number == 10:
                        assert self.go.wait(60)
                    move = None if session.steering is None else (0.04, number % 9 == 0, 0)
                    scores = row(number, script, session)
                    sessions.commit(session, VOCABULARY.index(piece), scores, move)
                    put(piece)
        finally:
            self.idle.release()
            put(None)


def pieces_of(script):
    """Return the tokens of a script."""
    if script == "attack":
        return ATTACK
    return (TELLING * 30)[:1000] if script == "long" else TELLING


def row(number, script, session):
    """Return the scores (labels,) of a token; under a plan `happy` is higher and `sad` lower."""
    wave = math.sin(number / 5)
    rng = np.random.default_rng(number)
    rises = 0.0 if script == "attack" else 2.4 * math.exp(-(((number - 24) / 12) ** 2))
    moved = 1.2 if session.steering is not None else 0.0
    z = [0.4 * wave + moved, rises - moved, -0.5 * wave, 0.1, -rises + 0.3 * wave + moved]
    return (np.array(z) + rng.normal(0, 0.45, len(LABELS))).astype(np.float32)


def watched(policy=POLICY, *, calibrated=True, kind=Traffic):
    """Return (scripted app, its watch, its traffic), with everything real but the model."""
    door = FakeResiduals()
    probe = make_probe(door, LABELS)
    card = {"verdicts": {"happy": "usable", "sad": "usable", "calm": "weak", HOSTILE: "usable"}}
    probe = replace(probe, axes=("valence",), card=card | {"cautions": ["<i>few</i> texts"]})
    known = [ordinary(probe)] if calibrated else []
    traffic = kind()
    site = Guard(probe, known, policy).site(FAKE_IDENTITY)
    rate = RateMonitor.from_policy(site, arl_responses=20)
    traffic.join([rate])
    guard = Guard(probe, known, policy, [rate, traffic])
    app = Scripted()
    joint = FakeJoint(FakeModel(door))
    joint.decode = lambda ids: "".join(VOCABULARY[n] for n in ids)
    app.watch = Watch(guard, joint)
    return app, app.watch, traffic


def ordinary(probe):
    """Return a calibration whose neutral answers have means from -0.9 to 0.9."""
    result = make_calibration(probe, FAKE_IDENTITY)
    return replace(result, means=result.means * 0.3)


def page(app, watch, **options):
    """Return the app that a browser talks to."""
    return Page(EmoGuardMiddleware(app, watch, api_key=options.get("api_key")), watch, **options)


def main(port):
    app, watch, _ = watched(CURVES)
    with serving(page(app, watch), port) as up:
        sys.stdout.write(f"{up.url}/emoguard/\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
