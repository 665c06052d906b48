"""The app: checks, the command, and conversations in the database."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks


class OpenAICompatConfig(AppConfig):
    """Registers the system checks."""

    name = "openai_compat.integrations.django"
    label = "openai_compat"
    verbose_name: str = "Language models"
    default_auto_field: str = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from .checks import check_settings

        checks.register(check_settings)
