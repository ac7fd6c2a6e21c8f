"""The one error class users may want to catch."""


class EmoGuardError(Exception):
    """Raised for bad input; the sentence names the wanted, the actual and the remedy."""
