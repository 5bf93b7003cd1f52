"""How Orbax keeps trees."""

import engine_cases
import pytest


@pytest.fixture(
    params=engine_cases.FORMS,
    ids=lambda form: f"{'ocdbt' if form['use_ocdbt'] else 'plain'}{3 if form['use_zarr3'] else 2}",
)
def form(request: pytest.FixtureRequest) -> dict[str, bool]:
    """OCDBT or plain directories, Zarr 2 or 3."""
    return request.param
