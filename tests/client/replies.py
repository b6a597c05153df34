"""What several of these tests answer with and live by."""

from __future__ import annotations

from datetime import date
from typing import Any

import httpx
import httpx2
import pytest

DAY = date(2026, 9, 15)
"""The day the tests live on: long enough before o3-pro's shutdown that nobody is warned."""
LIMITS = {"rpm": 100_000, "tpm": 100_000_000}
URL = "https://api.openai.com/v1/responses"
RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "model": "o3",
    "output": [],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
}

both = pytest.mark.parametrize("lib", [httpx, httpx2], ids=["httpx", "httpx2"])
