"""How long the package waits for a server."""

from __future__ import annotations

# Seconds until the Hub, or the server of another library's weights, has answered. It is huggingface_hub's own default
# (`HF_HUB_ETAG_TIMEOUT`), but without that client's five retries, which take another 23 seconds.
ANSWER_TIMEOUT = 10
