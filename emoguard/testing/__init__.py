"""Public fakes, and checks that every plug-in and every sink must pass.

A plug-in's tests give a `Harness` and run each of `CHECKS` with
`contract_probe`; a sink's tests call `check_sink`.
"""

from emoguard.testing.checks import CHECKS, Check, Harness, contract_probe
from emoguard.testing.fakes import (
    FAKE_IDENTITY,
    AlarmingGuard,
    FakeJoint,
    FakeModel,
    FakeResiduals,
    make_calibration,
    make_probe,
    measure_calibration,
)
from emoguard.testing.reports import (
    every_kind_of_report,
    make_reading,
    make_report,
    make_session,
    make_site,
    put_reading,
)
from emoguard.testing.sinks import BlockedSink, FailingSink, ListSink, check_sink
from emoguard.testing.speaker import FakeSpeaker

__all__ = [
    "CHECKS",
    "FAKE_IDENTITY",
    "AlarmingGuard",
    "BlockedSink",
    "Check",
    "FailingSink",
    "FakeJoint",
    "FakeModel",
    "FakeResiduals",
    "FakeSpeaker",
    "Harness",
    "ListSink",
    "check_sink",
    "contract_probe",
    "every_kind_of_report",
    "make_calibration",
    "make_probe",
    "make_reading",
    "make_report",
    "make_session",
    "make_site",
    "measure_calibration",
    "put_reading",
]
