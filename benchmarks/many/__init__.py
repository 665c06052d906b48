"""Thousands of requests at a time: ``client.map`` beside what people write, and a floor."""
