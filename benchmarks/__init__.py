"""What openai_compat costs, beside the openai package, the loop that people write by hand, and a floor."""
