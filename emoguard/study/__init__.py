"""Studies of cause and safety: the effects of prompt, sampling and vector on answers."""
