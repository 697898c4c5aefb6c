"""How a mistake in a recipe, a file or a command line is told."""

from __future__ import annotations


class ConfigError(ValueError):
    """A user's mistake. The message names the key or file, what was found, what is expected and the fix."""

    def __init__(self, key: str, found: object, expected: str, fix: str) -> None:
        self.key = key
        self.found = found
        self.expected = expected
        self.fix = fix
        super().__init__(f"{key}: found {found}, expected {expected}. {fix}")

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, object, str, str]]:
        """Exceptions travel between processes by their constructor's arguments, which are more than the message here."""
        return type(self), (self.key, self.found, self.expected, self.fix)
