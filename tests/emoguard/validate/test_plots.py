"""Pictures can be read."""

from itertools import combinations
from types import SimpleNamespace

import pytest

from emoguard.validate import plots
from emoguard.validate.plane import Plane


@pytest.fixture
def pyplot():
    pyplot = plots.find_pyplot()
    yield pyplot
    pyplot.close("all")


def names(plane, pyplot):
    labels = tuple(plane.points)
    result = SimpleNamespace(labels=labels, signs=[1, -1] * 3, plane=plane, plane_words=plane)
    axis = plots._valence(pyplot, result, "made").axes[0]
    return [text for text in axis.texts if text.get_text() in labels]


def plane(*points):
    labels = ("frustrated", "desperate", "hostile", "proud", "sad", "calm")
    return Plane(dict(zip(labels, points, strict=True)), (0.2, 0.1), 0.7, 0.5)


def test_names_of_near_points_cover_neither_each_other_nor_a_point(pyplot):
    near = plane((-0.7, 0.19), (-0.56, 0.2), (0.1, -0.5), (0.15, -0.53), (0.1, -0.47), (0.9, 0.9))
    written = names(near, pyplot)
    assert len(written) == 6
    boxes = [text.get_window_extent() for text in written]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    at = written[0].axes.transData.transform(list(near.points.values()))
    assert not any(box.contains(*point) for box in boxes for point in at)


def test_where_no_place_is_free_every_name_is_written_all_the_same(pyplot):
    assert len(names(plane(*[(0.0, 0.0)] * 6), pyplot)) == 6
