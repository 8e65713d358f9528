"""The demo's options; what it does is tested end to end."""

from __future__ import annotations

import pytest

from diminuendo.client import demo


@pytest.mark.parametrize("epochs", ["0", "-1", "nan", "inf", "few"])
def test_epochs_are_a_number_above_0(epochs: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        demo.main([f"--epochs={epochs}"])
    said = capsys.readouterr().err
    assert f"argument --epochs: {epochs!r} is not a number above 0; give epochs, such as 60" in said
