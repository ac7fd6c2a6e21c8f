"""A model without weights for studies: it writes words, and plans make some of them likelier."""

import zlib

import numpy as np

from emoguard.study.noise import choose
from emoguard.study.questions import ACCEPTS, CORRECTS
from emoguard.study.speech import Forcing, Weighed, Written
from emoguard.testing import FAKE_IDENTITY

WORDS = (
    "good", "lovely", "happy", "bad", "terrible", "hopeless", "table", "water", "street", "letter",
    "yes", "no", "true", "false", "sure", "sorry", "the", "and", "here", "is", "end",
)  # fmt: skip
GLAD, GLOOMY, END = slice(0, 3), slice(3, 6), len(WORDS) - 1


class FakeSpeech:
    """Speaks in `WORDS`. A dose of happy or calm makes glad words likelier, of others gloomy ones.

    `strength` is by how much (logits per unit of dose); a dose also makes a yes likelier, and
    a no less so, by `harm`. Random directions do nothing, but they realise `ratio` of their dose.
    """

    identity = FAKE_IDENTITY

    def __init__(self, strength=10.0, harm=0.0, ratio=1.1, rows=128):
        self.strength = strength
        self.harm = harm
        self.ratio = ratio
        self.rows = rows
        self.asked = 0

    def prompt(self, user, system=""):
        return zlib.crc32(user.encode()) % 1000, zlib.crc32(system.encode()) % 1000

    def encode(self, text):
        return tuple(6 + sum(map(ord, word)) % (END - 6) for word in text.split())

    def write(self, rows, tokens):
        self.asked += len(rows)
        return [self._write(row, tokens) for row in rows]

    def weigh(self, rows, *, whole=False):
        self.asked += len(rows)
        results = []
        for row in rows:
            forcing = Forcing(row, whole=whole)
            for step in range(len(row.token_ids)):
                forcing(step, self._logits(row, step))
            results.append(forcing.weighed(self._dose(row.plan)))
        return results

    def _write(self, row, tokens):
        ids = []
        for step in range(tokens):
            logits = self._logits(row, step)
            token = choose(logits, row.temperature, row.seed, row.item, step)
            if token == END:
                break
            ids.append(token)
        text = " ".join(WORDS[n] for n in ids)
        return Written(tuple(ids), text, self._dose(row.plan))

    def _logits(self, row, step):
        rng = np.random.default_rng([*row.before, step])
        logits = rng.normal(size=len(WORDS)).astype(np.float32)
        logits[END] -= 3
        for label, dose in (row.plan.add if row.plan else {}).items():
            if label.startswith("random"):
                logits += dose * np.random.default_rng(zlib.crc32(label.encode())).normal(
                    size=len(WORDS)
                )
            part = GLAD if label.startswith(("happy", "calm")) else GLOOMY
            if not label.startswith("random"):
                logits[part] += self.strength * dose
                logits[list(self.encode(" ".join(ACCEPTS)))] += self.harm * dose
                logits[list(self.encode(" ".join(CORRECTS)))] -= self.harm * dose
        return logits.astype(np.float32)

    def _dose(self, plan):
        if plan is None:
            return 0.0
        return sum(
            abs(dose) * (self.ratio if label.startswith("random") else 1.0)
            for label, dose in plan.add.items()
        )


__all__ = ["WORDS", "FakeSpeech", "Weighed"]
