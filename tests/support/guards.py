"""A guard of the tests' own on a fake model file, and reports that it makes."""

import dataclasses

from emoguard import Guard, Request, summary
from emoguard.testing import (
    FAKE_IDENTITY,
    FakeResiduals,
    make_calibration,
    make_probe,
    make_reading,
)

PROBE = make_probe(FakeResiduals())
CALIBRATION = make_calibration(PROBE, FAKE_IDENTITY)
GUARD = Guard(PROBE, [CALIBRATION])
OTHER_FILE = dataclasses.replace(FAKE_IDENTITY, quantisation="Q4_K_M")


def summed(guard, reading, request=None):
    return summary.report(reading, request or Request(id="r"), guard.site(reading.identity))


def report(guard=GUARD, request=None, **changes):
    return summed(guard, make_reading(**changes), request)


def put(guard, report):
    return guard.outbox.put(report, Request(), str)
