"""One JSON object a line on standard error, in the fields that Cloud Logging knows."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any


class JsonFormatter(logging.Formatter):
    """Cloud Logging reads `severity`, `message` and `time`; the fields of the line stand beside them."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "severity": record.levelname,
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True, default=str)


def configure_logging() -> None:
    """Sends our own loggers to standard error as JSON."""
    logger = logging.getLogger("runyard")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonFormatter())
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


def canonical(logger: logging.Logger, level: int, message: str, **fields: Any) -> None:
    """One canonical line: a fixed message and fixed keys, values left out when there are none."""
    logger.log(level, message, extra={"fields": {name: value for name, value in fields.items() if value is not None}})
