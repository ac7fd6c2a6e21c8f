"""Does a direction mean anything? Transfer, the text alone, chance and intervals to all numbers."""
