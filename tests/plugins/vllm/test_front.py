"""What enters an engine: whose requests are granted what. No engine is started here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from emoguard_vllm.front import Front, RefusedError

from emoguard import Guard, Policy, Request
from emoguard.policy.policy import RequestPolicy
from emoguard.runtime.session import REQUEST
from emoguard.runtime.sessions import OpenSessions
from emoguard.testing import FakeJoint, FakeModel, FakeResiduals, make_probe, measure_calibration

pytestmark = pytest.mark.engines("eager")

DOOR = FakeResiduals()
PROBE = make_probe(DOOR)
CALIBRATION = measure_calibration(DOOR, PROBE)
PLAN = {"add": {"sad": 0.05}}


class Entering:
    """A front end, and the way into it."""

    def __init__(self, policy: Policy) -> None:
        guard = Guard(PROBE, [CALIBRATION], policy)
        self.sessions = OpenSessions(guard, FakeJoint(FakeModel(DOOR)))
        engine: Any = SimpleNamespace(layout=SimpleNamespace(slots=4), runs_ahead=False)
        self.front = Front(engine, self.sessions, lambda _: None, lambda: None)

    def enter(self, own: Any, around: Request | None = None, name: str = "r") -> Any:
        """Let a request in, with `own` in its parameters; return its session, None if unread."""
        asked = SimpleNamespace(
            request_id=name,
            external_req_id=name,
            sampling_params=SimpleNamespace(extra_args={"emoguard": own}),
            prompt_token_ids=[5, 6],
            lora_request=None,
            resumable=False,
            cache_salt=None,
        )
        token = REQUEST.set(around)
        try:
            self.front._add_request(lambda *_: None, asked, None)
        finally:
            REQUEST.reset(token)
        opened = self.sessions.now()
        return opened[-1] if opened else None


@pytest.mark.parametrize("own", [{"plan": PLAN}, '{"plan": {"add": {"sad": 0.05}}}'])
def test_a_client_of_a_server_gets_what_the_policy_allows_in_any_form(own: Any) -> None:
    around = Request("r", carrier="server")
    session = Entering(Policy()).enter(own, around)
    assert (session.steering, session.request.denied) == (None, ("plan",))
    assert (session.request.carrier, session.request.id) == ("server", "r")
    granted = Entering(Policy(requests=RequestPolicy(plan=True))).enter(own, around)
    assert granted.steering.plan.as_dict()["add"] == PLAN["add"]


@pytest.mark.parametrize("own", [{"carrier": "process"}, {"id": "another's"}, [PLAN], 3, "\ud800"])
def test_what_no_client_may_ask_for_is_refused(own: Any) -> None:
    with pytest.raises(RefusedError):
        Entering(Policy()).enter(own, Request(carrier="server"))


def test_code_in_this_process_needs_no_permission() -> None:
    entering = Entering(Policy())
    assert entering.enter({"plan": PLAN, "id": "mine"}).request.id == "mine"
    own = Request("whole", plan=PLAN)
    session = entering.enter(own, Request(carrier="server"), "another")
    assert (session.request.id, session.steering is None) == ("whole", False)


def test_a_client_cannot_pass_for_the_door() -> None:
    session = Entering(Policy()).enter(None, Request(carrier="server"), "emoguard-door-1-2-")
    assert session is not None
