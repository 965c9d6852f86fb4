"""The guard on skips: a skip that nobody listed is seen."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
CONFTEST = Path(__file__).parents[1] / "conftest.py"


@pytest.mark.parametrize(
    ("listed", "exit_code"),
    [("", 1), ("* | moon | it is not made of cheese", 0), ("*other* | moon | another test's", 1)],
    ids=["unlisted skip fails", "listed skip passes", "a listing covers only its own tests"],
)
def test_a_run_fails_on_skips_that_are_not_listed(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, listed: str, exit_code: int
) -> None:
    pytester.makeconftest(CONFTEST.read_text())
    (pytester.path / "allowed_skips.txt").write_text(listed)
    pytester.makepyfile("import pytest\ndef test_sky(): pytest.skip('needs the moon')")
    monkeypatch.setenv("PYTHONPATH", f"{CONFTEST.parents[1] / 'e2e'}:{CONFTEST.parent}")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    assert result.ret == exit_code
