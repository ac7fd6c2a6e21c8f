"""Notices of Transformers models: the text comes from the tokenizer, where there is one."""

from __future__ import annotations

import pytest
import torch

import emoguard
from emoguard import Guard, Policy, Request
from emoguard.notices.policy import NoticePolicy
from tests.contract.hf_models import build
from tests.plugins.test_transformers import probe_for

POLICY = Policy(notices=NoticePolicy(profiles=("us_wa_2225",)))
IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])


class Tokenizer:
    """Makes the same sentence of any ids but those of the prompt."""

    chat_template = ""

    def __init__(self, sentence):
        self.sentence, self.seen = sentence, []

    def get_vocab(self):
        return {}

    def decode(self, ids, **options):
        self.seen.append((list(ids), options))
        return self.sentence


@pytest.fixture(scope="module")
def model():
    return build()


def generate(model, guard, tokenizer=None, **options):
    """Return what was generated, and its reports."""
    with emoguard.attach(model, guard, tokenizer=tokenizer) as watch:
        out = model.generate(IDS, max_new_tokens=4, min_new_tokens=4, do_sample=False, **options)
        return out[:, IDS.shape[1] :].tolist(), list(watch.reports)


def test_each_sequence_has_its_own_text_and_its_own_notice(model):
    tokenizer = Tokenizer("Trust me, I am human.")
    ids, reports = generate(model, Guard(probe_for(model), policy=POLICY), tokenizer)
    assert [report.notice.reasons for report in reports] == [("start", "claim")] * 2
    assert tokenizer.seen == [(row, {"skip_special_tokens": True}) for row in ids]


def test_without_a_tokenizer_timers_are_left(model):
    _, reports = generate(model, Guard(probe_for(model), policy=POLICY))
    assert [report.notice.reasons for report in reports] == [("start",)] * 2
    assert not any(report.faults for report in reports)


def warnings_at_attach(model, caplog, policy, tokenizer=None):
    """Return the warnings of an attach, but for that the random probe is not calibrated."""
    caplog.clear()
    generate(model, Guard(probe_for(model), policy=policy), tokenizer)
    messages = [record.message for record in caplog.records if record.name == "emoguard"]
    return [message for message in messages if "is not calibrated for" not in message]


def test_the_loss_of_notices_without_a_tokenizer_is_logged_once_at_attach(model, caplog):
    (message,) = warnings_at_attach(model, caplog, POLICY)
    assert "claims in a response are not found" in message
    assert "reasoning is not told apart" in message
    assert "tokenizer=" in message
    assert not warnings_at_attach(model, caplog, POLICY, Tokenizer("Yes."))
    assert not warnings_at_attach(model, caplog, Policy())


def test_sequences_of_one_conversation_are_turns_of_it(model):
    requests = [Request(conversation=name) for name in "aa"]
    _, reports = generate(model, Guard(probe_for(model), policy=POLICY), emoguard=requests)
    assert [report.notice is not None for report in reports] == [True, False]


def test_an_unread_response_still_has_its_notice(model):
    policy = Policy(notices=POLICY.notices, on_unsupported="skip")
    _, reports = generate(model, Guard(probe_for(model), policy=policy), num_beams=2)
    assert [report.status for report in reports] == ["skipped"]
    assert reports[0].notice.reasons == ("start",)


def test_a_generation_that_raises_loses_its_notice(model):
    def stop(ids, _scores):
        if ids.shape[1] > IDS.shape[1] + 1:
            raise ArithmeticError
        return torch.zeros(len(ids), dtype=torch.bool)

    guard = Guard(probe_for(model), policy=POLICY)
    with emoguard.attach(model, guard) as watch, pytest.raises(ArithmeticError):
        model.generate(IDS[:1], max_new_tokens=4, stopping_criteria=[stop])
    assert [report.notice.channel for report in watch.reports] == [None]
