"""Runs a study from its protocol to its results: pilot, freeze, everything else, analysis."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emoguard.errors import EmoGuardError
from emoguard.fit.corpora import neutral_prompts
from emoguard.fit.requirements import VALENCE
from emoguard.guard import Guard
from emoguard.policy.policy import Policy
from emoguard.steering.policy import SteeringPolicy
from emoguard.study import analysis, tasks
from emoguard.study.directions import (
    TEXTS,
    centred_rows,
    norms_for,
    random_directions,
    with_directions,
    without,
)
from emoguard.study.frozen import Frozen, freeze
from emoguard.study.judges import Classifier, Embeddings, Endpoint, Judge, Lexicon
from emoguard.study.matching import (
    TOKENS,
    Matched,
    match,
    measurements,
    seconds_each,
)
from emoguard.study.outcomes import Outcomes
from emoguard.study.plan import Cost, by_block, costs
from emoguard.study.protocol import Protocol
from emoguard.study.runner import Done, Runner

if TYPE_CHECKING:
    from emoguard.probe.residuals import Residuals
    from emoguard.study.speech import Speech
    from emoguard.study.store import Store

NEEDS = {
    "classifier": "judges.people, and --data with that file",
    "embeddings": "judges.people, --data with that file, and --embeddings",
    "endpoint": "judges.endpoint",
}
"""What each judge but the lexicon is made from."""

MATCHED = "matched"
"""The record of how random directions were matched, and this part's name in the plan."""

DIVERGING = 20
"""Number of random directions that also run at the labels' divergence."""


def judges(
    protocol: Protocol, data: Path | None, embeddings: str | Path | None = None
) -> list[Judge]:
    """Return the judges in a protocol; their training data lies in `data`.

    `embeddings` is the folder of a sentence-embedding model, for one more judge.

    Raises:
        EmoGuardError: a judge cannot be made, does not answer or does not know a label, or the
            primary one is missing.

    """
    named = protocol.judges
    judges: list[Judge] = [Lexicon()]
    if named.people and data is not None:
        judges.append(Classifier(data / named.people))
        if embeddings is not None:
            judges.append(Embeddings(embeddings, data / named.people))
    elif embeddings is not None:
        raise EmoGuardError(f"--embeddings alone makes no judge: it takes {NEEDS['embeddings']}")
    if named.endpoint:
        judges.append(Endpoint(named.endpoint, named.model))
    if named.primary not in {judge.name for judge in judges}:
        raise EmoGuardError(
            f"judges.primary: the {named.primary} takes {NEEDS[named.primary]}: give what is "
            f"missing, or take one of {', '.join(judge.name for judge in judges)}"
        )
    for judge in judges:
        for label in protocol.judged:
            judge.scores(label, [])  # a label it does not know is refused here, not after the pilot
    return judges


def data_folder(protocol: Protocol, folder: str | None) -> Path | None:
    """Return the folder of published data, or None.

    Raises:
        EmoGuardError: there is no such folder, or a contrast needs one.

    """
    if folder is not None:
        if not Path(folder).is_dir():
            raise EmoGuardError(f"--data: there is no folder {folder}")
        return Path(folder)
    wanting = {each.outcome for each in protocol.contrasts} & protocol.safety.published.keys()
    if wanting:
        raise EmoGuardError(
            f"contrasts on {', '.join(sorted(wanting))} need items that do not come with EmoGuard: "
            "name their folder by --data, or leave those contrasts out"
        )
    return None


def guard_of(protocol: Protocol, guard: Guard, door: Residuals) -> Guard:
    """Return the guard of a study: the probe with random directions and controls beside its labels.

    Raises:
        EmoGuardError: the probe lacks a label, or has no calibration of this model file.

    """
    probe = guard.probe
    probe.indices(protocol.judged)
    calibration = norms_for(guard, door.identity)
    directions = {}
    if VALENCE in probe.labels:
        directions = {
            f"{label}{tasks.WITHOUT}": without(probe, label, VALENCE) for label in protocol.labels
        }
    if protocol.nulls.directions:
        rows = centred_rows(door, probe.layers, neutral_prompts()[:TEXTS])
        drawn = random_directions(rows, protocol.nulls.directions, protocol.seed)
        directions |= {f"{tasks.RANDOM}{n}": drawn[:, n] for n in range(drawn.shape[1])}
    wide, also = with_directions(probe, calibration, directions)
    policy = Policy(
        labels=wide.labels[:1],  # readings are not used here
        # An answer of which a part is unsteered belongs in no cell.
        steering=SteeringPolicy(max_dose_ratio=protocol.bound, on_fault="stop"),
    )
    return Guard(wide, [also], policy)


@dataclass(frozen=True, eq=False)
class Study:
    """One protocol on one model, its records in `store`.

    `verdicts` are those of the probe's validation.
    """

    protocol: Protocol
    speech: Speech
    store: Store
    judges: Sequence[Judge]
    data: Path | None
    verdicts: Mapping[str, str]
    controls: bool = True

    def tasks(self, dose: float, matched: Matched | None = None) -> list[tasks.Task]:
        """Return the tasks after the pilot, in order."""
        protocol = self.protocol
        names = [f"{tasks.RANDOM}{n}" for n in range(protocol.nulls.directions)]
        randoms = asked = dict.fromkeys(names, dose)
        near = _first(randoms, DIVERGING)
        if matched is not None:
            randoms = matched.doses
            asked = {name: randoms[name] for name in matched.reached}
            near = matched.by_divergence(DIVERGING, protocol.bound)
        listed = tasks.expression(protocol, dose) if protocol.expression.prompts else []
        if names and protocol.nulls.prompts:
            listed += tasks.nulls(protocol, randoms, near, dose)
        listed += tasks.safety(protocol, dose, self.data, _first(asked, protocol.safety.directions))
        if protocol.explored.prompts:
            listed += tasks.explored(protocol, dose, controls=self.controls)
        return [task for _, task in tasks.named(listed)]

    def cost(self, progress: Callable[[str], object] = lambda _: None) -> list[Cost]:
        """Return the cost of each part, after timing a few of its tasks.

        `progress` gets the name of each part before it is timed.
        """
        protocol = self.protocol
        dose = protocol.dose or min(0.1, max(protocol.pilot.doses))
        later = self.tasks(dose)  # what cannot be read is refused before anything is timed
        listed = costs(self.speech, tasks.pilot(protocol), protocol.seed, progress)
        if randoms := self._to_match:
            progress(MATCHED)
            count = self._measurements
            each = seconds_each(self.speech, tasks.pilot_texts(protocol), randoms, dose)
            listed.append(Cost(MATCHED, len(randoms), count, TOKENS, count * each))
        return listed + costs(self.speech, later, protocol.seed, progress)

    def run(
        self,
        runner: Runner,
        done: Done = lambda _: None,
        measured: Callable[[int], object] = lambda _: None,
    ) -> None:
        """Perform all remaining tasks.

        `measured` gets the number of measurements as random directions are matched, or at once if
        they were before.
        """
        runner.run(tasks.pilot(self.protocol), done)
        frozen = self.frozen()
        to_match = self._to_match and MATCHED not in self.store
        if to_match:
            runner.check_time()
        matched = self.matched(frozen.dose, measured)
        if to_match:
            runner.spend(self.store.records[MATCHED]["seconds"])
        runner.run(self.tasks(frozen.dose, matched), done)
        self.store.close_piece()

    def frozen(self) -> Frozen:
        """Return the decisions of the pilot, made once and then kept."""
        if "frozen" not in self.store:
            frozen = freeze(self.protocol, self.store.records, self.judges)
            self.store.add({"task": "frozen", "data": frozen.as_dict()})
            return frozen
        frozen = Frozen.parse(self.store.records["frozen"]["data"])
        frozen.check_judges([judge.name for judge in self.judges])
        return frozen

    @property
    def _to_match(self) -> list[str]:
        """Return the random directions, if any part of the study asks about them.

        All of them, also if few are asked about: some may not reach the dose.
        """
        nulls, safety = self.protocol.nulls, self.protocol.safety
        used = nulls.prompts or safety.directions
        return [f"{tasks.RANDOM}{n}" for n in range(nulls.directions if used else 0)]

    @property
    def _measurements(self) -> int:
        return measurements(len(self.protocol.labels), len(self._to_match))

    def matched(
        self, dose: float, measured: Callable[[int], object] = lambda _: None
    ) -> Matched | None:
        """Return the doses of random directions; measured once, then kept."""
        protocol, randoms = self.protocol, self._to_match
        if not randoms:
            return None
        if MATCHED in self.store:
            measured(self._measurements)
        else:
            started = time.process_time()
            matching = match(
                self.speech,
                tasks.pilot_texts(protocol),
                protocol.labels,
                randoms,
                dose,
                bound=protocol.bound,
                measured=measured,
            )
            seconds = round(time.process_time() - started, 4)
            self.store.add({"task": MATCHED, "data": asdict(matching), "seconds": seconds})
        return Matched(**self.store.records[MATCHED]["data"])

    @property
    def complete(self) -> bool:
        """Return whether every task has its record."""
        if "frozen" not in self.store:
            return False
        every = [*tasks.pilot(self.protocol), *self.tasks(self.frozen().dose)]
        return all(task.key in self.store for task in every)

    def results(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """Return the results so far, with `about` and the description of the run.

        Raises:
            EmoGuardError: the pilot is not done.

        """
        about = {**about, "complete": self.complete}
        return results(self.protocol, self.store, self.judges, self.verdicts, about)


def _first(doses: Mapping[str, float], count: int) -> dict[str, float]:
    return dict(list(doses.items())[:count])


def results(
    protocol: Protocol,
    store: Store,
    judges: Sequence[Judge],
    verdicts: Mapping[str, str],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Return all results of the records in a store; `about` says whether they are "complete".

    Raises:
        EmoGuardError: the pilot is not done.

    """
    records = store.records
    if "frozen" not in records:
        raise EmoGuardError(
            f"{store.folder} holds no finished pilot, and nothing can be judged before it: run the "
            "study on"
        )
    matched = Matched(**records[MATCHED]["data"]) if MATCHED in records else None
    frozen = Frozen.parse(records["frozen"]["data"])
    frozen.check_judges([judge.name for judge in judges])
    outcomes = Outcomes(protocol, frozen, matched, records, {judge.name: judge for judge in judges})
    results = {
        "emoguard": "study",
        "about": {
            **about,
            "protocol": protocol.as_dict(),
            "protocol digest": protocol.digest,
            "records digest": store.digest,
            "seconds": {key: round(value, 1) for key, value in by_block(records).items()},
            "records": len(records),
        },
        **analysis.results(outcomes, verdicts, complete=about["complete"]),
    }
    plain: dict[str, Any] = _plain(results)
    return plain


def _plain(value: Any) -> Any:
    """Return JSON data with null in place of numbers that are not finite."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
