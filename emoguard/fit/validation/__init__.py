"""Does a direction mean anything? Transfer, word counts, chance and intervals for every number."""
