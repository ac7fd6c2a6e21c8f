"""What an operator decides: the policy, its reader and its reload."""
