"""Studies of cause and safety: what prompt, sampling and vector each change in answers."""
