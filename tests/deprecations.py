"""Deprecations of the packages we build on: errors under the lock, else listed at the end."""

import logging

WARNINGS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
LOGGERS = ("transformers", "diffusers", "peft", "accelerate", "datasets", "huggingface_hub")


class Deprecations(logging.Handler):
    """A pytest plugin that collects deprecations, warned of or logged, once each.

    Args:
        config: pytest's.
    """

    def __init__(self, config):
        super().__init__(logging.WARNING)
        self.config = config
        self.locked = config.getoption("--versions") == "lock"
        self.logged: dict[str, str] = {}  # message: the test that met it first
        self.warned: dict[str, str] = {}
        self.test = "import"
        for name in LOGGERS:
            logging.getLogger(name).addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if "deprecated" in message:
            self.logged.setdefault(" ".join(message.split()), self.test)

    def pytest_runtest_logstart(self, nodeid, location):
        self.test = nodeid

    def pytest_warning_recorded(self, warning_message, when, nodeid, location):
        if issubclass(warning_message.category, WARNINGS):
            message = f"{warning_message.category.__name__}: {' '.join(str(warning_message.message).split())}"
            self.warned.setdefault(message, nodeid or f"{warning_message.filename}:{warning_message.lineno}")

    def pytest_sessionfinish(self, session, exitstatus):
        if self.locked and self.logged and exitstatus == 0:
            session.exitstatus = 1

    def pytest_terminal_summary(self, terminalreporter):
        found = self.logged if self.locked else self.warned | self.logged
        if found:
            terminalreporter.section(f"upstream deprecations: {len(found)}", red=self.locked, yellow=not self.locked)
            for message, test in found.items():
                terminalreporter.line(f"{message[:300]}\n    first met in {test}")
