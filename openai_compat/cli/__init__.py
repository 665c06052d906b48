"""The command line ``openai-compat``."""
