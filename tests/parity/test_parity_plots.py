"""Figures of the report: what is exactly zero is seen, whatever else is."""

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from maxmig.parity.pages import plots


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        ([[1.0], [2.0], [0.0]], [0.0, 0.0, 0.0]),  # alone, it is in the middle
        ([[0.0], [0.0, 1.0], [0.0]], [1.0, 0.0, -1.0]),
        ([[0.0], [1.0], [0.0]], [1.0, 0.0, -1.0]),
        ([], []),
    ],
)
def test_series_that_are_zero_have_lanes_of_their_own(series, expected):
    assert plots.lanes(series) == expected


def test_all_lanes_are_in_the_band_of_zero():
    scale = plots.Scale([1e-7, 1e-3])
    places = [scale(0.0, lane) for lane in (1.0, 0.0, -1.0)]
    assert len(set(places)) == 3 and places[1] == scale(0.0)
    assert all(scale.low - 2 < place < scale.low - 1 for place in places)
    assert scale(1e-7, 1.0) == scale(1e-7, -1.0) == pytest.approx(-7)  # what is not zero stays


def test_the_legend_tells_the_series_and_not_what_it_has():
    """A series with zeros and differences has marks of two colours; its shape is its own."""
    with mpl.rc_context(plots.STYLE):
        axes = Figure().subplots()
        for number, values in enumerate(([0.0, 1e-3], [0.0, 0.0])):
            points = [(x, 0.0, value) for x, value in enumerate(values)]
            plots._dots(axes, points, number, f"series {number}")
    handles, labels = axes.get_legend_handles_labels()
    assert labels == ["series 0", "series 1"]
    colours = {handle.get_markeredgecolor() for handle in handles}
    assert colours == {plots.COLOURS["muted"]}
    assert len({handle.get_marker() for handle in handles}) == 2
