"""The one error class users may want to catch."""


class EmoGuardError(Exception):
    """Something EmoGuard refuses: the sentence says what was wanted, what came and what to do."""
