"""Text from elsewhere, changed for the place where it is shown: addresses without what they keep secret."""

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
