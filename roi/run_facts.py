"""When and where a file of a run was made."""

import os
import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any


def now() -> str:
    """Date and time in UTC, to the second: 2026-01-31T13:45:00+00:00."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def host() -> str:
    """The name of this machine; ROI_HOST in the environment is written in its place, nothing where it is empty."""
    return os.environ.get("ROI_HOST", platform.node())


def here() -> dict[str, str]:
    """For a file that is written now."""
    return {"date": now(), "host": host()}


def begun(before: Mapping[str, Any] | None) -> tuple[str, str]:
    """Machine and time of the first start of a training; of one that goes on what `before`, its last checkpoint, says.

    Empty where that does not say.
    """
    if before is not None:
        return before.get("host", ""), before.get("begun", "")
    return host(), now()
