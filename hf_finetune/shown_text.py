"""Text from elsewhere, changed for the place where it is shown.

Names of files, classes and recipes come from others. On a terminal they must not move the cursor or write lines of
their own, in a spreadsheet they must not be formulas, and addresses must not show what they keep secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_USER = re.compile(r"(?<=://)[^\s/?#\"'<>]+(?=@)")
# Parameters of signed addresses: X-Amz-Signature, X-Goog-Credential, sig, token, AWSAccessKeyId, Policy and the like.
_PARAMETER = re.compile(
    r"(?i)((?:[?&;#]|%26|%3f)[\w.%-]*?(?:sig|token|secret|passw|pwd|cred|key|auth|policy|jwt|session)[\w.%-]*=)"
    r"[^\s&;#\"'<>]+"
)
# Controls of terminals but tab and newline, and what turns the direction of writing: C0, C1, separators, overrides.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def printable(text: str) -> str:
    r"""Return a text without control characters: `\u001b`, as JSON writes it, for an escape. Lines and tabs stay."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def one_line(text: str) -> str:
    r"""Return a text without control characters on one line, with `\u000a` between its lines."""
    return printable(text).replace("\n", r"\u000a").replace("\t", r"\u0009")


def csv_cell(value: Any) -> Any:
    """Return a value of a CSV file; a text that a spreadsheet would take for a formula begins with an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def without_secrets(value: Any) -> Any:
    """Return a value whose addresses hold no user, password, key or signature: `***` stands in their place.

    Args:
        value: A text, or mappings and sequences of texts, nested at will. Other values are returned as they are.
    """
    if isinstance(value, Mapping):
        return {key: without_secrets(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_secrets(item) for item in value]
    if not isinstance(value, str) or "://" not in value:
        return value
    return _PARAMETER.sub(r"\1***", _USER.sub("***", value))
