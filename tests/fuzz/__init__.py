"""What reads bytes that others wrote, fuzzed: targets, the corpus that fuzzing has left, and what runs both."""
