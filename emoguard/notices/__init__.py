"""What users are told about the model, when, in which words."""
