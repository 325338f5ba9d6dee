"""Unit rows on disk, in the layouts that users have, larger than memory."""
