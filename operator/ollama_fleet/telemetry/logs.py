"""Log lines: one JSON object or one text line per state change.

Fields come through the standard ``extra``: ``logger.info("scaled", extra={"key": ..., "replicas": 3})``.
Requests, prompts and secrets are never fields.
"""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

Format = Literal["json", "text"]

_STANDARD: Final = frozenset(vars(logging.LogRecord("", 0, "", 0, "", None, None))) | {"message", "asctime"}
_QUIET: Final = {
    # It logs each failed try of each request; the informers tell of an outage once, the shell of kopf's end.
    "kopf": logging.CRITICAL,
    "aiohttp.access": logging.WARNING,
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "asyncio": logging.WARNING,
}


def setup(*, log_format: Format = "json", level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send all logging to ``stream`` (default stderr) in one format; libraries speak up from WARNING on."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(least)


class JsonFormatter(logging.Formatter):
    """One JSON object: time, level, logger, message, the fields, and the traceback as ``error_trace``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        entry: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        trace = _trace(record)
        if trace:
            entry["error_trace"] = trace
        return json.dumps(entry, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """``time LEVEL logger: message field=value ...``, the traceback on the lines after it."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, or more with a traceback."""
        fields = "".join(f" {name}={json.dumps(value, default=str)}" for name, value in _fields(record).items())
        line = f"{_time(record)} {record.levelname} {record.name}: {record.getMessage()}{fields}"
        trace = _trace(record)
        return f"{line}\n{trace}" if trace else line


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _trace(record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    return "".join(traceback.format_exception(*record.exc_info)).rstrip()
