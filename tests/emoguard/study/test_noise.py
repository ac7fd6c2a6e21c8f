import numpy as np
import pytest

from emoguard.study.noise import TOP_P, choose, gumbel, nucleus


def test_noise_depends_on_seed_item_and_step_alone():
    assert np.array_equal(gumbel(1, 2, 3, 50), gumbel(1, 2, 3, 50))
    for other in (gumbel(2, 2, 3, 50), gumbel(1, 3, 3, 50), gumbel(1, 2, 4, 50)):
        assert not np.array_equal(gumbel(1, 2, 3, 50), other)
    assert np.isfinite(gumbel(0, 0, 0, 200_000)).all()


def test_items_and_steps_never_share_noise():
    pairs = [(item, step) for item in (0, 1, 2**32 - 1) for step in (0, 1, 1023)]
    drawn = {gumbel(0, item, step, 8).tobytes() for item, step in pairs}
    assert len(drawn) == len(pairs)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_draws_follow_the_distribution_at_their_temperature(temperature):
    logits = np.log(np.array([0.5, 0.3, 0.19, 0.01]))
    wanted = np.exp(logits / temperature)
    wanted /= wanted.sum()
    kept = nucleus(logits, temperature)
    wanted = np.where(np.isin(np.arange(4), kept), wanted, 0)
    wanted /= wanted.sum()
    drawn = [choose(logits, temperature, 0, 7, step) for step in range(4000)]
    shares = np.bincount(drawn, minlength=4) / 4000
    assert np.abs(shares - wanted).max() < 0.03


def test_at_no_temperature_the_likeliest_is_taken():
    assert choose(np.array([0.1, 3.0, 0.2]), 0, 0, 0, 0) == 1


def test_a_nucleus_holds_its_mass_and_no_token_more():
    rng = np.random.default_rng(0)
    for scale in (0.1, 1.0, 8.0):
        logits = rng.normal(size=20_000) * scale
        kept = nucleus(logits, 1.0)
        chances = np.exp(logits - logits.max())
        chances /= chances.sum()
        assert chances[kept].sum() >= TOP_P
        assert chances[kept[:-1]].sum() < TOP_P
        assert chances[kept].min() >= np.delete(chances, kept).max()


def test_the_same_noise_makes_near_distributions_choose_alike():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=500) * 2
    moved = logits + 0.05 * rng.normal(size=500)
    same = [choose(logits, 1.0, 0, 1, n) == choose(moved, 1.0, 0, 1, n) for n in range(300)]
    apart = [choose(logits, 1.0, 0, 1, n) == choose(moved, 1.0, 1, 1, n) for n in range(300)]
    assert np.mean(same) > 0.9
    assert np.mean(apart) < 0.2
