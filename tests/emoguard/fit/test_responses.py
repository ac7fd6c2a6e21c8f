import numpy as np
import pytest

from emoguard import EmoGuardError
from emoguard.fit.responses import (
    Sampling,
    calibrate,
    first_half,
    groups,
    responses,
    whole_groups,
)
from emoguard.runtime.speaker import Generated
from emoguard.testing import FakeResiduals, FakeSpeaker, make_probe
from emoguard.validate.agreement import read_z

DOOR = FakeResiduals()
PROBE = make_probe(DOOR)


def answers(count, tokens=12):
    rng = np.random.default_rng(1)
    return [
        Generated([1, *rng.integers(2, 500, 5).tolist()], rng.integers(2, 500, tokens).tolist())
        for _ in range(count)
    ]


def test_calibration_summarises_the_rows_the_tokens_were_chosen_from():
    generated = answers(10)
    calibration = calibrate(DOOR, PROBE, generated)
    rows = np.concatenate(
        [
            PROBE.project(DOOR.residuals(a.prompt_ids + a.token_ids, PROBE.layers))[5:-1]
            for a in generated
        ]
    )
    assert calibration.tokens == len(rows) == 120
    assert np.allclose(calibration.location, rows.mean(axis=0), atol=1e-5)
    assert np.allclose(calibration.scale, rows.std(axis=0), atol=1e-5)
    assert calibration.identity == DOOR.identity


def test_reference_norms_are_medians_over_answer_tokens():
    generated = answers(10)
    rows = np.concatenate(
        [DOOR.residuals(a.prompt_ids + a.token_ids, PROBE.layers)[:, 5:-1] for a in generated],
        axis=1,
    )
    wanted = np.median(np.linalg.norm(rows, axis=2), axis=1)
    assert np.allclose(calibrate(DOOR, PROBE, generated).norms, wanted)


def test_limits_are_quantiles_of_the_projection_on_the_steer_direction():
    generated = answers(10)
    rows = np.concatenate(
        [DOOR.residuals(a.prompt_ids + a.token_ids, PROBE.layers)[:, 5:-1] for a in generated],
        axis=1,
    )
    limits = calibrate(DOOR, PROBE, generated).limits
    for n in range(len(PROBE.layers)):
        along = np.sort(rows[n] @ PROBE.steer[n].T, axis=0)
        assert np.allclose(limits[n, 0], along[0], rtol=1e-4)
        assert np.allclose(limits[n, -1], along[-1], rtol=1e-4)
        assert np.allclose(limits[n, 50], np.median(along, axis=0), rtol=1e-4)


def test_rows_at_an_attention_sink_are_in_no_calibration():
    rng = np.random.default_rng(2)
    generated = [Generated([7], [7, 7, *rng.integers(20, 500, 12).tolist()]) for _ in range(10)]
    rows = [
        PROBE.project(DOOR.residuals([7, *a.token_ids[:-1]], PROBE.layers)[:, 3:])
        for a in generated
    ]
    calibration = calibrate(DOOR, PROBE, generated)
    assert calibration.tokens == 10 * 11
    assert np.allclose(calibration.location, np.concatenate(rows).mean(axis=0), atol=1e-5)
    z = read_z(DOOR, PROBE, None, generated, PROBE.labels)
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(z, rows, strict=True))
    only = [Generated([7], [7] * 12)] * 5
    assert calibrate(DOOR, PROBE, [*generated, *only]).responses == 10


def test_short_answers_are_left_out_and_too_few_are_refused():
    mixed = answers(9) + answers(5, tokens=3)
    assert calibrate(DOOR, PROBE, mixed).responses == 9
    with pytest.raises(EmoGuardError, match="at least 8"):
        calibrate(DOOR, PROBE, answers(7))
    with pytest.raises(EmoGuardError, match="got none among 0"):
        calibrate(DOOR, PROBE, [])


def test_first_half_keeps_at_least_four_words():
    assert first_half("a b c d e f g h i j") == "a b c d e"
    assert first_half("a b c d e") == "a b c d"


class Group(FakeSpeaker):
    """Responds to four prompts at once; what each gets depends on the group."""

    together = 4

    def __init__(self):
        super().__init__()
        self.groups = []

    def respond_together(self, prompts):
        self.groups.append([prompt.seed for prompt in prompts])
        return [
            Generated([number], [prompts[0].seed, len(prompts)])
            for number, prompt in enumerate(prompts)
        ]


def test_prompts_are_answered_in_groups_that_do_not_depend_on_the_start():
    prompts = [f"Question {n}" for n in range(10)]
    speaker = Group()
    whole = list(responses(speaker, prompts, Sampling(8)))
    assert speaker.groups == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(whole) == 10
    for start in range(11):
        rest = list(groups(Group(), prompts, Sampling(8), start=start))
        assert [each for group in rest for each in group] == whole[start:]
        assert [len(group) for group in rest[1:-1]] == [4] * len(rest[1:-1])


def test_a_group_is_not_asked_before_it_is_wanted():
    speaker = Group()
    source = responses(speaker, [f"Question {n}" for n in range(10)], Sampling(8))
    for _ in range(4):
        next(source)
    assert speaker.groups == [[0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("wanted", "done", "made"), [(3, 0, 4), (4, 0, 4), (5, 4, 4), (9, 4, 6), (4, 4, 0), (3, 8, 0)]
)
def test_what_is_made_for_a_number_of_responses_is_counted_in_groups(wanted, done, made):
    prompts = [f"Question {n}" for n in range(10)]
    assert whole_groups(Group(), wanted, done, len(prompts)) == made
    written = 0
    for group in groups(Group(), prompts, Sampling(8), start=done):
        if done + written >= wanted:
            break
        written += len(group)
    assert written == made
