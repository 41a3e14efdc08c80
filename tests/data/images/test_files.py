"""Names of image files that a dataset cannot hold."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hf_finetune.data.images.files import check_names
from hf_finetune.errors import UserError


@pytest.mark.parametrize(
    ("encoding", "advice"),
    [
        ("utf-8", r"; rename them, for instance by convmv -f latin1 -t utf8 -r --notest photos\.$"),
        ("ascii", r", because Python reads names as ascii here; set PYTHONUTF8=1\.$"),
    ],
)
def test_names_are_not_to_be_changed_where_the_locale_is_to_blame(
    encoding: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: encoding)
    with pytest.raises(UserError, match=advice):
        check_names(Path("photos"), ["a/\udce7.png"])
