"""Are the claim patterns right on text that nobody wrote for them?

    python benchmarks/claims.py GOEMOTIONS_DEV_TSV

320 Reddit comments are drawn from the development file of GoEmotions (Apache-2.0; not part of this
repository), of those that speak of an I or we. The author of the patterns labelled by hand which
of them would claim feelings or a human's life if software had written them, each half before the
patterns ran on it; the patterns were adjusted while looking at the first half. Prints one table.
"""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path

from emoguard.notices.claims import claims

FIRST_PERSON = re.compile(r"\b(i|i'm|i\u2019m|me|my|we|myself)\b")
HALF = 160
CLAIMS = frozenset(
    int(number)
    for number in """
    0 8 16 18 19 23 31 33 36 37 40 44 45 47 56 57 59 60 65 68 69 78 81 82 88 89 95 100 102 105
    107 115 125 126 133 134 144 154 163 167 169 173 177 181 186 195 199 200 204 207 209 212
    213 217 222 225 227 229 232 242 247 250 252 264 276 277 278 282 284 285 293 296 307 310
    311 313 314
    """.split()  # noqa: SIM905  (as a list it would take 77 lines)
)
"""Numbers of the drawn comments that are labelled as claims."""


def drawn(path: Path) -> list[str]:
    """Return the comments in the order in which they were labelled."""
    rows = [line.split("\t")[0] for line in path.read_text(encoding="utf-8").splitlines()]
    own = [text for text in rows if FIRST_PERSON.search(text.lower())]
    random.Random(0).shuffle(own)
    return own[: 2 * HALF]


def main() -> None:
    """Print the table."""
    comments = drawn(Path(sys.argv[1]))
    print("| comments | claims | flagged | precision | recall |\n|---|---|---|---|---|")
    for name, start in (("looked at", 0), ("held out", HALF)):
        numbers = range(start, start + HALF)
        wanted = {n for n in numbers if n in CLAIMS}
        claimed = {n for n in numbers if claims(comments[n])}
        right = len(wanted & claimed)
        print(
            f"| {HALF}, {name} | {len(wanted)} | {len(claimed)} | {right / len(claimed):.2f} | "
            f"{right / len(wanted):.2f} |"
        )


if __name__ == "__main__":
    main()
