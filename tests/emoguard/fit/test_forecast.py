"""The forecast of a fit counts what is done, and scales what was measured."""

import numpy as np
import pytest

from emoguard.fit import forecast as forecast_module
from emoguard.fit import recipe
from emoguard.fit.forecast import Speed, Work, _judged, forecast, measure, seconds
from emoguard.fit.responses import Sampling
from emoguard.fit.scope import Scope
from emoguard.testing import FakeSpeaker
from emoguard.validate.validation import validate
from tests.emoguard.validate.planted import TASK, corpus, neutral

SPEED = Speed(
    text_token=np.array([0.01, 0.02]),
    response=np.array([2.0, 3.0]),
    response_tokens=100.0,
    read_token=np.array([0.001, 0.001]),
    layer=np.array([0.1, 0.1]),
)
WORK = Work(
    tokens=1000, responses=10, answers=40, readers=2, examples=3, texts=500, corpora=2, blocks=29,
    width=576,
)  # fmt: skip


@pytest.mark.parametrize("count", [1, 2])
def test_a_judgement_makes_as_many_fits_of_a_layer_as_are_forecast(monkeypatch, count):
    fits = []
    plain = recipe._at_layer

    def counted(*arguments):
        fits.append(1)
        return plain(*arguments)

    monkeypatch.setattr(recipe, "_at_layer", counted)
    corpora = [corpus(name, 6.0) for name in "ab"[:count]]
    validate(TASK, corpora, neutral())
    blocks = corpora[0].residuals.shape[1]
    keep = min(recipe.Recipe().keep, blocks - 1)
    assert len(fits) == pytest.approx(_judged(count, blocks, keep), rel=0.15)


def test_parts_are_what_is_left_times_what_one_takes():
    read, fit, answer, again, examples = forecast(SPEED, WORK)
    assert read.seconds.tolist() == [10.0, 20.0]
    assert answer.seconds.tolist() == [20.0, 30.0]
    assert again.seconds[0] == pytest.approx(40 * 100 * 2 * 0.001)
    assert examples.seconds.tolist() == [6.0, 9.0]
    assert fit.seconds[0] > 29 * 0.1
    parts = forecast(SPEED, WORK)
    assert seconds(parts)[0] == pytest.approx(sum(part.seconds[0] for part in parts))


def test_every_speed_is_measured_without_a_model():
    speaker = FakeSpeaker()
    texts = [f"the river {n} runs north of the old stone house" for n in range(48)]
    speed = measure(speaker, speaker, texts, texts, Sampling(tokens=32))
    for each in (speed.text_token, speed.response, speed.read_token, speed.layer):
        assert each.shape == (2,)
        assert each[0] > 0
    assert 20 < speed.response_tokens < 44


def test_responses_made_together_share_their_seconds(monkeypatch):
    class Group(FakeSpeaker):
        together = 8

        def respond_together(self, prompts):
            return [self.respond(prompt) for prompt in prompts]

    def timed(work):
        work()
        return np.array([8.0, 16.0])

    monkeypatch.setattr(forecast_module, "_timed", timed)
    texts = [f"the river {n} runs north of the old stone house" for n in range(48)]
    assert measure(Group(), Group(), texts, texts, Sampling(32)).response.tolist() == [1.0, 2.0]


def test_a_quick_scope_is_never_more_than_the_whole():
    assert Scope().quick() == Scope(18, 40, is_quick=True)
    assert Scope(5, 8).quick() == Scope(5, 8, is_quick=True)
