"""Publishing room: the result as others will find it."""
