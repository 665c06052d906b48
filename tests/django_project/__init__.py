"""A site with the chat, for the tests."""
